//! Where callers wait for their answers: a whole group of them is woken with one call to the system.
//!
//! A call for each took the committer as long as the disk's sync with 32 writers; with one for all of them, it commits a sixth more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rustix::thread::futex::{Flags, wait, wake};

use crate::error::Result;

/// As many as the system takes.
const ALL: u32 = u32::MAX >> 1;

/// A place to wait at until an answer is there.
#[derive(Default)]
pub(crate) struct Gate {
    /// How often it was opened.
    opened: AtomicU32,
}

/// The place of an answer.
pub(crate) type Slot<T> = Arc<Mutex<Option<Result<T>>>>;

impl Gate {
    /// Waits until there is an answer. Whoever puts it there opens the gate afterwards.
    pub fn wait<T>(&self, slot: &Slot<T>) -> Result<T> {
        loop {
            // Before the look at the slot: an opening between the look and the wait ends the wait.
            let opened = self.opened.load(Ordering::Acquire);
            if let Some(answer) = slot.lock().take() {
                return answer;
            }
            // Woken, interrupted, or too late to sleep: each is answered by another look.
            let _why = wait(&self.opened, Flags::PRIVATE, opened, None);
        }
    }

    /// Wakes all who wait here, to look for their answers.
    pub fn open(&self) {
        self.opened.fetch_add(1, Ordering::Release);
        // It fails only for an address that is not mapped.
        let _woken = wake(&self.opened, Flags::PRIVATE, ALL);
    }
}
