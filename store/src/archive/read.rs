//! Reading a piece: every frame verified, and what it holds compared with what its header says.

use std::io::Read;

use sha2::Sha256;

use super::info::{PieceContents, PieceEnvelope, PieceInfo};
use crate::error::{Error, Result};
use crate::format::record;
use crate::format::{FileKind, FrameKind, Header, Link, Stream};
use crate::keyring::Encryption;

/// Opens all of a piece. Any changed bit is an error.
///
/// Fails with `corrupt` naming offset and frame, and with a kind of Encryption if the key is wrong
/// or missing.
pub fn verify(from: impl Read, encryption: &Encryption) -> Result<PieceInfo> {
    let stream = Stream::begin(from, Some(&encryption.for_store()))?;
    let mut piece = Reader::new(stream)?;
    piece.stream.check_slots("piece")?;
    while piece.step()?.is_some() {}
    piece.finish()
}

/// Verifies a piece without its key: header, key slots, the chain of all frames, and that none is
/// missing. Any changed bit is an error, but a chain can be made anew by whoever means to: only the
/// key, or the SHA-256 that the store told, proves what was written.
pub fn verify_chain(from: impl Read) -> Result<PieceEnvelope> {
    let stream = Stream::begin(from, None)?;
    check_kind(stream.header())?;
    stream.check_slots("piece")?;
    Ok(envelope(&stream.walked()?))
}

/// An error if that is not the header of a piece.
pub(crate) fn check_kind(header: &Header) -> Result<()> {
    if header.kind != FileKind::Archive {
        return Err(Error::corrupt(
            "header at offset 0: not a piece of an archive",
        ));
    }
    let to = header.link.sequence;
    let link = Link {
        sequence: to,
        ..Link::default()
    };
    if header.link != link || header.first_revision == 0 || to < header.first_revision {
        return Err(Error::corrupt(
            "header at offset 0: its revisions do not agree",
        ));
    }
    Ok(())
}

fn envelope<R: Read>(stream: &Stream<R>) -> PieceEnvelope {
    PieceEnvelope::new(
        stream.header(),
        stream.key_id().cloned(),
        stream.offset(),
        stream.sha256(),
    )
}

/// A piece that is being read. Nothing that it gives may be relied on before it ended well.
pub(crate) struct Reader<R> {
    pub stream: Stream<R>,
    batches: u64,
    first_ms: u64,
    last_ms: u64,
    last: u64,
}

impl<R: Read> Reader<R> {
    /// A reader of what was begun, if that is a piece.
    pub fn new(stream: Stream<R>) -> Result<Reader<R>> {
        check_kind(stream.header())?;
        Ok(Reader {
            batches: 0,
            first_ms: 0,
            last_ms: 0,
            last: stream.header().first_revision.saturating_sub(1),
            stream,
        })
    }

    /// The next payload of batches, which are verified, each revision following the one before; `None` behind the last.
    pub fn step(&mut self) -> Result<Option<&[u8]>> {
        let to = self.stream.header().link.sequence;
        let Some(frame) = self.stream.step()? else {
            return Ok(None);
        };
        let at = |what: String| {
            let (sequence, offset) = (frame.sequence, frame.offset);
            Error::corrupt(format!("frame {sequence} at offset {offset}: {what}"))
        };
        if frame.kind != FrameKind::Batches {
            return Err(at("something else than batches".to_owned()));
        }
        let mut first = true;
        for batch in record::batches(frame.payload) {
            let batch = batch.map_err(|error| at(error.to_string()))?;
            // Only between two frames may some have been skipped.
            let follows = if first {
                batch.revision > self.last
            } else {
                batch.revision == self.last.saturating_add(1)
            };
            if !follows || batch.revision > to {
                return Err(at(format!(
                    "revision {} behind {}, in a piece up to {to}",
                    batch.revision, self.last
                )));
            }
            if self.batches == 0 {
                self.first_ms = batch.time_ms;
            }
            first = false;
            self.batches += 1;
            self.last = batch.revision;
            self.last_ms = batch.time_ms;
        }
        if first {
            return Err(at("a frame of no batches".to_owned()));
        }
        Ok(Some(frame.payload))
    }

    /// After the end: what was in it, which is what its header said.
    pub fn finish(self) -> Result<PieceInfo> {
        Ok(PieceInfo {
            envelope: envelope(&self.stream),
            contents: self.contents()?,
        })
    }

    /// The same, and what the bytes come from, with the sum of all of them so far.
    pub fn finish_in_row(self) -> Result<(PieceContents, (R, Sha256))> {
        Ok((self.contents()?, self.stream.into_rest()))
    }

    fn contents(&self) -> Result<PieceContents> {
        if self.stream.totals().is_none() {
            return Err(Error::internal("a piece that was not read to its end"));
        }
        let header = self.stream.header();
        if (self.last, self.last_ms) != (header.link.sequence, header.created_ms) {
            return Err(Error::corrupt("the piece is not what its header says"));
        }
        Ok(PieceContents {
            batches: self.batches,
            first_ms: self.first_ms,
        })
    }
}
