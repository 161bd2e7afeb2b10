//! Workloads of many shapes, with everything that they were promised at each change of the disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::disk::{Files, Keep, Rng, SimDisk};
use super::sim::Sim;
use super::syncs::SyncKind;
use super::workload::quick;
use crate::log::{ChangeOp, LogCursor};
use crate::time::tests::ManualClock;
use crate::{
    Batch, Code, Compression, Durability, Encryption, KeySize, Options, SetOptions, Strategy,
};

/// Keys with values and the time when they expire.
pub type Content = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

/// Milliseconds between two groups.
const STEP: u64 = 20;

/// The wall clock at the beginning.
const BEGIN: u64 = 1_700_000_000_000;

/// What is promised at some moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Promise {
    /// The first state that may be found.
    pub must: usize,
    /// The last one.
    may: usize,
    wall: u64,
    opens: Opens,
    /// In which of [`History::firsts`] it is how far the log goes back.
    turn: usize,
}

/// With which options a store opens that is given another strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Opens {
    #[default]
    AsMade,
    Either,
    Converted,
}

/// The disk just before a change of it.
pub struct Moment {
    pub files: Files,
    pub promise: Promise,
}

/// A run of a workload.
pub struct History {
    pub options: Options,
    /// Those with the strategy that it is given behind the first close.
    converted: Option<Options>,
    /// The disk may run full.
    tight: bool,
    /// The first revision of the log when the store had done a turn of what is asked of it.
    firsts: Vec<u64>,
    /// In order. With durability `always` one for each group, for a group is one frame.
    pub states: Vec<Content>,
    pub moments: Vec<Moment>,
    /// For the room that it has.
    pub disk: SimDisk,
    pub folds: u64,
    /// Writes refused for lack of space.
    pub refused: u64,
    /// Revisions that retention took.
    pub forgotten: u64,
}

/// What sets workloads apart.
struct Shape {
    options: Options,
    groups: usize,
    /// Batches in a group, at most.
    batches: usize,
    /// Longest usual value, and one in how many is longer.
    value: usize,
    large: usize,
    /// One in how many sets expires.
    expire: usize,
    capacity: Option<usize>,
    converted: Option<Options>,
}

fn shape(seed: u64) -> Shape {
    let mut options = quick();
    // Every second one is encrypted; the frames' key has each of its sizes.
    if seed % 2 == 1 {
        options.encryption = Encryption::Keyring(super::keyring("sim", 9));
        options.key_size = KeySize::ALL[usize::try_from(seed / 2 % 3).unwrap()];
    }
    if seed % 5 == 2 {
        options.compression = Compression::ALL[usize::try_from(seed / 5 % 4).unwrap()];
    }
    if seed % 3 == 2 {
        options.durability = Durability::INTERVAL;
    }
    if seed % 4 == 1 || seed % 4 == 2 {
        options.strategy = Strategy::Ledger;
        options.max_disk = 2 << 20;
    }
    let full = seed % 7 == 4;
    let mut converted = None;
    match seed % 5 {
        1 if options.strategy == Strategy::Ledger => options.retention.revisions = Some(10),
        3 if !full => {
            options.max_disk = 2 << 20;
            let mut to = options.clone();
            to.strategy = match options.strategy {
                Strategy::Snapshot => Strategy::Ledger,
                Strategy::Ledger => Strategy::Snapshot,
            };
            converted = Some(to);
        }
        _ => {}
    }
    Shape {
        groups: if full { 60 } else { 20 },
        batches: if full { 1 } else { 3 },
        value: [300, 900, 1500, 2500][usize::try_from(seed / 3 % 4).unwrap()],
        large: if full { 2 } else { 7 },
        expire: if seed % 4 == 3 { 3 } else { usize::MAX },
        capacity: full.then_some(640 << 10),
        converted,
        options,
    }
}

/// Runs the workload of a seed. With a kind of sync left out.
pub fn run(seed: u64, broken: Option<SyncKind>) -> History {
    let shape = shape(seed);
    let disk = match shape.capacity {
        Some(capacity) => SimDisk::with_capacity(capacity),
        None => SimDisk::default(),
    };
    if let Some(kind) = broken {
        disk.break_sync(kind);
    }
    let promise: Arc<Mutex<Promise>> = Arc::default();
    let moments: Arc<Mutex<Vec<Moment>>> = Arc::default();
    let (now, noted) = (promise.clone(), moments.clone());
    disk.watch(move |files| {
        noted.lock().push(Moment {
            files: files.clone(),
            promise: *now.lock(),
        });
    });
    let mut history = History {
        options: shape.options.clone(),
        converted: shape.converted.clone(),
        tight: shape.capacity.is_some(),
        firsts: Vec::new(),
        states: vec![Content::new()],
        moments: Vec::new(),
        disk: disk.clone(),
        folds: 0,
        refused: 0,
        forgotten: 0,
    };
    promise.lock().wall = BEGIN;
    let mut drive = Drive {
        rng: Rng(seed),
        shape: &shape,
        history: &mut history,
        promise: &promise,
        acked: Vec::new(),
    };
    drive.run(&disk);
    moments.lock().push(Moment {
        files: disk.files(),
        promise: *promise.lock(),
    });
    history.moments = std::mem::take(&mut moments.lock());
    history
}

struct Drive<'a> {
    rng: Rng,
    shape: &'a Shape,
    history: &'a mut History,
    promise: &'a Mutex<Promise>,
    /// With an interval: when which state was acknowledged.
    acked: Vec<(u64, usize)>,
}

impl Drive<'_> {
    fn run(&mut self, disk: &SimDisk) {
        // Closed, killed, and left open at the end.
        for round in 0..3 {
            let mut sim = match &self.shape.converted {
                Some(converted) if round > 0 => {
                    if round == 1 {
                        self.convert(disk, converted);
                    }
                    self.open(disk, converted)
                }
                _ => self.open(disk, &self.shape.options),
            };
            let last = self.history.states.last().unwrap();
            assert!(shows(&sim, last), "an undisturbed open loses nothing");
            for _ in 0..self.shape.groups {
                self.group(&mut sim);
            }
            self.history.folds += sim.engine.gauges.folds;
            match round {
                0 => {
                    sim.engine.close().unwrap();
                    self.all_is_safe();
                }
                1 => {
                    self.advance(&sim, 1000);
                    sim.engine.tick();
                    self.all_is_safe();
                }
                _ => self.turn(&sim),
            }
        }
    }

    fn open(&mut self, disk: &SimDisk, options: &Options) -> Sim {
        let clock = ManualClock::at(self.promise.lock().wall);
        Sim::open_at(disk, options.clone(), self.rng.next(), clock).unwrap()
    }

    /// As [`crate::convert`] does it.
    fn convert(&mut self, disk: &SimDisk, converted: &Options) {
        self.promise.lock().opens = Opens::Either;
        let mut sim = self.open(disk, &converting(converted));
        self.promise.lock().opens = Opens::Converted;
        sim.engine.close().unwrap();
    }

    /// Nothing behind this removes what the log has now, until more is asked of it.
    fn turn(&mut self, sim: &Sim) {
        let log = sim.engine.shared.feed.durable().log;
        let first = log.first_revision();
        if self.shape.options.retention.revisions.is_some() {
            let before = self.history.firsts.last().copied().unwrap_or(1);
            self.history.forgotten += first.saturating_sub(before);
        }
        self.history.firsts.push(first);
        self.promise.lock().turn = self.history.firsts.len();
    }

    fn advance(&self, sim: &Sim, ms: u64) {
        sim.clock.advance(ms);
        self.promise.lock().wall += ms;
    }

    fn all_is_safe(&mut self) {
        let mut promise = self.promise.lock();
        promise.must = self.history.states.len() - 1;
        promise.may = promise.must;
    }

    fn group(&mut self, sim: &mut Sim) {
        self.advance(sim, STEP);
        let interval = matches!(self.shape.options.durability, Durability::Interval(_));
        let before = self.history.states.len() - 1;
        let mut content = self.history.states[before].clone();
        let count = 1 + self.rng.below(self.shape.batches);
        let mut batches = Vec::new();
        for _ in 0..count {
            batches.push(self.batch(sim, &mut content));
            if interval {
                self.history.states.push(content.clone());
            }
        }
        if !interval {
            self.history.states.push(content);
        }
        let last = self.history.states.len() - 1;
        self.promise.lock().may = last;
        let answers = sim.group_only(batches);
        for answer in answers {
            if let Err(error) = answer {
                assert!(self.shape.capacity.is_some() && count == 1, "{error:?}");
                assert!(error.is(Code::DiskFull), "{error:?}");
                // Then the state is the one before, also in what was seen meanwhile.
                self.history.states[last] = self.history.states[before].clone();
                self.history.refused += 1;
            }
        }
        if interval {
            let wall = self.promise.lock().wall;
            self.acked.push((wall, last));
            let safe = self
                .acked
                .iter()
                .rev()
                .find(|(at, _)| at + 100 + STEP < wall);
            if let Some((_, safe)) = safe {
                let mut promise = self.promise.lock();
                promise.must = promise.must.max(*safe);
            }
        } else {
            self.promise.lock().must = last;
        }
        sim.engine.tick();
        if self.shape.options.retention.revisions.is_some() && self.rng.below(4) == 0 {
            // What the image holds is what may go.
            sim.engine.start_fold().unwrap();
        }
        self.turn(sim);
    }

    fn batch(&mut self, sim: &Sim, content: &mut Content) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..=self.rng.below(2) {
            let key = format!("key-{:02}", self.rng.below(20)).into_bytes();
            if self.rng.below(5) == 0 {
                content.remove(&key);
                batch = batch.delete(key);
                continue;
            }
            let long = self.rng.below(self.shape.large) == 0;
            let limit = if long { 16_000 } else { self.shape.value };
            let pattern = self.rng.next().to_le_bytes();
            let mut value = pattern.repeat(1 + self.rng.below(limit) / 8);
            value.truncate(value.len() - self.rng.below(8));
            let ttl = (self.shape.expire < 100 && self.rng.below(self.shape.expire) == 0)
                .then(|| Duration::from_millis(50 + self.rng.next() % 1000));
            let expires = ttl
                .map(|ttl| sim.engine.seat.time.now_ms() + u64::try_from(ttl.as_millis()).unwrap());
            content.insert(key.clone(), (value.clone(), expires));
            let options = SetOptions {
                ttl,
                keep_ttl: false,
            };
            batch = batch.set_with(key, value, options);
        }
        batch
    }
}

/// Options that give a store their strategy.
fn converting(options: &Options) -> Options {
    let mut options = options.clone();
    options.convert = true;
    options
}

/// True if readers see that content.
pub fn shows(sim: &Sim, content: &Content) -> bool {
    let now = sim.engine.seat.time.now_ms();
    let view = sim.engine.shared.view.load();
    let found = view.index.from(std::ops::Bound::Unbounded);
    let found = found.filter(|entry| !entry.expired(now));
    let there = content.iter();
    let there = there.filter(|(_, (_, expires))| expires.is_none_or(|at| at > now));
    found
        .map(|entry| (entry.key(), entry.value()))
        .eq(there.map(|(key, (value, _))| (&key[..], &value[..])))
}

fn open(disk: &SimDisk, options: &Options, promise: Promise, seed: u64) -> crate::Result<Sim> {
    let clock = ManualClock::at(promise.wall);
    match Sim::open_at(disk, options.clone(), seed, clock.clone()) {
        Err(error) if error.is(Code::DiskFull) => {
            // Whoever runs out of space so far that nothing opens must get some.
            disk.set_capacity(4 << 20);
            Sim::open_at(disk, options.clone(), seed, clock)
        }
        sim => sim,
    }
}

impl History {
    /// Opens a disk as it may be found at a moment.
    pub fn open(&self, disk: &SimDisk, promise: Promise, seed: u64) -> crate::Result<Sim> {
        match (promise.opens, &self.converted) {
            (Opens::AsMade, _) | (_, None) => open(disk, &self.options, promise, seed),
            (Opens::Converted, Some(to)) => open(disk, to, promise, seed),
            (Opens::Either, Some(to)) => match open(disk, to, promise, seed) {
                Err(error) if error.is(Code::InvalidArgument) => {
                    open(disk, &self.options, promise, seed)
                }
                sim => sim,
            },
        }
    }

    /// The oracle: what was promised is there, nothing else ever was; a second open finds the
    /// same; the store works on, and what it then acknowledges survives the next power loss.
    pub fn check(&self, disk: &SimDisk, promise: Promise) -> Result<(), String> {
        let found = self.look(disk, promise)?;
        self.go_on(disk, promise, found)
    }

    /// The first part of the oracle: what one open finds.
    pub fn look(&self, disk: &SimDisk, promise: Promise) -> Result<&Content, String> {
        let sim = self
            .open(disk, promise, 99)
            .map_err(|e| format!("open: {e:?}"))?;
        self.states[promise.must..=promise.may]
            .iter()
            .rfind(|state| shows(&sim, state))
            .ok_or_else(|| {
                let ever = self.states.iter().any(|state| shows(&sim, state));
                let what = if ever {
                    "no longer, or not yet"
                } else {
                    "never"
                };
                format!("a state that was {what} there, at {promise:?}")
            })
    }

    /// The log goes back as far as it must, has no gap, and tells of each key in it what the store shows.
    fn logged(&self, sim: &Sim, promise: Promise) -> Result<(), String> {
        let durable = sim.engine.shared.feed.durable();
        let first = durable.log.first_revision();
        let kept = self.firsts[promise.turn.min(self.firsts.len() - 1)];
        // Where the disk runs full, an open may let go of more.
        if !self.tight && first > kept {
            return Err(format!("the log begins at {first}, not {kept}"));
        }
        let mut last = BTreeMap::new();
        if first <= durable.revision {
            let mut cursor = LogCursor::new(sim.engine.shared.clone(), first.max(1));
            let mut next = || cursor.next().map_err(|e| format!("the log: {e:?}"));
            while let Some(change) = next()? {
                for op in change.ops {
                    let value = match &op {
                        ChangeOp::Set(entry) => Some(entry.value().to_vec()),
                        _ => None,
                    };
                    last.insert(op.key().to_vec(), value);
                }
            }
        }
        let view = sim.engine.shared.view.load();
        let shown = |key: &[u8]| view.index.get(key).map(|entry| entry.value().to_vec());
        match last.iter().find(|(key, value)| shown(key) != **value) {
            Some((key, _)) => Err(format!("the log tells another {key:?}")),
            None => Ok(()),
        }
    }

    fn go_on(&self, disk: &SimDisk, promise: Promise, found: &Content) -> Result<(), String> {
        // What was found once stays, is written on, and survives the next power loss. A conversion that was cut
        // is made again.
        let mut promise = promise;
        let again = match &self.converted {
            Some(to) if promise.opens == Opens::Either => {
                promise.opens = Opens::Converted;
                open(disk, &converting(to), promise, 100)
            }
            _ => self.open(disk, promise, 100),
        };
        let mut sim = again.map_err(|e| format!("again: {e:?}"))?;
        if !shows(&sim, found) {
            return Err("a second open found something else".to_owned());
        }
        self.logged(&sim, promise)?;
        let mut expected = found.clone();
        match sim.run(Batch::new().set("after", "all")) {
            Ok(_) => {
                expected.insert(b"after".to_vec(), (b"all".to_vec(), None));
            }
            Err(error) if error.is(Code::DiskFull) => {}
            Err(error) => return Err(format!("write: {error:?}")),
        }
        sim.clock.advance(1000);
        sim.engine.tick();
        let promise = Promise {
            wall: promise.wall + 1000,
            ..promise
        };
        let sim = self
            .open(&disk.power_loss(Keep::Nothing), promise, 101)
            .map_err(|e| format!("third: {e:?}"))?;
        if shows(&sim, &expected) {
            Ok(())
        } else {
            Err("a later power loss lost something".to_owned())
        }
    }
}
