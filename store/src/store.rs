//! The store as callers see it.

use std::ops::ControlFlow;
use std::path::Path;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::anchor::Anchor;
use crate::batch::{Batch, Committed, Expect, SetOptions};
use crate::commit::{Committer, Parcel};
use crate::disk::{Disk, OsDisk};
use crate::entry::Entry;
use crate::env::Env;
use crate::error::{Code, Error, Result};
use crate::format::Cipher;
use crate::format::record::EntryRef;
use crate::gate::Slot;
use crate::index::{SoFar, View};
use crate::keyring::{Encryption, Keyring};
use crate::layout::{self, Name};
use crate::options::{Options, Strategy};
use crate::scan::{Page, Scan};
use crate::shared::{Shared, Waiters};
use crate::snapshot::Snapshot;
use crate::stats::Stats;
use crate::task::Background;
use crate::txn::{Program, Txn, check_key};
use crate::watch::Watch;
use crate::worker::Worker;

/// Keys deleted in one batch by [`Store::delete_prefix`].
const DELETE_SLICE: usize = 4096;

/// A handle to an open store: cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    committer: Committer,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`.
        let _result = self.committer.close();
    }
}

impl Store {
    /// Opens the store in `dir`, which is made if it does not exist.
    ///
    /// Fails with `locked` if another handle or process has it open, with a kind of Encryption if
    /// a key is wrong or missing (nothing is modified then), with `corrupt` if the files cannot be
    /// what a store left behind.
    pub fn open(dir: &Path, options: Options) -> Result<Store> {
        Store::open_telling(dir, options, &mut |_, _| {})
    }

    /// The same, and tells how many bytes of how many are read.
    pub(crate) fn open_telling(
        dir: &Path,
        options: Options,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<Store> {
        options.validate()?;
        Store::start(Arc::new(OsDisk::open(dir)?), Env::system(), options, tell)
    }

    /// Whether there is a store in `dir`, or what an unfinished restore left of one. Changes nothing.
    pub fn exists(dir: &Path) -> Result<bool> {
        let list = || format!("list {}", dir.display());
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            entries => entries.map_err(|e| Error::io(list(), e))?,
        };
        for entry in entries {
            let name = entry.map_err(|e| Error::io(list(), e))?.file_name();
            if layout::parse(&name.to_string_lossy()) != Name::Other {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens the store on a disk and in an environment of the caller's: for simulations.
    pub fn open_on(disk: Arc<dyn Disk>, env: Env, options: Options) -> Result<Store> {
        Store::start(disk, env, options, &mut |_, _| {})
    }

    fn start(
        disk: Arc<dyn Disk>,
        env: Env,
        options: Options,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<Store> {
        let (engine, queue) = crate::open::open(disk, env, options, tell, |seat| {
            let (worker, queue) = Worker::start(seat)?;
            Ok((Box::new(worker) as Box<dyn Background>, queue))
        })?;
        let shared = engine.shared.clone();
        let committer = Committer::start(engine, queue)?;
        Ok(Store {
            inner: Arc::new(Inner { shared, committer }),
        })
    }

    /// The entry of a key. Never waits for the disk or a writer.
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        check_key(key)?;
        let found = self.inner.shared.view.load().index.get(key);
        match found {
            // Its time may have come after another write had replaced it: look at both at once.
            Some(entry) if entry.expires_at().is_some_and(|at| at <= self.now_ms()) => {
                let (view, now) = self.present();
                Ok(view.index.live_entry(key, || now))
            }
            found => Ok(found),
        }
    }

    /// True if the key is there.
    pub fn has(&self, key: &[u8]) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// The present as a point in time, for reads that must agree with each other.
    pub fn snapshot(&self) -> Snapshot {
        let (view, now) = self.present();
        Snapshot::new(view, now)
    }

    /// Number of live keys.
    pub fn len(&self) -> u64 {
        let (view, now) = self.present();
        view.index.live(now)
    }

    /// True without live keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All keys that begin with `prefix`, at one point in time.
    pub fn keys(&self, prefix: &[u8]) -> Result<Vec<Bytes>> {
        let (view, now) = self.present();
        Ok(view.index.keys(prefix, now))
    }

    /// One page of entries.
    pub fn scan(&self, scan: &Scan) -> Result<Page> {
        self.scan_all(slice::from_ref(scan))
    }

    /// One page of the entries of several scans, one scan behind the other, at one point in time. Each
    /// scan's limits hold for what it and those before it show. A page that ends early has a cursor,
    /// which is meant for all of the scans.
    pub fn scan_all(&self, scans: &[Scan]) -> Result<Page> {
        let (view, now) = self.present();
        view.index.page(scans, view.revision, now)
    }

    /// Shows the entries of a scan to `each`, in order and as they are at one point in time, until it
    /// breaks off; the revision that they are of. Copies and shares nothing, so it is several times as
    /// fast as [`Store::scan`]; writers go on meanwhile, and what they replace stays in memory until
    /// this returns.
    pub fn visit(
        &self,
        scan: &Scan,
        mut each: impl FnMut(EntryRef<'_>) -> ControlFlow<()>,
    ) -> Result<u64> {
        let (view, now) = self.present();
        view.index.walk(scan, now, &mut SoFar::default(), |spot| {
            each(spot.packed().unpack())
        })?;
        Ok(view.revision)
    }

    /// Sets a key, without expiry.
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<Committed> {
        self.set_with(key, value, SetOptions::default())
    }

    /// Sets a key.
    pub fn set_with(&self, key: &[u8], value: &[u8], options: SetOptions) -> Result<Committed> {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.commit(Batch::new().set_with(key, value, options))
    }

    /// Sets a key if the expectation holds, else fails with `precondition-failed`.
    pub fn compare_and_set(&self, key: &[u8], expect: Expect, value: &[u8]) -> Result<Committed> {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        // As a batch, it counts with its size while it waits in the queue.
        self.commit(Batch::new().expect(key.clone(), expect).set(key, value))
    }

    /// Deletes a key; deleting what is not there changes nothing.
    pub fn delete(&self, key: &[u8]) -> Result<Committed> {
        self.commit(Batch::new().delete(Bytes::copy_from_slice(key)))
    }

    /// Deletes every key that begins with `prefix` and says how many. Large sets go in several
    /// batches, each atomic; keys that are set meanwhile may stay.
    pub fn delete_prefix(&self, prefix: &[u8]) -> Result<u64> {
        let mut deleted = 0;
        let mut cursor = None;
        loop {
            let mut scan = Scan::prefix(Bytes::copy_from_slice(prefix));
            scan.limit = DELETE_SLICE;
            scan.cursor = cursor;
            let (count, next) = self.run(move |txn: &mut Txn<'_>| {
                let page = txn.scan(&scan)?;
                for entry in &page.items {
                    txn.delete(entry.key())?;
                }
                Ok((page.items.len() as u64, page.cursor))
            })?;
            deleted += count;
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(deleted),
            }
        }
    }

    /// Deletes every key and says how many: see [`Store::delete_prefix`].
    pub fn clear(&self) -> Result<u64> {
        self.delete_prefix(b"")
    }

    /// The value of a key, from JSON.
    pub fn get_as<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        let Some(entry) = self.get(key)? else {
            return Ok(None);
        };
        // The parser's message may quote the value.
        let wrong = |e: serde_json::Error| {
            Error::new(
                Code::WrongType,
                format!(
                    "the value is not JSON of the type asked for (column {})",
                    e.column()
                ),
            )
        };
        serde_json::from_slice(entry.value())
            .map(Some)
            .map_err(wrong)
    }

    /// Sets a key to a value as JSON.
    pub fn set_as<T: Serialize>(&self, key: &[u8], value: &T) -> Result<Committed> {
        let value = serde_json::to_vec(value).map_err(|_| {
            Error::new(Code::InvalidArgument, "the value cannot be written as JSON")
        })?;
        self.commit(Batch::new().set(Bytes::copy_from_slice(key), value))
    }

    /// Commits a batch and waits until it is as durable as the store promises.
    pub fn commit(&self, batch: Batch) -> Result<Committed> {
        self.run(batch)
    }

    /// Runs a program and waits for its answer: on this thread, if no other writer is there, else
    /// in the committer.
    pub fn run<P: Program>(&self, program: P) -> Result<P::Output> {
        if let Some(error) = self.inner.shared.poison() {
            return Err(error.clone());
        }
        let slot = Slot::default();
        let answer = slot.clone();
        let job = Parcel::new(program, move |result| *answer.lock() = Some(result));
        let gate = self.inner.committer.lead(job);
        gate.wait(&slot)
    }

    /// Hands a program to the committer and returns at once; `done` is called exactly once, from
    /// the committer's thread or from this one. `done` must not block. On this one: when the program
    /// is refused (`overloaded`, `poisoned`, `closed`); and when nobody else writes, it
    /// [is brief](Program::is_brief), and durability is an interval, so that no sync holds up the caller.
    pub fn submit<P: Program>(
        &self,
        program: P,
        done: impl FnOnce(Result<P::Output>) + Send + 'static,
    ) {
        self.hand_in([(program, done)], false);
    }

    /// The same for all programs that came together, as one group: they are run in this order, and
    /// share a sync unless there are more than the log takes in one frame. They are run here also
    /// where syncs are so quick of late that this holds up the caller for less than 0.3 ms, as far
    /// as can be known.
    pub fn submit_all<P: Program>(
        &self,
        programs: impl IntoIterator<Item = (P, impl FnOnce(Result<P::Output>) + Send + 'static)>,
    ) {
        self.hand_in(programs, true);
    }

    fn hand_in<P: Program>(
        &self,
        programs: impl IntoIterator<Item = (P, impl FnOnce(Result<P::Output>) + Send + 'static)>,
        gathered: bool,
    ) {
        let programs = programs.into_iter();
        if let Some(error) = self.inner.shared.poison() {
            programs.for_each(|(_, done)| done(Err(error.clone())));
            return;
        }
        let jobs = programs.map(|(program, done)| Parcel::new(program, done));
        self.inner.committer.submit(jobs.collect(), gathered);
    }

    /// Watches keys that begin with `prefix`, from revision `from` on, or from now on: every batch
    /// that touches them, in order and without a gap. After a restart, watch again from
    /// [`Watch::resume_at`]. `past-gone` if the log does not reach back that far any more, with the
    /// current revision in the message: read everything then, and watch from there.
    pub fn watch(&self, from: Option<u64>, prefix: impl Into<Bytes>) -> Result<Watch> {
        Watch::new(self.inner.shared.clone(), from, prefix.into())
    }

    /// Where the log stands on disk: to be kept elsewhere, and given to [`Options::anchor`] later.
    pub fn anchor(&self) -> Anchor {
        let shared = &self.inner.shared;
        let durable = shared.feed.durable();
        Anchor {
            store: shared.seat.store,
            epoch: shared.seat.epoch,
            revision: durable.revision,
            link: durable.link,
        }
    }

    /// Puts a waiter among those that the committer answers, and waits. Fails with why the store is poisoned, or with `closed` before
    /// `what`, where there is no answer.
    pub(crate) fn ask<T>(&self, waiters: &Waiters<T>, what: &str) -> Result<T> {
        let (answer, waiter) = std::sync::mpsc::channel();
        waiters.lock().push(answer);
        // Wakes the committer.
        self.run(|_: &mut Txn<'_>| Ok(()))?;
        waiter.recv().unwrap_or_else(|_| {
            let closed = || Error::new(Code::Closed, format!("the store was closed before {what}"));
            Err(self.shared().poison().cloned().unwrap_or_else(closed))
        })
    }

    /// What readers share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// State and counters.
    pub fn status(&self) -> Stats {
        let shared = &self.inner.shared;
        let seat = &shared.seat;
        let view = shared.view.load();
        let gauges = *shared.gauges.lock();
        let keys = shared.keys.lock();
        let key_id = keys.current.clone();
        let needed_keys = keys.needed.clone();
        drop(keys);
        let now_ms = seat.time.now_ms();
        let encryption = seat.encryption.lock();
        let cipher = match &*encryption {
            Encryption::None => Cipher::None,
            _ => Cipher::AesGcm(seat.options.key_size),
        };
        let loaded_keys = encryption.key_ids();
        drop(encryption);
        let durable = shared.feed.durable();
        Stats {
            strategy: seat.options.strategy.as_str(),
            anchor: (seat.options.strategy == Strategy::Ledger).then(|| self.anchor()),
            first_revision: durable.log.first_revision().max(1),
            log_bytes: durable.log.files().map(|file| file.len).sum(),
            poisoned: shared.poison().cloned(),
            findings: shared.findings.clone(),
            revision: view.revision,
            lineage: seat.lineage.0,
            epoch: seat.epoch,
            keys: view.index.live(now_ms),
            bytes: view.index.bytes(),
            disk_bytes: gauges.disk_bytes,
            max_disk: seat.options.max_disk,
            memory_bytes: gauges.memory_bytes,
            max_memory: seat.options.max_memory,
            journal_bytes: gauges.journal_bytes,
            cipher: cipher.as_str(),
            key_id,
            loaded_keys,
            needed_keys,
            now_ms,
            clock_jump_ms: seat.time.jump_ms(),
            queued: self.inner.committer.queue.len() as u64,
            commits: gauges.commits,
            groups: gauges.groups,
            syncs: gauges.syncs,
            sync_nanos: gauges.sync_nanos,
            sync_times: gauges.sync_times,
            image_bytes: gauges.image_bytes,
            folds: gauges.folds,
            expired: gauges.expired,
            data_key_messages: gauges.messages,
            max_data_key_messages: seat.options.max_frames / 2,
            key_wraps: seat.wraps.load(Ordering::Relaxed),
            log_number: gauges.log_number,
        }
    }

    /// The store's time: milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.inner.shared.seat.time.now_ms()
    }

    /// This line of history: part of an `ETag`.
    pub fn lineage(&self) -> u64 {
        self.inner.shared.seat.lineage.0
    }

    /// Replaces the keyring. New files are wrapped with its current key; nothing is rewritten.
    /// Refused, and the old one kept, if it lacks a key that the store's files need
    /// (`key-missing`), or holds other bytes under an id that is loaded (`wrong-key`): old files
    /// would need the one key and new files the other, so that no keyring opened both.
    pub fn reload_keyring(&self, keyring: Keyring) -> Result<()> {
        self.inner.shared.reload_keyring(keyring)
    }

    /// Believes the wall clock after a jump: see [`Options::max_clock_jump`].
    pub fn accept_clock(&self) -> Result<()> {
        self.inner.shared.seat.time.accept();
        // Wakes the committer, which looks for what has expired.
        self.run(|_: &mut Txn<'_>| Ok(()))
    }

    /// Commits what was submitted, ends the log with a closing frame, and unlocks the directory.
    /// Other handles then answer `closed` to writes. The last handle dropped does the same,
    /// silently.
    pub fn close(self) -> Result<()> {
        self.inner.committer.close()
    }

    /// What there is, and a time at which it is. A time that was read behind a view may be one at which
    /// that view was gone: an entry would seem expired that another had replaced before.
    fn present(&self) -> (Arc<View>, u64) {
        let shared = &self.inner.shared;
        let mut view = shared.view.load_full();
        loop {
            let now = self.now_ms();
            let after = shared.view.load_full();
            if Arc::ptr_eq(&view, &after) {
                return (view, now);
            }
            view = after;
        }
    }
}
