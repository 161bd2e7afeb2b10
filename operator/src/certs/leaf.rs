//! A certificate for one server or client, and whether it is still the right one.

use std::fmt;
use std::net::IpAddr;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::{Authority, Error, Facts, new_key, validity};

/// A name that a certificate is good for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum San {
    /// A DNS name.
    Dns(String),
    /// A URI: the role of a client.
    Uri(String),
    /// An address.
    Ip(IpAddr),
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// To be a TLS server.
    Server,
    /// To be a TLS client.
    Client,
}

/// A certificate that is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its common name, for people.
    pub common_name: String,
    /// The names that count.
    pub sans: Vec<San>,
    /// Server or client.
    pub usage: Usage,
    /// Life in seconds.
    pub life: i64,
}

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").finish_non_exhaustive()
    }
}

/// Whether a stored certificate can stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It can.
    Good,
    /// Two thirds of its life are over.
    Due,
    /// It was signed by another authority than the one that signs now.
    OtherAuthority,
    /// It is for other names.
    OtherNames,
    /// It cannot be read, or its key is another's.
    Malformed,
}

impl Request {
    pub(super) fn issue(
        &self,
        issuer: &Issuer<'_, KeyPair>,
        now: i64,
        life: i64,
    ) -> Result<Leaf, Error> {
        let make = |source| Error::Make {
            what: "a certificate",
            source,
        };
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, self.common_name.clone());
        for san in &self.sans {
            params.subject_alt_names.push(match san {
                San::Dns(name) => SanType::DnsName(name.clone().try_into().map_err(make)?),
                San::Uri(uri) => SanType::URI(uri.clone().try_into().map_err(make)?),
                San::Ip(ip) => SanType::IpAddress(*ip),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match self.usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, now, life);
        let certificate = params.signed_by(&key, issuer).map_err(make)?;
        Ok(Leaf {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Leaf {
    /// Whether this is still what `request` asks of `authority`.
    pub fn check(&self, authority: &Authority, request: &Request, now: i64) -> Verdict {
        let (Ok(facts), Ok(signing)) = (
            Facts::read("the certificate", &self.certificate),
            authority.facts(),
        ) else {
            return Verdict::Malformed;
        };
        let Ok(key) = KeyPair::from_pem(&self.key) else {
            return Verdict::Malformed;
        };
        if key.public_key_raw() != facts.public_key {
            return Verdict::Malformed;
        }
        if facts.authority_key.is_none() || facts.authority_key != signing.subject_key {
            return Verdict::OtherAuthority;
        }
        let (mut have, mut want) = (facts.sans.clone(), request.sans.clone());
        have.sort();
        want.sort();
        if have != want {
            return Verdict::OtherNames;
        }
        if facts.due(now) {
            Verdict::Due
        } else {
            Verdict::Good
        }
    }
}
