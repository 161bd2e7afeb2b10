//! Going through all entries of an index in frames' worth: images and backups are made of them.

use std::ops::Bound;

use bytes::Bytes;

use crate::error::Result;
use crate::format::record;
use crate::index::Index;

/// Payload bytes of one frame.
pub(crate) const FRAME: usize = 256 << 10;

/// Payloads of entries, one after the other, each about [`FRAME`] bytes long.
#[derive(Default)]
pub(crate) struct Gather {
    last_key: Option<Bytes>,
    payload: Vec<u8>,
    entries: u64,
}

impl Gather {
    /// The entries that come next in `index`, which is the same at every call; nothing at the end.
    pub fn next(&mut self, index: &Index) -> Result<&[u8]> {
        self.payload.clear();
        let start = match &self.last_key {
            Some(key) => Bound::Excluded(&key[..]),
            None => Bound::Unbounded,
        };
        let mut last = None;
        for entry in index.from(start) {
            record::put_entry(&mut self.payload, &entry.unpack())?;
            self.entries += 1;
            last = Some(entry.key());
            if self.payload.len() >= FRAME {
                break;
            }
        }
        if let Some(last) = last {
            self.last_key = Some(Bytes::copy_from_slice(last));
        }
        Ok(&self.payload)
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}
