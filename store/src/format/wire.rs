//! Fixed fields in a page: all numbers little-endian, a SHA-256 of the rest in the last 32 bytes.

use super::{Digest, PAGE};
use crate::crypto::{same, sha256};

const SUM_AT: usize = PAGE - 32;

/// True if every byte is zero. Compares in blocks: recovery looks at whole files with it.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 512] = [0; 512];
    bytes
        .chunks(ZEROS.len())
        .all(|block| ZEROS.starts_with(block))
}

/// A page being written.
pub(crate) struct Page {
    bytes: Vec<u8>,
}

impl Page {
    pub(crate) fn new() -> Page {
        Page {
            bytes: Vec::with_capacity(PAGE),
        }
    }

    pub(crate) fn put(&mut self, field: &[u8]) {
        self.bytes.extend_from_slice(field);
    }

    /// Fills with zeros and appends the checksum.
    pub(crate) fn seal(mut self) -> Vec<u8> {
        debug_assert!(self.bytes.len() <= SUM_AT);
        self.bytes.resize(SUM_AT, 0);
        let sum = sha256(&[&self.bytes]);
        self.bytes.extend_from_slice(&sum);
        self.bytes
    }

    /// The checksum that a page carries.
    pub(crate) fn checksum(page: &[u8]) -> Option<Digest> {
        page.get(SUM_AT..PAGE)?.try_into().ok()
    }

    /// True if the page carries its own checksum.
    pub(crate) fn verify(page: &[u8]) -> bool {
        match (page.get(..SUM_AT), Page::checksum(page)) {
            (Some(rest), Some(sum)) => same(&sha256(&[rest]), &sum),
            _ => false,
        }
    }

    /// True if what was not read, up to the checksum, is zero.
    pub(crate) fn rest_is_zero(fields: &Fields<'_>) -> bool {
        fields
            .rest
            .len()
            .checked_sub(32)
            .and_then(|len| fields.rest.get(..len))
            .is_some_and(is_zero)
    }
}

/// Fields being read in a row; `None` at the end of the bytes.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(field)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number in 7-bit groups, lowest first (LEB128), in its shortest form only.
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return (byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }

    /// Bytes with their length before them, at most `max`.
    pub(crate) fn blob(&mut self, max: usize) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?)
            .ok()
            .filter(|len| *len <= max)?;
        self.bytes(len)
    }
}

/// Appends a number as [`Fields::varint`] reads it.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

/// Appends bytes with their length before them.
pub(crate) fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_have_one_form() {
        let shifts = (0..64).map(|n| 1_u64 << n);
        for value in shifts
            .clone()
            .chain(shifts.map(|v| v - 1))
            .chain([u64::MAX])
        {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut fields = Fields::new(&out);
            assert_eq!(fields.varint(), Some(value));
            assert!(fields.is_empty());
        }
        for bad in [
            &[0x80, 0x00][..],
            &[0xff, 0x80, 0x00],
            &[0x80],
            &[],
            &[0xff; 11],
        ] {
            assert_eq!(Fields::new(bad).varint(), None, "{bad:?}");
        }
        let too_big = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(Fields::new(&too_big).varint(), None);
    }
}
