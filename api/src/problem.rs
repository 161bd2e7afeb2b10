//! The body of an error answer: `application/problem+json`, RFC 9457.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::codes::{self, Kind, Retry, Row};

/// Media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An error as sent over HTTP. `kind`, `code` and `retry` are extensions; branch on `code`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:codexstore:error:<code>`.
    #[serde(rename = "type")]
    pub uri: String,
    /// A short title, the same for every occurrence of the code.
    pub title: String,
    /// The HTTP status, repeated.
    pub status: u16,
    /// What happened this time. Never holds a key's value or a secret.
    #[serde(default)]
    pub detail: String,
    /// What sort of thing to do about it.
    pub kind: Kind,
    /// The stable code, such as `disk-full`.
    pub code: String,
    /// Whether the same call may be made again.
    pub retry: Retry,
}

impl Problem {
    /// A problem of that code, with the table's status.
    pub fn new(code: &str, detail: impl Into<String>) -> Problem {
        Problem::of(codes::row(code), detail)
    }

    /// A problem of that row.
    pub fn of(row: &Row, detail: impl Into<String>) -> Problem {
        Problem {
            uri: format!("urn:codexstore:error:{}", row.code),
            title: row.title.to_string(),
            status: row.http,
            detail: detail.into(),
            kind: row.kind,
            code: row.code.to_string(),
            retry: row.retry,
        }
    }

    /// The body's bytes.
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings and numbers always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_of_rfc_9457_and_ours() {
        let json: serde_json::Value =
            serde_json::from_slice(&Problem::new("disk-full", "no room").to_json()).unwrap();
        assert_eq!(json["type"], "urn:codexstore:error:disk-full");
        assert_eq!(json["title"], "Disk full");
        assert_eq!(json["status"], 507);
        assert_eq!(json["detail"], "no room");
        assert_eq!(json["kind"], "Io");
        assert_eq!(json["code"], "disk-full");
        assert_eq!(json["retry"], "no");
    }
}
