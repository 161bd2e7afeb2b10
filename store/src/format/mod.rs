//! The bytes of a store's files: pure functions from bytes to meaning and back.
//!
//! Every file is a header, two key slots and a stream of frames; `docs/format.md` describes each
//! byte. Nothing here opens a file: [`create`] makes the first [`FRAMES_AT`] bytes of a new one
//! and a [`Sealer`] for its frames, [`open`] reads such a prefix, and a [`Reader`] goes through
//! the frames of a [`Source`]; a [`Stream`] does the same with bytes that
//! come in order and only once.

mod close;
mod file;
mod frame;
mod header;
mod opener;
mod packed;
mod read;
pub mod record;
mod resume;
mod seal;
mod slot;
mod stream;
mod summary;
mod tail;
mod wire;

pub use close::Totals;
pub(crate) use file::rewrap_to;
pub use file::{FileSpec, NewFile, OpenFile, create, open, open_without_key, rewrap};
pub use frame::FrameKind;
pub(crate) use frame::closes;
pub use header::{Cipher, FileId, FileKind, Header, Lineage, Link, StoreId};
pub(crate) use opener::Inner;
pub(crate) use packed::PackedStep;
pub use read::{Frame, Reader, Source, Step, Tail};
pub(crate) use resume::Resume;
pub use seal::{Sealed, Sealer};
pub use slot::{KeySlot, Slots};
pub use stream::Stream;
pub use summary::Summary;

/// A SHA-256.
pub type Digest = [u8; 32];

/// Version of the format that this code writes, and the only one that it reads.
pub const VERSION: u16 = 1;

/// Size of the header and of each key slot.
pub const PAGE: usize = 4096;

/// Offset of the first frame: behind the header and two key slots.
pub const FRAMES_AT: u64 = 3 * PAGE as u64;

/// Frames begin and end at multiples of this, the unit that a disk writes whole. So no sector
/// that holds one frame is written again for the next.
pub const SECTOR: usize = 512;

/// Most bytes of payload in one frame: a value of 64 MiB with its key and fields, and the rest
/// of its group.
pub const MAX_PAYLOAD: usize = 72 << 20;

/// Most frames in one file, hence messages under one data key: far below the 2^32 that NIST SP
/// 800-38D allows for random 96-bit nonces.
pub const MAX_FRAMES: u64 = 1 << 28;

/// Largest file: the log goes on in a new one long before this.
pub const MAX_FILE: u64 = 64 << 30;

/// Most bytes on disk of a frame with `payload` bytes of payload: what it takes encrypted and not
/// compressed.
pub const fn frame_len(payload: usize) -> u64 {
    frame::total_len(frame::body_len(payload, crate::crypto::TAG)) as u64
}

#[cfg(test)]
mod edge_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
