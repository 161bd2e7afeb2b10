//! Key slots.

use crate::keyring::KeyId;

/// One key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// Counts rewraps; the newest good slot counts.
    pub generation: u64,
    /// The key-encryption key's id.
    pub key_id: KeyId,
}

/// Both slots of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {}
