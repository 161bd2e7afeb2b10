//! What is known of a piece, and of where a store is.

use crate::format::{Cipher, Digest, FileId, Header, Lineage, StoreId};
use crate::keyring::KeyId;

/// What a piece shows to those who do not have its key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PieceEnvelope {
    /// The store that it was made of.
    pub store: StoreId,
    /// That store's line of history.
    pub lineage: Lineage,
    /// Random id of this very piece.
    pub file: FileId,
    /// Epoch of the owner that made it.
    pub epoch: u64,
    /// It holds every batch behind this revision …
    pub from: u64,
    /// … up to this one, its last.
    pub to: u64,
    /// When its last batch was committed: milliseconds since 1970.
    pub last_ms: u64,
    /// How it is encrypted.
    pub cipher: Cipher,
    /// The key that it needs; none without encryption.
    pub key_id: Option<KeyId>,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of all its bytes.
    pub sha256: Digest,
}

/// What is in a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PieceContents {
    /// Number of batches.
    pub batches: u64,
    /// When the first of them was committed: milliseconds since 1970.
    pub first_ms: u64,
}

/// A piece that is complete, and of which everything verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PieceInfo {
    /// What shows from outside.
    pub envelope: PieceEnvelope,
    /// What is in it.
    pub contents: PieceContents,
}

impl PieceEnvelope {
    pub(crate) fn new(
        header: &Header,
        key_id: Option<KeyId>,
        bytes: u64,
        sha256: Digest,
    ) -> PieceEnvelope {
        PieceEnvelope {
            store: header.store,
            lineage: header.lineage,
            file: header.file,
            epoch: header.epoch,
            from: header.first_revision.saturating_sub(1),
            to: header.link.sequence,
            last_ms: header.created_ms,
            cipher: header.cipher,
            key_id,
            bytes,
            sha256,
        }
    }
}

/// Where a store is, for those who archive it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// Which store.
    pub store: StoreId,
    /// Its line of history.
    pub lineage: Lineage,
    /// Epoch of its owner.
    pub epoch: u64,
    /// The last revision that is durable.
    pub revision: u64,
    /// The lowest revision behind which pieces can be made.
    pub first: u64,
}

/// A piece, as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece {
    /// What it is.
    pub info: PieceInfo,
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// The next one can be made at once.
    pub more: bool,
}

/// What there is behind a revision: see [`crate::Store::archive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Archived {
    /// The next piece.
    Piece(Box<Piece>),
    /// Nothing yet.
    UpToDate(Position),
    /// The store's line of history is another one: it was restored, or lost writes.
    OtherLineage(Position),
    /// What follows is no longer kept.
    PastGone(Position),
    /// The store is not as far as that, in the same line of history: its files were put back to an older state.
    Behind(Position),
}
