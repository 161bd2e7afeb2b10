//! `GET /v1/backup`: a backup of the present, as it is made.
//!
//! A thread of its own writes it into a pipe of a few parts, so whoever reads slowly holds little memory, and the
//! store's deadline bounds how long. What the backup is comes behind it as a trailer, or why there is none: the
//! status was sent long before.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use codexstore::backup::BackupInfo;
use codexstore_api::bodies::BackupTold;
use codexstore_api::encoding::hex;
use codexstore_api::header::{BACKUP, POD_UID, PROBLEM};
use codexstore_api::time::rfc3339;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::codegen::tokio_stream::StreamExt;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use crate::engine::Engine;
use crate::http::App;
use crate::http::answer::{Body, Reject, typed};

/// Bytes that are sent at a time.
const PART: usize = 256 << 10;

/// Parts that wait to be sent.
const PARTS: usize = 2;

/// A part, or the trailers.
type Piece = Frame<Bytes>;

/// Begins a backup, which goes on in a thread for as long as somebody reads it. Holds `place` meanwhile.
pub fn backup<E: Engine>(
    app: &Arc<App<E>>,
    place: OwnedSemaphorePermit,
) -> Result<Response<Body>, Reject> {
    app.engine.lineage()?;
    let (pieces, stream) = mpsc::channel(PARTS);
    let mut pipe = Pipe {
        pieces,
        part: BytesMut::new(),
    };
    let own = Arc::clone(app);
    tokio::task::spawn_blocking(move || {
        let made = own.engine.backup(&mut pipe);
        // Of this and what follows nobody may be there to read it.
        let _ = pipe.flush();
        let trailers = match made {
            Ok(info) => {
                tracing::info!(
                    revision = info.envelope.revision,
                    bytes = info.envelope.bytes,
                    "a backup was sent"
                );
                trailer(BACKUP, serde_json::to_vec(&told(&info)).ok())
            }
            Err(failure) => {
                let reject = Reject::from(failure);
                let problem = reject.problem();
                tracing::warn!(
                    code = problem.code,
                    detail = problem.detail,
                    "a backup was not sent whole"
                );
                trailer(PROBLEM, Some(problem.to_json()))
            }
        };
        let whole = trailers.contains_key(BACKUP);
        let sent = pipe.pieces.blocking_send(Frame::trailers(trailers));
        if whole && sent.is_ok() {
            own.metrics.backed_up();
        }
        drop(place);
    });
    let frames = ReceiverStream::new(stream).map(Ok::<_, std::convert::Infallible>);
    let body = Body::streaming(tonic::body::Body::new(StreamBody::new(frames)), None);
    let mut response = typed("application/octet-stream", body);
    let headers = response.headers_mut();
    let names = HeaderValue::from_static("codexstore-backup, codexstore-problem");
    headers.insert(header::TRAILER, names);
    if let Ok(uid) = HeaderValue::from_str(&app.identity.pod_uid) {
        headers.insert(HeaderName::from_static(POD_UID), uid);
    }
    Ok(response)
}

/// One trailer. Non-ASCII text within JSON is allowed in a header's value.
fn trailer(name: &'static str, json: Option<Vec<u8>>) -> HeaderMap {
    let value = json.and_then(|json| HeaderValue::from_bytes(&json).ok());
    let name = HeaderName::from_static(name);
    value.map(|value| (name, value)).into_iter().collect()
}

/// What is told of a backup.
fn told(info: &BackupInfo) -> BackupTold {
    let (envelope, contents) = (&info.envelope, &info.contents);
    BackupTold {
        store: envelope.store.to_string(),
        lineage: envelope.lineage.to_string(),
        epoch: envelope.epoch,
        revision: envelope.revision,
        created_at: rfc3339(envelope.created_ms).unwrap_or_default(),
        cipher: envelope.cipher.as_str().to_owned(),
        key_id: envelope.key_id.as_ref().map(ToString::to_string),
        bytes: envelope.bytes,
        sha256: hex(&envelope.sha256),
        entries: contents.entries,
        root: hex(&contents.root),
        history: contents.history,
    }
}

/// Writes from a thread into the body of an answer.
struct Pipe {
    pieces: mpsc::Sender<Piece>,
    part: BytesMut,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = self.part.split().freeze();
        let sent = self.pieces.blocking_send(Frame::data(part));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader has gone"))
    }
}
