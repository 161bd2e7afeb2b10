//! Ciphers, key derivation and randomness: the only module that touches key bytes.

use crate::error::{Code, Error, Result};

/// Where random bytes come from: keys, nonces and ids. The operating system in production
/// ([`OsRandom`]); a seed in simulations, where nothing is secret.
pub trait Random: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, out: &mut [u8]) -> Result<()>;
}

/// The operating system's generator (`getrandom(2)`).
#[derive(Debug, Clone, Copy, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        getrandom::fill(out).map_err(|source| {
            Error::new(Code::Io, format!("random bytes from the system: {source}"))
        })
    }
}
