//! Reading the log while it is written: what was committed, in order and without a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::disk::DiskFile;
use crate::entry::Entry;
use crate::error::{Code, Error, Result};
use crate::feed::{Durable, Log};
use crate::format::record::{self, Op};
use crate::format::{self, FRAMES_AT, FileId, Reader, Source, Step};
use crate::journal::LogFile;
use crate::layout;
use crate::shared::Shared;

/// One committed batch.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its revision.
    pub revision: u64,
    /// The store's time when it was committed: milliseconds since 1970.
    pub time_ms: u64,
    /// Who did it, if they said: see [`crate::Batch::actor`].
    pub actor: Option<String>,
    /// What it came to, each key once.
    pub ops: Vec<ChangeOp>,
}

/// What a batch did to one key.
#[derive(Debug, Clone)]
pub enum ChangeOp {
    /// It was set: its whole new state.
    Set(Entry),
    /// It was deleted.
    Delete(Bytes),
    /// Its time was over.
    Expire(Bytes),
}

impl ChangeOp {
    /// The key.
    pub fn key(&self) -> &[u8] {
        match self {
            ChangeOp::Set(entry) => entry.key(),
            ChangeOp::Delete(key) | ChangeOp::Expire(key) => key,
        }
    }

    /// The same as it stands in a batch.
    pub(crate) fn as_op(&self) -> Op<'_> {
        match self {
            ChangeOp::Set(entry) => entry.unpack().as_op(),
            ChangeOp::Delete(key) => Op::Delete { key },
            ChangeOp::Expire(key) => Op::Expire { key },
        }
    }
}

impl Change {
    fn unpack(batch: &record::Batch<'_>) -> Change {
        let mut scratch = Vec::new();
        let key = |op: &Op<'_>| Bytes::copy_from_slice(op.key());
        let ops = batch.ops.iter().map(|op| match op.entry(batch.revision) {
            Some(entry) => ChangeOp::Set(Entry::pack(&entry, &mut scratch)),
            None if matches!(op, Op::Expire { .. }) => ChangeOp::Expire(key(op)),
            None => ChangeOp::Delete(key(op)),
        });
        Change {
            revision: batch.revision,
            time_ms: batch.time_ms,
            actor: batch.actor.map(str::to_owned),
            ops: ops.collect(),
        }
    }
}

/// Goes through the log. It holds the batches of one frame, and one open file.
pub(crate) struct LogCursor {
    shared: Arc<Shared>,
    /// The lowest revision that is still to come.
    next: u64,
    file: Option<OpenLog>,
    payload: Bytes,
    at: usize,
    /// Payloads that memory gave in a row.
    from_memory: u32,
}

/// Where a cursor stands while nobody reads on. It does not keep the store.
pub(crate) struct Parked {
    next: u64,
    file: Option<OpenLog>,
    payload: Bytes,
    at: usize,
}

/// Most bytes of a frame that are kept while nobody reads on.
const PARKED: usize = 1 << 20;

/// Payloads from memory after which the file is closed.
const KEEP_OPEN: u32 = 64;

/// Bytes of a payload from which on nothing is kept of what was read ahead.
const LARGE: usize = 64 << 10;

/// A log file that is being read.
struct OpenLog {
    file: FileId,
    name: String,
    /// Sequence of its last frame; none while it is written to.
    end: Option<u64>,
    reader: Reader<Bounded>,
    bound: Arc<AtomicU64>,
    /// The revision of the next batch in it.
    expect: u64,
}

/// A file up to what is durable of it.
pub(crate) struct Bounded {
    file: Arc<dyn DiskFile>,
    bound: Arc<AtomicU64>,
}

impl Bounded {
    /// That file up to that bound, which may grow.
    pub fn new(file: Arc<dyn DiskFile>, bound: Arc<AtomicU64>) -> Bounded {
        Bounded { file, bound }
    }

    /// How long it is.
    pub fn len_on_disk(&self) -> Result<u64> {
        self.file.len().map_err(|e| Error::io("length", e))
    }
}

impl Source for Bounded {
    fn len(&self) -> Result<u64> {
        Ok(self.bound.load(Ordering::Relaxed))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file
            .read_at(offset, buf)
            .map_err(|e| Error::io(format!("read at {offset}"), e))
    }
}

impl LogCursor {
    /// A cursor before `next`.
    pub fn new(shared: Arc<Shared>, next: u64) -> LogCursor {
        LogCursor {
            shared,
            next,
            file: None,
            payload: Bytes::new(),
            at: 0,
            from_memory: 0,
        }
    }

    /// Goes on where one was parked before `next`; a new one if none was.
    pub fn resume(shared: Arc<Shared>, parked: Option<Parked>, next: u64) -> LogCursor {
        let mut cursor = LogCursor::new(shared, next);
        if let Some(parked) = parked.filter(|parked| parked.next == next) {
            cursor.file = parked.file;
            cursor.payload = parked.payload;
            cursor.at = parked.at;
        }
        cursor
    }

    /// Leaves it for later, unless it holds much.
    pub fn park(self) -> Option<Parked> {
        (self.payload.len() <= PARKED).then_some(Parked {
            next: self.next,
            file: self.file,
            payload: self.payload,
            at: self.at,
        })
    }

    /// The revision that it waits for.
    pub fn wants(&self) -> u64 {
        self.next
    }

    /// True if the next batch is durable and not in memory.
    pub fn is_behind(&self) -> bool {
        let rest = self.payload.get(self.at..).unwrap_or_default();
        rest.is_empty()
            && self.shared.feed.durable().revision >= self.next
            && self.shared.feed.recent(self.next).is_none()
    }

    /// The next batch that is durable; `None` if there is none yet.
    pub fn next(&mut self) -> Result<Option<Change>> {
        loop {
            if let Some(change) = self.decode()? {
                return Ok(Some(change));
            }
            if let Some(recent) = self.shared.feed.recent(self.next) {
                // The file, if one is open, is read on from there should memory not suffice.
                self.payload = recent.payload;
                self.at = 0;
                self.from_memory += 1;
                if self.from_memory >= KEEP_OPEN {
                    self.file = None;
                    self.from_memory = 0;
                }
            } else if !self.read()? {
                return Ok(None);
            }
        }
    }

    /// The next batch of the payload.
    fn decode(&mut self) -> Result<Option<Change>> {
        while let Some(rest) = self.payload.get(self.at..).filter(|rest| !rest.is_empty()) {
            let (batch, len) = record::first_batch(rest)?;
            self.at += len;
            if batch.revision >= self.next {
                self.next = batch.revision + 1;
                let change = Change::unpack(&batch);
                if self.at >= self.payload.len() {
                    self.payload = Bytes::new();
                }
                return Ok(Some(change));
            }
        }
        Ok(None)
    }

    /// Reads the next frame of the log. False if there is none yet.
    fn read(&mut self) -> Result<bool> {
        let durable = self.shared.feed.durable();
        if durable.revision < self.next {
            // Who has caught up may wait for long.
            if let Some(open) = &mut self.file {
                open.reader.let_go();
            }
            return Ok(false);
        }
        self.from_memory = 0;
        let holder = durable.log.holder(self.next).map(|file| file.file);
        // A log that was sealed anew has other files, with the same batches.
        let open = self.file.take().filter(|open| {
            // Read without a break up to here, or no further than the file that is needed.
            durable.log.files().any(|file| file.file == open.file)
                && (open.expect == self.next || Some(open.file) == holder)
        });
        let mut open = match open {
            Some(open) => open,
            None => match self.open(&durable, None)? {
                Some(open) => open,
                None => return self.read(),
            },
        };
        loop {
            open.look(&durable)?;
            match open.step(self.next).map_err(|e| e.context(&open.name))? {
                Some(payload) => {
                    if payload.len() > LARGE {
                        open.reader.let_go();
                    }
                    self.payload = payload;
                    self.at = 0;
                    self.file = Some(open);
                    return Ok(true);
                }
                None if open.end.is_none() => {
                    self.file = Some(open);
                    return Ok(false);
                }
                None => {
                    self.next = self.next.max(open.expect);
                    let ended = open.reader.link();
                    open = match self.open(&durable, Some(open.file))? {
                        Some(open) => open,
                        None => return self.read(),
                    };
                    if open.reader.header().link != ended {
                        return Err(Error::corrupt(format!(
                            "{}: does not follow the log file before it",
                            open.name
                        )));
                    }
                }
            }
        }
    }

    /// Opens the file that holds the next revision, or the one behind `after`. `None`: the log has other
    /// files by now.
    fn open(&mut self, durable: &Durable, after: Option<FileId>) -> Result<Option<OpenLog>> {
        let file = match after {
            Some(id) => durable
                .log
                .files()
                .skip_while(|file| file.file != id)
                .nth(1),
            None => durable.log.holder(self.next),
        };
        let Some(file) = file else {
            return Err(past_gone(self.next, durable));
        };
        if after.is_some() {
            // Revisions that a power loss took, or that were never given out.
            self.next = self.next.max(file.first_revision);
        }
        match OpenLog::open(&self.shared, file) {
            Err(error) if error.is(Code::NotFound) => {
                let now = self.shared.feed.durable();
                let holder = now.log.holder(self.next);
                let moved =
                    holder.is_some_and(|there| there.file != file.file || there.name != file.name);
                if moved {
                    return Ok(None);
                }
                Err(past_gone(self.next, &now))
            }
            result => result.map(Some),
        }
    }
}

/// The error for a revision that is no longer kept.
pub(crate) fn past_gone(revision: u64, durable: &Durable) -> Error {
    Error::new(
        Code::PastGone,
        format!(
            "revision {revision} is no longer kept: the log begins at revision {}, and the store \
             is at revision {}",
            Log::first_revision(&durable.log),
            durable.revision
        ),
    )
}

impl OpenLog {
    fn open(shared: &Shared, log: &LogFile) -> Result<OpenLog> {
        let io = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(Code::NotFound, "the file was removed"),
            _ => Error::io(format!("read {}", log.name), e),
        };
        let file = match shared.seat.disk.open(&log.name) {
            // It has just got its name.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let name = layout::final_name(&log.name).unwrap_or(&log.name);
                shared.seat.disk.open(name)
            }
            opened => opened,
        };
        let file = file.map_err(io)?;
        let mut prefix = vec![0; usize::try_from(FRAMES_AT).unwrap_or_default()];
        file.read_at(0, &mut prefix).map_err(io)?;
        let encryption = shared.seat.encryption.lock().clone();
        let opened = format::open(&prefix, &encryption).map_err(|e| e.context(&log.name))?;
        if opened.header.file != log.file {
            return Err(Error::corrupt(format!(
                "{}: another file has taken its place",
                log.name
            )));
        }
        let present = log.end == u64::MAX;
        let len = if present {
            FRAMES_AT
        } else {
            file.len().map_err(io)?
        };
        let bound = Arc::new(AtomicU64::new(len));
        let source = Bounded::new(file, bound.clone());
        Ok(OpenLog {
            file: log.file,
            name: log.name.clone(),
            end: (!present).then_some(log.end),
            reader: Reader::new(opened, source),
            bound,
            expect: log.first_revision,
        })
    }

    /// Takes notice of what has become durable, and of the file's end once it is known.
    fn look(&mut self, durable: &Durable) -> Result<()> {
        if self.end.is_some() {
            return Ok(());
        }
        let present = durable.log.present.as_ref();
        if present.is_some_and(|present| present.file == self.file) {
            if durable.offset > self.bound.load(Ordering::Relaxed) {
                self.bound.store(durable.offset, Ordering::Relaxed);
                self.reader.go_on();
            }
            return Ok(());
        }
        let ended = durable.log.ended.iter().find(|log| log.file == self.file);
        let ended = ended.ok_or_else(|| past_gone(self.expect, durable))?;
        self.end = Some(ended.end);
        let len = self.reader.source().len_on_disk()?;
        self.bound.fetch_max(len, Ordering::Relaxed);
        self.reader.go_on();
        Ok(())
    }

    /// The payload of the next frame that holds anything from revision `next` on.
    fn step(&mut self, next: u64) -> Result<Option<Bytes>> {
        loop {
            if self.end == Some(self.reader.link().sequence) {
                return Ok(None);
            }
            let Step::Frame(frame) = self.reader.step()? else {
                // What is written to has ended for now; nothing else ends before its end.
                let missing = || {
                    Error::corrupt(format!(
                        "ends at frame {}, before the place where the log went on",
                        self.reader.link().sequence
                    ))
                };
                // A closing frame counts, and is an end.
                let reached = self
                    .end
                    .is_none_or(|end| end == self.reader.link().sequence);
                return if reached { Ok(None) } else { Err(missing()) };
            };
            for batch in record::batches(frame.payload) {
                let revision = batch?.revision;
                if revision != self.expect {
                    return Err(Error::corrupt(format!(
                        "revision {revision} where {} was expected",
                        self.expect
                    )));
                }
                self.expect = revision + 1;
            }
            if self.expect > next && !frame.payload.is_empty() {
                return Ok(Some(Bytes::copy_from_slice(frame.payload)));
            }
        }
    }
}
