//! The CodexStore storage engine: a durable, encrypted, ordered key-value store in one directory.

mod options;
mod env;
mod entry;
mod batch;
mod scan;
mod txn;
mod stats;
mod store;

mod compress;
mod crypto;
pub mod error;
pub mod format;
pub mod keyring;

pub use batch::{Batch, Committed, Expect, SetOptions};
pub use compress::Compression;
pub use crypto::{OsRandom, Random};
pub use entry::Entry;
pub use env::{Clock, Env, SystemClock};
pub use error::{Code, Error, Kind, Result, Retry};
pub use keyring::{Encryption, Key, KeyId, KeySize, Keyring};
pub use options::{Durability, Options, Strategy};
pub use scan::{Page, Scan};
pub use stats::Stats;
pub use store::Store;
pub use txn::{Program, Txn};
