//! Answers: bodies, and rejections as problems.

use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use codexstore_api::codes::{self, Retry};
use codexstore_api::problem::{self, Problem};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::codegen::tokio_stream::StreamExt;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use super::InWork;
use crate::engine::Failure;
use crate::log::Throttle;
use crate::serve::connections::{Answering, Sending, Working};

/// Bytes that HTTP/2 is given at a time. Whoever does not take as many within the deadline for
/// slow readers has stalled.
const PART: usize = 64 << 10;

/// Body of an answer: bytes, and what is held until they are sent. The protocol drops a body as
/// soon as it has the bytes, which then wait for the client; so they themselves hold it.
#[derive(Default)]
pub struct Body {
    bytes: Bytes,
    held: Held,
    sending: Option<Arc<Sending>>,
    answering: Option<Answering>,
    /// What comes behind the bytes: the messages of a call, and its trailers.
    rest: Option<tonic::body::Body>,
}

/// What is given back when the bytes are sent.
#[derive(Default)]
struct Held {
    share: Option<OwnedSemaphorePermit>,
    in_work: Option<InWork>,
    sending: Option<Arc<Sending>>,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.share.is_none() && self.in_work.is_none() && self.sending.is_none()
    }
}

/// Bytes that are not sent, the parts of them included.
struct Unsent {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes with a share of the bytes in flight, which is held until they are sent.
pub fn held(bytes: Bytes, share: Option<OwnedSemaphorePermit>) -> Bytes {
    if share.is_none() {
        return bytes;
    }
    let held = Held {
        share,
        ..Held::default()
    };
    Bytes::from_owner(Unsent { bytes, _held: held })
}

impl Body {
    /// No body.
    pub fn empty() -> Body {
        Body::default()
    }

    /// These bytes, and a share of the bytes in flight to hold until they are sent.
    pub fn holding(bytes: Bytes, share: Option<OwnedSemaphorePermit>) -> Body {
        Body {
            bytes,
            held: Held {
                share,
                ..Held::default()
            },
            ..Body::default()
        }
    }

    /// What a call answers, piece by piece, and a share of the bytes in flight to hold until the first
    /// piece is sent.
    pub fn streaming(rest: tonic::body::Body, share: Option<OwnedSemaphorePermit>) -> Body {
        Body {
            rest: (!rest.is_end_stream()).then_some(rest),
            ..Body::holding(Bytes::new(), share)
        }
    }

    /// Events, as they come.
    pub fn events(events: mpsc::Receiver<Bytes>) -> Body {
        let frames = ReceiverStream::new(events);
        let frames = frames.map(|event| Ok::<_, Infallible>(Frame::data(event)));
        Body::streaming(tonic::body::Body::new(StreamBody::new(frames)), None)
    }

    /// True if it is made piece by piece.
    pub fn is_streaming(&self) -> bool {
        self.rest.is_some()
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.rest.is_none()
    }

    /// Counts the request as in work until the bytes are sent.
    pub fn in_work(&mut self, in_work: InWork) {
        if !self.is_empty() {
            self.held.in_work = Some(in_work);
        }
    }

    /// Tells a connection of HTTP/1 when the protocol has all bytes.
    pub fn answers(&mut self, answering: Option<Answering>) {
        self.answering = answering;
    }

    /// Keeps the connection busy until the bytes are sent, and watches that they are.
    pub fn sending(&mut self, working: Working) {
        if !self.is_empty() {
            let sending = Arc::new(Sending::new(working));
            self.held.sending = Some(Arc::clone(&sending));
            self.sending = Some(sending);
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Body {
        Body::holding(bytes.into(), None)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.bytes.is_empty() {
            let Some(rest) = &mut this.rest else {
                return Poll::Ready(None);
            };
            let Poll::Ready(frame) = Pin::new(rest).poll_frame(cx) else {
                // Nothing to take yet: it is not the client that does not take it.
                if let Some(sending) = &this.sending {
                    sending.waits();
                }
                return Poll::Pending;
            };
            // A call's own errors are trailers.
            match frame.and_then(Result::ok).map(Frame::into_data) {
                Some(Ok(data)) => this.bytes = data,
                Some(Err(trailers)) => {
                    this.rest = None;
                    this.sending = None;
                    return Poll::Ready(Some(Ok(trailers)));
                }
                None => {
                    this.rest = None;
                    this.sending = None;
                    return Poll::Ready(None);
                }
            }
        }
        if !this.held.is_empty() {
            this.bytes = Bytes::from_owner(Unsent {
                bytes: mem::take(&mut this.bytes),
                _held: mem::take(&mut this.held),
            });
        }
        let part = match &this.sending {
            Some(sending) if this.bytes.len() > PART => {
                sending.progress();
                this.bytes.split_to(PART)
            }
            sending => {
                if let Some(sending) = sending {
                    sending.progress();
                }
                if this.rest.is_none() {
                    this.sending = None;
                }
                mem::take(&mut this.bytes)
            }
        };
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest {
            None => SizeHint::with_exact(self.bytes.len() as u64),
            Some(_) => SizeHint::default(),
        }
    }
}

/// An answer of this media type.
pub fn typed(kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// An answer without body.
pub fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A value as JSON.
pub fn json<T: serde::Serialize>(value: &T) -> Result<Response<Body>, Reject> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| Reject::new("internal", format!("write the answer: {e}")))?;
    Ok(typed("application/json", bytes))
}

/// The answer to HEAD: the same header, the body's length included, and no body.
pub fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    let length = !matches!(
        head.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if length && !head.headers.contains_key(header::CONTENT_LENGTH) {
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(body.bytes.len()));
    }
    Response::from_parts(head, Body::empty())
}

/// Failures in the log.
static FAILURES: Throttle = Throttle::new();

/// A request that is not answered as asked, and why.
#[derive(Debug)]
pub struct Reject(Box<Inner>);

#[derive(Debug)]
struct Inner {
    problem: Problem,
    allow: Option<&'static str>,
    /// The current revision, where the caller needs it.
    revision: Option<u64>,
    close: bool,
    /// Not worth a line in the log: its reason is there already.
    quiet: bool,
}

impl Reject {
    /// A rejection of that code.
    pub fn new(code: &str, detail: impl Into<String>) -> Reject {
        Reject::from(Problem::new(code, detail))
    }

    /// 405, with the methods that the path takes.
    pub fn method_not_allowed(allow: &'static str) -> Reject {
        let mut reject = Reject::new("method-not-allowed", format!("this path takes {allow}"));
        reject.0.allow = Some(allow);
        reject
    }

    /// Ends an HTTP/1 connection after the answer.
    #[must_use]
    pub fn close(mut self) -> Reject {
        self.0.close = true;
        self
    }

    /// Tells the current revision with it.
    #[must_use]
    pub fn revision(mut self, revision: u64) -> Reject {
        self.0.revision = Some(revision);
        self
    }

    /// Puts what was being done before the detail.
    #[must_use]
    pub fn context(mut self, doing: &str) -> Reject {
        self.0.problem.detail = format!("{doing}: {}", self.0.problem.detail);
        self
    }

    /// What is told to the caller, whole.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// What is told to the caller.
    #[cfg(test)]
    pub fn detail(&self) -> &str {
        &self.0.problem.detail
    }

    /// The answer; `head` leaves its body out.
    pub fn into_response(self, head: bool) -> Response<Body> {
        let Inner {
            problem,
            allow,
            revision,
            close,
            quiet,
        } = *self.0;
        let code =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if code.is_server_error()
            && !quiet
            && let Some(held_back) = FAILURES.pass()
        {
            tracing::warn!(
                code = problem.code,
                status = problem.status,
                detail = problem.detail,
                held_back,
                "a request failed"
            );
        }
        let mut response = typed(problem::MEDIA_TYPE, problem.to_json());
        *response.status_mut() = code;
        let headers = response.headers_mut();
        if let Ok(code) = HeaderValue::try_from(problem.code) {
            headers.insert(codexstore_api::header::CODE, code);
        }
        if let Some(revision) = revision {
            headers.insert(
                codexstore_api::header::REVISION,
                HeaderValue::from(revision),
            );
        }
        if let Some(allow) = allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if code == StatusCode::SERVICE_UNAVAILABLE && problem.retry == Retry::Yes {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if head {
            without_body(response)
        } else {
            response
        }
    }
}

impl From<Problem> for Reject {
    fn from(problem: Problem) -> Reject {
        Reject(Box::new(Inner {
            problem,
            allow: None,
            revision: None,
            close: false,
            quiet: false,
        }))
    }
}

impl From<Failure> for Reject {
    fn from(failure: Failure) -> Reject {
        let of = |error: &codexstore::Error| Problem::of(codes::row(error.code()), error.message());
        match failure {
            Failure::Failed(error) => Reject::from(of(&error)),
            Failure::NotOpen(why) => {
                let mut problem = match why {
                    Some(error) => of(&error),
                    None => Problem::new("starting", "the store is being opened"),
                };
                // Whatever keeps the store closed, to a client it is the service that is missing.
                problem.status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
                let mut reject = Reject::from(problem);
                reject.0.quiet = true;
                reject
            }
        }
    }
}

impl From<codexstore_api::Error> for Reject {
    fn from(error: codexstore_api::Error) -> Reject {
        Reject::from(error.to_problem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_told_the_length_of_a_value_that_is_empty() {
        let length = |response| {
            let head = without_body(response);
            head.headers().get(header::CONTENT_LENGTH).cloned()
        };
        assert_eq!(length(Response::new(Body::empty())).unwrap(), "0");
        assert_eq!(length(Response::new(Body::from("abc"))).unwrap(), "3");
        assert_eq!(length(status(StatusCode::NOT_MODIFIED)), None);
    }
}
