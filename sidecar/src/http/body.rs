//! Reading a request's body: bounded in size, in time, and in what all bodies take together.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::App;
use super::answer::Reject;
use crate::engine::Engine;
use crate::serve::connections::Connection;

/// Unit in which bytes in flight are counted.
pub const UNIT: usize = 1024;

/// Bodies and answers up to this size are not counted: the bound on requests in work bounds them.
pub const SMALL: usize = 16 << 10;

/// Most of a refused body that is read and thrown away, so that a client that sends before it
/// reads gets to see the answer.
const DRAIN: usize = 32 << 20;

/// Longest time for that.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A body, and its share of the bytes in flight.
pub struct Whole {
    /// The bytes.
    pub bytes: Bytes,
    /// Hold it as long as the bytes.
    pub held: Option<OwnedSemaphorePermit>,
}

/// A request's body as it comes in. If it was not read to its end it is drained when this is
/// dropped: a client that sends before it reads then gets to see why it was refused.
pub struct Intake {
    body: Option<Incoming>,
    connection: Option<Arc<Connection>>,
}

impl Intake {
    /// A body, and the connection that it comes on.
    pub fn new(body: Incoming, connection: Option<Arc<Connection>>) -> Intake {
        Intake {
            body: Some(body),
            connection,
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            drain(body, self.connection.as_ref());
        }
    }
}

/// Reads a body of at most `limit` bytes. One that says it is longer is refused unread.
pub async fn read<E: Engine>(
    app: &App<E>,
    mut intake: Intake,
    limit: usize,
    deadline: Instant,
) -> Result<Whole, Reject> {
    let Some(body) = &mut intake.body else {
        return Err(Reject::new("internal", "the body was read before"));
    };
    let declared = body
        .size_hint()
        .exact()
        .map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    if declared.is_some_and(|declared| declared > limit) {
        return Err(too_large(limit));
    }
    let held = reserve(app, declared.unwrap_or(limit), deadline).await?;
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    loop {
        let patience = deadline.min(Instant::now() + app.limits.io);
        let frame = match timeout_at(patience, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(_))) => {
                intake.body = None;
                return Err(
                    Reject::new("malformed-request", "the body is cut short or malformed").close(),
                );
            }
            Err(_) => {
                // Not drained: it had its time.
                intake.body = None;
                return Err(
                    Reject::new("request-timeout", "the body did not arrive in time").close(),
                );
            }
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + joined.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        if whole.is_empty() && joined.is_empty() {
            // Mostly all there is: no copy then.
            whole = data;
            continue;
        }
        if joined.is_empty() {
            joined.reserve(declared.unwrap_or(whole.len() + data.len()));
            joined.extend_from_slice(&whole);
            whole = Bytes::new();
        }
        joined.extend_from_slice(&data);
    }
    let bytes = if joined.is_empty() {
        whole
    } else {
        joined.freeze()
    };
    Ok(Whole { bytes, held })
}

/// Takes a share of the bytes in flight; waits for it, but not long.
pub async fn reserve<E>(
    app: &App<E>,
    bytes: usize,
    deadline: Instant,
) -> Result<Option<OwnedSemaphorePermit>, Reject> {
    if bytes <= SMALL {
        return Ok(None);
    }
    // What is larger than all there is, such as a value from when more was allowed, goes alone.
    let units = bytes.min(app.limits.in_flight_bytes) / UNIT;
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    let patience = deadline.min(Instant::now() + Duration::from_secs(5));
    let waiting = Arc::clone(&app.in_flight).acquire_many_owned(units);
    match timeout_at(patience, waiting).await {
        Ok(Ok(held)) => Ok(Some(held)),
        _ => Err(Reject::new("overloaded", "too many bytes are in flight")),
    }
}

/// Reads the rest of a body for a while and throws it away.
pub fn drain(body: Incoming, connection: Option<&Arc<Connection>>) {
    if body.is_end_stream() {
        return;
    }
    // None while the process ends.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    // Its bytes are not the header of a next request, whose deadline would end the connection.
    let working = connection.map(Connection::begin);
    runtime.spawn(async move {
        let _working = working;
        // Dropped before that: while a connection is at work one may not take its stream from hyper.
        let mut body = body;
        let deadline = Instant::now() + DRAIN_TIME;
        let mut left = DRAIN;
        while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    });
}

fn too_large(limit: usize) -> Reject {
    Reject::new(
        "too-large",
        format!("the body may have at most {limit} bytes"),
    )
}
