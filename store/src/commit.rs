//! The threads around the engine: the committer, which owns it, and a worker for its background
//! tasks.
//!
//! Callers put programs into a bounded queue. The committer takes all that is waiting, executes it
//! as a group, and answers; while the disk syncs, the next group gathers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::engine::{Engine, Job};
use crate::error::{Code, Error, Result};
use crate::seat::Seat;
use crate::task::{Background, Done, Task};
use crate::txn::{Program, Txn};

/// Most bytes that programs in the queue may hold.
const MAX_QUEUED_BYTES: usize = 128 << 20;

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

/// What waits for the committer.
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    /// Wakes the committer.
    wake: Condvar,
    max: usize,
}

struct QueueState {
    jobs: VecDeque<Box<dyn Job>>,
    bytes: usize,
    /// The committer sleeps.
    idle: bool,
    /// The background has something to say.
    news: bool,
    closing: bool,
}

impl Queue {
    fn new(max: usize) -> Queue {
        Queue {
            state: Mutex::new(QueueState {
                jobs: VecDeque::new(),
                bytes: 0,
                idle: false,
                news: false,
                closing: false,
            }),
            wake: Condvar::new(),
            max,
        }
    }

    /// Puts a job in, or refuses it.
    pub fn push(&self, mut job: Box<dyn Job>, bytes: usize) {
        let mut state = self.state.lock();
        let refusal = if state.closing {
            Some(Error::new(Code::Closed, "the store is closed"))
        } else if state.jobs.len() >= self.max
            || (state.bytes + bytes > MAX_QUEUED_BYTES && !state.jobs.is_empty())
        {
            Some(Error::new(
                Code::Overloaded,
                format!("{} writes are waiting for the disk", state.jobs.len()),
            ))
        } else {
            None
        };
        if let Some(error) = refusal {
            drop(state);
            job.refuse(error);
            job.answer();
            return;
        }
        state.jobs.push_back(job);
        state.bytes += bytes;
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Programs waiting.
    pub fn len(&self) -> usize {
        self.state.lock().jobs.len()
    }

    fn news(&self) {
        self.state.lock().news = true;
        self.wake.notify_one();
    }

    /// Takes all that is waiting, after at most `patience`. `None` when the store is closing and
    /// nothing is left.
    fn take(&self, patience: Option<Duration>, into: &mut VecDeque<Box<dyn Job>>) -> bool {
        let mut state = self.state.lock();
        loop {
            if !state.jobs.is_empty() {
                std::mem::swap(&mut state.jobs, into);
                state.bytes = 0;
                return true;
            }
            if std::mem::take(&mut state.news) {
                return true;
            }
            if state.closing {
                return false;
            }
            state.idle = true;
            let late = if let Some(patience) = patience {
                self.wake.wait_for(&mut state, patience).timed_out()
            } else {
                self.wake.wait(&mut state);
                false
            };
            state.idle = false;
            if late {
                return true;
            }
        }
    }
}

/// The running threads of a store.
pub(crate) struct Committer {
    pub queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl Committer {
    /// Starts the committer's thread around an engine.
    pub fn start(mut engine: Engine, queue: Arc<Queue>) -> Result<Committer> {
        let own = queue.clone();
        let thread = thread::Builder::new()
            .name("codexstore-log".to_owned())
            .spawn(move || {
                let guard = Guard {
                    queue: own.clone(),
                    shared: engine.shared.clone(),
                };
                let result = run(&mut engine, &own);
                let seat = engine.seat.clone();
                drop(engine);
                seat.disk.unlock();
                drop(guard);
                result
            })
            .map_err(|e| Error::io("start the committer", e))?;
        Ok(Committer {
            queue,
            thread: Mutex::new(Some(thread)),
        })
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

fn run(engine: &mut Engine, queue: &Queue) -> Result<()> {
    let mut jobs = VecDeque::new();
    loop {
        let now = engine.seat.env.clock.monotonic();
        let patience = engine.due().map(|due| due.saturating_sub(now));
        if !queue.take(patience, &mut jobs) {
            return engine.close();
        }
        if !jobs.is_empty() {
            engine.execute(jobs.drain(..));
        }
        engine.tick();
    }
}

/// If the committer's thread ends in a way it should not, nobody waits for ever.
struct Guard {
    queue: Arc<Queue>,
    shared: Arc<crate::shared::Shared>,
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
    }
}

/// A thread for background tasks.
pub(crate) struct Worker {
    tasks: Option<Sender<Task>>,
    results: Receiver<Result<Done>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread and makes the queue that it wakes.
    pub fn start(seat: Arc<Seat>) -> Result<(Worker, Arc<Queue>)> {
        let queue = Arc::new(Queue::new(seat.options.max_queue));
        let (tasks, inbox) = channel::<Task>();
        let (outbox, results) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, wake) = (stop.clone(), queue.clone());
        let thread = thread::Builder::new()
            .name("codexstore-fold".to_owned())
            .spawn(move || {
                for mut task in inbox {
                    let result = task.run(&seat, || stopped.load(Ordering::Relaxed));
                    drop(task);
                    if outbox.send(result).is_err() {
                        return;
                    }
                    wake.news();
                }
            })
            .map_err(|e| Error::io("start the worker", e))?;
        let worker = Worker {
            tasks: Some(tasks),
            results,
            stop,
            thread: Some(thread),
        };
        Ok((worker, queue))
    }
}

impl Background for Worker {
    fn start(&mut self, task: Task) {
        if let Some(tasks) = &self.tasks {
            // If the thread is gone, waiting for the result says so.
            let _gone = tasks.send(task);
        }
    }

    fn poll(&mut self) -> Option<Result<Done>> {
        self.results.try_recv().ok()
    }

    fn wait(&mut self) -> Result<Done> {
        self.results
            .recv()
            .unwrap_or_else(|_| Err(Error::internal("the worker's thread has stopped")))
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has shown as a missing result.
            let _ended = thread.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}
