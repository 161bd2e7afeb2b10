//! Every error code and what each protocol makes of it: one table.
//!
//! A code's text is stable. The store defines most of them; those of the transport (an unknown
//! path, a socket that does not answer) are added here.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What sort of thing a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum Kind {
    /// The request is wrong: fix the input.
    Validation,
    /// What was asked for is not there, or is no longer kept.
    NotFound,
    /// The caller may not do it.
    Permission,
    /// Storage, a resource budget or the transport failed.
    Io,
    /// Keys are missing or wrong: look at the keyring.
    Encryption,
    /// Stored bytes are not what was written: restore from a backup.
    Integrity,
    /// Another writer, a deadline or the load was in the way.
    Concurrency,
    /// A bug.
    #[serde(other)]
    Internal,
}

impl Kind {
    /// The kind's stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Validation => "Validation",
            Kind::NotFound => "NotFound",
            Kind::Permission => "Permission",
            Kind::Io => "Io",
            Kind::Encryption => "Encryption",
            Kind::Integrity => "Integrity",
            Kind::Concurrency => "Concurrency",
            Kind::Internal => "Internal",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the same call may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// Nothing was done; the same call may succeed later.
    Yes,
    /// Nothing was done; the same call fails again until something else changes.
    No,
    /// It may have been done: read before writing again.
    #[serde(other)]
    Unknown,
}

impl Retry {
    /// The stable name: `yes`, `no` or `unknown`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Retry::Yes => "yes",
            Retry::No => "no",
            Retry::Unknown => "unknown",
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The code's stable text, such as `disk-full`.
    pub code: &'static str,
    /// What sort of thing to do about it.
    pub kind: Kind,
    /// Whether the same call may be made again.
    pub retry: Retry,
    /// HTTP status (RFC 9110; 507 is RFC 4918's).
    pub http: u16,
    /// gRPC status code.
    pub grpc: u8,
    /// First word of a Redis error.
    pub redis: &'static str,
    /// Exit code of the command line.
    pub exit: u8,
    /// A short title, the same for every occurrence.
    pub title: &'static str,
}

/// Exit code of success.
pub const EXIT_OK: u8 = 0;
/// Exit code of an error that has no kind of its own, and of kind Internal.
pub const EXIT_INTERNAL: u8 = 1;
/// Exit code of wrong arguments and of kind Validation.
pub const EXIT_VALIDATION: u8 = 2;
/// Exit code of kind `NotFound`.
pub const EXIT_NOT_FOUND: u8 = 3;
/// Exit code of kind Permission.
pub const EXIT_PERMISSION: u8 = 4;
/// Exit code of kind Io.
pub const EXIT_IO: u8 = 5;
/// Exit code of kind Encryption.
pub const EXIT_ENCRYPTION: u8 = 6;
/// Exit code of kind Integrity.
pub const EXIT_INTEGRITY: u8 = 7;
/// Exit code of kind Concurrency.
pub const EXIT_CONCURRENCY: u8 = 8;
/// Exit code when the sidecar cannot be reached.
pub const EXIT_UNREACHABLE: u8 = 9;

/// Makes the table from its rows: code, kind, retry, HTTP, gRPC, Redis, exit, title.
macro_rules! table {
    ($($code:literal, $kind:ident, $retry:ident, $http:literal, $grpc:literal, $redis:literal, $exit:ident, $title:literal;)*) => {
        /// Every code.
        pub const TABLE: &[Row] = &[$(Row {
            code: $code,
            kind: Kind::$kind,
            retry: Retry::$retry,
            http: $http,
            grpc: $grpc,
            redis: $redis,
            exit: $exit,
            title: $title,
        },)*];
    };
}

table! {
    // The store's.
    "invalid-key", Validation, No, 400, 3, "ERR", EXIT_VALIDATION, "Invalid key";
    "invalid-argument", Validation, No, 400, 3, "ERR", EXIT_VALIDATION, "Invalid argument";
    "too-large", Validation, No, 413, 3, "ERR", EXIT_VALIDATION, "Too large";
    "wrong-type", Validation, No, 409, 9, "WRONGTYPE", EXIT_VALIDATION, "Wrong type";
    "unsupported", Validation, No, 501, 12, "ERR", EXIT_VALIDATION, "Not offered by this store";
    "unsupported-version", Validation, No, 503, 9, "ERR", EXIT_VALIDATION, "Format not readable";
    "not-found", NotFound, No, 404, 5, "ERR", EXIT_NOT_FOUND, "Not found";
    "past-gone", NotFound, No, 410, 11, "ERR", EXIT_NOT_FOUND, "Revision no longer kept";
    "denied", Permission, No, 403, 7, "NOPERM", EXIT_PERMISSION, "Not permitted";
    "io", Io, Yes, 503, 14, "ERR", EXIT_IO, "Storage error";
    "disk-full", Io, No, 507, 8, "MISCONF", EXIT_IO, "Disk full";
    "memory-full", Io, No, 507, 8, "OOM", EXIT_IO, "Memory full";
    "poisoned", Io, Yes, 503, 14, "MISCONF", EXIT_IO, "Writes refused after a failed write";
    "outcome-unknown", Io, Unknown, 500, 2, "ERR", EXIT_IO, "Outcome unknown";
    "closed", Io, Yes, 503, 14, "LOADING", EXIT_IO, "Closing";
    "key-missing", Encryption, No, 503, 9, "ERR", EXIT_ENCRYPTION, "Key missing";
    "wrong-key", Encryption, No, 503, 9, "ERR", EXIT_ENCRYPTION, "Wrong key";
    "invalid-keyring", Encryption, No, 503, 9, "ERR", EXIT_ENCRYPTION, "Invalid keyring";
    "encryption-mismatch", Encryption, No, 503, 9, "ERR", EXIT_ENCRYPTION, "Encryption mismatch";
    "restore-unfinished", Integrity, No, 503, 9, "ERR", EXIT_INTEGRITY, "Restore not finished";
    "corrupt", Integrity, No, 500, 15, "ERR", EXIT_INTEGRITY, "Stored bytes do not verify";
    "precondition-failed", Concurrency, No, 412, 10, "ERR", EXIT_CONCURRENCY, "Precondition failed";
    "overloaded", Concurrency, Yes, 503, 14, "BUSY", EXIT_CONCURRENCY, "Overloaded";
    "deadline", Concurrency, Yes, 504, 4, "TRYAGAIN", EXIT_CONCURRENCY, "Deadline passed";
    "locked", Concurrency, Yes, 503, 14, "LOADING", EXIT_CONCURRENCY, "Locked by another process";
    "fenced", Concurrency, No, 503, 9, "READONLY", EXIT_CONCURRENCY, "Taken over by a newer owner";
    "internal", Internal, Unknown, 500, 13, "ERR", EXIT_INTERNAL, "Internal error";
    // The transport's.
    "malformed-request", Validation, No, 400, 3, "ERR", EXIT_VALIDATION, "Malformed request";
    "no-such-route", Validation, No, 404, 12, "ERR", EXIT_VALIDATION, "No such path";
    "method-not-allowed", Validation, No, 405, 12, "ERR", EXIT_VALIDATION, "Method not allowed";
    "lineage-changed", Concurrency, No, 409, 9, "ERR", EXIT_CONCURRENCY, "Another line of history";
    "request-timeout", Concurrency, Yes, 408, 4, "ERR", EXIT_CONCURRENCY, "Request not sent in time";
    "unsupported-media-type", Validation, No, 415, 3, "ERR", EXIT_VALIDATION, "Unsupported media type";
    "headers-too-large", Validation, No, 431, 3, "ERR", EXIT_VALIDATION, "Headers too large";
    "starting", Io, Yes, 503, 14, "LOADING", EXIT_IO, "Starting";
    // The client's own.
    "unreachable", Io, Yes, 503, 14, "ERR", EXIT_UNREACHABLE, "Sidecar not reachable";
}

/// What a code that this version does not know is treated as.
pub const UNKNOWN: Row = Row {
    code: "internal",
    kind: Kind::Internal,
    retry: Retry::Unknown,
    http: 500,
    grpc: 13,
    redis: "ERR",
    exit: EXIT_INTERNAL,
    title: "Internal error",
};

/// The row of a code, or [`UNKNOWN`].
pub fn row(code: &str) -> &'static Row {
    TABLE
        .iter()
        .find(|row| row.code == code)
        .unwrap_or(&UNKNOWN)
}

/// The exit code of a kind, for codes that a newer peer made up.
pub const fn exit_of(kind: Kind) -> u8 {
    match kind {
        Kind::Validation => EXIT_VALIDATION,
        Kind::NotFound => EXIT_NOT_FOUND,
        Kind::Permission => EXIT_PERMISSION,
        Kind::Io => EXIT_IO,
        Kind::Encryption => EXIT_ENCRYPTION,
        Kind::Integrity => EXIT_INTEGRITY,
        Kind::Concurrency => EXIT_CONCURRENCY,
        Kind::Internal => EXIT_INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_their_rows_agree_with_their_kinds() {
        let mut seen = std::collections::BTreeSet::new();
        for row in TABLE {
            assert!(seen.insert(row.code), "{} twice", row.code);
            assert!((400..600).contains(&row.http), "{}", row.code);
            assert!((1..=16).contains(&row.grpc), "{}", row.code);
            if row.code != "unreachable" {
                assert_eq!(row.exit, exit_of(row.kind), "{}", row.code);
            }
        }
    }

    #[test]
    fn a_code_of_a_newer_peer_is_internal_and_of_unknown_outcome() {
        assert_eq!(row("made-up").kind, Kind::Internal);
        assert_eq!(row("made-up").retry, Retry::Unknown);
    }

    #[test]
    fn a_kind_of_a_newer_peer_still_parses() {
        let kind: Kind = serde_json::from_str("\"Quantum\"").unwrap();
        assert_eq!(kind, Kind::Internal);
    }
}
