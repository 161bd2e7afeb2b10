//! Reading the frames of a file, and telling a torn end from damage.

use super::close::Totals;
use super::file::OpenFile;
use super::frame::FrameKind;
use super::seal::Sealer;
use super::{Digest, Header, Link};
use crate::error::{Error, Result};

/// Bytes at offsets: a file, or a slice.
pub trait Source {
    /// Length in bytes.
    fn len(&self) -> Result<u64>;
    /// Fills `buf` from `offset`; running over the end is an error.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
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
    /// The payload; empty when reading without a key.
    pub payload: &'a [u8],
}

/// How a file's frames end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// With a closing frame that agrees.
    Closed(Totals),
    /// With zero space: the writer stopped, or was stopped, between frames.
    Open,
    /// With a frame that was being written; it was never acknowledged. Everything from the end
    /// of the last frame on is to be dropped.
    Torn {
        /// Bytes from the torn frame's beginning to the last byte that is not zero.
        len: u64,
    },
}

/// What [`Reader::next`] found.
#[derive(Debug)]
pub enum Step<'a> {
    /// A verified frame.
    Frame(Frame<'a>),
    /// The end; damage is an error instead.
    End(Tail),
}

/// Goes through the frames of one file in order and verifies each.
pub struct Reader<S> {
    source: S,
    file: OpenFile,
}

impl<S: Source> Reader<S> {
    /// Starts at the first frame.
    pub fn new(file: OpenFile, source: S) -> Reader<S> {
        Reader { source, file }
    }

    /// The next frame, or how the file ends. An integrity error names offset and sequence.
    pub fn next(&mut self) -> Result<Step<'_>> {
        let _ = self.source.len()?;
        Err(Error::internal("next"))
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.file.header
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> u64 {
        0
    }

    /// Right behind the last verified frame.
    pub fn link(&self) -> Link {
        Link::default()
    }

    /// A sealer that goes on behind the last frame. Only after [`Tail::Open`] or [`Tail::Torn`],
    /// and only over space that is zero.
    pub fn into_sealer(self) -> Result<Sealer> {
        Err(Error::internal("sealer"))
    }
}
