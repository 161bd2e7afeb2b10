//! `GET /v1/watch`: changes as server-sent events.
//!
//! A watch is a task that takes changes from the store as it is told of them, and gives an event to
//! its connection only when that has taken the one before: who reads slowly holds two events, and
//! falls behind in the log, which is on disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codexstore::{Change, Code};
use codexstore_api::Problem;
use codexstore_api::bodies::{Changed, ChangedOp, key_fields};
use codexstore_api::encoding::base64;
use codexstore_api::time::rfc3339;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header, request};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::answer::{Body, Reject, held, typed};
use super::body::{SMALL, reserve};
use super::keys::permitted;
use super::query::{Flag, Query};
use super::{App, etag};
use crate::access::{Grant, Verb};
use crate::engine::follow::Follow;
use crate::engine::{Engine, Failure, Tag};

/// Where a client that lost its connection goes on.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How long nothing is sent at most.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Watches changes.
#[utoipa::path(get, path = "/v1/watch", tag = "keys", operation_id = "watch",
    description = "Changes in the order of their revisions, without a gap, as server-sent events that go on until the client leaves: `event: change` with a change as JSON, one for each revision that touched a watched key, once it is on disk. The id of an event is what Last-Event-ID resumes behind, as browsers do by themselves, also after a restart. If it ends for another reason the last event is `error`, with a problem.",
    params(("prefix" = Option<String>, Query, description = "Keys that begin with this."),
        ("from" = Option<u64>, Query, description = "From this revision on; without it, and without Last-Event-ID, what comes next."),
        ("values" = inline(Option<Flag>), Query, description = "Whether to send values, in base64."),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on behind this event; from is not looked at then.")),
    responses((status = 200, description = "Events; the data of each is this.", body = Changed, content_type = "text/event-stream"),
        (status = 410, description = "That part of the past is no longer kept. The header Codexstore-Revision has the current revision.", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A problem.", body = Problem, content_type = "application/problem+json")))]
pub fn watch<E: Engine>(
    app: &Arc<App<E>>,
    grant: &Arc<Grant>,
    head: &request::Parts,
) -> Result<Response<Body>, Reject> {
    let mut query = Query::parse(head.uri.query(), &["prefix", "from", "values"])?;
    let prefix = Bytes::from(query.take("prefix").unwrap_or_default());
    let from = query.text("from")?.map(|text| {
        let number = text.parse::<u64>();
        number.map_err(|_| Reject::new("invalid-argument", "from is a revision: a number"))
    });
    let values = query.flag("values")?;
    // Of what nobody may read there is nothing to come.
    if grant
        .read
        .narrow(&codexstore::Scan::prefix(prefix.clone()))
        .is_empty()
    {
        permitted(grant.check_prefix(Verb::Read, &prefix))?;
    }
    let lineage = app.engine.lineage()?;
    let from = match last_event(&head.headers)? {
        None => from.transpose()?,
        Some(last) if last.lineage == lineage => Some(last.revision.saturating_add(1)),
        Some(_) => return Err(gone(app, "the store's history began anew since that event")),
    };
    let watch = app
        .engine
        .watch(from, prefix)
        .map_err(|failure| match failure {
            Failure::Failed(error) if error.is(Code::PastGone) => gone(app, error.message()),
            failure => failure.into(),
        })?;
    let Ok(place) = Arc::clone(&app.watches).try_acquire_owned() else {
        return Err(Reject::new("overloaded", "there are too many watches"));
    };
    let (events, stream) = mpsc::channel(1);
    let watching = Watching {
        app: Arc::clone(app),
        grant: Arc::clone(grant),
        lineage,
        values,
        events,
    };
    tokio::spawn(async move {
        watching.run(Follow::new(watch)).await;
        drop(place);
    });
    let mut response = typed("text/event-stream", Body::events(stream));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The event that `Last-Event-ID` names.
fn last_event(headers: &HeaderMap) -> Result<Option<Tag>, Reject> {
    let Some(id) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let tag = id.to_str().ok().and_then(etag::ours);
    let wrong = || {
        Reject::new(
            "invalid-argument",
            "Last-Event-ID is no id of an event of a watch",
        )
    };
    tag.map(Some).ok_or_else(wrong)
}

/// 410, with the current revision to begin anew from.
fn gone<E: Engine>(app: &App<E>, detail: &str) -> Reject {
    let revision = app.engine.health().stats.revision;
    Reject::new("past-gone", detail).revision(revision)
}

/// A watch that is being sent.
struct Watching<E> {
    app: Arc<App<E>>,
    grant: Arc<Grant>,
    lineage: u64,
    values: bool,
    events: mpsc::Sender<Bytes>,
}

impl<E: Engine> Watching<E> {
    async fn run(&self, mut follow: Follow) {
        let mut last = String::new();
        loop {
            // At once, so that whoever resumes before the first event goes on from here.
            let id = self.id(follow.resume_at().saturating_sub(1));
            let sign = if id == last {
                Bytes::from_static(b":\n\n")
            } else {
                last = id;
                Bytes::from(format!("id: {last}\n\n"))
            };
            if self.send(sign).await.is_err() {
                return;
            }
            // Until nothing came for a while.
            loop {
                let next = tokio::select! {
                    next = follow.next(KEEP_ALIVE) => next,
                    () = self.events.closed() => return,
                    () = self.app.connections.stopped() => return,
                };
                let change = match next {
                    Ok(None) => break,
                    Ok(Some(change)) => change,
                    Err(error) => {
                        self.fail(&error).await;
                        return;
                    }
                };
                let id = self.id(change.revision);
                match self.event(change).await {
                    Ok(None) => {}
                    Ok(Some(event)) => {
                        last = id;
                        if self.send(event).await.is_err() {
                            return;
                        }
                    }
                    Err(problem) => {
                        self.end(&problem).await;
                        return;
                    }
                }
            }
        }
    }

    fn id(&self, revision: u64) -> String {
        let tag = Tag {
            lineage: self.lineage,
            revision,
        };
        tag.to_string().trim_matches('"').to_owned()
    }

    async fn send(&self, event: Bytes) -> Result<(), ()> {
        tokio::select! {
            sent = self.events.send(event) => sent.map_err(|_| ()),
            () = self.app.connections.stopped() => Err(()),
        }
    }

    /// A change as an event; nothing if none of it may be seen.
    async fn event(&self, mut change: Change) -> Result<Option<Bytes>, Problem> {
        change.ops.retain(|op| self.grant.read.covers(op.key()));
        if change.ops.is_empty() {
            return Ok(None);
        }
        let bytes = |op: &codexstore::ChangeOp| {
            let value = match op {
                codexstore::ChangeOp::Set(entry) if self.values => entry.value().len(),
                _ => 0,
            };
            // In base64, and as hexadecimal escapes at worst.
            value / 3 * 4 + 6 * op.key().len() + 256
        };
        let size: usize = change.ops.iter().map(bytes).sum();
        let share = if size <= SMALL {
            None
        } else {
            // It waits for its turn as long as others do.
            let deadline = Instant::now() + self.app.limits.request;
            let share = reserve(&self.app, size, deadline).await;
            share.map_err(|_| Problem::new("overloaded", "too many bytes are in flight"))?
        };
        let id = self.id(change.revision);
        let data = serde_json::to_string(&changed(&change, self.values));
        let data = data.map_err(|_| Problem::new("internal", "write the event"))?;
        let event = format!("id: {id}\nevent: change\ndata: {data}\n\n");
        Ok(Some(held(Bytes::from(event), share)))
    }

    async fn fail(&self, error: &codexstore::Error) {
        let row = codexstore_api::codes::row(error.code());
        self.end(&Problem::of(row, error.message())).await;
    }

    /// The last event.
    async fn end(&self, problem: &Problem) {
        let event = [b"event: error\ndata: ", &problem.to_json()[..], b"\n\n"].concat();
        let sending = self.events.send(Bytes::from(event));
        // Who does not take it does not hear of it.
        let _sent = timeout(self.app.limits.io, sending).await;
    }
}

/// A change as JSON.
pub fn changed(change: &Change, values: bool) -> Changed {
    let op = |op: &codexstore::ChangeOp| {
        let (key, key_base64) = key_fields(op.key());
        let named = ChangedOp {
            key,
            key_base64,
            ..ChangedOp::default()
        };
        match op {
            codexstore::ChangeOp::Set(entry) => ChangedOp {
                op: "set".to_owned(),
                value: values.then(|| base64(entry.value())),
                created_revision: Some(entry.created()),
                version: Some(entry.version()),
                expires_at: entry.expires_at().and_then(rfc3339),
                ..named
            },
            codexstore::ChangeOp::Delete(_) => ChangedOp {
                op: "delete".to_owned(),
                ..named
            },
            codexstore::ChangeOp::Expire(_) => ChangedOp {
                op: "expire".to_owned(),
                ..named
            },
        }
    };
    Changed {
        revision: change.revision,
        time: rfc3339(change.time_ms).unwrap_or_default(),
        actor: change.actor.clone(),
        operations: change.ops.iter().map(op).collect(),
    }
}
