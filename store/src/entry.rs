//! One live key with its value, as a reader has it: a piece of memory that is shared.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::format::record::EntryRef;

/// Bytes of value from which [`Entry::bytes`] shares the entry's memory instead of copying, and bytes
/// of an entry from which it has memory of its own.
pub(crate) const SHARE_FROM: usize = 512;

/// Bytes that a small entry costs besides its content: its place in a block, and its share of the
/// block's own cost.
const OVERHEAD: usize = 32;

/// The same for an entry that has a block of its own: reference counts, the allocator's header, and
/// its place in the index.
const OVERHEAD_ALONE: usize = 96;

/// What an expiry adds besides another copy of the key: a second place in the index.
const EXPIRY: usize = 128;

/// A key with its value and revisions, as it was when it was read. Cloning is cheap and shares
/// the memory: up to 2 KiB that neighbours were packed into, or the entry's own.
#[derive(Clone)]
pub struct Entry {
    memory: Arc<[u8]>,
    start: u32,
    end: u32,
}

/// An entry's bytes.
///
/// Laid out as `[key length u16][key][created][modified][version][expiry][value]` with the four
/// numbers as variable-length integers.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a>(&'a [u8]);

impl<'a> Packed<'a> {
    /// Bytes that [`Entry::pack`] made.
    pub fn new(bytes: &'a [u8]) -> Packed<'a> {
        Packed(bytes)
    }

    /// The bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The key.
    pub fn key(self) -> &'a [u8] {
        let (len, rest) = self.0.split_at_checked(2).unwrap_or_default();
        let len = usize::from(u16::from_le_bytes(len.try_into().unwrap_or_default()));
        rest.get(..len).unwrap_or_default()
    }

    /// The value.
    pub fn value(self) -> &'a [u8] {
        self.unpack().value
    }

    /// When it expires.
    pub fn expires_at(self) -> Option<u64> {
        self.unpack().expires_at
    }

    /// True if its time is over at `now_ms`.
    pub fn expired(self, now_ms: u64) -> bool {
        self.expires_at().is_some_and(|at| at <= now_ms)
    }

    /// All fields at once.
    pub fn unpack(self) -> EntryRef<'a> {
        let key = self.key();
        let mut rest = self.0.get(2 + key.len()..).unwrap_or_default();
        let created = take_varint(&mut rest);
        let modified = take_varint(&mut rest);
        let version = take_varint(&mut rest);
        let expiry = take_varint(&mut rest);
        EntryRef {
            key,
            value: rest,
            created,
            modified,
            version,
            expires_at: expiry.checked_sub(1),
        }
    }

    /// Bytes of memory that the entry takes.
    pub fn footprint(self) -> u64 {
        let expiry = self.expires_at().map_or(0, |_| EXPIRY + self.key().len());
        let own = if self.0.len() < SHARE_FROM {
            OVERHEAD
        } else {
            OVERHEAD_ALONE
        };
        (self.0.len() + own + expiry) as u64
    }
}

impl Entry {
    /// Packs an entry. The key is at most 1,024 bytes long.
    pub(crate) fn pack(from: &EntryRef<'_>, scratch: &mut Vec<u8>) -> Entry {
        scratch.clear();
        scratch.reserve(from.key.len() + from.value.len() + 42);
        let key_len = u16::try_from(from.key.len()).unwrap_or(u16::MAX);
        scratch.extend_from_slice(&key_len.to_le_bytes());
        scratch.extend_from_slice(from.key);
        for number in [
            from.created,
            from.modified,
            from.version,
            from.expires_at.map_or(0, |at| at.saturating_add(1)),
        ] {
            put_varint(scratch, number);
        }
        scratch.extend_from_slice(from.value);
        let memory: Arc<[u8]> = Arc::from(scratch.as_slice());
        let end = memory.len();
        Entry::part(memory, 0, end)
    }

    /// The entry in a part of a block.
    pub(crate) fn part(memory: Arc<[u8]>, start: usize, end: usize) -> Entry {
        // A value has 64 MiB at most, and a block is as long as its entries.
        let place = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Entry {
            memory,
            start: place(start),
            end: place(end),
        }
    }

    /// Its bytes in memory of their own.
    pub(crate) fn alone(&self) -> Arc<[u8]> {
        let bytes = self.packed().bytes();
        if bytes.len() == self.memory.len() {
            return self.memory.clone();
        }
        Arc::from(bytes)
    }

    /// Its content.
    pub(crate) fn packed(&self) -> Packed<'_> {
        let range = self.start as usize..self.end as usize;
        Packed(self.memory.get(range).unwrap_or_default())
    }

    /// The key: 1 to 1,024 bytes.
    pub fn key(&self) -> &[u8] {
        self.packed().key()
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        self.packed().value()
    }

    /// The value as [`Bytes`]: a small value is copied, a large one shares the entry's memory.
    pub fn bytes(&self) -> Bytes {
        let value = self.value();
        if value.len() < SHARE_FROM {
            return Bytes::copy_from_slice(value);
        }
        let end = self.end as usize;
        Bytes::from_owner(Shared(self.memory.clone())).slice(end - value.len()..end)
    }

    /// Revision that created the key.
    pub fn created(&self) -> u64 {
        self.unpack().created
    }

    /// Revision that last set it: what a precondition and an `ETag` compare.
    pub fn modified(&self) -> u64 {
        self.unpack().modified
    }

    /// How often it was set since it was created: from 1.
    pub fn version(&self) -> u64 {
        self.unpack().version
    }

    /// When it expires, in milliseconds since 1970, if ever.
    pub fn expires_at(&self) -> Option<u64> {
        self.unpack().expires_at
    }

    /// All fields at once.
    pub(crate) fn unpack(&self) -> EntryRef<'_> {
        self.packed().unpack()
    }

    /// True if its time is over at `now_ms`.
    pub(crate) fn expired(&self, now_ms: u64) -> bool {
        self.packed().expired(now_ms)
    }

    /// Bytes of memory that the entry takes.
    pub(crate) fn footprint(&self) -> u64 {
        self.packed().footprint()
    }
}

/// Lets a [`Bytes`] keep an entry alive.
struct Shared(Arc<[u8]>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl PartialEq for Entry {
    /// By key alone, as an index needs it.
    fn eq(&self, other: &Entry) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl fmt::Debug for Entry {
    /// Without key and value: an entry must not reach a log by accident.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.unpack();
        f.debug_struct("Entry")
            .field("created", &entry.created)
            .field("modified", &entry.modified)
            .field("version", &entry.version)
            .field("expires_at", &entry.expires_at)
            .finish_non_exhaustive()
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take_varint(from: &mut &[u8]) -> u64 {
    // Most are short.
    if let Some((&byte, rest)) = from.split_first()
        && byte < 0x80
    {
        *from = rest;
        return u64::from(byte);
    }
    take_long_varint(from)
}

fn take_long_varint(from: &mut &[u8]) -> u64 {
    let mut number = 0;
    let mut shift = 0;
    while let Some((&byte, rest)) = from.split_first() {
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 || shift > 63 {
            break;
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(created: u64, version: u64, expires_at: Option<u64>, value: &[u8]) {
        let from = EntryRef {
            key: b"some/key",
            value,
            created,
            modified: u64::MAX - created,
            version,
            expires_at,
        };
        let entry = Entry::pack(&from, &mut Vec::new());
        assert_eq!(entry.unpack(), from);
        assert_eq!(entry.bytes(), value);
    }

    #[test]
    fn packing_keeps_every_field() {
        check(0, 1, None, b"");
        check(127, 128, Some(0), b"v");
        check(u64::MAX, u64::MAX, Some(u64::MAX - 1), &[7; 511]);
        check(1 << 35, 3, Some(1_700_000_000_000), &[9; 5000]);
    }

    #[test]
    fn an_expiry_is_accounted_with_its_place_in_the_index() {
        let mut fields = EntryRef {
            key: b"key",
            value: b"value",
            created: 1,
            modified: 1,
            version: 1,
            expires_at: None,
        };
        let plain = Entry::pack(&fields, &mut Vec::new()).footprint();
        fields.expires_at = Some(1);
        let expiring = Entry::pack(&fields, &mut Vec::new()).footprint();
        assert!(expiring >= plain + 48, "{expiring}, {plain}");
    }

    #[test]
    fn a_large_value_is_shared_and_a_debug_print_shows_neither_key_nor_value() {
        let from = EntryRef {
            key: b"secret-key",
            value: &[b'x'; 4096],
            created: 1,
            modified: 1,
            version: 1,
            expires_at: None,
        };
        let entry = Entry::pack(&from, &mut Vec::new());
        assert_eq!(entry.bytes().as_ptr(), entry.value().as_ptr());
        let shown = format!("{entry:?}");
        assert!(
            !shown.contains("secret") && !shown.contains("xxx"),
            "{shown}"
        );
    }
}
