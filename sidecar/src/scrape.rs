//! The metrics listener: `GET /metrics` over the pod's network, and nothing else, for a Prometheus that scrapes pods.
//!
//! It is plain HTTP to whoever reaches it. What it tells are numbers: no key, no value, no id of a request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::Incoming;

use crate::engine::Engine;
use crate::http::App;
use crate::http::answer::{Body, Reject, typed, without_body};
use crate::http::system;
use crate::log::Throttle;
use crate::serve::bind;
use crate::serve::connections::Connections;
use crate::serve::guard::Guard;
use crate::serve::protocol::{connection_of, protocol};

/// Most connections: a scraper needs one. Beyond them the one that has been idle for longest gives way.
const CONNECTIONS: usize = 8;

/// Most time without a request: longer than most scrape intervals.
const IDLE: Duration = Duration::from_mins(2);

/// How old the metrics may be that are told.
const FRESH: Duration = Duration::from_millis(200);

/// Refused connections in the log.
static REFUSED: Throttle = Throttle::new();

/// Serves the metrics for ever. Nothing that fails here ends the process.
pub async fn serve<E: Engine>(address: SocketAddr, app: Arc<App<E>>) {
    let listener = bind(address, "the metrics listener").await;
    let all = Connections::new(CONNECTIONS);
    let protocol = Arc::new(protocol());
    let page = Arc::new(Page::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(held_back) = REFUSED.pass() {
                    tracing::warn!(%error, held_back, "cannot accept a connection for metrics");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let Some((place, evicted)) = all.admit() else {
            continue;
        };
        let (app, protocol) = (Arc::clone(&app), Arc::clone(&protocol));
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            let mut limits = app.limits;
            limits.idle = IDLE;
            let mut guard = Guard::new(stream, Arc::clone(&place), limits);
            let service = |request| {
                let (app, page) = (Arc::clone(&app), Arc::clone(&page));
                async move { answer(&app, &page, &request) }
            };
            connection_of(&protocol, &mut guard, &place, service).await;
        });
        if evicted {
            // The one that gave way ends now.
            tokio::task::yield_now().await;
        }
    }
}

/// The text of the metrics, and when it was made.
type Page = Mutex<Option<(Instant, Bytes)>>;

/// Answers one request. It is not counted: the counts are of what apps ask.
fn answer<E: Engine>(app: &App<E>, page: &Page, request: &Request<Incoming>) -> Response<Body> {
    let head = request.method() == Method::HEAD;
    let answered = match (request.uri().path(), request.method()) {
        (codexstore_api::path::METRICS, &Method::GET | &Method::HEAD) => text(app, page),
        (codexstore_api::path::METRICS, _) => Err(Reject::method_not_allowed("GET, HEAD")),
        _ => Err(Reject::new("no-such-route", "this listener has /metrics")),
    };
    match answered {
        Ok(text) if head => without_body(typed(system::OPEN_METRICS, text)),
        Ok(text) => typed(system::OPEN_METRICS, text),
        Err(reject) => reject.into_response(head),
    }
}

/// The text, made anew at most every [`FRESH`]: it is written on the thread that serves the app.
fn text<E: Engine>(app: &App<E>, page: &Page) -> Result<Bytes, Reject> {
    let mut page = page.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, text)) = &*page
        && at.elapsed() < FRESH
    {
        return Ok(text.clone());
    }
    let text = Bytes::from(system::metrics_text(app)?);
    *page = Some((Instant::now(), text.clone()));
    Ok(text)
}
