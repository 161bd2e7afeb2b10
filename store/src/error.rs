//! The one error type of the store.
//!
//! A [`Kind`] says what sort of thing to do about an error, a [`Code`] says exactly what
//! happened and never changes its spelling, and [`Retry`] says whether the same call may be made
//! again. All three follow from the code by one table, [`Code::row`]; the wire protocols and the
//! command line map the code's text to theirs.
//!
//! Messages name what was being done to which object. They never hold a value, a key of the
//! keyring or a token.

use std::fmt;
use std::sync::Arc;

/// Result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of thing a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong: fix the input.
    Validation,
    /// What was asked for is not there, or is no longer kept.
    NotFound,
    /// The caller, or this process, may not do it.
    Permission,
    /// Storage or a resource budget failed: look at disk and limits.
    Io,
    /// Keys are missing or wrong: look at the keyring. Nothing was modified.
    Encryption,
    /// Stored bytes are not what was written: restore from a backup.
    Integrity,
    /// Another writer, a deadline or the load was in the way.
    Concurrency,
    /// A bug in the store.
    Internal,
}

impl Kind {
    /// The kind's stable name, as in `problem+json` bodies.
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

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the same call may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Nothing was done; the same call may succeed later.
    Yes,
    /// Nothing was done; the same call fails again until something else changes.
    No,
    /// It may have been done: read before writing again.
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

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Makes [`Code`] and its table from one list, so that no code can lack a row.
macro_rules! codes {
    ($($name:ident, $text:literal, $kind:ident, $retry:ident, $doc:literal;)*) => {
        /// What exactly happened. The text of a code is stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = concat!("`", $text, "` (", stringify!($kind), ", retry ", stringify!($retry), "): ", $doc)] $name,)*
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The code's row of the table: text, kind, retry, what it means.
            pub const fn row(self) -> (&'static str, Kind, Retry, &'static str) {
                match self {
                    $(Code::$name => ($text, Kind::$kind, Retry::$retry, $doc),)*
                }
            }
        }
    };
}

codes! {
    InvalidKey, "invalid-key", Validation, No, "A key is empty or longer than 1,024 bytes.";
    InvalidArgument, "invalid-argument", Validation, No, "An option, range, cursor, pattern or batch is not valid.";
    TooLarge, "too-large", Validation, No, "A value, a batch or an answer is over its limit.";
    WrongType, "wrong-type", Validation, No, "The stored value is not of the type that was asked for.";
    Unsupported, "unsupported", Validation, No, "This store's strategy, or this version, does not offer the operation.";
    UnsupportedVersion, "unsupported-version", Validation, No, "The files were written in a format that this version does not read; nothing was touched.";
    NotFound, "not-found", NotFound, No, "There is no such key.";
    PastGone, "past-gone", NotFound, No, "The revision asked for is no longer kept: start again from the present.";
    Denied, "denied", Permission, No, "The caller, or this process's user, may not do this.";
    Io, "io", Io, Yes, "The operating system refused a read, an open or the like; nothing was changed.";
    DiskFull, "disk-full", Io, No, "The disk budget or the volume is full: reads go on, deletes make room.";
    MemoryFull, "memory-full", Io, No, "The memory budget is full: reads go on, deletes make room.";
    Poisoned, "poisoned", Io, Yes, "An earlier write or sync failed, so writes are refused until the store is opened again.";
    OutcomeUnknown, "outcome-unknown", Io, Unknown, "A write or sync failed after the change may have reached the disk: read it back.";
    Closed, "closed", Io, Yes, "The store is closed or closing.";
    KeyMissing, "key-missing", Encryption, No, "The keyring lacks the key that a file names.";
    WrongKey, "wrong-key", Encryption, No, "The key of that name does not open the file.";
    InvalidKeyring, "invalid-keyring", Encryption, No, "The keyring cannot be read, or something in it is malformed.";
    EncryptionMismatch, "encryption-mismatch", Encryption, No, "The store is encrypted and no keyring was given, or the reverse.";
    RestoreUnfinished, "restore-unfinished", Integrity, No, "A restore into the directory was not finished: run it again.";
    Corrupt, "corrupt", Integrity, No, "Stored bytes do not verify; the message names file, offset and sequence.";
    PreconditionFailed, "precondition-failed", Concurrency, No, "A precondition does not hold: read again and decide.";
    Overloaded, "overloaded", Concurrency, Yes, "Too much is waiting; nothing was done.";
    Deadline, "deadline", Concurrency, Yes, "The time allowed was over before anything was done.";
    Locked, "locked", Concurrency, Yes, "Another process has the store open.";
    Fenced, "fenced", Concurrency, No, "A newer owner has taken the store over; this one must stop.";
    Internal, "internal", Internal, Unknown, "A bug in the store.";
}

impl Code {
    /// The stable text, such as `disk-full`.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The kind that the code belongs to.
    pub const fn kind(self) -> Kind {
        self.row().1
    }

    /// Whether the same call may be made again.
    pub const fn retry(self) -> Retry {
        self.row().2
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

type Source = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong, and what a caller can do about it. Cheap to clone: one failed sync answers
/// every waiter of its group.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: String,
    source: Option<Source>,
}

impl Error {
    /// An error with its message: what was being done to which object.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            code,
            message: message.into(),
            source: None,
        }))
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Puts what was being done, such as a file's name, before the message.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Error {
        self.0.message = format!("{doing}: {}", self.0.message);
        self
    }

    /// An error of the operating system. A full disk and a missing permission get their own
    /// codes; everything else is `io`, a file system that is read-only too: who asks, and as whom,
    /// changes nothing about it, and Linux makes it so where a disk fails under it.
    pub fn io(doing: impl fmt::Display, source: std::io::Error) -> Error {
        let code = match source.kind() {
            std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::FileTooLarge => Code::DiskFull,
            std::io::ErrorKind::PermissionDenied => Code::Denied,
            _ => Code::Io,
        };
        Error::new(code, format!("{doing}: {source}")).with_source(source)
    }

    /// An integrity error: `what` does not verify.
    pub fn corrupt(what: impl Into<String>) -> Error {
        Error::new(Code::Corrupt, what)
    }

    /// A bug: a state that the code rules out.
    pub fn internal(what: impl Into<String>) -> Error {
        Error::new(Code::Internal, what)
    }

    /// What sort of thing to do about it.
    pub fn kind(&self) -> Kind {
        self.0.code.kind()
    }

    /// The stable text of the code.
    pub fn code(&self) -> &'static str {
        self.0.code.as_str()
    }

    /// The code as a value to match on.
    pub fn as_code(&self) -> Code {
        self.0.code
    }

    /// True if this error has that code.
    pub fn is(&self, code: Code) -> bool {
        self.0.code == code
    }

    /// Whether the same call may be made again.
    pub fn retry(&self) -> Retry {
        self.0.code.retry()
    }

    /// The message: safe to show to callers and to log.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.kind(), self.code(), self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_kebab_case_and_documented() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let (text, _, _, doc) = code.row();
            assert!(seen.insert(text), "{text} twice");
            assert!(
                text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{text}"
            );
            assert!(doc.ends_with('.'), "{text}: {doc}");
        }
    }

    #[test]
    fn every_kind_has_a_code() {
        let kinds: std::collections::HashSet<Kind> =
            Code::ALL.iter().map(|code| code.kind()).collect();
        assert_eq!(kinds.len(), 8);
    }

    #[test]
    fn only_an_unknown_outcome_says_that_retrying_is_unsafe_to_judge() {
        let unknown: Vec<&str> = Code::ALL
            .iter()
            .filter(|code| code.retry() == Retry::Unknown)
            .map(|code| code.as_str())
            .collect();
        assert_eq!(unknown, ["outcome-unknown", "internal"]);
    }

    #[test]
    fn a_full_disk_is_told_from_other_io_errors() {
        let full = Error::io("write f", std::io::Error::from_raw_os_error(28));
        assert!(full.is(Code::DiskFull));
        let eio = Error::io("write f", std::io::Error::from_raw_os_error(5));
        assert!(eio.is(Code::Io));
        assert!(std::error::Error::source(&eio).is_some());
        assert!(eio.to_string().starts_with("write f: "));
    }

    #[test]
    fn a_disk_that_turned_read_only_failed_and_is_no_missing_permission() {
        let code = |errno| Error::io("sync f", std::io::Error::from_raw_os_error(errno)).as_code();
        assert_eq!(code(30), Code::Io, "EROFS");
        assert_eq!(
            (code(1), code(13)),
            (Code::Denied, Code::Denied),
            "EPERM, EACCES"
        );
    }

    #[test]
    fn context_goes_before_the_message_and_keeps_the_code() {
        let error = Error::corrupt("frame 3 at 12288").context("journal-1");
        assert_eq!(error.to_string(), "journal-1: frame 3 at 12288");
        assert_eq!(error.code(), "corrupt");
        assert_eq!(error.kind(), Kind::Integrity);
    }
}
