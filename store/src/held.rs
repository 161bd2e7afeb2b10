//! Points in time that are held beside the writers' work: what they cost, and when they end.
//!
//! A backup reads one view of the index for as long as whoever takes it needs. Meanwhile entries
//! that are replaced stay in memory. That memory is counted like any other, and given back without
//! the holder's help, which may be stuck in a write: the view stands in a slot from which it can be
//! taken, when its deadline is over, or when the memory budget is used up and a write needs it.
//! The application's writes go first; a backup can be taken again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Code, Error, Result};
use crate::index::View;

/// All points in time that are held.
#[derive(Default)]
pub(crate) struct Holds {
    slots: Mutex<Vec<Arc<Slot>>>,
    /// Memory of all entries that were replaced since the open.
    replaced: AtomicU64,
    /// Slots, so that a commit need not lock anything where there are none.
    count: AtomicU64,
}

/// One of them.
struct Slot {
    state: Mutex<State>,
    /// [`Holds::replaced`] when it began.
    since: u64,
    /// Memory of all entries in its view: it can hold no more.
    most: u64,
    /// By the monotonic clock.
    deadline: Duration,
}

enum State {
    Held(Arc<View>),
    Taken(Code),
}

/// A point in time that is held until this is dropped, or it is taken away.
pub(crate) struct Held {
    holds: Arc<Holds>,
    slot: Arc<Slot>,
}

impl Holds {
    /// Holds a view until `deadline`.
    pub fn hold(self: &Arc<Holds>, view: Arc<View>, deadline: Duration) -> Held {
        let mut slots = self.slots.lock();
        let slot = Arc::new(Slot {
            since: self.replaced.load(Ordering::Relaxed),
            most: view.index.memory(),
            state: Mutex::new(State::Held(view)),
            deadline,
        });
        slots.push(slot.clone());
        self.count.store(slots.len() as u64, Ordering::Relaxed);
        Held {
            holds: self.clone(),
            slot,
        }
    }

    /// Counts memory of entries that were replaced.
    pub fn replaced(&self, bytes: u64) {
        self.replaced.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Most bytes that are in memory only because they are held.
    pub fn bytes(&self) -> u64 {
        if self.count.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let now = self.replaced.load(Ordering::Relaxed);
        let slots = self.slots.lock();
        let since = |slot: &Arc<Slot>| now.saturating_sub(slot.since);
        // What the oldest holds, the younger hold too, if they hold it at all.
        let oldest = slots.iter().map(since).max().unwrap_or(0);
        let each = slots.iter().map(|slot| since(slot).min(slot.most));
        each.fold(0, u64::saturating_add).min(oldest)
    }

    /// Takes away what is held for longer than it may be.
    pub fn expire(&self, now: Duration) {
        self.take(Code::Deadline, |slot| slot.deadline <= now);
    }

    /// Takes away everything, for the sake of a write.
    pub fn give_up(&self) {
        self.take(Code::MemoryFull, |_| true);
    }

    fn take(&self, why: Code, wanted: impl Fn(&Slot) -> bool) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut slots = self.slots.lock();
        slots.retain(|slot| {
            let wanted = wanted(slot);
            if wanted {
                *slot.state.lock() = State::Taken(why);
            }
            !wanted
        });
        self.count.store(slots.len() as u64, Ordering::Relaxed);
    }
}

impl Held {
    /// What is held, for a short while; an error once it was taken away or its deadline is over.
    pub fn view(&self, now: Duration) -> Result<Arc<View>> {
        let mut state = self.slot.state.lock();
        if self.slot.deadline <= now {
            *state = State::Taken(Code::Deadline);
        }
        match &*state {
            State::Held(view) => Ok(view.clone()),
            State::Taken(Code::Deadline) => Err(Error::new(
                Code::Deadline,
                "the point in time was held for as long as it may be; nothing was kept",
            )),
            State::Taken(_) => Err(Error::new(
                Code::MemoryFull,
                "the point in time was given up: a write needed the memory that it held",
            )),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut slots = self.holds.slots.lock();
        slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        self.holds
            .count
            .store(slots.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use crate::format::record::EntryRef;

    const HOUR: Duration = Duration::from_hours(1);

    fn view(bytes: usize) -> Arc<View> {
        let mut view = View::default();
        let fields = EntryRef {
            key: b"k",
            value: &vec![0; bytes],
            created: 1,
            modified: 1,
            version: 1,
            expires_at: None,
        };
        view.index.insert(&Entry::pack(&fields, &mut Vec::new()));
        Arc::new(view)
    }

    #[test]
    fn what_is_held_is_what_was_replaced_since_and_never_more_than_there_was() {
        let holds = Arc::new(Holds::default());
        holds.replaced(500);
        assert_eq!(holds.bytes(), 0, "nobody holds anything");
        let first = holds.hold(view(1000), HOUR);
        holds.replaced(300);
        let second = holds.hold(view(1000), HOUR);
        holds.replaced(100);
        assert_eq!(holds.bytes(), 400, "both hold the last hundred");
        holds.replaced(1 << 40);
        let most = view(1000).index.memory();
        assert_eq!(holds.bytes(), 2 * most);
        drop(first);
        assert_eq!(holds.bytes(), most);
        drop(second);
        assert_eq!(holds.bytes(), 0);
    }

    #[test]
    fn what_is_taken_away_is_freed_though_its_holder_sleeps() {
        let holds = Arc::new(Holds::default());
        let (short, long) = (view(10), view(10));
        let (seen_short, seen_long) = (Arc::downgrade(&short), Arc::downgrade(&long));
        let short = holds.hold(short, Duration::from_secs(1));
        let long = holds.hold(long, HOUR);
        holds.expire(Duration::from_millis(999));
        assert!(short.view(Duration::ZERO).is_ok());
        holds.expire(Duration::from_secs(1));
        assert!(seen_short.upgrade().is_none());
        assert!(
            short
                .view(Duration::ZERO)
                .is_err_and(|e| e.is(Code::Deadline))
        );
        assert!(long.view(Duration::ZERO).is_ok());
        holds.give_up();
        assert!(seen_long.upgrade().is_none());
        assert!(
            long.view(Duration::ZERO)
                .is_err_and(|e| e.is(Code::MemoryFull))
        );
        assert_eq!(holds.bytes(), 0);
    }

    #[test]
    fn a_holder_notices_its_deadline_by_itself() {
        let holds = Arc::new(Holds::default());
        let held = holds.hold(view(10), Duration::from_secs(5));
        assert!(held.view(Duration::from_secs(4)).is_ok());
        assert!(
            held.view(Duration::from_secs(5))
                .is_err_and(|e| e.is(Code::Deadline))
        );
        assert!(
            held.view(Duration::ZERO)
                .is_err_and(|e| e.is(Code::Deadline))
        );
    }
}
