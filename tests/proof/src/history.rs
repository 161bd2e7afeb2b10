//! What a store must look like to threads that use it at the same time: one map that does one thing after another.
//!
//! [`Model`] is that map, for stateright's `LinearizabilityTester`, which looks for an order of all calls that the map could have
//! answered so, and in which no call stands before one that had returned when it began. What goes beyond its textbook case:
//!
//! - **A write without an answer** (a crash, `outcome-unknown`) has happened or not when the store is opened again, and not
//!   later: its answer is [`Ret::Unknown`], given right before that, and the model goes on with both maps until a read tells which.
//! - **Time** stands still but for calls that move it, between writes: a write's time is the moment that it was decided, and it
//!   is seen a sync later. Reads run across.
//! - **Revisions** rise in the order of the writes: the answers of the writes that changed something name their order, which
//!   also keeps the search short.
//! - **The search remembers** where it was: the same calls done with the same outcome are not looked at twice. Otherwise it
//!   would take for ever to find that there is no order.
//! - A value is written only once, so a compare-and-set by revision is one by the value that had it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use stateright::semantics::SequentialSpec;

/// A value, and for how long it lives, or until when.
pub type Timed = (u64, Option<u64>);

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Reads a key.
    Get(u8),
    /// Writes, all or nothing: if the key has this value (`None`: is absent), then these changes.
    Write {
        /// A key, and what it must hold.
        expect: Option<(u8, Option<u64>)>,
        /// Each key and its new value and milliseconds to live, or `None` for a deletion.
        changes: Vec<(u8, Option<Timed>)>,
    },
    /// Moves time by milliseconds.
    Wait(u64),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ret {
    /// A value, or none.
    Value(Option<u64>),
    /// What a write did. With its revision if it changed something, else 0.
    Done {
        /// Keys that were absent and are there.
        created: u64,
        /// Keys that were there and were set.
        updated: u64,
        /// Keys that were there and are not.
        deleted: u64,
        /// Its revision.
        revision: u64,
    },
    /// What was expected does not hold.
    Refused,
    /// Time was moved.
    Waited,
    /// The write happened or not.
    Unknown,
}

/// Each key's value and when that ends.
type Keys = BTreeMap<u8, Timed>;

/// Calls that were done, each a bit; then what is there, the time, and the place in the revisions.
type Place = (u128, BTreeSet<Keys>, u64, usize);

/// The map, or all that it may be.
#[derive(Debug, Clone)]
pub struct Model {
    done: u128,
    maybe: BTreeSet<Keys>,
    now: u64,
    /// Revisions of all writes that were answered and changed something, in order; the first of them that is to come.
    revisions: Arc<Vec<u64>>,
    next: usize,
    seen: Arc<Mutex<HashSet<Place>>>,
}

impl Model {
    /// Most calls of a history.
    pub const MOST: usize = 128;

    /// An empty map, and the revisions of the writes to come.
    pub fn new(mut revisions: Vec<u64>) -> Model {
        revisions.sort_unstable();
        Model {
            done: 0,
            maybe: BTreeSet::from([Keys::new()]),
            now: 0,
            revisions: Arc::new(revisions),
            next: 0,
            seen: Arc::default(),
        }
    }

    fn get(&self, keys: &Keys, key: u8) -> Option<u64> {
        let (value, end) = keys.get(&key)?;
        end.is_none_or(|end| end > self.now).then_some(*value)
    }

    /// What one map answers to a call, with revision 0, and what it is then.
    fn step(&self, mut keys: Keys, op: &Op) -> (Ret, Keys) {
        let (expect, changes) = match op {
            Op::Get(key) => return (Ret::Value(self.get(&keys, *key)), keys),
            Op::Wait(_) => return (Ret::Waited, keys),
            Op::Write { expect, changes } => (expect, changes),
        };
        if expect.is_some_and(|(key, value)| self.get(&keys, key) != value) {
            return (Ret::Refused, keys);
        }
        let (mut created, mut updated, mut deleted) = (0, 0, 0);
        for (key, change) in changes {
            let there = self.get(&keys, *key).is_some();
            if let Some((value, ttl)) = change {
                created += u64::from(!there);
                updated += u64::from(there);
                keys.insert(*key, (*value, ttl.map(|ttl| self.now + ttl)));
            } else {
                deleted += u64::from(there);
                keys.remove(key);
            }
        }
        (
            Ret::Done {
                created,
                updated,
                deleted,
                revision: 0,
            },
            keys,
        )
    }
}

impl SequentialSpec for Model {
    /// Each with a number of its own, below [`Model::MOST`].
    type Op = (usize, Op);
    type Ret = Ret;

    /// Never asked: every call has an answer.
    fn invoke(&mut self, _op: &(usize, Op)) -> Ret {
        Ret::Unknown
    }

    fn is_valid_step(&mut self, (number, op): &(usize, Op), ret: &Ret) -> bool {
        let mut expected = ret.clone();
        if let Ret::Done {
            created,
            updated,
            deleted,
            revision,
        } = &mut expected
        {
            if (*revision != 0) != (*created + *updated + *deleted > 0) {
                return false;
            }
            if *revision != 0 {
                if self.revisions.get(self.next) != Some(revision) {
                    return false;
                }
                self.next += 1;
                *revision = 0;
            }
        }
        if let Op::Wait(ms) = op {
            self.now += ms;
        }
        self.done |= 1 << number;
        let mut maybe = BTreeSet::new();
        for keys in std::mem::take(&mut self.maybe) {
            let (found, after) = self.step(keys.clone(), op);
            if expected == Ret::Unknown {
                maybe.insert(keys);
                maybe.insert(after);
            } else if found == expected {
                maybe.insert(after);
            }
        }
        self.maybe = maybe;
        let place = (self.done, self.maybe.clone(), self.now, self.next);
        !self.maybe.is_empty() && self.seen.lock().insert(place)
    }
}
