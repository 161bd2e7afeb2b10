//! What a store says about itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::anchor::Anchor;
use crate::error::Error;
use crate::keyring::KeyId;

/// Something unusual that an open found and could deal with: to be logged once. Its text names the
/// file, and never a key or a value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The last frame of a journal was being written when its owner stopped. Nobody was told that
    /// it had been written; it was dropped.
    TornTail {
        /// The journal.
        file: String,
        /// Where the frame began.
        offset: u64,
        /// Bytes from there to the last one that is not zero.
        bytes: u64,
    },
    /// One of a file's two key slots does not verify: a rewrap was cut, or the disk erred. The
    /// file opened with the other.
    DamagedKeySlot {
        /// The file.
        file: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::TornTail {
                file,
                offset,
                bytes,
            } => write!(
                f,
                "{file}: a frame of {bytes} bytes at offset {offset} was torn and never \
                 acknowledged; it was dropped"
            ),
            Finding::DamagedKeySlot { file } => {
                write!(f, "{file}: one of its two key slots is damaged")
            }
        }
    }
}

/// Files whose data keys one key wraps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wrapped {
    /// How many: images and log files.
    pub files: u64,
    /// Their bytes on disk, space allocated ahead included.
    pub bytes: u64,
}

impl Wrapped {
    /// Counts these too.
    pub(crate) fn add(&mut self, more: Wrapped) {
        self.files += more.files;
        self.bytes += more.bytes;
    }

    /// What each key wraps of these files, each of which comes with its length in bytes.
    pub(crate) fn by_key<'a>(
        files: impl IntoIterator<Item = (Option<&'a KeyId>, u64)>,
    ) -> BTreeMap<KeyId, Wrapped> {
        let mut keys: BTreeMap<KeyId, Wrapped> = BTreeMap::new();
        for (id, bytes) in files {
            if let Some(id) = id {
                keys.entry(id.clone())
                    .or_default()
                    .add(Wrapped { files: 1, bytes });
            }
        }
        keys
    }
}

/// The times by which [`Stats::sync_times`] counts, each longer than the one before.
pub const SYNC_BOUNDS: [Duration; 12] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(2_500),
];

/// State and counters of a store, for status pages and metrics.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// What is kept: `snapshot` or `ledger`.
    pub strategy: &'static str,
    /// Of a ledger: where its log stands on disk, as [`crate::Store::anchor`] says it.
    pub anchor: Option<Anchor>,
    /// The lowest revision that can be watched from, and that a ledger remembers.
    pub first_revision: u64,
    /// Bytes on disk of the log, space allocated ahead included.
    pub log_bytes: u64,
    /// Why writes are refused, if they are: the store must be opened again.
    pub poisoned: Option<Error>,
    /// What the open found and dealt with; the same for as long as the store is open.
    pub findings: Vec<Finding>,
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
    /// The keys that present files are wrapped with, and what each wraps: without one of them the store could not be opened.
    pub needed_keys: BTreeMap<KeyId, Wrapped>,
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
    /// Syncs of the log by the first of [`SYNC_BOUNDS`] that they kept to. What is missing to `syncs` took longer
    /// than all of them.
    pub sync_times: [u64; SYNC_BOUNDS.len()],
    /// Bytes of the image; 0 before there is one.
    pub image_bytes: u64,
    /// Images written since the open.
    pub folds: u64,
    /// Keys that expired since the open.
    pub expired: u64,
    /// Messages under the data key of the journal that is written to: one for each frame.
    pub data_key_messages: u64,
    /// Messages at which a journal is left for one with a fresh data key: half of what the format
    /// allows, which is a sixteenth of what NIST SP 800-38D does for random nonces (2^32).
    pub max_data_key_messages: u64,
    /// Data keys wrapped since the open: messages under the key-encryption keys, whose bound is
    /// 2^32 as well. No file tells how many there ever were, but each log file's number is more
    /// than how many log files were begun before it: see `docs/KEYS.md`.
    pub key_wraps: u64,
    /// Number of the journal that is written to: log files begun in the store's life, at most.
    pub log_number: u64,
}
