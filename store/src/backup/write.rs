//! Writing a backup of a running store.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::info::{BackupInfo, Contents, Envelope, Root};
use crate::error::{Code, Error, Result};
use crate::format::{Digest, FileKind, FrameKind, Link, MAX_FILE, Sealer, Summary};
use crate::gather::{Gather, GatherBatches};
use crate::held::Held;
use crate::index::View;
use crate::log::LogCursor;
use crate::options::Strategy;
use crate::seat::Seat;
use crate::shared::Shared;

/// How long a backup waits for the log before it looks whether it still may.
const PATIENCE: Duration = Duration::from_millis(100);

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
    shared: &Arc<Shared>,
    options: &BackupOptions,
    out: &mut impl Write,
) -> Result<BackupInfo> {
    options.validate()?;
    let held = hold(shared, options.deadline);
    write_held(shared, &held, out).map_err(|error| error.context("write the backup"))
}

fn write_held(shared: &Arc<Shared>, held: &Held, out: &mut impl Write) -> Result<BackupInfo> {
    let seat = &shared.seat;
    let revision = held.view(seat.env.clock.monotonic())?.revision;
    // Where the log would go on.
    let next = Link {
        sequence: revision.saturating_add(1).max(shared.first_revision),
        ..Link::default()
    };
    let made = seat.create(FileKind::Backup, revision, next)?;
    let mut writer = Writer {
        seat,
        held,
        sealer: made.sealer,
        frame: Vec::new(),
        out: Counted::new(out),
    };
    writer.out.put(&made.prefix)?;
    let history = match seat.options.strategy {
        Strategy::Snapshot => None,
        Strategy::Ledger => Some(writer.history(shared, revision)?),
    };
    let (entries, root) = writer.entries()?;
    let contents = Contents {
        entries,
        root,
        history,
    };
    let summary = Summary {
        root,
        entries,
        history,
    };
    writer.frame(FrameKind::Summary, &summary.encode())?;
    // An owner that was overtaken must not say what the newest state is.
    seat.check_epoch()?;
    let (bytes, sha256) = writer.close()?;
    Ok(BackupInfo {
        envelope: Envelope::new(&made.header, made.key_id, bytes, sha256),
        contents,
    })
}

/// A backup that is being written.
struct Writer<'a, W> {
    seat: &'a Seat,
    held: &'a Held,
    sealer: Sealer,
    frame: Vec<u8>,
    out: Counted<'a, W>,
}

impl<W: Write> Writer<'_, W> {
    /// What is held, as long as it may be.
    fn view(&self) -> Result<Arc<View>> {
        self.held.view(self.seat.env.clock.monotonic())
    }

    fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> Result<()> {
        self.frame.clear();
        let random = &*self.seat.env.random;
        let sealed = self.sealer.seal(kind, payload, random, &mut self.frame);
        sealed.map_err(does_not_fit)?;
        self.out.put(&self.frame)
    }

    /// Everything that the log still holds up to `revision`; how many batches that is.
    fn history(&mut self, shared: &Arc<Shared>, revision: u64) -> Result<u64> {
        self.wait_for(shared, revision)?;
        let first = shared.feed.durable().log.first_revision();
        let mut cursor = LogCursor::new(shared.clone(), first.max(1));
        let (mut gather, mut batches) = (GatherBatches::default(), 0);
        while cursor.wants() <= revision {
            let Some(change) = cursor.next()?.filter(|next| next.revision <= revision) else {
                break;
            };
            if let Some(payload) = gather.add(&change)? {
                self.view()?;
                self.frame(FrameKind::Batches, &payload)?;
            }
            batches += 1;
        }
        if let Some(payload) = gather.finish() {
            self.frame(FrameKind::Batches, &payload)?;
        }
        Ok(batches)
    }

    /// Waits until what the view shows is in the log: with durability `interval`, or while a group
    /// is just being shown, it may not be yet.
    fn wait_for(&self, shared: &Shared, revision: u64) -> Result<()> {
        let watcher = shared.feed.join();
        let waited = loop {
            if shared.feed.wait(revision, PATIENCE) {
                break Ok(());
            }
            // What a failed write left out will never be there.
            if let Some(error) = shared.poison() {
                break Err(error.clone());
            }
            if shared.feed.has_ended() {
                break Err(Error::new(Code::Closed, "the store is closed"));
            }
            if let Err(error) = self.view() {
                break Err(error);
            }
        };
        shared.feed.leave(watcher);
        waited
    }

    /// All entries, and their root.
    fn entries(&mut self) -> Result<(u64, Digest)> {
        let mut gather = Gather::default();
        let mut root = Root::new();
        loop {
            // Not held while someone else takes their time with the frame.
            let payload = gather.next(&self.view()?.index)?;
            if payload.is_empty() {
                return Ok((gather.entries(), root.finish()));
            }
            root.add(payload);
            self.frame(FrameKind::Entries, payload)?;
        }
    }

    /// Ends the stream; its length and sum.
    fn close(mut self) -> Result<(u64, Digest)> {
        // What was held for too long is not to be relied on.
        self.view()?;
        self.frame.clear();
        self.sealer
            .close(&*self.seat.env.random, &mut self.frame)
            .map_err(does_not_fit)?;
        self.out.put(&self.frame)?;
        self.out.flush()?;
        Ok(self.out.finish())
    }
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

/// What it means if a file is at its limit.
fn does_not_fit(error: Error) -> Error {
    if !error.is(Code::Internal) {
        return error;
    }
    Error::new(
        Code::TooLarge,
        format!(
            "the store does not fit in one file of {} GiB",
            MAX_FILE >> 30
        ),
    )
    .with_source(error)
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
