//! `GET /v1/archive`: what was committed behind a revision, as a piece of the archive.
//!
//! A piece is small, so it is made before the answer begins, and what it is stands in a header of it. Where there is none, the
//! header says where the member is, also beside the problem where one is told.

use std::sync::Arc;

use codexstore::archive::{Archived, Piece, Position};
use codexstore_api::archive::is_lineage;
use codexstore_api::bodies::{ArchivePosition, PieceTold};
use codexstore_api::encoding::hex;
use codexstore_api::header::ARCHIVE;
use codexstore_api::query::{AFTER, LINEAGE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use crate::engine::Engine;
use crate::http::App;
use crate::http::answer::{Body, Reject, status, typed};
use crate::http::query::Query;

/// Answers with the piece that follows, which holds `place` until it is sent.
pub async fn archive<E: Engine>(
    app: &Arc<App<E>>,
    query: Option<&str>,
    place: OwnedSemaphorePermit,
) -> Result<Response<Body>, Reject> {
    let Some((lineage, after)) = after(query)? else {
        let position = app.engine.archive_position()?;
        return told(status(StatusCode::NO_CONTENT), &where_it_is(&position));
    };
    let own = Arc::clone(app);
    let (found, place) = holding(place, move || own.engine.archive(lineage, after)).await?;
    let found = found?;
    if matches!(found, Archived::Piece(_) | Archived::UpToDate(_)) {
        app.metrics.archived(lineage, after);
    }
    match found {
        Archived::Piece(piece) => {
            let head = piece_told(&piece);
            let body = Body::holding(piece.bytes.into(), Some(place));
            told(typed("application/octet-stream", body), &head)
        }
        Archived::UpToDate(position) => {
            told(status(StatusCode::NO_CONTENT), &where_it_is(&position))
        }
        other => refused(other, after),
    }
}

/// Does it on a thread that blocks, and that holds `place` until it is done, also where nobody waits for it any more.
async fn holding<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<(T, OwnedSemaphorePermit), Reject> {
    let done = spawn_blocking(move || (work(), place)).await;
    done.map_err(|_| Reject::new("internal", "the thread that archives ended early"))
}

/// What is asked for: a line of history, and a revision in it. None: where the member is.
fn after(query: Option<&str>) -> Result<Option<(u64, u64)>, Reject> {
    let wrong = |what: &str| Err(Reject::new("invalid-argument", what));
    let mut query = Query::parse(query, &[LINEAGE, AFTER])?;
    let (lineage, after) = match (query.text(LINEAGE)?, query.text(AFTER)?) {
        (None, None) => return Ok(None),
        (Some(lineage), Some(after)) => (lineage, after),
        _ => return wrong("lineage and after go together"),
    };
    let number = u64::from_str_radix(&lineage, 16);
    match (number, after.parse()) {
        (Ok(lineage_number), Ok(after)) if is_lineage(&lineage) => {
            Ok(Some((lineage_number, after)))
        }
        _ => wrong("lineage is 16 hexadecimal digits, and after is a revision"),
    }
}

/// Why nothing follows, and where the member is.
fn refused(found: Archived, after: u64) -> Result<Response<Body>, Reject> {
    let (code, what, position) = match found {
        Archived::OtherLineage(position) => (
            "lineage-changed",
            "the store was restored, or lost writes: its history is another one now, which a backup begins".to_owned(),
            position,
        ),
        Archived::PastGone(position) => (
            "past-gone",
            format!("what follows revision {after} is no longer kept: a backup closes the gap"),
            position,
        ),
        Archived::Behind(position) => (
            "precondition-failed",
            format!(
                "revision {after} of this line of history was archived, and the store is at {}: were its files put back to an \
                 older state? Restore a backup: that begins another line of history",
                position.revision
            ),
            position,
        ),
        Archived::Piece(_) | Archived::UpToDate(_) => {
            return Err(Reject::new("internal", "a piece is not refused"));
        }
    };
    let answer = Reject::new(code, what).into_response(false);
    told(answer, &where_it_is(&position))
}

/// An answer with what is told in its header.
fn told(mut answer: Response<Body>, told: &impl Serialize) -> Result<Response<Body>, Reject> {
    let json = serde_json::to_vec(told).ok();
    let value = json.and_then(|json| HeaderValue::from_bytes(&json).ok());
    let value =
        value.ok_or_else(|| Reject::new("internal", "write what is told of the archive"))?;
    answer
        .headers_mut()
        .insert(HeaderName::from_static(ARCHIVE), value);
    Ok(answer)
}

fn where_it_is(position: &Position) -> ArchivePosition {
    ArchivePosition {
        store: position.store.to_string(),
        lineage: position.lineage.to_string(),
        epoch: position.epoch,
        revision: position.revision,
        first: position.first,
    }
}

fn piece_told(piece: &Piece) -> PieceTold {
    let (envelope, contents) = (&piece.info.envelope, &piece.info.contents);
    PieceTold {
        store: envelope.store.to_string(),
        lineage: envelope.lineage.to_string(),
        epoch: envelope.epoch,
        from: envelope.from,
        to: envelope.to,
        first_ms: contents.first_ms,
        last_ms: envelope.last_ms,
        batches: contents.batches,
        cipher: envelope.cipher.as_str().to_owned(),
        key_id: envelope.key_id.as_ref().map(ToString::to_string),
        bytes: envelope.bytes,
        sha256: hex(&envelope.sha256),
        more: piece.more,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_client_that_goes_away_does_not_free_the_place_of_the_work_that_goes_on() {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        let (go_on, wait) = mpsc::channel::<()>();
        let asked = holding(place, move || wait.recv());
        let gone = timeout(Duration::from_millis(20), asked).await;
        assert!(gone.is_err(), "nobody waits any more");
        assert_eq!(places.available_permits(), 0);
        go_on.send(()).unwrap();
        let next = timeout(Duration::from_secs(10), places.acquire()).await;
        drop(next.expect("the work ended").unwrap());
        // Whoever waits gets it with the place.
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        let (seven, place) = holding(place, || 7).await.unwrap();
        assert_eq!((seven, places.available_permits()), (7, 0));
        drop(place);
        assert_eq!(places.available_permits(), 1);
    }

    #[test]
    fn lineage_and_revision_are_asked_for_together_or_not_at_all() {
        let parse = |query: &str| after(Some(query)).map_err(|e| e.detail().to_owned());
        assert_eq!(after(None).unwrap(), None);
        assert_eq!(
            parse("lineage=00ff00ff00ff00ff&after=7"),
            Ok(Some((0x00ff_00ff_00ff_00ff, 7)))
        );
        for wrong in [
            "lineage=00ff00ff00ff00ff",
            "after=7",
            "lineage=ff&after=7",
            "lineage=00FF00FF00FF00FF&after=7",
            "lineage=%2B0ff00ff00ff00ff&after=7",
            "lineage=00ff00ff00ff00ff&after=-7",
            "lineage=00ff00ff00ff00ff&after=7&more=1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
