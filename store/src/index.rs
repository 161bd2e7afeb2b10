//! The index: every live entry in key order, in memory, persistent in the functional sense.
//!
//! Cloning an [`Index`] takes constant time and shares everything, so the committer works on a
//! clone of what readers see, scans and folds keep a point in time for as long as they like, and
//! a failed group is undone by dropping the clone.

use std::cmp::Ordering;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use imbl::OrdSet;

use crate::block::Spot;
use crate::entry::{Entry, Packed};
use crate::error::Result;
use crate::format::record::EntryRef;
use crate::glob::Glob;
use crate::scan::{Page, Scan};
use crate::tree::Tree;

/// Bytes of an entry in an image besides its key and value, at most.
const IMAGE_OVERHEAD: u64 = 48;

/// The live entries at one point in time.
#[derive(Clone, Default)]
pub(crate) struct Index {
    entries: Tree,
    /// The entries that expire, soonest first.
    expiring: OrdSet<Expiring>,
    bytes: u64,
    memory: u64,
}

#[derive(Clone)]
struct Expiring {
    at: u64,
    /// The key, without the value: it must not keep the memory of the entry's neighbours.
    entry: Entry,
}

impl Expiring {
    fn new(at: u64, fields: &EntryRef<'_>) -> Expiring {
        let name = EntryRef {
            value: &[],
            ..*fields
        };
        let entry = Entry::pack(&name, &mut Vec::new());
        Expiring { at, entry }
    }
}

/// True if a key begins with `prefix`. To compare with nothing is not free: memcmp may go to look
/// at the address of an empty slice, where nothing is, and that takes the processor longer than all else.
pub(crate) fn begins_with(key: &[u8], prefix: &[u8]) -> bool {
    prefix.is_empty() || key.starts_with(prefix)
}

impl Index {
    /// The entry of a key, expired or not.
    pub fn get(&self, key: &[u8]) -> Option<Entry> {
        self.entries.get(key).map(Spot::entry)
    }

    /// The content of a key's entry.
    pub fn peek(&self, key: &[u8]) -> Option<Packed<'_>> {
        self.entries.get(key).map(Spot::packed)
    }

    /// The entry of a key, if it is there and its time is not over: only what may be over asks for
    /// the time.
    pub fn live_entry(&self, key: &[u8], now_ms: impl FnOnce() -> u64) -> Option<Entry> {
        let spot = self.entries.get(key)?;
        let over = !self.expiring.is_empty() && spot.packed().expired(now_ms());
        (!over).then(|| spot.entry())
    }

    /// Number of entries whose time is not over.
    pub fn live(&self, now_ms: u64) -> u64 {
        (self.entries.len() - self.expired(now_ms).count()) as u64
    }

    /// Entries whose time is over, soonest first; without their values.
    pub fn expired(&self, now_ms: u64) -> impl Iterator<Item = &Entry> {
        self.expiring
            .iter()
            .take_while(move |item| item.at <= now_ms)
            .map(|item| &item.entry)
    }

    /// When the next entry expires.
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiring.get_min().map(|item| item.at)
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of memory that the entries take.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Most bytes that an image's payloads take.
    pub fn image_bytes(&self) -> u64 {
        self.bytes + self.entries.len() as u64 * IMAGE_OVERHEAD
    }

    /// Puts an entry in and returns the one that it replaces.
    pub fn insert(&mut self, entry: &Entry) -> Option<Entry> {
        let fields = entry.unpack();
        self.bytes += (fields.key.len() + fields.value.len()) as u64;
        self.memory += entry.footprint();
        if let Some(at) = fields.expires_at {
            self.expiring.insert(Expiring::new(at, &fields));
        }
        let old = self.entries.insert(entry);
        if let Some(old) = &old {
            self.forget(old);
        }
        old
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let old = self.entries.remove(key);
        if let Some(old) = &old {
            self.forget(old);
        }
        old
    }

    fn forget(&mut self, old: &Entry) {
        let fields = old.unpack();
        self.bytes -= (fields.key.len() + fields.value.len()) as u64;
        self.memory -= old.footprint();
        if let Some(at) = fields.expires_at {
            // The new entry of this key may expire at the same time and must stay.
            let same = self
                .peek(fields.key)
                .is_some_and(|new| new.expires_at() == Some(at));
            if !same {
                self.expiring.remove(&Expiring::new(at, &fields));
            }
        }
    }

    /// The content of entries from a key on.
    pub fn from(&self, start: Bound<&[u8]>) -> impl Iterator<Item = Packed<'_>> {
        self.spots(start).map(Spot::packed)
    }

    /// Entries from a key on.
    pub fn spots(&self, start: Bound<&[u8]>) -> impl Iterator<Item = Spot<'_>> {
        self.entries.range(start)
    }

    /// Keys that begin with `prefix` and are live.
    pub fn keys(&self, prefix: &[u8], now_ms: u64) -> Vec<Bytes> {
        self.from(Bound::Included(prefix))
            .take_while(|entry| begins_with(entry.key(), prefix))
            .filter(|entry| !entry.expired(now_ms))
            .map(|entry| Bytes::copy_from_slice(entry.key()))
            .collect()
    }

    /// One page of scans, one behind the other; their limits hold for all of them together.
    pub fn page(&self, scans: &[Scan], revision: u64, now_ms: u64) -> Result<Page> {
        let mut items = Vec::new();
        let mut so_far = SoFar::default();
        let mut cursor = None;
        for scan in scans {
            cursor = self.walk(scan, now_ms, &mut so_far, |spot| {
                items.push(spot.entry());
                ControlFlow::Continue(())
            })?;
            if cursor.is_some() {
                break;
            }
        }
        Ok(Page {
            items,
            cursor,
            revision,
        })
    }

    /// Shows the entries of a scan, in order, until `each` breaks it off. Where to go on; `None` if
    /// there is no more.
    pub fn walk<'a>(
        &'a self,
        scan: &Scan,
        now_ms: u64,
        so_far: &mut SoFar<'a>,
        mut each: impl FnMut(Spot<'a>) -> ControlFlow<()>,
    ) -> Result<Option<Bytes>> {
        let glob = scan.glob.as_deref().map(Glob::new).transpose()?;
        let glob_prefix = glob.as_ref().map(Glob::prefix).unwrap_or_default();
        let lowest = [
            &scan.prefix[..],
            scan.from.as_deref().unwrap_or_default(),
            glob_prefix,
        ]
        .into_iter()
        .max()
        .unwrap_or_default();
        let start = match scan.cursor.as_deref() {
            Some(cursor) if cursor >= lowest => Bound::Excluded(cursor),
            _ => Bound::Included(lowest),
        };
        let expires = !self.expiring.is_empty();
        let limit = |limit: usize| if limit == 0 { usize::MAX } else { limit };
        let (most, most_bytes, most_examined) = (
            limit(scan.limit),
            limit(scan.max_bytes),
            limit(scan.max_examined),
        );
        let SoFar {
            shown,
            bytes,
            examined,
            last,
        } = so_far;
        let cursor = |last: Option<&[u8]>| last.map(Bytes::copy_from_slice);
        for spot in self.entries.range(start) {
            let entry = spot.packed();
            let key = entry.key();
            let within = begins_with(key, &scan.prefix)
                && begins_with(key, glob_prefix)
                && scan.to.as_deref().is_none_or(|to| key < to);
            if !within {
                // The keys of each condition lie together, and the scan began within or below
                // none of them: what is outside now lies above.
                return Ok(None);
            }
            if *shown >= most || *bytes >= most_bytes || *examined >= most_examined {
                return Ok(cursor(*last));
            }
            *examined += 1;
            *last = Some(key);
            if (expires && entry.expired(now_ms))
                || glob.as_ref().is_some_and(|glob| !glob.matches(key))
            {
                continue;
            }
            *shown += 1;
            if most_bytes != usize::MAX {
                *bytes += key.len() + entry.value().len();
            }
            if each(spot).is_break() {
                return Ok(cursor(*last));
            }
        }
        Ok(None)
    }
}

/// How far a walk is.
#[derive(Default)]
pub(crate) struct SoFar<'a> {
    shown: usize,
    bytes: usize,
    examined: usize,
    /// The last key looked at.
    last: Option<&'a [u8]>,
}

impl PartialEq for Expiring {
    fn eq(&self, other: &Expiring) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Expiring {}

impl PartialOrd for Expiring {
    fn partial_cmp(&self, other: &Expiring) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Expiring {
    fn cmp(&self, other: &Expiring) -> Ordering {
        self.at
            .cmp(&other.at)
            .then_with(|| self.entry.cmp(&other.entry))
    }
}

/// What readers see: an index and the revision that it shows.
#[derive(Clone, Default)]
pub(crate) struct View {
    pub index: Index,
    pub revision: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &[u8], expires_at: Option<u64>) -> Entry {
        let fields = EntryRef {
            key,
            value: b"v",
            created: 1,
            modified: 1,
            version: 1,
            expires_at,
        };
        Entry::pack(&fields, &mut Vec::new())
    }

    #[test]
    fn keys_of_any_length_are_in_byte_order() {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for len in [1, 7, 8, 9, 15, 16, 17, 24, 1024] {
            for byte in [0, 1, 0xff] {
                keys.push(vec![byte; len]);
                let mut key = vec![0; len];
                key[len - 1] = byte;
                keys.push(key);
            }
        }
        let mut index = Index::default();
        for key in &keys {
            index.insert(&entry(key, None));
        }
        keys.sort();
        keys.dedup();
        let found: Vec<Vec<u8>> = index
            .from(Bound::Unbounded)
            .map(|entry| entry.key().to_vec())
            .collect();
        assert_eq!(found, keys);
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(index.get(key).unwrap().key(), key);
            assert_eq!(index.from(Bound::Included(key)).count(), keys.len() - at);
            assert_eq!(
                index.from(Bound::Excluded(key)).count(),
                keys.len() - at - 1
            );
        }
    }

    #[test]
    fn sums_and_expiry_follow_what_is_put_in_and_taken_out() {
        let mut index = Index::default();
        index.insert(&entry(b"a", Some(10)));
        index.insert(&entry(b"a", Some(10)));
        index.insert(&entry(b"b", Some(10)));
        index.insert(&entry(b"b", Some(20)));
        assert_eq!((index.live(10), index.next_expiry()), (1, Some(10)));
        index.insert(&entry(b"a", None));
        assert_eq!((index.live(10), index.next_expiry()), (2, Some(20)));
        index.remove(b"a");
        index.remove(b"b");
        assert_eq!(
            (index.bytes(), index.memory(), index.next_expiry()),
            (0, 0, None)
        );
    }
}
