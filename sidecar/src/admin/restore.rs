//! `POST /v1/restore`: a backup becomes this member's store. `POST /v1/restore/none`: there is none.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codexstore_api::bodies::RestoreTold;
use codexstore_api::encoding::hex;
use codexstore_api::query::IF_EMPTY;
use http::{Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::engine::restore::Restorer;
use crate::http::answer::{Body, Reject, json, status};
use crate::http::body::drain;
use crate::serve::connections::Connection;

/// Parts that wait to be written.
const PARTS: usize = 2;

/// Restores what comes, in a thread. Holds `place` meanwhile. A body may stand still for `patience`.
pub async fn restore(
    restorer: &Arc<Restorer>,
    place: OwnedSemaphorePermit,
    (uri, body): (&Uri, Incoming),
    connection: &Arc<Connection>,
    patience: Duration,
) -> Result<Response<Body>, Reject> {
    let if_empty = match uri.query() {
        None => false,
        Some(IF_EMPTY) => true,
        Some(_) => {
            let what = format!("a restore has no parameter but {IF_EMPTY}");
            return Err(Reject::new("invalid-argument", what));
        }
    };
    let (parts, next) = mpsc::channel(PARTS);
    tokio::spawn(pass_on(body, parts, Arc::clone(connection), patience));
    let restorer = Arc::clone(restorer);
    let work = spawn_blocking(move || {
        let _place = place;
        let part = Bytes::new();
        restorer.restore(Parts { next, part }, if_empty)
    });
    let done = work.await.map_err(|_| ended())?.map_err(refused)?;
    json(&RestoreTold {
        lineage: done.lineage,
        revision: done.backup.envelope.revision,
        next_revision: done.next_revision,
        sha256: hex(&done.backup.envelope.sha256),
        entries: done.backup.contents.entries,
        root: hex(&done.backup.contents.root),
        archive: None,
        set_aside: done.set_aside,
    })
}

/// Opens a store that waits for a restore without one.
pub async fn open_empty(restorer: &Arc<Restorer>) -> Result<Response<Body>, Reject> {
    let restorer = Arc::clone(restorer);
    let work = spawn_blocking(move || restorer.open_empty());
    work.await.map_err(|_| ended())?.map_err(refused)?;
    Ok(status(StatusCode::NO_CONTENT))
}

fn refused(error: codexstore::Error) -> Reject {
    Reject::from(crate::engine::Failure::Failed(error))
}

fn ended() -> Reject {
    Reject::new("internal", "the thread that restores ended early")
}

/// Passes a body on, part by part. Where nobody takes it any more, the rest is thrown away for a while: its sender then
/// gets to see why.
async fn pass_on(
    mut body: Incoming,
    parts: mpsc::Sender<io::Result<Bytes>>,
    connection: Arc<Connection>,
    patience: Duration,
) {
    loop {
        let part = match timeout(patience, body.frame()).await {
            Ok(None) => return,
            Ok(Some(Ok(frame))) => frame.into_data().map_err(|_| None),
            Ok(Some(Err(error))) => Err(Some(io::Error::other(error))),
            Err(_) => Err(Some(io::ErrorKind::TimedOut.into())),
        };
        let broken = matches!(part, Err(Some(_)));
        let sent = match part {
            Ok(bytes) => parts.send(Ok(bytes)).await,
            // Trailers say nothing here.
            Err(None) => Ok(()),
            Err(Some(error)) => parts.send(Err(error)).await,
        };
        if sent.is_err() {
            return drain(body, Some(&connection));
        }
        if broken {
            return;
        }
    }
}

/// The parts of a body, read from a thread.
struct Parts {
    next: mpsc::Receiver<io::Result<Bytes>>,
    part: Bytes,
}

impl Read for Parts {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.next.blocking_recv() {
                Some(part) => self.part = part?,
                None => return Ok(0),
            }
        }
        let count = self.part.len().min(buf.len());
        let (now, later) = (self.part.split_to(count), buf.get_mut(..count));
        later.unwrap_or_default().copy_from_slice(&now);
        Ok(count)
    }
}
