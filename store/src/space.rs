//! Room: the disk budget, the memory budget, and space in journals.
//!
//! A write is admitted only if, with it, the image there is, the next image, the journals and a
//! reserve for deletes fit in the budget, or in what the file system has left. So a fold can always
//! be done, and a deletion can always be logged. What does not make the next image larger, such as
//! a deletion, needs room for its frame only. Where a fold would make the room, the write waits for
//! it rather than fail.

use std::time::Duration;

use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::format::frame_len;
use crate::image::estimate;
use crate::journal::{Journal, Prepare, size_for};
use crate::layout;
use crate::task::{Running, Task};

/// A journal's usual largest and smallest size.
const LARGEST: u64 = 64 << 20;
const SMALLEST: u64 = 1 << 20;

/// Kept free so that the store can be opened again: the next owner's first journal and epoch.
const REOPEN: u64 = 128 << 10;

/// How long the file system is taken to be full after it said so, unless something was freed.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the file system's shortage of space.
#[derive(Default)]
pub(crate) struct Shortage {
    /// When a journal could not be prepared.
    prepare: Option<Duration>,
    /// When an image could not be written, and of how many bytes.
    image: Option<(Duration, u64)>,
    free: Option<u64>,
}

impl Shortage {
    /// Asks the file system again next time.
    pub fn forget_free(&mut self) {
        self.free = None;
    }

    /// Something was freed.
    pub fn clear(&mut self) {
        *self = Shortage::default();
    }
}

impl Engine {
    /// Largest usual journal: a sixteenth of the budget, so that three of them are a small part.
    fn journal_cap(&self) -> u64 {
        (self.seat.space / 16).clamp(64 << 10, LARGEST) & !4095
    }

    /// Size of the next journal, with room for a payload.
    pub(crate) fn next_size(&self, payload: usize) -> u64 {
        let cap = self.journal_cap();
        let grown = self.journal.as_ref().map_or(0, |journal| journal.size * 2);
        size_for(payload).max(grown.clamp(SMALLEST.min(cap), cap))
    }

    /// Size of the first journal after an open.
    pub(crate) fn first_size(space: u64) -> u64 {
        (space / 16).clamp(64 << 10, SMALLEST) & !4095
    }

    /// Bytes on disk.
    pub(crate) fn disk_used(&self) -> u64 {
        let image = self.image.as_ref().map_or(0, |image| image.len);
        let older: u64 = self.older.iter().map(|journal| journal.len).sum();
        let present = self.journal.as_ref().map_or(0, |journal| journal.size);
        let spare = self.spare.as_ref().map_or(0, |spare| spare.size);
        let running = match self.running {
            Some(Running::Prepare { size }) => size,
            _ => 0,
        };
        image + older + present + spare + running
    }

    /// Bytes of memory that the entries take, and what is held beside them.
    pub(crate) fn memory_used(&self) -> u64 {
        self.index.memory() + self.retained + self.payload.len() as u64
    }

    /// What may be on disk at most: the budget, or what the file system still gives.
    fn disk_limit(&mut self) -> u64 {
        let free = match self.shortage.free {
            Some(free) => free,
            // Unknown is not full: a write will tell.
            None => self.seat.disk.free().unwrap_or(u64::MAX),
        };
        self.shortage.free = Some(free);
        self.seat
            .options
            .max_disk
            .min(self.disk_used().saturating_add(free))
    }

    /// Decides whether the batch that was just run may be committed. `live` is what an image took
    /// before it.
    pub(crate) fn admit(&mut self, live: u64) -> Result<()> {
        let grows = self.index.image_bytes() > live;
        let payload = self.payload.len() + self.batch.len();
        if grows {
            self.admit_memory()?;
            self.admit_disk(payload)?;
        }
        self.make_room(payload, grows)
    }

    fn admit_memory(&mut self) -> Result<()> {
        let max = self.seat.options.max_memory;
        if self.memory_used() > max && self.retained > 0 && self.running.is_some() {
            // A fold holds entries that were replaced since it began.
            self.wait()?;
        }
        let used = self.memory_used();
        if used > max {
            return Err(Error::new(
                Code::MemoryFull,
                format!("the write would take memory to {used} bytes of {max}"),
            ));
        }
        Ok(())
    }

    fn admit_disk(&mut self, payload: usize) -> Result<()> {
        loop {
            let need = self.needed(payload, self.image_len());
            let limit = self.disk_limit();
            if need <= limit {
                return Ok(());
            }
            if let Some(Running::Image { .. }) = self.running {
                self.wait()?;
            } else if self.since_image() > 0 && self.needed_after_fold(payload) <= limit {
                self.start_fold()?;
                if self.running.is_none() {
                    return Err(disk_full(need, limit));
                }
                self.wait()?;
            } else {
                return Err(disk_full(need, limit));
            }
        }
    }

    /// The largest that the image before the next one may be.
    fn image_len(&self) -> u64 {
        let running = match self.running {
            Some(Running::Image { estimate, .. }) => estimate,
            _ => 0,
        };
        self.image
            .as_ref()
            .map_or(0, |image| image.len)
            .max(running)
    }

    /// Most bytes on disk at once from here to the end of the next fold.
    fn needed(&self, payload: usize, image: u64) -> u64 {
        let current = self.image.as_ref().map_or(0, |image| image.len);
        self.needed_with(payload, image, self.disk_used() - current)
    }

    /// The same as it would be after a fold, from how well the last image compressed.
    fn needed_after_fold(&self, payload: usize) -> u64 {
        let live = self.shared.view.load().index.image_bytes();
        let image = match &self.image {
            Some(image) if self.image_live > 0 => {
                let len = u128::from(image.len) * u128::from(live) / u128::from(self.image_live);
                u64::try_from(len).unwrap_or(u64::MAX)
            }
            _ => estimate(live),
        };
        let present = self
            .spare
            .as_ref()
            .map_or(self.next_size(0), |spare| spare.size);
        self.needed_with(payload, image, present)
    }

    fn needed_with(&self, payload: usize, image: u64, journals: u64) -> u64 {
        let room = self.journal.as_ref().map_or(0, Journal::room);
        let spare = match (&self.spare, self.running) {
            (Some(spare), _) => spare.size,
            (None, Some(Running::Prepare { size })) => size,
            _ => 0,
        };
        let need = frame_len(payload);
        let more = if spare == 0 || (need > room && size_for(payload) > spare) {
            self.next_size(payload)
        } else {
            0
        };
        let reserve = self.journal_cap();
        [
            image,
            estimate(self.index.image_bytes()),
            journals,
            more,
            reserve,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// Sees to it that the present journal has room for a frame of `payload` bytes.
    fn make_room(&mut self, payload: usize, grows: bool) -> Result<()> {
        let need = frame_len(payload);
        let mut prepared = false;
        let mut folded = false;
        loop {
            let Some(journal) = &self.journal else {
                return Err(Error::new(Code::Closed, "the store is closed"));
            };
            // Where no other journal can be had, the last quarter is for deletes.
            let kept = if grows && self.spare.is_none() && self.shortage.prepare.is_some() {
                journal.size / 4
            } else {
                0
            };
            if need + kept <= journal.room() {
                return Ok(());
            }
            if self.spare.is_some() {
                self.switch()?;
            } else if self.running.is_some() {
                self.wait()?;
            } else if !prepared {
                prepared = true;
                self.prepare(payload);
            } else if !grows && !folded && self.since_image() > 0 {
                // Deletions must go on: an image frees what the journals take.
                folded = true;
                prepared = false;
                self.start_fold()?;
            } else {
                return Err(Error::new(
                    Code::DiskFull,
                    "there is no space for the log to go on: delete something, or make the \
                     volume or the budget larger",
                ));
            }
        }
    }

    /// Starts to prepare a journal, if there may be space for it.
    pub(crate) fn prepare(&mut self, payload: usize) {
        let now = self.seat.env.clock.monotonic();
        if self.shortage.prepare.is_some_and(|at| now < at + RETRY) {
            return;
        }
        let limit = self.disk_limit();
        let used = self.disk_used();
        let mut size = self.next_size(payload);
        if used.saturating_add(size + REOPEN) > limit {
            // A smaller one is better than none.
            size = size_for(payload).max(64 << 10);
        }
        if used.saturating_add(size + REOPEN) > limit {
            self.shortage.prepare = Some(now);
            return;
        }
        let number = self.number;
        self.number += 1;
        self.running = Some(Running::Prepare { size });
        self.background
            .start(Task::Prepare(Prepare::new(number, size)));
    }

    /// Notes that the file system was full.
    pub(crate) fn note_shortage(&mut self, what: Running) {
        let now = self.seat.env.clock.monotonic();
        self.shortage.free = None;
        match what {
            Running::Prepare { .. } => self.shortage.prepare = Some(now),
            Running::Image { estimate, .. } => self.shortage.image = Some((now, estimate)),
        }
    }

    /// True if an image may be tried: the last one did not fail for lack of space just now, or
    /// it has become clearly smaller since.
    pub(crate) fn image_may_fit(&self) -> bool {
        let now = self.seat.env.clock.monotonic();
        self.shortage.image.is_none_or(|(at, failed)| {
            now >= at + RETRY || estimate(self.index.image_bytes()) < failed / 8 * 7
        })
    }
}

fn disk_full(need: u64, limit: u64) -> Error {
    Error::new(
        Code::DiskFull,
        format!(
            "with this write, image, next image, journals and reserve need {need} bytes of {limit}; \
             delete something, or make the budget larger"
        ),
    )
}

/// Names of journals and the image that an image makes superfluous.
pub(crate) fn superfluous(engine: &Engine, image: &str) -> Vec<String> {
    let older = engine.older.iter().map(|journal| journal.name.clone());
    let old = engine
        .image
        .iter()
        .map(|image| image.name.clone())
        .filter(|name| name != image);
    debug_assert!(matches!(layout::parse(image), layout::Name::Image(_)));
    older.chain(old).collect()
}
