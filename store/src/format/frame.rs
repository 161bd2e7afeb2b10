//! Frames.

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Batches: `record::batches`.
    Batches,
    /// Entries of an image or backup, in key order: `record::entries`.
    Entries,
    /// The last frame of a closed file.
    Close,
}

pub(crate) const HEAD: usize = 36;
pub(crate) const INNER: usize = 40;
pub(crate) const TAG: usize = 16;
pub(crate) const TRAILER: usize = 33;

pub(crate) const fn body_len(payload: usize) -> usize {
    INNER + payload + TAG
}

pub(crate) const fn total_len(body: usize) -> usize {
    (HEAD + body + TRAILER).next_multiple_of(super::SECTOR)
}
