//! The methods of `codexstore.v1.KV`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use codexstore::{Code, Error, Expect, Program, Scan, SetOptions, Txn};
use codexstore_api::grpc::compare_and_set_request::Expected;
use codexstore_api::grpc::kv_server::Kv as Service;
use codexstore_api::grpc::{
    BatchRequest, BatchResponse, CompareAndSetRequest, CompareAndSetResponse, DeletePrefixRequest,
    DeletePrefixResponse, DeleteRequest, DeleteResponse, Entry, GetRequest, GetResponse,
    HistoryRequest, HistoryResponse, ListRequest, ListResponse, SetRequest, SetResponse,
    StatusRequest, StatusResponse, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert::{self, permitted};
use super::intake::Share;
use super::past::{self, History, Watching};
use super::{Terms, status};
use crate::access::Verb;
use crate::engine::follow::Follow;
use crate::engine::{self, Engine, Failure};
use crate::http::{App, Held, body, status_of};

/// Bytes of keys and values at which a page of a list ends.
const PAGE_BYTES: usize = 256 << 10;

/// Most entries of a page.
const PAGE: usize = 1_000;

/// Entries looked at for a page, matching or not: what bounds its time.
const EXAMINED: usize = 65_536;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
pub struct Kv<E>(pub Arc<App<E>>);

#[tonic::async_trait]
impl<E: Engine> Service for Kv<E> {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let terms = Terms::of(&request)?;
        let GetRequest { key, revision } = request.into_inner();
        permitted(terms.grant.check(Verb::Read, &key))?;
        let (value, share) = match revision {
            None => self.present(&key, terms.deadline).await?,
            Some(revision) => past::get(&self.0, key.clone(), revision, terms.deadline).await?,
        };
        let value = value.ok_or_else(missing)?;
        let entry = Entry {
            key,
            value: value.bytes,
            revision: value.tag.revision,
            created_revision: value.created,
            version: value.version,
            expires_at_ms: value.expires_at,
        };
        let mut response = Response::new(GetResponse { entry: Some(entry) });
        response.extensions_mut().insert(Share::of(share));
        Ok(response)
    }

    async fn set(&self, request: Request<SetRequest>) -> Result<Response<SetResponse>, Status> {
        let terms = Terms::of(&request)?;
        let request = request.into_inner();
        permitted(terms.grant.check(Verb::Write, &request.key))?;
        let expect = convert::expect(request.condition)?;
        if expect.is_some() {
            permitted(terms.grant.check(Verb::Read, &request.key))?;
        }
        let set = Set {
            key: request.key,
            value: request.value,
            options: convert::options(request.ttl_ms),
            expect,
            actor: request.actor,
        };
        self.write(terms, set).await
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let terms = Terms::of(&request)?;
        let request = request.into_inner();
        permitted(terms.grant.check(Verb::Write, &request.key))?;
        let expect = convert::expect(request.condition)?;
        if expect.is_some() {
            permitted(terms.grant.check(Verb::Read, &request.key))?;
        }
        let (key, actor) = (request.key, request.actor);
        let delete = move |txn: &mut Txn<'_>| {
            name(txn, actor)?;
            check(txn, &key, expect)?;
            if !txn.delete(&key)? {
                return Err(Error::new(Code::NotFound, "there is no such key"));
            }
            let revision = txn.outcome().revision;
            Ok(DeleteResponse { revision })
        };
        self.write(terms, delete).await
    }

    async fn delete_prefix(
        &self,
        request: Request<DeletePrefixRequest>,
    ) -> Result<Response<DeletePrefixResponse>, Status> {
        let terms = Terms::of(&request)?;
        let DeletePrefixRequest { prefix, all } = request.into_inner();
        if prefix.is_empty() && !all {
            return Err(status::of(
                "invalid-argument",
                "an empty prefix removes every key: say all: true if that is meant",
            ));
        }
        permitted(terms.grant.check_prefix(Verb::Write, &prefix))?;
        let place = self.0.scan_permit(terms.deadline).await;
        let place = place.ok_or_else(too_many_lists)?;
        let work = self.0.engine.delete_prefix(prefix.into(), place);
        let (deleted, revision) = in_time(&terms, work).await?;
        Ok(Response::new(DeletePrefixResponse { deleted, revision }))
    }

    type ListStream = Answers<ListResponse>;

    async fn list(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let terms = Terms::of(&request)?;
        let request = request.into_inner();
        let some = |bytes: Bytes| (!bytes.is_empty()).then_some(bytes);
        let scan = Scan {
            prefix: request.prefix,
            from: some(request.from),
            to: some(request.to),
            glob: some(request.r#match),
            max_bytes: PAGE_BYTES,
            max_examined: EXAMINED,
            ..Scan::default()
        };
        let listing = Listing {
            app: Arc::clone(&self.0),
            scans: terms.grant.read.narrow(&scan),
            left: if request.limit == 0 {
                u64::MAX
            } else {
                request.limit
            },
            values: !request.keys_only,
        };
        let (pages, stream) = mpsc::channel(1);
        tokio::spawn(listing.run(pages));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn batch(
        &self,
        request: Request<BatchRequest>,
    ) -> Result<Response<BatchResponse>, Status> {
        let terms = Terms::of(&request)?;
        let batch = convert::batch(request.into_inner(), &terms.grant)?;
        let work = self.0.engine.commit(batch, terms.share.clone());
        let done = in_time(&terms, work).await?;
        Ok(Response::new(BatchResponse {
            revision: done.revision,
            created: done.created,
            updated: done.updated,
            deleted: done.deleted,
        }))
    }

    async fn compare_and_set(
        &self,
        request: Request<CompareAndSetRequest>,
    ) -> Result<Response<CompareAndSetResponse>, Status> {
        let terms = Terms::of(&request)?;
        let request = request.into_inner();
        permitted(terms.grant.check(Verb::Write, &request.key))?;
        permitted(terms.grant.check(Verb::Read, &request.key))?;
        let expected = match request.expected {
            None | Some(Expected::Absent(false)) => {
                return Err(status::of(
                    "invalid-argument",
                    "expected is absent: true, a revision, or a value",
                ));
            }
            Some(expected) => expected,
        };
        let swap = Swap {
            key: request.key,
            expected,
            value: request.new_value,
            options: convert::options(request.ttl_ms),
            actor: request.actor,
        };
        self.write(terms, swap).await
    }

    type HistoryStream = Answers<HistoryResponse>;

    async fn history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        let terms = Terms::of(&request)?;
        let HistoryRequest { key, from, limit } = request.into_inner();
        permitted(terms.grant.check(Verb::Read, &key))?;
        let history = History {
            app: Arc::clone(&self.0),
            key: key.into(),
            from,
            left: if limit == 0 { u64::MAX } else { limit },
        };
        let (versions, stream) = mpsc::channel(1);
        tokio::spawn(history.run(versions));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type WatchStream = Answers<WatchResponse>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let terms = Terms::of(&request)?;
        let request = request.into_inner();
        if terms
            .grant
            .read
            .narrow(&Scan::prefix(request.prefix.clone()))
            .is_empty()
        {
            permitted(terms.grant.check_prefix(Verb::Read, &request.prefix))?;
        }
        let lineage = self.0.engine.lineage().map_err(status::of_failure)?;
        let lineage = format!("{lineage:016x}");
        let current = || self.0.engine.health().stats.revision;
        if !request.lineage.is_empty() && request.lineage != lineage {
            let what = "the store's history began anew since that revision";
            return Err(status::past_gone(what, current()));
        }
        let from = (request.from > 0).then_some(request.from);
        let watch = self.0.engine.watch(from, request.prefix);
        let watch = watch.map_err(|failure| match failure {
            Failure::Failed(error) if error.is(Code::PastGone) => {
                status::past_gone(error.message(), current())
            }
            failure => status::of_failure(failure),
        })?;
        let place = Arc::clone(&self.0.watches).try_acquire_owned();
        let place = place.map_err(|_| status::of("overloaded", "there are too many watches"))?;
        let watching = Watching {
            app: Arc::clone(&self.0),
            grant: terms.grant,
            lineage,
            values: !request.keys_only,
        };
        let (answers, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            watching.run(Follow::new(watch), answers).await;
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let status = status_of(&self.0);
        Ok(Response::new(StatusResponse {
            store: status.store,
            namespace: status.namespace,
            pod: status.pod,
            version: status.version,
            state: status.state.to_string(),
            message: status.message.unwrap_or_default(),
            strategy: status.strategy,
            durability: status.durability,
            lineage: status.lineage,
            revision: status.revision,
            keys: status.keys,
            bytes: status.bytes,
            disk_bytes: status.disk_bytes,
            max_disk_bytes: status.max_disk,
            memory_bytes: status.memory_bytes,
            max_memory_bytes: status.max_memory,
            key_id: status.key_id,
            anchor: status.anchor.unwrap_or_default(),
        }))
    }
}

impl<E: Engine> Kv<E> {
    /// A key's value as it is, with a share of the bytes in flight: the answer is a copy.
    async fn present(&self, key: &[u8], deadline: Instant) -> Result<Held, Status> {
        // Its size is known only once it is read, so it is read again after a wait.
        let (mut share, mut reserved) = (None, body::SMALL);
        loop {
            let value = self.0.engine.get(key).await.map_err(status::of_failure)?;
            let size = value.as_ref().map_or(0, |value| value.bytes.len());
            if size <= reserved {
                return Ok((value, share));
            }
            drop((value, share.take()));
            share = past::reserve(&self.0, size, deadline).await?;
            reserved = size;
        }
    }

    /// Runs a program in the committer.
    async fn write<P: Program>(
        &self,
        terms: Terms,
        program: P,
    ) -> Result<Response<P::Output>, Status> {
        let work = self.0.engine.run(program, terms.share.clone());
        in_time(&terms, work).await.map(Response::new)
    }
}

/// Waits for a write that was handed in. If it takes too long, nobody knows what became of it.
async fn in_time<T>(
    terms: &Terms,
    work: impl Future<Output = engine::Result<T>>,
) -> Result<T, Status> {
    match timeout_at(terms.deadline, work).await {
        Ok(result) => result.map_err(status::of_failure),
        Err(_) => Err(status::of(
            "outcome-unknown",
            "the call's time is over while the write waits for the disk; it may still happen",
        )),
    }
}

fn missing() -> Status {
    status::of("not-found", "there is no such key")
}

fn too_many_lists() -> Status {
    status::of("overloaded", "too many lists are being computed")
}

/// Refuses, unless a key is as expected.
fn check(txn: &Txn<'_>, key: &[u8], expect: Option<Expect>) -> codexstore::Result<()> {
    let found = txn.get(key)?.map(|entry| entry.modified());
    let holds = match expect {
        None => true,
        Some(Expect::Absent) => found.is_none(),
        Some(Expect::Present) => found.is_some(),
        Some(Expect::Revision(revision)) => found == Some(revision),
    };
    if holds {
        return Ok(());
    }
    let is = match found {
        None => "is not there".to_owned(),
        Some(revision) => format!("has revision {revision}"),
    };
    Err(Error::new(
        Code::PreconditionFailed,
        format!("the condition does not hold: the key {is}"),
    ))
}

/// Says who makes the changes, if they said so.
fn name(txn: &mut Txn<'_>, actor: String) -> codexstore::Result<()> {
    if actor.is_empty() {
        return Ok(());
    }
    txn.set_actor(actor)
}

struct Set {
    key: Bytes,
    value: Bytes,
    options: SetOptions,
    expect: Option<Expect>,
    actor: String,
}

impl Program for Set {
    type Output = SetResponse;

    fn run(self, txn: &mut Txn<'_>) -> codexstore::Result<SetResponse> {
        name(txn, self.actor)?;
        if self.expect.is_some() {
            check(txn, &self.key, self.expect)?;
        }
        txn.set_with(&self.key, &self.value, self.options)?;
        let expires_at_ms = match self.options.ttl {
            Some(_) => txn.get(&self.key)?.and_then(|entry| entry.expires_at()),
            None => None,
        };
        let done = txn.outcome();
        Ok(SetResponse {
            revision: done.revision,
            created: done.created > 0,
            expires_at_ms,
        })
    }

    fn size_hint(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

struct Swap {
    key: Bytes,
    expected: Expected,
    value: Bytes,
    options: SetOptions,
    actor: String,
}

impl Program for Swap {
    type Output = CompareAndSetResponse;

    fn run(self, txn: &mut Txn<'_>) -> codexstore::Result<CompareAndSetResponse> {
        name(txn, self.actor)?;
        let found = txn.get(&self.key)?;
        let same = match (&self.expected, &found) {
            (Expected::Absent(_), None) => true,
            (Expected::Revision(revision), Some(found)) => found.modified() == *revision,
            (Expected::Value(value), Some(found)) => found.value() == &value[..],
            _ => false,
        };
        if !same {
            return Ok(CompareAndSetResponse {
                swapped: false,
                revision: 0,
                current: found.map(|found| convert::entry(&found, found.bytes())),
            });
        }
        txn.set_with(&self.key, &self.value, self.options)?;
        Ok(CompareAndSetResponse {
            swapped: true,
            revision: txn.outcome().revision,
            current: None,
        })
    }

    fn size_hint(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// A list that is being sent, a page ahead of what the client takes.
struct Listing<E> {
    app: Arc<App<E>>,
    scans: Vec<Scan>,
    left: u64,
    values: bool,
}

impl<E: Engine> Listing<E> {
    async fn run(mut self, pages: mpsc::Sender<Result<ListResponse, Status>>) {
        loop {
            let page = tokio::select! {
                page = self.page() => page,
                () = pages.closed() => return,
            };
            let (page, more) = match page {
                Ok(page) => page,
                Err(status) => {
                    // Whoever has gone does not want to know.
                    let _gone = pages.send(Err(status)).await;
                    return;
                }
            };
            if pages.send(Ok(page)).await.is_err() || !more {
                return;
            }
        }
    }

    /// The next page, and whether more follow.
    async fn page(&mut self) -> Result<(ListResponse, bool), Status> {
        let deadline = tokio::time::Instant::now() + self.app.limits.request;
        let place = self.app.scan_permit(deadline).await;
        let place = place.ok_or_else(too_many_lists)?;
        let limit = usize::try_from(self.left).unwrap_or(PAGE).min(PAGE);
        for scan in &mut self.scans {
            scan.limit = limit;
        }
        let (app, scans, values) = (Arc::clone(&self.app), self.scans.clone(), self.values);
        let work = tokio::task::spawn_blocking(move || {
            let page = app.engine.scan(&scans);
            drop(place);
            page.map(|page| {
                let entry = |entry: &codexstore::Entry| {
                    let value = if values { entry.bytes() } else { Bytes::new() };
                    convert::entry(entry, value)
                };
                let entries: Vec<_> = page.items.iter().map(entry).collect();
                (entries, page.revision, page.cursor)
            })
        });
        let page = work.await;
        let page = page.map_err(|_| status::of("internal", "the list ended early"))?;
        let (entries, revision, cursor) = page.map_err(status::of_failure)?;
        self.left = self.left.saturating_sub(entries.len() as u64);
        let more = cursor.is_some() && self.left > 0;
        for scan in &mut self.scans {
            scan.cursor.clone_from(&cursor);
        }
        Ok((ListResponse { entries, revision }, more))
    }
}
