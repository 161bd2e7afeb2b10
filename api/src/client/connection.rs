//! Connections: made on demand, kept while idle, and what became of a request on one.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{HOST, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use super::outgoing::Outgoing;

type Sender = SendRequest<Outgoing>;

/// Idle connections that are kept; more are closed after use.
const MAX_IDLE: usize = 32;

/// Why there is no answer.
pub(super) enum Failed {
    /// The request did not leave: it can be repeated without harm.
    NotSent(String),
    /// The connection broke later: a write may have happened.
    Broken(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::NotSent(why) | Failed::Broken(why) => f.write_str(why),
        }
    }
}

/// Where connections come from, and the idle ones.
pub(super) struct Link {
    /// The socket, or `None` for a link over one given stream.
    socket: Option<PathBuf>,
    host: HeaderValue,
    idle: Arc<Mutex<Vec<Sender>>>,
    /// Holds the callers of a single stream in line.
    turn: Option<Arc<tokio::sync::Semaphore>>,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Some(path) => path.display().fmt(f),
            None => f.write_str(self.host.to_str().unwrap_or("the connection")),
        }
    }
}

/// A connection in use; closed when dropped unless its answer was read to the end.
pub(super) struct Lease {
    sender: Option<Sender>,
    idle: Arc<Mutex<Vec<Sender>>>,
    _turn: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Lease {
    /// Keeps the connection for the next request.
    pub(super) fn reuse(&mut self) {
        if let Some(sender) = self.sender.take() {
            let mut idle = lock(&self.idle);
            if idle.len() < MAX_IDLE && !sender.is_closed() {
                idle.push(sender);
            }
        }
    }
}

impl Link {
    pub(super) fn unix(socket: PathBuf) -> Link {
        Link {
            socket: Some(socket),
            host: HeaderValue::from_static("localhost"),
            idle: Arc::default(),
            turn: None,
        }
    }

    pub(super) async fn over<S>(stream: S, host: &str) -> Result<Link, Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let host = HeaderValue::from_str(host).map_err(|e| Failed::NotSent(e.to_string()))?;
        let sender = handshake(stream).await?;
        Ok(Link {
            socket: None,
            host,
            idle: Arc::new(Mutex::new(vec![sender])),
            turn: Some(Arc::new(tokio::sync::Semaphore::new(1))),
        })
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &self,
        mut request: Request<Outgoing>,
    ) -> Result<(Lease, Response<Incoming>), Failed> {
        let turn = match &self.turn {
            Some(turn) => Arc::clone(turn).acquire_owned().await.ok(),
            None => None,
        };
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, self.host.clone());
        }
        // An idle connection may have been closed since: hyper then hands the request back
        // unsent, and the next idle connection, or a new one, gets it.
        loop {
            let kept = lock(&self.idle).pop();
            let reused = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            if sender.ready().await.is_err() {
                if reused {
                    continue;
                }
                return Err(Failed::NotSent("the connection was closed at once".into()));
            }
            match sender.try_send_request(request).await {
                Ok(answer) => {
                    let lease = Lease {
                        sender: Some(sender),
                        idle: Arc::clone(&self.idle),
                        _turn: turn,
                    };
                    return Ok((lease, answer));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    Some(_) => return Err(Failed::NotSent(error.into_error().to_string())),
                    None => return Err(Failed::Broken(describe(&error.into_error()))),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Sender, Failed> {
        let Some(socket) = &self.socket else {
            return Err(Failed::NotSent("the connection was closed".into()));
        };
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|e| Failed::NotSent(format!("connect: {e}")))?;
        handshake(stream).await
    }
}

async fn handshake<S>(stream: S) -> Result<Sender, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| Failed::NotSent(e.to_string()))?;
    // Its errors reach the caller through the request that they end.
    tokio::spawn(connection);
    Ok(sender)
}

/// An error with its causes: hyper's own text alone says little.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
