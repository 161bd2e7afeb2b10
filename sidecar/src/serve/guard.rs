//! A stream that keeps deadlines: headers that drip, clients that idle, clients that do not read.
//!
//! The timer is looked at only while the stream would wait anyway, and ticks a few times per
//! deadline, so that a busy connection pays nothing for it.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::connections::Connection;
use super::refusal::{self, Refusal};
use crate::metrics::Turned;
use crate::settings::Limits;

/// How an HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most bytes of a first read.
const FIRST: usize = 4 << 10;

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// So many bytes came, all of them as in the preface.
    Unknown(usize),
    Http1,
    Http2,
}

impl Spoken {
    /// What it is after these bytes, which may be any part of what the client sends.
    fn after(self, read: &[u8]) -> Spoken {
        let Spoken::Unknown(seen) = self else {
            return self;
        };
        let wanted = PREFACE.get(seen..).unwrap_or_default();
        if !wanted.iter().zip(read).all(|(a, b)| a == b) {
            Spoken::Http1
        } else if read.len() >= wanted.len() {
            Spoken::Http2
        } else {
            Spoken::Unknown(seen + read.len())
        }
    }
}

/// A stream with deadlines.
pub struct Guard<S> {
    stream: S,
    connection: Arc<Connection>,
    io: Duration,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    tick: Duration,
    spoken: Spoken,
    /// What was read and not taken yet.
    first: Bytes,
    stuck_since: Option<Instant>,
    refusal: Option<Refusal>,
}

enum Verdict {
    SlowHeader,
    Idle,
    Stuck,
}

impl<S> Guard<S> {
    /// Guards a stream.
    pub fn new(stream: S, connection: Arc<Connection>, limits: Limits) -> Guard<S> {
        let tick = (limits.io / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
        Guard {
            stream,
            connection,
            io: limits.io,
            idle: limits.idle,
            timer: Box::pin(sleep(tick)),
            tick,
            spoken: Spoken::Unknown(0),
            first: Bytes::new(),
            stuck_since: None,
            refusal: None,
        }
    }

    /// Waits for the next deadline that is over.
    fn overdue(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let millis =
                |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            if self
                .stuck_since
                .is_some_and(|since| since.elapsed() >= self.io)
            {
                return Poll::Ready(Verdict::Stuck);
            }
            let stalled = self.connection.stalled_for();
            if stalled.is_some_and(|since| since >= millis(self.io)) {
                return Poll::Ready(Verdict::Stuck);
            }
            if !self.connection.busy() {
                // On HTTP/2 bytes between requests need not be a header: pings, window updates. Up
                // to the first request they are held to its time all the same.
                let between = self.spoken == Spoken::Http2 && self.connection.served();
                let head_for = self.connection.head_for().filter(|_| !between);
                if head_for.is_some_and(|since| since >= millis(self.io)) {
                    return Poll::Ready(Verdict::SlowHeader);
                }
                if self.connection.quiet_for() >= millis(self.idle) {
                    return Poll::Ready(Verdict::Idle);
                }
            }
            let next = tokio::time::Instant::now() + self.tick;
            self.timer.as_mut().reset(next);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    /// Waits for a request to begin, and says what the client speaks; `None` if it has ended its side. What came is read
    /// from the guard afterwards. Until then there is no buffer.
    pub fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Spoken>>> {
        while self.first.is_empty() || matches!(self.spoken, Spoken::Unknown(_)) {
            let mut chunk = [MaybeUninit::uninit(); FIRST];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            ready!(self.poll_stream(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                let begun = !self.first.is_empty();
                return Poll::Ready(Ok(begun.then_some(Spoken::Http1)));
            }
            self.first = [&self.first, chunk.filled()].concat().into();
        }
        Poll::Ready(Ok(Some(self.spoken)))
    }

    /// Takes back what was read, and belongs to the next request.
    pub fn unread(&mut self, bytes: Bytes) {
        // Even empty ones hold the memory that they were cut from.
        self.first = if bytes.is_empty() {
            Bytes::new()
        } else {
            self.connection.head_begins();
            bytes
        };
    }

    /// Reads from the stream.
    fn poll_stream(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            let read = buf.filled().get(before..).unwrap_or_default();
            if !read.is_empty() {
                this.spoken = this.spoken.after(read);
                this.connection.head_begins();
            }
            return Poll::Ready(result);
        }
        match ready!(this.overdue(cx)) {
            Verdict::SlowHeader => {
                this.connection.end(Turned::SlowHeader);
                if this.spoken != Spoken::Http2 {
                    // Best effort: the socket's buffer has room, as nothing was answered yet.
                    let _ = Pin::new(&mut this.stream).poll_write(cx, &refusal::slow());
                }
            }
            Verdict::Stuck => this.connection.end(Turned::SlowReader),
            Verdict::Idle => {}
        }
        // To the protocol it is as if the client had hung up.
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return self.poll_stream(cx, buf);
        }
        let len = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(len));
        if self.first.is_empty() {
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Guard<S> {
    /// A write that makes no progress for too long fails.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stuck_since = None;
            return written;
        }
        self.stuck_since.get_or_insert_with(Instant::now);
        self.connection.blocked();
        if let Verdict::Stuck = ready!(self.overdue(cx)) {
            self.connection.end(Turned::SlowReader);
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Writes a refusal in place of the bytes that hyper made up.
    fn refuse(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(refusal) = &mut self.refusal else {
            return Poll::Ready(Ok(0));
        };
        while !refusal.left().is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, refusal.left()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            refusal.advance(n);
        }
        let stands_for = refusal.stands_for();
        self.refusal = None;
        Poll::Ready(Ok(stands_for))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.refusal.is_none() && this.spoken != Spoken::Http2 && !this.connection.answering() {
            this.refusal = Refusal::of(buf);
        }
        let written = if this.refusal.is_some() {
            this.refuse(cx)
        } else {
            Pin::new(&mut this.stream).poll_write(cx, buf)
        };
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut full = bufs.iter().filter(|buf| !buf.is_empty());
        if let (Some(only), None) = (full.next(), full.next()) {
            return self.poll_write(cx, only);
        }
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) && self.connection.flushed() {
            // hyper does not begin with a request that came while an answer before it was in the way, and
            // does not look again when that is out: without this it would wait for the next tick.
            cx.waker().wake_by_ref();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::connections::Connections;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn limits(io: u64, idle: u64) -> Limits {
        Limits {
            max_value: 1,
            max_connections: 1,
            max_requests: 1,
            in_flight_bytes: 1,
            request: Duration::from_secs(1),
            io: Duration::from_millis(io),
            idle: Duration::from_millis(idle),
            slow: Duration::from_secs(1),
        }
    }

    #[tokio::test]
    async fn a_header_that_drips_is_answered_and_ended() {
        let (mut client, server) = tokio::io::duplex(1024);
        let (place, _) = Connections::new(1).admit().unwrap();
        let mut guard = Guard::new(server, Arc::clone(&place), limits(60, 60_000));
        let reading = tokio::spawn(async move {
            let mut buf = [0; 8];
            while guard.read(&mut buf).await.is_ok() {}
        });
        for byte in b"GET / HTTP/1.1\r\n" {
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        reading.await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(matches!(place.ended(), Some(Turned::SlowHeader)));
    }

    #[tokio::test]
    async fn what_of_an_answer_looks_like_a_refusal_is_passed_on_as_it_is() {
        let (mut client, server) = tokio::io::duplex(4096);
        let (place, _) = Connections::new(1).admit().unwrap();
        let mut guard = Guard::new(server, Arc::clone(&place), limits(60_000, 60_000));
        let bare = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let answering = Connection::answer(&place);
        guard.write_all(bare).await.unwrap();
        guard.flush().await.unwrap();
        drop(answering);
        guard.write_all(bare).await.unwrap();
        guard.flush().await.unwrap();
        // And this is one.
        guard.write_all(bare).await.unwrap();
        drop(guard);
        let mut written = Vec::new();
        client.read_to_end(&mut written).await.unwrap();
        let refusal = written.strip_prefix(&bare.repeat(2)[..]).unwrap();
        let refusal = String::from_utf8_lossy(refusal);
        assert!(refusal.contains("malformed-request"), "{refusal}");
    }

    #[tokio::test]
    async fn a_request_behind_an_answer_that_waited_for_the_client_does_not_wait_longer() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        use bytes::Bytes;
        use http_body_util::Full;
        use hyper_util::rt::TokioIo;
        let (mut client, server) = tokio::io::duplex(64);
        let (place, _) = Connections::new(1).admit().unwrap();
        let guard = Guard::new(server, Arc::clone(&place), limits(60_000, 60_000));
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let service =
            hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                counted.fetch_add(1, Ordering::Relaxed);
                // Its body is read once the answer is on its way.
                crate::http::body::drain(request.into_body(), None);
                async {
                    Ok::<_, io::Error>(http::Response::new(Full::new(Bytes::from(vec![b'x'; 500]))))
                }
            });
        let serving = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(guard), service);
        let serving = tokio::spawn(serving);
        let came = async |count| {
            let asked = async {
                while asked.load(Ordering::Relaxed) < count {
                    tokio::task::yield_now().await;
                }
            };
            let came = tokio::time::timeout(Duration::from_secs(30), asked).await;
            came.expect("it is handed over");
        };
        // The body comes when the answer stands still already, and behind it a request that hyper then
        // hands over without asking for its answer.
        client
            .write_all(b"GET / HTTP/1.1\r\ncontent-length: 1\r\n\r\n")
            .await
            .unwrap();
        let mut answers = vec![0];
        client.read_exact(&mut answers).await.unwrap();
        came(1).await;
        client.write_all(b"xGET / HTTP/1.1\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        came(2).await;
        let reading = client.read_to_end(&mut answers);
        let in_time = tokio::time::timeout(Duration::from_secs(2), reading).await;
        in_time.expect("before the tick").unwrap();
        serving.await.unwrap().unwrap();
        let answered = answers.windows(9).filter(|w| *w == b"HTTP/1.1 ");
        assert_eq!(answered.count(), 2);
    }

    #[test]
    fn http2_is_what_sends_the_whole_preface_in_whatever_parts() {
        let after = |parts: &[&[u8]]| {
            let start = Spoken::Unknown(0);
            parts.iter().fold(start, |spoken, part| spoken.after(part))
        };
        assert!(after(&[b"P", b"UT /v1"]) == Spoken::Http1);
        assert!(after(&[b"PRI * HTT"]) == Spoken::Unknown(9));
        assert!(after(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n", b"\r\n\0\0"]) == Spoken::Http2);
        assert!(after(&[b"PRI", b" * HTTP/1.1\r\n", PREFACE]) == Spoken::Http1);
    }

    #[tokio::test]
    async fn an_idle_stream_is_ended_without_a_word() {
        let (mut client, server) = tokio::io::duplex(64);
        let (place, _) = Connections::new(1).admit().unwrap();
        let mut guard = Guard::new(server, Arc::clone(&place), limits(40, 50));
        assert!(guard.read(&mut [0; 8]).await.is_err());
        drop(guard);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty() && place.ended().is_none());
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_ended() {
        let (_client, server) = tokio::io::duplex(4);
        let (place, _) = Connections::new(1).admit().unwrap();
        let mut guard = Guard::new(server, Arc::clone(&place), limits(50, 60_000));
        assert!(guard.write_all(&[0; 64]).await.is_err());
        assert!(matches!(place.ended(), Some(Turned::SlowReader)));
    }
}
