//! The body of a request: bytes, or a stream of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// What is sent.
pub(super) enum Outgoing {
    /// All of it.
    Bytes(Option<Bytes>),
    /// Part by part. An error ends the connection, so that what was sent is not taken for all.
    Parts(mpsc::Receiver<io::Result<Bytes>>),
}

impl From<Bytes> for Outgoing {
    fn from(bytes: Bytes) -> Outgoing {
        Outgoing::Bytes(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match self.get_mut() {
            Outgoing::Bytes(bytes) => bytes.take().map(Ok),
            Outgoing::Parts(parts) => ready!(parts.poll_recv(cx)),
        };
        Poll::Ready(next.map(|part| part.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Outgoing::Bytes(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Bytes(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Outgoing::Parts(_) => SizeHint::default(),
        }
    }
}
