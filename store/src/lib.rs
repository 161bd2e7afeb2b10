//! The CodexStore storage engine: a durable, encrypted, ordered key-value store in one directory.
//!
//! What it guarantees:
//! - A write that was answered is on disk (durability `always`), and so is everything that a read
//!   has shown. A batch is there as a whole or not at all.
//! - What is on disk is encrypted, checksummed and chained: damage, and files that are missing,
//!   moved or foreign, are an Integrity error and never wrong data or an emptier store.
//! - After a failed write or sync nothing is acknowledged any more until the store is opened again,
//!   and that does not trust what the page cache shows.
//! - One owner at a time: a lock, and an epoch that an owner which was overtaken notices.
//! - Reads never wait for the disk or for a writer.
//!
//! **The store knows nothing of tokio, HTTP or Kubernetes.** It is synchronous; [`Store::submit`]
//! is what an asynchronous caller uses.
//!
//! ```
//! use codexstore::{Batch, Encryption, Expect, Key, KeyId, Keyring, Options, Scan, Store};
//!
//! # fn main() -> codexstore::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! // In earnest: 32 random bytes, kept apart from the data.
//! let keyring = Keyring::single(KeyId::new("2026-11")?, Key::new(&[7; 32])?);
//! let store = Store::open(dir, Options::new(Encryption::Keyring(keyring)))?;
//!
//! store.set(b"user/ada", b"Lovelace")?;
//! let entry = store.get(b"user/ada")?.expect("just set");
//! assert_eq!(entry.value(), b"Lovelace");
//!
//! // Both or neither, and only if nobody has changed ada meanwhile.
//! store.commit(
//!     Batch::new()
//!         .expect("user/ada", Expect::Revision(entry.modified()))
//!         .set("user/ada", "King")
//!         .set("user/alan", "Turing"),
//! )?;
//!
//! // A program runs alone, so what it reads stays true until it has written.
//! let visits = store.run(|txn: &mut codexstore::Txn<'_>| {
//!     let visits = txn.get(b"visits")?.map_or(0, |entry| entry.value().len()) + 1;
//!     txn.set(b"visits", &vec![b'x'; visits])?;
//!     Ok(visits)
//! })?;
//! assert_eq!(visits, 1);
//!
//! assert_eq!(store.scan(&Scan::prefix("user/"))?.items.len(), 2);
//! store.close()
//! # }
//! ```
//!
//! How it works, from the outside in: a [`Store`] hands programs to the committer
//! (`commit`), which drives the state machine (`engine`: commits, `space`, `fold`); that works on an
//! `index` in memory and on files (`journal`, `image`), which `recovery` reads at the next open.
//! Bytes have their meaning in [`mod@format`]; `disk` and [`Env`] are the only doors to the world, so
//! the tests drive everything with a simulated disk and clock.

mod store;

mod batch;
mod options;
mod scan;
mod snapshot;
mod stats;
mod txn;

mod block;
mod entry;
mod glob;
mod held;
mod index;
mod shared;
mod tree;

mod commit;
mod engine;
mod fold;
mod past;
mod space;
mod task;
mod worker;

mod anchor;
mod chain;
mod convert;
mod gate;
mod gather;
mod image;
mod journal;
mod layout;
mod migrate;
mod open;
mod recovery;
mod reencrypt;
mod rewrap;
mod succession;
mod survey;

mod feed;
mod history;
mod log;
mod watch;

mod disk;
mod env;
mod seat;
mod time;

pub mod archive;
pub mod backup;

mod compress;
mod crypto;
pub mod error;
pub mod format;
pub mod keyring;
pub mod offline;
mod passphrase;
mod replace;

#[cfg(test)]
mod tests;

pub use anchor::Anchor;
pub use batch::{Batch, Committed, Expect, SetOptions};
pub use compress::Compression;
pub use convert::convert;
pub use crypto::{OsRandom, Random};
pub use disk::{Disk, DiskFile};
pub use entry::Entry;
pub use env::{Clock, Env, SystemClock};
pub use error::{Code, Error, Kind, Result, Retry};
pub use history::{Changes, Version};
pub use keyring::{Encryption, Key, KeyId, KeySize, Keyring};
pub use log::{Change, ChangeOp};
pub use migrate::{Migrated, Progress, migrate_encryption};
pub use options::{Durability, Options, Retention, Strategy};
pub use passphrase::{Derivation, Passphrase};
pub use reencrypt::{Reencrypted, Reencrypting};
pub use replace::{Replacement, SetAside};
pub use rewrap::{Rewrapped, check_keys, needed_keys, rewrap};
pub use scan::{Page, Scan};
pub use snapshot::Snapshot;
pub use stats::{Finding, SYNC_BOUNDS, Stats, Wrapped};
pub use store::Store;
pub use txn::{Program, Txn};
pub use watch::Watch;
