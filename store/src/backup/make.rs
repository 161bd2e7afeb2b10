//! The files of a restored store: the log, the image, the claim.

use std::io::Read;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::info::Root;
use super::read::{Backup, Piece};
use super::restore::Restored;
use super::take::Taking;
use crate::archive::Until;
use crate::disk::{Disk, DiskFile};
use crate::env::Env;
use crate::error::{Code, Error, Result};
use crate::format::{
    self, FRAMES_AT, FileId, FileKind, FileSpec, FrameKind, Lineage, Link, NewFile, Reader, Sealer,
    Step, record,
};
use crate::image::SYNC_EVERY;
use crate::layout::{self, Epoch};
use crate::options::{Options, Strategy};
use crate::recovery::{FileSource, SKIP};
use crate::time::StoreTime;

/// Bytes after which a ledger goes on in the next segment.
const SEGMENT: u64 = 64 << 20;

/// Makes all files, and reads them back.
pub(crate) fn make<R: Read>(
    disk: &dyn Disk,
    env: &Env,
    mut backup: Backup<R>,
    until: Option<Until>,
    options: &Options,
) -> Result<Restored> {
    let header = backup.stream.header().clone();
    let last_ms = Some(header.created_ms);
    let time = StoreTime::start(env.clock.clone(), last_ms, options.max_clock_jump);
    let higher = header.epoch.checked_add(1);
    let mut maker = Maker {
        disk,
        env,
        options,
        strategy: options.strategy,
        claim: Epoch {
            epoch: higher.ok_or_else(|| Error::corrupt("epoch: no higher one is left"))?,
            store: header.store,
            lineage: Lineage::random(&*env.random)?,
            journal: 0,
            interval: false,
        },
        created_ms: time.now_ms(),
        used: 0,
        log: Vec::new(),
        link: Link::default(),
        goes_on: until.is_some(),
        tail: None,
    };
    // How many were given out behind the backup is not known.
    let mut next_revision = header.link.sequence.saturating_add(SKIP);
    let first = match until {
        Some(_) => header.link.sequence,
        None => next_revision,
    };
    let image = maker.files(&mut backup, header.first_revision, first)?;
    let (backup, rest) = backup.finish_in_row().map_err(reading)?;
    let strategy = maker.strategy;
    if backup.contents.history.is_some() != (strategy == Strategy::Ledger) {
        return Err(other_strategy(strategy));
    }
    let mut sha256 = backup.envelope.sha256;
    let mut archive = None;
    if let Some(until) = until {
        let taken = Taking::new(&mut maker, &backup.envelope, until).all(rest)?;
        next_revision = taken.given_out.saturating_add(SKIP);
        maker.end_log(next_revision)?;
        (archive, sha256) = (Some(taken.told), taken.sha256);
    }
    let taken = archive.map_or(0, |taken| taken.batches);
    let (root, batches) = maker.read_back(&image)?;
    if root != backup.contents.root || batches != backup.contents.history.unwrap_or(0) + taken {
        return Err(Error::corrupt(format!(
            "{image} and the log: what was written there reads back otherwise"
        )));
    }
    // Puts its own name in place, and syncs the directory with all of them.
    maker.claim.journal = maker.log.len() as u64;
    maker.claim.publish(disk)?;
    Ok(Restored {
        lineage: maker.claim.lineage,
        strategy,
        next_revision,
        backup,
        sha256,
        archive,
    })
}

fn reading(error: Error) -> Error {
    error.context("read the backup")
}

fn other_strategy(wanted: Strategy) -> Error {
    let (holds, restore) = match wanted {
        Strategy::Snapshot => ("history", Strategy::Ledger),
        Strategy::Ledger => ("no history", Strategy::Snapshot),
    };
    Error::new(
        Code::InvalidArgument,
        format!(
            "the backup holds {holds}: restore it with strategy {}, and convert the store then",
            restore.as_str()
        ),
    )
}

/// Makes the files of a store.
pub(super) struct Maker<'a> {
    disk: &'a dyn Disk,
    env: &'a Env,
    options: &'a Options,
    /// What the store becomes: known before its log begins.
    strategy: Strategy,
    claim: Epoch,
    created_ms: u64,
    /// Bytes written so far.
    used: u64,
    /// Names of the log's files, which are numbered from 1.
    log: Vec<String>,
    /// Where the log goes on.
    link: Link,
    /// Batches may come behind the image.
    goes_on: bool,
    /// Where they are written, and the revision that follows there.
    tail: Option<(Part, u64)>,
}

/// A file that is being written.
struct Part {
    name: String,
    file: Arc<dyn DiskFile>,
    sealer: Sealer,
    frame: Vec<u8>,
    synced: u64,
}

impl Maker<'_> {
    /// The options of the store that is made.
    pub(super) fn options(&self) -> &Options {
        self.options
    }

    /// Makes log and image of what comes, history first; the image's name. Behind it the log goes on with revision `next`.
    fn files<R: Read>(
        &mut self,
        backup: &mut Backup<R>,
        revision: u64,
        next: u64,
    ) -> Result<String> {
        let name = layout::image(revision);
        let temporary = layout::temporary(&name);
        let mut segment = None;
        let mut image = None;
        while let Some(piece) = backup.step().map_err(reading)? {
            match piece {
                Piece::Batches(payload, revisions) => {
                    if segment.is_none() && self.options.convert {
                        self.strategy = Strategy::Ledger;
                    }
                    if self.strategy != Strategy::Ledger {
                        return Err(other_strategy(self.strategy));
                    }
                    segment = Some(self.batches(segment, payload, revisions)?);
                }
                Piece::Entries(payload) => {
                    let mut part = match image.take() {
                        Some(part) => part,
                        None => self.image(&temporary, segment.take(), revision, next)?,
                    };
                    self.frame(&mut part, FrameKind::Entries, payload)?;
                    image = Some(part);
                }
                Piece::Summary(ledger) => {
                    if segment.is_none() && image.is_none() && self.options.convert {
                        self.strategy = if ledger {
                            Strategy::Ledger
                        } else {
                            Strategy::Snapshot
                        };
                    }
                }
            }
        }
        let image = match image {
            Some(part) => part,
            None => self.image(&temporary, segment, revision, next)?,
        };
        self.close(image)?;
        self.disk
            .rename(&temporary, &name)
            .map_err(|e| Error::io(format!("rename {temporary}"), e))?;
        Ok(name)
    }

    /// Writes a frame of what was committed behind the image.
    pub(super) fn behind(&mut self, payload: &[u8], revisions: RangeInclusive<u64>) -> Result<()> {
        let tail = self.tail.take();
        self.tail = Some(self.batches(tail, payload, revisions)?);
        Ok(())
    }

    /// Ends the log with a file that holds no batch yet and begins with the first revision that may be given out.
    fn end_log(&mut self, next_revision: u64) -> Result<()> {
        let tail = self.tail.take();
        self.hand_over(tail)?;
        let last = self.segment(next_revision)?;
        self.close(last)
    }

    /// Writes a frame of batches, in a new segment where revisions were skipped or the last is
    /// large.
    fn batches(
        &mut self,
        segment: Option<(Part, u64)>,
        payload: &[u8],
        revisions: RangeInclusive<u64>,
    ) -> Result<(Part, u64)> {
        let (first, last) = revisions.into_inner();
        let mut part = match segment {
            Some((part, next)) if next == first && part.sealer.offset() < SEGMENT => part,
            ended => {
                self.hand_over(ended)?;
                self.segment(first)?
            }
        };
        self.frame(&mut part, FrameKind::Batches, payload)?;
        Ok((part, last.saturating_add(1)))
    }

    /// Ends a segment as a log does that goes on in the next file.
    fn hand_over(&mut self, segment: Option<(Part, u64)>) -> Result<()> {
        let Some((mut part, _)) = segment else {
            return Ok(());
        };
        self.link = part.sealer.link();
        self.frame(&mut part, FrameKind::Batches, &[])?;
        sync(&*part.file, &part.name)
    }

    /// The log's next file.
    fn segment(&mut self, first_revision: u64) -> Result<Part> {
        let kind = self.strategy.log();
        let name = layout::log(kind, self.log.len() as u64 + 1);
        self.log.push(name.clone());
        self.part(kind, name, first_revision, self.link)
    }

    /// Begins the file in which the log goes on with revision `next`; then the image, which names that place. The log ends with
    /// that file, without a batch, unless batches come behind the image.
    fn image(
        &mut self,
        temporary: &str,
        segment: Option<(Part, u64)>,
        revision: u64,
        next: u64,
    ) -> Result<Part> {
        self.hand_over(segment)?;
        let last = self.segment(next)?;
        let goes_on = last.sealer.link();
        if self.goes_on {
            self.tail = Some((last, next));
        } else {
            self.close(last)?;
        }
        self.part(FileKind::Image, temporary.to_owned(), revision, goes_on)
    }

    /// A new file with its beginning.
    fn part(
        &mut self,
        kind: FileKind,
        name: String,
        first_revision: u64,
        link: Link,
    ) -> Result<Part> {
        let spec = FileSpec {
            kind,
            store: self.claim.store,
            lineage: self.claim.lineage,
            file: FileId::random(&*self.env.random)?,
            epoch: self.claim.epoch,
            first_revision,
            link,
            compression: self.options.compression,
            key_size: self.options.key_size,
            created_ms: self.created_ms,
        };
        let NewFile { prefix, sealer, .. } =
            format::create(&spec, &self.options.encryption, &*self.env.random)?;
        let file = self
            .disk
            .create(&name)
            .map_err(|e| Error::io(format!("create {name}"), e))?;
        self.write(&*file, &name, 0, &prefix)?;
        Ok(Part {
            name,
            file,
            sealer,
            frame: Vec::new(),
            synced: 0,
        })
    }

    fn frame(&mut self, part: &mut Part, kind: FrameKind, payload: &[u8]) -> Result<()> {
        let random = &*self.env.random;
        part.frame.clear();
        let placed = part.sealer.seal(kind, payload, random, &mut part.frame)?;
        self.write(&*part.file, &part.name, placed.offset, &part.frame)?;
        if placed.offset - part.synced >= SYNC_EVERY {
            sync(&*part.file, &part.name)?;
            part.synced = placed.offset;
        }
        Ok(())
    }

    /// Ends a file with its closing frame, durably.
    fn close(&mut self, mut part: Part) -> Result<()> {
        part.frame.clear();
        let (placed, _) = part.sealer.close(&*self.env.random, &mut part.frame)?;
        self.write(&*part.file, &part.name, placed.offset, &part.frame)?;
        sync(&*part.file, &part.name)
    }

    /// Writes within the disk budget.
    fn write(&mut self, file: &dyn DiskFile, name: &str, at: u64, bytes: &[u8]) -> Result<()> {
        self.used += bytes.len() as u64;
        if self.used > self.options.max_disk {
            return Err(Error::new(
                Code::DiskFull,
                format!(
                    "the restored store takes more than its disk budget of {} bytes",
                    self.options.max_disk
                ),
            ));
        }
        file.write_at(at, bytes)
            .map_err(|e| Error::io(format!("write {name}"), e))
    }

    /// The root of the entries in the image, and the number of batches in the log.
    fn read_back(&self, image: &str) -> Result<(format::Digest, u64)> {
        let mut root = Root::new();
        self.read(image, |payload| {
            root.add(payload);
            Ok(())
        })?;
        let mut batches = 0;
        for name in &self.log {
            self.read(name, |payload| {
                for batch in record::batches(payload) {
                    batch?;
                    batches += 1;
                }
                Ok(())
            })?;
        }
        Ok((root.finish(), batches))
    }

    /// Reads all payloads of a file.
    fn read(&self, name: &str, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let io = |e| Error::io(format!("read {name} back"), e);
        let file = self.disk.open(name).map_err(io)?;
        let mut prefix = vec![0; usize::try_from(FRAMES_AT).unwrap_or_default()];
        file.read_at(0, &mut prefix).map_err(io)?;
        let open = format::open(&prefix, &self.options.encryption).map_err(|e| e.context(name))?;
        let mut reader = Reader::new(open, FileSource { file });
        while let Step::Frame(frame) = reader.step().map_err(|e| e.context(name))? {
            each(frame.payload).map_err(|e| e.context(name))?;
        }
        Ok(())
    }
}

fn sync(file: &dyn DiskFile, name: &str) -> Result<()> {
    file.sync()
        .map_err(|e| Error::io(format!("sync {name}"), e))
}
