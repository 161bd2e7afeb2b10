//! `import`: entries from elsewhere into a store.

use std::{
    os::unix::ffi::OsStrExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use codexstore::{Code, Options, Store, Txn, format::record, offline};

use super::{
    args::{Conflict, Import},
    progress::Bar,
    source::{self, Record},
};
use crate::{
    failure::Coded,
    kv::transfer::Live,
    output::{self, Format},
};

/// Entries in one batch.
const MANY: usize = 4096;
/// The same where it goes over a socket.
const MANY_LIVE: usize = 1000;
/// Bytes of keys and values in one batch.
const BATCH: usize = 4 << 20;
/// The same where it goes over a socket, which takes less at a time.
const BATCH_LIVE: usize = 256 << 10;

/// What was done.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Done {
    /// Keys that are new.
    pub created: u64,
    /// Keys that have another value.
    pub replaced: u64,
    /// Keys that were there and were left alone.
    pub skipped: u64,
    /// Entries that had expired before they came.
    pub expired: u64,
    /// Lines, rows or the like up to this one are done.
    #[serde(skip)]
    upto: u64,
}

/// `import`.
pub async fn import(args: &Import, format: Format) -> Result<()> {
    let unit = source::unit(args);
    // Before the directory is made: a source that is not there makes no store.
    let records = source::open(args)?;
    if source::seekable(args) {
        check(args, unit)?;
    }
    let target = Target::open(args)?;
    if source::seekable(args) && args.on_conflict == Conflict::Fail {
        no_conflict(args, unit, &target).await?;
    }
    let mut work = Work {
        target: &target,
        conflict: args.on_conflict,
        done: Done::default(),
        batch: Vec::new(),
        bytes: 0,
    };
    let bar = Bar::of_entries("importing");
    let result = work.all(args, unit, records, &bar).await;
    drop(bar);
    let done = work.done;
    // What was acknowledged is on disk, whatever follows.
    let closed = target.close().await;
    result.map_err(|e| e.context(progress_of(&done, unit)))?;
    let revision = closed?;
    match format {
        Format::Table => output::line(&format!(
            "{} created, {} replaced, {} skipped, {} expired before they came",
            done.created, done.replaced, done.skipped, done.expired
        )),
        Format::Json => {
            let mut json = serde_json::to_value(done).context("make JSON")?;
            if let Some(fields) = json.as_object_mut() {
                fields.insert("revision".to_owned(), revision.into());
            }
            output::json(&json)
        }
    }
}

/// Reads everything once, where that can be read again: nothing is written then if anything is wrong.
fn check(args: &Import, unit: &str) -> Result<()> {
    for (number, record) in source::open(args)? {
        let record = record.and_then(|record| admit(record, args));
        record.map_err(|what| wrong(unit, number, &what))?;
    }
    Ok(())
}

/// Where entries go.
enum Target {
    /// A store that nobody else has open.
    Store(Store),
    /// One that runs.
    Live(Live),
}

impl Target {
    fn open(args: &Import) -> Result<Target> {
        let dir = &args.data.dir;
        if args.data.is_live() {
            args.keys.none_for_live()?;
            return Ok(Target::Live(Live::new(dir)));
        }
        let mut options = Options::new(args.keys.needed()?);
        options.max_value = record::MAX_VALUE;
        if dir.exists() {
            args.data.there()?;
            if let Some(strategy) = offline::strategy(dir)? {
                options.strategy = strategy;
            }
        }
        Ok(Target::Store(Store::open(dir, options)?))
    }

    async fn has(&self, key: &[u8]) -> Result<bool> {
        match self {
            Target::Store(store) => Ok(store.has(key)?),
            Target::Live(live) => live.has(key).await,
        }
    }

    /// Most entries and bytes in one batch.
    fn most(&self) -> (usize, usize) {
        match self {
            Target::Store(_) => (MANY, BATCH),
            Target::Live(_) => (MANY_LIVE, BATCH_LIVE),
        }
    }

    /// The revision that it has come to.
    async fn close(self) -> Result<u64> {
        match self {
            Target::Store(store) => {
                let revision = store.status().revision;
                store.close()?;
                Ok(revision)
            }
            Target::Live(live) => live.revision().await,
        }
    }
}

async fn no_conflict(args: &Import, unit: &str, target: &Target) -> Result<()> {
    for (number, record) in source::open(args)? {
        let record = record.and_then(|record| admit(record, args));
        let record = record.map_err(|what| wrong(unit, number, &what))?;
        if let Some(record) = record
            && target.has(&record.key).await?
        {
            return Err(there(unit, number).context("nothing was imported"));
        }
    }
    Ok(())
}

fn wrong(unit: &str, number: u64, what: &str) -> anyhow::Error {
    Coded::invalid(format!("{unit} {number}: {what}")).into()
}

fn there(unit: &str, number: u64) -> anyhow::Error {
    Coded::conflict(format!(
        "{unit} {number}: its key is there already; --on-conflict skip or replace goes on"
    ))
    .into()
}

/// What went wrong with a batch.
fn among(error: anyhow::Error, unit: &str, first: u64, last: u64) -> anyhow::Error {
    let there = error
        .downcast_ref::<codexstore_api::Error>()
        .is_some_and(|error| error.is("precondition-failed"));
    if there {
        return Coded::conflict(format!(
            "{unit}s {first} to {last}: one of their keys is there already; --on-conflict skip or replace goes on"
        ))
        .into();
    }
    error.context(format!("{unit}s {first} to {last}"))
}

fn progress_of(done: &Done, unit: &str) -> String {
    if done.upto == 0 {
        return "nothing was imported".to_owned();
    }
    format!(
        "imported up to {unit} {}: {} created, {} replaced, {} skipped, {} expired; nothing behind it",
        done.upto, done.created, done.replaced, done.skipped, done.expired
    )
}

/// The record as it goes in, if it is wanted.
fn admit(record: Record, args: &Import) -> Result<Option<Record>, String> {
    let mut record = record;
    if let Some(prefix) = &args.prefix
        && !record.key.starts_with(prefix.as_bytes())
    {
        return Ok(None);
    }
    if let Some(prefix) = &args.add_prefix {
        record.key = [prefix.as_bytes(), &record.key].concat();
    }
    if record.key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    if record.key.len() > record::MAX_KEY {
        return Err(format!(
            "the key has {} bytes; at most {}",
            record.key.len(),
            record::MAX_KEY
        ));
    }
    if record.value.len() > record::MAX_VALUE {
        return Err(format!(
            "the value has {} bytes; at most {}",
            record.value.len(),
            record::MAX_VALUE
        ));
    }
    Ok(Some(record))
}

struct Work<'a> {
    target: &'a Target,
    conflict: Conflict,
    done: Done,
    batch: Vec<(u64, Record)>,
    bytes: usize,
}

impl Work<'_> {
    async fn all(
        &mut self,
        args: &Import,
        unit: &str,
        records: source::Records,
        bar: &Bar,
    ) -> Result<()> {
        let (many, bytes) = self.target.most();
        for (number, record) in records {
            let record = record.and_then(|record| admit(record, args));
            let record = match record {
                Ok(record) => record,
                Err(what) => {
                    self.flush(unit).await?;
                    return Err(wrong(unit, number, &what));
                }
            };
            let Some(record) = record else { continue };
            self.bytes += record.key.len() + record.value.len();
            self.batch.push((number, record));
            if self.bytes >= bytes || self.batch.len() >= many {
                self.flush(unit).await?;
                bar.count(self.done.upto);
            }
        }
        self.flush(unit).await
    }

    /// One batch: all of it, or nothing.
    async fn flush(&mut self, unit: &str) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let Some((last, _)) = batch.last() else {
            return Ok(());
        };
        let last = *last;
        let store = match self.target {
            Target::Store(store) => store,
            Target::Live(live) => {
                let first = batch.first().map_or(last, |(number, _)| *number);
                let records = batch.into_iter().map(|(_, record)| record).collect();
                let put = live.put(records, self.conflict, &mut self.done).await;
                put.map_err(|error| among(error, unit, first, last))?;
                self.done.upto = last;
                return Ok(());
            }
        };
        let conflict = self.conflict;
        let mut done = self.done;
        let at = Arc::new(AtomicU64::new(0));
        let place = at.clone();
        let result = store.run(move |txn: &mut Txn<'_>| {
            for (number, record) in &batch {
                place.store(*number, Ordering::Relaxed);
                put(txn, record, conflict, &mut done)?;
            }
            Ok(done)
        });
        let number = at.load(Ordering::Relaxed);
        match result {
            Ok(done) => {
                self.done = Done { upto: last, ..done };
                Ok(())
            }
            Err(error) if error.is(Code::PreconditionFailed) => Err(there(unit, number)),
            Err(error) => Err(error.context(format!("{unit} {number}")).into()),
        }
    }
}

fn put(
    txn: &mut Txn<'_>,
    record: &Record,
    conflict: Conflict,
    done: &mut Done,
) -> codexstore::Result<()> {
    if record.expires_at.is_some_and(|at| at <= txn.now_ms()) {
        done.expired += 1;
        return Ok(());
    }
    let there = txn.get(&record.key)?.is_some();
    match (there, conflict) {
        (false, _) => done.created += 1,
        (true, Conflict::Replace) => done.replaced += 1,
        (true, Conflict::Skip) => {
            done.skipped += 1;
            return Ok(());
        }
        (true, Conflict::Fail) => {
            return Err(codexstore::Error::new(
                Code::PreconditionFailed,
                "the key is there",
            ));
        }
    }
    txn.set(&record.key, &record.value)?;
    if let Some(at) = record.expires_at {
        txn.expire_at(&record.key, Some(at))?;
    }
    Ok(())
}
