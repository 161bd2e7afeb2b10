//! Taking what the pieces of an archive hold into a store that is being restored, up to where that is wanted.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::info::Envelope;
use super::make::Maker;
use super::restore::ArchiveRestored;
use crate::archive::{Reader, Until};
use crate::error::{Code, Error, Result};
use crate::format::{Digest, Header, Stream, record};

/// Takes pieces, one behind the other.
pub(super) struct Taking<'m, 'a> {
    maker: &'m mut Maker<'a>,
    backup: &'m Envelope,
    until: Until,
    /// Everything up to this revision is there.
    reached: u64,
    /// A batch that is not wanted has come: nothing behind it is.
    done: bool,
    /// The first revision that nobody was given, as far as is known.
    given_out: u64,
    told: ArchiveRestored,
}

/// What was taken of all pieces.
pub(super) struct Taken {
    /// What is told of it.
    pub told: ArchiveRestored,
    /// The first revision that nobody was given, as far as is known.
    pub given_out: u64,
    /// SHA-256 of all bytes that came.
    pub sha256: Digest,
}

impl<'m, 'a> Taking<'m, 'a> {
    /// Nothing was taken yet but the backup.
    pub fn new(maker: &'m mut Maker<'a>, backup: &'m Envelope, until: Until) -> Taking<'m, 'a> {
        Taking {
            maker,
            backup,
            until,
            // Between what it shows and the first revision not given out there is nothing.
            reached: backup.next_revision.saturating_sub(1),
            done: false,
            given_out: backup.next_revision,
            told: ArchiveRestored::new(backup.revision),
        }
    }

    /// Takes all pieces that come. What is not wanted of them is verified all the same.
    pub fn all<R: Read>(mut self, (mut from, mut sum): (R, Sha256)) -> Result<Taken> {
        let encryption = self.maker.options().encryption.clone();
        loop {
            self.done |= matches!(self.until, Until::Revision(wanted) if self.reached >= wanted);
            let number = self.told.pieces + 1;
            let at = |error: Error| error.context(format_args!("piece {number} behind the backup"));
            let Some(stream) = Stream::next(from, Some(&encryption), sum.clone()).map_err(at)?
            else {
                break;
            };
            let piece = Reader::new(stream).map_err(at)?;
            (from, sum) = self.piece(piece).map_err(at)?;
            self.told.pieces = number;
        }
        match self.until {
            Until::Revision(wanted) if self.reached < wanted => Err(refused(format!(
                "the pieces end at revision {}, before {wanted}",
                self.reached
            ))),
            _ => Ok(Taken {
                told: self.told,
                given_out: self.given_out,
                sha256: sum.finalize().into(),
            }),
        }
    }

    /// Takes one piece; what the bytes come from, and their sum.
    fn piece<R: Read>(&mut self, mut piece: Reader<R>) -> Result<(R, Sha256)> {
        let header = piece.stream.header().clone();
        self.check(&header)?;
        while let Some(payload) = piece.step()? {
            let Some(part) = self.wanted(payload)? else {
                continue;
            };
            let batches = payload.get(part.begins..part.ends).unwrap_or_default();
            self.maker.behind(batches, part.first..=part.last)?;
            self.told.batches += part.last - part.first + 1;
            self.told.revision = part.last;
            self.reached = self.reached.max(part.last);
        }
        let (_, rest) = piece.finish_in_row()?;
        let to = header.link.sequence;
        if !self.done {
            self.reached = self.reached.max(to);
        }
        self.given_out = self.given_out.max(to.saturating_add(1));
        Ok(rest)
    }

    /// An error if a piece with that header does not follow.
    fn check(&self, header: &Header) -> Result<()> {
        let backup = self.backup;
        if (header.store, header.lineage) != (backup.store, backup.lineage) {
            return Err(refused(format!(
                "it is of store {} and lineage {}, and the backup of store {} and lineage {}",
                header.store, header.lineage, backup.store, backup.lineage
            )));
        }
        let from = header.first_revision.saturating_sub(1);
        if from > self.reached && !self.done {
            return Err(refused(format!(
                "a gap: it holds what is behind revision {from}, and what came before it ends at {}",
                self.reached
            )));
        }
        Ok(())
    }

    /// The part of a payload that is wanted: what is new, up to where nothing is wanted any more.
    fn wanted(&mut self, payload: &[u8]) -> Result<Option<Part>> {
        let mut at = 0;
        let mut part: Option<Part> = None;
        while !self.done
            && let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty())
        {
            let (batch, len) = record::first_batch(rest)?;
            let begins = at;
            at += len;
            if batch.revision <= self.reached {
                continue;
            }
            let beyond = match self.until {
                Until::End => false,
                Until::Revision(wanted) => batch.revision > wanted,
                Until::Time(wanted) => batch.time_ms > wanted,
            };
            if beyond {
                self.done = true;
                if let Until::Revision(wanted) = self.until {
                    self.reached = wanted;
                }
                break;
            }
            let taken = part.get_or_insert(Part {
                begins,
                ends: at,
                first: batch.revision,
                last: batch.revision,
            });
            taken.ends = at;
            taken.last = batch.revision;
            self.told.last_ms = Some(batch.time_ms);
        }
        Ok(part)
    }
}

/// Batches of a payload: where they stand in it, and their revisions, of which none is missing.
struct Part {
    begins: usize,
    ends: usize,
    first: u64,
    last: u64,
}

fn refused(what: String) -> Error {
    Error::new(Code::InvalidArgument, what)
}
