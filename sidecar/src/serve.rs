//! Connections: accepting them, bounding them, and handing their requests to a service.

pub mod connections;
pub mod guard;
mod refusal;
pub mod socket;

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::access::Peer;
use crate::engine::Engine;
use crate::grpc::{self, Grpc};
use crate::http::answer::Body;
use crate::http::{App, answer};
use crate::log::Throttle;
use crate::metrics::{Metrics, Turned};
use connections::{Connection, Connections, Place};
use guard::Guard;

/// Largest header of a request, and of hyper's read buffer.
pub const MAX_HEADER: usize = 64 << 10;

/// Most header fields of a request.
const MAX_FIELDS: usize = 64;

/// Most requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// Bytes that an HTTP/2 client may send ahead of being read, for a stream and for a connection.
/// Small, since it is memory that each connection may claim.
const WINDOW: u32 = 64 << 10;

/// Pause after a failed accept: the reason, mostly a lack of descriptors, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Pause before an address is bound again.
const BIND_PAUSE: Duration = Duration::from_secs(5);

/// Failed accepts in the log.
static REFUSED: Throttle = Throttle::new();

/// HTTP as every listener here speaks it.
pub fn protocol() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .max_buf_size(MAX_HEADER)
        .max_headers(MAX_FIELDS)
        // A client may end its side after the request and still get its answer.
        .half_close(true)
        // `Guard` keeps this deadline without a timer for each request.
        .header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(256 << 10)
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(64);
    builder
}

/// Accepts connections of HTTP until they are told to stop.
pub async fn accept<E: Engine>(
    listener: UnixListener,
    app: Arc<App<E>>,
    grpc: Arc<Grpc>,
    all: Arc<Connections>,
) {
    let protocol = Arc::new(protocol());
    let refusal = refusal::overloaded();
    accept_each(
        listener,
        &app.metrics,
        &all,
        &refusal,
        |stream, connection| {
            let grant = Arc::new(app.access.grant(peer(&stream)));
            let (app, grpc) = (Arc::clone(&app), Arc::clone(&grpc));
            let protocol = Arc::clone(&protocol);
            let limits = app.limits;
            tokio::spawn(async move {
                let _counted = app.metrics.connection();
                let guard = Guard::new(stream, Arc::clone(&connection), limits);
                let service = {
                    let app = Arc::clone(&app);
                    move |request| {
                        let (app, grant) = (Arc::clone(&app), Arc::clone(&grant));
                        let grpc = is_grpc(&request).then(|| Arc::clone(&grpc));
                        async move {
                            match grpc {
                                Some(grpc) => grpc::answer(&app, &grpc, &grant, request).await,
                                None => answer(&app, &grant, request).await,
                            }
                        }
                    }
                };
                let ended = connection_of(&protocol, guard, &connection, service).await;
                if let Some(why) = ended {
                    app.metrics.turned(why);
                }
            });
        },
    )
    .await;
}

/// Accepts connections of any protocol until they are told to stop. Who finds no place gets `refusal`.
pub async fn accept_each(
    listener: UnixListener,
    metrics: &Metrics,
    all: &Arc<Connections>,
    refusal: &[u8],
    serve: impl Fn(UnixStream, Place),
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = all.stopped() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: make room, and go on with who is already here.
                if let Some(held_back) = REFUSED.pass() {
                    tracing::warn!(%error, held_back, "cannot accept a connection");
                }
                metrics.turned(Turned::Descriptors);
                if all.evict() {
                    metrics.turned(Turned::Evicted);
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some((connection, evicted)) = all.admit() else {
            metrics.turned(Turned::Connections);
            // Its buffer is empty, so this does not wait. A client that is gone hears nothing.
            let _ = stream.try_write(refusal);
            continue;
        };
        if evicted {
            metrics.turned(Turned::Evicted);
        }
        serve(stream, connection);
    }
}

/// True for a gRPC call.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Who connected, if the system says so.
pub fn peer(stream: &UnixStream) -> Option<Peer> {
    let who = stream.peer_cred().ok()?;
    Some(Peer {
        uid: who.uid(),
        gid: who.gid(),
    })
}

/// Serves one connection until it ends or is told to; says if it was ended for a reason that
/// counts.
pub async fn connection_of<S, F, R>(
    protocol: &Builder<TokioExecutor>,
    stream: Guard<S>,
    connection: &Arc<Connection>,
    service: F,
) -> Option<Turned>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(|mut request: Request<Incoming>| {
        if !request.body().is_end_stream() {
            // For what drains the body after a refusal.
            request.extensions_mut().insert(Arc::clone(connection));
        }
        let http2 = request.version() == Version::HTTP_2;
        let in_work = Connection::begin(connection);
        let answer = service(request);
        async move {
            let mut response = answer.await;
            if http2 || response.body().is_streaming() {
                // One of many answers on the connection, or one that is not made yet: nothing but
                // its own bytes says when it is sent. Else the guard sees that.
                response.body_mut().sending(in_work);
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut serving = pin!(protocol.serve_connection(TokioIo::new(stream), service));
    let mut told = false;
    let result = poll_fn(|cx| {
        connection.remember(cx.waker());
        if connection.evicted() {
            return Poll::Ready(Ok(()));
        }
        if !told && connection.stopping() {
            told = true;
            serving.as_mut().graceful_shutdown();
        }
        serving.as_mut().poll(cx)
    })
    .await;
    let malformed = result.as_ref().err().is_some_and(|error| {
        let error = error.downcast_ref::<hyper::Error>();
        error.is_some_and(hyper::Error::is_parse)
    });
    if let Err(error) = &result {
        // Clients end connections as they like; what was wrong has been answered if it could.
        tracing::debug!(error = %error, "a connection ended early");
    }
    connection
        .ended()
        .or(malformed.then_some(Turned::Malformed))
}

/// Binds an address of the network, for as long as it takes.
pub async fn bind(address: SocketAddr, what: &str) -> TcpListener {
    let mut logged = false;
    loop {
        let bound = match TcpListener::bind(address).await {
            // Where the machine has no IPv6, `[::]` means all of IPv4.
            Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
            }
            result => result,
        };
        match bound {
            Ok(listener) => {
                tracing::info!(%address, "{what} is bound");
                return listener;
            }
            Err(error) => {
                if !logged {
                    tracing::error!(%address, %error, "{what} cannot be bound; trying again");
                    logged = true;
                }
                tokio::time::sleep(BIND_PAUSE).await;
            }
        }
    }
}
