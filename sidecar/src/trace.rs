//! The trace that a request belongs to, as an app's tracing library says it in the header `traceparent`.
//!
//! From W3C Trace Context (level 1, section 3.2).

use std::str;

use http::HeaderMap;

/// The header; gRPC's metadata has the same.
const TRACEPARENT: &str = "traceparent";

/// Id of a trace that the app keeps: 32 lowercase hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The trace of a request. Of one that the app does not keep (it is not sampled) nobody would find anything.
pub fn of(headers: &HeaderMap) -> Option<TraceId> {
    let mut parts = headers.get(TRACEPARENT)?.as_bytes().split(|b| *b == b'-');
    let (version, id) = (parts.next()?, parts.next()?);
    let (parent, flags) = (parts.next()?, parts.next()?);
    let hex = |part: &[u8], len| {
        let digit = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        part.len() == len && part.iter().all(digit)
    };
    let some = |part: &[u8]| part.iter().any(|b| *b != b'0');
    let good = hex(version, 2)
        && version != b"ff"
        && (version != b"00" || parts.next().is_none())
        && (hex(id, 32) && some(id))
        && (hex(parent, 16) && some(parent))
        && hex(flags, 2);
    let flags = u8::from_str_radix(str::from_utf8(flags).ok()?, 16).ok()?;
    (good && flags & 1 == 1).then_some(TraceId(id.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn id(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        of(&headers).map(|id| id.as_str().to_owned())
    }

    #[test]
    fn a_sampled_trace_has_its_id() {
        for good in [
            format!("00-{ID}-00f067aa0ba902b7-01"),
            format!("00-{ID}-00f067aa0ba902b7-03"),
            format!("01-{ID}-00f067aa0ba902b7-01-what-comes"),
        ] {
            assert_eq!(id(&good).as_deref(), Some(ID), "{good}");
        }
        assert_eq!(of(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_not_sampled_or_not_of_the_form_has_none() {
        for bad in [
            format!("00-{ID}-00f067aa0ba902b7-00"),
            format!("00-{ID}-00f067aa0ba902b7-01-more"),
            format!("ff-{ID}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{ID}-00f067aa0ba902b7"),
            format!("00-{ID}-00f067aa0ba902b7-1"),
            format!("00-{ID}"),
            String::new(),
        ] {
            assert_eq!(id(&bad), None, "{bad}");
        }
    }
}
