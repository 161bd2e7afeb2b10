//! Server-sent events, taken from the bytes of an answer as they come.

use bytes::{Bytes, BytesMut};

/// One event, or a comment's block that had an id only.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Its id, if it has one.
    pub(super) id: Option<String>,
    /// Its type; empty: `message`.
    pub(super) kind: String,
    /// Its data, lines joined.
    pub(super) data: Vec<u8>,
}

/// What was read and is no whole event yet.
#[derive(Default)]
pub(super) struct Events {
    bytes: BytesMut,
    /// So many bytes hold no end of a line.
    searched: usize,
    event: Event,
}

impl Events {
    /// More bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How much is held.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.event.data.len()
    }

    /// The next event that is whole and has an id or data.
    pub(super) fn next(&mut self) -> Option<Event> {
        while let Some(line) = self.line() {
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if event.id.is_some() || !event.data.is_empty() {
                    return Some(event);
                }
                continue;
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, value) = match colon {
                Some(at) => (line.slice(..at), line.slice(at + 1..)),
                None => (line, Bytes::new()),
            };
            let value = value.strip_prefix(b" ").unwrap_or(&value);
            match &name[..] {
                b"id" => self.event.id = Some(String::from_utf8_lossy(value).into_owned()),
                b"event" => self.event.kind = String::from_utf8_lossy(value).into_owned(),
                b"data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push(b'\n');
                    }
                    self.event.data.extend_from_slice(value);
                }
                // Comments, and what a newer sidecar may add.
                _ => {}
            }
        }
        None
    }

    fn line(&mut self) -> Option<Bytes> {
        let unsearched = self.bytes.get(self.searched..).unwrap_or_default();
        let Some(at) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let mut line = self.bytes.split_to(self.searched + at + 1).freeze();
        self.searched = 0;
        line.truncate(line.len() - 1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"id: 1\n\n:\n\nid: 2\r\nevent: change\r\ndata: {\"a\":\ndata:1}\nretry: 5\n\n: more\nevent: error\ndata: x\n\nid: 3\n";

    #[test]
    fn events_are_the_same_however_the_bytes_come() {
        for size in 1..=STREAM.len() {
            let mut events = Events::default();
            let mut seen = Vec::new();
            for piece in STREAM.chunks(size) {
                events.push(piece);
                seen.extend(std::iter::from_fn(|| events.next()));
            }
            let event = |id: Option<&str>, kind: &str, data: &[u8]| Event {
                id: id.map(str::to_owned),
                kind: kind.to_owned(),
                data: data.to_vec(),
            };
            let wanted = [
                event(Some("1"), "", b""),
                event(Some("2"), "change", b"{\"a\":\n1}"),
                event(None, "error", b"x"),
            ];
            assert_eq!(seen, wanted, "in pieces of {size}");
        }
    }
}
