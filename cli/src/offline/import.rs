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
    output::{self, Format},
};

/// Entries in one batch.
const MANY: usize = 4096;
/// Bytes of keys and values in one batch.
const BATCH: usize = 4 << 20;

/// What was done.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
struct Done {
    created: u64,
    replaced: u64,
    skipped: u64,
    expired: u64,
    /// Lines, rows or the like up to this one are done.
    #[serde(skip)]
    upto: u64,
}

/// `import`.
pub fn import(args: &Import, format: Format) -> Result<()> {
    let unit = source::unit(args);
    let encryption = args.keys.encryption()?;
    if args.data.dir.exists() {
        args.data.there()?;
    }
    // Before the directory is made: a source that is not there makes no store.
    let records = source::open(args)?;
    let mut options = Options::new(encryption);
    options.max_value = record::MAX_VALUE;
    if args.data.dir.exists()
        && let Some(strategy) = offline::strategy(&args.data.dir)?
    {
        options.strategy = strategy;
    }
    if source::seekable(args) {
        check(args, unit)?;
    }
    let store = Store::open(&args.data.dir, options)?;
    if source::seekable(args) && args.on_conflict == Conflict::Fail {
        no_conflict(args, unit, &store)?;
    }
    let mut work = Work {
        store: &store,
        conflict: args.on_conflict,
        done: Done::default(),
        batch: Vec::new(),
        bytes: 0,
    };
    let bar = Bar::of_entries("importing");
    let result = work.all(args, unit, records, &bar);
    drop(bar);
    let done = work.done;
    let revision = store.status().revision;
    // What was acknowledged is on disk, whatever follows.
    let closed = store.close();
    result.map_err(|e| e.context(progress_of(&done, unit)))?;
    closed?;
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

fn no_conflict(args: &Import, unit: &str, store: &Store) -> Result<()> {
    for (number, record) in source::open(args)? {
        let record = record.and_then(|record| admit(record, args));
        let record = record.map_err(|what| wrong(unit, number, &what))?;
        if let Some(record) = record
            && store.has(&record.key)?
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
    store: &'a Store,
    conflict: Conflict,
    done: Done,
    batch: Vec<(u64, Record)>,
    bytes: usize,
}

impl Work<'_> {
    fn all(
        &mut self,
        args: &Import,
        unit: &str,
        records: source::Records,
        bar: &Bar,
    ) -> Result<()> {
        for (number, record) in records {
            let record = record.and_then(|record| admit(record, args));
            let record = match record {
                Ok(record) => record,
                Err(what) => {
                    self.flush(unit)?;
                    return Err(wrong(unit, number, &what));
                }
            };
            let Some(record) = record else { continue };
            self.bytes += record.key.len() + record.value.len();
            self.batch.push((number, record));
            if self.bytes >= BATCH || self.batch.len() >= MANY {
                self.flush(unit)?;
                bar.count(self.done.upto);
            }
        }
        self.flush(unit)
    }

    /// One batch: all of it, or nothing.
    fn flush(&mut self, unit: &str) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let Some((last, _)) = batch.last() else {
            return Ok(());
        };
        let last = *last;
        let conflict = self.conflict;
        let mut done = self.done;
        let at = Arc::new(AtomicU64::new(0));
        let place = at.clone();
        let result = self.store.run(move |txn: &mut Txn<'_>| {
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
