//! Room: the disk budget, the memory budget, and space in journals.
//!
//! What is on disk never exceeds the budget, or what the file system has left: a journal is
//! prepared and an image begun only if all of it fits beside what is there. So that a fold can
//! always be done and a deletion always be logged, a batch with a set in it is admitted only if
//! with it the image there is, or the one that the next fold makes of it, one more image, the
//! journals and a reserve for deletions fit. An image is taken for as large as it is without
//! compression, unless what it is made of, an image and journals, is smaller: a value that
//! replaces one of the same size may compress worse. A deletion needs room for its frame only.
//! Where a fold would make the room, the write waits for it rather than fail. What a snapshot store
//! keeps of its past counts for nothing: it is removed where it is in the way. A ledger's counts.

use std::time::Duration;

use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::format::frame_len;
use crate::image::estimate;
use crate::journal::{Journal, Prepare, size_for};
use crate::options::Strategy;
use crate::past::removing;
use crate::task::{Running, Work};

/// A journal's usual largest and smallest size.
const LARGEST: u64 = 64 << 20;
const SMALLEST: u64 = 1 << 20;

/// Kept free so that the store can be opened again: the next owner's first journal and epoch.
pub(crate) const REOPEN: u64 = 128 << 10;

/// How long the file system is taken to be full after it said so, unless something was freed.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the file system's shortage of space.
#[derive(Default)]
pub(crate) struct Shortage {
    /// When a journal could not be prepared, and whether the file system said so.
    prepare: Option<(Duration, bool)>,
    /// When an image could not be written, and of how many bytes.
    image: Option<(Duration, u64)>,
    free: Option<u64>,
}

impl Shortage {
    /// Asks the file system again next time.
    pub fn forget_free(&mut self) {
        self.free = None;
    }

    /// A journal was prepared.
    pub fn prepared(&mut self) {
        self.prepare = None;
        self.free = None;
    }

    /// Something was freed.
    pub fn clear(&mut self) {
        *self = Shortage::default();
    }
}

/// For whom a journal is prepared, and so what it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// For whoever comes: a fold and the reserve still fit.
    Anyone,
    /// For a deletion: a fold still fits.
    Deletion,
    /// For a deletion where no fold fits: what is deleted will make it smaller.
    LastResort,
}

/// What a store took before a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    pub image_bytes: u64,
    pub memory: u64,
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
        let (sealed, _) = self.reencryption_bytes();
        image + self.past.bytes() + older + present + spare + running + sealed
    }

    /// Bytes on disk without what can be removed at any time.
    fn disk_held(&self) -> u64 {
        self.disk_used() - self.spare_past()
    }

    /// Bytes of memory that the entries take, and what is held beside them.
    pub(crate) fn memory_used(&self) -> u64 {
        // A fold and a backup hold the same replaced entries.
        let held = self.retained.max(self.shared.holds.bytes());
        self.index.memory() + held + self.payload.len() as u64
    }

    /// What may be on disk at most: the budget, or what the file system still gives.
    pub(crate) fn disk_limit(&mut self) -> u64 {
        let free = match self.shortage.free {
            Some(free) => free,
            // Unknown is not full: a write will tell.
            None => self.seat.disk.free().unwrap_or(u64::MAX),
        };
        self.shortage.free = Some(free);
        // What is being prepared may not have been taken from the free space yet.
        let promised = match self.running {
            Some(Running::Prepare { size }) => size,
            _ => 0,
        };
        let (sealed, written) = self.reencryption_bytes();
        let there = self.disk_used() - promised - (sealed - written) + self.reencryption_image();
        self.seat.options.max_disk.min(there.saturating_add(free))
    }

    /// What the batch that runs is measured against.
    pub(crate) fn before(&self) -> Before {
        Before {
            image_bytes: self.index.image_bytes(),
            memory: self.index.memory(),
        }
    }

    /// Decides whether the batch that was just run may be committed. `sets`: it does not only
    /// delete.
    pub(crate) fn admit(&mut self, before: Before, sets: bool) -> Result<()> {
        let payload = self.payload.len() + self.batch.len();
        if sets {
            self.admit_memory(self.index.memory() > before.memory)?;
            self.admit_disk(payload, self.index.image_bytes() > before.image_bytes)?;
        }
        self.make_room(payload, sets)
    }

    /// True if a payload of that size can be admitted without waiting for anything.
    pub(crate) fn has_room(&mut self, payload: usize) -> bool {
        let room = self.journal.as_ref().map_or(0, Journal::room);
        let memory = self.memory_used().saturating_add(payload as u64);
        self.shortage.prepare.is_none()
            && self.shortage.image.is_none()
            && frame_len(payload) <= room
            && memory <= self.seat.options.max_memory
            && self.needed(payload, true) <= self.disk_limit()
    }

    fn admit_memory(&mut self, grows: bool) -> Result<()> {
        let max = self.seat.options.max_memory;
        if matches!(self.running, Some(Running::Image { .. })) {
            // The fold holds entries that were replaced since it began.
            let held = self.memory_used().saturating_add(self.work.replaced());
            if held > max {
                self.wait()?;
            }
        }
        let held = self.memory_used().saturating_add(self.work.replaced());
        if held > max && self.image_is_promised() {
            self.yield_reencryption(Code::MemoryFull)?;
        }
        let mut used = self.memory_used();
        if used > max && self.shared.holds.bytes() > 0 {
            self.shared.holds.give_up();
            used = self.memory_used();
        }
        if used > max && grows {
            return Err(Error::new(
                Code::MemoryFull,
                format!("the write would take memory to {used} bytes of {max}"),
            ));
        }
        Ok(())
    }

    fn admit_disk(&mut self, payload: usize, grows: bool) -> Result<()> {
        loop {
            let need = self.needed(payload, grows);
            let limit = self.disk_limit();
            if need > limit && self.yield_reencryption(Code::DiskFull)? {
                continue;
            }
            if need > limit && self.running.is_none() && self.trim_now() {
                self.wait()?;
                continue;
            }
            let folding = matches!(self.running, Some(Running::Image { .. }));
            if self.shortage.image.is_some() && !folding {
                // The last image did not fit: until one does, the log must not grow.
                if !self.image_may_fit() {
                    return Err(disk_full(need, limit));
                }
            } else if need <= limit {
                return Ok(());
            } else if !folding
                && (self.since_image() == 0 || self.needed_after_fold(payload, grows) > limit)
            {
                return Err(disk_full(need, limit));
            }
            if !folding {
                if self.running.is_some() {
                    self.wait()?;
                }
                self.start_fold()?;
                if self.running.is_none() {
                    return Err(disk_full(need, limit));
                }
            }
            self.wait()?;
        }
    }

    fn image_now(&self) -> u64 {
        self.image.as_ref().map_or(0, |image| image.len)
    }

    /// Most bytes of the image that is being written.
    fn image_running(&self) -> u64 {
        match self.running {
            Some(Running::Image { estimate, .. }) => estimate,
            _ => 0,
        }
    }

    /// Bytes of everything but images.
    fn journals(&self) -> u64 {
        self.disk_held() - self.image_now()
    }

    /// The largest that the image before the last one may be, if `since` more bytes are logged.
    fn largest_image(&self, since: u64) -> u64 {
        let now = self.image_now().max(self.image_running());
        let then = estimate(self.index.image_bytes()).min(now.saturating_add(since));
        now.max(then)
    }

    /// Most bytes on disk at once from here to the end of the fold after the next.
    pub(crate) fn needed(&self, payload: usize, grows: bool) -> u64 {
        let spare = self.spare.as_ref().map_or(0, |spare| spare.size);
        let spare = match self.running {
            Some(Running::Prepare { size }) => size,
            _ => spare,
        };
        let image = self.largest_image(self.since_image() + frame_len(payload));
        let more = self.more(payload, spare, grows);
        self.sum(image, self.journals().saturating_add(more))
    }

    /// The same as it would be after a fold, from how well the last image compressed.
    fn needed_after_fold(&self, payload: usize, grows: bool) -> u64 {
        let live = self.shared.view.load().index.image_bytes();
        let image = match &self.image {
            Some(image) if self.image_live > 0 => {
                let len = u128::from(image.len) * u128::from(live) / u128::from(self.image_live);
                u64::try_from(len).unwrap_or(u64::MAX)
            }
            _ => estimate(live),
        };
        if self.seat.options.strategy == Strategy::Ledger {
            // Its log stays.
            let spare = self.spare.as_ref().map_or(0, |spare| spare.size);
            let more = self.more(payload, spare, grows);
            return self.sum(image, self.journals().saturating_add(more));
        }
        // Without a spare, the log goes on in the present journal.
        let present = match (&self.spare, &self.journal) {
            (Some(spare), _) => spare.size,
            (None, Some(journal)) => journal.size,
            (None, None) => 0,
        };
        let more = self.more(payload, 0, grows);
        self.sum(image, present.saturating_add(more))
    }

    /// Size of the journal that must be prepared.
    fn more(&self, payload: usize, spare: u64, grows: bool) -> u64 {
        let room = self.journal.as_ref().map_or(0, Journal::room);
        if spare > 0 && (frame_len(payload) <= room || size_for(payload) <= spare) {
            0
        } else if grows {
            self.next_size(payload)
        } else {
            smallest(payload)
        }
    }

    fn sum(&self, image: u64, journals: u64) -> u64 {
        image
            .saturating_add(estimate(self.index.image_bytes()))
            .saturating_add(journals)
            .saturating_add(self.journal_cap())
            .saturating_add(REOPEN)
    }

    /// True if the image that would be written now fits beside everything that is there.
    pub(crate) fn fold_fits(&mut self) -> bool {
        let live = self.shared.view.load().index.image_bytes();
        let held = self.disk_held();
        held.saturating_add(estimate(live)) <= self.disk_limit()
    }

    /// Sees to it that the present journal has room for a frame of `payload` bytes.
    fn make_room(&mut self, payload: usize, sets: bool) -> Result<()> {
        let need = frame_len(payload);
        let all: &[Claim] = if sets {
            &[Claim::Anyone]
        } else {
            &[Claim::Deletion, Claim::LastResort]
        };
        let mut claims = all.iter();
        let mut folded = false;
        loop {
            let Some(journal) = &self.journal else {
                return Err(Error::new(Code::Closed, "the store is closed"));
            };
            // Where no other journal can be had, the last quarter is for deletes.
            let kept = if sets && self.spare.is_none() && self.shortage.prepare.is_some() {
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
            } else if !folded && claims.len() == 1 && !sets {
                // Deletions must go on: an image frees what the journals take.
                folded = true;
                if self.since_image() > 0 {
                    self.start_fold()?;
                    if self.running.is_some() {
                        claims = all.iter();
                    }
                }
            } else if let Some(claim) = claims.next() {
                self.prepare(payload, *claim);
            } else if self.yield_reencryption(Code::DiskFull)? {
                claims = all.iter();
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
    pub(crate) fn prepare(&mut self, payload: usize, claim: Claim) {
        let now = self.seat.env.clock.monotonic();
        if let Some((at, by_file_system)) = self.shortage.prepare
            && now < at + RETRY
            && (by_file_system || claim == Claim::Anyone)
        {
            return;
        }
        let usual = self.next_size(payload);
        let (mut limit, mut left) = (self.disk_limit(), self.left_by(claim));
        let mut gone = Vec::new();
        // A smaller one is better than none, and deletions are small.
        let smallest = smallest(payload);
        if left.saturating_add(smallest) > limit && self.may_give_up() {
            gone = self.give_up_reencryption(Code::DiskFull);
            (limit, left) = (self.disk_limit(), self.left_by(claim));
        }
        let size = if claim == Claim::Anyone && left.saturating_add(usual) <= limit {
            usual
        } else {
            smallest
        };
        if left.saturating_add(size) > limit {
            self.shortage.prepare = Some((now, false));
            if !gone.is_empty() {
                self.running = Some(Running::Removal);
                self.background.start(removing(gone, Work::Nothing));
            }
            return;
        }
        let number = self.number;
        self.number += 1;
        gone.extend(self.make_way(size.saturating_add(REOPEN), limit));
        self.running = Some(Running::Prepare { size });
        let kind = self.seat.options.strategy.log();
        let work = Work::Prepare(Prepare::new(kind, number, size));
        self.background.start(removing(gone, work));
    }

    /// Bytes that a journal which is prepared must leave, and what is there.
    fn left_by(&self, claim: Claim) -> u64 {
        match claim {
            Claim::Anyone => self.sum(self.largest_image(self.since_image()), self.journals()),
            Claim::Deletion => self
                .disk_held()
                .saturating_add(estimate(self.index.image_bytes()))
                .saturating_add(REOPEN),
            Claim::LastResort => self
                .disk_held()
                .saturating_add(self.reencryption_image())
                .saturating_add(REOPEN),
        }
    }

    /// True if no journal can be had, but a fold would give some back.
    pub(crate) fn journals_press(&self) -> bool {
        self.spare.is_none()
            && self.shortage.prepare.is_some()
            && !self.older.is_empty()
            && self.seat.options.strategy == Strategy::Snapshot
    }

    /// Notes that the file system was full.
    pub(crate) fn note_shortage(&mut self, what: Running) {
        let now = self.seat.env.clock.monotonic();
        self.shortage.free = None;
        match what {
            Running::Prepare { .. } => self.shortage.prepare = Some((now, true)),
            Running::Image { estimate, .. } => self.shortage.image = Some((now, estimate)),
            Running::Removal | Running::Rewrap | Running::Reencrypt | Running::Settle => {}
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

/// Size of the smallest journal with room for a payload.
fn smallest(payload: usize) -> u64 {
    size_for(payload).max(64 << 10)
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
