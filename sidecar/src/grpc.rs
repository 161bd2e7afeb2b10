//! gRPC on the socket: `codexstore.v1.KV`, health and reflection, told from HTTP by content type.
//!
//! Calls are bounded as HTTP's requests are: in number, in the bytes that all bodies take together,
//! and in time.

mod convert;
mod health;
mod intake;
mod kv;
mod past;
mod status;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use codexstore_api::grpc::{FILE_DESCRIPTOR_SET, kv_server::KvServer};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Instant as Deadline, timeout_at};
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;

use crate::access::Grant;
use crate::engine::Engine;
use crate::http::answer::Body;
use crate::http::{App, InWork};
use crate::metrics::{Operation, Protocol};
use crate::trace::{About, Traced};
use intake::{Intake, Share};

type Call = Request<tonic::body::Body>;
type Serve = dyn Fn(Call) -> Answered + Send + Sync;
type Answered = Pin<Box<dyn Future<Output = Response<tonic::body::Body>> + Send>>;

/// All services.
pub struct Grpc {
    services: Vec<(&'static str, Box<Serve>)>,
}

/// What a call may do and take: handed to its method among the request's extensions.
#[derive(Clone)]
struct Terms {
    grant: Arc<Grant>,
    deadline: Deadline,
    share: Share,
}

impl Terms {
    fn of<T>(request: &tonic::Request<T>) -> Result<Terms, Status> {
        let terms = request.extensions().get::<Terms>().cloned();
        terms.ok_or_else(|| Status::internal("the call came without its terms"))
    }
}

impl Grpc {
    /// The services of an app.
    pub fn new<E: Engine>(app: &Arc<App<E>>) -> anyhow::Result<Grpc> {
        // Room for the largest value, or many small ones.
        let most = 2 * app.limits.max_value + (1 << 20);
        let kv = KvServer::new(kv::Kv(Arc::clone(app))).max_decoding_message_size(most);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let health = HealthServer::new(health::Health(Arc::clone(app)));
        Ok(Grpc {
            services: vec![
                service(kv),
                service(health),
                service(reflection().build_v1()?),
                service(reflection().build_v1alpha()?),
            ],
        })
    }

    fn find(&self, path: &str) -> Option<&Serve> {
        let (service, _) = path.strip_prefix('/')?.split_once('/')?;
        let found = self.services.iter().find(|(name, _)| *name == service);
        found.map(|(_, serve)| &**serve)
    }
}

fn service<S>(service: S) -> (&'static str, Box<Serve>)
where
    S: Service<Call, Response = Response<tonic::body::Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let serve = move |call| -> Answered {
        // A generated service is always ready.
        let answer = service.clone().call(call);
        Box::pin(async move {
            match answer.await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        })
    };
    (S::NAME, Box::new(serve))
}

/// Answers one call.
pub async fn answer<E: Engine>(
    app: &App<E>,
    grpc: &Grpc,
    grant: &Arc<Grant>,
    request: Request<Incoming>,
) -> Response<Body> {
    let started = Instant::now();
    let in_work = app.in_work.fetch_add(1, Ordering::Relaxed);
    let counted = InWork::new(&app.in_work);
    let (method, operation) = asked(request.uri().path());
    let mut traced = Traced::begin(app.tracer.as_ref(), request.headers(), started);
    let response = if in_work >= app.limits.max_requests && operation != Operation::Health {
        status::of("overloaded", "too many requests are in work").into_http()
    } else {
        let mut work = pin!(serve(app, grpc, grant, request, started));
        poll_fn(|cx| traced.poll(work.as_mut(), cx)).await
    };
    let code = response.headers().get(Status::GRPC_STATUS);
    let code = code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
    if !matches!(code, Code::Ok | Code::NotFound) {
        let told = status::code_of(response.headers());
        app.metrics.error(Protocol::Grpc, told.as_deref());
    }
    let took = started.elapsed();
    let trace = traced.end(took, operation, || About::Grpc { method, code });
    app.metrics.done(
        Protocol::Grpc,
        operation,
        as_http(code),
        took,
        trace.as_ref(),
    );
    tracing::debug!(
        operation = operation.as_str(),
        code = ?code,
        micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "call"
    );
    let (mut head, body) = response.into_parts();
    let share = head.extensions.remove::<Share>();
    let mut body = Body::streaming(body, share.and_then(|share| share.take()));
    body.in_work(counted);
    Response::from_parts(head, body)
}

async fn serve<E: Engine>(
    app: &App<E>,
    grpc: &Grpc,
    grant: &Arc<Grant>,
    request: Request<Incoming>,
    started: Instant,
) -> Response<tonic::body::Body> {
    let (mut head, body) = request.into_parts();
    let Some(method) = grpc.find(head.uri.path()) else {
        return Status::unimplemented("no such service; reflection lists them").into_http();
    };
    let asked = head.headers.get("grpc-timeout");
    let patience = match asked.map(|text| timeout(text.as_bytes())) {
        None => app.limits.request,
        Some(Some(patience)) => patience.min(app.limits.request),
        Some(None) => return Status::invalid_argument("malformed grpc-timeout").into_http(),
    };
    let terms = Terms {
        grant: Arc::clone(grant),
        deadline: Deadline::from_std(started + patience),
        share: Share::default(),
    };
    let deadline = terms.deadline;
    let body = Intake::new(body, Arc::clone(&app.in_flight), terms.share.clone());
    head.extensions.insert(terms);
    let call = Request::from_parts(head, tonic::body::Body::new(body));
    match timeout_at(deadline, method(call)).await {
        Ok(response) => response,
        Err(_) => status::of("deadline", "the call's time is over").into_http(),
    }
}

/// The time that a client gives a call: digits and a unit, as gRPC's HTTP/2 mapping has it.
fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The methods that are offered, and as what they are counted.
const METHODS: [(&str, Operation); 14] = [
    ("codexstore.v1.KV/Get", Operation::Get),
    ("codexstore.v1.KV/Set", Operation::Put),
    ("codexstore.v1.KV/CompareAndSet", Operation::Put),
    ("codexstore.v1.KV/Delete", Operation::Delete),
    ("codexstore.v1.KV/DeletePrefix", Operation::DeletePrefix),
    ("codexstore.v1.KV/List", Operation::List),
    ("codexstore.v1.KV/Batch", Operation::Batch),
    ("codexstore.v1.KV/History", Operation::History),
    ("codexstore.v1.KV/Watch", Operation::Watch),
    ("codexstore.v1.KV/Status", Operation::Status),
    ("grpc.health.v1.Health/Check", Operation::Health),
    ("grpc.health.v1.Health/Watch", Operation::Health),
    (
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Operation::Other,
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Operation::Other,
    ),
];

/// What a path asks for: the method, if it is one that is offered, and as what it is counted.
fn asked(path: &str) -> (Option<&'static str>, Operation) {
    let path = path.strip_prefix('/').unwrap_or_default();
    let known = METHODS.iter().find(|(method, _)| *method == path);
    match known {
        Some((method, operation)) => (Some(method), *operation),
        None => (None, Operation::Other),
    }
}

/// The outcome in the metrics' terms.
fn as_http(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::ResourceExhausted => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_interface_is_known() {
        let set: prost_types::FileDescriptorSet =
            prost::Message::decode(FILE_DESCRIPTOR_SET).unwrap();
        let mut seen = 0;
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    let (known, operation) = asked(&format!("/{name}"));
                    assert_eq!(known, Some(name.as_str()));
                    assert_ne!(operation, Operation::Other, "{name}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 10);
        for other in [
            "",
            "/",
            "codexstore.v1.KV/Get",
            "/codexstore.v1.KV/get",
            "/canary/Get",
        ] {
            assert_eq!(asked(other), (None, Operation::Other), "{other}");
        }
    }

    #[test]
    fn a_clients_time_is_read_in_every_unit_and_nothing_else_is() {
        for (text, wanted) in [
            ("2H", Some(Duration::from_hours(2))),
            ("1M", Some(Duration::from_mins(1))),
            ("30S", Some(Duration::from_secs(30))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("123456789S", None),
            ("1s", None),
        ] {
            assert_eq!(timeout(text.as_bytes()), wanted, "{text}");
        }
    }
}
