//! Programs: what a caller runs inside the committer.


use crate::batch::{Committed, SetOptions};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::scan::{Page, Scan};

/// A small program of reads and writes that the committer runs alone, so that what it read is
/// still so when it writes. Its writes are one batch; if it returns an error, none of them happen.
///
/// It runs on the committer's thread: it must not block, and must be quick. A closure
/// `FnOnce(&mut Txn) -> Result<T>` is a program.
pub trait Program: Send + 'static {
    /// What it answers, once its writes are as durable as the store promises.
    type Output: Send + 'static;

    /// Runs it.
    fn run(self, txn: &mut Txn<'_>) -> Result<Self::Output>;

    /// About how many bytes it holds while it waits in the queue.
    fn size_hint(&self) -> usize {
        0
    }
}

impl<T, F> Program for F
where
    T: Send + 'static,
    F: FnOnce(&mut Txn<'_>) -> Result<T> + Send + 'static,
{
    type Output = T;

    fn run(self, txn: &mut Txn<'_>) -> Result<T> {
        self(txn)
    }
}

/// What a program sees: the store with the writes of all programs before it and its own.
pub struct Txn<'a> {
    _unused: std::marker::PhantomData<&'a mut ()>,
}

impl Txn<'_> {
    /// The entry of a key.
    pub fn get(&self, _key: &[u8]) -> Result<Option<Entry>> {
        Err(Error::internal("not built yet"))
    }

    /// One page of entries.
    pub fn scan(&self, _scan: &Scan) -> Result<Page> {
        Err(Error::internal("not built yet"))
    }

    /// Sets a key, without expiry.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.set_with(key, value, SetOptions::default())
    }

    /// Sets a key.
    pub fn set_with(&mut self, _key: &[u8], _value: &[u8], _options: SetOptions) -> Result<()> {
        Err(Error::internal("not built yet"))
    }

    /// Deletes a key; true if it was there.
    pub fn delete(&mut self, _key: &[u8]) -> Result<bool> {
        Err(Error::internal("not built yet"))
    }

    /// Changes or removes a key's expiry: milliseconds since 1970. True if the key is there.
    pub fn expire_at(&mut self, _key: &[u8], _at_ms: Option<u64>) -> Result<bool> {
        Err(Error::internal("not built yet"))
    }

    /// The store's time: milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        0
    }

    /// The revision that this program's writes get, if it makes any.
    pub fn revision(&self) -> u64 {
        0
    }

    /// What this program's writes come to so far.
    pub fn outcome(&self) -> Committed {
        Committed {
            revision: 0,
            created: 0,
            updated: 0,
            deleted: 0,
        }
    }
}

