//! Watching: what is committed, from a revision on, in order and without a gap.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Code, Error, Result};
use crate::index::begins_with;
use crate::log::{Change, LogCursor, past_gone};
use crate::shared::Shared;

/// A watcher: see [`crate::Store::watch`]. It gets what is on disk, so that nothing it saw can be
/// lost; with durability `interval` that is up to an interval behind what readers see.
///
/// Memory is bounded: the latest 4 MiB of batches are kept for all watchers together, and who is
/// further behind reads the log's files. Who falls behind what is kept gets `past-gone`.
pub struct Watch {
    shared: Arc<Shared>,
    cursor: LogCursor,
    prefix: Bytes,
    id: u64,
}

impl Watch {
    /// A watcher from `from` on; `None`: from what comes next.
    pub(crate) fn new(shared: Arc<Shared>, from: Option<u64>, prefix: Bytes) -> Result<Watch> {
        // First of all: what is logged from now on is kept in memory.
        let id = shared.feed.join();
        let durable = shared.feed.durable();
        // With an interval, readers may have seen more than is on disk.
        let latest = shared.view.load().revision.max(durable.revision);
        let next = from.unwrap_or(durable.revision + 1);
        let watch = Watch {
            cursor: LogCursor::new(shared.clone(), next),
            shared,
            prefix,
            id,
        };
        if next == 0 || next > latest + 1 {
            return Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "revision {next} cannot be watched from: the store is at revision {latest}",
                ),
            ));
        }
        if next < durable.log.first_revision() {
            return Err(past_gone(next, &durable));
        }
        Ok(watch)
    }

    /// The next batch that touched a watched key, with what it did to watched keys only. Waits at
    /// most `patience`; `None` when nothing came. After an error the watcher is of no more use:
    /// `closed`, `poisoned` or `fenced` when nothing will come any more and everything before that
    /// was given out.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Change>> {
        let clock = self.shared.seat.env.clock.clone();
        let until = clock.monotonic().saturating_add(patience);
        loop {
            // Asked first: what was logged before the end is given out.
            let ended = self.ended();
            if let Some(change) = self.poll()? {
                return Ok(Some(change));
            }
            if let Some(ended) = ended {
                return Err(ended);
            }
            let left = until.saturating_sub(clock.monotonic());
            if left.is_zero() || !self.shared.feed.wait(self.cursor.wants(), left) {
                return self.poll();
            }
        }
    }

    /// The same without waiting.
    pub fn poll(&mut self) -> Result<Option<Change>> {
        while let Some(mut change) = self.cursor.next()? {
            change.ops.retain(|op| begins_with(op.key(), &self.prefix));
            if !change.ops.is_empty() {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }

    /// Why nothing more will be logged, if that is so: [`Watch::poll`] gives out what was logged before.
    pub fn ended(&self) -> Option<Error> {
        let closed = || Error::new(Code::Closed, "the store is closed");
        let ended = self.shared.feed.has_ended();
        ended.then(|| self.shared.poison().cloned().unwrap_or_else(closed))
    }

    /// True if what comes next must be read from the log's files, so that [`Watch::poll`] may take a while.
    pub fn is_behind(&self) -> bool {
        self.cursor.is_behind()
    }

    /// Where to resume: every change below this revision was given out, or touched no watched key.
    pub fn resume_at(&self) -> u64 {
        self.cursor.wants()
    }

    /// Calls `waker` whenever something was logged, and when the store closes: [`Watch::poll`] may
    /// have something then. It is called on the committer's thread and must not block.
    pub fn wake_with(&self, waker: impl Fn() + Send + Sync + 'static) {
        self.shared.feed.wake_with(self.id, Arc::new(waker));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.feed.leave(self.id);
    }
}
