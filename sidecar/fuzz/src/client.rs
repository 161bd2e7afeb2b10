//! The client's end of a connection, in memory: what it sends, how that is cut, and how it takes what it gets.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most parts in which a client sends, or takes: each of them costs time.
const PARTS: usize = 64;

/// A client that sends what it has in parts and then ends its side.
pub struct Client {
    input: Bytes,
    /// Bytes of a part.
    part: usize,
    /// Bytes that it takes at once, before it is busy for a moment.
    gulp: usize,
    sent: bool,
    took: bool,
    output: Output,
}

/// What a client got.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    /// All of it.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, bytes: &[u8], room: &mut usize) {
        let taken = &bytes[..bytes.len().min(*room)];
        *room -= taken.len();
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.extend_from_slice(taken);
    }
}

impl Client {
    /// One that sends this in parts of so many bytes, and takes as many as the other says.
    pub fn new(input: impl Into<Bytes>, part: u8, gulp: u8) -> Client {
        let input = input.into();
        let part = (1 + usize::from(part)).max(input.len() / PARTS);
        Client {
            input,
            part,
            // The smallest are the likeliest to end where an answer does.
            gulp: if gulp < 128 {
                16 + usize::from(gulp)
            } else {
                1 << (gulp % 16)
            },
            sent: false,
            took: false,
            output: Output::default(),
        }
    }

    /// What it gets.
    pub fn output(&self) -> Output {
        self.output.clone()
    }

    /// True every other time; else there is nothing to be done for a moment.
    fn ready(turn: &mut bool, cx: &mut Context<'_>) -> bool {
        *turn = !*turn;
        if !*turn {
            cx.waker().wake_by_ref();
        }
        *turn
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !Client::ready(&mut this.sent, cx) {
            return Poll::Pending;
        }
        let part = this.part.min(this.input.len()).min(buf.remaining());
        buf.put_slice(&this.input[..part]);
        this.input.advance(part);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !Client::ready(&mut this.took, cx) {
            return Poll::Pending;
        }
        let all: usize = bufs.iter().map(|buf| buf.len()).sum();
        let gulp = this.gulp.max(all / PARTS);
        let mut room = gulp;
        for buf in bufs {
            this.output.push(buf, &mut room);
        }
        Poll::Ready(Ok(gulp - room))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
