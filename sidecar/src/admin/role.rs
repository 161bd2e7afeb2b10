//! Roles: one in each client certificate, as the URI `codexstore://role/<role>`.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// Who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The operator.
    Operator,
    /// A backup job.
    Backup,
    /// A restore job.
    Restore,
}

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// The member's state.
    Status,
    /// Whether it is alive.
    Health,
    /// All of its data, encrypted as it is on disk.
    Backup,
    /// What was committed behind a revision, encrypted in the same way.
    Archive,
    /// Other data in the place of what it has.
    Restore,
    /// The data keys of all its files under the keyring's current key.
    Rewrap,
    /// All its files under fresh data keys.
    Reencrypt,
}

impl Role {
    /// The role of a certificate: exactly one URI of our scheme, naming a role that is known.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Role> {
        let (_, parsed) = parse_x509_certificate(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        let mut roles = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix("codexstore://role/"),
                _ => None,
            });
        match (roles.next(), roles.next()) {
            (Some(role), None) => Role::parse(role),
            _ => None,
        }
    }

    fn parse(name: &str) -> Option<Role> {
        Some(match name {
            "operator" => Role::Operator,
            "backup" => Role::Backup,
            "restore" => Role::Restore,
            _ => return None,
        })
    }

    /// The role's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Operator => "operator",
            Role::Backup => "backup",
            Role::Restore => "restore",
        }
    }

    /// True if the role may do it.
    pub fn may(self, verb: Verb) -> bool {
        match verb {
            Verb::Health => true,
            Verb::Status | Verb::Rewrap | Verb::Reencrypt => matches!(self, Role::Operator),
            Verb::Backup | Verb::Archive => matches!(self, Role::Backup),
            Verb::Restore => matches!(self, Role::Restore),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn role_of(uris: &[&str]) -> Option<Role> {
        let mut params = CertificateParams::new(vec!["x".to_string()]).unwrap();
        for uri in uris {
            params
                .subject_alt_names
                .push(SanType::URI((*uri).try_into().unwrap()));
        }
        let key = KeyPair::generate().unwrap();
        Role::of(params.self_signed(&key).unwrap().der())
    }

    #[test]
    fn a_certificate_has_exactly_one_known_role() {
        assert_eq!(
            role_of(&["codexstore://role/operator"]),
            Some(Role::Operator)
        );
        assert_eq!(
            role_of(&["https://x/", "codexstore://role/backup"]),
            Some(Role::Backup)
        );
        assert_eq!(role_of(&[]), None);
        assert_eq!(role_of(&["codexstore://role/admin"]), None);
        assert_eq!(
            role_of(&["codexstore://role/operator", "codexstore://role/backup"]),
            None
        );
        assert_eq!(role_of(&["codexstore://role/operator/"]), None);
    }

    #[test]
    fn each_role_may_do_its_own() {
        assert!(Role::Operator.may(Verb::Status) && !Role::Operator.may(Verb::Backup));
        assert!(Role::Backup.may(Verb::Backup) && !Role::Restore.may(Verb::Backup));
        assert!(Role::Restore.may(Verb::Restore) && !Role::Backup.may(Verb::Restore));
        assert!(!Role::Operator.may(Verb::Restore));
        assert!(Role::Backup.may(Verb::Archive));
        assert!(!Role::Operator.may(Verb::Archive) && !Role::Restore.may(Verb::Archive));
        for role in [Role::Backup, Role::Restore] {
            assert!(!role.may(Verb::Status) && !role.may(Verb::Rewrap) && role.may(Verb::Health));
            assert!(!role.may(Verb::Reencrypt));
        }
    }
}
