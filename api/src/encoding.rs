//! Keys and values in URLs and JSON: percent-encoding and base64.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What is encoded in a path segment or query value: all but RFC 3986's unreserved characters,
/// so `/` is `%2F`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A key as a path segment or query value.
pub fn percent(bytes: &[u8]) -> String {
    let text = percent_encode(bytes, RESERVED).to_string();
    // Clients and proxies remove the segments "." and ".." (RFC 3986, 5.2.4) even when they
    // were meant; encoded dots survive most of them.
    match text.as_str() {
        "." => "%2E".to_string(),
        ".." => "%2E%2E".to_string(),
        _ => text,
    }
}

/// Decodes percent-encoded text strictly: `%` must be followed by two hexadecimal digits.
/// `+` is itself. `None` if it is malformed.
pub fn unpercent(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(*rest.next()?).to_digit(16)?;
            let low = char::from(*rest.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

/// Bytes in hexadecimal, two lower-case digits each.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or_default();
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes standard base64 with padding; `None` if it is malformed.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Base64 for URLs, without padding, as cursors have it.
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes base64 for URLs; `None` if it is malformed.
pub fn unbase64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_percent_encoding() {
        let all: Vec<u8> = (0..=255).collect();
        let text = percent(&all);
        assert!(!text.contains('/') && !text.contains('?') && !text.contains('+'));
        assert_eq!(unpercent(text.as_bytes()).unwrap(), all);
    }

    #[test]
    fn bytes_have_two_digits_each() {
        assert_eq!(hex(&[0, 0x0f, 0xa5, 0xff]), "000fa5ff");
    }

    #[test]
    fn dot_segments_are_encoded() {
        assert_eq!(percent(b"."), "%2E");
        assert_eq!(percent(b".."), "%2E%2E");
        assert_eq!(percent(b"..."), "...");
    }

    #[test]
    fn malformed_percent_encoding_is_refused() {
        for bad in ["%", "%2", "%zz", "a%2", "%2g", "%+1"] {
            assert_eq!(unpercent(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(unpercent(b"a+b%2f").unwrap(), b"a+b/");
    }
}
