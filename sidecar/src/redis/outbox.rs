//! What is written to a client but not sent: small things copied together, large values shared with
//! the store.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use codexstore::Entry;
use tokio::io::AsyncWrite;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes from which a value is not copied.
const SHARED: usize = 32 << 10;

/// A part, and how much of it is sent.
enum Part {
    Bytes(Vec<u8>),
    Value(Entry),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Bytes(bytes) => bytes,
            Part::Value(entry) => entry.value(),
        }
    }
}

/// Answers that are on their way.
#[derive(Default)]
pub struct Outbox {
    /// What comes before `tail`.
    parts: VecDeque<Part>,
    tail: Vec<u8>,
    /// Bytes of the first part that are sent.
    sent: usize,
    len: usize,
    /// Shares of the memory for what is in flight.
    held: Vec<OwnedSemaphorePermit>,
}

impl Outbox {
    /// Bytes that are not sent.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when all is sent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends copies.
    pub fn parts(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.tail.extend_from_slice(part);
            self.len += part.len();
        }
    }

    /// Appends a value.
    pub fn value(&mut self, entry: Entry) {
        let value = entry.value();
        if value.len() < SHARED {
            self.parts(&[value]);
            return;
        }
        self.len += value.len();
        if !self.tail.is_empty() {
            let bytes = std::mem::take(&mut self.tail);
            self.parts.push_back(Part::Bytes(bytes));
        }
        self.parts.push_back(Part::Value(entry));
    }

    /// Holds a share until all is sent.
    pub fn hold(&mut self, share: OwnedSemaphorePermit) {
        self.held.push(share);
    }

    /// Begins to write into memory that was lent.
    pub fn lend(&mut self, scratch: Vec<u8>) {
        if self.tail.capacity() == 0 {
            self.tail = scratch;
        }
    }

    /// Gives lent memory back if nothing is in it.
    pub fn give_back(&mut self) -> Vec<u8> {
        if self.tail.is_empty() {
            return std::mem::take(&mut self.tail);
        }
        // What waits for a slow client keeps no more than it needs.
        self.tail.shrink_to_fit();
        Vec::new()
    }

    /// Sends what can be sent; ready when that is all. True if some of it was.
    pub fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len > 0 {
            let first = self.parts.front().map_or(&self.tail[..], Part::bytes);
            let rest = first.get(self.sent..).unwrap_or_default();
            if !rest.is_empty() {
                let sent = ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
                if sent == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += sent;
                self.len -= sent;
            }
            let whole = self.parts.front().map_or(&self.tail[..], Part::bytes).len();
            if self.sent == whole {
                self.sent = 0;
                if self.parts.pop_front().is_none() {
                    self.tail.clear();
                }
            }
        }
        self.held.clear();
        Poll::Ready(Ok(()))
    }

    /// All that is in it.
    #[cfg(test)]
    pub fn bytes(&self) -> Vec<u8> {
        let mut all: Vec<u8> = self.parts.iter().flat_map(|p| p.bytes().to_vec()).collect();
        all.extend_from_slice(&self.tail);
        all.split_off(self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::reply::{Reply, Version};
    use std::task::Waker;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn large_values_are_sent_in_their_place_however_little_the_client_takes_at_once() {
        use codexstore::{Encryption, Options, Store};
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(Encryption::None);
        options.max_disk = 64 << 20;
        let store = Store::open(dir.path(), options).unwrap();
        let value = vec![b'v'; SHARED + 5];
        store.set(b"k", &value).unwrap();
        let entry = store.get(b"k").unwrap();
        let replies = vec![
            Reply::Int(1),
            Reply::value(entry.clone()),
            Reply::text("x"),
            Reply::value(entry),
        ];
        let mut out = Outbox::default();
        Reply::Array(replies).write(Version::Resp2, &mut out);
        let mut expected = b"*4\r\n:1\r\n".to_vec();
        let bulk = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
        expected.extend_from_slice(&bulk);
        expected.extend_from_slice(b"$1\r\nx\r\n");
        expected.extend_from_slice(&bulk);
        assert_eq!((out.len(), out.bytes()), (expected.len(), expected.clone()));

        let (mut client, mut server) = tokio::io::duplex(1000);
        let mut cx = Context::from_waker(Waker::noop());
        let mut taken = Vec::new();
        let mut chunk = [0; 777];
        loop {
            let done = out.poll_send(&mut server, &mut cx).is_ready();
            assert_eq!(out.is_empty(), done);
            let read = client.read(&mut chunk).await.unwrap();
            taken.extend_from_slice(&chunk[..read]);
            if taken.len() == expected.len() {
                break;
            }
        }
        assert_eq!(taken, expected);
    }
}
