//! A store on a simulated disk, stepped by one thread in an order drawn from a seed.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Rng, SimDisk};
use crate::commit::Waiting;
use crate::engine::{Engine, Job};
use crate::seat::Seat;
use crate::task::{Background, Done, Task};
use crate::time::tests::ManualClock;
use crate::{Env, Options, Program, Random, Result};

/// Keys and values.
pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

struct SeededRandom(Mutex<Rng>);

impl Random for SeededRandom {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        let mut rng = self.0.lock();
        for chunk in out.chunks_mut(8) {
            let bytes = rng.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}

/// A clock that stands and random bytes from a seed.
pub fn env(seed: u64) -> Env {
    Env {
        clock: ManualClock::at(1_700_000_000_000),
        random: Arc::new(SeededRandom(Mutex::new(Rng(seed)))),
    }
}

/// Runs a few steps of the task each time it is asked.
struct Stepped {
    seat: Arc<Seat>,
    task: Option<Task>,
    rng: Rng,
}

impl Background for Stepped {
    fn start(&mut self, task: Task) {
        assert!(self.task.is_none(), "one task at a time");
        self.task = Some(task);
    }

    fn poll(&mut self) -> Option<Result<Done>> {
        for _ in 0..self.rng.below(4) {
            match self.task.as_mut()?.step(&self.seat) {
                Ok(None) => {}
                Ok(Some(done)) => {
                    self.task = None;
                    return Some(Ok(done));
                }
                Err(error) => {
                    self.task = None;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    fn wait(&mut self) -> Result<Done> {
        self.task
            .take()
            .expect("a task to wait for")
            .run(&self.seat, || false)
    }

    fn stop(&mut self) {
        self.task = None;
    }
}

/// A stepped store.
pub struct Sim {
    pub engine: Engine,
    pub clock: Arc<ManualClock>,
}

impl Sim {
    pub fn open(disk: &SimDisk, options: Options, seed: u64) -> Result<Sim> {
        Sim::open_at(disk, options, seed, ManualClock::at(1_700_000_000_000))
    }

    pub fn open_at(
        disk: &SimDisk,
        options: Options,
        seed: u64,
        clock: Arc<ManualClock>,
    ) -> Result<Sim> {
        let random = Arc::new(SeededRandom(Mutex::new(Rng(seed))));
        Sim::open_with(disk, options, seed, clock, random)
    }

    pub fn open_with(
        disk: &SimDisk,
        options: Options,
        seed: u64,
        clock: Arc<ManualClock>,
        random: Arc<dyn Random>,
    ) -> Result<Sim> {
        let env = Env {
            clock: clock.clone(),
            random,
        };
        let disk: Arc<dyn crate::Disk> = Arc::new(disk.clone());
        let (engine, ()) = crate::open::open(disk, env, options, &mut |_, _| {}, |seat| {
            let background = Stepped {
                seat,
                task: None,
                rng: Rng(seed ^ 0x5eed),
            };
            Ok((Box::new(background) as Box<dyn Background>, ()))
        })?;
        Ok(Sim { engine, clock })
    }

    /// Runs programs as one group, and what is due behind it.
    pub fn group<P: Program>(&mut self, programs: Vec<P>) -> Vec<Result<P::Output>> {
        let answers = self.group_only(programs);
        self.engine.tick();
        answers
    }

    /// Runs programs as one group.
    pub fn group_only<P: Program>(&mut self, programs: Vec<P>) -> Vec<Result<P::Output>> {
        let answers: Arc<Mutex<BTreeMap<usize, Result<P::Output>>>> = Arc::default();
        let jobs: Vec<Box<dyn Job>> = programs
            .into_iter()
            .enumerate()
            .map(|(at, program)| {
                let answers = answers.clone();
                let job = Waiting::new(program, move |answer| {
                    answers.lock().insert(at, answer);
                });
                Box::new(job) as Box<dyn Job>
            })
            .collect();
        self.engine.execute(jobs);
        std::mem::take(&mut *answers.lock()).into_values().collect()
    }

    pub fn run<P: Program>(&mut self, program: P) -> Result<P::Output> {
        self.group(vec![program]).pop().expect("an answer")
    }

    /// What readers see.
    pub fn content(&self) -> Model {
        let now = self.engine.seat.time.now_ms();
        let view = self.engine.shared.view.load();
        view.index
            .from(std::ops::Bound::Unbounded)
            .filter(|entry| !entry.expired(now))
            .map(|entry| (entry.key().to_vec(), entry.value().to_vec()))
            .collect()
    }

    pub fn revision(&self) -> u64 {
        self.engine.shared.view.load().revision
    }
}
