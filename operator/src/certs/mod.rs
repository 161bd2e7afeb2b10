//! Certificates, without I/O: what to make, what is still good, and when to renew it.
//!
//! One [`Authority`] serves both uses (a store's members, and the webhook): a signing pair, the pair that will sign next, and
//! the bundle of everything that is trusted. A new authority is trusted for a while before it signs, so that whoever verifies
//! has it by then; the old one stays in the bundle until it expires.
//!
//! Time is an argument everywhere (unix seconds), so that every decision can be tested.

mod authority;
mod facts;
mod leaf;

pub use authority::{Authority, Policy};
pub use facts::{Facts, renew_at};
pub use leaf::{Leaf, Request, San, Usage, Verdict};

/// Certificates are valid from a little before they are made: clocks of nodes differ.
pub const BACKDATE: i64 = 5 * 60;

/// One day in seconds.
pub const DAY: i64 = 24 * 60 * 60;

/// Why a certificate could not be made or read. Never carries key material.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library could not make a key or a certificate.
    #[error("cannot make {what}: {source}")]
    Make {
        /// What was being made.
        what: &'static str,
        /// The library's reason.
        source: rcgen::Error,
    },
    /// Something stored is not what it should be.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Which piece.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    fn malformed(what: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed {
            what,
            why: why.into(),
        }
    }
}

/// A validity of `life` seconds from `now`, backdated.
fn validity(params: &mut rcgen::CertificateParams, now: i64, life: i64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |at: i64| std::time::Duration::from_secs(u64::try_from(at).unwrap_or(0));
    params.not_before = epoch + seconds(now - BACKDATE);
    params.not_after = epoch + seconds(now + life);
}

fn new_key() -> Result<rcgen::KeyPair, Error> {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|source| Error::Make {
        what: "a key",
        source,
    })
}

/// Unix time now, in seconds.
pub fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
