//! Making the frames of one file, in order.

use super::close::Tally;
use super::frame::{self, FrameKind, Head, INNER, TRAILER};
use super::header::{FileId, Header, Link};
use super::opener::Inner;
use super::{Digest, FRAMES_AT, MAX_FILE, MAX_FRAMES, MAX_PAYLOAD, SECTOR};
use crate::compress::Compressor;
use crate::crypto::{FrameCipher, NONCE, Random, sha256};
use crate::error::{Code, Error, Result};

/// Encodings of a payload within a body.
pub(crate) const STORED: u8 = 0;
pub(crate) const COMPRESSED: u8 = 1;

/// What [`Sealer::seal`] appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The frame's sequence.
    pub sequence: u64,
    /// Where in the file it belongs.
    pub offset: u64,
    /// The chain's new end.
    pub chain: Digest,
    /// Bytes appended, a multiple of [`SECTOR`].
    pub len: usize,
}

/// Turns payloads into the frames of one file, in order.
///
/// A frame that was sealed is part of the chain: if it cannot be written, the file is finished.
pub struct Sealer {
    header_hash: Digest,
    file: FileId,
    cipher: FrameCipher,
    compressor: Compressor,
    sequence: u64,
    chain: Digest,
    offset: u64,
    tally: Tally,
}

impl Sealer {
    /// A sealer for a file without frames.
    pub(crate) fn new(header: &Header, header_hash: Digest, cipher: FrameCipher) -> Result<Sealer> {
        Ok(Sealer {
            header_hash,
            file: header.file,
            cipher,
            compressor: Compressor::new(header.compression)?,
            sequence: 0,
            chain: header_hash,
            offset: FRAMES_AT,
            tally: Tally::default(),
        })
    }

    /// Goes on behind frames that were read.
    pub(crate) fn resume(mut self, end: Link, offset: u64, tally: Tally) -> Sealer {
        self.sequence = end.sequence;
        self.chain = end.chain;
        self.offset = offset;
        self.tally = tally;
        self
    }

    /// Appends one frame to `out`, a buffer that the caller keeps for the next one. `too-large`
    /// if the payload is over [`MAX_PAYLOAD`].
    pub fn seal(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        random: &dyn Random,
        out: &mut Vec<u8>,
    ) -> Result<Sealed> {
        if kind == FrameKind::Close {
            return Err(Error::internal("seal a closing frame: use close"));
        }
        self.append(kind, payload, random, out)
    }

    /// Appends the closing frame; nothing can be sealed after it. Returns also the place behind
    /// it, for the header of the file that follows.
    pub fn close(mut self, random: &dyn Random, out: &mut Vec<u8>) -> Result<(Sealed, Link)> {
        let totals = self.tally.totals().encode();
        let sealed = self.append(FrameKind::Close, &totals, random, out)?;
        Ok((sealed, self.link()))
    }

    /// Right behind the last frame sealed.
    pub fn link(&self) -> Link {
        Link {
            file: self.file,
            sequence: self.sequence,
            chain: self.chain,
        }
    }

    /// Where the next frame belongs.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// True when the file is to be closed and the log to go on in a new one: half of what
    /// [`MAX_FRAMES`] or [`MAX_FILE`] allow is used. Sealing fails when either is reached.
    pub fn exhausted(&self) -> bool {
        self.sequence >= MAX_FRAMES / 2 || self.offset >= MAX_FILE / 2
    }

    fn append(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        random: &dyn Random,
        out: &mut Vec<u8>,
    ) -> Result<Sealed> {
        if payload.len() > MAX_PAYLOAD {
            return Err(Error::new(
                Code::TooLarge,
                format!("a commit of {} bytes; at most {MAX_PAYLOAD}", payload.len()),
            ));
        }
        let tag = self.cipher.tag_len();
        let stored = frame::total_len(frame::body_len(payload.len(), tag));
        self.check_room(stored)?;

        // Compression counts only if it saves a sector.
        let overhead = frame::HEAD + frame::body_len(0, tag) + TRAILER;
        let small = (stored - SECTOR)
            .checked_sub(overhead)
            .filter(|limit| *limit > 0)
            .and_then(|limit| self.compressor.compress(payload, limit));
        let (encoding, data) = match small {
            Some(data) => (COMPRESSED, data),
            None => (STORED, payload),
        };
        let inner = Inner {
            sum: sha256(&[payload]),
            encoding,
            len: payload.len(),
            data,
        };
        let place = (&self.header_hash, &self.chain, self.sequence + 1);
        let (made, sum) = (
            put(&self.cipher, place, kind, &inner, random, out)?,
            inner.sum,
        );
        Ok(self.sealed(made, payload.len(), &sum))
    }

    /// Appends one frame whose payload is packed already, as it stood in a file of the same
    /// compression: it is neither unpacked nor packed again.
    pub(crate) fn seal_packed(
        &mut self,
        kind: FrameKind,
        inner: &Inner<'_>,
        random: &dyn Random,
        out: &mut Vec<u8>,
    ) -> Result<Sealed> {
        let body = frame::body_len(inner.data.len(), self.cipher.tag_len());
        self.check_room(frame::total_len(body))?;
        let place = (&self.header_hash, &self.chain, self.sequence + 1);
        let made = put(&self.cipher, place, kind, inner, random, out)?;
        Ok(self.sealed(made, inner.len, &inner.sum))
    }

    fn check_room(&self, len: usize) -> Result<()> {
        if self.sequence >= MAX_FRAMES || self.offset + len as u64 > MAX_FILE {
            return Err(Error::internal(
                "seal a frame: the file should have been closed",
            ));
        }
        Ok(())
    }

    /// Goes on behind a frame that was put.
    fn sealed(&mut self, (chain, len): (Digest, usize), payload: usize, sum: &Digest) -> Sealed {
        let offset = self.offset;
        self.sequence += 1;
        self.chain = chain;
        self.offset += len as u64;
        self.tally.add(payload, sum);
        Sealed {
            sequence: self.sequence,
            offset,
            chain,
            len,
        }
    }
}

/// Appends a frame to `out`: the chain's new end, and the frame's length. `place`: hash of the
/// header, the chain's end before it, and its sequence.
fn put(
    cipher: &FrameCipher,
    place: (&Digest, &Digest, u64),
    kind: FrameKind,
    inner: &Inner<'_>,
    random: &dyn Random,
    out: &mut Vec<u8>,
) -> Result<(Digest, usize)> {
    let (header_hash, previous, sequence) = place;
    let mut nonce = [0; NONCE];
    random.fill(&mut nonce)?;
    let at = out.len();
    let head = Head {
        kind,
        body: frame::body_len(inner.data.len(), cipher.tag_len()),
        sequence,
        nonce,
    };
    let total = head.total();
    out.reserve(total);
    head.put(out);
    let body_at = out.len();
    out.extend_from_slice(&inner.sum);
    out.extend_from_slice(&[inner.encoding, 0, 0, 0]);
    out.extend_from_slice(&frame::field(inner.len));
    debug_assert_eq!(out.len() - body_at, INNER);
    out.extend_from_slice(inner.data);
    let bound = out.get(at..at + frame::BOUND).unwrap_or_default();
    let aad = frame::associated(header_hash, previous, bound);
    cipher.seal(&nonce, &aad, out, body_at)?;
    out.resize(at + total - TRAILER, 0);
    let chain = frame::chain(previous, out.get(at..).unwrap_or_default());
    out.extend_from_slice(&chain);
    out.push(frame::END_MARKER);
    Ok((chain, total))
}
