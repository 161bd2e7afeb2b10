//! Traces: what an app says of the trace that its request belongs to, and spans of our own for a collector.
//!
//! - here: the header `traceparent`, from W3C Trace Context (level 1, section 3.2).
//! - [`request`]: one request and its trace; [`tracer`]: which requests have a span; [`span`]: what it tells, which is
//!   never a key; [`export`]: how spans are sent, on a thread of their own.
//!
//! Without a collector nothing of that is started.

pub mod export;
pub mod request;
pub mod span;
pub mod tracer;

use std::str;

use http::HeaderMap;
use opentelemetry::trace::{SpanId, TraceId};

pub use request::Traced;
pub use span::About;
pub use tracer::Tracer;

/// The header; gRPC's metadata has the same.
const TRACEPARENT: &str = "traceparent";

/// The span of an app that a request is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub span: SpanId,
    /// Whether the app keeps the trace. Of one that it does not keep nobody would find anything.
    pub sampled: bool,
}

/// The parent of a request, if it names one.
pub fn parent(headers: &HeaderMap) -> Option<Parent> {
    let mut parts = headers.get(TRACEPARENT)?.as_bytes().split(|b| *b == b'-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let hex = |part: &[u8], len| {
        let digit = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        part.len() == len && part.iter().all(digit)
    };
    let some = |part: &[u8]| part.iter().any(|b| *b != b'0');
    let good = hex(version, 2)
        && version != b"ff"
        && (version != b"00" || parts.next().is_none())
        && (hex(trace, 32) && some(trace))
        && (hex(span, 16) && some(span))
        && hex(flags, 2);
    if !good {
        return None;
    }
    Some(Parent {
        trace: TraceId::from_hex(str::from_utf8(trace).ok()?).ok()?,
        span: SpanId::from_hex(str::from_utf8(span).ok()?).ok()?,
        sampled: u8::from_str_radix(str::from_utf8(flags).ok()?, 16).ok()? & 1 == 1,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn read(value: &str) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        parent(&headers)
    }

    #[test]
    fn a_parent_has_its_trace_itself_and_whether_it_is_sampled() {
        for (value, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("00-{TRACE}-{SPAN}-03"), true),
            (format!("00-{TRACE}-{SPAN}-00"), false),
            (format!("00-{TRACE}-{SPAN}-02"), false),
            (format!("01-{TRACE}-{SPAN}-01-what-comes"), true),
        ] {
            let parent = read(&value).unwrap();
            assert_eq!(parent.trace.to_string(), TRACE, "{value}");
            assert_eq!(parent.span.to_string(), SPAN, "{value}");
            assert_eq!(parent.sampled, sampled, "{value}");
        }
        assert_eq!(parent(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_not_of_the_form_is_no_parent() {
        for bad in [
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}"),
            String::new(),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
