//! What a certificate says, read once.

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Error, San};

/// The parts of a certificate that decisions need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Start of validity, unix seconds.
    pub not_before: i64,
    /// End of validity, unix seconds.
    pub not_after: i64,
    /// Identifier of its own key, when given.
    pub subject_key: Option<Vec<u8>>,
    /// Identifier of the key that signed it, when given.
    pub authority_key: Option<Vec<u8>>,
    /// Names it is good for.
    pub sans: Vec<San>,
    /// Its public key, as in the certificate.
    pub public_key: Vec<u8>,
    /// Whether it may sign others.
    pub is_ca: bool,
}

impl Facts {
    /// Reads the first certificate of a PEM text.
    pub fn read(what: &'static str, pem: &str) -> Result<Self, Error> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| Error::malformed(what, e.to_string()))?;
        let (_, cert) =
            X509Certificate::from_der(&der).map_err(|e| Error::malformed(what, e.to_string()))?;
        let mut facts = Self {
            not_before: cert.validity().not_before.timestamp(),
            not_after: cert.validity().not_after.timestamp(),
            subject_key: None,
            authority_key: None,
            sans: Vec::new(),
            public_key: cert.public_key().subject_public_key.data.to_vec(),
            is_ca: cert.is_ca(),
        };
        for extension in cert.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    facts.subject_key = Some(id.0.to_vec());
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    facts.authority_key = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts
                        .sans
                        .extend(names.general_names.iter().filter_map(san));
                }
                _ => {}
            }
        }
        Ok(facts)
    }

    /// Whether two thirds of its life are over.
    pub fn due(&self, now: i64) -> bool {
        now >= renew_at(self.not_before, self.not_after)
    }

    /// Whether it can be used at this moment.
    pub fn valid(&self, now: i64) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }
}

/// When something with this validity is renewed: at two thirds of its life.
pub fn renew_at(not_before: i64, not_after: i64) -> i64 {
    not_before + (not_after - not_before) / 3 * 2
}

fn san(name: &GeneralName<'_>) -> Option<San> {
    match name {
        GeneralName::DNSName(name) => Some(San::Dns((*name).to_owned())),
        GeneralName::URI(uri) => Some(San::Uri((*uri).to_owned())),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|ip| San::Ip(ip.into())),
            16 => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|ip| San::Ip(ip.into())),
            _ => None,
        },
        _ => None,
    }
}
