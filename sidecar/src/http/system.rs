//! The sidecar about itself: status, health, readiness, metrics, and this interface's description.

use std::collections::BTreeMap;

use codexstore::{KeyId, Wrapped};
use codexstore_api::status::NeededKey;
use codexstore_api::{Problem, Status, codes};
use http::{HeaderValue, Response, StatusCode, request};
use tokio::time::Instant;

use super::answer::{Body, Reject, json, typed};
use super::query::Query;
use super::route::Route;
use super::{App, openapi};
use crate::access::{Grant, Verb};
use crate::engine::{Engine, Health};
use crate::settings::Settings;

/// Settings that the status repeats.
pub struct Shown {
    strategy: &'static str,
    durability: &'static str,
    compression: String,
    max_disk: u64,
    max_memory: u64,
}

impl Shown {
    /// Takes them.
    pub fn of(settings: &Settings) -> Shown {
        Shown {
            strategy: settings.strategy.as_str(),
            durability: settings.durability.as_str(),
            compression: format!("{:?}", settings.compression).to_lowercase(),
            max_disk: settings.max_disk,
            max_memory: settings.max_memory,
        }
    }
}

/// Answers a system path.
pub fn answer<E: Engine>(
    app: &App<E>,
    head: &request::Parts,
    route: Route<'_>,
) -> Result<Response<Body>, Reject> {
    Query::parse(head.uri.query(), &[])?;
    match route {
        Route::Status => status(app),
        Route::Ready => Ok(ready(&app.engine.health())),
        Route::Metrics => metrics(app),
        Route::OpenApi => openapi::document(),
        _ => Ok(health()),
    }
}

/// The member's state.
#[utoipa::path(get, path = "/v1/status", tag = "system", operation_id = "status",
    description = "Who this member is, whether its store serves and if not why, and its numbers.",
    responses((status = 200, description = "The state.", body = Status)))]
pub fn status<E: Engine>(app: &App<E>) -> Result<Response<Body>, Reject> {
    json(&status_of(app))
}

/// The member's state.
pub fn status_of<E: Engine>(app: &App<E>) -> Status {
    let Health {
        state,
        message,
        stats,
        set_aside_keys,
        reencryption,
        ..
    } = app.engine.health();
    let texts = |ids: &mut dyn Iterator<Item = &KeyId>| ids.map(ToString::to_string).collect();
    let who = app.identity.clone();
    Status {
        store: who.store,
        store_uid: who.store_uid,
        namespace: who.namespace,
        pod: who.pod,
        pod_uid: who.pod_uid,
        spec_hash: who.spec_hash,
        version: env!("CARGO_PKG_VERSION").to_string(),
        state,
        message,
        strategy: app.shown.strategy.to_string(),
        durability: app.shown.durability.to_string(),
        compression: app.shown.compression.clone(),
        cipher: stats.cipher.to_string(),
        lineage: if stats.lineage == 0 {
            String::new()
        } else {
            format!("{:016x}", stats.lineage)
        },
        epoch: stats.epoch,
        anchor: stats.anchor.map(|anchor| anchor.to_string()),
        revision: stats.revision,
        keys: stats.keys,
        bytes: stats.bytes,
        disk_bytes: stats.disk_bytes,
        max_disk: app.shown.max_disk,
        memory_bytes: stats.memory_bytes,
        max_memory: app.shown.max_memory,
        journal_bytes: stats.journal_bytes,
        key_id: stats.key_id.map(|id| id.to_string()).unwrap_or_default(),
        loaded_key_ids: texts(&mut stats.loaded_keys.iter()),
        needed_key_ids: state
            .is_open()
            .then(|| texts(&mut stats.needed_keys.keys())),
        needed_keys: state.is_open().then(|| wrapped(&stats.needed_keys)),
        set_aside_key_ids: set_aside_keys.map(|all| texts(&mut all.iter())),
        reencryption,
        key_wraps: state.is_open().then_some(stats.key_wraps),
        log_number: stats.log_number,
        started_at: app.started_at.clone(),
        uptime_seconds: app.started.elapsed().as_secs(),
    }
}

fn wrapped(keys: &BTreeMap<KeyId, Wrapped>) -> BTreeMap<String, NeededKey> {
    let told = |(id, of): (&KeyId, &Wrapped)| {
        let (files, bytes) = (of.files, of.bytes);
        (id.to_string(), NeededKey { files, bytes })
    };
    keys.iter().map(told).collect()
}

/// Believes the wall clock.
#[utoipa::path(post, path = "/v1/clock/accept", tag = "system", operation_id = "acceptClock",
    description = "Says that the wall clock is right, where the store found it far ahead of its last write and does not let keys expire by it. Status tells when that is so; otherwise this changes nothing.",
    responses((status = 204, description = "Believed."),
        (status = "default", description = "A problem.", body = Problem, content_type = "application/problem+json")))]
pub async fn accept_clock<E: Engine>(
    app: &App<E>,
    grant: &Grant,
    head: &request::Parts,
    deadline: Instant,
) -> Result<Response<Body>, Reject> {
    Query::parse(head.uri.query(), &[])?;
    // What it lets expire may be anybody's.
    super::keys::permitted(grant.check_prefix(Verb::Write, b""))?;
    super::keys::in_time(deadline, app.engine.accept_clock()).await?;
    Ok(super::answer::status(StatusCode::NO_CONTENT))
}

/// Liveness.
#[utoipa::path(get, path = "/healthz", tag = "system", operation_id = "health",
    description = "200 while the process serves, whatever the store's state is.",
    responses((status = 200, description = "Alive.", body = String, content_type = "text/plain")))]
pub fn health() -> Response<Body> {
    typed("text/plain", "ok\n")
}

/// Readiness.
#[utoipa::path(get, path = "/readyz", tag = "system", operation_id = "ready",
    description = "200 while the store is open for reads and writes; else the problem that keeps it from that.",
    responses((status = 200, description = "Ready.", body = String, content_type = "text/plain"),
        (status = 503, description = "Not ready, and why.", body = Problem, content_type = "application/problem+json")))]
pub fn ready(health: &Health) -> Response<Body> {
    if health.state.is_ready() {
        return typed("text/plain", "ok\n");
    }
    let code = health
        .error
        .as_ref()
        .map_or("starting", |error| error.code());
    let message = health
        .message
        .as_deref()
        .unwrap_or("the store is being opened");
    let mut problem = Problem::of(codes::row(code), format!("{}: {message}", health.state));
    problem.status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
    // Not a warning in the log for each probe: the owner has logged the reason once.
    let mut response = typed(codexstore_api::problem::MEDIA_TYPE, problem.to_json());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    if let Ok(code) = HeaderValue::try_from(problem.code) {
        response
            .headers_mut()
            .insert(codexstore_api::header::CODE, code);
    }
    response
}

/// Metrics.
#[utoipa::path(get, path = "/metrics", tag = "system", operation_id = "metrics",
    description = "Metrics in the text form of Prometheus (OpenMetrics 1.0).",
    responses((status = 200, description = "Metrics.", body = String, content_type = "application/openmetrics-text")))]
pub fn metrics<E: Engine>(app: &App<E>) -> Result<Response<Body>, Reject> {
    Ok(typed(OPEN_METRICS, metrics_text(app)?))
}

/// Media type of [`metrics_text`].
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as they are now.
pub fn metrics_text<E: Engine>(app: &App<E>) -> Result<String, Reject> {
    let encoded = app.metrics.encode(&app.engine.health());
    encoded.map_err(|_| Reject::new("internal", "write the metrics"))
}
