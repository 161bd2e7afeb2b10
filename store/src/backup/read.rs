//! Reading a backup: every frame verified, and what it holds compared with what it says.

use std::io::Read;
use std::ops::RangeInclusive;

use sha2::Sha256;

use super::info::{BackupInfo, Contents, Envelope, Root};
use crate::error::{Error, Result};
use crate::format::record::{self, EntryRef};
use crate::format::{FileKind, FrameKind, Header, Link, Stream, Summary};
use crate::keyring::Encryption;

/// Opens all of a backup and compares it with its own sums. Any changed bit is an error.
///
/// Fails with `corrupt` naming offset and frame, and with a kind of Encryption if the key is wrong
/// or missing.
pub fn verify(from: impl Read, encryption: &Encryption) -> Result<BackupInfo> {
    let mut backup = Backup::begin(from, &encryption.for_store())?;
    backup.stream.check_slots("backup")?;
    while backup.step()?.is_some() {}
    backup.finish()
}

/// Verifies a backup without its key: header, key slots, the chain of all frames, and that none is
/// missing. Any changed bit is an error, but a chain can be made anew by whoever means to: only the
/// key, or the SHA-256 that the store told, proves what was written.
pub fn verify_chain(from: impl Read) -> Result<Envelope> {
    let stream = Stream::begin(from, None)?;
    check_kind(stream.header())?;
    stream.check_slots("backup")?;
    Ok(envelope(&stream.walked()?))
}

pub(super) fn check_kind(header: &Header) -> Result<()> {
    if header.kind != FileKind::Backup {
        return Err(Error::corrupt("header at offset 0: not a backup"));
    }
    let next = header.link.sequence;
    let link = Link {
        sequence: next,
        ..Link::default()
    };
    if header.link != link || next <= header.first_revision {
        return Err(Error::corrupt(
            "header at offset 0: its revisions do not agree",
        ));
    }
    Ok(())
}

fn envelope<R: Read>(stream: &Stream<R>) -> Envelope {
    Envelope::new(
        stream.header(),
        stream.key_id().cloned(),
        stream.offset(),
        stream.sha256(),
    )
}

/// A backup that is being read. Nothing that it gives may be relied on before it ended well.
pub(crate) struct Backup<R> {
    pub stream: Stream<R>,
    content: Content,
}

/// One piece of a backup; its records are verified.
pub(crate) enum Piece<'a> {
    /// A payload of entries.
    Entries(&'a [u8]),
    /// A payload of batches: all revisions from the one to the other.
    Batches(&'a [u8], RangeInclusive<u64>),
    /// What the backup says of itself; true if it is a ledger's.
    Summary(bool),
}

/// What was read so far.
struct Content {
    revision: u64,
    root: Root,
    entries: u64,
    last_key: Vec<u8>,
    batches: u64,
    last_batch: u64,
    summary: Option<Summary>,
}

impl<R: Read> Backup<R> {
    /// Checks header and key; nothing is modified anywhere before that.
    pub fn begin(from: R, encryption: &Encryption) -> Result<Backup<R>> {
        Backup::new(Stream::begin(from, Some(encryption))?)
    }

    /// The same, where pieces of an archive may come behind it.
    pub fn first(from: R, encryption: &Encryption) -> Result<Backup<R>> {
        Backup::new(Stream::first(from, Some(encryption))?)
    }

    fn new(stream: Stream<R>) -> Result<Backup<R>> {
        check_kind(stream.header())?;
        Ok(Backup {
            content: Content {
                revision: stream.header().first_revision,
                root: Root::new(),
                entries: 0,
                last_key: Vec::new(),
                batches: 0,
                last_batch: 0,
                summary: None,
            },
            stream,
        })
    }

    /// The next piece; `None` at the end, which is the closing frame.
    pub fn step(&mut self) -> Result<Option<Piece<'_>>> {
        let Some(frame) = self.stream.step()? else {
            return Ok(None);
        };
        let at = |error: Error| {
            error.context(format_args!(
                "frame {} at offset {}",
                frame.sequence, frame.offset
            ))
        };
        let payload = frame.payload;
        let revisions = self.content.take(frame.kind, payload).map_err(at)?;
        Ok(Some(match frame.kind {
            FrameKind::Entries => Piece::Entries(payload),
            FrameKind::Batches => Piece::Batches(payload, revisions),
            FrameKind::Summary | FrameKind::Close => {
                let summary = self.content.summary.as_ref();
                Piece::Summary(summary.is_some_and(|summary| summary.history.is_some()))
            }
        }))
    }

    /// After the end: what was in it, which is what it said.
    pub fn finish(self) -> Result<BackupInfo> {
        self.finish_in_row().map(|(info, _)| info)
    }

    /// The same, and what the bytes come from, with the sum of all of them so far.
    pub fn finish_in_row(self) -> Result<(BackupInfo, (R, Sha256))> {
        if self.stream.totals().is_none() {
            return Err(Error::internal("a backup that was not read to its end"));
        }
        let envelope = envelope(&self.stream);
        let contents = self.content.finish()?;
        Ok((BackupInfo { envelope, contents }, self.stream.into_rest()))
    }
}

impl Content {
    /// Takes in a frame, and gives the revisions of the batches in it. Batches come first, then
    /// entries, then the summary.
    fn take(&mut self, kind: FrameKind, payload: &[u8]) -> Result<RangeInclusive<u64>> {
        if self.summary.is_some() {
            return Err(Error::corrupt("a frame behind the summary"));
        }
        match kind {
            FrameKind::Batches if self.entries > 0 => {
                return Err(Error::corrupt("batches behind entries"));
            }
            FrameKind::Batches => return self.batches(payload),
            FrameKind::Entries => {
                for entry in record::entries(payload) {
                    self.entry(&entry?)?;
                }
                self.root.add(payload);
            }
            FrameKind::Summary => {
                let summary = Summary::decode(payload);
                self.summary = Some(summary.ok_or_else(|| Error::corrupt("a malformed summary"))?);
            }
            FrameKind::Close => return Err(Error::internal("a closing frame in the middle")),
        }
        Ok(0..=0)
    }

    fn entry(&mut self, entry: &EntryRef<'_>) -> Result<()> {
        if entry.key <= &self.last_key[..] {
            return Err(Error::corrupt(
                "entries that are not in the order of their keys",
            ));
        }
        if entry.modified > self.revision {
            return Err(Error::corrupt(format!(
                "an entry of revision {}, above the backup's {}",
                entry.modified, self.revision
            )));
        }
        self.entries += 1;
        self.last_key.clear();
        self.last_key.extend_from_slice(entry.key);
        Ok(())
    }

    fn batches(&mut self, payload: &[u8]) -> Result<RangeInclusive<u64>> {
        let mut first = None;
        for batch in record::batches(payload) {
            let revision = batch?.revision;
            let follows = match first {
                None => revision > self.last_batch,
                // Only between two frames may some have been skipped.
                Some(_) => revision == self.last_batch.saturating_add(1),
            };
            if !follows || revision > self.revision {
                return Err(Error::corrupt(format!(
                    "revision {revision} behind {}, in a backup of revision {}",
                    self.last_batch, self.revision
                )));
            }
            first = first.or(Some(revision));
            self.batches += 1;
            self.last_batch = revision;
        }
        match first {
            Some(first) => Ok(first..=self.last_batch),
            None => Err(Error::corrupt("a frame of no batches")),
        }
    }

    fn finish(self) -> Result<Contents> {
        let summary = self
            .summary
            .ok_or_else(|| Error::corrupt("the backup has no summary"))?;
        let found = Contents {
            entries: self.entries,
            root: self.root.finish(),
            history: summary.history.map(|_| self.batches),
        };
        let holds = found.entries == summary.entries
            && found.root == summary.root
            && found.history == summary.history
            && (summary.history.is_some() || self.batches == 0);
        if !holds {
            return Err(Error::corrupt("the backup is not what its summary says"));
        }
        Ok(found)
    }
}
