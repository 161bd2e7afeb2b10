//! Reading a file that comes as a stream: in order, once, and of unknown length.
//!
//! Only kinds that are written whole can be read so, for where nothing comes any more there must
//! have been a closing frame. What is held in memory is one frame, and never more than has come.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::close::Totals;
use super::file::{self, OpenFile};
use super::frame::{self, FrameKind, HEAD, Head};
use super::header::Header;
use super::opener::Opener;
use super::{Digest, FRAMES_AT, Frame};
use crate::error::{Error, Result};
use crate::keyring::{Encryption, KeyId};

/// Goes through the frames of an image, a backup or a piece of an archive as its bytes come, and verifies each.
pub struct Stream<R> {
    from: R,
    opener: Opener,
    offset: u64,
    sequence: u64,
    chain: Digest,
    sum: Sha256,
    bytes: Vec<u8>,
    end: Option<Totals>,
    /// Nothing may follow.
    alone: bool,
}

impl<R: Read> Stream<R> {
    /// Reads and verifies header and key slots. Without keys, only the chain of what is encrypted
    /// is checked, and no payload is shown.
    pub fn begin(from: R, encryption: Option<&Encryption>) -> Result<Stream<R>> {
        let mut begun = Stream::first(from, encryption)?;
        begun.alone = true;
        Ok(begun)
    }

    /// The same of the first of several files that come in a row: others may follow behind its closing frame.
    pub(crate) fn first(mut from: R, encryption: Option<&Encryption>) -> Result<Stream<R>> {
        let mut bytes = Vec::new();
        fill(&mut from, &mut bytes, FRAMES_AT)?;
        Stream::open(from, encryption, Sha256::new(), bytes)
    }

    /// The next of several files in a row; none where nothing comes any more. `sum` is of all bytes before it.
    pub(crate) fn next(
        mut from: R,
        encryption: Option<&Encryption>,
        sum: Sha256,
    ) -> Result<Option<Stream<R>>> {
        let mut bytes = Vec::new();
        fill(&mut from, &mut bytes, FRAMES_AT)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        Stream::open(from, encryption, sum, bytes).map(Some)
    }

    fn open(
        from: R,
        encryption: Option<&Encryption>,
        mut sum: Sha256,
        bytes: Vec<u8>,
    ) -> Result<Stream<R>> {
        let opened = match encryption {
            Some(encryption) => file::open(&bytes, encryption)?,
            None => file::open_without_key(&bytes)?,
        };
        if !opened.header.kind.must_close() {
            return Err(Error::corrupt(
                "header at offset 0: a log, and not an image, a backup or a piece of an archive",
            ));
        }
        sum.update(&bytes);
        Ok(Stream {
            from,
            offset: bytes.len() as u64,
            sequence: 0,
            chain: opened.hash,
            opener: Opener::new(opened),
            sum,
            bytes,
            end: None,
            alone: false,
        })
    }

    /// The next frame; `None` behind the closing one, where the stream has ended too. A `corrupt`
    /// error names offset and sequence.
    pub fn step(&mut self) -> Result<Option<Frame<'_>>> {
        if self.end.is_some() {
            return Ok(None);
        }
        self.bytes.clear();
        fill(&mut self.from, &mut self.bytes, HEAD as u64)?;
        if self.bytes.len() < HEAD {
            return Err(self.corrupt("the file is cut: its closing frame is missing"));
        }
        let Some(head) = Head::parse(&self.bytes) else {
            return Err(self.corrupt("no frame begins here, and the file goes on"));
        };
        if head.sequence != self.sequence + 1 {
            return Err(self.corrupt(format_args!("the frame here is number {}", head.sequence)));
        }
        let total = head.total();
        fill(&mut self.from, &mut self.bytes, (total - HEAD) as u64)?;
        if self.bytes.len() < total {
            return Err(self.corrupt("the file ends within it"));
        }
        let chain = frame::check(&head, &self.bytes, &self.chain).map_err(|e| self.corrupt(e))?;
        self.sum.update(&self.bytes);
        let sealed = self.bytes.get_mut(..HEAD + head.body).unwrap_or_default();
        let (place, sum) = self
            .opener
            .open(&head, &self.chain, sealed)
            .map_err(|what| self.corrupt(what))?;
        let payload = self.opener.payload(place, &self.bytes);
        if head.kind == FrameKind::Close {
            let totals = self
                .opener
                .check_totals(place, payload, self.sequence)
                .map_err(|what| self.corrupt(what))?;
            let mut more = Vec::new();
            if self.alone {
                fill(&mut self.from, &mut more, 1)?;
            }
            self.offset += total as u64;
            self.sequence += 1;
            if !more.is_empty() {
                return Err(Error::corrupt(format!(
                    "frame {} closes the file, but it goes on at offset {}",
                    self.sequence, self.offset
                )));
            }
            self.end = Some(totals);
            return Ok(None);
        }
        let (key, len) = (self.opener.file.cipher.is_some(), payload.len());
        if key {
            self.opener.tally.add(len, &sum);
        }
        let offset = self.offset;
        self.offset += total as u64;
        self.sequence += 1;
        self.chain = chain;
        Ok(Some(Frame {
            kind: head.kind,
            sequence: head.sequence,
            offset,
            len: total as u64,
            chain,
            hands_over: false,
            sum,
            payload: self.opener.payload(place, &self.bytes),
        }))
    }

    /// Goes to the end, as [`Stream::step`] does. Then all of it verifies.
    pub(crate) fn walked(mut self) -> Result<Stream<R>> {
        while self.step()?.is_some() {}
        Ok(self)
    }

    /// `corrupt` if one of the two key slots does not verify, of a file that is called `what`.
    pub(crate) fn check_slots(&self, what: &str) -> Result<()> {
        if self.damaged_slot() {
            return Err(Error::corrupt(format!(
                "one of the two key slots does not verify; the {what} can still be restored"
            )));
        }
        Ok(())
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.opened().header
    }

    /// The key that wraps the file's data key; none without encryption.
    pub fn key_id(&self) -> Option<&KeyId> {
        self.opened().key_id.as_ref()
    }

    /// One of the two key slots does not verify.
    pub fn damaged_slot(&self) -> bool {
        self.opened().damaged_slot
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What the closing frame says, once that was read.
    pub fn totals(&self) -> Option<Totals> {
        self.end
    }

    /// SHA-256 of all bytes read so far.
    pub fn sha256(&self) -> Digest {
        self.sum.clone().finalize().into()
    }

    /// What the bytes come from, behind those of this file, and the sum of all of them so far.
    pub(crate) fn into_rest(self) -> (R, Sha256) {
        (self.from, self.sum)
    }

    fn opened(&self) -> &OpenFile {
        &self.opener.file
    }

    fn corrupt(&self, what: impl std::fmt::Display) -> Error {
        Error::corrupt(format!(
            "frame {} at offset {}: {what}",
            self.sequence + 1,
            self.offset
        ))
    }
}

/// Appends up to `len` bytes, fewer where the stream ends.
fn fill(from: &mut impl Read, into: &mut Vec<u8>, len: u64) -> Result<()> {
    from.take(len)
        .read_to_end(into)
        .map(|_| ())
        .map_err(|e| Error::io("read the stream", e))
}
