//! The admin listener: TLS 1.3, a client certificate of the store's own CA, and one role in it.

mod archive;
mod backup;
mod restore;
mod role;
mod tls;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use codexstore_api::bodies::RewrapTold;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::engine::Engine;
use crate::engine::restore::Restorer;
use crate::http::App;
use crate::http::answer::{Body, Reject, json, without_body};
use crate::http::query::Query;
use crate::log::Throttle;
use crate::metrics::{Operation, Protocol};
use crate::serve::bind;
use crate::serve::connections::{Connection, Connections};
use crate::serve::guard::Guard;
use crate::serve::protocol::{connection_of, protocol};
use role::{Role, Verb};
pub use tls::Certificates;

/// Most connections: an operator needs one, a few replicas of it and a job some more.
const CONNECTIONS: usize = 16;

/// Most backups at once: each holds memory of the store's, and a thread.
const BACKUPS: usize = 1;

/// Most pieces of the archive at once, from when one is read until it is sent: each is in memory.
const PIECES: usize = 1;

/// Most restores at once.
const RESTORES: usize = 1;

/// Most handshakes at once. Anyone who reaches the port can begin one, so they have places of their
/// own, and few: beyond it the oldest gives way, so that silence keeps nobody else out.
const HANDSHAKES: usize = 8;

/// Most time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Most time without a request.
const IDLE: Duration = Duration::from_mins(1);

/// Refused connections in the log.
static REFUSED: Throttle = Throttle::new();

/// Refused requests in the log.
static DENIED: Throttle = Throttle::new();

/// What takes long, and whether it is being done.
pub struct Streams {
    backups: Arc<Semaphore>,
    pieces: Arc<Semaphore>,
    restores: Arc<Semaphore>,
    restorer: Arc<Restorer>,
}

impl Streams {
    /// Nothing is being done yet.
    pub fn new(restorer: Restorer) -> Arc<Streams> {
        Arc::new(Streams {
            backups: Arc::new(Semaphore::new(BACKUPS)),
            pieces: Arc::new(Semaphore::new(PIECES)),
            restores: Arc::new(Semaphore::new(RESTORES)),
            restorer: Arc::new(restorer),
        })
    }
}

/// Serves the admin listener for ever. Nothing that fails here ends the process: the socket is
/// served all the same.
pub async fn serve<E: Engine>(
    address: SocketAddr,
    certificates: Arc<Certificates>,
    app: Arc<App<E>>,
    streams: Arc<Streams>,
) {
    let listener = bind(address, "the admin listener").await;
    let all = Connections::new(CONNECTIONS);
    let shaking = Connections::new(HANDSHAKES);
    let protocol = Arc::new(protocol());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(held_back) = REFUSED.pass() {
                    tracing::warn!(%error, held_back, "cannot accept an admin connection");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        // Without certificates there is nobody to talk to; the reason is in the log.
        let Some(config) = certificates.current() else {
            continue;
        };
        let Some((handshake, evicted)) = shaking.admit() else {
            continue;
        };
        let app = Arc::clone(&app);
        let protocol = Arc::clone(&protocol);
        let all = Arc::clone(&all);
        let streams = Arc::clone(&streams);
        tokio::spawn(async move {
            let shaken = unless_evicted(&handshake, shake(stream, config)).await;
            drop(handshake);
            // A place is for those who have shown who they are: nobody else makes one give way.
            let Some((stream, role)) = shaken.flatten() else {
                return;
            };
            let Some((place, _)) = all.admit() else {
                return;
            };
            let mut limits = app.limits;
            limits.idle = IDLE;
            let mut guard = Guard::new(stream, Arc::clone(&place), limits);
            let service = |request| {
                let (app, streams) = (Arc::clone(&app), Arc::clone(&streams));
                let place = Arc::clone(&place);
                async move { answer(&app, &streams, role, request, &place).await }
            };
            connection_of(&protocol, &mut guard, &place, service).await;
        });
        if evicted {
            // The one that gave way ends now, and not after a whole flood was accepted.
            tokio::task::yield_now().await;
        }
    }
}

/// The future's output, or `None` once the connection must give way.
async fn unless_evicted<T>(connection: &Connection, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        connection.remember(cx.waker());
        if connection.evicted() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

type Tls = tokio_rustls::server::TlsStream<TcpStream>;

/// Shakes hands and reads the role of the client's certificate.
async fn shake(
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
) -> Option<(Tls, Option<Role>)> {
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            if let Some(held_back) = REFUSED.pass() {
                tracing::warn!(%error, held_back, "an admin connection was refused");
            }
            return None;
        }
        Err(_) => return None,
    };
    let role = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|leaf| Role::of(leaf));
    Some((stream, role))
}

/// Answers one request of the admin listener.
async fn answer<E: Engine>(
    app: &Arc<App<E>>,
    streams: &Streams,
    role: Option<Role>,
    request: Request<Incoming>,
    place: &Arc<Connection>,
) -> Response<Body> {
    let started = Instant::now();
    let head = request.method() == Method::HEAD;
    let operation = match request.uri().path() {
        codexstore_api::path::BACKUP => Operation::Backup,
        codexstore_api::path::ARCHIVE => Operation::Archive,
        codexstore_api::path::RESTORE | codexstore_api::path::OPEN_EMPTY => Operation::Restore,
        codexstore_api::path::REWRAP => Operation::Rewrap,
        codexstore_api::path::REENCRYPT => Operation::Reencrypt,
        codexstore_api::path::HEALTH => Operation::Health,
        _ => Operation::Status,
    };
    let response = match decide(app, streams, role, request, place).await {
        Ok(response) if head => without_body(response),
        Ok(response) => response,
        Err(reject) => {
            if let Some(held_back) = DENIED.pass() {
                let role = role.map(Role::as_str);
                tracing::warn!(role, held_back, "an admin request was refused");
            }
            reject.into_response(head)
        }
    };
    app.metrics.done(
        Protocol::Admin,
        operation,
        response.status(),
        started.elapsed(),
        None,
    );
    response
}

/// The id that a re-encryption is asked for with.
fn reencryption_of(query: Option<&str>) -> Result<String, Reject> {
    let id = Query::parse(query, &[codexstore_api::query::ID])?.take(codexstore_api::query::ID);
    let id = id.and_then(|id| String::from_utf8(id).ok());
    id.filter(|id| codexstore_api::reencryption_id(id))
        .ok_or_else(|| {
            Reject::new(
                "invalid-argument",
                "?id= names the re-encryption: 1 to 64 of A-Z a-z 0-9 . _ -",
            )
        })
}

async fn decide<E: Engine>(
    app: &Arc<App<E>>,
    streams: &Streams,
    role: Option<Role>,
    request: Request<Incoming>,
    place: &Arc<Connection>,
) -> Result<Response<Body>, Reject> {
    let verb = match request.uri().path() {
        codexstore_api::path::STATUS => Verb::Status,
        codexstore_api::path::HEALTH => Verb::Health,
        codexstore_api::path::BACKUP => Verb::Backup,
        codexstore_api::path::ARCHIVE => Verb::Archive,
        codexstore_api::path::RESTORE | codexstore_api::path::OPEN_EMPTY => Verb::Restore,
        codexstore_api::path::REWRAP => Verb::Rewrap,
        codexstore_api::path::REENCRYPT => Verb::Reencrypt,
        _ => {
            return Err(Reject::new(
                "no-such-route",
                "the admin listener has /v1/status, /v1/backup, /v1/archive, /v1/restore, /v1/rewrap, /v1/reencrypt and /healthz",
            ));
        }
    };
    match (verb, request.method()) {
        (Verb::Restore | Verb::Rewrap | Verb::Reencrypt, &Method::POST)
        | (Verb::Backup | Verb::Archive, &Method::GET)
        | (Verb::Status | Verb::Health, &Method::GET | &Method::HEAD) => {}
        (Verb::Restore | Verb::Rewrap | Verb::Reencrypt, _) => {
            return Err(Reject::method_not_allowed("POST"));
        }
        (Verb::Backup | Verb::Archive, _) => return Err(Reject::method_not_allowed("GET")),
        _ => return Err(Reject::method_not_allowed("GET, HEAD")),
    }
    let Some(role) = role else {
        return Err(Reject::new(
            "denied",
            "the client certificate names no role, or more than one",
        ));
    };
    if !role.may(verb) {
        return Err(Reject::new(
            "denied",
            format!("role {} may not do this", role.as_str()),
        ));
    }
    let meant = request.headers().get(codexstore_api::header::POD_UID);
    if meant.is_some_and(|uid| uid.as_bytes() != app.identity.pod_uid.as_bytes()) {
        return Err(Reject::new(
            "invalid-argument",
            "another pod is meant: this one has its address now",
        ));
    }
    match verb {
        Verb::Status => json(&crate::http::status_of(app)),
        Verb::Health => Ok(crate::http::health()),
        Verb::Rewrap => {
            let done = app.engine.rewrap().await?;
            tracing::info!(
                files = done.files,
                slots = done.slots,
                "the data keys were wrapped anew"
            );
            json(&RewrapTold {
                files: done.files,
                slots: done.slots,
            })
        }
        Verb::Reencrypt => json(
            &app.engine
                .reencrypt(&reencryption_of(request.uri().query())?)?,
        ),
        Verb::Backup => match Arc::clone(&streams.backups).try_acquire_owned() {
            Ok(place) => backup::backup(app, place),
            Err(_) => Err(Reject::new("overloaded", "a backup is being read already")),
        },
        Verb::Archive => match Arc::clone(&streams.pieces).try_acquire_owned() {
            Ok(place) => archive::archive(app, request.uri().query(), place).await,
            Err(_) => Err(Reject::new(
                "overloaded",
                "a piece of the archive is being read already",
            )),
        },
        Verb::Restore => match Arc::clone(&streams.restores).try_acquire_owned() {
            Ok(_) if request.uri().path() == codexstore_api::path::OPEN_EMPTY => {
                restore::open_empty(&streams.restorer).await
            }
            Ok(held) => {
                let (parts, body) = request.into_parts();
                let what = (&parts.uri, body);
                restore::restore(&streams.restorer, held, what, place, app.limits.io).await
            }
            Err(_) => Err(Reject::new(
                "overloaded",
                "a backup is being restored already",
            )),
        },
    }
}
