//! How answers come back from the committer.
//!
//! The committer answers all writes of a group in a row. A wake-up of another thread's task is a call
//! to the system, and one for each answer would cost the committer as much as the disk does. So an
//! answer goes into its connection's inbox, and the connection's waker into a list that all
//! connections share: only the first in that list wakes anyone, a task on the I/O thread, which
//! then wakes the others from within.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Places for answers that an empty inbox keeps.
const KEPT: usize = 32;

/// Wakes connections that have answers.
#[derive(Default)]
pub struct Bell {
    state: Mutex<Rung>,
}

#[derive(Default)]
struct Rung {
    to_wake: Vec<Waker>,
    ringer: Option<Waker>,
}

impl Bell {
    fn ring(&self, who: Waker) {
        let mut state = lock(&self.state);
        state.to_wake.push(who);
        let ringer = state.ringer.take();
        drop(state);
        if let Some(ringer) = ringer {
            ringer.wake();
        }
    }

    /// Wakes who has answers, for ever. It belongs on the connections' thread.
    pub async fn run(&self) {
        let mut woken = Vec::new();
        poll_fn::<(), _>(|cx| {
            loop {
                let mut state = lock(&self.state);
                if state.to_wake.is_empty() {
                    state.ringer = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                std::mem::swap(&mut state.to_wake, &mut woken);
                drop(state);
                woken.drain(..).for_each(Waker::wake);
            }
        })
        .await;
    }
}

/// The answers of one connection, each with the number of what it answers.
pub struct Inbox<T> {
    state: Mutex<Letters<T>>,
    bell: Arc<Bell>,
}

struct Letters<T> {
    letters: Vec<(u64, T)>,
    waiting: Option<Waker>,
}

impl<T> Inbox<T> {
    /// An empty inbox.
    pub fn new(bell: Arc<Bell>) -> Inbox<T> {
        Inbox {
            state: Mutex::new(Letters {
                letters: Vec::new(),
                waiting: None,
            }),
            bell,
        }
    }

    /// Puts an answer in, from whatever thread.
    pub fn put(&self, number: u64, answer: T) {
        let mut state = lock(&self.state);
        state.letters.push((number, answer));
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waker) = waiting {
            self.bell.ring(waker);
        }
    }

    /// Takes out what is there.
    pub fn take(&self, into: &mut Vec<(u64, T)>) {
        let mut state = lock(&self.state);
        into.append(&mut state.letters);
        if state.letters.capacity() > KEPT {
            state.letters = Vec::new();
        }
    }

    /// Has that task woken by the next answer; false if there is one already.
    pub fn wait(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        if !state.letters.is_empty() {
            return false;
        }
        match &mut state.waiting {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn many_answers_wake_one_task_and_that_wakes_each_connection_once() {
        let bell = Arc::new(Bell::default());
        let ringer = Arc::new(Counter::default());
        let ringer_waker = Waker::from(ringer.clone());
        let mut running = Box::pin(bell.run());
        let mut cx = Context::from_waker(&ringer_waker);
        assert!(running.as_mut().poll(&mut cx).is_pending());

        let inboxes: Vec<Inbox<u8>> = (0..8).map(|_| Inbox::new(bell.clone())).collect();
        let tasks: Vec<Arc<Counter>> = (0..8).map(|_| Arc::default()).collect();
        for (inbox, task) in inboxes.iter().zip(&tasks) {
            assert!(inbox.wait(&Waker::from(task.clone())));
        }
        for inbox in &inboxes {
            inbox.put(0, 1);
            inbox.put(1, 2);
        }
        let woken = |task: &Counter| task.0.load(Ordering::Relaxed);
        assert_eq!(woken(&ringer), 1);
        assert!(tasks.iter().all(|task| woken(task) == 0));
        assert!(running.as_mut().poll(&mut cx).is_pending());
        assert!(tasks.iter().all(|task| woken(task) == 1));
        let waker = Waker::from(tasks[0].clone());
        assert!(!inboxes[0].wait(&waker), "an answer is there");
        let mut letters = Vec::new();
        inboxes[0].take(&mut letters);
        assert_eq!(letters, [(0, 1), (1, 2)]);
        assert!(inboxes[0].wait(&waker));
    }
}
