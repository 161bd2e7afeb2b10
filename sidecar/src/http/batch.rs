//! `POST /v1/batch`: several operations as one revision.

use std::sync::Arc;

use bytes::Bytes;
use codexstore::{Expect, SetOptions};
use codexstore_api::bodies::{Batch, Committed, Condition, Op};
use http::{Response, request};
use tokio::time::Instant;

use super::answer::{Body, Reject, json};
use super::body::Intake;
use super::keys::permitted;
use super::query::Query;
use super::{App, body, keys};
use crate::access::{Grant, Verb};
use crate::engine::Engine;

/// Bodies from this size on are parsed off the I/O thread.
const LARGE: usize = 64 << 10;

/// Commits a batch.
#[utoipa::path(post, path = "/v1/batch", tag = "keys", operation_id = "batch",
    description = "All operations happen as one revision, or none of them does. Preconditions are checked first.",
    request_body(content = Batch, content_type = "application/json"),
    params(("Codexstore-Actor" = Option<String>, Header, description = "Who commits it: a label of at most 256 bytes, for history and watchers.")),
    responses((status = 200, description = "Committed.", body = Committed),
        (status = 412, description = "A precondition does not hold.", body = codexstore_api::Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem.", body = codexstore_api::Problem, content_type = "application/problem+json")))]
pub async fn batch<E: Engine>(
    app: &App<E>,
    grant: &Arc<Grant>,
    head: &request::Parts,
    body: Intake,
    deadline: Instant,
) -> Result<Response<Body>, Reject> {
    Query::parse(head.uri.query(), &[])?;
    // Room for one of the largest values in base64, and for many small ones.
    let limit = 2 * app.limits.max_value + (1 << 20);
    let whole = body::read(app, body, limit, deadline).await?;
    let max_value = app.limits.max_value;
    let bytes = whole.bytes;
    let batch = if bytes.len() < LARGE {
        parse(&bytes, max_value, grant)?
    } else {
        let grant = Arc::clone(grant);
        tokio::task::spawn_blocking(move || parse(&bytes, max_value, &grant))
            .await
            .map_err(|_| Reject::new("internal", "reading the batch ended early"))??
    };
    let batch = match keys::actor(head)? {
        Some(actor) => batch.actor(actor),
        None => batch,
    };
    let done = keys::in_time(deadline, app.engine.commit(batch, whole.held)).await?;
    json(&Committed {
        revision: done.revision,
        created: done.created,
        updated: done.updated,
        deleted: done.deleted,
    })
}

fn parse(body: &Bytes, max_value: usize, grant: &Grant) -> Result<codexstore::Batch, Reject> {
    let batch: Batch = serde_json::from_slice(body).map_err(|e| {
        // serde's text repeats unknown names and wrong values of the body: only the place is told.
        let what = match e.classify() {
            serde_json::error::Category::Data => "is not a batch",
            _ => "is not JSON",
        };
        let place = format!("line {} column {}", e.line(), e.column());
        Reject::new(
            "invalid-argument",
            format!(
                "the body {what} at {place}; it has the form \
                 {{\"operations\":[{{\"op\":\"set\",\"key\":…,\"text\":…}},{{\"op\":\"delete\",\"key\":…}}],\"preconditions\":[…]}} \
                 with at most 10,000 of each"
            ),
        )
    })?;
    let mut made = codexstore::Batch::new();
    for (n, precondition) in batch.preconditions.into_iter().enumerate() {
        let at = |reject| numbered(reject, "precondition", n);
        let key = precondition
            .key_bytes()
            .map_err(Reject::from)
            .and_then(keys::checked_key);
        let expect = match precondition.condition().map_err(|e| at(e.into()))? {
            Condition::Absent => Expect::Absent,
            Condition::Present => Expect::Present,
            Condition::Revision(revision) => Expect::Revision(revision),
        };
        let key = key.map_err(at)?;
        permitted(grant.check(Verb::Read, &key)).map_err(at)?;
        made = made.expect(key, expect);
    }
    for (n, operation) in batch.operations.into_iter().enumerate() {
        let at = |reject| numbered(reject, "operation", n);
        let key = operation
            .key_bytes()
            .map_err(Reject::from)
            .and_then(keys::checked_key);
        let key = key.map_err(at)?;
        permitted(grant.check(Verb::Write, &key)).map_err(at)?;
        made = match operation.op {
            Op::Delete => {
                if operation.value.is_some() || operation.text.is_some() || operation.ttl.is_some()
                {
                    return Err(at(Reject::new(
                        "invalid-argument",
                        "a delete has only a key",
                    )));
                }
                made.delete(key)
            }
            Op::Set => {
                let ttl = operation.ttl_duration().map_err(|e| at(e.into()))?;
                let value = operation.value_bytes().map_err(|e| at(e.into()))?;
                if value.len() > max_value {
                    let detail = format!("a value may have at most {max_value} bytes");
                    return Err(at(Reject::new("too-large", detail)));
                }
                made.set_with(
                    key,
                    value,
                    SetOptions {
                        ttl,
                        ..SetOptions::default()
                    },
                )
            }
        };
    }
    Ok(made)
}

/// Says which part of the batch is meant.
fn numbered(reject: Reject, what: &str, n: usize) -> Reject {
    reject.context(&format!("{what} {n}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(body: &str, because: &str) {
        let reject = parse(
            &Bytes::copy_from_slice(body.as_bytes()),
            8,
            &Grant::everything(),
        )
        .unwrap_err();
        assert!(reject.detail().contains(because), "{}", reject.detail());
    }

    #[test]
    fn what_is_wrong_is_named_without_repeating_it() {
        refused("{", "not JSON at line 1");
        refused(
            r#"{"operations":[{"op":"set","key":"a","secret-name":1}]}"#,
            "not a batch",
        );
        refused(
            r#"{"operations":[{"op":"delete","key":"a"},{"op":"set","key":"a"}]}"#,
            "operation 1",
        );
        refused(r#"{"operations":[{"op":"delete","key":""}]}"#, "1 to 1024");
        refused(
            r#"{"operations":[{"op":"set","key":"a","text":"123456789"}]}"#,
            "at most 8",
        );
        refused(
            r#"{"operations":[{"op":"delete","key":"a","ttl":"1s"}]}"#,
            "only a key",
        );
        refused(
            r#"{"operations":[],"preconditions":[{"key":"a"}]}"#,
            "precondition 0",
        );
        let reject = parse(
            &Bytes::from_static(br#"{"operations":[{"op":"canary"}]}"#),
            8,
            &Grant::everything(),
        )
        .unwrap_err();
        assert!(!reject.detail().contains("canary"), "{}", reject.detail());
    }
}
