//! What a payload says: batches in logs, entries in images and backups.

use crate::error::{Error, Result};

/// Longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 64 << 20;
/// Longest actor label, in bytes.
pub const MAX_ACTOR: usize = 256;

/// One operation of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// The key's whole new state; its modified revision is the batch's.
    Set {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// Revision that created the key.
        created: u64,
        /// How often it was set since: from 1.
        version: u64,
        /// When it expires: milliseconds since 1970.
        expires_at: Option<u64>,
    },
    /// A caller removed the key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// The key's time was over.
    Expire {
        /// The key.
        key: &'a [u8],
    },
}

/// One committed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Its revision, from 1.
    pub revision: u64,
    /// Store time: milliseconds since 1970.
    pub time_ms: u64,
    /// Who did it, if they said.
    pub actor: Option<&'a str>,
    /// What it did.
    pub ops: Vec<Op<'a>>,
}

/// One live entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Revision that created the key.
    pub created: u64,
    /// Revision that last set it.
    pub modified: u64,
    /// How often it was set since its creation: from 1.
    pub version: u64,
    /// When it expires: milliseconds since 1970.
    pub expires_at: Option<u64>,
}

/// Appends one batch to a payload.
pub fn put_batch<'a>(
    _out: &mut Vec<u8>,
    _revision: u64,
    _time_ms: u64,
    _actor: Option<&str>,
    _ops: impl ExactSizeIterator<Item = Op<'a>>,
) -> Result<()> {
    Err(Error::internal("put_batch"))
}

/// Appends one entry to a payload.
pub fn put_entry(_out: &mut Vec<u8>, _entry: &EntryRef<'_>) -> Result<()> {
    Err(Error::internal("put_entry"))
}

/// Reads the batches of a payload; ends after the first error.
pub fn batches(_payload: &[u8]) -> impl Iterator<Item = Result<Batch<'_>>> {
    std::iter::empty()
}

/// Reads the entries of a payload; ends after the first error.
pub fn entries(_payload: &[u8]) -> impl Iterator<Item = Result<EntryRef<'_>>> {
    std::iter::empty()
}
