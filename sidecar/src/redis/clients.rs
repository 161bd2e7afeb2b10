//! Who is connected, as `CLIENT LIST` tells it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::reply::Version;

/// What is known of one client.
#[derive(Debug, Clone)]
pub struct About {
    /// The name that it gave itself.
    pub name: String,
    /// Its library's name.
    pub library: String,
    /// Its library's version.
    pub library_version: String,
    /// Version of the protocol.
    pub version: Version,
    /// Its last command.
    pub last: &'static str,
    /// When that was.
    pub seen: Instant,
    /// Commands in its transaction, if it is in one.
    pub queued: Option<usize>,
}

/// A connected client; forgotten when dropped.
pub struct Client {
    /// Its number, never used again.
    pub id: u64,
    born: Instant,
    about: Mutex<About>,
    all: Arc<Clients>,
}

/// All clients.
#[derive(Default)]
pub struct Clients {
    last: AtomicU64,
    connected: Mutex<BTreeMap<u64, std::sync::Weak<Client>>>,
}

impl Clients {
    /// A new client.
    pub fn join(self: &Arc<Clients>) -> Arc<Client> {
        let now = Instant::now();
        let client = Arc::new(Client {
            id: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            born: now,
            about: Mutex::new(About {
                name: String::new(),
                library: String::new(),
                library_version: String::new(),
                version: Version::Resp2,
                last: "NULL",
                seen: now,
                queued: None,
            }),
            all: self.clone(),
        });
        lock(&self.connected).insert(client.id, Arc::downgrade(&client));
        client
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.connected).len()
    }

    /// How many there ever were.
    pub fn ever(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// A line for each.
    pub fn list(&self) -> String {
        // Upgraded apart: the last one's drop takes the lock.
        let all: Vec<_> = lock(&self.connected)
            .values()
            .filter_map(std::sync::Weak::upgrade)
            .collect();
        all.iter().map(|client| client.line()).collect()
    }
}

impl Client {
    /// What is known of it.
    pub fn about(&self) -> MutexGuard<'_, About> {
        lock(&self.about)
    }

    /// Its line in the list.
    pub fn line(&self) -> String {
        let about = self.about();
        let mut line = String::new();
        let queued = about
            .queued
            .map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX));
        let version = match about.version {
            Version::Resp2 => 2,
            Version::Resp3 => 3,
        };
        let flags = if queued < 0 { "U" } else { "xU" };
        let _ = writeln!(
            line,
            "id={} addr=unix:0 laddr=unix:0 fd=-1 name={} age={} idle={} flags={flags} db=0 sub=0 psub=0 ssub=0 multi={queued} \
             cmd={} user=default redir=-1 resp={version} lib-name={} lib-ver={}",
            self.id,
            about.name,
            self.born.elapsed().as_secs(),
            about.seen.elapsed().as_secs(),
            about.last,
            about.library,
            about.library_version,
        );
        line
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        lock(&self.all.connected).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_listed_as_long_as_they_are_connected() {
        let clients = Arc::new(Clients::default());
        let first = clients.join();
        let second = clients.join();
        second.about().name = "worker".to_owned();
        assert_eq!((first.id, second.id), (1, 2));
        drop(first);
        let list = clients.list();
        assert!(list.starts_with("id=2 ") && list.contains(" name=worker "));
        assert_eq!(list.lines().count(), 1);
        drop(second);
        assert_eq!((clients.count(), clients.ever()), (0, 2));
    }
}
