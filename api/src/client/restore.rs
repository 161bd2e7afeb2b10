//! A restore over a member's admin listener.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use tokio::sync::mpsc;

use super::outgoing::Outgoing;
use super::{Call, Client};
use crate::bodies::RestoreTold;
use crate::{Error, Result, path, query};

impl Client {
    /// Makes the member at the other end a store of the backup whose bytes come in `parts`, which takes the role
    /// `restore`. An error among them means that there is no more: the member then keeps what it has. Waits for the whole
    /// of it to be restored and opened, for `longest` at most. With `if_empty`, only where there is no store yet:
    /// `precondition-failed` else. Never tried again: `overloaded` while another is restored.
    pub async fn restore(
        &self,
        parts: mpsc::Receiver<io::Result<Bytes>>,
        longest: Duration,
        if_empty: bool,
    ) -> Result<RestoreTold> {
        let uri = if if_empty {
            format!("{}?{}", path::RESTORE, query::IF_EMPTY)
        } else {
            path::RESTORE.to_owned()
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header("content-type", "application/octet-stream")
            .body(Outgoing::Parts(parts))
            .map_err(|e| Error::new("internal", format!("make the request: {e}")))?;
        let patient = self.clone().timeout(longest);
        let answer = patient.once(request, false).await.map_err(|f| f.error)?;
        if !answer.status().is_success() {
            let code = super::text(answer.headers(), crate::header::CODE);
            let status = answer.status().as_u16();
            return Err(Error::from_answer(status, code.as_deref(), answer.body()));
        }
        serde_json::from_slice(answer.body())
            .map_err(|e| Error::new("internal", format!("read the answer: {e}")))
    }

    /// Says to a member that waits for a restore that there is nothing to restore: it opens an empty store.
    pub async fn restore_none(&self) -> Result<()> {
        self.call(Call::new(Method::POST, path::OPEN_EMPTY.to_string()))
            .await
            .map(drop)
    }
}
