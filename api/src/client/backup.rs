//! A backup as a stream, over a member's admin listener.

use bytes::Bytes;
use http::header::TE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::connection::Lease;
use super::{Call, Client, MAX_ANSWER, text};
use crate::bodies::BackupTold;
use crate::{Error, Problem, Result, header, path};

/// A backup that is being read: see [`Client::backup`].
pub struct Backup {
    body: Incoming,
    pod_uid: String,
    told: Option<BackupTold>,
    timeout: std::time::Duration,
    connection: Lease,
}

impl Client {
    /// Begins a backup of the member at the other end, which takes the role `backup`. Never tried again:
    /// `overloaded` if it gives one to somebody else.
    pub async fn backup(&self) -> Result<Backup> {
        let mut request = Call::new(Method::GET, path::BACKUP.to_owned()).request()?;
        // Without this a server keeps what it has to tell at the end to itself.
        request
            .headers_mut()
            .insert(TE, HeaderValue::from_static("trailers"));
        let lost = |why: String| Error::new("unreachable", format!("{}: {why}", self.link));
        let sent = tokio::time::timeout(self.timeout, self.link.send(request)).await;
        let sent = sent.map_err(|_| lost(format!("no answer within {:?}", self.timeout)))?;
        let (mut connection, answer) = sent.map_err(|failed| lost(failed.to_string()))?;
        let (head, body) = answer.into_parts();
        if head.status != StatusCode::OK {
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|why| lost(why.to_string()))?.to_bytes();
            connection.reuse();
            let code = text(&head.headers, header::CODE);
            return Err(Error::from_answer(
                head.status.as_u16(),
                code.as_deref(),
                &body,
            ));
        }
        Ok(Backup {
            body,
            pod_uid: text(&head.headers, header::POD_UID).unwrap_or_default(),
            told: None,
            timeout: self.timeout,
            connection,
        })
    }
}

impl Backup {
    /// UID of the pod that answers; empty outside a cluster.
    pub fn pod_uid(&self) -> &str {
        &self.pod_uid
    }

    /// The next bytes; none at the end, and [`Backup::told`] then says what was read. A stream that
    /// ends early, or stands still for the client's timeout, is an error.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let broken = |why: &str| Error::new("unreachable", format!("read the backup: {why}"));
        while self.told.is_none() {
            let frame = tokio::time::timeout(self.timeout, self.body.frame()).await;
            let frame = frame.map_err(|_| broken("the member sends nothing"))?;
            let frame = frame.transpose().map_err(|why| broken(&why.to_string()))?;
            match frame.map(hyper::body::Frame::into_data) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => return Ok(Some(bytes)),
                Some(Err(other)) => match other.into_trailers() {
                    Ok(trailers) => {
                        self.connection.reuse();
                        self.told = Some(told(&trailers)?);
                    }
                    Err(_) => return Err(broken("an unknown frame")),
                },
                None => return Err(broken("it was cut")),
            }
        }
        Ok(None)
    }

    /// What the member told at the end; none before it.
    pub fn told(&self) -> Option<&BackupTold> {
        self.told.as_ref()
    }
}

/// What the trailers say.
fn told(trailers: &HeaderMap) -> Result<BackupTold> {
    let json = |name| trailers.get(name).map(HeaderValue::as_bytes);
    let internal = |why: &dyn std::fmt::Display| {
        Error::new(
            "internal",
            format!("read what is told of the backup: {why}"),
        )
    };
    if let Some(problem) = json(header::PROBLEM) {
        let status = serde_json::from_slice(problem).map_or(500, |said: Problem| said.status);
        return Err(Error::from_answer(status, None, problem));
    }
    let told = json(header::BACKUP).ok_or_else(|| internal(&"nothing is told"))?;
    serde_json::from_slice(told).map_err(|why| internal(&why))
}
