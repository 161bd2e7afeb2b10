//! Exit codes, and how an error becomes one line on stderr.

use std::fmt;

use codexstore_api::codes::{self, Retry};

/// An error that knows its exit code.
#[derive(Debug)]
pub struct Coded {
    exit: u8,
    message: String,
}

impl Coded {
    /// Wrong input: arguments, a manifest, a batch.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            exit: codes::EXIT_VALIDATION,
            message: message.into(),
        }
    }

    /// What was named is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            exit: codes::EXIT_NOT_FOUND,
            message: message.into(),
        }
    }

    /// The caller may not do it.
    pub fn denied(message: impl Into<String>) -> Self {
        Self {
            exit: codes::EXIT_PERMISSION,
            message: message.into(),
        }
    }

    /// What is encrypted cannot be opened with this.
    pub fn encryption(message: impl Into<String>) -> Self {
        Self {
            exit: codes::EXIT_ENCRYPTION,
            message: message.into(),
        }
    }

    /// What is stored is not what was written.
    pub fn integrity(message: impl Into<String>) -> Self {
        Self {
            exit: codes::EXIT_INTEGRITY,
            message: message.into(),
        }
    }

    /// Another writer was first.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self {
            exit: codes::EXIT_CONCURRENCY,
            message: message.into(),
        }
    }

    /// What should run here does not.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self {
            exit: codes::EXIT_UNREACHABLE,
            message: message.into(),
        }
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Coded {}

/// Whoever read our output went away: not our failure.
#[derive(Debug)]
pub struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("output closed")
    }
}

impl std::error::Error for OutputClosed {}

/// Exit with this code and say nothing: all is said.
#[derive(Debug)]
pub struct Exit(pub u8);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}", self.0)
    }
}

impl std::error::Error for Exit {}

/// What to print and the code to exit with.
pub fn report(error: &anyhow::Error) -> (Option<String>, u8) {
    if error.is::<OutputClosed>() {
        return (None, codes::EXIT_OK);
    }
    if let Some(Exit(code)) = error.downcast_ref() {
        return (None, *code);
    }
    (Some(one_line(error)), exit_code(error))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    error
        .chain()
        .find_map(|cause| {
            let coded = cause.downcast_ref::<Coded>().map(|c| c.exit);
            coded
                .or_else(|| {
                    cause
                        .downcast_ref::<codexstore_api::Error>()
                        .map(codexstore_api::Error::exit_code)
                })
                .or_else(|| cause.downcast_ref::<codexstore::Error>().map(exit_of_store))
        })
        .unwrap_or(codes::EXIT_INTERNAL)
}

/// Whether the same may succeed later though nobody puts anything right. A code says it: ours where somebody was in the way or did not
/// answer, the store's and the wire's by their table, where an outcome that is not known counts as one that may be another. What has no code
/// is a disk's, a destination's, the network's or the API server's, and may heal.
pub fn may_heal(error: &anyhow::Error) -> bool {
    error.chain().all(|cause| {
        if let Some(coded) = cause.downcast_ref::<Coded>() {
            return matches!(
                coded.exit,
                codes::EXIT_CONCURRENCY | codes::EXIT_UNREACHABLE
            );
        }
        let told = cause.downcast_ref::<codexstore_api::Error>();
        let told = told.map(codexstore_api::Error::retry);
        let of_store = || {
            let error = cause.downcast_ref::<codexstore::Error>()?;
            Some(codes::row(error.code()).retry)
        };
        told.or_else(of_store) != Some(Retry::No)
    })
}

/// The store's codes are those of the wire: one table says how each ends.
fn exit_of_store(error: &codexstore::Error) -> u8 {
    codes::TABLE
        .iter()
        .find(|row| row.code == error.code())
        .map_or(codes::EXIT_INTERNAL, |row| row.exit)
}

/// The error and its causes, each once (some libraries repeat their cause in their own text).
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().replace('\n', " ");
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_is_one_line_with_each_cause_once() {
        let error = Err::<(), _>(std::io::Error::other("disk\nbroke"))
            .context("read f: disk broke")
            .context("dev")
            .unwrap_err();
        assert_eq!(report(&error), (Some("dev: read f: disk broke".into()), 1));
    }

    #[test]
    fn the_exit_code_is_found_under_context() {
        let error = anyhow::Error::new(Coded::not_found("no key")).context("get");
        assert_eq!(report(&error), (Some("get: no key".into()), 3));
    }

    #[test]
    fn an_error_of_the_store_ends_as_the_same_code_does_over_a_socket() {
        for code in codexstore::Code::ALL {
            let row = codes::TABLE.iter().find(|row| row.code == code.as_str());
            let error = codexstore::Error::new(*code, "it").into();
            assert_eq!(report(&error).1, row.unwrap().exit, "{code}");
        }
    }

    #[test]
    fn what_somebody_has_to_put_right_does_not_heal_and_what_was_in_the_way_may() {
        let of_store = |code| codexstore::Error::new(code, "it").into();
        let told = |code| codexstore_api::Error::new(code, "it").into();
        let stays: [anyhow::Error; 9] = [
            Coded::not_found("no backup").into(),
            Coded::invalid("no destination").into(),
            Coded::integrity("other bytes").into(),
            of_store(codexstore::Code::WrongKey),
            of_store(codexstore::Code::KeyMissing),
            told("wrong-key"),
            told("corrupt"),
            told("disk-full"),
            told("denied"),
        ];
        for error in stays {
            let error = error.context("restore");
            assert!(!may_heal(&error), "{error:#}");
        }
        let heals: [anyhow::Error; 9] = [
            std::io::Error::from(std::io::ErrorKind::PermissionDenied).into(),
            anyhow::Error::msg("NoSuchBucket"),
            Coded::conflict("another took the Lease").into(),
            of_store(codexstore::Code::Io),
            told("overloaded"),
            told("starting"),
            told("unreachable"),
            told("outcome-unknown"),
            told("one-of-a-newer-sidecar"),
        ];
        for error in heals {
            let error = error.context("restore");
            assert!(may_heal(&error), "{error:#}");
        }
    }

    #[test]
    fn a_closed_output_is_success_and_a_broken_socket_is_not() {
        assert_eq!(report(&OutputClosed.into()), (None, 0));
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(report(&pipe.into()).1, 1);
    }
}
