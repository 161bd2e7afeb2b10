//! Pieces of the continuous archive, over a member's admin listener.

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use serde::de::DeserializeOwned;

use super::{Call, Client, text};
use crate::bodies::{ArchivePosition, PieceTold};
use crate::{Error, Result, header, path, query};

/// What whoever asks for a piece has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveAfter<'a> {
    /// The line of history: 16 hexadecimal digits.
    pub lineage: &'a str,
    /// Everything up to this revision.
    pub revision: u64,
}

/// What a member answers to whoever asks for a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Archived {
    /// The next piece.
    Piece(Piece),
    /// There is nothing yet behind what was named, or nothing was named: where the member is.
    UpToDate(ArchivePosition),
    /// The member's history is another one now (`lineage-changed`): it was restored, or lost writes.
    LineageChanged(ArchivePosition),
    /// The member no longer has what follows (`past-gone`). It has what is behind [`ArchivePosition::first`].
    PastGone(ArchivePosition),
    /// The member is not as far as what was named, in the same line of history (`precondition-failed`): its
    /// volume was put back to an older state. It must not be archived on in this line.
    Behind(ArchivePosition),
}

/// A piece as it came: see [`Client::archive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What the member said of it.
    pub told: PieceTold,
    /// Its bytes, as many as were told. Whoever stores them compares the SHA-256.
    pub bytes: Bytes,
}

impl Client {
    /// Asks the member at the other end, the one in that pod, for the piece that follows `after`; without it, where the
    /// member is. Takes the role `backup`. `overloaded` while somebody else is given one.
    pub async fn archive(
        &self,
        pod_uid: &str,
        after: Option<&ArchiveAfter<'_>>,
    ) -> Result<Archived> {
        let uri = match after {
            None => path::ARCHIVE.to_owned(),
            Some(after) => format!(
                "{}?{}={}&{}={}",
                path::ARCHIVE,
                query::LINEAGE,
                after.lineage,
                query::AFTER,
                after.revision
            ),
        };
        let mut call = Call::new(Method::GET, uri);
        call.header(header::POD_UID, pod_uid)?;
        let answer = self
            .once(call.request()?, true)
            .await
            .map_err(|f| f.error)?;
        read(answer)
    }
}

/// What an answer says.
fn read(answer: Response<Bytes>) -> Result<Archived> {
    let (head, bytes) = answer.into_parts();
    match head.status {
        StatusCode::OK => {
            let told: PieceTold = told(&head.headers)?;
            if told.bytes != bytes.len() as u64 {
                let what = format!("a piece of {} bytes, and {} came", told.bytes, bytes.len());
                return Err(Error::new("unreachable", what));
            }
            return Ok(Archived::Piece(Piece { told, bytes }));
        }
        StatusCode::NO_CONTENT => return told(&head.headers).map(Archived::UpToDate),
        _ => {}
    }
    let code = text(&head.headers, header::CODE);
    let position = head.headers.contains_key(header::ARCHIVE);
    match code.as_deref() {
        Some("lineage-changed") if position => told(&head.headers).map(Archived::LineageChanged),
        Some("past-gone") if position => told(&head.headers).map(Archived::PastGone),
        Some("precondition-failed") if position => told(&head.headers).map(Archived::Behind),
        code => Err(Error::from_answer(head.status.as_u16(), code, &bytes)),
    }
}

/// What the header says.
fn told<T: DeserializeOwned>(headers: &HeaderMap) -> Result<T> {
    let json = headers
        .get(header::ARCHIVE)
        .map(http::HeaderValue::as_bytes);
    let internal = |why: &dyn std::fmt::Display| {
        let what = format!("read what is told of the archive: {why}");
        Error::new("internal", what)
    };
    let json = json.ok_or_else(|| internal(&"nothing is told"))?;
    serde_json::from_slice(json).map_err(|why| internal(&why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(
        status: u16,
        code: Option<&str>,
        told: Option<&str>,
        body: &[u8],
    ) -> Result<Archived> {
        let mut answer = Response::builder().status(status);
        if let Some(code) = code {
            answer = answer.header(header::CODE, code);
        }
        if let Some(told) = told {
            answer = answer.header(header::ARCHIVE, told);
        }
        read(answer.body(Bytes::copy_from_slice(body)).unwrap())
    }

    #[test]
    fn each_answer_is_told_from_the_others() {
        let position = ArchivePosition {
            store: "ab".into(),
            lineage: "cd".into(),
            epoch: 3,
            revision: 9,
            first: 4,
        };
        let json = serde_json::to_string(&position).unwrap();
        let of = |status, code| answer(status, code, Some(&json), b"").unwrap();
        assert_eq!(of(204, None), Archived::UpToDate(position.clone()));
        assert_eq!(
            of(409, Some("lineage-changed")),
            Archived::LineageChanged(position.clone())
        );
        assert_eq!(
            of(410, Some("past-gone")),
            Archived::PastGone(position.clone())
        );
        assert_eq!(
            of(412, Some("precondition-failed")),
            Archived::Behind(position)
        );
        let error = answer(503, Some("overloaded"), None, b"").unwrap_err();
        assert!(error.is("overloaded"), "{error}");
        // A problem of another sort with the same code is no position.
        let error = answer(410, Some("past-gone"), None, b"").unwrap_err();
        assert!(error.is("past-gone"), "{error}");
    }

    #[test]
    fn a_piece_that_is_not_as_long_as_was_told_did_not_come_whole() {
        let told = PieceTold {
            bytes: 3,
            ..PieceTold::default()
        };
        let json = serde_json::to_string(&told).unwrap();
        let whole = answer(200, None, Some(&json), b"abc").unwrap();
        assert!(matches!(whole, Archived::Piece(piece) if piece.bytes == "abc"));
        for cut in [&b"ab"[..], b"abcd", b""] {
            let error = answer(200, None, Some(&json), cut).unwrap_err();
            assert!(error.is("unreachable"), "{error}");
        }
        assert!(answer(200, None, None, b"abc").is_err());
        assert!(answer(200, None, Some("{}"), b"abc").is_err());
    }
}
