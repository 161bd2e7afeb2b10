//! One key: GET, HEAD, PUT, DELETE of `/v1/keys/{key}`.

use std::borrow::Cow;

use bytes::Bytes;
use codexstore_api::{MAX_KEY, bodies::parse_ttl, encoding, header as names, time::rfc3339};
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, request};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::answer::{Body, Reject, status};
use super::body::Intake;
use super::list::scan_permit;
use super::query::Query;
use super::{App, Held};
use super::{body, etag};
use crate::access::{Grant, Verb};
use crate::engine::{Conditions, Engine, Put, Tag, Value};

const REVISION: HeaderName = HeaderName::from_static(names::REVISION);
const VERSION: HeaderName = HeaderName::from_static(names::VERSION);
const EXPIRES_AT: HeaderName = HeaderName::from_static(names::EXPIRES_AT);

/// Reads a key.
#[utoipa::path(get, path = "/v1/keys/{key}", tag = "keys", operation_id = "getKey",
    description = "The value of a key, as it was written. HEAD answers the same header without the value.",
    params(("key" = String, Path, description = "The key, percent-encoded: 1 to 1,024 bytes; a slash is %2F."),
        ("revision" = Option<u64>, Query, description = "As it was right after this revision; only a store with the strategy Ledger knows."),
        ("If-Match" = Option<String>, Header, description = "Only if the key has one of these entity tags."),
        ("If-None-Match" = Option<String>, Header, description = "304 if the key has one of these entity tags.")),
    responses((status = 200, description = "The value.", content_type = "application/octet-stream", body = Vec<u8>,
            headers(("ETag" = String, description = "Lineage and modified revision."),
                ("Codexstore-Revision" = u64, description = "Revision that wrote the value."),
                ("Codexstore-Version" = u64, description = "How often the key was written since it was created."),
                ("Codexstore-Expires-At" = String, description = "When it expires, RFC 3339, if it does."))),
        (status = 304, description = "Not modified."),
        (status = 404, description = "No such key.", body = codexstore_api::Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem.", body = codexstore_api::Problem, content_type = "application/problem+json")))]
pub async fn get<E: Engine>(
    app: &App<E>,
    grant: &Grant,
    head: &request::Parts,
    key: &str,
    deadline: Instant,
) -> Result<Response<Body>, Reject> {
    let revision = match head.uri.query() {
        None => None,
        query => Query::parse(query, &["revision"])?.text("revision")?,
    };
    let key = decode(key)?;
    permitted(grant.check(Verb::Read, &key))?;
    let conditions = etag::conditions(&head.headers)?;
    if let Some(revision) = revision {
        let (value, share) = at_revision(app, &key, &revision, deadline).await?;
        return answer(&conditions, value, share);
    }
    // A large value that is being sent stays in memory even when the store has another by then: it
    // counts as in flight. Its size is known only once it is read, so it is read again after a wait.
    let mut share = None;
    let mut reserved = body::SMALL;
    let value = loop {
        let value = app.engine.get(&key).await?;
        let size = value.as_ref().map_or(0, |value| value.bytes.len());
        if size <= reserved || head.method == Method::HEAD {
            break value;
        }
        drop((value, share.take()));
        share = body::reserve(app, size, deadline).await?;
        reserved = size;
    };
    answer(&conditions, value, share)
}

/// A key's value as it was right after a revision.
async fn at_revision<E: Engine>(
    app: &App<E>,
    key: &[u8],
    revision: &str,
    deadline: Instant,
) -> Result<Held, Reject> {
    let wrong = || Reject::new("invalid-argument", "revision is a number");
    let revision = revision.parse().map_err(|_| wrong())?;
    let place = scan_permit(app, deadline).await?;
    let share = body::reserve(app, app.limits.max_value, deadline).await?;
    let read = app.value_at(Bytes::copy_from_slice(key), revision, place, share);
    match timeout_at(deadline, read).await {
        Ok(read) => Ok(read?),
        Err(_) => Err(Reject::new("deadline", "the request's time is over")),
    }
}

/// A value as an answer, if the conditions hold.
fn answer(
    conditions: &Conditions,
    value: Option<Value>,
    share: Option<OwnedSemaphorePermit>,
) -> Result<Response<Body>, Reject> {
    let tag = value.as_ref().map(|value| value.tag);
    if !conditions.match_holds(tag) {
        conditions
            .check(tag)
            .map_err(crate::engine::Failure::from)?;
    }
    let Some(value) = value else {
        return Err(missing());
    };
    let mut response = if conditions.none_match_holds(tag) {
        let mut response = Response::new(Body::holding(value.bytes, share));
        let kind = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    } else {
        status(StatusCode::NOT_MODIFIED)
    };
    let headers = response.headers_mut();
    describe(headers, value.tag, value.expires_at);
    headers.insert(VERSION, HeaderValue::from(value.version));
    Ok(response)
}

/// The `HEAD` of [`get`], for the document alone: one function serves both.
#[utoipa::path(head, path = "/v1/keys/{key}", tag = "keys", operation_id = "headKey",
    description = "As GET, without the value.",
    params(("key" = String, Path, description = "The key, percent-encoded.")),
    responses((status = 200, description = "The key is there."), (status = 404, description = "No such key.")))]
#[allow(dead_code)] // read by the derive macro of the document
pub fn head() {}

/// Writes a key.
#[utoipa::path(put, path = "/v1/keys/{key}", tag = "keys", operation_id = "putKey",
    description = "Writes the body as the key's value. With durability always it is on disk when this is answered.",
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The value."),
    params(("key" = String, Path, description = "The key, percent-encoded."),
        ("ttl" = Option<String>, Query, min_length = 1, pattern = r"^([0-9]+(ms|s|m|h|d)?)+$", description = "The value expires after this time: 500ms, 30s, 5m, 1h30m."),
        ("If-Match" = Option<String>, Header, description = "Only if the key has one of these entity tags; *: only if it exists."),
        ("If-None-Match" = Option<String>, Header, description = "*: only if the key does not exist."),
        ("Codexstore-Actor" = Option<String>, Header, description = "Who writes: a label of at most 256 bytes, for history and watchers.")),
    responses((status = 201, description = "Written; the key was not there."), (status = 204, description = "Written."),
        (status = 412, description = "A condition does not hold.", body = codexstore_api::Problem, content_type = "application/problem+json"),
        (status = 413, description = "The value is too large.", body = codexstore_api::Problem, content_type = "application/problem+json"),
        (status = 507, description = "Disk or memory budget full.", body = codexstore_api::Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem.", body = codexstore_api::Problem, content_type = "application/problem+json")))]
pub async fn put<E: Engine>(
    app: &App<E>,
    grant: &Grant,
    head: &request::Parts,
    key: &str,
    body: Intake,
    deadline: Instant,
) -> Result<Response<Body>, Reject> {
    let (key, ttl, conditions) = check_put(head, key)?;
    check_write(grant, &key, &conditions)?;
    let whole = body::read(app, body, app.limits.max_value, deadline).await?;
    let put = Put {
        key,
        value: whole.bytes,
        ttl,
        conditions,
        actor: actor(head)?,
    };
    let written = in_time(deadline, app.engine.put(put, whole.held)).await?;
    let code = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::NO_CONTENT
    };
    let mut response = status(code);
    describe(response.headers_mut(), written.tag, written.expires_at);
    Ok(response)
}

type Checked = (Vec<u8>, Option<std::time::Duration>, Conditions);

/// Everything about a PUT but its body.
fn check_put(head: &request::Parts, key: &str) -> Result<Checked, Reject> {
    let key = decode(key)?.into_owned();
    let ttl = match head.uri.query() {
        None => None,
        query => {
            let ttl = Query::parse(query, &["ttl"])?.text("ttl")?;
            ttl.map(|ttl| parse_ttl(&ttl)).transpose()?
        }
    };
    let encoding = head.headers.get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return Err(Reject::new(
            "unsupported-media-type",
            "a value is stored as it is sent, without a Content-Encoding",
        ));
    }
    if head.headers.contains_key(CONTENT_RANGE) {
        return Err(Reject::new(
            "malformed-request",
            "a value is written whole, without Content-Range",
        ));
    }
    Ok((key, ttl, etag::conditions(&head.headers)?))
}

/// Removes a key.
#[utoipa::path(delete, path = "/v1/keys/{key}", tag = "keys", operation_id = "deleteKey",
    description = "Removes a key.",
    params(("key" = String, Path, description = "The key, percent-encoded."),
        ("If-Match" = Option<String>, Header, description = "Only if the key has one of these entity tags."),
        ("Codexstore-Actor" = Option<String>, Header, description = "Who removes it: a label of at most 256 bytes.")),
    responses((status = 204, description = "Removed."),
        (status = 404, description = "It was not there.", body = codexstore_api::Problem, content_type = "application/problem+json"),
        (status = 412, description = "A condition does not hold.", body = codexstore_api::Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem.", body = codexstore_api::Problem, content_type = "application/problem+json")))]
pub async fn delete<E: Engine>(
    app: &App<E>,
    grant: &Grant,
    head: &request::Parts,
    key: &str,
    deadline: Instant,
) -> Result<Response<Body>, Reject> {
    Query::parse(head.uri.query(), &[])?;
    let key = decode(key)?.into_owned();
    let conditions = etag::conditions(&head.headers)?;
    check_write(grant, &key, &conditions)?;
    let revision = in_time(deadline, app.engine.delete(key, conditions, actor(head)?)).await?;
    let Some(revision) = revision else {
        return Err(missing());
    };
    let mut response = status(StatusCode::NO_CONTENT);
    response
        .headers_mut()
        .insert(REVISION, HeaderValue::from(revision));
    Ok(response)
}

/// Refuses a write that no rule allows. A condition tells what is there: it wants reading as well.
fn check_write(grant: &Grant, key: &[u8], conditions: &Conditions) -> Result<(), Reject> {
    permitted(grant.check(Verb::Write, key))?;
    if !conditions.is_empty() {
        permitted(grant.check(Verb::Read, key))?;
    }
    Ok(())
}

/// A denial as an answer.
pub fn permitted(checked: codexstore::Result<()>) -> Result<(), Reject> {
    Ok(checked.map_err(crate::engine::Failure::from)?)
}

/// Waits for a write that was handed in. If it takes too long, nobody knows what became of it.
pub async fn in_time<T>(
    deadline: Instant,
    write: impl Future<Output = crate::engine::Result<T>>,
) -> Result<T, Reject> {
    match timeout_at(deadline, write).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Reject::new(
            "outcome-unknown",
            "the request's time is over while the write waits for the disk; it may still happen",
        )),
    }
}

fn describe(headers: &mut HeaderMap, tag: Tag, expires_at: Option<u64>) {
    if let Ok(text) = HeaderValue::try_from(tag.to_string()) {
        headers.insert(ETAG, text);
    }
    headers.insert(REVISION, HeaderValue::from(tag.revision));
    if let Some(text) = expires_at.and_then(rfc3339)
        && let Ok(text) = HeaderValue::try_from(text)
    {
        headers.insert(EXPIRES_AT, text);
    }
}

/// Who makes a change, if they say so.
pub fn actor(head: &request::Parts) -> Result<Option<String>, Reject> {
    let Some(label) = head.headers.get(names::ACTOR) else {
        return Ok(None);
    };
    let wrong = || Reject::new("invalid-argument", "Codexstore-Actor is not UTF-8");
    let label = std::str::from_utf8(label.as_bytes()).map_err(|_| wrong())?;
    Ok(Some(label.to_owned()))
}

fn missing() -> Reject {
    Reject::new("not-found", "there is no such key")
}

/// The key that a path segment names.
pub fn decode(segment: &str) -> Result<Cow<'_, [u8]>, Reject> {
    let key = if segment.contains('%') {
        let key = encoding::unpercent(segment.as_bytes()).ok_or_else(|| {
            Reject::new(
                "malformed-request",
                "the key has malformed percent-encoding",
            )
        })?;
        Cow::Owned(key)
    } else {
        Cow::Borrowed(segment.as_bytes())
    };
    check_key(&key)?;
    Ok(key)
}

/// Refuses a key of a wrong length.
pub fn check_key(key: &[u8]) -> Result<(), Reject> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(Reject::new(
            "invalid-key",
            format!("a key has 1 to {MAX_KEY} bytes, this one {}", key.len()),
        ));
    }
    Ok(())
}

/// A key of a batch, checked.
pub fn checked_key(key: Vec<u8>) -> Result<Bytes, Reject> {
    check_key(&key)?;
    Ok(key.into())
}
