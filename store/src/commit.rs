//! Who drives the engine: the committer's thread, or a caller that finds it idle.
//!
//! Callers put programs into a bounded queue. The committer takes all that is waiting, executes it
//! as a group, and answers; while the disk syncs, the next group gathers.
//!
//! A caller that finds neither a program waiting nor the engine in use may lead: it executes its
//! programs itself, as a group, and pays for no hand-over to another thread and back. It does so if
//! it waits for its answer anyway, or if the disk will hold it up for no longer than the hand-over
//! would. Whoever comes meanwhile queues up and wakes the committer, which goes on as soon as the
//! leader lets go. So the order is that of the queue, and a leader never passes anyone.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, MappedMutexGuard, Mutex, MutexGuard};

use crate::engine::{Engine, Job};
use crate::env::Clock;
use crate::error::{Code, Error, Result};
use crate::gate::Gate;
use crate::options::Durability;
use crate::shared::Shared;
use crate::txn::{Program, Txn};

/// Most bytes that programs in the queue may hold.
const MAX_QUEUED_BYTES: usize = 128 << 20;

/// What a batch takes in the log beside what its program holds, at most for one with few keys.
const PARCEL: usize = 256;

/// A program that waits, its answer, and who gets it.
pub(crate) struct Waiting<P: Program, F: FnOnce(Result<P::Output>)> {
    program: Option<P>,
    answer: Option<Result<P::Output>>,
    done: Option<F>,
}

impl<P, F> Waiting<P, F>
where
    P: Program,
    F: FnOnce(Result<P::Output>) + Send + 'static,
{
    pub fn new(program: P, done: F) -> Waiting<P, F> {
        Waiting {
            program: Some(program),
            answer: None,
            done: Some(done),
        }
    }
}

impl Parcel {
    /// A program, and who gets its answer.
    pub fn new<P, F>(program: P, done: F) -> Parcel
    where
        P: Program,
        F: FnOnce(Result<P::Output>) + Send + 'static,
    {
        Parcel {
            bytes: program.size_hint(),
            brief: program.is_brief(),
            job: Box::new(Waiting::new(program, done)),
        }
    }
}

impl<P, F> Job for Waiting<P, F>
where
    P: Program,
    F: FnOnce(Result<P::Output>) + Send + 'static,
{
    fn run(&mut self, txn: &mut Txn<'_>) -> bool {
        let Some(program) = self.program.take() else {
            return false;
        };
        let answer = program.run(txn);
        let good = answer.is_ok();
        self.answer = Some(answer);
        good
    }

    fn refuse(&mut self, error: Error) {
        self.answer = Some(Err(error));
    }

    fn answer(self: Box<Self>) {
        // Given when it is dropped, which happens on every path.
    }
}

impl<P: Program, F: FnOnce(Result<P::Output>)> Drop for Waiting<P, F> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            let lost = || {
                Err(Error::new(
                    Code::OutcomeUnknown,
                    "the committer has stopped",
                ))
            };
            done(self.answer.take().unwrap_or_else(lost));
        }
    }
}

/// A job, about how many bytes it holds, and whether it is over soon.
pub(crate) struct Parcel {
    pub job: Box<dyn Job>,
    pub bytes: usize,
    pub brief: bool,
}

/// What waits for the committer.
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    /// Wakes the committer.
    wake: Condvar,
    /// Where callers wait: those of one group at the one, those of the next at the other.
    gates: [Gate; 2],
    max: usize,
    clock: Arc<dyn Clock>,
}

struct QueueState {
    jobs: VecDeque<Box<dyn Job>>,
    bytes: usize,
    /// The committer sleeps.
    idle: bool,
    /// The background has something to say.
    news: bool,
    /// When the engine has something to do without being asked.
    due: Option<Duration>,
    closing: bool,
    /// Groups taken.
    taken: usize,
}

/// Where what is due behind a group is done; it may sync.
#[derive(Debug, Clone, Copy)]
enum Tick {
    /// With the group, which synced too, or whose caller waits anyway.
    Here,
    /// By the committer, when the interval is over.
    Later,
}

/// The engine, for whoever drives it now. Gone once closed.
type Seated = Mutex<Option<Engine>>;

impl Queue {
    /// An empty queue of at most `max` programs.
    pub fn new(max: usize, clock: Arc<dyn Clock>) -> Queue {
        Queue {
            state: Mutex::new(QueueState {
                jobs: VecDeque::new(),
                bytes: 0,
                idle: false,
                news: false,
                due: None,
                closing: false,
                taken: 0,
            }),
            wake: Condvar::new(),
            gates: Default::default(),
            max,
            clock,
        }
    }

    /// Puts jobs in, all of them before the committer looks, or refuses them. The gate that opens
    /// when they are answered.
    fn enqueue(
        &self,
        mut state: MutexGuard<'_, QueueState>,
        jobs: impl IntoIterator<Item = Parcel>,
    ) -> &Gate {
        let gate = self.gate(state.taken);
        let mut refused = Vec::new();
        for Parcel { mut job, bytes, .. } in jobs {
            if let Some(error) = self.refusal(&state, bytes) {
                job.refuse(error);
                refused.push(job);
            } else {
                state.jobs.push_back(job);
                state.bytes += bytes;
            }
        }
        let wake = !state.jobs.is_empty() && std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        for job in refused {
            job.answer();
        }
        gate
    }

    fn refusal(&self, state: &QueueState, bytes: usize) -> Option<Error> {
        if state.closing {
            return Some(Error::new(Code::Closed, "the store is closed"));
        }
        let full = state.jobs.len() >= self.max
            || (state.bytes + bytes > MAX_QUEUED_BYTES && !state.jobs.is_empty());
        full.then(|| {
            let waiting = state.jobs.len();
            Error::new(
                Code::Overloaded,
                format!("{waiting} writes are waiting for the disk"),
            )
        })
    }

    fn gate(&self, group: usize) -> &Gate {
        let [even, odd] = &self.gates;
        if group.is_multiple_of(2) { even } else { odd }
    }

    /// Programs waiting.
    pub fn len(&self) -> usize {
        self.state.lock().jobs.len()
    }

    /// Says that the background has something to say.
    pub fn news(&self) {
        self.state.lock().news = true;
        self.wake.notify_one();
    }

    /// Notes when the engine is due; a committer that would sleep longer than that looks again.
    fn set_due(&self, due: Option<Duration>) {
        let mut state = self.state.lock();
        let sooner = due.is_some_and(|due| state.due.is_none_or(|before| due < before));
        state.due = due;
        let wake = sooner && state.idle;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Waits until there is something to do. False when the store is closing and nothing is left.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if !state.jobs.is_empty() || std::mem::take(&mut state.news) {
                return true;
            }
            if state.closing {
                return false;
            }
            let patience = match state.due {
                Some(due) => match due.checked_sub(self.clock.monotonic()) {
                    Some(patience) if !patience.is_zero() => Some(patience),
                    _ => return true,
                },
                None => None,
            };
            state.idle = true;
            if let Some(patience) = patience {
                self.wake.wait_for(&mut state, patience);
            } else {
                self.wake.wait(&mut state);
            }
            state.idle = false;
        }
    }

    /// Takes all that is waiting; the gate to open when it is answered.
    fn take(&self, into: &mut VecDeque<Box<dyn Job>>) -> &Gate {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.jobs, into);
        state.bytes = 0;
        state.taken += 1;
        self.gate(state.taken - 1)
    }
}

/// The committer of a store: its thread, and the engine.
pub(crate) struct Committer {
    pub queue: Arc<Queue>,
    seated: Arc<Seated>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl Committer {
    /// Starts the committer's thread around an engine.
    pub fn start(engine: Engine, queue: Arc<Queue>) -> Result<Committer> {
        queue.set_due(engine.due());
        let shared = engine.shared.clone();
        let seated = Arc::new(Mutex::new(Some(engine)));
        let (own, ours, engine) = (queue.clone(), shared.clone(), seated.clone());
        let thread = thread::Builder::new()
            .name("codexstore-log".to_owned())
            .spawn(move || {
                let guard = Guard {
                    queue: own.clone(),
                    shared: ours.clone(),
                };
                let result = run(&engine, &own);
                drop(engine.lock().take());
                ours.seat.disk.unlock();
                drop(guard);
                result
            })
            .map_err(|e| Error::io("start the committer", e))?;
        Ok(Committer {
            queue,
            seated,
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Has a job done for a caller that waits for its answer: on this thread, if neither a job
    /// waits nor the engine is in use; else by way of the queue. The gate to wait at.
    pub fn lead(&self, job: Parcel) -> &Gate {
        let state = self.queue.state.lock();
        match self.idle_engine(&state) {
            Some(mut engine) => {
                drop(state);
                self.execute(&mut engine, [job], Tick::Here);
                self.queue.gate(0)
            }
            None => self.queue.enqueue(state, [job]),
        }
    }

    /// Has jobs done as one group for a caller that has more to do than to wait: on this thread, if
    /// that is [swift](Engine::is_swift), each of them is brief, and the engine is idle; else by way of the queue.
    pub fn submit(&self, jobs: Vec<Parcel>, gathered: bool) {
        let bytes = jobs.iter().map(|job| PARCEL + job.bytes).sum();
        let brief = jobs.iter().all(|job| job.brief);
        let state = self.queue.state.lock();
        if brief
            && let Some(mut engine) = self.idle_engine(&state)
            && engine.is_swift(bytes, gathered)
        {
            drop(state);
            let tick = match engine.seat.options.durability {
                Durability::Always => Tick::Here,
                Durability::Interval(_) => Tick::Later,
            };
            self.execute(&mut engine, jobs, tick);
            return;
        }
        self.queue.enqueue(state, jobs);
    }

    /// The engine, if neither a job waits nor anyone uses it. Looked for under the queue's lock, so
    /// that whoever came before is in it or done.
    fn idle_engine(&self, state: &QueueState) -> Option<MappedMutexGuard<'_, Engine>> {
        let idle = !state.closing && state.jobs.is_empty();
        let seated = idle.then(|| self.seated.try_lock()).flatten()?;
        MutexGuard::try_map(seated, Option::as_mut).ok()
    }

    /// Executes jobs on this thread. A panic leaves the engine in an unknown state, and goes no further: the thread is the
    /// caller's, who may have others to serve. Jobs that are dropped then answer that they do not know.
    fn execute(&self, engine: &mut Engine, jobs: impl IntoIterator<Item = Parcel>, tick: Tick) {
        let work = || {
            engine.execute(jobs.into_iter().map(|parcel| parcel.job));
            if matches!(tick, Tick::Here) {
                engine.tick();
            }
        };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.shared
                .set_poison(&Error::internal("a committing thread panicked"));
        }
        self.queue.set_due(engine.due());
    }

    /// Refuses what comes, commits what is waiting, and ends the log.
    pub fn close(&self) -> Result<()> {
        self.queue.state.lock().closing = true;
        self.queue.wake.notify_one();
        let thread = self.thread.lock().take();
        match thread {
            // The last handle was dropped in an answer: the committer ends by itself behind it.
            Some(thread) if thread.thread().id() == thread::current().id() => Ok(()),
            Some(thread) => thread
                .join()
                .unwrap_or_else(|_| Err(Error::internal("the committer's thread panicked"))),
            None => Ok(()),
        }
    }
}

fn run(seated: &Seated, queue: &Queue) -> Result<()> {
    let mut jobs = VecDeque::new();
    let gone = || Error::internal("the committer has no engine");
    while queue.wait() {
        let mut seated = seated.lock();
        let engine = seated.as_mut().ok_or_else(gone)?;
        // Only now: what came while a leader was at work belongs to this group.
        let gate = queue.take(&mut jobs);
        if !jobs.is_empty() {
            engine.execute(jobs.drain(..));
            gate.open();
        }
        engine.tick();
        queue.set_due(engine.due());
    }
    seated.lock().as_mut().ok_or_else(gone)?.close()
}

/// If the committer's thread ends in a way it should not, nobody waits for ever.
struct Guard {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared
                .set_poison(&Error::internal("the committer's thread panicked"));
        }
        self.shared.feed.end();
        let left = {
            let mut state = self.queue.state.lock();
            state.closing = true;
            std::mem::take(&mut state.jobs)
        };
        for mut job in left {
            job.refuse(Error::new(Code::Closed, "the store is closed"));
            job.answer();
        }
        self.queue.gates.iter().for_each(Gate::open);
    }
}
