//! The thread for the engine's background tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use crate::commit::Queue;
use crate::error::{Error, Result};
use crate::seat::Seat;
use crate::task::{Background, Done, Task};

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
        let queue = Arc::new(Queue::new(seat.options.max_queue, seat.env.clock.clone()));
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
