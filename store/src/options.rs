//! How a store is opened.

use std::time::Duration;

use crate::anchor::Anchor;
use crate::compress::Compression;
use crate::error::{Code, Error, Result};
use crate::format::FileKind;
use crate::format::record::MAX_VALUE;
use crate::keyring::{Encryption, KeySize};

/// What a store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// The present: one atomic image, and short journals of what came after it.
    #[default]
    Snapshot,
    /// Every revision: hash-chained segments that are never rewritten, and an image beside them
    /// only to start fast.
    Ledger,
}

impl Strategy {
    /// `snapshot` or `ledger`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Strategy::Snapshot => "snapshot",
            Strategy::Ledger => "ledger",
        }
    }

    /// The kind of its log files.
    pub(crate) const fn log(self) -> FileKind {
        match self {
            Strategy::Snapshot => FileKind::Journal,
            Strategy::Ledger => FileKind::Ledger,
        }
    }
}

/// What a ledger may forget, by whole segments and oldest first: nothing, by default. A segment
/// goes when every rule that is given allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Retention {
    /// Revisions younger than this are kept.
    pub age: Option<Duration>,
    /// This many of the latest revisions are kept.
    pub revisions: Option<u64>,
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// When it is on disk, the default.
    #[default]
    Always,
    /// At once. What was acknowledged within an interval is written and synced together at its end:
    /// a crash of the process or the machine may lose the writes of the last interval, and never
    /// others, so that what is left is a prefix of what was acknowledged.
    Interval(Duration),
}

impl Durability {
    /// The usual interval: 100 ms.
    pub const INTERVAL: Durability = Durability::Interval(Duration::from_millis(100));

    /// `always` or `interval`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Durability::Always => "always",
            Durability::Interval(_) => "interval",
        }
    }
}

/// Settings of a store. Start from [`Options::new`] and change what differs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Whether and with which keys files are encrypted. An existing store must agree.
    pub encryption: Encryption,
    /// Size of the AES key of new files' frames; 256 bits by default.
    pub key_size: KeySize,
    /// What is kept. An existing store must agree; [`crate::convert`] changes it.
    pub strategy: Strategy,
    /// Bytes of log that the Snapshot strategy keeps behind its image, so that a watcher can
    /// resume: 64 MiB by default, an eighth of the disk budget at most, and less where space is
    /// needed.
    pub keep_log: u64,
    /// What the Ledger strategy may forget: nothing by default.
    pub retention: Retention,
    /// Where the ledger is known to have been: an open of one that does not pass through here is
    /// refused as `corrupt`, and told which revisions are lost; as `past-gone` if its retention has
    /// taken the place. None by default.
    pub anchor: Option<Anchor>,
    /// When a write is answered.
    pub durability: Durability,
    /// How new files are compressed.
    pub compression: Compression,
    /// Disk budget in bytes, everything in the directory included. Unlimited by default.
    pub max_disk: u64,
    /// Memory budget for entries, in bytes. Unlimited by default.
    pub max_memory: u64,
    /// Longest value in bytes: 8 MiB by default, 64 MiB at most.
    pub max_value: usize,
    /// Most programs that may wait for the committer; one more is refused as `overloaded`.
    pub max_queue: usize,
    /// How far the wall clock may be ahead of the last time in the log when the store is opened.
    /// A larger jump is not believed: the store's time goes on from the log's, so that a wrong
    /// clock cannot expire everything, until [`crate::Store::accept_clock`]. 366 days by default.
    pub max_clock_jump: Duration,
    /// The store's strategy may be another one, and becomes this one; a store that is made of a backup has the one that this had.
    pub(crate) convert: bool,
    /// Most frames of one file, hence messages under one data key: see [`crate::format::MAX_FRAMES`].
    pub(crate) max_frames: u64,
}

impl Options {
    /// Smallest disk budget.
    pub const MIN_DISK: u64 = 1 << 20;

    /// Longest durability interval: an hour.
    pub const MAX_INTERVAL: Duration = Duration::from_hours(1);

    /// The defaults.
    pub fn new(encryption: Encryption) -> Options {
        Options {
            encryption,
            key_size: KeySize::default(),
            strategy: Strategy::default(),
            keep_log: 64 << 20,
            retention: Retention::default(),
            anchor: None,
            durability: Durability::default(),
            compression: Compression::default(),
            max_disk: u64::MAX,
            max_memory: u64::MAX,
            max_value: 8 << 20,
            max_queue: 4096,
            max_clock_jump: Duration::from_hours(366 * 24),
            convert: false,
            max_frames: crate::format::MAX_FRAMES,
        }
    }

    /// Refuses what cannot work.
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::new(Code::InvalidArgument, what));
        if self.max_value == 0 || self.max_value > MAX_VALUE {
            return refuse(format!(
                "max_value is {}; it must be 1 to {MAX_VALUE} bytes",
                self.max_value
            ));
        }
        if self.max_disk < Self::MIN_DISK {
            return refuse(format!(
                "max_disk is {}; it must be at least {} bytes",
                self.max_disk,
                Self::MIN_DISK
            ));
        }
        if self.max_queue == 0 {
            return refuse("max_queue is 0; it must be at least 1".to_owned());
        }
        if self.durability == Durability::Interval(Duration::ZERO) {
            return refuse("the durability interval is 0; use always instead".to_owned());
        }
        if self.strategy == Strategy::Snapshot && self.retention != Retention::default() {
            return refuse(
                "retention is for the ledger strategy: a snapshot keeps the present".to_owned(),
            );
        }
        if self.strategy == Strategy::Snapshot && self.anchor.is_some() {
            return Err(Anchor::of_no_ledger());
        }
        if let Durability::Interval(every) = self.durability
            && every > Self::MAX_INTERVAL
        {
            return refuse(format!(
                "the durability interval is {every:?}; it must be at most {:?}",
                Self::MAX_INTERVAL
            ));
        }
        Ok(())
    }
}
