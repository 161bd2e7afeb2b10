//! The HTTP side of the webhook.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::review::{BadRequest, Endpoint, Reviewer};
use crate::serve::Answer;

/// Largest review: two objects of the largest size that the API server stores, and room.
pub const MAX_BODY: usize = 8 << 20;
/// Time for a whole request; the API server waits no longer than its own timeout, 5 s.
const DEADLINE: Duration = Duration::from_secs(10);

/// Answers one request.
pub async fn handle(reviewer: Reviewer, request: Request<Incoming>) -> Answer {
    match tokio::time::timeout(DEADLINE, Box::pin(respond(reviewer, request))).await {
        Ok(answer) => answer,
        Err(_) => text(StatusCode::REQUEST_TIMEOUT, "the request took too long"),
    }
}

async fn respond(reviewer: Reviewer, request: Request<Incoming>) -> Answer {
    let endpoint = match request.uri().path() {
        "/mutate" => Endpoint::Mutate,
        "/validate" => Endpoint::Validate,
        _ => return text(StatusCode::NOT_FOUND, "the paths are /mutate and /validate"),
    };
    if request.method() != Method::POST {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "send an AdmissionReview by POST",
        );
    }
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the review is larger than 8 MiB",
            );
        }
        Err(_) => return text(StatusCode::BAD_REQUEST, "the body ended early"),
    };
    match reviewer.answer(endpoint, &body).await {
        Ok(json) => {
            let mut response = Response::new(Full::new(Bytes::from(json)));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
        Err(BadRequest(why)) => text(StatusCode::BAD_REQUEST, &why),
    }
}

/// An answer for people.
pub fn text(status: StatusCode, text: &str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
