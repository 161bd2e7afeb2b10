//! One frame: its layout, and what of it can be checked without a key.
//!
//! ```text
//!  0 magic "CXFR"   4 length of the body   8 sequence   16 kind, 3 zero   20 CRC-32C of 0..20
//! 24 nonce         36 body: ciphertext and tag          then zeros up to
//! end-33 chain hash     end-1 end marker                end: a multiple of 512
//! ```
//!
//! The end marker is one byte, so a write that is cut anywhere leaves it zero.

use super::wire::{Fields, is_zero};
use super::{Digest, MAX_PAYLOAD, SECTOR};
use crate::crypto::{NONCE, TAG, same, sha256};

const MAGIC: [u8; 4] = *b"CXFR";
const CHAIN: &[u8; 16] = b"codexstore chain";
pub(crate) const END_MARKER: u8 = 0xed;

/// Bytes before the body.
pub(crate) const HEAD: usize = 36;
/// Bytes of the head that the CRC covers; the CRC and the nonce follow.
const CHECKED: usize = 20;
/// Bytes of the head that are associated data: all but the nonce.
pub(crate) const BOUND: usize = 24;
/// In the body before the payload: its SHA-256, encoding, three zeros, length.
pub(crate) const INNER: usize = 40;
/// Chain hash and end marker.
pub(crate) const TRAILER: usize = 33;
/// Longest body.
const MAX_BODY: usize = INNER + MAX_PAYLOAD + TAG;

/// Length of a body with a payload of this many bytes as stored, tag included.
pub(crate) const fn body_len(stored: usize, tag: usize) -> usize {
    INNER + stored + tag
}

/// Length of a whole frame.
pub(crate) const fn total_len(body: usize) -> usize {
    (HEAD + body + TRAILER).next_multiple_of(SECTOR)
}

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Batches, in logs: read with [`super::record::batches`].
    Batches,
    /// Entries in key order, in images and backups: read with [`super::record::entries`].
    Entries,
    /// The last frame of a closed file.
    Close,
    /// What a backup holds, behind its entries: see [`super::Summary`].
    Summary,
}

impl FrameKind {
    const fn to_byte(self) -> u8 {
        match self {
            FrameKind::Batches => 1,
            FrameKind::Entries => 2,
            FrameKind::Close => 3,
            FrameKind::Summary => 4,
        }
    }

    fn from_byte(byte: u8) -> Option<FrameKind> {
        [
            FrameKind::Batches,
            FrameKind::Entries,
            FrameKind::Close,
            FrameKind::Summary,
        ]
        .into_iter()
        .find(|kind| kind.to_byte() == byte)
    }
}

/// The fields before the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub kind: FrameKind,
    pub body: usize,
    pub sequence: u64,
    pub nonce: [u8; NONCE],
}

impl Head {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&field(self.body));
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&[self.kind.to_byte(), 0, 0, 0]);
        let crc = crc32c::crc32c(out.get(at..).unwrap_or_default());
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&self.nonce);
    }

    /// True if a frame begins here, whatever may be wrong with it further on.
    pub(crate) fn begins(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
            && match (bytes.get(..CHECKED), bytes.get(CHECKED..BOUND)) {
                (Some(checked), Some(crc)) => crc32c::crc32c(checked).to_le_bytes() == crc,
                _ => false,
            }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Head> {
        if !Head::begins(bytes) {
            return None;
        }
        let mut fields = Fields::new(bytes);
        fields.bytes(MAGIC.len())?;
        let body = usize::try_from(fields.u32()?).ok()?;
        let sequence = fields.u64()?;
        let kind = FrameKind::from_byte(fields.u8()?)?;
        let zero = fields.array()? == [0; 3];
        fields.bytes(4)?;
        let nonce = fields.array()?;
        (zero && (INNER..=MAX_BODY).contains(&body)).then_some(Head {
            kind,
            body,
            sequence,
            nonce,
        })
    }

    pub(crate) const fn total(&self) -> usize {
        total_len(self.body)
    }
}

/// True if a file that ends with this sector ends, as it seems, with a closing frame.
pub(crate) fn closes(sector: &[u8]) -> bool {
    let head = Head::parse(sector);
    sector.len() == SECTOR
        && head.is_some_and(|head| head.kind == FrameKind::Close && head.total() == SECTOR)
        && sector.last() == Some(&END_MARKER)
}

/// A length as its field of four bytes. All are bounded by `MAX_BODY`, which fits.
pub(crate) fn field(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

/// The chain's end behind a frame, from the end before it and the frame's bytes up to its trailer.
pub(crate) fn chain(previous: &Digest, frame: &[u8]) -> Digest {
    sha256(&[CHAIN, previous, frame])
}

/// Associated data of a frame: it can neither move within its file nor to another.
pub(crate) fn associated(header: &Digest, previous: &Digest, head: &[u8]) -> [u8; 64 + BOUND] {
    let mut out = [0; 64 + BOUND];
    for (to, from) in out
        .iter_mut()
        .zip(header.iter().chain(previous).chain(head))
    {
        *to = *from;
    }
    out
}

/// Checks all of a whole frame that needs no key; the chain's new end, or what is wrong.
pub(crate) fn check(head: &Head, frame: &[u8], previous: &Digest) -> Result<Digest, &'static str> {
    let (frame, trailer) = frame.split_at(frame.len().saturating_sub(TRAILER));
    let padding = frame.get(HEAD + head.body..).unwrap_or_default();
    let Some((&[END_MARKER], sum)) = trailer
        .split_last()
        .map(|(end, sum)| (std::slice::from_ref(end), sum))
    else {
        return Err("its end marker is wrong");
    };
    let expected = chain(previous, frame);
    if !<&Digest>::try_from(sum).is_ok_and(|sum| same(sum, &expected)) {
        return Err("its chain hash does not match: it was changed, moved or comes from elsewhere");
    }
    if !is_zero(padding) {
        return Err("its padding is not zero");
    }
    Ok(expected)
}
