//! A workload that folds, reopens and is killed, with everything that it was promised.

use super::disk::{Rng, SimDisk};
use super::options;
use super::sim::{Model, Sim};
use crate::{Batch, Compression, Durability, Error, Options, Result};

/// Milliseconds between two groups.
const STEP: u64 = 20;

/// Groups between two opens.
const GROUPS: usize = 12;

/// What was acknowledged, and what may have happened besides.
pub struct Trace {
    /// The state after each acknowledged group; first the empty one.
    pub states: Vec<Model>,
    /// The states with what was under way and never answered with success: a group is one frame,
    /// except that with an interval it may be written in parts.
    pub unknown: Vec<Model>,
    /// With an interval: the states within groups, and the group before each.
    parts: Vec<(usize, Model)>,
    /// The error that ended the workload.
    pub error: Option<Error>,
    /// The store as it was at the end, if it was open.
    pub sim: Option<Sim>,
    /// Images written.
    pub folds: u64,
}

/// Options under which a few dozen writes fold.
pub fn small() -> Options {
    let mut options = options();
    options.max_disk = 1 << 20;
    options.compression = Compression::Snappy;
    options
}

/// The same without what takes time in a debug build and does not matter to the disk.
pub fn quick() -> Options {
    let mut options = Options::new(crate::Encryption::None);
    options.max_disk = 1 << 20;
    options.compression = Compression::None;
    options
}

/// A value of random length and content, quickly.
fn random_bytes(rng: &mut Rng) -> Vec<u8> {
    let pattern = rng.next().to_le_bytes();
    let mut value = pattern.repeat(1 + rng.below(850));
    value.truncate(value.len() - rng.below(8));
    value
}

/// One batch on a few keys.
fn random_batch(rng: &mut Rng, model: &mut Model) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..=rng.below(3) {
        let key = format!("key-{:02}", rng.below(20)).into_bytes();
        if rng.below(5) == 0 {
            model.remove(&key);
            batch = batch.delete(key);
        } else {
            let value = random_bytes(rng);
            model.insert(key.clone(), value.clone());
            batch = batch.set(key, value);
        }
    }
    batch
}

/// Runs the workload until its end or the first error.
pub fn run(disk: &SimDisk, options: &Options, seed: u64) -> Trace {
    let mut trace = Trace {
        states: vec![Model::new()],
        unknown: Vec::new(),
        parts: Vec::new(),
        error: None,
        sim: None,
        folds: 0,
    };
    let result = drive(disk, options, seed, &mut trace);
    trace.error = result.err();
    trace
}

fn drive(disk: &SimDisk, options: &Options, seed: u64, trace: &mut Trace) -> Result<()> {
    let mut rng = Rng(seed);
    let mut model = Model::new();
    // Closed, killed, and left open at the end.
    for round in 0..3 {
        let sim = Sim::open(disk, options.clone(), rng.next())?;
        let sim = trace.sim.insert(sim);
        let interval = matches!(options.durability, Durability::Interval(_));
        assert!(sim.content() == model, "an undisturbed open loses nothing");
        for _ in 0..GROUPS {
            let before = model.clone();
            let group: Vec<Batch> = (0..=rng.below(3))
                .map(|_| {
                    let batch = random_batch(&mut rng, &mut model);
                    trace.unknown.push(model.clone());
                    batch
                })
                .collect();
            let last = trace.states.len() - 1;
            if interval {
                let parts = trace.unknown.iter().map(|part| (last, part.clone()));
                trace.parts.extend(parts);
            } else {
                trace.unknown = vec![model.clone()];
            }
            let poisoned = sim.engine.shared.poison().is_some();
            sim.clock.advance(STEP);
            let answers = sim.group(group);
            trace.folds = trace.folds.max(sim.engine.gauges.folds);
            let failed = answers.into_iter().find_map(Result::err);
            if let Some(error) = failed {
                let found = sim.content();
                assert!(
                    found == before || (interval && trace.unknown.contains(&found)),
                    "reads go on, and show what is on disk"
                );
                return Err(error);
            }
            assert!(!poisoned, "a poisoned store acknowledges nothing");
            trace.states.push(model.clone());
            trace.unknown.clear();
        }
        match round {
            0 => trace.sim.take().expect("open").engine.close()?,
            1 => {
                if interval {
                    sim.clock.advance(1000);
                    sim.engine.tick();
                    if let Some(error) = sim.engine.shared.poison() {
                        return Err(error.clone());
                    }
                }
                drop(trace.sim.take());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Groups that may be lost: those of the last interval, and the one that was to end it.
fn may_lose(options: &Options) -> usize {
    match options.durability {
        Durability::Always => 0,
        Durability::Interval(every) => 1 + usize::try_from(every.as_millis()).unwrap() / 20,
    }
}

/// Opens what a fault left, and checks the oracle: everything acknowledged is there, the group
/// under way as a whole or not at all, and the store works on.
pub fn check(disk: &SimDisk, options: &Options, trace: &Trace) -> Result<(), String> {
    let sim = Sim::open(disk, options.clone(), 99).map_err(|e| format!("open: {e:?}"))?;
    let found = sim.content();
    if !trace.unknown.contains(&found) {
        let lost = match trace.states.iter().rposition(|state| *state == found) {
            Some(at) => trace.states.len() - 1 - at,
            None => match trace.parts.iter().rfind(|(_, part)| *part == found) {
                Some((before, _)) => trace.states.len() - 1 - before,
                None => return Err("a state that never was".to_owned()),
            },
        };
        if lost > may_lose(options) {
            return Err(format!("lost {lost} groups"));
        }
    }
    drop(sim);
    // What was found once stays, is written on, and survives the next power loss.
    let mut sim = Sim::open(disk, options.clone(), 100).map_err(|e| format!("again: {e:?}"))?;
    if sim.content() != found {
        return Err("a second open found something else".to_owned());
    }
    sim.run(Batch::new().set("after", "all"))
        .map_err(|e| format!("write: {e:?}"))?;
    sim.clock.advance(1000);
    sim.engine.tick();
    let mut expected = found;
    expected.insert(b"after".to_vec(), b"all".to_vec());
    let disk = disk.power_loss(super::disk::Keep::Nothing);
    let sim = Sim::open(&disk, options.clone(), 101).map_err(|e| format!("third: {e:?}"))?;
    if sim.content() != expected {
        return Err("a later power loss lost something".to_owned());
    }
    Ok(())
}
