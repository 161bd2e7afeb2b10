//! The metrics listener: `GET /metrics` over the pod's network, and nothing else, for a Prometheus that scrapes pods.
//!
//! It is plain HTTP to whoever reaches it. What it tells are numbers: no key, no value, no id of a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use hyper::body::Incoming;

use crate::engine::Engine;
use crate::http::App;
use crate::http::answer::{Body, Reject, without_body};
use crate::http::system;
use crate::log::Throttle;
use crate::metrics::{Operation, Protocol};
use crate::serve::connections::Connections;
use crate::serve::guard::Guard;
use crate::serve::{bind, connection_of, protocol};

/// Most connections: a scraper needs one. Beyond them the one that has been idle for longest gives way.
const CONNECTIONS: usize = 8;

/// Most time without a request: longer than most scrape intervals.
const IDLE: Duration = Duration::from_mins(2);

/// Refused connections in the log.
static REFUSED: Throttle = Throttle::new();

/// Serves the metrics for ever. Nothing that fails here ends the process.
pub async fn serve<E: Engine>(address: SocketAddr, app: Arc<App<E>>) {
    let listener = bind(address, "the metrics listener").await;
    let all = Connections::new(CONNECTIONS);
    let protocol = Arc::new(protocol());
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
        tokio::spawn(async move {
            let mut limits = app.limits;
            limits.idle = IDLE;
            let guard = Guard::new(stream, Arc::clone(&place), limits);
            let service = |request| {
                let app = Arc::clone(&app);
                async move { answer(&app, &request) }
            };
            connection_of(&protocol, guard, &place, service).await;
        });
        if evicted {
            // The one that gave way ends now.
            tokio::task::yield_now().await;
        }
    }
}

fn answer<E: Engine>(app: &App<E>, request: &Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let head = request.method() == Method::HEAD;
    let answered = match (request.uri().path(), request.method()) {
        (codexstore_api::path::METRICS, &Method::GET | &Method::HEAD) => system::metrics(app),
        (codexstore_api::path::METRICS, _) => Err(Reject::method_not_allowed("GET, HEAD")),
        _ => Err(Reject::new("no-such-route", "this listener has /metrics")),
    };
    let response = match answered {
        Ok(response) if head => without_body(response),
        Ok(response) => response,
        Err(reject) => reject.into_response(head),
    };
    let took = started.elapsed();
    app.metrics
        .done(Protocol::Http, Operation::Other, response.status(), took);
    response
}
