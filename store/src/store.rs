//! The store as callers see it.

use std::path::Path;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::{Batch, Committed, Expect, SetOptions};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::keyring::Keyring;
use crate::options::Options;
use crate::scan::{Page, Scan};
use crate::stats::Stats;
use crate::txn::Program;

/// A handle to an open store: cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Store {}

fn later<T>() -> Result<T> {
    Err(Error::internal("not built yet"))
}

impl Store {
    /// Opens the store in `dir`, which is made if it does not exist.
    pub fn open(_dir: &Path, _options: Options) -> Result<Store> {
        later()
    }

    /// The entry of a key. Never waits for the disk or a writer.
    pub fn get(&self, _key: &[u8]) -> Result<Option<Entry>> {
        later()
    }

    /// True if the key is there.
    pub fn has(&self, key: &[u8]) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Number of live keys.
    pub fn len(&self) -> u64 {
        0
    }

    /// True without live keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All keys that begin with `prefix`, at one point in time.
    pub fn keys(&self, _prefix: &[u8]) -> Result<Vec<Bytes>> {
        later()
    }

    /// One page of entries.
    pub fn scan(&self, _scan: &Scan) -> Result<Page> {
        later()
    }

    /// Sets a key, without expiry.
    pub fn set(&self, _key: &[u8], _value: &[u8]) -> Result<Committed> {
        later()
    }

    /// Sets a key.
    pub fn set_with(&self, _key: &[u8], _value: &[u8], _options: SetOptions) -> Result<Committed> {
        later()
    }

    /// Sets a key if the expectation holds, else fails with `precondition-failed`.
    pub fn compare_and_set(&self, _key: &[u8], _expect: Expect, _value: &[u8]) -> Result<Committed> {
        later()
    }

    /// Deletes a key; deleting what is not there changes nothing.
    pub fn delete(&self, _key: &[u8]) -> Result<Committed> {
        later()
    }

    /// Deletes every key that begins with `prefix` and says how many. Large sets go in several
    /// batches, each atomic.
    pub fn delete_prefix(&self, _prefix: &[u8]) -> Result<u64> {
        later()
    }

    /// Deletes every key and says how many.
    pub fn clear(&self) -> Result<u64> {
        self.delete_prefix(b"")
    }

    /// The value of a key, from JSON.
    pub fn get_as<T: DeserializeOwned>(&self, _key: &[u8]) -> Result<Option<T>> {
        later()
    }

    /// Sets a key to a value as JSON.
    pub fn set_as<T: Serialize>(&self, _key: &[u8], _value: &T) -> Result<Committed> {
        later()
    }

    /// Commits a batch and waits until it is as durable as the store promises.
    pub fn commit(&self, _batch: Batch) -> Result<Committed> {
        later()
    }

    /// Runs a program in the committer and waits for its answer.
    pub fn run<P: Program>(&self, _program: P) -> Result<P::Output> {
        later()
    }

    /// Hands a program to the committer and returns at once; `done` is called exactly once, from
    /// the committer's thread, or from this one when the program is refused (`overloaded`,
    /// `poisoned`, `closed`). It must not block.
    pub fn submit<P: Program>(
        &self,
        _program: P,
        done: impl FnOnce(Result<P::Output>) + Send + 'static,
    ) {
        done(later());
    }

    /// State and counters.
    pub fn status(&self) -> Stats {
        Stats::default()
    }

    /// The store's time: milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        0
    }

    /// This line of history: part of an `ETag`.
    pub fn lineage(&self) -> u64 {
        0
    }

    /// Replaces the keyring. New files are wrapped with its current key; nothing is rewritten.
    /// Refused if it lacks a key that the store's files need.
    pub fn reload_keyring(&self, _keyring: Keyring) -> Result<()> {
        later()
    }

    /// Believes the wall clock after a jump: see [`Options::max_clock_jump`].
    pub fn accept_clock(&self) -> Result<()> {
        later()
    }

    /// Commits what was submitted, ends the log with a closing frame, and unlocks the directory.
    /// Other handles then answer `closed`. The last handle dropped does the same, silently.
    pub fn close(self) -> Result<()> {
        later()
    }
}

