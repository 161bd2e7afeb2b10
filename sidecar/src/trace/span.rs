//! What a span tells: names that this program knows and numbers. There is no place in it for what a client sends, so no
//! key, value or path can be in one.
//!
//! Names and attributes are those of OpenTelemetry's semantic conventions for HTTP, RPC and databases; `url.path`, which
//! would hold keys, is left out.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tonic::Code;

use super::tracer::Begun;
use crate::metrics::Operation;

/// What a request was, as its protocol puts it.
#[derive(Debug, Clone, Copy)]
pub enum About {
    /// A request of HTTP.
    Http {
        /// The method, if it is one that is known.
        method: Option<&'static str>,
        /// The path as it is described, with a placeholder where the key is.
        route: Option<&'static str>,
        /// Version of the protocol.
        version: &'static str,
        /// Status of the answer.
        status: u16,
        /// Code of the problem, if the answer is one.
        code: Option<&'static str>,
    },
    /// A call of gRPC.
    Grpc {
        /// Service and method, if it is one that is offered.
        method: Option<&'static str>,
        /// Code of the answer.
        code: Code,
    },
    /// A command of the Redis protocol.
    Redis {
        /// Its name, if it is one.
        command: Option<&'static str>,
        /// The answer's error, if it is one.
        error: Option<RedisError>,
    },
}

/// An error of the Redis protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedisError {
    /// Its first word.
    pub prefix: &'static str,
    /// Its code, if it names one.
    pub code: Option<&'static str>,
    /// True if the store could not, false if the request is wrong.
    pub failed: bool,
}

/// A wait for the committer within a request.
#[derive(Debug, Clone, Copy)]
pub struct Waited {
    /// How long after the request had begun it began.
    pub after: Duration,
    /// How long it was.
    pub took: Duration,
}

/// A span that has ended.
#[derive(Debug)]
pub struct Span {
    /// Who it is.
    pub begun: Begun,
    /// When it began.
    pub start: SystemTime,
    /// How long it was.
    pub took: Duration,
    /// What the request asked for, in the metrics' terms.
    pub operation: Operation,
    /// What it was.
    pub about: About,
    /// The wait for the committer, and the id of its own span.
    pub commit: Option<(Waited, SpanId)>,
}

impl Span {
    /// How many spans it is for a collector.
    pub fn count(&self) -> u64 {
        1 + u64::from(self.commit.is_some())
    }

    /// It, and the wait for the committer as its child, as they are sent.
    pub fn data(&self, scope: &InstrumentationScope) -> impl Iterator<Item = SpanData> + use<> {
        let start = self.start;
        let of = |span, parent, remote, kind, name, after: Duration, took| SpanData {
            span_context: SpanContext::new(
                self.begun.trace,
                span,
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: parent,
            parent_span_is_remote: remote,
            span_kind: kind,
            name,
            start_time: start + after,
            end_time: start + after + took,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: scope.clone(),
        };
        let parent = self.begun.parent.unwrap_or(SpanId::INVALID);
        let mut request = of(
            self.begun.span,
            parent,
            self.begun.parent.is_some(),
            SpanKind::Server,
            self.about.name(),
            Duration::ZERO,
            self.took,
        );
        request.attributes = self.about.attributes();
        let operation = self.operation.as_str();
        let add = |name, value| KeyValue::new(name, value);
        request
            .attributes
            .push(add("codexstore.operation", operation));
        request
            .attributes
            .push(KeyValue::new("network.transport", "unix"));
        if let Some(error) = self.about.error() {
            request.attributes.push(KeyValue::new("error.type", error));
            request.status = Status::error("");
        }
        let commit = self.commit.map(|(waited, id)| {
            let (kind, name) = (SpanKind::Internal, "commit".into());
            let parent = self.begun.span;
            of(id, parent, false, kind, name, waited.after, waited.took)
        });
        std::iter::once(request).chain(commit)
    }
}

/// What stands for a name that is not known.
const OTHER: &str = "_OTHER";

impl About {
    fn name(&self) -> Cow<'static, str> {
        match *self {
            About::Http { method, route, .. } => match (method.unwrap_or("HTTP"), route) {
                (method, Some(route)) => format!("{method} {route}").into(),
                (method, None) => method.into(),
            },
            About::Grpc { method, .. } => method.unwrap_or(OTHER).into(),
            About::Redis { command, .. } => match command {
                Some(command) => command.to_uppercase().into(),
                None => "redis".into(),
            },
        }
    }

    fn attributes(&self) -> Vec<KeyValue> {
        match *self {
            About::Http {
                method,
                route,
                version,
                status,
                ..
            } => {
                let mut attributes = vec![
                    KeyValue::new("http.request.method", method.unwrap_or(OTHER)),
                    KeyValue::new("http.response.status_code", i64::from(status)),
                    KeyValue::new("network.protocol.version", version),
                    KeyValue::new("url.scheme", "http"),
                ];
                attributes.extend(route.map(|route| KeyValue::new("http.route", route)));
                attributes
            }
            About::Grpc { method, code } => vec![
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", method.unwrap_or(OTHER)),
                KeyValue::new("rpc.response.status_code", code_name(code)),
            ],
            About::Redis { command, error } => {
                let mut attributes = vec![KeyValue::new("db.system.name", "redis")];
                let name = command.map(str::to_uppercase);
                attributes.extend(name.map(|name| KeyValue::new("db.operation.name", name)));
                let word = error.map(|error| error.prefix);
                attributes.extend(word.map(|w| KeyValue::new("db.response.status_code", w)));
                attributes
            }
        }
    }

    /// Why the store or the sidecar could not do it. What is wrong with the request is no error of the server's.
    fn error(&self) -> Option<Cow<'static, str>> {
        match *self {
            About::Http { status, code, .. } if status >= 500 => {
                Some(code.map_or_else(|| status.to_string().into(), Cow::from))
            }
            About::Grpc { code, .. } => match code {
                Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss => Some(code_name(code).into()),
                _ => None,
            },
            About::Redis { error, .. } => {
                let error = error.filter(|error| error.failed)?;
                Some(error.code.unwrap_or(error.prefix).into())
            }
            About::Http { .. } => None,
        }
    }
}

/// A code of gRPC as its specification spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceId;

    use super::*;

    fn span(about: About, operation: Operation) -> Span {
        Span {
            begun: Begun {
                trace: TraceId::from(1),
                span: SpanId::from(2),
                parent: Some(SpanId::from(3)),
            },
            start: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
            took: Duration::from_millis(30),
            operation,
            about,
            commit: None,
        }
    }

    fn data(span: &Span) -> Vec<SpanData> {
        let scope = InstrumentationScope::builder("test").build();
        span.data(&scope).collect()
    }

    /// Name, attributes and whether it failed, as text.
    fn told(about: About, operation: Operation) -> String {
        let data = data(&span(about, operation)).remove(0);
        let mut attributes: Vec<_> = data
            .attributes
            .iter()
            .map(|a| format!("{}={}", a.key, a.value))
            .collect();
        attributes.sort();
        let failed = matches!(data.status, Status::Error { .. });
        format!(
            "{}: {}{}",
            data.name,
            attributes.join(" "),
            if failed { " FAILED" } else { "" }
        )
    }

    fn http(status: u16, code: Option<&'static str>) -> About {
        About::Http {
            method: Some("PUT"),
            route: Some("/v1/keys/{key}"),
            version: "1.1",
            status,
            code,
        }
    }

    #[test]
    fn a_request_of_http_is_told_by_its_route_and_failed_if_the_server_did() {
        let head = "PUT /v1/keys/{key}: codexstore.operation=put";
        let tail = "network.protocol.version=1.1 network.transport=unix url.scheme=http";
        let rest = "http.request.method=PUT http.response.status_code";
        let route = "http.route=/v1/keys/{key}";
        assert_eq!(
            told(http(204, None), Operation::Put),
            format!("{head} {rest}=204 {route} {tail}")
        );
        assert_eq!(
            told(http(412, Some("precondition-failed")), Operation::Put),
            format!("{head} {rest}=412 {route} {tail}")
        );
        assert_eq!(
            told(http(507, Some("disk-full")), Operation::Put),
            format!("{head} error.type=disk-full {rest}=507 {route} {tail} FAILED")
        );
        let unknown = About::Http {
            method: None,
            route: None,
            version: "2",
            status: 500,
            code: None,
        };
        assert_eq!(
            told(unknown, Operation::Other),
            "HTTP: codexstore.operation=other error.type=500 http.request.method=_OTHER \
             http.response.status_code=500 network.protocol.version=2 network.transport=unix url.scheme=http FAILED"
        );
    }

    #[test]
    fn a_call_of_grpc_is_told_by_its_method() {
        let about = |code| About::Grpc {
            method: Some("codexstore.v1.KV/Get"),
            code,
        };
        let told = |code| told(about(code), Operation::Get);
        let head = "codexstore.v1.KV/Get: codexstore.operation=get";
        let tail = "network.transport=unix rpc.method=codexstore.v1.KV/Get";
        for code in [Code::Ok, Code::NotFound, Code::InvalidArgument] {
            let name = code_name(code);
            assert_eq!(
                told(code),
                format!("{head} {tail} rpc.response.status_code={name} rpc.system.name=grpc")
            );
        }
        assert_eq!(
            told(Code::Unavailable),
            format!(
                "{head} error.type=UNAVAILABLE {tail} rpc.response.status_code=UNAVAILABLE rpc.system.name=grpc FAILED"
            )
        );
    }

    #[test]
    fn a_command_of_redis_is_told_by_its_name() {
        let error = |prefix, code, failed| {
            Some(RedisError {
                prefix,
                code,
                failed,
            })
        };
        let told = |error| {
            let command = Some("incr");
            told(About::Redis { command, error }, Operation::Put)
        };
        let head = "INCR: codexstore.operation=put db.operation.name=INCR";
        let tail = "db.system.name=redis";
        assert_eq!(told(None), format!("{head} {tail} network.transport=unix"));
        assert_eq!(
            told(error("ERR", None, false)),
            format!("{head} db.response.status_code=ERR {tail} network.transport=unix")
        );
        assert_eq!(
            told(error("OOM", Some("memory-full"), true)),
            format!(
                "{head} db.response.status_code=OOM {tail} error.type=memory-full network.transport=unix FAILED"
            )
        );
    }

    #[test]
    fn the_wait_for_the_committer_is_a_child_within_its_request() {
        let mut span = span(http(201, None), Operation::Put);
        assert_eq!((span.count(), data(&span).len()), (1, 1));
        let waited = Waited {
            after: Duration::from_millis(10),
            took: Duration::from_millis(15),
        };
        span.commit = Some((waited, SpanId::from(9)));
        let data = data(&span);
        assert_eq!((span.count(), data.len()), (2, 2));
        let (request, commit) = (&data[0], &data[1]);
        assert_eq!(request.parent_span_id, SpanId::from(3));
        assert!(request.parent_span_is_remote && !commit.parent_span_is_remote);
        assert_eq!(commit.name, "commit");
        assert_eq!(commit.parent_span_id, request.span_context.span_id());
        assert_eq!(
            commit.span_context.trace_id(),
            request.span_context.trace_id()
        );
        let millis = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(
            (request.start_time, request.end_time),
            (millis(100_000), millis(100_030))
        );
        assert_eq!(
            (commit.start_time, commit.end_time),
            (millis(100_010), millis(100_025))
        );
    }
}
