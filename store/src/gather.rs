//! Going through all entries of an index, or through batches, in frames' worth: images, backups and pieces of an archive are
//! made of them.

use std::ops::Bound;

use bytes::Bytes;

use crate::error::Result;
use crate::format::{MAX_PAYLOAD, record};
use crate::index::Index;
use crate::log::{Change, ChangeOp};

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

/// Payloads of batches, one after the other, each about [`FRAME`] bytes long, or as long as its only batch. Revisions of one
/// payload follow each other: where some were skipped, a restored log begins a new file.
#[derive(Default)]
pub(crate) struct GatherBatches {
    payload: Vec<u8>,
    batch: Vec<u8>,
    expected: u64,
}

impl GatherBatches {
    /// Takes a batch in. Gives what came before it, if that is enough for a frame.
    pub fn add(&mut self, change: &Change) -> Result<Option<Vec<u8>>> {
        self.batch.clear();
        let ops = change.ops.iter().map(ChangeOp::as_op);
        let (time_ms, actor) = (change.time_ms, change.actor.as_deref());
        record::put_batch(&mut self.batch, change.revision, time_ms, actor, ops)?;
        let gap = change.revision != self.expected;
        let full =
            self.payload.len() >= FRAME || self.payload.len() + self.batch.len() > MAX_PAYLOAD;
        let before = (gap || full).then(|| std::mem::take(&mut self.payload));
        self.payload.append(&mut self.batch);
        self.batch.shrink_to(FRAME);
        self.expected = change.revision.saturating_add(1);
        Ok(before.filter(|payload| !payload.is_empty()))
    }

    /// The last payload, if there is one.
    pub fn finish(self) -> Option<Vec<u8>> {
        Some(self.payload).filter(|payload| !payload.is_empty())
    }

    /// Bytes that are held.
    pub fn len(&self) -> usize {
        self.payload.len()
    }
}
