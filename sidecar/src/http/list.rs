//! Many keys: GET and DELETE of `/v1/keys`. A page of a list is one scan, so that it shows one
//! point in time; it is computed on a thread of its own, and bounded in entries and bytes: whoever wants more goes on with the cursor.

use std::sync::Arc;

use bytes::Bytes;
use codexstore::{Entry, Scan};
use codexstore_api::bodies::{Deleted, Item, List, key_fields};
use codexstore_api::encoding::{base64, base64url, unbase64url};
use codexstore_api::time::rfc3339;
use http::{Response, request};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::answer::{Body, Reject, json, typed};
use super::keys::permitted;
use super::query::{Flag, Query};
use super::{App, body, keys};
use crate::access::{Grant, Verb};
use crate::engine::Engine;

/// Entries of a page without `limit`.
const DEFAULT_LIMIT: usize = 1_000;

/// Most entries of a page.
const MAX_LIMIT: usize = 10_000;

/// Bytes of keys and values at which a page ends.
const PAGE_BYTES: usize = 4 << 20;

/// Entries looked at for a page, matching or not: what bounds its time.
const EXAMINED: usize = 65_536;

/// Lists keys.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", operation_id = "listKeys",
    description = "Keys in ascending order of their bytes, a page at a time. Each page shows one point in time, the next page a later one. A page may be short or empty and still have a cursor.",
    params(("prefix" = Option<String>, Query, description = "Keys that begin with this."),
        ("match" = Option<String>, Query, description = "Keys that match this pattern: *, ?, [a-z], [^a-z]; a backslash takes the next byte literally."),
        ("from" = Option<String>, Query, description = "Keys from this one on."),
        ("to" = Option<String>, Query, description = "Keys before this one."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 10000, description = "Most entries of the page, 1 to 10,000; 1,000 by default."),
        ("cursor" = Option<String>, Query, description = "The cursor of the page before."),
        ("values" = inline(Option<Flag>), Query, description = "Whether to send values, in base64.")),
    responses((status = 200, description = "A page.", body = List),
        (status = "default", description = "A problem.", body = codexstore_api::Problem, content_type = "application/problem+json")))]
pub async fn list<E: Engine>(
    app: &App<E>,
    grant: &Grant,
    head: &request::Parts,
    deadline: Instant,
) -> Result<Response<Body>, Reject> {
    let mut query = Query::parse(
        head.uri.query(),
        &["prefix", "match", "from", "to", "limit", "cursor", "values"],
    )?;
    let limit = match query.text("limit")? {
        None => DEFAULT_LIMIT,
        Some(text) => match text.parse() {
            Ok(limit @ 1..=MAX_LIMIT) => limit,
            _ => return Err(wrong(format!("limit is 1 to {MAX_LIMIT}"))),
        },
    };
    let cursor = match query.text("cursor")? {
        None => None,
        Some(text) => {
            let cursor = unbase64url(&text).ok_or_else(|| wrong("this is no cursor".into()))?;
            Some(Bytes::from(cursor))
        }
    };
    let scan = Scan {
        prefix: query.take("prefix").unwrap_or_default().into(),
        from: query.take("from").map(Bytes::from),
        to: query.take("to").map(Bytes::from),
        glob: query.take("match").map(Bytes::from),
        cursor,
        ..Scan::default()
    };
    let values = query.flag("values")?;
    // Others' keys are not listed, and not named by a cursor either.
    let scans = grant.read.narrow(&scan);

    let place = scan_permit(app, deadline).await?;
    // What a page takes: its entries are shared with the store, its text is a third longer than
    // the largest value that may end it.
    let page_bytes = PAGE_BYTES.min(app.limits.in_flight_bytes / 4);
    let bytes = if values {
        (page_bytes + app.limits.max_value) / 3 * 4
    } else {
        page_bytes
    };
    let share = body::reserve(app, bytes, deadline).await?;
    let engine = Arc::clone(&app.engine);
    let work = tokio::task::spawn_blocking(move || {
        let page = page(&*engine, scans, limit, page_bytes, values);
        // Held here too: the page is computed to its end even when nobody waits for it any more.
        drop(place);
        (page, share)
    });
    let (bytes, share) = match timeout_at(deadline, work).await {
        Ok(Ok((page, share))) => (page?, share),
        Ok(Err(_)) => return Err(Reject::new("internal", "the list ended early")),
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
    mut scans: Vec<Scan>,
    limit: usize,
    page_bytes: usize,
    values: bool,
) -> Result<Vec<u8>, Reject> {
    for scan in &mut scans {
        scan.limit = limit;
        scan.max_bytes = if values { page_bytes } else { 0 };
        scan.max_examined = EXAMINED;
    }
    let page = engine.scan(&scans)?;
    let list = List {
        items: page.items.iter().map(|entry| item(entry, values)).collect(),
        cursor: page.cursor.as_ref().map(|cursor| base64url(cursor)),
        revision: page.revision,
    };
    serde_json::to_vec(&list).map_err(|e| Reject::new("internal", format!("write the list: {e}")))
}

fn item(entry: &Entry, values: bool) -> Item {
    let (key, key_base64) = key_fields(entry.key());
    Item {
        key,
        key_base64,
        value: values.then(|| base64(entry.value())),
        revision: entry.modified(),
        created_revision: entry.created(),
        version: entry.version(),
        expires_at: entry.expires_at().and_then(rfc3339),
    }
}

/// Removes keys by prefix.
#[utoipa::path(delete, path = "/v1/keys", tag = "keys", operation_id = "deleteKeys",
    description = "Removes all keys that begin with a prefix. Large sets go in several batches, each atomic.",
    params(("prefix" = String, Query, description = "Keys that begin with this. Empty, which means every key, wants all=true."),
        ("all" = inline(Option<Flag>), Query, description = "Confirms an empty prefix.")),
    responses((status = 200, description = "How many.", body = Deleted),
        (status = "default", description = "A problem.", body = codexstore_api::Problem, content_type = "application/problem+json")))]
pub async fn delete<E: Engine>(
    app: &App<E>,
    grant: &Grant,
    head: &request::Parts,
    deadline: Instant,
) -> Result<Response<Body>, Reject> {
    let mut query = Query::parse(head.uri.query(), &["prefix", "all"])?;
    let prefix = query.take("prefix").ok_or_else(|| {
        wrong("prefix is missing; an empty one, prefix=&all=true, removes every key".into())
    })?;
    let all = query.flag("all")?;
    if prefix.is_empty() && !all {
        return Err(wrong(
            "an empty prefix removes every key: say all=true if that is meant".into(),
        ));
    }
    permitted(grant.check_prefix(Verb::Write, &prefix))?;
    let place = scan_permit(app, deadline).await?;
    let work = app.engine.delete_prefix(prefix, place);
    let (deleted, revision) = keys::in_time(deadline, work).await?;
    json(&Deleted { deleted, revision })
}

/// Waits for a place among the scans.
pub async fn scan_permit<E>(
    app: &App<E>,
    deadline: Instant,
) -> Result<OwnedSemaphorePermit, Reject> {
    let place = app.scan_permit(deadline).await;
    place.ok_or_else(|| Reject::new("overloaded", "too many lists are being computed"))
}

fn wrong(detail: String) -> Reject {
    Reject::new("invalid-argument", detail)
}
