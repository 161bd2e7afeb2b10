//! Programs: what a caller runs inside the committer, and what they see there.

use std::collections::{BTreeSet, HashSet};
use std::slice;

use crate::batch::{Committed, SetOptions};
use crate::entry::{Entry, Packed};
use crate::error::{Code, Error, Result};
use crate::format::record::{self, EntryRef, MAX_ACTOR, MAX_KEY, Op};
use crate::index::Index;
use crate::scan::{Page, Scan};

/// Most bytes of keys and values in one batch: a value of the largest size, and something.
const MAX_BATCH: usize = 65 << 20;

/// A small program of reads and writes that the committer runs alone, so that what it read is
/// still so when it writes. Its writes are one batch; if it returns an error, none of them happen.
///
/// It runs on the committer's thread or on that of [`crate::Store::run`]: it must not block, and must be quick. A closure
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

    /// False if it may take longer than a few milliseconds, whatever it holds, such as one that deletes all there is: then it
    /// is always left to the committer's thread where [`crate::Store::submit`] is called.
    fn is_brief(&self) -> bool {
        true
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

/// A key that a batch touched for the first time, and what it was before.
struct Touched {
    /// What it was set to, or what was removed.
    entry: Entry,
    set: bool,
    before: Option<Entry>,
}

/// Memory that one batch after the other uses again.
#[derive(Default)]
pub(crate) struct Workspace {
    touched: Vec<Touched>,
    /// Keys that were touched more than once: what they came to stands in the index alone.
    again: HashSet<Box<[u8]>>,
    /// Memory of what the batch replaces.
    replaced: u64,
    /// What this batch deleted, so that a set behind it goes on where the entry was.
    removed: BTreeSet<Entry>,
    scratch: Vec<u8>,
}

/// What a program sees: the store with the writes of all programs before it and its own.
pub struct Txn<'a> {
    index: &'a mut Index,
    work: &'a mut Workspace,
    at: Moment,
    max_value: usize,
    bytes: usize,
    actor: Option<String>,
}

/// When a batch runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The latest revision there is.
    pub latest: u64,
    /// The revision that the batch gets.
    pub next: u64,
    /// Store time.
    pub now_ms: u64,
}

impl<'a> Txn<'a> {
    /// A batch. The workspace must be empty.
    pub(crate) fn new(
        index: &'a mut Index,
        work: &'a mut Workspace,
        at: Moment,
        max_value: usize,
    ) -> Txn<'a> {
        Txn {
            index,
            work,
            at,
            max_value,
            bytes: 0,
            actor: None,
        }
    }

    /// The entry of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        check_key(key)?;
        Ok(self.index.live_entry(key, || self.at.now_ms))
    }

    /// One page of entries.
    pub fn scan(&self, scan: &Scan) -> Result<Page> {
        self.index
            .page(slice::from_ref(scan), self.at.latest, self.at.now_ms)
    }

    /// Number of live keys.
    pub fn len(&self) -> u64 {
        self.index.live(self.at.now_ms)
    }

    /// True without live keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets a key, without expiry.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.set_with(key, value, SetOptions::default())
    }

    /// Sets a key.
    pub fn set_with(&mut self, key: &[u8], value: &[u8], options: SetOptions) -> Result<()> {
        check_key(key)?;
        check_value(value, self.max_value)?;
        let expires_at = match options.ttl {
            Some(ttl) if ttl.as_millis() == 0 => {
                return Err(Error::new(Code::InvalidArgument, "a ttl is at least 1 ms"));
            }
            Some(ttl) => {
                let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                Some(self.at.now_ms.saturating_add(ttl))
            }
            None if options.keep_ttl => self.live(key).and_then(Packed::expires_at),
            None => None,
        };
        self.put(key, value, expires_at)
    }

    /// Deletes a key; true if it was there.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool> {
        check_key(key)?;
        if self.live(key).is_none() {
            return Ok(false);
        }
        self.charge(key.len())?;
        self.remove(key);
        Ok(true)
    }

    /// Changes or removes a key's expiry: milliseconds since 1970. True if the key is there.
    pub fn expire_at(&mut self, key: &[u8], at_ms: Option<u64>) -> Result<bool> {
        check_key(key)?;
        let Some(entry) = self.get(key)? else {
            return Ok(false);
        };
        self.put(key, entry.value(), at_ms)?;
        Ok(true)
    }

    /// Says who commits this: see [`crate::Batch::actor`].
    pub fn set_actor(&mut self, label: impl Into<String>) -> Result<()> {
        let label = label.into();
        if label.len() > MAX_ACTOR {
            return Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "an actor label of {} bytes; at most {MAX_ACTOR}",
                    label.len()
                ),
            ));
        }
        self.actor = Some(label);
        Ok(())
    }

    /// Longest value that can be set.
    pub fn max_value(&self) -> usize {
        self.max_value
    }

    /// The store's time: milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.at.now_ms
    }

    /// The revision that this program's writes get, if it makes any.
    pub fn revision(&self) -> u64 {
        self.at.next
    }

    /// What this program's writes come to so far.
    pub fn outcome(&self) -> Committed {
        let mut outcome = Committed {
            revision: self.at.latest,
            created: 0,
            updated: 0,
            deleted: 0,
        };
        for touched in &self.work.touched {
            let before = touched
                .before
                .as_ref()
                .filter(|e| !e.expired(self.at.now_ms));
            match (before, self.after(touched)) {
                (None, Some(_)) => outcome.created += 1,
                (Some(_), Some(_)) => outcome.updated += 1,
                (Some(_), None) => outcome.deleted += 1,
                (None, None) => {}
            }
        }
        if self.changes() > 0 {
            outcome.revision = self.revision();
        }
        outcome
    }

    /// Removes an entry whose time is over.
    pub(crate) fn expire(&mut self, entry: &Entry) {
        self.remove(entry.key());
    }

    fn live(&self, key: &[u8]) -> Option<Packed<'_>> {
        self.index
            .peek(key)
            .filter(|entry| !entry.expired(self.at.now_ms))
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes + 64;
        if self.bytes > MAX_BATCH {
            return Err(Error::new(
                Code::TooLarge,
                format!("a batch holds at most {MAX_BATCH} bytes of keys and values"),
            ));
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8], expires_at: Option<u64>) -> Result<()> {
        self.charge(key.len() + value.len())?;
        let revision = self.revision();
        let mut touched = false;
        let mut origin = self.live(key).map(Packed::unpack);
        if origin.is_none() {
            // A deletion that this set makes redundant never happened.
            origin = self.work.removed.get(key).map(|removed| {
                touched = true;
                removed.unpack()
            });
        }
        let (created, version) = match origin {
            None => (revision, 1),
            Some(entry) if entry.modified == revision => {
                touched = true;
                (entry.created, entry.version)
            }
            Some(entry) => (entry.created, entry.version + 1),
        };
        let fields = EntryRef {
            key,
            value,
            created,
            modified: revision,
            version,
            expires_at,
        };
        let entry = Entry::pack(&fields, &mut self.work.scratch);
        let before = self.index.insert(&entry);
        if touched
            || before
                .as_ref()
                .is_some_and(|before| before.modified() == revision)
        {
            self.work.again.insert(key.into());
        } else {
            self.work.touch(entry, true, before);
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.index.remove(key) {
            if entry.modified() == self.revision() {
                self.work.again.insert(key.into());
            } else {
                self.work.touch(entry.clone(), false, Some(entry.clone()));
            }
            self.work.removed.insert(entry);
        }
    }

    /// What a key came to. A large batch finds it where it left it, and not by a look into the index for each.
    fn after<'b>(&'b self, touched: &'b Touched) -> Option<Packed<'b>> {
        let key = touched.entry.key();
        if !self.work.again.is_empty() && self.work.again.contains(key) {
            return self.index.peek(key);
        }
        touched.set.then(|| touched.entry.packed())
    }

    fn changes(&self) -> usize {
        self.work
            .touched
            .iter()
            .filter(|t| t.before.is_some() || self.after(t).is_some())
            .count()
    }

    /// Appends the batch to a payload. Redundant operations are gone: each key is named once, with
    /// what it came to.
    pub(crate) fn encode(&self, expiry: bool, payload: &mut Vec<u8>) -> Result<Encoded> {
        let changes = self.changes();
        if changes == 0 {
            return Ok(Encoded::Nothing);
        }
        let mut sets = false;
        let mut ops = Vec::with_capacity(changes);
        for touched in &self.work.touched {
            let key = touched.entry.key();
            match self.after(touched) {
                Some(entry) => {
                    sets = true;
                    ops.push(entry.unpack().as_op());
                }
                None if touched.before.is_none() => {}
                None if expiry => ops.push(Op::Expire { key }),
                None => ops.push(Op::Delete { key }),
            }
        }
        record::put_batch(
            payload,
            self.revision(),
            self.at.now_ms,
            self.actor.as_deref(),
            ops.into_iter(),
        )?;
        Ok(if sets {
            Encoded::Sets
        } else {
            Encoded::Deletes
        })
    }
}

/// What a batch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoded {
    Nothing,
    /// Only deletions, which need no space but their frame's.
    Deletes,
    Sets,
}

impl Workspace {
    /// Puts everything back as it was before the batch, and empties the workspace.
    pub fn undo(&mut self, index: &mut Index) {
        for touched in self.touched.drain(..).rev() {
            match touched.before {
                Some(before) => drop(index.insert(&before)),
                None => drop(index.remove(touched.entry.key())),
            }
        }
        self.finish();
    }

    /// What an index is without the batch.
    pub fn without(&self, index: &Index) -> Index {
        let mut index = index.clone();
        for touched in self.touched.iter().rev() {
            match &touched.before {
                Some(before) => drop(index.insert(before)),
                None => drop(index.remove(touched.entry.key())),
            }
        }
        index
    }

    /// Notes that a key is touched for the first time.
    fn touch(&mut self, entry: Entry, set: bool, before: Option<Entry>) {
        self.replaced += before.as_ref().map_or(0, Entry::footprint);
        self.touched.push(Touched { entry, set, before });
    }

    /// Memory of what the batch replaces.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Ends the batch and empties the workspace; returns the memory of what it replaced.
    pub fn finish(&mut self) -> u64 {
        self.removed.clear();
        self.touched.clear();
        self.again.clear();
        std::mem::take(&mut self.replaced)
    }
}

/// Refuses keys that are empty or too long.
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(Error::new(
            Code::InvalidKey,
            format!("a key is 1 to {MAX_KEY} bytes long, not {}", key.len()),
        ));
    }
    Ok(())
}

fn check_value(value: &[u8], max: usize) -> Result<()> {
    if value.len() > max {
        return Err(Error::new(
            Code::TooLarge,
            format!(
                "the value has {} bytes; at most {max} are allowed",
                value.len()
            ),
        ));
    }
    Ok(())
}
