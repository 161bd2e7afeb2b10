//! This interface, described for tools.

use http::Response;
use utoipa::OpenApi;

use super::answer::{Body, Reject, typed};
use super::{batch, history, keys, list, system, watch};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "CodexStore",
        description = "The state of one pod, on a Unix socket. HTTP/1.1 and HTTP/2 with prior knowledge. Errors are application/problem+json (RFC 9457); branch on their code.",
    ),
    paths(
        keys::get, keys::head, keys::put, keys::delete, list::list, list::delete, batch::batch, history::history, watch::watch,
        system::status, system::accept_clock, system::health, system::ready, system::metrics, document
    ),
    tags((name = "keys", description = "Keys and values."), (name = "system", description = "The sidecar itself."))
)]
struct Document;

/// The document.
#[utoipa::path(get, path = "/openapi.json", tag = "system", operation_id = "openapi",
    description = "This document.",
    responses((status = 200, description = "The document.", body = String, content_type = "application/json")))]
pub fn document() -> Result<Response<Body>, Reject> {
    let text = Document::openapi()
        .to_json()
        .map_err(|_| Reject::new("internal", "write the document"))?;
    Ok(typed("application/json", text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::route::ROUTES;

    #[test]
    fn the_document_lists_exactly_the_routes_that_are_served() {
        let document: serde_json::Value =
            serde_json::from_str(&Document::openapi().to_json().unwrap()).unwrap();
        let mut described: Vec<String> = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                described.push(format!("{} {path}", method.to_uppercase()));
            }
        }
        let mut served: Vec<String> = Vec::new();
        for (path, methods) in ROUTES {
            for method in methods.split(", ") {
                // Each GET answers HEAD too; the document says so once, for keys.
                if method != "HEAD" || *path == "/v1/keys/{key}" {
                    served.push(format!("{method} {path}"));
                }
            }
        }
        described.sort();
        served.sort();
        assert_eq!(described, served);
    }
}
