//! Paths and the methods that each takes.

use codexstore_api::path;

/// Every path with its methods, as `Allow` lists them. The `OpenAPI` document has the same.
pub const ROUTES: &[(&str, &str)] = &[
    ("/v1/keys/{key}", "GET, HEAD, PUT, DELETE"),
    ("/v1/keys/{key}/history", "GET, HEAD"),
    (path::KEYS, "GET, HEAD, DELETE"),
    (path::BATCH, "POST"),
    (path::WATCH, "GET"),
    (path::ACCEPT_CLOCK, "POST"),
    (path::STATUS, "GET, HEAD"),
    (path::HEALTH, "GET, HEAD"),
    (path::READY, "GET, HEAD"),
    (path::METRICS, "GET, HEAD"),
    (path::OPENAPI, "GET, HEAD"),
];

/// A path that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// One key, still percent-encoded.
    Key(&'a str),
    /// What became of one key, still percent-encoded.
    History(&'a str),
    /// The list of keys.
    Keys,
    /// Batches.
    Batch,
    /// Changes.
    Watch,
    /// The wall clock.
    Clock,
    /// The member's state.
    Status,
    /// Liveness.
    Health,
    /// Readiness.
    Ready,
    /// Metrics.
    Metrics,
    /// This interface's description.
    OpenApi,
}

impl<'a> Route<'a> {
    /// The route of a path.
    pub fn of(path: &'a str) -> Option<Route<'a>> {
        if let Some(key) = path.strip_prefix("/v1/keys/") {
            // A slash begins a sub-resource of the key.
            return match key.split_once('/') {
                None => Some(Route::Key(key)),
                Some((key, "history")) => Some(Route::History(key)),
                Some(_) => None,
            };
        }
        Some(match path {
            path::KEYS => Route::Keys,
            path::BATCH => Route::Batch,
            path::WATCH => Route::Watch,
            path::ACCEPT_CLOCK => Route::Clock,
            path::STATUS => Route::Status,
            path::HEALTH => Route::Health,
            path::READY => Route::Ready,
            path::METRICS => Route::Metrics,
            path::OPENAPI => Route::OpenApi,
            _ => return None,
        })
    }

    /// The path as the table has it.
    pub fn template(self) -> &'static str {
        match self {
            Route::Key(_) => "/v1/keys/{key}",
            Route::History(_) => "/v1/keys/{key}/history",
            Route::Keys => path::KEYS,
            Route::Batch => path::BATCH,
            Route::Watch => path::WATCH,
            Route::Clock => path::ACCEPT_CLOCK,
            Route::Status => path::STATUS,
            Route::Health => path::HEALTH,
            Route::Ready => path::READY,
            Route::Metrics => path::METRICS,
            Route::OpenApi => path::OPENAPI,
        }
    }

    /// The methods that it takes.
    pub fn allow(self) -> &'static str {
        let mut routes = ROUTES.iter();
        routes
            .find(|(path, _)| *path == self.template())
            .map_or("", |(_, methods)| methods)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_of_the_table_is_a_route_of_that_template() {
        for (template, methods) in ROUTES {
            let route = Route::of(template).unwrap();
            assert_eq!(route.template(), *template);
            assert_eq!(route.allow(), *methods);
        }
        assert_eq!(Route::of("/v1/keys/"), Some(Route::Key("")));
        for other in [
            "",
            "/",
            "*",
            "/v1",
            "/v1/keys/a/b",
            "/v1/keysx",
            "/v1/batch/",
            "/V1/batch",
        ] {
            assert_eq!(Route::of(other), None, "{other}");
        }
    }
}
