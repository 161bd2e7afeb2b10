//! A running store under fresh data keys: every file is sealed anew beside the commits.
//!
//! A rewrap changes who can unwrap the data keys; this changes the data keys themselves, as one wants
//! after a key was seen by someone. [`crate::migrate_encryption`] does it with the store closed, and
//! what a crash leaves in the middle of it is told apart in the same way: see [`crate::succession`].
//!
//! The order:
//! 1. The log files are sealed anew by the background, in order, as a *shadow* of the log: under names that
//!    end in `.tmp`, from a beginning of its own, frame by frame ([`shadow`]). Each frame is read back, unpacked and
//!    compared before the next slice of work. The file that is written to is followed as it grows.
//! 2. When little is missing, an image of what is there then is written as `image-R.tmp`, with a link to where
//!    the shadow is, and read back. The shadow follows on; no fold begins.
//! 3. When little is missing again, commits wait, between two groups: the shadow takes the last frames, is
//!    synced, and the image gets its name. *This rename is the switch* ([`drive`]). The log goes on behind the shadow, in a
//!    journal that was prepared, and the commits with it.
//! 4. What was replaced is removed, durably, and the shadow's files get their names. What a keyring that was loaded
//!    meanwhile made current wraps the new data keys too, and whoever asked is answered.
//!
//! A crash before the switch leaves a store with some `.tmp` files of no value, one behind it leaves the new log, and the next open
//! finishes. Both hold everything that was acknowledged, and the keyring opens both.
//!
//! It takes as much space again as the store's log, and an image. Where a write needs that space, or the memory that the
//! image holds, the re-encryption is given up, and not the write.

mod drive;
mod shadow;

pub(crate) use drive::Reencryption;
pub(crate) use shadow::{Settle, Shadow, is_harmless};

use crate::error::{Code, Error, Result};
use crate::keyring::Encryption;
use crate::store::Store;

/// What a re-encryption did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Reencrypted {
    /// Files under fresh data keys: the image and those of the log.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far a re-encryption is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Reencrypting {
    /// Bytes that were sealed anew and read back.
    pub done: u64,
    /// Of about how many: it grows with what is written meanwhile.
    pub total: u64,
}

impl Store {
    /// Seals every file anew under a fresh data key, wrapped by the key that wraps new files, while the store is
    /// read and written; what was under the old data keys is then gone from the directory. Waits until that is done and
    /// verified. Entries, revisions, lineage, history and watchers stay; a ledger's chain hashes
    /// change, so take a new anchor.
    ///
    /// Commits wait once, between two groups, for a few syncs. The log takes twice its space meanwhile: `disk-full` if that is
    /// not there, or a write needs it before the end, and `memory-full` if one needs the memory that the image holds; a snapshot
    /// store gives up the past that it keeps for watchers and an archive first. A kind of Integrity if a file does not verify. Then the
    /// store is what it was, and it can be asked again. `closed` if the store is closed before, and `encryption-mismatch` without
    /// encryption. A failed write or sync poisons the store, as any does.
    pub fn reencrypt(&self) -> Result<Reencrypted> {
        let shared = self.shared();
        if matches!(*shared.seat.encryption.lock(), Encryption::None) {
            return Err(Error::new(
                Code::EncryptionMismatch,
                "the store is not encrypted: migrate-encryption, with the store closed, encrypts it",
            ));
        }
        self.ask(&shared.reencryptions, "the re-encryption was done")
    }

    /// How far the re-encryption is that is under way; `None` if none is.
    pub fn reencrypting(&self) -> Option<Reencrypting> {
        *self.shared().reencrypting.lock()
    }
}
