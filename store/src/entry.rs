//! One live key with its value: one allocation, shared by every reader.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::format::record::EntryRef;

/// Bytes of value from which [`Entry::bytes`] shares the entry's memory instead of copying.
const SHARE_FROM: usize = 512;

/// Bytes that an entry costs besides its content: reference counts, the allocator's header, and
/// its place in the index.
const OVERHEAD: usize = 80;

/// What an expiry adds: a second place in the index, 24 bytes in nodes that are half full or more.
const EXPIRY: usize = 48;

/// A key with its value and revisions, as it was when it was read. Cloning is cheap and shares
/// the memory.
///
/// Laid out as `[key length u16][key][created][modified][version][expiry][value]` with the four
/// numbers as variable-length integers, so that a lookup compares keys after one dereference.
#[derive(Clone)]
pub struct Entry(Arc<[u8]>);

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
        Entry(Arc::from(scratch.as_slice()))
    }

    /// The key: 1 to 1,024 bytes.
    pub fn key(&self) -> &[u8] {
        let (len, rest) = self.0.split_at_checked(2).unwrap_or_default();
        let len = usize::from(u16::from_le_bytes(len.try_into().unwrap_or_default()));
        rest.get(..len).unwrap_or_default()
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        self.unpack().value
    }

    /// The value as [`Bytes`]: a small value is copied, a large one shares the entry's memory.
    pub fn bytes(&self) -> Bytes {
        let value = self.value();
        if value.len() < SHARE_FROM {
            return Bytes::copy_from_slice(value);
        }
        let start = self.0.len() - value.len();
        Bytes::from_owner(Shared(self.0.clone())).slice(start..)
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

    /// True if its time is over at `now_ms`.
    pub(crate) fn expired(&self, now_ms: u64) -> bool {
        self.expires_at().is_some_and(|at| at <= now_ms)
    }

    /// Bytes of memory that the entry takes.
    pub(crate) fn footprint(&self) -> u64 {
        let expiry = self.expires_at().map_or(0, |_| EXPIRY);
        (self.0.len() + OVERHEAD + expiry) as u64
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
