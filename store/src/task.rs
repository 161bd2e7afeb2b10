//! Work beside the commits: preparing journals, writing images and removing files, in steps.

use crate::error::{Error, Result};
use crate::format::FileKind;
use crate::image::{Image, WriteImage};
use crate::journal::{Prepare, Spare};
use crate::layout::{self, Name, remove_if_there};
use crate::reencrypt::{Settle, Shadow};
use crate::rewrap::{NewKeys, RewrapFiles};
use crate::seat::Seat;

/// One piece of background work.
pub(crate) struct Task {
    /// What is removed first; the last one first of all.
    pub remove: Vec<String>,
    pub work: Work,
}

/// What is done when everything is removed.
pub(crate) enum Work {
    Prepare(Prepare),
    Image(Box<WriteImage>),
    Rewrap(RewrapFiles),
    /// A slice; taken out when it is done.
    Reencrypt(Option<Box<Shadow>>),
    Settle(Settle),
    Nothing,
}

/// What came of it.
pub(crate) enum Done {
    Spare(Spare),
    Image(Image),
    Rewrapped(NewKeys),
    Sliced(Box<Shadow>),
    Settled,
    Removed,
}

/// What the engine remembers of the task it started.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Running {
    /// A journal of this size.
    Prepare { size: u64 },
    /// An image of at most this size, of entries that take `live` bytes, after which the first
    /// `older` journals are the past and `covered` bytes of the present one are not needed.
    Image {
        estimate: u64,
        live: u64,
        older: usize,
        covered: u64,
    },
    /// Removals alone.
    Removal,
    /// Key slots.
    Rewrap,
    /// A slice of a re-encryption.
    Reencrypt,
    /// Its end.
    Settle,
}

impl Task {
    /// One step; something once it is done.
    pub fn step(&mut self, seat: &Seat) -> Result<Option<Done>> {
        if let Some(name) = self.remove.pop() {
            seat.check_epoch()?;
            remove_if_there(&*seat.disk, &name)?;
            // A ledger with a gap in it would not open: what a crash leaves has lost its oldest
            // segments, and no others. And a file's key must not go before the file.
            let segment = matches!(layout::parse(&name), Name::Log(FileKind::Ledger, _));
            if segment || self.remove.is_empty() {
                seat.disk
                    .sync_dir()
                    .map_err(|e| Error::io(format!("make the removal of {name} durable"), e))?;
            }
            return Ok(None);
        }
        Ok(match &mut self.work {
            Work::Prepare(task) => task.step(&*seat.disk)?.map(Done::Spare),
            Work::Image(task) => task.step(seat)?.map(Done::Image),
            Work::Rewrap(task) => task.step(seat)?.map(Done::Rewrapped),
            Work::Reencrypt(slot) => {
                let over = match slot {
                    Some(shadow) => shadow.step(seat)?,
                    None => return Err(Error::internal("a slice of nothing")),
                };
                let done = over.then(|| slot.take()).flatten();
                done.map(Done::Sliced)
            }
            Work::Settle(task) => task.step(seat)?.then_some(Done::Settled),
            Work::Nothing => Some(Done::Removed),
        })
    }

    /// All steps, unless it is stopped: a journal half prepared is then removed, since the next open
    /// would only read it in vain.
    pub fn run(&mut self, seat: &Seat, stopped: impl Fn() -> bool) -> Result<Done> {
        while !stopped() {
            if let Some(done) = self.step(seat)? {
                return Ok(done);
            }
        }
        if let Work::Prepare(task) = &mut self.work {
            task.give_up(&*seat.disk);
        }
        Err(Error::new(crate::Code::Closed, "the store is closing"))
    }
}

/// Who runs tasks: one at a time.
pub(crate) trait Background: Send {
    /// Begins a task.
    fn start(&mut self, task: Task);
    /// What came of the task, if it is done.
    fn poll(&mut self) -> Option<Result<Done>>;
    /// Waits until it is done.
    fn wait(&mut self) -> Result<Done>;
    /// Gives up what is running and takes nothing more.
    fn stop(&mut self);
}
