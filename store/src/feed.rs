//! What the committer tells those who follow the log: which files there are, how far the last one
//! is on disk, and the latest batches, so that watchers who keep up read no file.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::format::Link;
use crate::journal::LogFile;

/// Most bytes of batches that are kept in memory for all watchers together.
const RECENT: usize = 4 << 20;

/// The log's files.
#[derive(Default)]
pub(crate) struct Log {
    /// Those that are not written to any more, oldest first.
    pub ended: Vec<LogFile>,
    /// The one that is written to.
    pub present: Option<LogFile>,
}

impl Log {
    /// All files, oldest first.
    pub fn files(&self) -> impl DoubleEndedIterator<Item = &LogFile> {
        self.ended.iter().chain(&self.present)
    }

    /// The file that holds a revision, or whose end lies nearest before it.
    pub fn holder(&self, revision: u64) -> Option<&LogFile> {
        self.files()
            .rev()
            .find(|file| file.first_revision <= revision)
    }

    /// The lowest revision whose batch is there.
    pub fn first_revision(&self) -> u64 {
        self.files().next().map_or(0, |file| file.first_revision)
    }
}

/// Batches of one frame, as they stand in it.
#[derive(Clone)]
pub(crate) struct Recent {
    pub first: u64,
    pub last: u64,
    pub payload: Bytes,
}

/// What is durable.
#[derive(Clone, Default)]
pub(crate) struct Durable {
    pub log: Arc<Log>,
    /// The last revision on disk.
    pub revision: u64,
    /// Where the frames of the present file end.
    pub offset: u64,
    /// The same as a link.
    pub link: Link,
}

type Waker = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    durable: Durable,
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    watchers: BTreeMap<u64, Option<Waker>>,
    next_watcher: u64,
    ended: bool,
}

/// Where the committer tells and watchers ask.
#[derive(Default)]
pub(crate) struct Feed {
    state: Mutex<State>,
    news: Condvar,
}

impl Feed {
    /// The log has other files now, and its frames end at `offset` of the present one.
    pub fn files(&self, log: Log, (offset, link): (u64, Link)) {
        let mut state = self.state.lock();
        state.durable.log = Arc::new(log);
        state.durable.offset = offset;
        state.durable.link = link;
    }

    /// What an open found on disk.
    pub fn begin(&self, revision: u64) {
        self.state.lock().durable.revision = revision;
    }

    /// Batches are on disk, and shown to readers.
    pub fn logged(&self, (first, last): (u64, u64), end: (u64, Link), payload: &[u8]) {
        let mut state = self.state.lock();
        state.durable.revision = last;
        (state.durable.offset, state.durable.link) = end;
        if state.watchers.is_empty() {
            return;
        }
        if payload.len() > RECENT {
            // Watchers read it from the file.
            state.recent.clear();
            state.recent_bytes = 0;
        } else {
            state.recent_bytes += payload.len();
            let payload = Bytes::copy_from_slice(payload);
            state.recent.push_back(Recent {
                first,
                last,
                payload,
            });
            while state.recent_bytes > RECENT
                && let Some(oldest) = state.recent.pop_front()
            {
                state.recent_bytes -= oldest.payload.len();
            }
        }
        let wakers: Vec<Waker> = state.watchers.values().flatten().cloned().collect();
        drop(state);
        self.news.notify_all();
        for wake in wakers {
            wake();
        }
    }

    /// What is durable now.
    pub fn durable(&self) -> Durable {
        self.state.lock().durable.clone()
    }

    /// A batch of that revision with what stands behind it in its frame, if it is in memory.
    pub fn recent(&self, revision: u64) -> Option<Recent> {
        let state = self.state.lock();
        let at = state
            .recent
            .partition_point(|recent| recent.last < revision);
        let found = state.recent.get(at)?;
        (found.first <= revision).then(|| found.clone())
    }

    /// Waits until `revision` is on disk: true then, false when time is over or nothing will come.
    pub fn wait(&self, revision: u64, patience: Duration) -> bool {
        let mut state = self.state.lock();
        self.news.wait_while_for(
            &mut state,
            |state| state.durable.revision < revision && !state.ended,
            patience,
        );
        state.durable.revision >= revision
    }

    /// The store is closed or poisoned: nothing more will come.
    pub fn end(&self) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        let wakers: Vec<Waker> = state.watchers.values().flatten().cloned().collect();
        drop(state);
        self.news.notify_all();
        for wake in wakers {
            wake();
        }
    }

    /// True once nothing more will come.
    pub fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// One more watcher: from now on batches are kept in memory.
    pub fn join(&self) -> u64 {
        let mut state = self.state.lock();
        let id = state.next_watcher;
        state.next_watcher += 1;
        state.watchers.insert(id, None);
        id
    }

    /// Calls `waker` whenever something was logged.
    pub fn wake_with(&self, id: u64, waker: Waker) {
        // What a waker holds may be the last of something: it is dropped without the lock.
        let _old = self.state.lock().watchers.insert(id, Some(waker));
    }

    /// One watcher less.
    pub fn leave(&self, id: u64) {
        let mut state = self.state.lock();
        let gone = state.watchers.remove(&id);
        if state.watchers.is_empty() {
            state.recent.clear();
            state.recent_bytes = 0;
        }
        drop(state);
        drop(gone);
    }
}
