//! Opening: what is on disk becomes a state, or an error that says why not.
//!
//! The order matters. First keys are checked, with nothing modified. Then the store is claimed, so
//! that no earlier owner answers any more. Only then the directory is listed for good, and headers
//! ([`crate::survey`]) and log are read. What cannot be explained by a crash at some point of the
//! store's own work is an Integrity error: a missing file, a gap, a fork within one epoch, a chain
//! that does not fit.

use std::sync::Arc;

use crate::chain;
use crate::disk::{Disk, DiskFile};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::format::{FRAMES_AT, Lineage, Link, Reader, Source, Step, Tail, record};
use crate::image::Image;
use crate::index::{Index, View};
use crate::journal::LogFile;
use crate::layout;
use crate::seat::check_epoch;
use crate::stats::Finding;
use crate::survey::{Found, Survey};

/// Revisions that are skipped when some may have been given out and lost.
pub(crate) const SKIP: u64 = 1 << 32;

/// A store's state as its files tell it.
pub(crate) struct Recovered {
    pub view: View,
    /// The image's revision: batches up to it are in the image.
    pub floor: u64,
    /// The first revision to be given out.
    pub next_revision: u64,
    /// The highest time in any file.
    pub last_ms: Option<u64>,
    pub lineage: Lineage,
    pub image: Option<Image>,
    /// Log files that the image holds, oldest first.
    pub past: Vec<LogFile>,
    /// Log files that the image does not hold.
    pub older: Vec<LogFile>,
    /// Where the next log file goes on.
    pub link: Link,
    /// The next log file's number.
    pub number: u64,
    /// Files of no value.
    pub garbage: Vec<String>,
    /// A write or sync failed under the last owner.
    pub suspect: bool,
    /// What was unusual, and mended or worked around.
    pub findings: Vec<Finding>,
}

impl Survey {
    /// Reads everything. The store is claimed by now.
    pub fn recover(
        self,
        disk: &dyn Disk,
        fresh_lineage: impl Fn() -> Result<Lineage>,
    ) -> Result<Recovered> {
        self.recover_telling(disk, fresh_lineage, &mut |_, _| {})
    }

    /// The same, and tells how many bytes of how many are read: from 0 to all.
    pub fn recover_telling(
        mut self,
        disk: &dyn Disk,
        fresh_lineage: impl Fn() -> Result<Lineage>,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<Recovered> {
        let total = self.bytes();
        let mut far = Far {
            read: 0,
            total,
            tell,
        };
        far.at(0);
        let mut state = Recovered {
            garbage: std::mem::take(&mut self.garbage),
            suspect: self.suspect,
            findings: self.damaged_slots(),
            ..Recovered::empty(self.highest + 1)
        };
        state.garbage.append(&mut self.unbegun);
        let interval = self.epoch.is_some_and(|epoch| epoch.interval);
        let mut start = None;
        if let Some((revision, found)) = self.images.pop_last() {
            start = Some(found.open.header.link);
            state.image = Some(Image {
                name: found.name.clone(),
                len: found.len,
                key_id: found.open.key_id.clone(),
            });
            // Images of before are not read.
            far.total -= self.images.values().map(|found| found.len).sum::<u64>();
            load_image(&mut state, disk, revision, found, &mut far)?;
        }
        state
            .garbage
            .extend(self.images.into_values().map(|found| found.name));
        if state.image.is_none() && self.logs.is_empty() {
            state.lineage = match self.epoch {
                Some(epoch) => epoch.lineage,
                None => fresh_lineage()?,
            };
            return Ok(state);
        }
        let mut chain = chain::order(self.logs, start)?;
        state.garbage.append(&mut chain.garbage);
        state.past = chain.past;
        let logs = chain.files.iter().map(|found| found.len).sum::<u64>();
        far.total = far.read + logs;
        let named = self.epoch.map_or(0, |epoch| epoch.journal);
        let first = chain.files.first().map_or(0, |found| found.number);
        if named >= first && !chain.files.iter().any(|found| found.number == named) {
            return Err(Error::corrupt(format!(
                "log file number {named}, which the last owner began with, is missing"
            )));
        }
        let clean = replay_chain(&mut state, disk, chain.files, start, &mut far)?;
        if !clean && interval {
            // The last owner acknowledged before it synced: what it gave out may be gone.
            state.lineage = fresh_lineage()?;
            state.next_revision = state.next_revision.saturating_add(SKIP);
        }
        Ok(state)
    }
}

impl Recovered {
    /// A store that was never written, whose next log file has this number.
    fn empty(number: u64) -> Recovered {
        Recovered {
            view: View::default(),
            floor: 0,
            next_revision: 1,
            last_ms: None,
            lineage: Lineage::default(),
            image: None,
            past: Vec::new(),
            older: Vec::new(),
            link: Link::default(),
            number,
            garbage: Vec::new(),
            suspect: false,
            findings: Vec::new(),
        }
    }

    /// Removes what is of no value, and gives the log files of a migration that was cut their
    /// names, once what they replace is gone for good.
    pub fn settle(&mut self, disk: &dyn Disk, ours: u64) -> Result<()> {
        self.settle_telling(disk, ours, &mut |_, _| {})
    }

    /// The same, and tells how many files of how many are removed: from 0 to all.
    pub fn settle_telling(
        &mut self,
        disk: &dyn Disk,
        ours: u64,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        check_epoch(disk, ours)?;
        let total = self.garbage.len() as u64;
        tell(0, total);
        for (done, name) in (1..).zip(&self.garbage) {
            layout::remove_if_there(disk, name)?;
            tell(done, total);
        }
        let sync = || {
            let synced = disk.sync_dir();
            synced.map_err(|e| Error::io("sync the directory", e))
        };
        let files = self.past.iter_mut().chain(&mut self.older);
        let mut renamed = 0;
        for file in files {
            let Some(name) = layout::final_name(&file.name).map(str::to_owned) else {
                continue;
            };
            if renamed == 0 {
                sync()?;
            }
            renamed += 1;
            disk.rename(&file.name, &name)
                .map_err(|e| Error::io(format!("rename {}", file.name), e))?;
            file.name = name;
        }
        if renamed > 0 { sync() } else { Ok(()) }
    }
}

/// How far the reading is.
struct Far<'a> {
    /// Bytes of files that are read.
    read: u64,
    total: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl Far<'_> {
    /// So much of the present file is read.
    fn at(&mut self, offset: u64) {
        (self.tell)((self.read + offset).min(self.total), self.total);
    }

    /// All of it is, to its end.
    fn end(&mut self, len: u64) {
        self.read += len;
        self.at(0);
    }
}

/// A file as a source of frames.
pub(crate) struct FileSource {
    pub file: Arc<dyn DiskFile>,
}

/// Opens a file that was listed.
pub(crate) fn reopen(disk: &dyn Disk, name: &str) -> Result<Arc<dyn DiskFile>> {
    disk.open(name).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => layout::gone(name),
        _ => Error::io(format!("open {name}"), e),
    })
}

impl Source for FileSource {
    fn len(&self) -> Result<u64> {
        self.file.len().map_err(|e| Error::io("length", e))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file
            .read_at(offset, buf)
            .map_err(|e| Error::io(format!("read at {offset}"), e))
    }
}

fn load_image(
    state: &mut Recovered,
    disk: &dyn Disk,
    revision: u64,
    found: Found,
    far: &mut Far<'_>,
) -> Result<()> {
    let (name, len) = (found.name, found.len);
    let file = reopen(disk, &name)?;
    let header = found.open.header.clone();
    if header.first_revision != revision {
        return Err(Error::corrupt(format!(
            "{name}: holds revision {}, not the one it is named",
            header.first_revision
        )));
    }
    let mut reader = Reader::new(found.open, FileSource { file });
    let mut scratch = Vec::new();
    let index = &mut state.view.index;
    // It ends with its closing frame: without it, that is an error.
    while let Step::Frame(frame) = reader.step().map_err(|e| e.context(&name))? {
        for entry in record::entries(frame.payload) {
            let entry = entry.map_err(|e| e.context(&name))?;
            index.insert(&Entry::pack(&entry, &mut scratch));
        }
        far.at(frame.offset + frame.len);
    }
    far.end(len);
    state.view.revision = revision;
    state.floor = revision;
    state.next_revision = revision + 1;
    state.lineage = header.lineage;
    note_time(state, header.created_ms);
    Ok(())
}

/// Replays the journals in order. True if the last one was closed.
fn replay_chain(
    state: &mut Recovered,
    disk: &dyn Disk,
    chain: Vec<Found>,
    start: Option<Link>,
    far: &mut Far<'_>,
) -> Result<bool> {
    let ends: Vec<Option<Link>> = chain
        .iter()
        .skip(1)
        .map(|found| Some(found.open.header.link))
        .chain([None])
        .collect();
    let mut clean = false;
    let mut from = start;
    for (found, end) in chain.into_iter().zip(ends) {
        let name = found.name.clone();
        let len = found.len;
        clean = replay(state, disk, found, from.take(), end, far).map_err(|e| e.context(name))?;
        far.end(len);
    }
    Ok(clean)
}

/// Replays one journal, from where an image left it and up to where the next one took over.
fn replay(
    state: &mut Recovered,
    disk: &dyn Disk,
    found: Found,
    mut from: Option<Link>,
    end: Option<Link>,
    far: &mut Far<'_>,
) -> Result<bool> {
    let Found {
        name, len, open, ..
    } = found;
    let file = reopen(disk, &name)?;
    let header = open.header.clone();
    let key_id = open.key_id.clone();
    // What the image holds may be logged behind it: see `apply`.
    if header.first_revision < state.next_revision && header.first_revision > state.floor {
        return Err(Error::corrupt(format!(
            "begins with revision {}, not {}",
            header.first_revision, state.next_revision
        )));
    }
    state.next_revision = state.next_revision.max(header.first_revision);
    state.lineage = header.lineage;
    note_time(state, header.created_ms);
    let mut reader = Reader::new(open, FileSource { file: file.clone() });
    let mut scratch = Vec::new();
    let mut goes_on = false;
    let mut torn = None;
    // Where the last frame begins, or the header if there is none.
    let (mut last, mut offset) = (0, FRAMES_AT);
    let clean = loop {
        let here = reader.link();
        far.at(reader.offset());
        if reader.offset() > offset {
            last = offset;
            offset = reader.offset();
        }
        if let Some(link) = from.filter(|link| link.sequence == here.sequence) {
            // Seeing the link only by its sequence lets a wrong chain be told from a short file.
            if link.chain != here.chain {
                return Err(Error::corrupt("not the chain that the image names"));
            }
            from = None;
        }
        if let Some(link) = end.filter(|link| link.sequence == here.sequence) {
            if link.chain != here.chain {
                return Err(Error::corrupt("not the chain that the next log file names"));
            }
            if from.is_some() {
                return Err(Error::corrupt("ends before the place that the image names"));
            }
            break true;
        }
        let tail = match reader.step()? {
            // What lies before the place that the image names is in the image.
            Step::Frame(frame) if from.is_some() => {
                goes_on = frame.payload.is_empty();
                continue;
            }
            Step::Frame(frame) => {
                goes_on = frame.payload.is_empty();
                for batch in record::batches(frame.payload) {
                    apply(state, &batch?, &mut scratch)?;
                }
                continue;
            }
            Step::End(tail) => tail,
        };
        if let Tail::Torn { len } = tail {
            torn = Some(len);
        }
        match end {
            None if from.is_none() && goes_on => {
                return Err(Error::corrupt("the log file that follows it is missing"));
            }
            None if from.is_none() => break matches!(tail, Tail::Closed(_)),
            Some(link) if from.is_none() && link == reader.link() => break true,
            _ => {
                return Err(Error::corrupt(format!(
                    "ends at sequence {} before the place that the file behind it names",
                    here.sequence
                )));
            }
        }
    };
    if let Some(bytes) = torn {
        state.findings.push(Finding::TornTail {
            file: name.clone(),
            offset: reader.offset(),
            bytes,
        });
    }
    let mut len = len;
    if end.is_none() {
        secure(&*file, last, reader.offset(), len)?;
        len = reader.offset();
    }
    state.link = reader.link();
    let used = reader.offset() - FRAMES_AT;
    state.older.push(LogFile {
        name,
        len,
        used,
        key_id,
        file: header.file,
        first_revision: header.first_revision,
        created_ms: header.created_ms,
        end: state.link.sequence,
    });
    Ok(clean)
}

/// Makes sure that the last frame is on disk and not only in the page cache, where a failed sync
/// may have left it: writes the same bytes again, and syncs. The frames before it were synced, or
/// it would not have been written. What was filled ahead is given back: the log goes on in another
/// file, and an owner that is killed again and again would leave much of it.
fn secure(file: &dyn DiskFile, last: u64, end: u64, len: u64) -> Result<()> {
    let io = |e| Error::io("make durable what was recovered", e);
    let mut frame = vec![0; usize::try_from(end - last).unwrap_or_default()];
    file.read_at(last, &mut frame).map_err(io)?;
    file.write_at(last, &frame).map_err(io)?;
    if len > end {
        file.truncate(end).map_err(io)?;
    }
    file.sync().map_err(io)
}

fn apply(state: &mut Recovered, batch: &record::Batch<'_>, scratch: &mut Vec<u8>) -> Result<()> {
    let revision = batch.revision;
    if revision <= state.floor {
        return Ok(());
    }
    if revision != state.next_revision {
        return Err(Error::corrupt(format!(
            "revision {revision} where {} was expected",
            state.next_revision
        )));
    }
    let index: &mut Index = &mut state.view.index;
    for op in &batch.ops {
        match op.entry(revision) {
            Some(entry) => drop(index.insert(&Entry::pack(&entry, scratch))),
            None => drop(index.remove(op.key())),
        }
    }
    state.view.revision = revision;
    state.next_revision = revision + 1;
    note_time(state, batch.time_ms);
    Ok(())
}

fn note_time(state: &mut Recovered, time_ms: u64) {
    state.last_ms = Some(state.last_ms.unwrap_or(0).max(time_ms));
}

#[cfg(test)]
mod tests;
