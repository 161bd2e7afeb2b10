//! A restore over a member's admin listener.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use tokio::sync::mpsc;

use super::outgoing::Outgoing;
use super::{Call, Client};
use crate::archive::Until;
use crate::bodies::RestoreTold;
use crate::{Error, Result, header, path, query};

/// Where a backup is restored.
#[derive(Debug, Clone, Copy)]
pub struct RestoreInto<'a> {
    /// UID of the pod that is meant: another one, which has its address by now, refuses with `invalid-argument`.
    pub pod_uid: &'a str,
    /// Only if there is no store yet: `precondition-failed` else.
    pub if_empty: bool,
    /// Pieces of the archive come behind the backup, and are taken so far. None: the backup comes alone.
    pub pieces: Option<Until>,
    /// Longest time for all of it.
    pub longest: Duration,
}

impl Client {
    /// Makes the member at the other end a store of the backup whose bytes come in `parts`, and of the pieces of the archive
    /// whose bytes come right behind it, if any, in order. Takes the role `restore`. An error among them means that there is no more: the member then keeps what it has. Waits for the whole
    /// of it to be restored and opened. Never tried again: `overloaded` while another is restored.
    pub async fn restore(
        &self,
        into: &RestoreInto<'_>,
        parts: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<RestoreTold> {
        let uri = uri(into);
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header("content-type", "application/octet-stream")
            .header(header::POD_UID, into.pod_uid)
            .body(Outgoing::Parts(parts))
            .map_err(|e| Error::new("internal", format!("make the request: {e}")))?;
        let patient = self.clone().timeout(into.longest);
        let answer = patient.once(request, false).await.map_err(|f| f.error)?;
        if !answer.status().is_success() {
            let code = super::text(answer.headers(), header::CODE);
            let status = answer.status().as_u16();
            return Err(Error::from_answer(status, code.as_deref(), answer.body()));
        }
        serde_json::from_slice(answer.body())
            .map_err(|e| Error::new("internal", format!("read the answer: {e}")))
    }

    /// Says to a member that waits for a restore that there is nothing to restore: it opens an empty store.
    pub async fn restore_none(&self, into: &RestoreInto<'_>) -> Result<()> {
        let mut call = Call::new(Method::POST, path::OPEN_EMPTY.to_string());
        call.header(header::POD_UID, into.pod_uid)?;
        self.call(call).await.map(drop)
    }
}

/// Where it is asked for.
fn uri(into: &RestoreInto<'_>) -> String {
    let if_empty = into.if_empty.then(|| query::IF_EMPTY.to_owned());
    let pieces = into.pieces.map(|_| query::PIECES.to_owned());
    let until = into.pieces.and_then(Until::query);
    let asked: Vec<String> = if_empty.into_iter().chain(pieces).chain(until).collect();
    if asked.is_empty() {
        path::RESTORE.to_owned()
    } else {
        format!("{}?{}", path::RESTORE, asked.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stands_in_the_query() {
        let uri = |if_empty, pieces| {
            uri(&RestoreInto {
                pod_uid: "",
                if_empty,
                pieces,
                longest: Duration::ZERO,
            })
        };
        assert_eq!(uri(false, None), "/v1/restore");
        assert_eq!(uri(true, None), "/v1/restore?ifEmpty=true");
        assert_eq!(uri(false, Some(Until::End)), "/v1/restore?pieces=true");
        assert_eq!(
            uri(false, Some(Until::Time(5))),
            "/v1/restore?pieces=true&untilTime=5"
        );
        assert_eq!(
            uri(true, Some(Until::Revision(7))),
            "/v1/restore?ifEmpty=true&pieces=true&untilRevision=7"
        );
    }
}
