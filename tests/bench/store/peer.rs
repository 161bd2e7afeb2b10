//! What a library must do to be measured.

use anyhow::Result;

/// A database that is open.
pub trait Peer: Sync {
    /// What rows call it.
    fn name(&self) -> &str;
    /// What one thread needs to use it.
    fn session(&self) -> Result<Box<dyn Session + '_>>;
}

/// One thread's use of a database.
pub trait Session {
    /// Sets a key, durably.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
    /// The length of a key's value as it is now, and its first byte, so that it was touched.
    fn get(&mut self, key: &[u8]) -> Result<Option<(usize, u8)>>;
    /// Visits all entries; their number, and the bytes of their keys and values.
    fn scan(&mut self) -> Result<(u64, u64)>;
    /// Sets keys together, durably.
    fn batch(&mut self, items: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<()>;
}

/// Length and first byte of a value.
pub fn touch(value: &[u8]) -> (usize, u8) {
    (value.len(), value.first().copied().unwrap_or_default())
}
