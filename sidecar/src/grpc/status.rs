//! Errors as gRPC tells them: a status code, a message, and details that programs read.

use std::collections::HashMap;
use std::time::Duration;

use codexstore_api::codes::{self, Retry, Row};
use codexstore_api::grpc::ERROR_DOMAIN;
use http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::engine::Failure;

/// When a call that may be made again is best made again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The status of an error of that code, the same that HTTP and the command line know.
pub fn of(code: &str, message: impl Into<String>) -> Status {
    status(codes::row(code), message.into(), None)
}

/// The past that was asked for is no longer kept; the current revision is told with it.
pub fn past_gone(message: impl Into<String>, revision: u64) -> Status {
    status(codes::row("past-gone"), message.into(), Some(revision))
}

fn status(row: &Row, message: String, revision: Option<u64>) -> Status {
    let mut metadata = HashMap::from([
        ("kind".to_owned(), row.kind.as_str().to_owned()),
        ("retry".to_owned(), row.retry.as_str().to_owned()),
    ]);
    if let Some(revision) = revision {
        metadata.insert("revision".to_owned(), revision.to_string());
    }
    let mut details = ErrorDetails::with_error_info(row.code, ERROR_DOMAIN, metadata);
    if row.retry == Retry::Yes {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    Status::with_error_details(Code::from_i32(i32::from(row.grpc)), message, details)
}

/// The status of an error of the store.
pub fn of_error(error: &codexstore::Error) -> Status {
    of(error.code(), error.message())
}

/// The status of an engine's failure.
pub fn of_failure(failure: Failure) -> Status {
    match failure {
        Failure::Failed(error) => of_error(&error),
        Failure::NotOpen(None) => of("starting", "the store is being opened"),
        Failure::NotOpen(Some(error)) => {
            // Whatever keeps the store closed, to a client it is the service that is missing.
            let row = codes::row(error.code());
            let row = Row {
                grpc: codes::row("starting").grpc,
                ..*row
            };
            status(&row, error.message().to_owned(), None)
        }
    }
}

/// The stable code in the header of an answer that is an error.
pub fn code_of(headers: &HeaderMap) -> Option<String> {
    let details = Status::from_header_map(headers)?.get_error_details();
    details.error_info().map(|info| info.reason.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_have_the_stable_code_its_kind_and_whether_to_try_again() {
        let status = of("overloaded", "too much");
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "too much")
        );
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("overloaded", ERROR_DOMAIN)
        );
        assert_eq!(info.metadata["retry"], "yes");
        assert_eq!(info.metadata["kind"], "Concurrency");
        assert!(details.retry_info().is_some());
        assert!(
            of("not-found", "")
                .get_error_details()
                .retry_info()
                .is_none()
        );
    }
}
