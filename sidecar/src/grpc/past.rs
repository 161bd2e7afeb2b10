//! The past: reads at a revision, history, which is read in pages, and watches, which go on until the client leaves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codexstore::{ChangeOp, Entry};
use codexstore_api::grpc::change::Operation;
use codexstore_api::grpc::change::operation::Operation as Kind;
use codexstore_api::grpc::{Change, HistoryResponse, WatchResponse};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tonic::Status;

use super::{convert, status};
use crate::access::Grant;
use crate::engine::Engine;
use crate::engine::follow::Follow;
use crate::http::{App, Held, body};

/// Versions that are read at once.
const PAGE: usize = 100;

/// Bytes of values at which they are sent.
const PAGE_BYTES: usize = 256 << 10;

/// How long nothing is sent at most.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A key's value as it was right after a revision.
pub async fn get<E: Engine>(
    app: &App<E>,
    key: Bytes,
    revision: u64,
    deadline: Instant,
) -> Result<Held, Status> {
    let place = app.scan_permit(deadline).await;
    let place = place.ok_or_else(|| status::of("overloaded", "too much is being read"))?;
    let share = reserve(app, app.limits.max_value, deadline).await?;
    let read = app.value_at(key, revision, place, share).await;
    read.map_err(status::of_failure)
}

/// Takes a share of the bytes in flight; waits for it, but not long.
pub async fn reserve<E>(
    app: &App<E>,
    bytes: usize,
    deadline: Instant,
) -> Result<Option<OwnedSemaphorePermit>, Status> {
    let share = body::reserve(app, bytes, deadline).await;
    share.map_err(|_| status::of("overloaded", "too many bytes are in flight"))
}

/// A key's history that is being sent.
pub struct History<E> {
    pub app: Arc<App<E>>,
    pub key: Vec<u8>,
    /// The next revision.
    pub from: u64,
    /// Versions still wanted.
    pub left: u64,
}

impl<E: Engine> History<E> {
    /// Sends it.
    pub async fn run(mut self, versions: Sender<Result<HistoryResponse, Status>>) {
        loop {
            let page = tokio::select! {
                page = self.page() => page,
                () = versions.closed() => return,
            };
            let (page, more) = match page {
                Ok(page) => page,
                Err(status) => (vec![Err(status)], false),
            };
            for version in page {
                // Whoever has gone does not want to know.
                if versions.send(version).await.is_err() {
                    return;
                }
            }
            if !more {
                return;
            }
        }
    }

    /// The next versions, and whether more may follow.
    async fn page(&mut self) -> Result<(Vec<Result<HistoryResponse, Status>>, bool), Status> {
        let deadline = Instant::now() + self.app.limits.request;
        let place = self.app.scan_permit(deadline).await;
        let place = place.ok_or_else(|| status::of("overloaded", "too much is being read"))?;
        let limit = usize::try_from(self.left).unwrap_or(PAGE).min(PAGE);
        let (app, key, from) = (Arc::clone(&self.app), self.key.clone(), self.from);
        let work = tokio::task::spawn_blocking(move || {
            let (mut page, mut bytes) = (Vec::new(), 0);
            for version in app
                .engine
                .versions(&key, from)
                .map_err(status::of_failure)?
            {
                let version = version.map_err(|error| status::of_error(&error))?;
                bytes += version
                    .entry
                    .as_ref()
                    .map_or(0, |entry| entry.value().len());
                page.push(HistoryResponse {
                    revision: version.revision,
                    time_ms: version.time_ms,
                    actor: version.actor.unwrap_or_default(),
                    entry: version
                        .entry
                        .map(|entry| convert::entry(&entry, entry.bytes())),
                    expired: version.expired,
                });
                if page.len() >= limit || bytes >= PAGE_BYTES {
                    drop(place);
                    return Ok((page, true));
                }
            }
            drop(place);
            Ok::<_, Status>((page, false))
        });
        let page = work.await;
        let page = page.map_err(|_| status::of("internal", "reading the history ended early"))?;
        let (page, more): (Vec<HistoryResponse>, bool) = page?;
        self.left = self.left.saturating_sub(page.len() as u64);
        if let Some(last) = page.last() {
            self.from = last.revision.saturating_add(1);
        }
        Ok((page.into_iter().map(Ok).collect(), more && self.left > 0))
    }
}

/// A watch that is being sent.
pub struct Watching<E> {
    pub app: Arc<App<E>>,
    pub grant: Arc<Grant>,
    pub lineage: String,
    pub values: bool,
}

impl<E: Engine> Watching<E> {
    /// Sends what comes, until nobody takes it or the sidecar stops.
    pub async fn run(&self, mut follow: Follow, answers: Sender<Result<WatchResponse, Status>>) {
        // Where it begins; and later, that it lives.
        let mut answer = self.answer(&follow, None);
        let mut share = None;
        loop {
            tokio::select! {
                sent = answers.send(Ok(answer)) => if sent.is_err() { return },
                () = self.app.connections.stopped() => return,
            }
            // What was sent before has been taken by now.
            drop(share.take());
            answer = loop {
                let next = tokio::select! {
                    next = follow.next(KEEP_ALIVE) => next,
                    () = answers.closed() => return,
                    () = self.app.connections.stopped() => return,
                };
                let change = match next {
                    Ok(None) => break self.answer(&follow, None),
                    Ok(Some(change)) => change,
                    Err(error) => {
                        let _gone = answers.send(Err(self.failed(&error))).await;
                        return;
                    }
                };
                let Some(change) = self.change(change) else {
                    continue;
                };
                let size = prost_len(&change);
                let deadline = Instant::now() + self.app.limits.request;
                match reserve(&self.app, size, deadline).await {
                    Ok(held) => share = held,
                    Err(status) => {
                        let _gone = answers.send(Err(status)).await;
                        return;
                    }
                }
                break self.answer(&follow, Some(change));
            };
        }
    }

    fn answer(&self, follow: &Follow, change: Option<Change>) -> WatchResponse {
        let behind = change.as_ref().map(|change| change.revision + 1);
        WatchResponse {
            resume_from: behind.unwrap_or(follow.resume_at()),
            lineage: self.lineage.clone(),
            change,
        }
    }

    fn failed(&self, error: &codexstore::Error) -> Status {
        if error.is(codexstore::Code::PastGone) {
            let revision = self.app.engine.health().stats.revision;
            return status::past_gone(error.message(), revision);
        }
        status::of_error(error)
    }

    /// A change as a message; nothing if none of it may be seen.
    fn change(&self, change: codexstore::Change) -> Option<Change> {
        let seen = change
            .ops
            .iter()
            .filter(|op| self.grant.read.covers(op.key()));
        let value = |entry: &Entry| {
            if self.values {
                entry.bytes()
            } else {
                Bytes::new()
            }
        };
        let operations: Vec<_> = seen
            .map(|op| Operation {
                operation: Some(match op {
                    ChangeOp::Set(entry) => Kind::Set(convert::entry(entry, value(entry))),
                    ChangeOp::Delete(key) => Kind::Delete(key.clone()),
                    ChangeOp::Expire(key) => Kind::Expire(key.clone()),
                }),
            })
            .collect();
        (!operations.is_empty()).then(|| Change {
            revision: change.revision,
            time_ms: change.time_ms,
            actor: change.actor.unwrap_or_default(),
            operations,
        })
    }
}

fn prost_len(change: &Change) -> usize {
    use prost::Message;
    change.encoded_len()
}
