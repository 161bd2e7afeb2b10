//! All connections of a listener: how many there may be, which one gives way, and how they stop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::Instant;

use tokio::sync::Notify;

use crate::metrics::Turned;

/// No answer of HTTP/1 is on its way.
const NONE: u8 = 0;

/// The protocol does not have all of it yet.
const MADE: u8 = 1;

/// The protocol has all of it.
const BUFFERED: u8 = 2;

/// State of one connection, shared by its stream, its service and the table.
pub struct Connection {
    id: u64,
    born: Instant,
    /// Requests whose answer is not made yet.
    in_work: AtomicU32,
    /// When the last answer was made, or the connection was; milliseconds since `born`.
    quiet_since: AtomicU64,
    /// When the first byte of a header came; zero: none has.
    head_since: AtomicU64,
    /// Whether a request was ever begun.
    served: AtomicBool,
    /// Bytes of an answer wait for the client to take what came before.
    blocked: AtomicBool,
    /// How far the answer is that HTTP/1 is giving.
    answer: AtomicU8,
    /// Answers on HTTP/2 of which bytes are not sent: a number for each, and when the protocol last
    /// took some, as milliseconds since `born`.
    unsent: Mutex<Vec<(u64, u64)>>,
    evicted: AtomicBool,
    stopping: AtomicBool,
    waker: OnceLock<Waker>,
    ended: Mutex<Option<Turned>>,
    table: Weak<Connections>,
}

impl Connection {
    fn now(&self) -> u64 {
        // From one on, so that zero means none.
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX) + 1
    }

    /// Counts a request in work until the guard is dropped.
    pub fn begin(connection: &Arc<Connection>) -> Working {
        connection.in_work.fetch_add(1, Ordering::Relaxed);
        connection.head_since.store(0, Ordering::Relaxed);
        connection.served.store(true, Ordering::Relaxed);
        Working(Arc::clone(connection))
    }

    /// Notes that a request came and was answered at once.
    pub fn seen(&self) {
        self.quiet_since.store(self.now(), Ordering::Relaxed);
    }

    /// True while a request is in work.
    pub fn working(&self) -> bool {
        self.in_work.load(Ordering::Relaxed) > 0
    }

    /// True while a request is in work or its answer is on its way.
    pub fn busy(&self) -> bool {
        self.working() || self.blocked.load(Ordering::Relaxed)
    }

    /// True while nothing of a request or an answer is on its way.
    pub fn rests(&self) -> bool {
        !self.busy() && self.head_since.load(Ordering::Relaxed) == 0
    }

    /// True once a request was begun.
    pub fn served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// Notes that the client does not take bytes as fast as they are written.
    pub fn blocked(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }

    /// Notes that all that was written is out, and says whether it had to wait for the client.
    pub fn flushed(&self) -> bool {
        let waited = self.blocked.load(Ordering::Relaxed);
        if self.answer.load(Ordering::Relaxed) == BUFFERED {
            self.answer.store(NONE, Ordering::Relaxed);
        }
        if waited {
            self.blocked.store(false, Ordering::Relaxed);
            self.quiet_since.store(self.now(), Ordering::Relaxed);
        }
        waited
    }

    /// Notes that an answer of HTTP/1 is being given; the guard goes with its body.
    pub fn answer(connection: &Arc<Connection>) -> Answering {
        connection.answer.store(MADE, Ordering::Relaxed);
        Answering(Arc::clone(connection))
    }

    /// True while bytes of an answer of HTTP/1 may be to be written.
    pub fn answering(&self) -> bool {
        self.answer.load(Ordering::Relaxed) != NONE
    }

    /// Milliseconds for which an answer on HTTP/2 has been standing still: its client grants no
    /// more window, which no blocked write would show.
    pub fn stalled_for(&self) -> Option<u64> {
        let oldest = lock(&self.unsent).iter().map(|(_, since)| *since).min()?;
        Some(self.now().saturating_sub(oldest))
    }

    /// Notes that bytes came although no request is in work: a header begins.
    pub fn head_begins(&self) {
        if !self.working() && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Milliseconds for which a header has been arriving.
    pub fn head_for(&self) -> Option<u64> {
        match self.head_since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(self.now().saturating_sub(since)),
        }
    }

    /// Milliseconds without a request in work.
    pub fn quiet_for(&self) -> u64 {
        self.now()
            .saturating_sub(self.quiet_since.load(Ordering::Relaxed))
    }

    /// Keeps the task's waker, to tell it something.
    pub fn remember(&self, waker: &Waker) {
        // A task has one waker for its life.
        self.waker.get_or_init(|| waker.clone());
    }

    /// True once it must give way.
    pub fn evicted(&self) -> bool {
        self.evicted.load(Ordering::Relaxed)
    }

    /// True once it must end after what is in work.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Notes why the stream is ended.
    pub fn end(&self, why: Turned) {
        *lock(&self.ended) = Some(why);
    }

    /// Why the stream was ended.
    pub fn ended(&self) -> Option<Turned> {
        *lock(&self.ended)
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

/// A request in work.
pub struct Working(Arc<Connection>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.quiet_since.store(self.0.now(), Ordering::Relaxed);
        self.0.in_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer of HTTP/1, up to where the protocol has all of it.
pub struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answer.store(BUFFERED, Ordering::Relaxed);
    }
}

/// An answer on HTTP/2 that is being sent. Its request counts as in work until this is dropped.
pub struct Sending {
    id: u64,
    working: Working,
}

impl Sending {
    /// The answer to this request is ready to be sent.
    pub fn new(working: Working) -> Sending {
        let connection = &working.0;
        let mut unsent = lock(&connection.unsent);
        let id = unsent.last().map_or(0, |(last, _)| last + 1);
        unsent.push((id, connection.now()));
        drop(unsent);
        Sending { id, working }
    }

    /// The protocol took some of it.
    pub fn progress(&self) {
        self.stands_since(self.working.0.now());
    }

    /// There is nothing to take for now: until there is, the client does not hold it up.
    pub fn waits(&self) {
        self.stands_since(u64::MAX);
    }

    fn stands_since(&self, now: u64) {
        let connection = &self.working.0;
        let mut unsent = lock(&connection.unsent);
        if let Some((_, since)) = unsent.iter_mut().find(|(id, _)| *id == self.id) {
            *since = now;
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        lock(&self.working.0.unsent).retain(|(id, _)| *id != self.id);
    }
}

/// A place in the table; given back when dropped.
pub struct Place(Arc<Connection>);

impl std::ops::Deref for Place {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(table) = self.0.table.upgrade() {
            table.forget(self.0.id);
        }
    }
}

/// The table of a listener's connections.
pub struct Connections {
    most: usize,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    stopping: AtomicBool,
    stop: Notify,
    empty: Notify,
}

impl Connections {
    /// A table with so many places.
    pub fn new(most: usize) -> Arc<Connections> {
        Arc::new(Connections {
            most,
            next: AtomicU64::new(0),
            open: Mutex::default(),
            stopping: AtomicBool::new(false),
            stop: Notify::new(),
            empty: Notify::new(),
        })
    }

    /// A place for a new connection, and whether an idle one had to give way; `None` if all are
    /// busy.
    pub fn admit(self: &Arc<Connections>) -> Option<(Place, bool)> {
        let full = lock(&self.open).len() >= self.most;
        if full && !self.evict() {
            return None;
        }
        let connection = Arc::new(Connection {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            born: Instant::now(),
            in_work: AtomicU32::new(0),
            quiet_since: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            served: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            answer: AtomicU8::new(NONE),
            unsent: Mutex::default(),
            evicted: AtomicBool::new(false),
            stopping: AtomicBool::new(self.stopping.load(Ordering::Relaxed)),
            waker: OnceLock::new(),
            ended: Mutex::default(),
            table: Arc::downgrade(self),
        });
        lock(&self.open).insert(connection.id, Arc::clone(&connection));
        Some((Place(connection), full))
    }

    /// Ends the connection that has been without a request or answer for longest. False if none is.
    pub fn evict(&self) -> bool {
        let mut open = lock(&self.open);
        let idlest = open
            .values()
            .filter(|connection| !connection.busy())
            .max_by_key(|connection| connection.quiet_for())
            .map(|connection| connection.id);
        let Some(connection) = idlest.and_then(|id| open.remove(&id)) else {
            return false;
        };
        connection.evicted.store(true, Ordering::Relaxed);
        connection.wake();
        true
    }

    fn forget(&self, id: u64) {
        let mut open = lock(&self.open);
        open.remove(&id);
        if open.is_empty() {
            self.empty.notify_waiters();
        }
    }

    /// Tells every connection to end after what it has in work.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.stop.notify_waiters();
        for connection in lock(&self.open).values() {
            connection.stopping.store(true, Ordering::Relaxed);
            connection.wake();
        }
    }

    /// Waits until [`Connections::stop`] is called.
    pub async fn stopped(&self) {
        let told = self.stop.notified();
        if !self.stopping.load(Ordering::Relaxed) {
            told.await;
        }
    }

    /// Waits until no connection is open.
    pub async fn empty(&self) {
        loop {
            let emptied = self.empty.notified();
            if lock(&self.open).is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_connection_gives_way_and_busy_ones_never_do() {
        let table = Connections::new(2);
        let (busy, _) = table.admit().unwrap();
        let work = Connection::begin(&busy);
        let (idle, _) = table.admit().unwrap();
        let (next, evicted) = table.admit().unwrap();
        assert!(evicted && idle.evicted() && !busy.evicted() && !next.evicted());
        let more = Connection::begin(&next);
        assert!(table.admit().is_none(), "all are busy");
        drop((work, more, idle));
        assert!(table.admit().is_some());
    }

    #[test]
    fn an_answer_on_its_way_keeps_a_connection_busy_and_its_clock_starts_when_it_is_out() {
        let table = Connections::new(1);
        let (connection, _) = table.admit().unwrap();
        drop(Connection::begin(&connection));
        connection.blocked();
        assert!(connection.busy() && table.admit().is_none());
        connection.flushed();
        assert!(!connection.busy());

        let sending = Sending::new(Connection::begin(&connection));
        let other = Sending::new(Connection::begin(&connection));
        assert!(connection.busy());
        std::thread::sleep(std::time::Duration::from_millis(30));
        let progressed = Instant::now();
        other.progress();
        assert!(connection.stalled_for().is_some_and(|ms| ms >= 20));
        drop(sending);
        // As long as since then, and not as long as the other one.
        let stalled = u128::from(connection.stalled_for().unwrap());
        assert!(stalled <= progressed.elapsed().as_millis() + 1);
        drop(other);
        assert!(connection.stalled_for().is_none() && !connection.busy());
    }

    #[test]
    fn a_header_is_timed_from_its_first_byte_and_not_while_a_request_is_in_work() {
        let table = Connections::new(1);
        let (connection, _) = table.admit().unwrap();
        assert_eq!(connection.head_for(), None);
        connection.head_begins();
        assert!(connection.head_for().is_some());
        let work = Connection::begin(&connection);
        connection.head_begins();
        assert_eq!(connection.head_for(), None);
        drop(work);
    }
}
