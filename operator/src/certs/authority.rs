//! A certificate authority that rotates without a moment in which somebody is not trusted.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{BACKDATE, Error, Facts, Leaf, Request, new_key, validity};

/// How long an authority lives, and how long a new one is trusted before it signs.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Life of an authority, in seconds.
    pub life: i64,
    /// Time between publishing a new authority and signing with it, in seconds.
    pub settle: i64,
}

/// One certificate with its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
struct Pair {
    certificate: String,
    key: String,
}

/// A signing authority, its successor if one is waiting, and all that is trusted.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    signing: Pair,
    next: Option<Pair>,
    bundle: Vec<String>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trusted", &self.bundle.len())
            .finish_non_exhaustive()
    }
}

/// Keys of the Secret that keeps an authority.
const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";
const BUNDLE: &str = "ca.crt";
const NEXT_CERT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";

impl Authority {
    /// A new authority, trusted alone.
    pub fn generate(name: &str, now: i64, policy: Policy) -> Result<Self, Error> {
        let signing = Pair::generate(name, now, policy.life)?;
        let bundle = vec![signing.certificate.clone()];
        Ok(Self {
            signing,
            next: None,
            bundle,
        })
    }

    /// Reads an authority from a Secret's data.
    pub fn load(data: &BTreeMap<String, ByteString>) -> Result<Self, Error> {
        let signing = Pair {
            certificate: text(data, CERT)?,
            key: text(data, KEY)?,
        };
        signing.check()?;
        let next = if data.contains_key(NEXT_CERT) {
            let next = Pair {
                certificate: text(data, NEXT_CERT)?,
                key: text(data, NEXT_KEY)?,
            };
            next.check()?;
            Some(next)
        } else {
            None
        };
        let bundle = split(&text(data, BUNDLE)?)?;
        if !bundle.contains(&signing.certificate) {
            return Err(Error::malformed(
                BUNDLE,
                "the signing authority is not in it",
            ));
        }
        Ok(Self {
            signing,
            next,
            bundle,
        })
    }

    /// The Secret's data for this authority.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::from([
            (CERT.to_owned(), bytes(&self.signing.certificate)),
            (KEY.to_owned(), bytes(&self.signing.key)),
            (BUNDLE.to_owned(), bytes(&self.bundle())),
        ]);
        if let Some(next) = &self.next {
            data.insert(NEXT_CERT.to_owned(), bytes(&next.certificate));
            data.insert(NEXT_KEY.to_owned(), bytes(&next.key));
        }
        data
    }

    /// Everything that is trusted, as one PEM text.
    pub fn bundle(&self) -> String {
        self.bundle.concat()
    }

    /// What the signing certificate says.
    pub fn facts(&self) -> Result<Facts, Error> {
        Facts::read(CERT, &self.signing.certificate)
    }

    /// Takes the next step of a rotation if it is time; says whether anything changed.
    ///
    /// At two thirds of its life a successor is made and trusted; after `settle` it signs; what has expired is dropped.
    /// An authority that expired meanwhile is succeeded at once: nobody trusts what it signed any more.
    pub fn advance(&mut self, name: &str, now: i64, policy: Policy) -> Result<bool, Error> {
        let before = self.clone();
        let signing = self.facts()?;
        if self.next.is_none() && signing.due(now) {
            let next = Pair::generate(name, now, policy.life)?;
            self.bundle.push(next.certificate.clone());
            self.next = Some(next);
        }
        if let Some(next) = self.next.take() {
            let made = Facts::read(NEXT_CERT, &next.certificate)?.not_before + BACKDATE;
            if now >= made + policy.settle || !signing.valid(now) {
                self.signing = next;
            } else {
                self.next = Some(next);
            }
        }
        let signing = self.signing.certificate.clone();
        self.bundle.retain(|pem| {
            *pem == signing || Facts::read(BUNDLE, pem).is_ok_and(|facts| now < facts.not_after)
        });
        Ok(*self != before)
    }

    /// Issues a certificate with a fresh key.
    pub fn issue(&self, request: &Request, now: i64) -> Result<Leaf, Error> {
        let key = KeyPair::from_pem(&self.signing.key).map_err(|source| Error::Make {
            what: "the authority's key",
            source,
        })?;
        let issuer =
            Issuer::from_ca_cert_pem(&self.signing.certificate, key).map_err(|source| {
                Error::Make {
                    what: "the authority",
                    source,
                }
            })?;
        // A leaf that outlives its authority would fail before it is due.
        let left = self.facts()?.not_after - now;
        request.issue(&issuer, now, request.life.min(left))
    }
}

impl Pair {
    fn generate(name: &str, now: i64, life: i64) -> Result<Self, Error> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        // Generations of one authority differ in name: a verifier then picks the right one at once.
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{name} {now}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, now, life);
        let certificate = params.self_signed(&key).map_err(|source| Error::Make {
            what: "an authority",
            source,
        })?;
        Ok(Self {
            certificate: normal(&certificate.pem()),
            key: key.serialize_pem(),
        })
    }

    /// The certificate is an authority's, and the key belongs to it.
    fn check(&self) -> Result<(), Error> {
        let facts = Facts::read(CERT, &self.certificate)?;
        if !facts.is_ca {
            return Err(Error::malformed(CERT, "it is not an authority"));
        }
        let key =
            KeyPair::from_pem(&self.key).map_err(|_| Error::malformed(KEY, "not a private key"))?;
        if key.public_key_raw() != facts.public_key {
            return Err(Error::malformed(
                KEY,
                "it does not belong to the certificate",
            ));
        }
        Ok(())
    }
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

fn text(data: &BTreeMap<String, ByteString>, key: &'static str) -> Result<String, Error> {
    let bytes = data
        .get(key)
        .ok_or_else(|| Error::malformed(key, "missing"))?;
    String::from_utf8(bytes.0.clone()).map_err(|_| Error::malformed(key, "not text"))
}

/// One line-ending and one final newline, so that texts can be compared and joined.
fn normal(pem: &str) -> String {
    let mut text: String = pem
        .lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n");
    text.push('\n');
    text
}

/// The certificates of a PEM text, one text each.
fn split(pem: &str) -> Result<Vec<String>, Error> {
    const END: &str = "-----END CERTIFICATE-----";
    let pem = normal(pem);
    let mut all = Vec::new();
    for part in pem.split_inclusive(END) {
        if let Some(start) = part.find("-----BEGIN CERTIFICATE-----") {
            let one = normal(part.get(start..).unwrap_or_default());
            CertificateDer::from_pem_slice(one.as_bytes())
                .map_err(|e| Error::malformed(BUNDLE, e.to_string()))?;
            all.push(one);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::{DAY, San, Usage, Verdict, unix_now};
    use super::*;

    const POLICY: Policy = Policy {
        life: 90 * DAY,
        settle: DAY,
    };

    fn request() -> Request {
        Request {
            common_name: "test".into(),
            sans: vec![San::Dns("a.codexstore".into())],
            usage: Usage::Server,
            life: 30 * DAY,
        }
    }

    #[test]
    fn survives_the_secret_it_is_kept_in() {
        let mut authority = Authority::generate("test", unix_now(), POLICY).unwrap();
        authority
            .advance("test", unix_now() + 61 * DAY, POLICY)
            .unwrap();
        assert_eq!(Authority::load(&authority.data()).unwrap(), authority);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let now = unix_now();
        let mut data = Authority::generate("a", now, POLICY).unwrap().data();
        let other = Authority::generate("b", now, POLICY).unwrap().data();
        data.insert(KEY.into(), other[KEY].clone());
        assert!(matches!(
            Authority::load(&data),
            Err(Error::Malformed { what: KEY, .. })
        ));
    }

    #[test]
    fn a_successor_is_trusted_before_it_signs_and_the_old_one_after() {
        let start = unix_now();
        let mut authority = Authority::generate("test", start, POLICY).unwrap();
        let first = authority.signing.certificate.clone();
        assert!(!authority.advance("test", start + 59 * DAY, POLICY).unwrap());

        let due = start + 61 * DAY;
        assert!(authority.advance("test", due, POLICY).unwrap());
        assert_eq!(
            authority.signing.certificate, first,
            "a new authority signed at once"
        );
        assert_eq!(authority.bundle.len(), 2);
        assert!(!authority.advance("test", due + DAY - 1, POLICY).unwrap());

        assert!(authority.advance("test", due + DAY, POLICY).unwrap());
        assert_ne!(authority.signing.certificate, first);
        assert!(
            authority.bundle.contains(&first),
            "the old authority is no longer trusted"
        );

        assert!(authority.advance("test", start + 91 * DAY, POLICY).unwrap());
        assert_eq!(
            authority.bundle.len(),
            1,
            "an expired authority is still trusted"
        );
    }

    #[test]
    fn an_expired_authority_is_succeeded_at_once() {
        let start = unix_now();
        let mut authority = Authority::generate("test", start, POLICY).unwrap();
        let first = authority.signing.certificate.clone();
        authority
            .advance("test", start + 100 * DAY, POLICY)
            .unwrap();
        assert_ne!(authority.signing.certificate, first);
    }

    #[test]
    fn a_leaf_is_renewed_when_due_when_the_authority_changes_and_when_names_change() {
        let now = unix_now();
        let authority = Authority::generate("test", now, POLICY).unwrap();
        let leaf = authority.issue(&request(), now).unwrap();
        let check = |leaf: &Leaf, authority: &Authority, request: &Request, at: i64| {
            leaf.check(authority, request, at)
        };
        assert_eq!(check(&leaf, &authority, &request(), now), Verdict::Good);
        assert_eq!(
            check(&leaf, &authority, &request(), now + 19 * DAY),
            Verdict::Good
        );
        assert_eq!(
            check(&leaf, &authority, &request(), now + 21 * DAY),
            Verdict::Due
        );
        let other = Authority::generate("other", now, POLICY).unwrap();
        assert_eq!(
            check(&leaf, &other, &request(), now),
            Verdict::OtherAuthority
        );
        let mut renamed = request();
        renamed.sans = vec![San::Dns("b.codexstore".into())];
        assert_eq!(check(&leaf, &authority, &renamed, now), Verdict::OtherNames);
        let foreign_key = Leaf {
            key: authority.issue(&request(), now).unwrap().key,
            ..leaf
        };
        assert_eq!(
            check(&foreign_key, &authority, &request(), now),
            Verdict::Malformed
        );
    }

    #[test]
    fn a_leaf_never_outlives_its_authority() {
        let now = unix_now();
        let authority = Authority::generate("test", now, POLICY).unwrap();
        let late = now + 80 * DAY;
        let leaf = authority.issue(&request(), late).unwrap();
        let facts = Facts::read("leaf", &leaf.certificate).unwrap();
        assert!(facts.not_after <= authority.facts().unwrap().not_after);
    }

    #[test]
    fn debug_output_holds_no_key() {
        let authority = Authority::generate("test", unix_now(), POLICY).unwrap();
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }
}
