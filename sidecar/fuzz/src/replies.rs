//! What a client of HTTP/1 makes of the bytes that it gets.

use http::Method;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
    /// The body's length, where the header says it.
    pub length: Option<usize>,
}

/// Reads all answers to requests with these methods, in order. What is not HTTP is a failure; the last may be `cut`.
pub fn read(mut output: &[u8], asked: &[Method], cut: bool) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !output.is_empty() {
        let head = asked.get(replies.len()) == Some(&Method::HEAD);
        match reply(&mut output, head) {
            // That there may be more is no answer.
            Some(reply) if reply.status == 100 => {}
            Some(reply) => replies.push(reply),
            None => {
                assert!(cut, "an answer without its end: {:?}", text(output));
                break;
            }
        }
    }
    replies
}

fn reply(output: &mut &[u8], head: bool) -> Option<Reply> {
    let lines = until(output, b"\r\n\r\n")?;
    let lines = std::str::from_utf8(lines).expect("a header is text");
    let mut lines = lines.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let version = first
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| first.strip_prefix("HTTP/1.0 "));
    let status = version.unwrap_or_else(|| panic!("this is no answer: {first:?}"));
    let status: u16 = status
        .get(..3)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    assert!((100..600).contains(&status) && status != 500, "{first}");
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let (name, value) = line.split_once(": ").expect("a field");
        match name {
            "content-length" => {
                assert!(length.is_none(), "two lengths");
                length = Some(value.parse().expect("a length"));
            }
            "transfer-encoding" => chunked = value == "chunked",
            _ => {}
        }
    }
    let body = if head || status < 200 || status == 204 || status == 304 {
        Vec::new()
    } else if chunked {
        chunks(output)?
    } else {
        take(output, length.unwrap_or(output.len()))?.to_vec()
    };
    Some(Reply {
        status,
        body,
        length,
    })
}

fn chunks(output: &mut &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = std::str::from_utf8(until(output, b"\r\n")?).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        body.extend_from_slice(take(output, size)?);
        assert_eq!(take(output, 2)?, b"\r\n");
        if size == 0 {
            return Some(body);
        }
    }
}

/// What stands before the mark, which goes with it.
fn until<'a>(output: &mut &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let at = output.windows(mark.len()).position(|found| found == mark)?;
    let (before, after) = output.split_at(at);
    *output = &after[mark.len()..];
    Some(before)
}

fn take<'a>(output: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let taken = output.get(..size)?;
    *output = &output[size..];
    Some(taken)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned()
}
