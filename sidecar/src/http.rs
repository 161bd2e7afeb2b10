//! HTTP/1.1 and HTTP/2 on the socket: requests in, answers and problems out.
//!
//! Everything here is bounded: connections and headers by [`crate::serve`], requests in work,
//! bytes in flight and time by [`App`].

pub mod answer;
mod batch;
pub mod body;
mod etag;
mod history;
mod keys;
mod list;
pub mod openapi;
pub mod query;
pub mod route;
pub mod system;
mod watch;

pub use system::{health, status_of};

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use codexstore_api::codes;
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::{Access, Grant};
use crate::engine::{Engine, Failure, Value};
use crate::metrics::{Metrics, Operation, Protocol};
use crate::serve::connections::Connections;
use crate::settings::{Identity, Limits, Settings};
use crate::trace::{About, Traced, Tracer};
use answer::{Body, Reject};
use body::Intake;
use route::Route;

/// Lists and deletions by prefix that are computed at once, each on a thread of its own.
pub const SCANS: usize = 3;

/// What all requests share.
pub struct App<E> {
    /// The state that is served.
    pub engine: Arc<E>,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// Counters.
    pub metrics: Metrics,
    /// Spans of requests, if there is a collector.
    pub tracer: Option<Tracer>,
    /// Who may do what.
    pub access: Access,
    /// Who this member is.
    pub identity: Identity,
    /// Settings that the status shows.
    shown: system::Shown,
    /// Requests in work.
    pub in_work: Arc<AtomicUsize>,
    /// Memory for requests and answers in flight, in units of [`body::UNIT`].
    pub in_flight: Arc<Semaphore>,
    /// Places for what computes for long.
    pub scans: Arc<Semaphore>,
    /// When the process began to serve.
    pub started: Instant,
    /// Places for watches.
    pub watches: Arc<Semaphore>,
    /// The connections that requests come on.
    pub connections: Arc<Connections>,
    started_at: String,
}

impl<E: Engine> App<E> {
    /// The app for an engine.
    pub fn new(
        engine: Arc<E>,
        settings: &Settings,
        connections: Arc<Connections>,
        tracer: Option<Tracer>,
    ) -> App<E> {
        let mut metrics = Metrics::new(settings.limits.slow);
        if let Some(tracer) = &tracer {
            metrics.tell_spans(tracer.counts());
        }
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() * 1000);
        App {
            engine,
            limits: settings.limits,
            metrics,
            tracer,
            access: settings.access.clone(),
            identity: settings.identity.clone(),
            shown: system::Shown::of(settings),
            in_work: Arc::default(),
            in_flight: Arc::new(Semaphore::new(settings.limits.in_flight_bytes / body::UNIT)),
            scans: Arc::new(Semaphore::new(SCANS)),
            watches: Arc::new(Semaphore::new(settings.limits.max_requests)),
            connections,
            started: Instant::now(),
            started_at: codexstore_api::time::rfc3339(now).unwrap_or_default(),
        }
    }
}

impl<E> App<E> {
    /// Waits for a place among the scans; `None` if there is none before the deadline.
    pub async fn scan_permit(
        &self,
        deadline: tokio::time::Instant,
    ) -> Option<OwnedSemaphorePermit> {
        let waiting = Arc::clone(&self.scans).acquire_owned();
        tokio::time::timeout_at(deadline, waiting).await.ok()?.ok()
    }
}

/// A key's value, if it is there, and what it takes of the bytes in flight.
pub type Held = (Option<Value>, Option<OwnedSemaphorePermit>);

impl<E: Engine> App<E> {
    /// A key's value as it was right after a revision: on a thread of its own, which has `place` among the scans until it is read, since
    /// nobody can stop it. `share` is that of the largest value.
    pub async fn value_at(
        &self,
        key: Bytes,
        revision: u64,
        place: OwnedSemaphorePermit,
        share: Option<OwnedSemaphorePermit>,
    ) -> Result<Held, Failure> {
        let engine = Arc::clone(&self.engine);
        let work = tokio::task::spawn_blocking(move || {
            let value = engine.get_at(&key, revision);
            drop(place);
            (value, share)
        });
        let lost = |_| codexstore::Error::internal("reading the past ended early");
        let (value, share) = work.await.map_err(lost)?;
        Ok((value?, share))
    }
}

/// Counts a request as in work until it is answered; on HTTP/2, where a client may leave any number
/// of answers waiting, until its answer is sent.
pub struct InWork(Arc<AtomicUsize>);

impl InWork {
    /// Of a request that was counted just now.
    pub fn new(in_work: &Arc<AtomicUsize>) -> InWork {
        InWork(Arc::clone(in_work))
    }

    /// Counts one more, whatever the bound is.
    pub fn count(all: &Arc<AtomicUsize>) -> InWork {
        all.fetch_add(1, Ordering::Relaxed);
        InWork(Arc::clone(all))
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers one request of a connection that may do what `grant` says.
pub async fn answer<E: Engine>(
    app: &Arc<App<E>>,
    grant: &Arc<Grant>,
    request: Request<Incoming>,
) -> Response<Body> {
    let started = Instant::now();
    let head = request.method() == Method::HEAD;
    let http2 = request.version() == Version::HTTP_2;
    let mut traced = Traced::begin(app.tracer.as_ref(), request.headers(), started);
    let method = method(request.method());
    let in_work = app.in_work.fetch_add(1, Ordering::Relaxed);
    let counted = InWork::new(&app.in_work);
    let full = in_work >= app.limits.max_requests;
    let mut asked = Asked::default();
    let result = {
        let mut work = pin!(dispatch(app, grant, request, full, started, &mut asked));
        poll_fn(|cx| traced.poll(work.as_mut(), cx)).await
    };
    let Asked { operation, route } = asked;
    let mut response = result.unwrap_or_else(|reject| reject.into_response(head));
    if http2 {
        response.body_mut().in_work(counted);
    }
    let took = started.elapsed();
    let status = response.status();
    let code = || {
        let code = response.headers().get(codexstore_api::header::CODE);
        code.and_then(|code| code.to_str().ok())
    };
    let trace = traced.end(took, operation, || About::Http {
        method,
        route,
        version: if http2 { "2" } else { "1.1" },
        status: status.as_u16(),
        code: code().map(|code| codes::row(code).code),
    });
    app.metrics
        .done(Protocol::Http, operation, status, took, trace.as_ref());
    if status.is_client_error() || status.is_server_error() {
        app.metrics.error(Protocol::Http, code());
    }
    tracing::debug!(
        operation = operation.as_str(),
        status = status.as_u16(),
        micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "request"
    );
    response
}

/// What a request asks for, as far as that is known.
struct Asked {
    operation: Operation,
    /// The path as it is described.
    route: Option<&'static str>,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked {
            operation: Operation::Other,
            route: None,
        }
    }
}

/// The method, if it is one of those that some path takes.
fn method(method: &Method) -> Option<&'static str> {
    let known = ["GET", "HEAD", "PUT", "POST", "DELETE"];
    known.into_iter().find(|known| method.as_str() == *known)
}

async fn dispatch<E: Engine>(
    app: &Arc<App<E>>,
    grant: &Arc<Grant>,
    request: Request<Incoming>,
    full: bool,
    started: Instant,
    asked: &mut Asked,
) -> Result<Response<Body>, Reject> {
    let deadline = tokio::time::Instant::from_std(started + app.limits.request);
    let (mut head, body) = request.into_parts();
    // What of a body is not asked for below is drained, on every way out.
    let body = Intake::new(body, head.extensions.remove());
    let Some(route) = Route::of(head.uri.path()) else {
        return Err(Reject::new(
            "no-such-route",
            "no such path; GET /openapi.json lists them, and a slash within a key is written %2F",
        ));
    };
    asked.route = Some(route.template());
    // Whoever asks whether the process lives must hear that, above all when it has much to do.
    if full && !matches!(route, Route::Health | Route::Ready) {
        return Err(Reject::new("overloaded", "too many requests are in work"));
    }
    let known = match (&head.method, route) {
        (&Method::GET, Route::Key(_)) => Operation::Get,
        (&Method::HEAD, Route::Key(_)) => Operation::Head,
        (&Method::PUT, Route::Key(_)) => Operation::Put,
        (&Method::DELETE, Route::Key(_)) => Operation::Delete,
        (&Method::GET | &Method::HEAD, Route::Keys) => Operation::List,
        (&Method::DELETE, Route::Keys) => Operation::DeletePrefix,
        (&Method::POST, Route::Batch) => Operation::Batch,
        (&Method::GET | &Method::HEAD, Route::History(_)) => Operation::History,
        (&Method::GET, Route::Watch) => Operation::Watch,
        (&Method::GET | &Method::HEAD, Route::Status) => Operation::Status,
        (&Method::GET | &Method::HEAD, Route::Health | Route::Ready) => Operation::Health,
        (&Method::POST, Route::Clock)
        | (&Method::GET | &Method::HEAD, Route::Metrics | Route::OpenApi) => Operation::Other,
        _ => return Err(Reject::method_not_allowed(route.allow())),
    };
    asked.operation = known;
    let is_head = head.method == Method::HEAD;
    match (known, route) {
        (Operation::Get | Operation::Head, Route::Key(key)) => {
            keys::get(app, grant, &head, key, deadline).await
        }
        (Operation::Put, Route::Key(key)) => {
            keys::put(app, grant, &head, key, body, deadline).await
        }
        (Operation::Delete, Route::Key(key)) => {
            keys::delete(app, grant, &head, key, deadline).await
        }
        (Operation::List, _) => list::list(app, grant, &head, deadline).await,
        (Operation::DeletePrefix, _) => list::delete(app, grant, &head, deadline).await,
        (Operation::History, Route::History(key)) => {
            history::history(app, grant, &head, key, deadline).await
        }
        (Operation::Watch, _) => watch::watch(app, grant, &head),
        (Operation::Batch, _) => batch::batch(app, grant, &head, body, deadline).await,
        (_, Route::Clock) => system::accept_clock(app, grant, &head, deadline).await,
        (_, route) => system::answer(app, &head, route),
    }
    .map(|response| {
        if is_head {
            answer::without_body(response)
        } else {
            response
        }
    })
}
