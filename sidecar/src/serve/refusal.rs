//! Answers to what is not a request: hyper refuses malformed HTTP/1 with a bare status line; here
//! that line gets a problem for its body, like every other error.

use codexstore_api::Problem;

/// The answer to a header that did not arrive in time.
pub fn slow() -> Vec<u8> {
    render(&Problem::new(
        "request-timeout",
        "the header did not arrive in time",
    ))
}

/// A refusal on its way out, in place of hyper's.
pub struct Refusal {
    bytes: Vec<u8>,
    sent: usize,
    stands_for: usize,
}

impl Refusal {
    /// The refusal for what hyper is about to write, if that is one. The sidecar itself never
    /// answers an error without a body, so an empty one is hyper's.
    pub fn of(written: &[u8]) -> Option<Refusal> {
        let status = written.strip_prefix(b"HTTP/1.1 4")?;
        let (code, detail) = match status.get(..2)? {
            b"00" => (
                "malformed-request",
                "this is not an HTTP request, or its header is malformed",
            ),
            b"14" => ("malformed-request", "the path is too long"),
            b"31" => (
                "headers-too-large",
                "the header has too many fields or bytes",
            ),
            _ => return None,
        };
        let text = std::str::from_utf8(written).ok()?;
        if !text.contains("content-length: 0\r\n") || !text.ends_with("\r\n\r\n") {
            return None;
        }
        Some(Refusal {
            bytes: render(&Problem::new(code, detail)),
            sent: 0,
            stands_for: written.len(),
        })
    }

    /// What is still to be sent.
    pub fn left(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// Notes what was sent.
    pub fn advance(&mut self, n: usize) {
        self.sent += n;
    }

    /// How many of hyper's bytes it stands for.
    pub fn stands_for(&self) -> usize {
        self.stands_for
    }
}

/// The answer to a connection for which there is no place.
pub fn overloaded() -> Vec<u8> {
    render(&Problem::new(
        "overloaded",
        "too many connections, and all of them are busy",
    ))
}

fn render(problem: &Problem) -> Vec<u8> {
    let body = problem.to_json();
    let mut bytes = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\n{}: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        problem.status,
        problem.title,
        codexstore_api::header::CODE,
        problem.code,
        body.len(),
    )
    .into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_refusal_gets_a_body_and_other_answers_are_left_alone() {
        let bare = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let refusal = Refusal::of(bare).unwrap();
        let text = std::str::from_utf8(refusal.left()).unwrap();
        assert!(
            text.contains("malformed-request") && text.starts_with("HTTP/1.1 400 "),
            "{text}"
        );
        assert_eq!(refusal.stands_for(), bare.len());
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
        ] {
            assert!(Refusal::of(other.as_bytes()).is_none(), "{other}");
        }
    }
}
