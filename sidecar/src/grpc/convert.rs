//! Between messages and what the engine knows.

use std::time::Duration;

use bytes::Bytes;
use codexstore::{Batch, Expect, SetOptions};
use codexstore_api::bodies::MAX_OPERATIONS;
use codexstore_api::grpc::condition::Condition as Kind;
use codexstore_api::grpc::operation::Operation;
use codexstore_api::grpc::{self, BatchRequest, Condition};
use tonic::Status;

use super::status;
use crate::access::{Grant, Verb};

/// An entry as a message.
pub fn entry(entry: &codexstore::Entry, value: Bytes) -> grpc::Entry {
    grpc::Entry {
        key: Bytes::copy_from_slice(entry.key()),
        value,
        revision: entry.modified(),
        created_revision: entry.created(),
        version: entry.version(),
        expires_at_ms: entry.expires_at(),
    }
}

/// What is expected of a key; nothing without a condition.
pub fn expect(condition: Option<Condition>) -> Result<Option<Expect>, Status> {
    let Some(condition) = condition else {
        return Ok(None);
    };
    match condition.condition {
        Some(Kind::Absent(true)) => Ok(Some(Expect::Absent)),
        Some(Kind::Present(true)) => Ok(Some(Expect::Present)),
        Some(Kind::Revision(revision)) => Ok(Some(Expect::Revision(revision))),
        _ => Err(status::of(
            "invalid-argument",
            "a condition is absent: true, present: true, or a revision",
        )),
    }
}

/// How a key is set.
pub fn options(ttl_ms: Option<u64>) -> SetOptions {
    SetOptions {
        ttl: ttl_ms.map(Duration::from_millis),
        ..SetOptions::default()
    }
}

/// Refuses what no rule allows.
pub fn permitted(checked: codexstore::Result<()>) -> Result<(), Status> {
    checked.map_err(|error| status::of_error(&error))
}

/// A batch, all of which is permitted.
pub fn batch(request: BatchRequest, grant: &Grant) -> Result<Batch, Status> {
    let most = request.operations.len().max(request.preconditions.len());
    if most > MAX_OPERATIONS {
        return Err(status::of(
            "too-large",
            format!("a batch has at most {MAX_OPERATIONS} operations, and as many preconditions"),
        ));
    }
    let mut batch = Batch::new();
    if !request.actor.is_empty() {
        batch = batch.actor(request.actor);
    }
    for (n, precondition) in request.preconditions.into_iter().enumerate() {
        let at = |status: Status| numbered(&status, "precondition", n);
        permitted(grant.check(Verb::Read, &precondition.key)).map_err(at)?;
        let expected = expect(precondition.condition).map_err(at)?;
        let missing = || status::of("invalid-argument", "it has no condition");
        batch = batch.expect(precondition.key, expected.ok_or_else(missing).map_err(at)?);
    }
    for (n, operation) in request.operations.into_iter().enumerate() {
        let at = |status: Status| numbered(&status, "operation", n);
        let check = |key: &Bytes| permitted(grant.check(Verb::Write, key)).map_err(at);
        batch = match operation.operation {
            Some(Operation::Set(set)) => {
                check(&set.key)?;
                batch.set_with(set.key, set.value, options(set.ttl_ms))
            }
            Some(Operation::Delete(delete)) => {
                check(&delete.key)?;
                batch.delete(delete.key)
            }
            None => {
                let status = status::of("invalid-argument", "it is neither set nor delete");
                return Err(at(status));
            }
        };
    }
    Ok(batch)
}

/// Says which part of a batch is meant.
fn numbered(status: &Status, what: &str, n: usize) -> Status {
    Status::with_details_and_metadata(
        status.code(),
        format!("{what} {n}: {}", status.message()),
        Bytes::copy_from_slice(status.details()),
        status.metadata().clone(),
    )
}
