//! The first pages of a file: made, opened, rewrapped.

use super::header::{FileId, FileKind, Header, Lineage, Link, StoreId};
use super::seal::Sealer;
use crate::compress::Compression;
use crate::crypto::Random;
use crate::error::{Error, Result};
use crate::keyring::{Encryption, KeyId, KeySize, Keyring};

/// What a new file shall be.
#[derive(Debug, Clone)]
pub struct FileSpec {
    /// See [`Header`] for the fields.
    pub kind: FileKind,
    /// The store.
    pub store: StoreId,
    /// The line of history.
    pub lineage: Lineage,
    /// The new file's id: random.
    pub file: FileId,
    /// The owner's epoch.
    pub epoch: u64,
    /// See [`Header::first_revision`].
    pub first_revision: u64,
    /// See [`Header::link`].
    pub link: Link,
    /// Compression.
    pub compression: Compression,
    /// Size of the frames' AES key; ignored without encryption.
    pub key_size: KeySize,
    /// Time.
    pub created_ms: u64,
}

/// A new file, to be written from offset 0.
pub struct NewFile {
    /// Its header.
    pub header: Header,
    /// Header and key slots: [`super::FRAMES_AT`] bytes.
    pub prefix: Vec<u8>,
    /// Makes its frames.
    pub sealer: Sealer,
    /// The key that wraps its data key.
    pub key_id: Option<KeyId>,
}

/// A file whose header and key are verified.
pub struct OpenFile {
    /// Its header.
    pub header: Header,
    /// The key that wraps its data key.
    pub key_id: Option<KeyId>,
    /// A key slot is damaged, or was torn in a rewrap; the other one is good.
    pub damaged_slot: bool,
}

/// Makes a file's prefix, with a fresh data key.
pub fn create(_spec: &FileSpec, _encryption: &Encryption, _random: &dyn Random) -> Result<NewFile> {
    Err(Error::internal("create"))
}

/// Verifies a file's prefix ([`super::FRAMES_AT`] bytes) and unwraps its data key. Nothing is modified.
pub fn open(_prefix: &[u8], _encryption: &Encryption) -> Result<OpenFile> {
    Err(Error::internal("open"))
}

/// Wraps the file's data key with the keyring's current key: the offset to write at, and the page.
pub fn rewrap(_prefix: &[u8], _keyring: &Keyring, _random: &dyn Random) -> Result<(u64, Vec<u8>)> {
    Err(Error::internal("rewrap"))
}
