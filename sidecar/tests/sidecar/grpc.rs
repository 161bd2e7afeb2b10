//! gRPC on the socket, by the client that its proto generates.

use std::os::unix::net::UnixStream;
use std::task::{Context, Poll};

use bytes::Bytes;
use codexstore_api::grpc::compare_and_set_request::Expected;
use codexstore_api::grpc::condition::Condition as Kind;
use codexstore_api::grpc::kv_client::KvClient;
use codexstore_api::grpc::operation::{self, Operation as Op};
use codexstore_api::grpc::{
    BatchRequest, CompareAndSetRequest, Condition, DeletePrefixRequest, DeleteRequest, GetRequest,
    ListRequest, Operation, Precondition, SetRequest, StatusRequest,
};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::harness::{Place, Sidecar, runtime};

/// One HTTP/2 connection to the socket.
#[derive(Clone)]
pub struct Connection(SendRequest<Body>);

impl Connection {
    pub async fn open(s: &Sidecar) -> Connection {
        Connection::over(s.connect()).await
    }

    /// Over a stream that somebody has connected.
    pub async fn over(stream: UnixStream) -> Connection {
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(stream).unwrap();
        let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Connection(requests)
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path_and_query().unwrap().as_str();
        *request.uri_mut() = format!("http://localhost{path}").parse().unwrap();
        Box::pin(self.0.send_request(request))
    }
}

pub async fn client(s: &Sidecar) -> KvClient<Connection> {
    KvClient::new(Connection::open(s).await).max_decoding_message_size(64 << 20)
}

pub fn set(key: &str, value: impl Into<Bytes>) -> SetRequest {
    SetRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.into(),
        ..SetRequest::default()
    }
}

pub fn get(key: &'static str) -> GetRequest {
    GetRequest {
        key: key.into(),
        ..GetRequest::default()
    }
}

fn when(kind: Kind) -> Condition {
    Condition {
        condition: Some(kind),
    }
}

#[track_caller]
pub fn refused(status: &Status, code: Code, reason: &str) {
    let info = status.get_error_details().error_info().cloned();
    let found = info
        .as_ref()
        .map(|info| (info.reason.as_str(), info.domain.as_str()));
    assert_eq!(
        (status.code(), found),
        (code, Some((reason, "codexstore.dev"))),
        "{status:?}"
    );
}

#[test]
fn keys_are_written_read_and_removed() {
    let place = Place::new();
    let s = place.ready(&[]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        refused(
            &kv.get(get("a")).await.unwrap_err(),
            Code::NotFound,
            "not-found",
        );
        let first = kv.set(set("a", "one")).await.unwrap().into_inner();
        assert!(first.created && first.expires_at_ms.is_none());
        let second = kv
            .set(SetRequest {
                ttl_ms: Some(60_000),
                ..set("a", "two")
            })
            .await
            .unwrap();
        let second = second.into_inner();
        assert!(!second.created && second.revision > first.revision);
        let entry = kv.get(get("a")).await.unwrap().into_inner().entry.unwrap();
        assert_eq!((&entry.key[..], &entry.value[..]), (&b"a"[..], &b"two"[..]));
        assert_eq!(
            (entry.revision, entry.created_revision, entry.version),
            (second.revision, first.revision, 2)
        );
        assert_eq!(entry.expires_at_ms, second.expires_at_ms);
        assert!(entry.expires_at_ms.is_some());
        // The same store as over HTTP.
        assert_eq!(s.get("/v1/keys/a").body, b"two");

        let stale = SetRequest {
            condition: Some(when(Kind::Revision(first.revision))),
            ..set("a", "x")
        };
        refused(
            &kv.set(stale).await.unwrap_err(),
            Code::Aborted,
            "precondition-failed",
        );
        let there = SetRequest {
            condition: Some(when(Kind::Absent(true))),
            ..set("a", "x")
        };
        refused(
            &kv.set(there).await.unwrap_err(),
            Code::Aborted,
            "precondition-failed",
        );
        let empty = SetRequest {
            condition: Some(when(Kind::Absent(false))),
            ..set("a", "x")
        };
        refused(
            &kv.set(empty).await.unwrap_err(),
            Code::InvalidArgument,
            "invalid-argument",
        );
        let none = SetRequest {
            ttl_ms: Some(0),
            ..set("a", "x")
        };
        refused(
            &kv.set(none).await.unwrap_err(),
            Code::InvalidArgument,
            "invalid-argument",
        );
        refused(
            &kv.set(set("", "x")).await.unwrap_err(),
            Code::InvalidArgument,
            "invalid-key",
        );
        let current = SetRequest {
            condition: Some(when(Kind::Revision(second.revision))),
            ..set("a", "three")
        };
        kv.set(current).await.unwrap();

        let delete = |condition| DeleteRequest {
            key: "a".into(),
            condition,
            ..DeleteRequest::default()
        };
        let error = kv
            .delete(delete(Some(when(Kind::Revision(1)))))
            .await
            .unwrap_err();
        refused(&error, Code::Aborted, "precondition-failed");
        assert!(
            kv.delete(delete(Some(when(Kind::Present(true)))))
                .await
                .unwrap()
                .into_inner()
                .revision
                > second.revision
        );
        refused(
            &kv.delete(delete(None)).await.unwrap_err(),
            Code::NotFound,
            "not-found",
        );
    });
}

#[test]
fn calls_are_counted_by_operation_and_outcome() {
    let place = Place::new();
    let s = place.ready(&[]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        kv.get(get("a")).await.unwrap_err();
    });
    let metrics = String::from_utf8(s.get("/metrics").body).unwrap();
    let line =
        r#"codexstore_requests_total{protocol="grpc",operation="get",outcome="not_found"} 1"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[test]
fn compare_and_set_answers_what_is_there_instead() {
    let place = Place::new();
    let s = place.ready(&[]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        let mut swap = async |expected, value: &'static str| {
            let request = CompareAndSetRequest {
                key: "n".into(),
                expected,
                new_value: value.into(),
                ttl_ms: None,
                ..CompareAndSetRequest::default()
            };
            kv.compare_and_set(request)
                .await
                .map(tonic::Response::into_inner)
        };
        let absent = swap(Some(Expected::Value("0".into())), "1").await.unwrap();
        assert!(!absent.swapped && absent.current.is_none());
        let made = swap(Some(Expected::Absent(true)), "1").await.unwrap();
        assert!(made.swapped && made.revision > 0);
        let other = swap(Some(Expected::Value("0".into())), "2").await.unwrap();
        let current = other.current.unwrap();
        assert!(!other.swapped && current.value == "1" && current.revision == made.revision);
        assert!(
            swap(Some(Expected::Value("1".into())), "2")
                .await
                .unwrap()
                .swapped
        );
        assert!(
            !swap(Some(Expected::Revision(made.revision)), "3")
                .await
                .unwrap()
                .swapped
        );
        assert!(
            !swap(Some(Expected::Absent(true)), "3")
                .await
                .unwrap()
                .swapped
        );
        refused(
            &swap(None, "3").await.unwrap_err(),
            Code::InvalidArgument,
            "invalid-argument",
        );
    });
    assert_eq!(s.get("/v1/keys/n").body, b"2");
}

#[test]
fn a_batch_happens_as_one_revision_or_not_at_all() {
    let place = Place::new();
    let s = place.ready(&[]);
    let write = |key: &'static str| Operation {
        operation: Some(Op::Set(operation::Set {
            key: key.into(),
            value: "v".into(),
            ttl_ms: None,
        })),
    };
    let delete = |key: &'static str| Operation {
        operation: Some(Op::Delete(operation::Delete { key: key.into() })),
    };
    let expect = |key: &'static str, kind| Precondition {
        key: key.into(),
        condition: Some(when(kind)),
    };
    runtime().block_on(async {
        let mut kv = client(&s).await;
        let done = kv.batch(BatchRequest {
            operations: vec![write("a"), write("b"), delete("c")],
            preconditions: vec![expect("a", Kind::Absent(true))],
            ..BatchRequest::default()
        });
        let done = done.await.unwrap().into_inner();
        assert_eq!((done.created, done.updated, done.deleted), (2, 0, 0));
        let again = BatchRequest {
            operations: vec![delete("a"), delete("b")],
            preconditions: vec![
                expect("a", Kind::Present(true)),
                expect("b", Kind::Absent(true)),
            ],
            ..BatchRequest::default()
        };
        refused(
            &kv.batch(again).await.unwrap_err(),
            Code::Aborted,
            "precondition-failed",
        );
        let wrong = BatchRequest {
            operations: vec![write("a"), Operation::default()],
            preconditions: vec![],
            ..BatchRequest::default()
        };
        let error = kv.batch(wrong).await.unwrap_err();
        refused(&error, Code::InvalidArgument, "invalid-argument");
        assert!(error.message().starts_with("operation 1: "), "{error:?}");
        let many = BatchRequest {
            operations: vec![write("a"); 10_001],
            preconditions: vec![],
            ..BatchRequest::default()
        };
        refused(
            &kv.batch(many).await.unwrap_err(),
            Code::InvalidArgument,
            "too-large",
        );
        assert_eq!(
            kv.status(StatusRequest {})
                .await
                .unwrap()
                .into_inner()
                .revision,
            done.revision
        );
    });
}

#[test]
fn large_values_pass_and_larger_ones_are_refused() {
    let place = Place::new();
    let s = place.ready(&[]);
    let big: Bytes = (0..(7 << 20))
        .map(|n: u32| n.to_le_bytes()[0])
        .collect::<Vec<u8>>()
        .into();
    runtime().block_on(async {
        let mut kv = client(&s).await;
        kv.set(set("big", big.clone())).await.unwrap();
        let entry = kv
            .get(get("big"))
            .await
            .unwrap()
            .into_inner()
            .entry
            .unwrap();
        assert!(entry.value == big);
        let larger = vec![0; (8 << 20) + 1];
        refused(
            &kv.set(set("larger", larger)).await.unwrap_err(),
            Code::InvalidArgument,
            "too-large",
        );
        let error = kv.set(set("huge", vec![0; 20 << 20])).await.unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange, "{error:?}");
        assert!(kv.get(get("big")).await.is_ok());
    });
}

#[test]
fn what_no_rule_allows_is_denied_with_the_rule_that_is_missing() {
    let place = Place::new();
    let rules = r#"[{"uids": [4000000000], "verbs": ["Read", "Write"]}]"#;
    let s = place.ready(&["--access", rules]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        for status in [
            kv.get(get("a")).await.unwrap_err(),
            kv.set(set("a", "v")).await.unwrap_err(),
            kv.delete_prefix(DeletePrefixRequest {
                prefix: "a".into(),
                all: false,
            })
            .await
            .unwrap_err(),
        ] {
            refused(&status, Code::PermissionDenied, "denied");
            assert!(status.message().contains("spec.access"), "{status:?}");
        }
        let mut pages = kv.list(ListRequest::default()).await.unwrap().into_inner();
        assert!(
            pages
                .message()
                .await
                .unwrap()
                .is_none_or(|page| page.entries.is_empty())
        );
        assert!(kv.status(StatusRequest {}).await.is_ok());
    });
}

#[test]
fn health_and_reflection_answer_as_their_tools_expect() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let place = Place::new();
    let s = place.ready(&[]);
    runtime().block_on(async {
        let connection = Connection::open(&s).await;
        let mut health = HealthClient::new(connection.clone());
        for (service, wanted) in [
            ("", Ok(1)),
            ("codexstore.v1.KV", Ok(1)),
            ("x.Y", Err(Code::NotFound)),
        ] {
            let answer = health
                .check(HealthCheckRequest {
                    service: service.into(),
                })
                .await;
            let answer = answer
                .map(|found| found.into_inner().status)
                .map_err(|status| status.code());
            assert_eq!(answer, wanted, "{service}");
        }
        let mut watch = health
            .watch(HealthCheckRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status, 1);

        let mut reflection = ServerReflectionClient::new(connection.clone());
        let ask = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..ServerReflectionRequest::default()
        };
        let asked = tonic::codegen::tokio_stream::once(ask);
        let mut answers = reflection
            .server_reflection_info(asked)
            .await
            .unwrap()
            .into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(list)) = answer else {
            panic!("{answer:?}")
        };
        let names: Vec<_> = list
            .service
            .into_iter()
            .map(|service| service.name)
            .collect();
        for name in ["codexstore.v1.KV", "grpc.health.v1.Health"] {
            assert!(names.iter().any(|found| found == name), "{names:?}");
        }

        let mut unknown = KvClient::with_origin(connection.clone(), "http://s".parse().unwrap());
        let mut late = tonic::Request::new(get("a"));
        late.metadata_mut()
            .insert("grpc-timeout", "soon".parse().unwrap());
        assert_eq!(
            unknown.get(late).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    });
}
