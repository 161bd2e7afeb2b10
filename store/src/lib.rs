//! The CodexStore storage engine: a durable, encrypted, ordered key-value store in one directory.

mod store;

mod batch;
mod options;
mod scan;
mod stats;
mod txn;

mod entry;
mod glob;
mod index;
mod shared;

mod commit;
mod engine;
mod fold;
mod space;
mod task;

mod image;
mod journal;
mod layout;
mod open;
mod recovery;

mod disk;
mod env;
mod seat;
mod time;

mod compress;
mod crypto;
pub mod error;
pub mod format;
pub mod keyring;

#[cfg(test)]
mod tests;

pub use batch::{Batch, Committed, Expect, SetOptions};
pub use compress::Compression;
pub use crypto::{OsRandom, Random};
pub use disk::{Disk, DiskFile};
pub use entry::Entry;
pub use env::{Clock, Env, SystemClock};
pub use error::{Code, Error, Kind, Result, Retry};
pub use keyring::{Encryption, Key, KeyId, KeySize, Keyring};
pub use options::{Durability, Options, Strategy};
pub use scan::{Page, Scan};
pub use stats::Stats;
pub use store::Store;
pub use txn::{Program, Txn};
