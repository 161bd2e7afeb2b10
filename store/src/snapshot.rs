//! A point in time to read from.

use std::slice::from_ref;
use std::sync::Arc;

use crate::entry::Entry;
use crate::error::Result;
use crate::index::View;
use crate::scan::{Page, Scan};
use crate::txn::check_key;

/// What was there at one point in time, of one revision: several reads of it agree with each other.
/// Writers go on meanwhile; what they replace stays in memory as long as this does, so it is for
/// a moment.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
    now_ms: u64,
}

impl Snapshot {
    pub(crate) fn new(view: Arc<View>, now_ms: u64) -> Snapshot {
        Snapshot { view, now_ms }
    }

    /// The entry of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        check_key(key)?;
        Ok(self.view.index.live_entry(key, || self.now_ms))
    }

    /// One page of entries.
    pub fn scan(&self, scan: &Scan) -> Result<Page> {
        self.view
            .index
            .page(from_ref(scan), self.view.revision, self.now_ms)
    }

    /// Number of live keys.
    pub fn len(&self) -> u64 {
        self.view.index.live(self.now_ms)
    }

    /// True without live keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision that it shows.
    pub fn revision(&self) -> u64 {
        self.view.revision
    }

    /// The store's time of that moment: milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }
}
