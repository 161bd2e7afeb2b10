//! What is told of the continuous archive: of its pieces, and of where a member is.

use serde::{Deserialize, Serialize};

/// A piece of the archive, as the member that made it tells it in the header
/// [`ARCHIVE`](crate::header::ARCHIVE). Whoever stores the bytes compares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PieceTold {
    /// Id of the store's files: 32 hexadecimal digits.
    pub store: String,
    /// Its line of history: 16 hexadecimal digits.
    pub lineage: String,
    /// Epoch of the owner that made it.
    pub epoch: u64,
    /// It holds every batch behind this revision …
    pub from: u64,
    /// … up to this one, its last.
    pub to: u64,
    /// When its first batch was committed, by the store's clock: milliseconds since 1970.
    pub first_ms: u64,
    /// When its last batch was.
    pub last_ms: u64,
    /// Number of batches.
    pub batches: u64,
    /// How it is encrypted, such as `AES-256-GCM`, or `none`.
    pub cipher: String,
    /// The key that it needs; none without encryption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of all its bytes, in hexadecimal.
    pub sha256: String,
    /// The next piece can be had at once.
    pub more: bool,
}

/// Where a member is: told where there is no piece, or none that follows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchivePosition {
    /// Id of the store's files: 32 hexadecimal digits.
    pub store: String,
    /// Its line of history: 16 hexadecimal digits.
    pub lineage: String,
    /// Epoch of the owner that answers.
    pub epoch: u64,
    /// The last revision that is durable.
    pub revision: u64,
    /// The lowest revision behind which pieces can be had.
    pub first: u64,
}
