//! store

mod compress;
mod crypto;
pub mod error;
pub mod format;
pub mod keyring;

pub use compress::Compression;
pub use crypto::{OsRandom, Random};
pub use error::{Code, Error, Kind, Result, Retry};
pub use keyring::{Encryption, Key, KeyId, KeySize, Keyring};
