//! Reading the frames of a file, and telling a torn end from damage.
//!
//! One frame is in flight at a time, over space that is zero, so a crash can spoil only the last
//! frame, and only by leaving zeros: at its end, or in whole sectors. A frame that does not verify
//! is *torn* if it shows such zeros and nothing can have followed it. It was never acknowledged,
//! and is dropped. Anything else that does not verify is damage, and an error: what follows a
//! damaged frame was acknowledged.

use super::close::Totals;
use super::file::OpenFile;
use super::frame::{self, FrameKind, HEAD, Head};
use super::header::{Header, Link};
use super::opener::{Opener, Place};
use super::seal::Sealer;
use super::tail::{Ending, classify};
use super::{Digest, FRAMES_AT};
use crate::error::{Error, Result};

/// Bytes read at a time, where a frame does not need more.
const WINDOW: usize = 256 << 10;

/// Bytes at offsets: a file, or a slice.
#[allow(clippy::len_without_is_empty)] // a length to read up to, not a collection's
pub trait Source {
    /// Length in bytes.
    fn len(&self) -> Result<u64>;
    /// Fills `buf` from `offset`. Running over the end is an error.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

impl Source for [u8] {
    fn len(&self) -> Result<u64> {
        Ok(<[u8]>::len(self) as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset)
            .ok()
            .and_then(|at| self.get(at..)?.get(..buf.len()))
            .ok_or_else(|| Error::internal("read past the end of a slice"))?;
        buf.copy_from_slice(from);
        Ok(())
    }
}

impl<S: Source + ?Sized> Source for &S {
    fn len(&self) -> Result<u64> {
        (**self).len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, buf)
    }
}

/// One verified frame.
#[derive(Debug)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: FrameKind,
    /// Sequence, from 1.
    pub sequence: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length in the file.
    pub len: u64,
    /// The chain's end behind it.
    pub chain: Digest,
    /// It holds nothing, and so says that a next file follows: known also without a key.
    pub hands_over: bool,
    /// SHA-256 of the payload; zeros when reading without a key.
    pub sum: Digest,
    /// The payload; empty when reading without a key.
    pub payload: &'a [u8],
}

/// How a file's frames end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// With a closing frame whose totals agree; without a key, with one that is in the chain, and
    /// the totals hold only the number of frames.
    Closed(Totals),
    /// With zeros: the writer stopped, or was stopped, between frames.
    Open,
    /// With a frame that was being written and never acknowledged. Everything from
    /// [`Reader::offset`] on is to be dropped.
    Torn {
        /// Bytes from there to the last one that is not zero.
        len: u64,
    },
}

/// What [`Reader::step`] found.
#[derive(Debug)]
pub enum Step<'a> {
    /// A verified frame.
    Frame(Frame<'a>),
    /// The end; damage is an error instead.
    End(Tail),
}

/// Goes through the frames of one file in order and verifies each.
pub struct Reader<S> {
    pub(super) source: S,
    pub(super) opener: Opener,
    len: Option<u64>,
    pub(super) offset: u64,
    pub(super) sequence: u64,
    pub(super) chain: Digest,
    pub(super) end: Option<Tail>,
    pub(super) window: Vec<u8>,
    window_at: u64,
}

impl<S: Source> Reader<S> {
    /// Starts at the first frame. The source is the whole file, prefix included, and does not
    /// change while it is read.
    pub fn new(file: OpenFile, source: S) -> Reader<S> {
        Reader {
            source,
            len: None,
            offset: FRAMES_AT,
            sequence: 0,
            chain: file.hash,
            end: None,
            window: Vec::new(),
            window_at: 0,
            opener: Opener::new(file),
        }
    }

    /// The next frame, or how the file ends; the same end again after it. A `corrupt` error names
    /// offset and sequence.
    pub fn step(&mut self) -> Result<Step<'_>> {
        if let Some(tail) = self.end {
            return Ok(Step::End(tail));
        }
        let Some((head, at, chain)) = self.find()? else {
            return Ok(Step::End(self.end.unwrap_or(Tail::Open)));
        };
        if head.kind == FrameKind::Close {
            return Ok(Step::End(self.close(&head, at, chain)?));
        }
        let (offset, total) = (self.offset, head.total() as u64);
        let (place, sum) = self.open_frame(&head, at)?;
        if !matches!(place, Place::Sealed) {
            let len = self.payload(place, at).len();
            self.opener.tally.add(len, &sum);
        }
        self.advance(total, chain);
        Ok(Step::Frame(Frame {
            kind: head.kind,
            sequence: head.sequence,
            offset,
            len: total,
            chain,
            hands_over: head.body == frame::body_len(0, self.opener.file.header.cipher.tag_len()),
            sum,
            payload: self.payload(place, at),
        }))
    }

    /// Opens the closing frame that was found, and ends there.
    pub(super) fn close(&mut self, head: &Head, at: usize, chain: Digest) -> Result<Tail> {
        let (place, _) = self.open_frame(head, at)?;
        let totals = self
            .opener
            .check_totals(place, self.payload(place, at), self.sequence)
            .map_err(|what| self.corrupt(what))?;
        self.advance(head.total() as u64, chain);
        self.check_nothing_follows()?;
        self.end = Some(Tail::Closed(totals));
        Ok(Tail::Closed(totals))
    }

    fn open_frame(&mut self, head: &Head, at: usize) -> Result<(Place, Digest)> {
        let bytes = self
            .window
            .get_mut(at..at + HEAD + head.body)
            .unwrap_or_default();
        self.opener
            .open(head, &self.chain, bytes)
            .map_err(|what| self.corrupt(what))
    }

    /// The source has grown: reads on where it ended, if that was between two frames.
    pub(crate) fn go_on(&mut self) {
        if matches!(self.end, None | Some(Tail::Open)) {
            self.end = None;
            self.len = None;
            self.window.clear();
        }
    }

    /// Gives back the memory of what was read ahead; it is read again when it is needed.
    pub(crate) fn let_go(&mut self) {
        self.window = Vec::new();
    }

    /// The file.
    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.opener.file.header
    }

    /// Where the next frame begins, or would.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Right behind the last verified frame.
    pub fn link(&self) -> Link {
        Link {
            file: self.opener.file.header.file,
            sequence: self.sequence,
            chain: self.chain,
        }
    }

    /// A sealer that goes on behind the last frame, after [`Tail::Open`]. After [`Tail::Torn`]
    /// too, but the caller first fills the torn bytes with zeros and syncs them: otherwise what is
    /// left of them may look like damage once a shorter frame stands before it.
    pub fn into_sealer(self) -> Result<Sealer> {
        let link = self.link();
        match (self.end, self.opener.file.cipher) {
            (Some(Tail::Open | Tail::Torn { .. }), Some(cipher)) => Ok(Sealer::new(
                &self.opener.file.header,
                self.opener.file.hash,
                cipher,
            )?
            .resume(link, self.offset, self.opener.tally)),
            _ => Err(Error::internal(
                "append to a file that is not read to an open end",
            )),
        }
    }

    pub(super) fn corrupt(&self, what: impl std::fmt::Display) -> Error {
        Error::corrupt(format!(
            "frame {} at offset {}: {what}",
            self.sequence + 1,
            self.offset
        ))
    }

    pub(super) fn advance(&mut self, total: u64, chain: Digest) {
        self.offset += total;
        self.sequence += 1;
        self.chain = chain;
    }

    pub(super) fn payload(&self, place: Place, at: usize) -> &[u8] {
        let bytes = self.window.get(at..).unwrap_or_default();
        self.opener.payload(place, bytes)
    }

    fn file_len(&mut self) -> Result<u64> {
        match self.len {
            Some(len) => Ok(len),
            None => Ok(*self.len.insert(self.source.len()?)),
        }
    }

    /// The next whole frame, checked as far as that goes without a key: its head, where it stands
    /// in the window, and the chain's end behind it. `None` at the end, which is then set.
    pub(super) fn find(&mut self) -> Result<Option<(Head, usize, Digest)>> {
        let left = self.file_len()?.saturating_sub(self.offset);
        let head = if left < HEAD as u64 {
            None
        } else {
            let at = self.load(HEAD, left)?;
            self.window.get(at..).and_then(Head::parse)
        };
        let Some(head) = head else {
            return self.end_at(None, "no frame begins here, and the file goes on");
        };
        if head.sequence != self.sequence + 1 {
            return Err(self.corrupt(format_args!("the frame here is number {}", head.sequence)));
        }
        let total = head.total();
        if left < total as u64 {
            return self.end_at(Some(total), "the file ends within it");
        }
        let at = self.load(total, left)?;
        let bytes = self.window.get(at..at + total).unwrap_or_default();
        match frame::check(&head, bytes, &self.chain) {
            Ok(chain) => Ok(Some((head, at, chain))),
            Err(what) => self.end_at(Some(total), what),
        }
    }

    /// Sets the end, if what stands at the offset is one.
    fn end_at<T>(&mut self, extent: Option<usize>, what: &str) -> Result<Option<T>> {
        let len = self.file_len()?;
        let extent = extent.map(|extent| extent as u64);
        let tail = match classify(&self.source, self.offset, len, extent)? {
            Ending::Zero => Tail::Open,
            Ending::Torn { len } => Tail::Torn { len },
            Ending::Damage => return Err(self.corrupt(what)),
            Ending::Followed(offset) => {
                return Err(self.corrupt(format_args!(
                    "{what}; a later frame begins at offset {offset}"
                )));
            }
        };
        if self.opener.file.header.kind.must_close() {
            return Err(self.corrupt("the file is cut: its closing frame is missing"));
        }
        self.end = Some(tail);
        Ok(None)
    }

    /// After the closing frame: a file that is written whole ends right there; a log may have
    /// space that was filled ahead, but no frame in it.
    fn check_nothing_follows(&mut self) -> Result<()> {
        let len = self.file_len()?;
        let follows = if self.opener.file.header.kind.must_close() {
            (len > self.offset).then_some(self.offset)
        } else {
            let first = self.load(HEAD, len.saturating_sub(self.offset)).ok();
            let begins = first.is_some_and(|at| self.window.get(at..).is_some_and(Head::begins));
            match classify(&self.source, self.offset, len, None)? {
                _ if begins => Some(self.offset),
                Ending::Followed(offset) => Some(offset),
                _ => None,
            }
        };
        match follows {
            Some(offset) => Err(Error::corrupt(format!(
                "frame {} closes the file, but it goes on at offset {offset}",
                self.sequence
            ))),
            None => Ok(()),
        }
    }

    /// Makes the window hold `len` bytes from the current offset, of `left` that the file has;
    /// where they stand in it. What is allocated is in the file, or one window.
    pub(super) fn load(&mut self, len: usize, left: u64) -> Result<usize> {
        let have = self.window_at + self.window.len() as u64;
        let outside = self.offset < self.window_at || self.offset + len as u64 > have;
        if self.window.is_empty() || outside {
            let want = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(len.max(WINDOW));
            self.window.resize(want, 0);
            self.window_at = self.offset;
            self.source.read_at(self.offset, &mut self.window)?;
        }
        usize::try_from(self.offset - self.window_at)
            .map_err(|_| Error::internal("an offset outside the window"))
    }
}
