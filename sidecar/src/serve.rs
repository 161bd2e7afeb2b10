//! Connections: accepting them, bounding them, and handing their requests to a service.

pub mod connections;
pub mod guard;
pub mod protocol;
mod refusal;
pub mod socket;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Request, Version};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::access::Peer;
use crate::engine::Engine;
use crate::grpc::{self, Grpc};
use crate::http::{App, answer};
use crate::log::Throttle;
use crate::metrics::{Metrics, Turned};
use connections::{Connections, Place};
use guard::Guard;
use protocol::{connection_of, protocol};

/// Pause after a failed accept: the reason, mostly a lack of descriptors, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Pause before an address is bound again.
const BIND_PAUSE: Duration = Duration::from_secs(5);

/// Failed accepts in the log.
static REFUSED: Throttle = Throttle::new();

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
                let mut guard = Guard::new(stream, Arc::clone(&connection), limits);
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
                let ended = connection_of(&protocol, &mut guard, &connection, service).await;
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
