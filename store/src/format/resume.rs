//! Reading on behind damage, for salvage. Recovery never does.

use super::frame::{self, FrameKind, HEAD, Head, TRAILER};
use super::header::Cipher;
use super::read::{Frame, Reader, Source, Step, Tail};
use super::{Digest, FRAMES_AT, SECTOR};
use crate::error::{Code, Result};

/// Bytes read at a time; a multiple of [`SECTOR`].
const CHUNK: usize = 128 * SECTOR;

/// Where a frame stands, and the chain's hash before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resume {
    pub offset: u64,
    pub sequence: u64,
    pub chain: Digest,
}

impl<S: Source> Reader<S> {
    /// Goes to a frame. What the closing frame adds up can then no more be checked, but for the
    /// number of frames.
    pub(crate) fn seek(&mut self, to: &Resume) {
        self.offset = to.offset;
        self.sequence = to.sequence.saturating_sub(1);
        self.chain = to.chain;
        self.end = None;
        self.opener.jumped = true;
        self.window.clear();
    }

    /// The sequence of the frame at that place, if it verifies there. Stays where it is.
    pub(crate) fn verifies_at(&mut self, place: &Resume) -> Result<Option<u64>> {
        let here = Resume {
            offset: self.offset,
            sequence: self.sequence + 1,
            chain: self.chain,
        };
        let mut head = [0; HEAD];
        if place.offset + HEAD as u64 > self.source.len()? {
            return Ok(None);
        }
        self.source.read_at(place.offset, &mut head)?;
        let Some(head) = Head::parse(&head) else {
            return Ok(None);
        };
        self.seek(&Resume {
            sequence: head.sequence,
            ..*place
        });
        let verified = match self.step() {
            Ok(Step::Frame(frame)) => Some(frame.sequence),
            Ok(Step::End(Tail::Closed(_))) => Some(head.sequence),
            Ok(Step::End(_)) => None,
            Err(error) if error.is(Code::Corrupt) => None,
            Err(error) => return Err(error),
        };
        self.seek(&here);
        Ok(verified)
    }

    /// The frame here, although its trailer or its padding does not verify: it is encrypted, and
    /// authenticates in this file, behind the frame before it. `None` if it does not.
    pub(crate) fn open_by_itself(&mut self) -> Result<Option<Frame<'_>>> {
        let file = &self.opener.file;
        if file.header.cipher == Cipher::None || file.cipher.is_none() {
            return Ok(None);
        }
        self.window.clear();
        let left = self.source.len()?.saturating_sub(self.offset);
        if left < HEAD as u64 {
            return Ok(None);
        }
        let at = self.load(HEAD, left)?;
        let head = self.window.get(at..).and_then(Head::parse);
        let Some(head) = head.filter(|head| {
            head.kind != FrameKind::Close
                && head.sequence == self.sequence + 1
                && head.total() as u64 <= left
        }) else {
            return Ok(None);
        };
        let total = head.total();
        let at = self.load(total, left)?;
        let bytes = self.window.get(at..at + total - TRAILER);
        let chain = frame::chain(&self.chain, bytes.unwrap_or_default());
        let bytes = self.window.get_mut(at..at + HEAD + head.body);
        let opened = self
            .opener
            .open(&head, &self.chain, bytes.unwrap_or_default());
        let Ok((place, sum)) = opened else {
            self.window.clear();
            return Ok(None);
        };
        let offset = self.offset;
        self.opener.jumped = true;
        self.advance(total as u64, chain);
        Ok(Some(Frame {
            kind: head.kind,
            sequence: head.sequence,
            offset,
            len: total as u64,
            chain,
            hands_over: false,
            sum,
            payload: self.payload(place, at),
        }))
    }

    /// The chain's hash at the end of what stands before `offset`.
    pub(crate) fn stored_chain(&self, offset: u64) -> Result<Option<Digest>> {
        let mut chain = [0; 32];
        let Some(at) = offset
            .checked_sub(TRAILER as u64)
            .filter(|at| *at >= FRAMES_AT)
        else {
            return Ok(None);
        };
        self.source.read_at(at, &mut chain)?;
        Ok(Some(chain))
    }

    /// The first place from `at` on where a frame begins.
    pub(crate) fn next_head(&self, at: u64, len: u64) -> Result<Option<u64>> {
        let mut found = None;
        self.sectors(at, len, |place, sector| {
            if Head::begins(sector) {
                found = Some(place);
            }
            found.is_none()
        })?;
        Ok(found)
    }

    /// Bytes from `at` to the last sector that is not zero.
    pub(crate) fn written(&self, at: u64, len: u64) -> Result<u64> {
        let mut end = at;
        self.sectors(at, len, |place, sector| {
            if sector.iter().any(|byte| *byte != 0) {
                end = place + sector.len() as u64;
            }
            true
        })?;
        Ok(end - at)
    }

    /// Goes through sectors until `each` says that it is enough.
    fn sectors(&self, at: u64, len: u64, mut each: impl FnMut(u64, &[u8]) -> bool) -> Result<()> {
        let mut chunk = vec![0; CHUNK];
        let mut chunk_at = at;
        while chunk_at < len {
            let take = usize::try_from(len - chunk_at).unwrap_or(CHUNK).min(CHUNK);
            let bytes = chunk.get_mut(..take).unwrap_or_default();
            self.source.read_at(chunk_at, bytes)?;
            for (place, sector) in (chunk_at..).step_by(SECTOR).zip(bytes.chunks(SECTOR)) {
                if !each(place, sector) {
                    return Ok(());
                }
            }
            chunk_at += take as u64;
        }
        Ok(())
    }
}
