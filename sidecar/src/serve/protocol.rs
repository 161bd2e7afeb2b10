//! HTTP on one connection. Between requests of HTTP/1 it holds no buffer: hyper's state, with some
//! 16 KiB of them, is made when bytes come and given up when the answer is out.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use http::{Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connections::Connection;
use super::guard::{Guard, Spoken};
use crate::http::answer::Body;
use crate::metrics::Turned;

/// Largest header of a request, and of hyper's read buffer.
pub const MAX_HEADER: usize = 64 << 10;

/// Most header fields of a request.
const MAX_FIELDS: usize = 64;

/// Most requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// Bytes that an HTTP/2 client may send ahead of being read, for a stream and for a connection.
/// Small, since it is memory that each connection may claim.
const WINDOW: u32 = 64 << 10;

/// A client that asks again within so many milliseconds is likely to ask once more: its connection
/// then keeps its buffers until it has been quiet for longer.
const KEPT_MILLIS: u64 = 250;

/// HTTP as every listener here speaks it: both versions.
pub struct Protocol {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

/// The bounds that hold on each of them.
pub fn protocol() -> Protocol {
    let mut http1 = http1::Builder::new();
    http1
        .max_buf_size(MAX_HEADER)
        .max_headers(MAX_FIELDS)
        // A client may end its side after the request and still get its answer.
        .half_close(true)
        // `Guard` keeps this deadline without a timer for each request.
        .header_read_timeout(None);
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(256 << 10)
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(64);
    Protocol { http1, http2 }
}

/// Serves one connection until it ends or is told to; says if it was ended for a reason that
/// counts.
pub async fn connection_of<S, F, R>(
    protocol: &Protocol,
    stream: &mut Guard<S>,
    connection: &Arc<Connection>,
    service: F,
) -> Option<Turned>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let answer = |mut request: Request<Incoming>| {
        if !request.body().is_end_stream() {
            // For what drains the body after a refusal.
            request.extensions_mut().insert(Arc::clone(connection));
        }
        let http2 = request.version() == Version::HTTP_2;
        let in_work = Connection::begin(connection);
        let answering = (!http2).then(|| Connection::answer(connection));
        let answer = service(request);
        async move {
            let mut response = answer.await;
            response.body_mut().answers(answering);
            if http2 || response.body().is_streaming() {
                // One of many answers on the connection, or one that is not made yet: nothing but
                // its own bytes says when it is sent. Else the guard sees that.
                response.body_mut().sending(in_work);
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    };
    let malformed = match requests(protocol, stream, connection, answer).await {
        Ok(()) => false,
        Err(Early::Stream(error)) => {
            // Clients end connections as they like.
            tracing::debug!(%error, "a connection ended early");
            false
        }
        Err(Early::Http(error)) => {
            // What was wrong has been answered if it could.
            tracing::debug!(%error, "a connection ended early");
            error.is_parse()
        }
    };
    connection
        .ended()
        .or(malformed.then_some(Turned::Malformed))
}

/// Why a connection ended before its time.
enum Early {
    Stream(io::Error),
    Http(hyper::Error),
}

impl From<hyper::Error> for Early {
    fn from(error: hyper::Error) -> Early {
        Early::Http(error)
    }
}

async fn requests<S, F, R>(
    protocol: &Protocol,
    stream: &mut Guard<S>,
    connection: &Arc<Connection>,
    answer: F,
) -> Result<(), Early>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send + 'static,
{
    loop {
        let mut ended = false;
        let spoken = poll_fn(|cx| {
            connection.remember(cx.waker());
            if connection.evicted() {
                return Poll::Ready(Ok(None));
            }
            if !ended && !connection.stopping() {
                let spoken = ready!(stream.poll_begin(cx))?;
                if spoken.is_some() {
                    return Poll::Ready(Ok(spoken));
                }
                ended = true;
            }
            Pin::new(&mut *stream).poll_shutdown(cx).map_ok(|()| None)
        });
        match spoken.await.map_err(Early::Stream)? {
            None => return Ok(()),
            Some(Spoken::Http2) => {
                let service = service_fn(&answer);
                let mut serving = Box::pin(
                    protocol
                        .http2
                        .serve_connection(TokioIo::new(stream), service),
                );
                let mut told = false;
                let served = poll_fn(|cx| {
                    connection.remember(cx.waker());
                    if connection.evicted() {
                        return Poll::Ready(Ok(()));
                    }
                    if !told && connection.stopping() {
                        told = true;
                        serving.as_mut().graceful_shutdown();
                    }
                    serving.as_mut().poll(cx)
                });
                return Ok(served.await?);
            }
            Some(_) => {
                let keeps = connection.served() && connection.quiet_for() < KEPT_MILLIS;
                // Boxed, as hyper gives a stream back only from a service whose futures can be moved.
                let service = service_fn(|request| Box::pin(answer(request)));
                let mut serving = Box::new(
                    protocol
                        .http1
                        .serve_connection(TokioIo::new(&mut *stream), service),
                );
                let mut told = false;
                let served = poll_fn(|cx| {
                    connection.remember(cx.waker());
                    if connection.evicted() {
                        return Poll::Ready(Ok(End::Whole));
                    }
                    if !told && connection.stopping() {
                        told = true;
                        Pin::new(&mut *serving).graceful_shutdown();
                    }
                    // Twice before it may be between two messages: a body that was dropped before its
                    // end shows in the poll behind the one that brought the answer.
                    for _ in 0..2 {
                        if let Poll::Ready(ended) = Pin::new(&mut *serving).poll(cx) {
                            return Poll::Ready(ended.map(|()| End::Whole));
                        }
                        let busy =
                            !connection.rests() || keeps && connection.quiet_for() < KEPT_MILLIS;
                        if told || busy {
                            return Poll::Pending;
                        }
                    }
                    // Between two messages hyper is done with this at once.
                    told = true;
                    Pin::new(&mut *serving).graceful_shutdown();
                    let done = serving.poll_without_shutdown(cx);
                    done.map_ok(|()| End::Between)
                });
                match served.await? {
                    End::Whole => return Ok(()),
                    End::Between => {
                        let unread = serving.into_parts().read_buf;
                        stream.unread(unread);
                    }
                }
            }
        }
    }
}

/// How far a connection of HTTP/1 was served.
enum End {
    Whole,
    /// Up to where the next request begins.
    Between,
}
