//! Rotations of a key in a running store, of both modes: whatever a power loss leaves at any change of
//! the disk opens with the keyring of that moment, and the rotation goes on from there.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use parking_lot::Mutex;

use super::disk::{Files, Keep, Rng, SimDisk};
use super::keyring;
use super::reencrypt::logged;
use super::rewrap::both;
use super::scale::{on_all_cores, say, scale};
use super::sim::{Model, Sim, env};
use super::states::Undecided;
use super::syncs::SyncKind;
use super::workload::quick;
use crate::backup::{self, BackupOptions};
use crate::{Batch, Code, Encryption, Keyring, Options, Reencrypted, Result, Rewrapped, Strategy};

/// What the keyring holds, in the order of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The old key alone.
    Before,
    /// The new one too.
    Added,
    /// The new one is current.
    Promoted,
    /// The old one is gone.
    Retired,
}

impl Step {
    pub fn keyring(self) -> Keyring {
        match self {
            Step::Before => keyring("old", 1),
            Step::Added => both(["old", "new"]),
            Step::Promoted => both(["new", "old"]),
            Step::Retired => keyring("new", 2),
        }
    }

    /// Options with that keyring.
    pub fn of(self, options: &Options) -> Options {
        Options {
            encryption: Encryption::Keyring(self.keyring()),
            ..options.clone()
        }
    }
}

/// How files come under the new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Rewrap,
    Reencrypt,
}

/// Whoever waits for that.
enum Waiter {
    Rewrap(Receiver<Result<Rewrapped>>),
    Reencrypt(Receiver<Result<Reencrypted>>),
}

impl Mode {
    fn ask(self, sim: &Sim) -> Waiter {
        match self {
            Mode::Rewrap => {
                let (answer, waiter) = channel();
                sim.engine.shared.rewraps.lock().push(answer);
                Waiter::Rewrap(waiter)
            }
            Mode::Reencrypt => Waiter::Reencrypt(super::reencrypt::ask(sim)),
        }
    }
}

impl Waiter {
    /// True once it is done.
    fn done(&self) -> std::result::Result<bool, String> {
        let answer = match self {
            Waiter::Rewrap(waiter) => waiter.try_recv().map(|done| done.map(drop)),
            Waiter::Reencrypt(waiter) => waiter.try_recv().map(|done| done.map(drop)),
        };
        match answer {
            Ok(Ok(())) => Ok(true),
            Err(TryRecvError::Empty) => Ok(false),
            Ok(Err(error)) => Err(format!("rewriting: {error:?}")),
            Err(TryRecvError::Disconnected) => Err("nobody answers".to_owned()),
        }
    }
}

/// The disk just before a change of it.
struct Moment {
    files: Files,
    promise: Promise,
}

#[derive(Debug, Clone, Copy)]
struct Promise {
    /// The states that may be found: from this one, which was acknowledged, …
    must: usize,
    /// … to this one.
    may: usize,
    step: Step,
}

/// A rotation from its beginning to the store's end.
struct Rotation {
    options: Options,
    mode: Mode,
    states: Vec<Model>,
    moments: Vec<Moment>,
    disk: SimDisk,
}

/// A store under the old key alone: of several owners, one of them killed, with an image in the middle.
fn prepared(options: &Options) -> (SimDisk, Model) {
    let disk = SimDisk::default();
    let mut content = Model::new();
    for owner in 0..3_u8 {
        let mut sim = Sim::open(&disk, options.clone(), u64::from(owner)).unwrap();
        for n in 0..6_u8 {
            let (key, value) = (vec![b'k', n % 4], vec![owner ^ n; 1500]);
            content.insert(key.clone(), value.clone());
            sim.run(Batch::new().set(key, value)).unwrap();
        }
        if owner == 1 {
            fold(&mut sim);
        } else {
            sim.engine.close().unwrap();
        }
    }
    (disk.power_loss(Keep::Everything), content)
}

/// Folds, and waits for it.
fn fold(sim: &mut Sim) {
    let folds = sim.engine.gauges.folds;
    while sim.engine.gauges.folds == folds {
        sim.engine.start_fold().unwrap();
        sim.engine.wait().unwrap();
    }
}

struct Drive<'a> {
    sim: Sim,
    rng: Rng,
    states: &'a mut Vec<Model>,
    promise: Arc<Mutex<Promise>>,
}

impl Drive<'_> {
    fn write(&mut self) {
        let mut content = self.states.last().unwrap().clone();
        let key = vec![b'k', self.rng.below(8).to_le_bytes()[0]];
        let value = self
            .rng
            .next()
            .to_le_bytes()
            .repeat(1 + self.rng.below(150));
        content.insert(key.clone(), value.clone());
        self.states.push(content);
        let last = self.states.len() - 1;
        self.promise.lock().may = last;
        let batch = Batch::new().set(key, value);
        let answer = self.sim.group_only(vec![batch]).pop().unwrap();
        answer.unwrap();
        self.promise.lock().must = last;
        self.sim.clock.advance(20);
        self.sim.engine.tick();
    }

    /// Another keyring, if the store takes it.
    fn load(&mut self, step: Step) -> Result<()> {
        self.sim.engine.shared.reload_keyring(step.keyring())?;
        self.promise.lock().step = step;
        Ok(())
    }

    /// A backup of now.
    fn backup(&self) -> Backup {
        let mut bytes = Vec::new();
        let options = BackupOptions::default();
        backup::write(&self.sim.engine.shared, &options, &mut bytes).unwrap();
        Backup {
            bytes,
            content: self.states.last().unwrap().clone(),
        }
    }
}

struct Backup {
    bytes: Vec<u8>,
    content: Model,
}

impl Backup {
    /// Its one key is enough for it, and another is none.
    fn check(&self, options: &Options, key: Step, other: Step) {
        let restore = |key: Step| -> Result<Sim> {
            let disk = SimDisk::default();
            let options = key.of(options);
            backup::restore_all(&disk, &env(5), &self.bytes[..], None, &options)?;
            Sim::open(&disk, options, 6)
        };
        assert!(restore(key).unwrap().content() == self.content);
        assert!(restore(other).err().unwrap().is(Code::KeyMissing));
    }
}

fn options(strategy: Strategy) -> Options {
    let mut options = quick();
    options.max_disk = 4 << 20;
    options.strategy = strategy;
    options
}

/// Rotates while it writes, in an order drawn from a seed. With a kind of sync left out.
fn rotate(seed: u64, strategy: Strategy, mode: Mode, broken: Option<SyncKind>) -> Rotation {
    let options = options(strategy);
    let (base, content) = prepared(&Step::Before.of(&options));
    let disk = base.restart();
    if let Some(kind) = broken {
        disk.break_sync(kind);
    }
    let mut states = vec![content];
    let promise = Arc::new(Mutex::new(Promise {
        must: 0,
        may: 0,
        step: Step::Before,
    }));
    let mut drive = Drive {
        // Another seed than any other open's: it decides the ids of files.
        sim: Sim::open(&disk, Step::Before.of(&options), 1000 + seed).unwrap(),
        rng: Rng(seed),
        states: &mut states,
        promise: promise.clone(),
    };
    drive.write();
    let before = drive.backup();
    let moments: Arc<Mutex<Vec<Moment>>> = Arc::default();
    let (now, noted) = (promise.clone(), moments.clone());
    let note = move |files: &Files| {
        noted.lock().push(Moment {
            files: files.clone(),
            promise: *now.lock(),
        });
    };
    disk.watch(note.clone());
    for step in [Step::Added, Step::Promoted] {
        assert!(drive.load(Step::Retired).unwrap_err().is(Code::KeyMissing));
        drive.load(step).unwrap();
        for _ in 0..drive.rng.below(5) {
            drive.write();
        }
        // Under whichever key is current, or not at all.
        if mode == Mode::Rewrap && drive.rng.below(2) == 0 {
            drive.sim.engine.start_fold().unwrap();
        }
    }
    let waiter = mode.ask(&drive.sim);
    drive.write();
    let during = drive.backup();
    // The old key goes as soon as no file needs it, and not before.
    let mut done = false;
    for round in 0.. {
        done = done || waiter.done().unwrap();
        let retired = drive.load(Step::Retired);
        assert!(retired.is_ok() || !done, "done, and the old key is needed");
        if retired.is_ok() {
            break;
        }
        assert!(round < 500, "{retired:?}");
        drive.write();
    }
    let after = drive.backup();
    for _ in 0..2 {
        drive.write();
    }
    if seed % 8 < 4 {
        fold(&mut drive.sim);
        drive.write();
        drive.sim.engine.close().unwrap();
    }
    note(&disk.files());
    before.check(&options, Step::Before, Step::Retired);
    during.check(&options, Step::Retired, Step::Before);
    after.check(&options, Step::Retired, Step::Before);
    let moments = std::mem::take(&mut *moments.lock());
    Rotation {
        options,
        mode,
        states,
        moments,
        disk,
    }
}

impl Rotation {
    /// What an open finds was promised.
    fn look(&self, disk: &SimDisk, promise: Promise) -> std::result::Result<&Model, String> {
        let options = promise.step.of(&self.options);
        let sim = Sim::open(disk, options, 99).map_err(|e| format!("open: {e:?}"))?;
        let found = sim.content();
        let promised = &self.states[promise.must..=promise.may];
        let found = promised.iter().rfind(|state| **state == found);
        found.ok_or_else(|| "other content".to_owned())
    }

    /// The rotation goes on behind the power loss and comes to its end, and the old key is good for nothing then.
    fn go_on(&self, disk: &SimDisk, step: Step, found: &Model) -> std::result::Result<(), String> {
        let failed = |what: &'static str| move |e| format!("{what}: {e:?}");
        let options = step.of(&self.options);
        let mut sim = Sim::open(disk, options, 100).map_err(failed("again"))?;
        let shared = sim.engine.shared.clone();
        if self.options.strategy == Strategy::Ledger && logged(&sim)[0] != 1 {
            return Err("a part of the history is gone".to_owned());
        }
        if step < Step::Promoted {
            let promoted = shared.reload_keyring(Step::Promoted.keyring());
            promoted.map_err(failed("promote"))?;
        }
        let waiter = self.mode.ask(&sim);
        for round in 0.. {
            if waiter.done()? {
                break;
            }
            if round == 3000 {
                return Err("it does not end".to_owned());
            }
            sim.clock.advance(20);
            sim.engine.tick();
        }
        let retired = shared.reload_keyring(Step::Retired.keyring());
        retired.map_err(failed("retire"))?;
        let batch = Batch::new().set("after", "all");
        sim.run(batch).map_err(failed("write"))?;
        drop(sim);
        let disk = disk.power_loss(Keep::Nothing);
        match Sim::open(&disk, Step::Before.of(&self.options), 101) {
            Err(error) if error.is(Code::KeyMissing) => {}
            other => return Err(format!("with the old key: {:?}", other.map(drop))),
        }
        let sim = Sim::open(&disk, Step::Retired.of(&self.options), 102);
        let mut expected = found.clone();
        expected.insert(b"after".to_vec(), b"all".to_vec());
        if sim.map_err(failed("at last"))?.content() != expected {
            return Err("at last: other content".to_owned());
        }
        Ok(())
    }

    /// Every state that a power loss may leave at every `each`th moment, once for each promise. How many, and in
    /// how many the rotation went on to its end.
    fn explore(&self, each: usize, rng: &mut Rng) -> std::result::Result<[u64; 2], String> {
        let (mut met, mut states, mut finished) = (HashSet::new(), 0_u64, 0);
        for (at, Moment { files, promise }) in self.moments.iter().enumerate().step_by(each) {
            let undecided = Undecided::new(files);
            undecided
                .most(8, rng, |ways| {
                    let disk = self.disk.with_files(undecided.decide(ways));
                    if !met.insert((disk.hash(), promise.step, promise.must)) {
                        return Ok(());
                    }
                    states += 1;
                    let found = self.look(&disk, *promise)?;
                    if states.is_multiple_of(4) {
                        finished += 1;
                        self.go_on(&disk, promise.step, found)?;
                    }
                    Ok(())
                })
                .map_err(|what: String| {
                    let of = self.moments.len();
                    format!("change {at} of {of}, {promise:?}: {what}")
                })?;
        }
        Ok([states, finished])
    }
}

const BOTH: [Strategy; 2] = [Strategy::Snapshot, Strategy::Ledger];

/// Rotations of a mode, of stores of both strategies, until there were so many states.
fn explore(mode: Mode, wanted: u64) {
    let each = usize::try_from(scale(5, 1, 1)).unwrap();
    let [states, finished, steps] = [(); 3].map(|()| AtomicU64::new(0));
    on_all_cores(|seed| {
        let strategy = BOTH[usize::try_from(seed % 2).unwrap()];
        let rotation = rotate(seed, strategy, mode, None);
        let counted = rotation.explore(each, &mut Rng(seed ^ 0x707a));
        let counted = counted.unwrap_or_else(|what| panic!("{mode:?}, seed {seed}, {what}"));
        states.fetch_add(counted[0], Ordering::Relaxed);
        finished.fetch_add(counted[1], Ordering::Relaxed);
        let seen: HashSet<Step> = rotation.moments.iter().map(|m| m.promise.step).collect();
        steps.fetch_max(seen.len() as u64, Ordering::Relaxed);
        // Both strategies, on machines of one core too.
        states.load(Ordering::Relaxed) < wanted || seed < 1
    });
    assert_eq!(steps.into_inner(), 3, "added, promoted, retired");
    say(&format!(
        "crash states of rotations, {mode:?}: {}, of which finished from there: {}",
        states.into_inner(),
        finished.into_inner()
    ));
}

#[test]
fn no_power_loss_in_a_rotation_that_rewraps_needs_a_key_that_is_gone() {
    explore(Mode::Rewrap, scale(500, 10_000, 100_000));
}

#[test]
fn no_power_loss_in_a_rotation_that_encrypts_anew_needs_a_key_that_is_gone() {
    explore(Mode::Reencrypt, scale(500, 10_000, 100_000));
}

#[test]
fn a_key_slot_whose_sync_is_left_out_is_noticed() {
    for strategy in BOTH {
        let noticed = (0..4).any(|seed| {
            let rotation = rotate(seed, strategy, Mode::Rewrap, Some(SyncKind::KeySlot));
            assert!(rotation.disk.left_out() > 0);
            rotation.explore(1, &mut Rng(seed)).is_err()
        });
        assert!(noticed, "{strategy:?}");
    }
}
