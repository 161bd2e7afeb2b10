//! What is told of a backup, and of a restore.

use serde::{Deserialize, Serialize};

/// A backup, as the member that made it tells it behind the last byte, in the trailer
/// [`BACKUP`](crate::header::BACKUP). Whoever reads the bytes compares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupTold {
    /// Id of the store's files: 32 hexadecimal digits.
    pub store: String,
    /// Its line of history: 16 hexadecimal digits.
    pub lineage: String,
    /// Epoch of the owner that made it.
    pub epoch: u64,
    /// The revision that it shows; 0 for a store that was never written.
    pub revision: u64,
    /// The store's time when it was begun: RFC 3339 in UTC.
    pub created_at: String,
    /// How it is encrypted, such as `aes-256-gcm`, or `none`.
    pub cipher: String,
    /// The key that it needs; none without encryption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of all its bytes, in hexadecimal.
    pub sha256: String,
    /// Number of entries.
    pub entries: u64,
    /// SHA-256 over all entries, whatever the compression and encryption, in hexadecimal.
    pub root: String,
    /// Number of batches of history, where the store keeps history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<u64>,
}

/// The files of a store whose data keys the current key wraps now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RewrapTold {
    /// Files.
    pub files: u64,
    /// Key slots that were written for that; 0 if nothing was left to do.
    pub slots: u64,
}

/// A store that was restored and is served now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreTold {
    /// Its new line of history: 16 hexadecimal digits. What was told of the old one holds no more.
    pub lineage: String,
    /// The revision that the backup shows.
    pub revision: u64,
    /// The revision that the next write gets at least.
    pub next_revision: u64,
    /// SHA-256 of all bytes that came, in hexadecimal: the backup's, and those of all pieces behind it.
    pub sha256: String,
    /// Number of entries in the backup.
    pub entries: u64,
    /// SHA-256 over all entries in the backup, in hexadecimal.
    pub root: String,
    /// What was taken of pieces of the archive; none if none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveRestored>,
    /// Name of the directory, beside the store's, with what was there before; none if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<String>,
}

/// What a restore took of pieces of the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveRestored {
    /// Pieces that came.
    pub pieces: u64,
    /// Batches that were taken of them.
    pub batches: u64,
    /// The last revision that was restored: the backup's, if no batch was taken.
    pub revision: u64,
    /// When its batch was committed: milliseconds since 1970. None if no batch was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
}
