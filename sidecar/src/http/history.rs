//! `GET /v1/keys/{key}/history`: what became of a key. A ledger knows; others say that they do not.

use std::sync::Arc;

use codexstore::{Entry, Version};
use codexstore_api::bodies::{History, KeyVersion};
use codexstore_api::encoding::base64;
use codexstore_api::time::rfc3339;
use http::{Response, request};
use tokio::time::{Instant, timeout_at};

use super::answer::{Body, Reject, typed};
use super::keys::{decode, permitted};
use super::list::scan_permit;
use super::query::{Flag, Query};
use super::{App, body};
use crate::access::{Grant, Verb};
use crate::engine::Engine;

/// Versions of a page without `limit`.
const DEFAULT_LIMIT: usize = 100;

/// Most versions of a page.
const MAX_LIMIT: usize = 1_000;

/// Bytes of values at which a page ends.
const PAGE_BYTES: usize = 4 << 20;

/// Reads a key's history.
#[utoipa::path(get, path = "/v1/keys/{key}/history", tag = "keys", operation_id = "keyHistory",
    description = "What became of a key, oldest first, a page at a time. Only a store with the strategy Ledger has it. It reads the log from the first revision asked for.",
    params(("key" = String, Path, description = "The key, percent-encoded."),
        ("from" = Option<u64>, Query, description = "From this revision on; by default the oldest that is kept."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most versions of the page, 1 to 1,000; 100 by default. A page of large values is shorter."),
        ("values" = inline(Option<Flag>), Query, description = "Whether to send values, in base64.")),
    responses((status = 200, description = "A page.", body = History),
        (status = 501, description = "The store keeps the present only.", body = codexstore_api::Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem.", body = codexstore_api::Problem, content_type = "application/problem+json")))]
pub async fn history<E: Engine>(
    app: &App<E>,
    grant: &Grant,
    head: &request::Parts,
    key: &str,
    deadline: Instant,
) -> Result<Response<Body>, Reject> {
    let mut query = Query::parse(head.uri.query(), &["from", "limit", "values"])?;
    let wrong = |detail: String| Reject::new("invalid-argument", detail);
    let from = match query.text("from")?.map(|text| text.parse::<u64>()) {
        None => 0,
        Some(Ok(from)) => from,
        Some(Err(_)) => return Err(wrong("from is a revision: a number".to_owned())),
    };
    let limit = match query.text("limit")?.map(|text| text.parse()) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit @ 1..=MAX_LIMIT)) => limit,
        Some(_) => return Err(wrong(format!("limit is 1 to {MAX_LIMIT}"))),
    };
    let values = query.flag("values")?;
    let key = decode(key)?.into_owned();
    permitted(grant.check(Verb::Read, &key))?;
    let place = scan_permit(app, deadline).await?;
    let page_bytes = PAGE_BYTES.min(app.limits.in_flight_bytes / 4);
    let share = body::reserve(app, page_bytes + app.limits.max_value, deadline).await?;
    let engine = Arc::clone(&app.engine);
    let work = tokio::task::spawn_blocking(move || {
        let page = page(&*engine, &key, from, limit, page_bytes, values);
        drop(place);
        (page, share)
    });
    let (bytes, share) = match timeout_at(deadline, work).await {
        Ok(Ok((page, share))) => (page?, share),
        Ok(Err(_)) => return Err(Reject::new("internal", "reading the history ended early")),
        Err(_) => return Err(Reject::new("deadline", "the request's time is over")),
    };
    Ok(typed(
        "application/json",
        Body::holding(bytes.into(), share),
    ))
}

/// Computes a page as JSON.
fn page<E: Engine>(
    engine: &E,
    key: &[u8],
    from: u64,
    limit: usize,
    page_bytes: usize,
    values: bool,
) -> Result<Vec<u8>, Reject> {
    let (mut items, mut bytes, mut next) = (Vec::new(), 0, None);
    for version in engine.versions(key, from)? {
        let version = version.map_err(crate::engine::Failure::from)?;
        if items.len() >= limit || bytes >= page_bytes {
            next = Some(version.revision);
            break;
        }
        if values {
            bytes += version
                .entry
                .as_ref()
                .map_or(0, |entry| entry.value().len());
        }
        items.push(item(&version, values));
    }
    let history = History { items, next };
    serde_json::to_vec(&history)
        .map_err(|e| Reject::new("internal", format!("write the history: {e}")))
}

fn item(version: &Version, values: bool) -> KeyVersion {
    let entry = version.entry.as_ref();
    let op = match (entry, version.expired) {
        (Some(_), _) => "set",
        (None, true) => "expire",
        (None, false) => "delete",
    };
    KeyVersion {
        revision: version.revision,
        time: rfc3339(version.time_ms).unwrap_or_default(),
        actor: version.actor.clone(),
        op: op.to_owned(),
        value: entry.filter(|_| values).map(|entry| base64(entry.value())),
        created_revision: entry.map(Entry::created),
        version: entry.map(Entry::version),
        expires_at: entry.and_then(Entry::expires_at).and_then(rfc3339),
    }
}
