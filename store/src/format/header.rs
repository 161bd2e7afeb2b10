//! The header: what a file is, written once and hashed.

use super::Digest;
use crate::compress::Compression;
use crate::error::{Error, Result};
use crate::keyring::KeySize;

/// Random id of a store, for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StoreId(pub [u8; 16]);

/// Random id of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileId(pub [u8; 16]);

/// Random name of one line of history; shown as 16 hex digits in etags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lineage(pub u64);

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// All live entries at one revision; always closed.
    Image,
    /// Batches since an image.
    Journal,
    /// Batches for ever.
    Ledger,
    /// A copy at one revision, written elsewhere; always closed.
    Backup,
}

/// The cipher of a file's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// Not encrypted; still checksummed and chained.
    None,
    /// AES-GCM with a key of this size.
    AesGcm(KeySize),
}

/// A place in a log: right behind a frame of a file. The default (all zero) is "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// The log file.
    pub file: FileId,
    /// Sequence of the last frame before the place; 0 is the file's beginning.
    pub sequence: u64,
    /// Chain hash of that frame; at 0 the header's hash.
    pub chain: Digest,
}

/// A file's immutable header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the file holds.
    pub kind: FileKind,
    /// The store that it belongs to.
    pub store: StoreId,
    /// The line of history.
    pub lineage: Lineage,
    /// The file's own id.
    pub file: FileId,
    /// Epoch of the owner that made it.
    pub epoch: u64,
    /// Image and backup: the revision that it shows. Logs: the lowest revision that it may hold.
    pub first_revision: u64,
    /// Logs: where the predecessor ended. Image and backup: where the log goes on.
    pub link: Link,
    /// How payloads are compressed where it helps.
    pub compression: Compression,
    /// How frames are encrypted.
    pub cipher: Cipher,
    /// Commitment to the data key; zero without encryption.
    pub commitment: Digest,
    /// When it was made, by the store's clock: milliseconds since 1970.
    pub created_ms: u64,
}

impl Header {
    /// The page as bytes.
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Reads and verifies a header.
    pub fn decode(_page: &[u8]) -> Result<Header> {
        Err(Error::internal("header"))
    }

    /// SHA-256 that identifies the header; the chain starts from it.
    pub fn hash(&self) -> Digest {
        [0; 32]
    }
}
