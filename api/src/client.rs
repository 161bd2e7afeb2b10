//! A client of the sidecar: over the Unix socket with reuse of connections and careful retries,
//! or over one stream that the caller made (TLS to a member's admin listener).
//!
//! What is retried, until [`Client::patience`] is over:
//! - any call, if the sidecar could not be reached or closed the connection before the request
//!   was sent (it restarts: the socket is gone for a moment),
//! - any call that was answered with `retry: yes`, which says that nothing was done,
//! - reads, if the connection broke while waiting for the answer.
//!
//! A write whose connection broke after it was sent may have happened: that is an error with
//! code `outcome-unknown`, never retried here.

mod archive;
mod backup;
mod connection;
mod events;
mod outgoing;
mod past;
mod restore;
mod typed;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::bodies::{Batch, Committed, Deleted, List, ListQuery, RewrapTold};
use crate::codes::Retry;
use crate::encoding::percent;
use crate::status::Reencryption;
use crate::{Error, Result, Status, header, path, query};
use connection::{Failed, Link};
use outgoing::Outgoing;

pub use archive::{ArchiveAfter, Archived, Piece};
pub use backup::Backup;
pub use restore::RestoreInto;
pub use watch::Watch;

/// Largest answer that the client takes into memory: more than the largest list page.
const MAX_ANSWER: usize = 192 << 20;

/// A client. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    link: Arc<Link>,
    timeout: Duration,
    patience: Duration,
    actor: Option<Arc<str>>,
}

/// A value with what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The value; empty after [`Client::head`].
    pub value: Bytes,
    /// The entity tag, quotes included: pass it as `if_match`.
    pub etag: String,
    /// Revision that wrote the value.
    pub revision: u64,
    /// How often the key was written since it was created.
    pub version: u64,
    /// When it expires, RFC 3339.
    pub expires_at: Option<String>,
}

/// Options of [`Client::set`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Put {
    /// The value expires after this time.
    pub ttl: Option<Duration>,
    /// Only if the key has this entity tag (`*`: only if it exists).
    pub if_match: Option<String>,
    /// Only if the key has not this entity tag (`*`: only if it does not exist).
    pub if_none_match: Option<String>,
}

/// Answer of [`Client::set`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The new entity tag, quotes included.
    pub etag: String,
    /// The revision that this write became.
    pub revision: u64,
    /// True if the key was not there before.
    pub created: bool,
}

impl Client {
    /// A client of the sidecar behind this socket. Nothing is connected yet.
    pub fn unix(socket: impl AsRef<Path>) -> Client {
        Client::with(Link::unix(PathBuf::from(socket.as_ref())))
    }

    /// A client over one connected stream, such as TLS to the admin listener; `host` goes into
    /// the Host header. It does not reconnect.
    pub async fn over<S>(stream: S, host: &str) -> Result<Client>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let link = Link::over(stream, host).await.map_err(|failed| {
            Error::new("unreachable", format!("open the connection: {failed}"))
        })?;
        Ok(Client::with(link))
    }

    fn with(link: Link) -> Client {
        Client {
            link: Arc::new(link),
            timeout: Duration::from_secs(30),
            patience: Duration::from_secs(5),
            actor: None,
        }
    }

    /// Limits one attempt; 30 s by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    /// How long to go on retrying; 5 s by default, zero for a single attempt.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Client {
        self.patience = patience;
        self
    }

    /// Who writes from here on: a label of at most 256 bytes, which history and watchers see. Of
    /// sets, deletions of one key, and batches.
    #[must_use]
    pub fn actor(mut self, label: &str) -> Client {
        self.actor = Some(label.into());
        self
    }

    /// A key's value; `None` if there is no such key.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Found>> {
        self.read_key(Call::new(Method::GET, key_uri(key))).await
    }

    /// What is known about a key's value, without the value.
    pub async fn head(&self, key: &[u8]) -> Result<Option<Found>> {
        self.read_key(Call::new(Method::HEAD, key_uri(key))).await
    }

    async fn read_key(&self, call: Call) -> Result<Option<Found>> {
        let answer = match self.call(call).await {
            Ok(answer) => answer,
            Err(error) if error.is("not-found") => return Ok(None),
            Err(error) => return Err(error),
        };
        let headers = answer.headers();
        Ok(Some(Found {
            etag: text(headers, "etag").unwrap_or_default(),
            revision: number(headers, header::REVISION),
            version: number(headers, header::VERSION),
            expires_at: text(headers, header::EXPIRES_AT),
            value: answer.into_body(),
        }))
    }

    /// Writes a value. With durability `always` it is on disk when this returns.
    pub async fn set(&self, key: &[u8], value: impl Into<Bytes>, put: &Put) -> Result<Written> {
        let uri = match put.ttl {
            Some(ttl) => format!("{}?ttl={}ms", key_uri(key), ttl.as_millis()),
            None => key_uri(key),
        };
        let mut call = Call::new(Method::PUT, uri).body(value.into());
        call.condition("if-match", put.if_match.as_deref())?;
        call.condition("if-none-match", put.if_none_match.as_deref())?;
        call.condition(header::ACTOR, self.actor.as_deref())?;
        let answer = self.call(call).await?;
        Ok(Written {
            etag: text(answer.headers(), "etag").unwrap_or_default(),
            revision: number(answer.headers(), header::REVISION),
            created: answer.status() == StatusCode::CREATED,
        })
    }

    /// Removes a key, with `if_match` only if it has that entity tag. True if it was there.
    pub async fn delete(&self, key: &[u8], if_match: Option<&str>) -> Result<bool> {
        let mut call = Call::new(Method::DELETE, key_uri(key));
        call.condition("if-match", if_match)?;
        call.condition(header::ACTOR, self.actor.as_deref())?;
        match self.call(call).await {
            Ok(_) => Ok(true),
            Err(error) if error.is("not-found") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes all keys that begin with `prefix`; a large set goes in several revisions. An empty
    /// prefix, which means every key, wants `all`.
    pub async fn delete_prefix(&self, prefix: &[u8], all: bool) -> Result<Deleted> {
        let mut uri = format!("{}?prefix={}", path::KEYS, percent(prefix));
        if all {
            uri.push_str("&all=true");
        }
        self.json(Call::new(Method::DELETE, uri)).await
    }

    /// One page of keys.
    pub async fn list(&self, query: &ListQuery) -> Result<List> {
        let mut pairs = Vec::new();
        let parts = [
            ("prefix", &query.prefix),
            ("match", &query.glob),
            ("from", &query.from),
            ("to", &query.to),
        ];
        for (name, part) in parts {
            if let Some(part) = part {
                pairs.push(format!("{name}={}", percent(part)));
            }
        }
        if let Some(limit) = query.limit {
            pairs.push(format!("limit={limit}"));
        }
        if let Some(cursor) = &query.cursor {
            pairs.push(format!("cursor={}", percent(cursor.as_bytes())));
        }
        if query.values {
            pairs.push("values=true".to_string());
        }
        let uri = format!("{}?{}", path::KEYS, pairs.join("&"));
        self.json(Call::new(Method::GET, uri)).await
    }

    /// Several operations as one revision, or none of them.
    pub async fn batch(&self, batch: &Batch) -> Result<Committed> {
        let body = serde_json::to_vec(batch)
            .map_err(|e| Error::new("internal", format!("write the batch: {e}")))?;
        let mut call = Call::new(Method::POST, path::BATCH.to_string()).body(body.into());
        call.header("content-type", "application/json")?;
        call.condition(header::ACTOR, self.actor.as_deref())?;
        self.json(call).await
    }

    /// What the member says about itself.
    pub async fn status(&self) -> Result<Status> {
        self.json(Call::new(Method::GET, path::STATUS.to_string()))
            .await
    }

    /// Wraps the data keys of all files of the member in that pod with the current key of its keyring: on the admin
    /// listener, for the operator.
    pub async fn rewrap(&self, pod_uid: &str) -> Result<RewrapTold> {
        let mut call = Call::new(Method::POST, path::REWRAP.to_string());
        call.header(header::POD_UID, pod_uid)?;
        self.json(call).await
    }

    /// Has the member in that pod seal all its files anew under fresh data keys, beside its work, and answers at once
    /// how far that is: on the admin listener, for the operator. The same `id` again only asks, unless it failed; another one
    /// begins anew, or is refused (`overloaded`) while one is under way. `invalid-argument` if it is no id
    /// ([`reencryption_id`](crate::reencryption_id)).
    pub async fn reencrypt(&self, pod_uid: &str, id: &str) -> Result<Reencryption> {
        if !crate::reencryption_id(id) {
            return Err(Error::new(
                "invalid-argument",
                "the id of a re-encryption is 1 to 64 of A-Z a-z 0-9 . _ -",
            ));
        }
        let uri = format!("{}?{}={id}", path::REENCRYPT, query::ID);
        let mut call = Call::new(Method::POST, uri);
        call.header(header::POD_UID, pod_uid)?;
        self.json(call).await
    }

    /// The sidecar's metrics, in the text form of Prometheus.
    pub async fn metrics(&self) -> Result<String> {
        let call = Call::new(Method::GET, path::METRICS.to_string());
        let text = self.call(call).await?.into_body();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Says that the wall clock is right, where the store found it far ahead of its last write.
    pub async fn accept_clock(&self) -> Result<()> {
        self.call(Call::new(Method::POST, path::ACCEPT_CLOCK.to_string()))
            .await
            .map(drop)
    }

    /// Ok while the process serves.
    pub async fn health(&self) -> Result<()> {
        self.call(Call::new(Method::GET, path::HEALTH.to_string()))
            .await
            .map(drop)
    }

    /// Ok while the store is open; else the error that keeps it closed.
    pub async fn ready(&self) -> Result<()> {
        self.call(Call::new(Method::GET, path::READY.to_string()))
            .await
            .map(drop)
    }

    /// Sends a request as it is, once, without retries, whatever its answer's status is.
    pub async fn raw(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        let safe = request.method().is_safe();
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let body = Outgoing::from(body.unwrap_or_default());
        self.once(Request::from_parts(head, body), safe)
            .await
            .map_err(|failure| failure.error)
    }

    async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let answer = self.call(call).await?;
        serde_json::from_slice(answer.body())
            .map_err(|e| Error::new("internal", format!("read the answer: {e}")))
    }

    /// One call with its retries; an answer that is not a success is an error.
    async fn call(&self, call: Call) -> Result<Response<Bytes>> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            let failure = match self.once(call.request()?, call.method.is_safe()).await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let code = text(answer.headers(), header::CODE);
                    let status = answer.status().as_u16();
                    let error = Error::from_answer(status, code.as_deref(), answer.body());
                    let again = error.retry() == Retry::Yes;
                    Failure { error, again }
                }
                Err(failure) => failure,
            };
            if !failure.again || started.elapsed() + pause > self.patience {
                return Err(failure.error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }

    /// One attempt.
    async fn once(
        &self,
        request: Request<Outgoing>,
        safe: bool,
    ) -> Result<Response<Bytes>, Failure> {
        let exchange = async {
            let (mut connection, answer) = self.link.send(request).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER)
                .collect()
                .await
                .map_err(|e| Failed::Broken(e.to_string()))?
                .to_bytes();
            connection.reuse();
            Ok(Response::from_parts(head, body))
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failed::NotSent(why))) => Err(Failure {
                error: Error::new("unreachable", format!("{}: {why}", self.link)),
                again: true,
            }),
            Ok(Err(Failed::Broken(why))) if safe => Err(Failure {
                error: Error::new("unreachable", format!("{}: {why}", self.link)),
                again: true,
            }),
            Ok(Err(Failed::Broken(why))) => Err(Failure {
                error: Error::new(
                    "outcome-unknown",
                    format!("{}: {why}; it may have been written", self.link),
                ),
                again: false,
            }),
            Err(_) => {
                let code = if safe { "deadline" } else { "outcome-unknown" };
                let what = format!("{}: no answer within {:?}", self.link, self.timeout);
                Err(Failure {
                    error: Error::new(code, what),
                    again: false,
                })
            }
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.link)
    }
}

/// An error, and whether the attempt may be repeated.
struct Failure {
    error: Error,
    again: bool,
}

/// A request that can be made again for each attempt.
struct Call {
    method: Method,
    uri: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    fn new(method: Method, uri: String) -> Call {
        Call {
            method,
            uri,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    fn body(mut self, body: Bytes) -> Call {
        self.body = body;
        self
    }

    fn header(&mut self, name: &'static str, value: &str) -> Result<()> {
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| Error::new("invalid-argument", format!("{name} is not a header value")))?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(())
    }

    fn condition(&mut self, name: &'static str, value: Option<&str>) -> Result<()> {
        match value {
            Some(value) => self.header(name, value),
            None => Ok(()),
        }
    }

    fn request(&self) -> Result<Request<Outgoing>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.uri)
            .body(Outgoing::from(self.body.clone()))
            .map_err(|e| Error::new("invalid-argument", format!("{} {e}", self.method)))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}

fn key_uri(key: &[u8]) -> String {
    format!("{}/{}", path::KEYS, percent(key))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_string())
}

fn number(headers: &HeaderMap, name: &str) -> u64 {
    text(headers, name)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
