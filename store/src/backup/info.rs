//! What is known of a backup.

use sha2::{Digest as _, Sha256};

use crate::error::Result;
use crate::format::{Cipher, Digest, FileId, Header, Lineage, StoreId};
use crate::gather::Gather;
use crate::index::Index;
use crate::keyring::KeyId;

/// What a backup shows to those who do not have its key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// The store that it was made of. A restored store keeps this id.
    pub store: StoreId,
    /// That store's line of history.
    pub lineage: Lineage,
    /// Random id of this very backup.
    pub file: FileId,
    /// Epoch of the owner that made it.
    pub epoch: u64,
    /// The revision that it shows; 0 for a store that was never written.
    pub revision: u64,
    /// The first revision that the store had not given out: usually the next, far above it after
    /// a restore.
    pub next_revision: u64,
    /// The store's time when it was begun: milliseconds since 1970.
    pub created_ms: u64,
    /// How it is encrypted.
    pub cipher: Cipher,
    /// The key that it needs; none without encryption.
    pub key_id: Option<KeyId>,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of all its bytes.
    pub sha256: Digest,
}

/// What is in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contents {
    /// Number of entries.
    pub entries: u64,
    /// SHA-256 over all entries in the order of their keys, with values, revisions and expiry, but
    /// whatever the compression and encryption: equal exactly where the content is. See
    /// [`crate::Store::content`].
    pub root: Digest,
    /// Number of batches of history, where the store keeps history.
    pub history: Option<u64>,
}

/// A backup that is complete, and of which everything verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupInfo {
    /// What shows from outside.
    pub envelope: Envelope,
    /// What is in it.
    pub contents: Contents,
}

impl Envelope {
    pub(crate) fn new(
        header: &Header,
        key_id: Option<KeyId>,
        bytes: u64,
        sha256: Digest,
    ) -> Envelope {
        Envelope {
            store: header.store,
            lineage: header.lineage,
            file: header.file,
            epoch: header.epoch,
            revision: header.first_revision,
            next_revision: header.link.sequence,
            created_ms: header.created_ms,
            cipher: header.cipher,
            key_id,
            bytes,
            sha256,
        }
    }
}

/// [`Contents::root`] while it grows.
pub(crate) struct Root(Sha256);

impl Root {
    /// Before the first entry.
    pub fn new() -> Root {
        let mut sum = Sha256::new();
        sum.update(b"codexstore entries");
        Root(sum)
    }

    /// Takes in a payload of entries. Where one ends and the next begins makes no difference.
    pub fn add(&mut self, payload: &[u8]) {
        self.0.update(payload);
    }

    /// Of all entries of an index.
    pub fn of(index: &Index) -> Result<Digest> {
        let mut gather = Gather::default();
        let mut root = Root::new();
        loop {
            let payload = gather.next(index)?;
            if payload.is_empty() {
                return Ok(root.finish());
            }
            root.add(payload);
        }
    }

    /// Behind the last entry.
    pub fn finish(self) -> Digest {
        self.0.finalize().into()
    }
}
