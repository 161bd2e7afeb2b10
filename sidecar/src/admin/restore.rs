//! `POST /v1/restore`: a backup becomes this member's store. `POST /v1/restore/none`: there is none.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codexstore::archive::Until;
use codexstore_api::archive as api;
use codexstore_api::bodies::{ArchiveRestored, RestoreTold};
use codexstore_api::encoding::hex;
use codexstore_api::query::{UNTIL_REVISION, UNTIL_TIME};
use http::{Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::engine::restore::Restorer;
use crate::http::answer::{Body, Reject, json, status};
use crate::http::body::drain;
use crate::http::query::Query;
use crate::serve::connections::Connection;

/// Names of the flags of a restore.
const IF_EMPTY: &str = "ifEmpty";
const PIECES: &str = "pieces";

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
    let wanted = Wanted::parse(uri.query())?;
    let (parts, next) = mpsc::channel(PARTS);
    tokio::spawn(pass_on(body, parts, Arc::clone(connection), patience));
    let restorer = Arc::clone(restorer);
    let work = spawn_blocking(move || {
        let _place = place;
        let part = Bytes::new();
        restorer.restore(Parts { next, part }, wanted.if_empty, wanted.until)
    });
    let done = work.await.map_err(|_| ended())?.map_err(refused)?;
    json(&RestoreTold {
        lineage: done.lineage,
        revision: done.backup.envelope.revision,
        next_revision: done.next_revision,
        sha256: hex(&done.sha256),
        entries: done.backup.contents.entries,
        root: hex(&done.backup.contents.root),
        archive: done.archive.map(|taken| ArchiveRestored {
            pieces: taken.pieces,
            batches: taken.batches,
            revision: taken.revision,
            last_ms: taken.last_ms,
        }),
        set_aside: done.set_aside,
    })
}

/// What a restore is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// Only where there is no store.
    if_empty: bool,
    /// Pieces of the archive come behind the backup, and are taken so far.
    until: Option<Until>,
}

impl Wanted {
    fn parse(query: Option<&str>) -> Result<Wanted, Reject> {
        let wrong = |what: &str| Err(Reject::new("invalid-argument", what));
        let mut query = Query::parse(query, &[IF_EMPTY, PIECES, UNTIL_REVISION, UNTIL_TIME])?;
        let (if_empty, pieces) = (query.flag(IF_EMPTY)?, query.flag(PIECES)?);
        let (revision, time) = (query.text(UNTIL_REVISION)?, query.text(UNTIL_TIME)?);
        let until = match api::Until::of_query(revision.as_deref(), time.as_deref()) {
            Ok(api::Until::End) => Until::End,
            Ok(api::Until::Revision(revision)) => Until::Revision(revision),
            Ok(api::Until::Time(ms)) => Until::Time(ms),
            Err(error) => return wrong(error.message()),
        };
        if !pieces && until != Until::End {
            return wrong(
                "only with pieces=true, and pieces of the archive, a restore goes further than its backup",
            );
        }
        Ok(Wanted {
            if_empty,
            until: pieces.then_some(until),
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use codexstore_api::query;

    #[test]
    fn what_is_asked_for_is_understood_and_nothing_else_is() {
        let parse = |query: &str| Wanted::parse(Some(query)).map_err(|e| e.detail().to_owned());
        let wanted = |if_empty, until| Ok(Wanted { if_empty, until });
        assert_eq!(Wanted::parse(None).unwrap(), wanted(false, None).unwrap());
        assert_eq!(parse(query::IF_EMPTY), wanted(true, None));
        assert_eq!(parse(query::PIECES), wanted(false, Some(Until::End)));
        let both = format!("{}&{}&untilRevision=7", query::IF_EMPTY, query::PIECES);
        assert_eq!(parse(&both), wanted(true, Some(Until::Revision(7))));
        for time in [
            "1000",
            "1970-01-01T00:00:01Z",
            "1970-01-01T01:00:01%2B01:00",
        ] {
            let query = format!("pieces=true&untilTime={time}");
            assert_eq!(
                parse(&query),
                wanted(false, Some(Until::Time(1000))),
                "{time}"
            );
        }
        for wrong in [
            "untilRevision=7",
            "pieces=true&untilRevision=-1",
            "pieces=true&untilTime=noon",
            "pieces=true&untilTime=1&untilRevision=1",
            "ifempty=true",
            "pieces=maybe",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
