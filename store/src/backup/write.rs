//! Writing a backup of a running store.

use std::io::Write;
use std::num::NonZeroUsize;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::info::{BackupInfo, Contents, Envelope, Root};
use crate::error::{Code, Error, Result};
use crate::format::{Digest, FileKind, FrameKind, Link, MAX_FILE, Sealed, Summary};
use crate::gather::Gather;
use crate::held::Held;
use crate::options::Strategy;
use crate::shared::Shared;

/// Settings of a backup.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BackupOptions {
    /// How long it may take, slow writer included: 30 minutes by default, 12 hours at most. Then it
    /// fails with `deadline`, so that what it holds in memory is not held for ever.
    pub deadline: Duration,
    /// Of the backups of this store in the directory, how many of the last are kept, for
    /// [`crate::Store::backup_to`]: all of them by default.
    pub keep: Option<NonZeroUsize>,
}

impl BackupOptions {
    /// Longest deadline: 12 hours.
    pub const MAX_DEADLINE: Duration = Duration::from_hours(12);

    /// Refuses what cannot work.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.deadline.is_zero() || self.deadline > BackupOptions::MAX_DEADLINE {
            return Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "the backup's deadline is {:?}; it must be at most {:?}, and not 0",
                    self.deadline,
                    BackupOptions::MAX_DEADLINE
                ),
            ));
        }
        Ok(())
    }
}

impl Default for BackupOptions {
    fn default() -> BackupOptions {
        BackupOptions {
            deadline: Duration::from_mins(30),
            keep: None,
        }
    }
}

/// Holds the present of a store.
pub(crate) fn hold(shared: &Shared, deadline: Duration) -> Held {
    let now = shared.seat.env.clock.monotonic();
    let view = shared.view.load_full();
    shared.holds.hold(view, now.saturating_add(deadline))
}

/// Writes a backup of the store's present to `out`. Holds one frame at a time, and the point in
/// time: see [`crate::held`].
pub(crate) fn write(
    shared: &Shared,
    options: &BackupOptions,
    out: &mut impl Write,
) -> Result<BackupInfo> {
    options.validate()?;
    let held = hold(shared, options.deadline);
    write_held(shared, &held, out).map_err(|error| error.context("write the backup"))
}

fn write_held(shared: &Shared, held: &Held, out: &mut impl Write) -> Result<BackupInfo> {
    let seat = &shared.seat;
    if seat.options.strategy == Strategy::Ledger {
        return Err(Error::new(
            Code::Unsupported,
            "this version cannot carry a ledger's history",
        ));
    }
    let random = &*seat.env.random;
    let now = || seat.env.clock.monotonic();
    let revision = held.view(now())?.revision;
    // Where the log would go on.
    let next = Link {
        sequence: revision.saturating_add(1).max(shared.first_revision),
        ..Link::default()
    };
    let made = seat.create(FileKind::Backup, revision, next)?;
    let mut sealer = made.sealer;
    let mut out = Counted::new(out);
    out.put(&made.prefix)?;

    let mut gather = Gather::default();
    let mut root = Root::new();
    let mut frame = Vec::new();
    loop {
        let view = held.view(now())?;
        let payload = gather.next(&view.index)?;
        // Not held while someone else takes their time with it.
        drop(view);
        if payload.is_empty() {
            break;
        }
        root.add(payload);
        frame.clear();
        fits(sealer.seal(FrameKind::Entries, payload, random, &mut frame))?;
        out.put(&frame)?;
    }
    let contents = Contents {
        entries: gather.entries(),
        root: root.finish(),
        history: None,
    };
    let summary = Summary {
        root: contents.root,
        entries: contents.entries,
        history: contents.history,
    };
    frame.clear();
    fits(sealer.seal(FrameKind::Summary, &summary.encode(), random, &mut frame))?;
    out.put(&frame)?;
    // An owner that was overtaken must not say what the newest state is, and what was held for too
    // long is not to be relied on.
    seat.check_epoch()?;
    held.view(now())?;
    frame.clear();
    sealer.close(random, &mut frame)?;
    out.put(&frame)?;
    out.flush()?;
    let (bytes, sha256) = out.finish();
    Ok(BackupInfo {
        envelope: Envelope::new(&made.header, made.key_id, bytes, sha256),
        contents,
    })
}

/// Revision and root of the present, which is held for half an hour at most.
pub(crate) fn content(shared: &Shared) -> Result<(u64, Digest)> {
    let held = hold(shared, BackupOptions::default().deadline);
    let now = || shared.seat.env.clock.monotonic();
    let mut gather = Gather::default();
    let mut root = Root::new();
    loop {
        let view = held.view(now())?;
        let payload = gather.next(&view.index)?;
        if payload.is_empty() {
            return Ok((view.revision, root.finish()));
        }
        root.add(payload);
    }
}

/// Says what it means if a file is at its limit.
fn fits(sealed: Result<Sealed>) -> Result<Sealed> {
    sealed.map_err(|error| {
        if error.is(Code::Internal) {
            Error::new(
                Code::TooLarge,
                format!(
                    "the store does not fit in one file of {} GiB",
                    MAX_FILE >> 30
                ),
            )
            .with_source(error)
        } else {
            error
        }
    })
}

/// Counts and sums what is written.
struct Counted<'a, W> {
    out: &'a mut W,
    bytes: u64,
    sum: Sha256,
}

impl<'a, W: Write> Counted<'a, W> {
    fn new(out: &'a mut W) -> Counted<'a, W> {
        Counted {
            out,
            bytes: 0,
            sum: Sha256::new(),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out
            .write_all(bytes)
            .map_err(|e| Error::io(format!("write at {}", self.bytes), e))?;
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::io("flush", e))
    }

    fn finish(self) -> (u64, Digest) {
        (self.bytes, self.sum.finalize().into())
    }
}
