//! The closing frame: what a closed file must add up to.

use super::Digest;

/// Counts and sum over the frames of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Frames before the closing one.
    pub frames: u64,
    /// Batches or entries in them.
    pub records: u64,
    /// Payload bytes in them, before compression.
    pub bytes: u64,
    /// Last revision in them; 0 if none.
    pub last_revision: u64,
    /// SHA-256 over the SHA-256 of each payload in order.
    pub sum: Digest,
}
