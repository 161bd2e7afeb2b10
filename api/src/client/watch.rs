//! Watching: changes as they come, over whatever happens to the connection.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::connection::Lease;
use super::events::{Event, Events};
use super::{Call, Client, Failure, MAX_ANSWER, number, text};
use crate::bodies::{Changed, WatchQuery};
use crate::codes::Retry;
use crate::encoding::percent;
use crate::{Error, Problem, Result, header, path};

/// How long nothing comes before the connection counts as broken: the sidecar sends something
/// every 15 s.
const SILENCE: Duration = Duration::from_mins(1);

/// First pause before it connects again; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Longest pause.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// A watch: see [`Client::watch`].
pub struct Watch {
    client: Client,
    query: WatchQuery,
    answer: Option<Answer>,
    begun: Instant,
    broken_since: Option<Instant>,
    pause: Duration,
    current: Option<u64>,
}

/// The answer that is being read. The connection ends with it.
struct Answer {
    body: Incoming,
    events: Events,
    /// The first one, which says where it begins.
    first: Option<Event>,
    _connection: Lease,
}

impl Answer {
    /// The next event. What was read stays here if it is dropped.
    async fn event(&mut self) -> Result<Event, String> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        loop {
            if let Some(event) = self.events.next() {
                return Ok(event);
            }
            if self.events.len() > MAX_ANSWER {
                return Err(format!("an event of more than {MAX_ANSWER} bytes"));
            }
            match tokio::time::timeout(SILENCE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.events.push(bytes);
                    }
                }
                Ok(Some(Err(why))) => return Err(why.to_string()),
                Ok(None) => return Err("the watch was ended".to_owned()),
                Err(_) => return Err(format!("nothing came for {SILENCE:?}")),
            }
        }
    }
}

impl Client {
    /// Changes from a revision on, or from what comes next. Nothing is asked before the first
    /// [`Watch::next`] or [`Watch::begin`].
    ///
    /// A client over one stream ([`Client::over`]) has no other connection meanwhile.
    pub fn watch(&self, query: WatchQuery) -> Watch {
        Watch {
            client: self.clone(),
            query,
            answer: None,
            begun: Instant::now(),
            broken_since: None,
            pause: FIRST_PAUSE,
            current: None,
        }
    }
}

impl Watch {
    /// The next change. Waits for as long as there is none. May be dropped before it ends, nothing
    /// is lost then.
    ///
    /// Where the connection breaks or the sidecar restarts, it connects again and goes on behind
    /// the last change, for as long as [`Client::patience`] says. Of the errors, `past-gone` says
    /// that changes were missed: read what is there, and begin a new watch from
    /// [`Watch::current`] plus one.
    pub async fn next(&mut self) -> Result<Changed> {
        loop {
            self.begin().await?;
            let Some(answer) = &mut self.answer else {
                continue;
            };
            let event = answer.event().await;
            let taken = match event {
                Ok(event) => self.take(event),
                Err(why) => Err(self.broken(&why)),
            };
            match taken {
                Ok(Some(change)) => {
                    (self.broken_since, self.pause) = (None, FIRST_PAUSE);
                    return Ok(change);
                }
                Ok(None) => {}
                Err(failure) => {
                    self.answer = None;
                    if self.begun.elapsed() > self.client.patience {
                        (self.broken_since, self.pause) = (None, FIRST_PAUSE);
                    }
                    self.again(failure).await?;
                }
            }
        }
    }

    /// Connects, and waits until the sidecar has said where the watch begins: what is written from
    /// then on is seen. [`Watch::next`] does this by itself.
    pub async fn begin(&mut self) -> Result<()> {
        while self.answer.is_none() {
            match self.connect().await {
                Ok(answer) => {
                    self.begun = Instant::now();
                    self.answer = Some(answer);
                }
                Err(failure) => self.again(failure).await?,
            }
        }
        Ok(())
    }

    /// The id behind which another watch would go on, as [`WatchQuery::after`]; `None` before the
    /// first answer.
    pub fn position(&self) -> Option<&str> {
        self.query.after.as_deref()
    }

    /// The store's revision, if the sidecar refused to go on with `past-gone`.
    pub fn current(&self) -> Option<u64> {
        self.current
    }

    /// Waits before another attempt, or gives the error back.
    async fn again(&mut self, failure: Failure) -> Result<()> {
        let since = *self.broken_since.get_or_insert_with(Instant::now);
        if !failure.again || since.elapsed() + self.pause > self.client.patience {
            return Err(failure.error);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        Ok(())
    }

    fn broken(&self, why: &str) -> Failure {
        Failure {
            error: Error::new("unreachable", format!("{}: {why}", self.client.link)),
            again: true,
        }
    }

    fn call(&self) -> Result<Call> {
        let mut pairs = Vec::new();
        if !self.query.prefix.is_empty() {
            pairs.push(format!("prefix={}", percent(&self.query.prefix)));
        }
        if let Some(from) = self.query.from {
            pairs.push(format!("from={from}"));
        }
        if self.query.values {
            pairs.push("values=true".to_owned());
        }
        let mut call = Call::new(Method::GET, format!("{}?{}", path::WATCH, pairs.join("&")));
        call.condition("last-event-id", self.query.after.as_deref())?;
        Ok(call)
    }

    async fn connect(&mut self) -> Result<Answer, Failure> {
        let request = self.call().and_then(|call| call.request());
        let request = request.map_err(|error| Failure {
            error,
            again: false,
        })?;
        let (connection, answer) = self
            .in_time(self.client.link.send(request))
            .await?
            .map_err(|failed| self.broken(&failed.to_string()))?;
        let (head, body) = answer.into_parts();
        if head.status == StatusCode::OK {
            let mut answer = Answer {
                body,
                events: Events::default(),
                first: None,
                _connection: connection,
            };
            let first = self.in_time(answer.event()).await?;
            let first = first.map_err(|why| self.broken(&why))?;
            answer.first = Some(first);
            return Ok(answer);
        }
        if head.status == StatusCode::GONE {
            self.current = Some(number(&head.headers, header::REVISION));
        }
        let body = self
            .in_time(Limited::new(body, MAX_ANSWER).collect())
            .await?
            .map_err(|why| self.broken(&why.to_string()))?;
        let code = text(&head.headers, header::CODE);
        let status = head.status.as_u16();
        let error = Error::from_answer(status, code.as_deref(), &body.to_bytes());
        let again = error.retry() == Retry::Yes;
        Err(Failure { error, again })
    }

    async fn in_time<T>(&self, what: impl Future<Output = T>) -> Result<T, Failure> {
        let waited = tokio::time::timeout(self.client.timeout, what).await;
        waited.map_err(|_| self.broken(&format!("no answer within {:?}", self.client.timeout)))
    }

    /// What an event says; nothing if it says only where the watch is.
    fn take(&mut self, event: Event) -> Result<Option<Changed>, Failure> {
        if event.kind == "error" {
            let problem: Option<Problem> = serde_json::from_slice(&event.data).ok();
            let status = problem.map_or(500, |problem| problem.status);
            let error = Error::from_answer(status, None, &event.data);
            let again = error.retry() == Retry::Yes;
            return Err(Failure { error, again });
        }
        let change = match event.kind.as_str() {
            "change" => Some(serde_json::from_slice(&event.data)),
            // A newer sidecar may have more to say.
            _ => None,
        };
        let change = change.transpose().map_err(|why| Failure {
            error: Error::new("internal", format!("read an event: {why}")),
            again: false,
        })?;
        if event.id.is_some() {
            self.query.after = event.id;
        }
        Ok(change)
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.client.link)
    }
}
