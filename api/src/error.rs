//! The client's error: what a [`Problem`] says, or what happened on the way.

use crate::codes::{self, Kind, Retry};
use crate::problem::Problem;

/// What went wrong, and what a caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Error {
    kind: Kind,
    code: String,
    retry: Retry,
    message: String,
    status: Option<u16>,
}

impl Error {
    /// An error of that code.
    pub fn new(code: &str, message: impl Into<String>) -> Error {
        let row = codes::row(code);
        Error {
            kind: row.kind,
            code: row.code.to_string(),
            retry: row.retry,
            message: message.into(),
            status: None,
        }
    }

    /// What sort of thing to do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The stable code, such as `disk-full`. A newer sidecar may send one that this version does
    /// not know.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// True if this error has that code.
    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// Whether the same call may be made again.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// What happened, without the code.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The HTTP status, if the sidecar answered.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The exit code that a command line ends with.
    pub fn exit_code(&self) -> u8 {
        match codes::TABLE.iter().find(|row| row.code == self.code) {
            Some(row) => row.exit,
            None => codes::exit_of(self.kind),
        }
    }

    /// The error as a body.
    pub fn to_problem(&self) -> Problem {
        Problem {
            code: self.code.clone(),
            kind: self.kind,
            retry: self.retry,
            ..Problem::new(&self.code, self.message.clone())
        }
    }

    /// The error that an answer with this status, code in its header, and body stands for. The
    /// answer to HEAD has the code alone.
    pub(crate) fn from_answer(status: u16, code: Option<&str>, body: &[u8]) -> Error {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => Error {
                kind: problem.kind,
                code: problem.code,
                retry: problem.retry,
                message: if problem.detail.is_empty() {
                    problem.title
                } else {
                    problem.detail
                },
                status: Some(status),
            },
            Err(_) if code.is_some() => {
                let row = codes::row(code.unwrap_or_default());
                Error {
                    code: code.unwrap_or_default().to_string(),
                    status: Some(status),
                    ..Error::new(row.code, row.title)
                }
            }
            Err(_) => Error {
                status: Some(status),
                ..Error::new(
                    "internal",
                    format!("HTTP {status} without a problem body: is this a CodexStore socket?"),
                )
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire() {
        let sent = Error::new("disk-full", "no room for 12 bytes");
        let got = Error::from_answer(507, None, &sent.to_problem().to_json());
        assert_eq!((got.code(), got.kind()), ("disk-full", Kind::Io));
        assert_eq!(got.message(), "no room for 12 bytes");
        assert_eq!(got.exit_code(), codes::EXIT_IO);
    }

    #[test]
    fn a_code_of_a_newer_sidecar_keeps_its_text_and_kind() {
        let body = br#"{"type":"x","title":"t","status":503,"kind":"Encryption","code":"sealed","retry":"no"}"#;
        let got = Error::from_answer(503, None, body);
        assert_eq!(got.code(), "sealed");
        assert_eq!(got.exit_code(), codes::EXIT_ENCRYPTION);
    }

    #[test]
    fn an_answer_to_head_is_known_by_its_header() {
        let got = Error::from_answer(503, Some("starting"), b"");
        assert!(got.is("starting") && got.retry() == Retry::Yes, "{got}");
        let got = Error::from_answer(503, Some("sealed"), b"");
        assert!(got.is("sealed") && got.retry() == Retry::Unknown, "{got}");
    }

    #[test]
    fn another_server_behind_the_socket_is_named_as_the_cause() {
        let got = Error::from_answer(404, None, b"<html>");
        assert!(got.message().contains("CodexStore socket"), "{got}");
    }
}
