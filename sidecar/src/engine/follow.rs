//! Following the log from async code, whatever protocol it is for.
//!
//! What is in memory is decoded at once, what must be read from files is read on a thread of its own.
//! Nobody waits on a thread for what comes next.

use std::sync::Arc;
use std::time::Duration;

use codexstore::{Change, Code, Error, Watch};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// A watch that is awaited.
pub struct Follow {
    /// Away while a thread reads.
    watch: Option<Watch>,
    news: Arc<Notify>,
    resume_at: u64,
}

impl Follow {
    /// Follows what a watch gives.
    pub fn new(watch: Watch) -> Follow {
        let news = Arc::new(Notify::new());
        let wake = Arc::clone(&news);
        watch.wake_with(move || wake.notify_one());
        Follow {
            resume_at: watch.resume_at(),
            watch: Some(watch),
            news,
        }
    }

    /// Where to resume: everything below this revision was given out.
    pub fn resume_at(&self) -> u64 {
        self.resume_at
    }

    /// The next change; `None` when none came for so long. Of no more use after an error, and when
    /// it was not awaited to its end.
    pub async fn next(&mut self, patience: Duration) -> codexstore::Result<Option<Change>> {
        let until = Instant::now() + patience;
        loop {
            let next = self.poll().await?;
            let quiet = next.is_none() && timeout_at(until, self.news.notified()).await.is_err();
            if quiet || next.is_some() {
                return Ok(next);
            }
        }
    }

    async fn poll(&mut self) -> codexstore::Result<Option<Change>> {
        let ended = || Error::new(Code::Closed, "the watch ended early");
        let mut watch = self.watch.take().ok_or_else(ended)?;
        // Asked first: what was logged before the end is given out.
        let over = watch.ended();
        let next = if watch.is_behind() {
            let read = tokio::task::spawn_blocking(move || {
                let next = watch.poll();
                (watch, next)
            });
            let (back, next) = read.await.map_err(|_| ended())?;
            watch = back;
            next
        } else {
            watch.poll()
        };
        self.resume_at = watch.resume_at();
        self.watch = Some(watch);
        match (next, over) {
            (Ok(None), Some(over)) => Err(over),
            (next, _) => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use codexstore::{Encryption, Options, Store};

    use super::*;

    #[tokio::test]
    async fn what_was_logged_is_given_out_before_the_end_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(Encryption::None);
        options.max_disk = 64 << 20;
        let store = Store::open(dir.path(), options).unwrap();
        let mut follow = Follow::new(store.watch(None, "a").unwrap());
        let short = Duration::from_millis(20);
        assert!(follow.next(short).await.unwrap().is_none());
        store.set(b"b", b"v").unwrap();
        store.set(b"a", b"v").unwrap();
        let change = follow.next(short).await.unwrap().unwrap();
        assert_eq!((change.revision, follow.resume_at()), (2, 3));
        store.set(b"a", b"w").unwrap();
        store.close().unwrap();
        assert_eq!(follow.next(short).await.unwrap().unwrap().revision, 3);
        let error = follow.next(Duration::from_mins(1)).await.unwrap_err();
        assert_eq!(error.as_code(), Code::Closed);
    }
}
