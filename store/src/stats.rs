//! What a store says about itself.

use crate::error::Error;
use crate::keyring::KeyId;

/// State and counters of a store, for status pages and metrics.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Why writes are refused, if they are: the store must be opened again.
    pub poisoned: Option<Error>,
    /// The latest revision; 0 for a store that was never written.
    pub revision: u64,
    /// Random name of this line of history; it changes when writes may have been lost.
    pub lineage: u64,
    /// Counts owners; each open takes a higher one.
    pub epoch: u64,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub bytes: u64,
    /// Bytes of the files on disk, space allocated ahead included.
    pub disk_bytes: u64,
    /// The disk budget.
    pub max_disk: u64,
    /// Bytes of memory that the entries take, those held for a fold included.
    pub memory_bytes: u64,
    /// The memory budget.
    pub max_memory: u64,
    /// Bytes of journal written since the image.
    pub journal_bytes: u64,
    /// The cipher of new files: `AES-256-GCM`, `AES-192-GCM`, `AES-128-GCM` or `none`.
    pub cipher: &'static str,
    /// The key that wraps the newest file.
    pub key_id: Option<KeyId>,
    /// The keys that are loaded.
    pub loaded_keys: Vec<KeyId>,
    /// The store's time: milliseconds since 1970.
    pub now_ms: u64,
    /// How far the wall clock was ahead of the log at open, where that was not believed: expiry is
    /// suspended for that time. See [`crate::Store::accept_clock`].
    pub clock_jump_ms: Option<u64>,
    /// Programs waiting for the committer.
    pub queued: u64,
    /// Batches committed since the open.
    pub commits: u64,
    /// Groups written since the open: one frame each.
    pub groups: u64,
    /// Syncs of the log since the open.
    pub syncs: u64,
    /// Time spent in syncs of the log, in nanoseconds.
    pub sync_nanos: u64,
    /// Images written since the open.
    pub folds: u64,
    /// Keys that expired since the open.
    pub expired: u64,
}
