//! Threads on a store that crashes, and what they saw.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use codexstore::{
    Batch, Clock, Code, Encryption, Env, Expect, Key, KeyId, Keyring, Options, OsRandom,
    SetOptions, Store, Strategy,
};
use codexstore_proof::disk::CrashDisk;
use codexstore_proof::history::{Model, Op, Ret};
use parking_lot::{Mutex, RwLock};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

const KEYS: u8 = 3;
const LIVES: u32 = 4;
const THREADS: usize = 4;
const CALLS: usize = 6;

/// How a history is made.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The disk's syncs do nothing.
    pub lies: bool,
}

/// What happened, in this order. Each thread of each life has a number.
#[derive(Debug, Clone)]
pub enum Events {
    Invoke(usize, Op),
    Return(usize, Ret),
    /// The call was refused before it could do anything.
    Void(usize),
}

pub struct Recorded {
    pub events: Vec<Events>,
    /// False if the store could not be opened again.
    pub opens: bool,
}

impl Recorded {
    pub fn calls(&self) -> u64 {
        self.events
            .iter()
            .filter(|event| matches!(event, Events::Invoke(..)))
            .count() as u64
    }

    pub fn unanswered(&self) -> u64 {
        let unknown = |event: &&Events| matches!(event, Events::Return(_, Ret::Unknown));
        self.events.iter().filter(unknown).count() as u64
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events
            .iter()
            .try_for_each(|event| write!(f, "\n  {event:?}"))
    }
}

/// Time that stands until it is moved, and takes a while to be read: so that a reader is overtaken between two looks.
#[derive(Default)]
struct SlowClock(AtomicU64);

impl Clock for SlowClock {
    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst) + 1_000_000
    }

    fn monotonic(&self) -> Duration {
        if fastrand::u32(..40) == 0 {
            std::thread::sleep(Duration::from_micros(fastrand::u64(..600)));
        }
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Runs some lives of a store; what its threads saw.
pub fn record(seed: u64, plan: &Plan) -> Recorded {
    let mut random = fastrand::Rng::with_seed(seed);
    let clock = Arc::new(SlowClock::default());
    let mut disk = CrashDisk::new(plan.lies);
    let events = Mutex::new(Vec::new());
    let strategy = if random.bool() {
        Strategy::Snapshot
    } else {
        Strategy::Ledger
    };
    let values = AtomicU64::new(100);
    for life in 0..LIVES {
        let keyring = Keyring::single(KeyId::new("k").unwrap(), Key::new(&[3; 32]).unwrap());
        let mut options = Options::new(Encryption::Keyring(keyring));
        options.strategy = strategy;
        let env = Env {
            clock: clock.clone(),
            random: Arc::new(OsRandom),
        };
        let Ok(store) = Store::open_on(Arc::new(disk.clone()), env, options) else {
            return Recorded {
                events: events.into_inner(),
                opens: false,
            };
        };
        let last = life + 1 == LIVES;
        let crash = Duration::from_micros(random.u64(200..2500));
        let quiet = RwLock::new(AtomicBool::new(true));
        std::thread::scope(|scope| {
            // The last life reads all that there is, alone.
            for thread in 0..if last { 1 } else { THREADS } {
                let caller = Caller {
                    store: &store,
                    events: &events,
                    clock: &clock,
                    quiet: &quiet,
                    values: &values,
                    thread: life as usize * THREADS + thread,
                };
                let mut random = random.fork();
                scope.spawn(move || {
                    if last {
                        (0..KEYS).all(|key| caller.call(&Op::Get(key)));
                    } else {
                        caller.calls(&mut random);
                    }
                });
            }
            if !last {
                std::thread::sleep(crash);
                disk.crash();
            }
        });
        if !last {
            unanswered(&mut events.lock());
            drop(store);
            disk = disk.after(&mut random);
        }
    }
    Recorded {
        events: events.into_inner(),
        opens: true,
    }
}

/// One thread of one life.
struct Caller<'a> {
    store: &'a Store,
    events: &'a Mutex<Vec<Events>>,
    clock: &'a SlowClock,
    /// Held by each write, and alone by whoever moves time; false once a write is left without an answer.
    quiet: &'a RwLock<AtomicBool>,
    values: &'a AtomicU64,
    thread: usize,
}

impl Caller<'_> {
    fn calls(&self, random: &mut fastrand::Rng) {
        // What this thread read last, by key: what a compare-and-set expects.
        let mut seen = BTreeMap::new();
        for _ in 0..CALLS {
            let key = random.u8(..KEYS);
            let value = |ttl| Some((self.values.fetch_add(1, Ordering::Relaxed), ttl));
            let (mut expect, mut changes) = (None, Vec::new());
            match random.u32(..100) {
                0..40 => {
                    if !self.call(&Op::Get(key)) {
                        return;
                    }
                    seen.insert(key, self.last_value());
                    continue;
                }
                40..50 => {
                    if !self.call(&Op::Wait(random.u64(1..20))) {
                        return;
                    }
                    continue;
                }
                50..65 => changes.push((key, value(None))),
                65..75 => changes.push((key, value(Some(random.u64(1..30))))),
                75..83 => changes.push((key, None)),
                83..92 => {
                    expect = Some((key, seen.get(&key).copied().flatten()));
                    changes.push((key, value(None)));
                }
                _ => {
                    changes.push((key, value(None)));
                    let other = (key + 1) % KEYS;
                    changes.push((other, if random.bool() { value(None) } else { None }));
                }
            }
            if !self.call(&Op::Write { expect, changes }) {
                return;
            }
        }
    }

    fn last_value(&self) -> Option<u64> {
        let events = self.events.lock();
        let mine = events.iter().rev().find_map(|event| match event {
            Events::Return(thread, Ret::Value(value)) if *thread == self.thread => Some(*value),
            _ => None,
        });
        mine.flatten()
    }

    /// Makes a call and records it. False if the store is gone.
    fn call(&self, op: &Op) -> bool {
        // Time moves between writes: see `history`.
        let (shared, alone) = match op {
            Op::Write { .. } => (Some(self.quiet.read()), None),
            Op::Wait(_) => (None, Some(self.quiet.write())),
            Op::Get(_) => (None, None),
        };
        if alone
            .as_ref()
            .is_some_and(|decided| !decided.load(Ordering::SeqCst))
        {
            return false;
        }
        self.events
            .lock()
            .push(Events::Invoke(self.thread, op.clone()));
        let answer = self.answer(op);
        let mut events = self.events.lock();
        match answer {
            Ok(Some(ret)) => events.push(Events::Return(self.thread, ret)),
            Ok(None) => events.push(Events::Void(self.thread)),
            // Decided by the crash: a read may not yet show it.
            Err(()) => {
                if let Some(decided) = shared {
                    decided.store(false, Ordering::SeqCst);
                }
                return false;
            }
        }
        matches!(events.last(), Some(Events::Return(..)))
    }

    /// The answer; `None` if nothing was done, an error if that is unknown.
    fn answer(&self, op: &Op) -> Result<Option<Ret>, ()> {
        let key = |key: u8| vec![b'k', key];
        match op {
            Op::Get(k) => {
                let entry = self.store.get(&key(*k)).unwrap();
                let value =
                    entry.map(|entry| std::str::from_utf8(entry.value()).unwrap().parse().unwrap());
                Ok(Some(Ret::Value(value)))
            }
            Op::Wait(ms) => {
                self.clock.0.fetch_add(*ms, Ordering::SeqCst);
                Ok(Some(Ret::Waited))
            }
            Op::Write { expect, changes } => {
                let mut batch = Batch::new();
                if let Some((k, expected)) = expect {
                    // By the revision that the expected value has, if it is there at all.
                    let entry = self.store.get(&key(*k)).unwrap();
                    let found = entry
                        .as_ref()
                        .and_then(|e| std::str::from_utf8(e.value()).unwrap().parse().ok());
                    let expect = match (expected, &entry) {
                        (None, _) => Expect::Absent,
                        (Some(_), Some(entry)) if found == *expected => {
                            Expect::Revision(entry.modified())
                        }
                        // It has been overwritten: no revision can hold any more.
                        (Some(_), _) => Expect::Revision(u64::MAX),
                    };
                    batch = batch.expect(key(*k), expect);
                }
                for (k, change) in changes {
                    batch = match change {
                        Some((value, ttl)) => {
                            let ttl = ttl.map(Duration::from_millis);
                            let options = SetOptions {
                                ttl,
                                ..SetOptions::default()
                            };
                            batch.set_with(key(*k), value.to_string(), options)
                        }
                        None => batch.delete(key(*k)),
                    };
                }
                match self.store.commit(batch) {
                    Ok(done) => {
                        let changed = done.created + done.updated + done.deleted > 0;
                        Ok(Some(Ret::Done {
                            created: done.created,
                            updated: done.updated,
                            deleted: done.deleted,
                            revision: if changed { done.revision } else { 0 },
                        }))
                    }
                    Err(error) => match error.as_code() {
                        Code::PreconditionFailed => Ok(Some(Ret::Refused)),
                        Code::Poisoned | Code::Closed => Ok(None),
                        Code::OutcomeUnknown => Err(()),
                        _ => panic!("{error:?}"),
                    },
                }
            }
        }
    }
}

/// What happened up to the first event that no order explains.
pub fn unexplained(history: &Recorded) -> Option<Recorded> {
    let opens = history.opens;
    (1..=history.events.len())
        .map(|end| {
            let mut events = history.events[..end].to_vec();
            unanswered(&mut events);
            Recorded { events, opens }
        })
        .find(|part| !is_explained(part))
}

/// Ends each call that has no answer.
fn unanswered(events: &mut Vec<Events>) {
    let mut open = std::collections::BTreeSet::new();
    for event in events.iter() {
        match event {
            Events::Invoke(thread, _) => open.insert(*thread),
            Events::Return(thread, _) | Events::Void(thread) => open.remove(thread),
        };
    }
    events.extend(
        open.into_iter()
            .map(|thread| Events::Return(thread, Ret::Unknown)),
    );
}

/// True if some order of the calls explains every answer.
pub fn is_explained(history: &Recorded) -> bool {
    let revisions = history.events.iter().filter_map(|event| match event {
        Events::Return(_, Ret::Done { revision, .. }) if *revision > 0 => Some(*revision),
        _ => None,
    });
    let mut tester = LinearizabilityTester::new(Model::new(revisions.collect()));
    let mut number = 0;
    assert!(history.calls() <= Model::MOST as u64);
    for (at, event) in history.events.iter().enumerate() {
        match event {
            Events::Invoke(thread, op) => {
                let end = history.events[at + 1..].iter().find(|event| {
                    matches!(event, Events::Return(of, _) | Events::Void(of) if of == thread)
                });
                if !matches!(end, Some(Events::Void(_))) {
                    tester.on_invoke(*thread, (number, op.clone())).unwrap();
                    number += 1;
                }
            }
            Events::Return(thread, ret) => {
                tester.on_return(*thread, ret.clone()).unwrap();
            }
            Events::Void(_) => {}
        }
    }
    tester.is_consistent()
}
