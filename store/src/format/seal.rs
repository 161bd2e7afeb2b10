//! Making frames.

use super::frame::FrameKind;
use super::{Digest, Link};
use crate::error::{Error, Result};

/// What [`Sealer::seal`] appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The frame's sequence.
    pub sequence: u64,
    /// The chain's new end.
    pub chain: Digest,
    /// Bytes appended, a multiple of [`super::SECTOR`].
    pub len: usize,
}

/// Turns payloads into the frames of one file, in order.
pub struct Sealer {}

impl Sealer {
    /// Appends one frame to `out`. `records` and `last_revision` are for the file's totals.
    pub fn seal(
        &mut self,
        _kind: FrameKind,
        _payload: &[u8],
        _records: u64,
        _last_revision: u64,
        _nonce: [u8; 12],
        _out: &mut Vec<u8>,
    ) -> Result<Sealed> {
        Err(Error::internal("seal"))
    }

    /// Appends the closing frame; nothing can be sealed after it.
    pub fn close(self, _nonce: [u8; 12], _out: &mut Vec<u8>) -> Result<Sealed> {
        Err(Error::internal("close"))
    }

    /// Right behind the last frame sealed.
    pub fn link(&self) -> Link {
        Link::default()
    }

    /// True when the file must go on in a new one: see [`super::MAX_FRAMES`].
    pub fn exhausted(&self) -> bool {
        false
    }
}
