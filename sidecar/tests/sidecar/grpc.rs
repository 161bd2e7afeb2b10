//! gRPC on the socket, by the client that its proto generates.

use std::task::{Context, Poll};

use bytes::Bytes;
use codexstore_api::grpc::change::operation::Operation as Did;
use codexstore_api::grpc::compare_and_set_request::Expected;
use codexstore_api::grpc::condition::Condition as Kind;
use codexstore_api::grpc::kv_client::KvClient;
use codexstore_api::grpc::operation::{self, Operation as Op};
use codexstore_api::grpc::{
    BatchRequest, CompareAndSetRequest, Condition, DeletePrefixRequest, DeleteRequest, GetRequest,
    HistoryRequest, ListRequest, Operation, Precondition, SetRequest, StatusRequest, WatchRequest,
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
struct Connection(SendRequest<Body>);

impl Connection {
    async fn open(s: &Sidecar) -> Connection {
        let stream = tokio::net::UnixStream::connect(&s.socket).await.unwrap();
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

async fn client(s: &Sidecar) -> KvClient<Connection> {
    KvClient::new(Connection::open(s).await).max_decoding_message_size(64 << 20)
}

fn set(key: &str, value: impl Into<Bytes>) -> SetRequest {
    SetRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.into(),
        ..SetRequest::default()
    }
}

fn get(key: &'static str) -> GetRequest {
    GetRequest { key: key.into() }
}

fn when(kind: Kind) -> Condition {
    Condition {
        condition: Some(kind),
    }
}

#[track_caller]
fn refused(status: &Status, code: Code, reason: &str) {
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
fn a_list_streams_pages_in_order_up_to_its_limit() {
    let place = Place::new();
    let s = place.ready(&[]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        for chunk in (0..2_500).collect::<Vec<u32>>().chunks(500) {
            let operations = chunk.iter().map(|n| Operation {
                operation: Some(Op::Set(operation::Set {
                    key: format!("k/{n:04}").into(),
                    value: vec![b'v'; 200].into(),
                    ttl_ms: None,
                })),
            });
            let request = BatchRequest {
                operations: operations.collect(),
                preconditions: vec![],
                ..BatchRequest::default()
            };
            kv.batch(request).await.unwrap();
        }
        kv.set(set("other", "v")).await.unwrap();
        let mut list = async |request| {
            let mut pages = kv.list(request).await.unwrap().into_inner();
            let (mut entries, mut count) = (Vec::new(), 0);
            while let Some(page) = pages.message().await.unwrap() {
                entries.extend(page.entries);
                count += 1;
            }
            (entries, count)
        };
        let all = ListRequest {
            prefix: "k/".into(),
            ..ListRequest::default()
        };
        let (entries, pages) = list(all.clone()).await;
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
        let wanted: Vec<_> = (0..2_500)
            .map(|n| Bytes::from(format!("k/{n:04}")))
            .collect();
        assert_eq!(keys, wanted);
        assert!(
            pages > 2 && entries.iter().all(|entry| entry.value.len() == 200),
            "{pages}"
        );
        let (entries, _) = list(ListRequest {
            limit: 1_500,
            keys_only: true,
            ..all.clone()
        })
        .await;
        assert_eq!(entries.len(), 1_500);
        assert!(
            entries
                .iter()
                .all(|entry| entry.value.is_empty() && entry.revision > 0)
        );
        let (entries, _) = list(ListRequest {
            from: "k/2490".into(),
            r#match: "*5".into(),
            ..all
        })
        .await;
        assert_eq!(entries.len(), 1);

        let remove = |prefix: &'static str, all| DeletePrefixRequest {
            prefix: prefix.into(),
            all,
        };
        refused(
            &kv.delete_prefix(remove("", false)).await.unwrap_err(),
            Code::InvalidArgument,
            "invalid-argument",
        );
        assert_eq!(
            kv.delete_prefix(remove("k/", false))
                .await
                .unwrap()
                .into_inner()
                .deleted,
            2_500
        );
        assert_eq!(
            kv.delete_prefix(remove("", true))
                .await
                .unwrap()
                .into_inner()
                .deleted,
            1
        );
    });
}

#[test]
fn a_client_that_leaves_a_list_or_takes_it_slowly_holds_up_nobody() {
    let place = Place::new();
    let s = place.ready(&["--io-timeout", "1s"]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        for n in 0..64 {
            kv.set(set(&format!("k/{n:02}"), vec![b'v'; 200 << 10]))
                .await
                .unwrap();
        }
        let all = ListRequest {
            prefix: "k/".into(),
            ..ListRequest::default()
        };
        // More of them than there are places to compute pages.
        for _ in 0..16 {
            let mut pages = kv.list(all.clone()).await.unwrap().into_inner();
            assert!(pages.message().await.unwrap().is_some());
        }
        let mut other = client(&s).await;
        let mut slow = other.list(all).await.unwrap().into_inner();
        assert!(slow.message().await.unwrap().is_some());
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        kv.set(set("x", "v")).await.unwrap();
        // Its connection was ended, as a slow reader's is.
        let mut left = 0;
        while let Ok(Some(_)) = slow.message().await {
            left += 1;
        }
        assert!(left < 63, "{left}");
        assert!(other.get(get("x")).await.is_err());
    });
    let metrics = String::from_utf8(s.get("/metrics").body).unwrap();
    assert!(
        metrics.contains(r#"codexstore_rejected_total{reason="slow_reader"} 1"#),
        "{metrics}"
    );
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

#[test]
fn a_watch_goes_on_where_an_earlier_one_was() {
    let place = Place::new();
    let s = place.ready(&[]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        let watch = WatchRequest {
            prefix: "a/".into(),
            ..WatchRequest::default()
        };
        let mut changes = kv.watch(watch.clone()).await.unwrap().into_inner();
        let begin = changes.message().await.unwrap().unwrap();
        assert!(begin.change.is_none() && begin.lineage.len() == 16);
        kv.set(set("b", "unseen")).await.unwrap();
        let named = SetRequest {
            actor: "alice".into(),
            ..set("a/1", "one")
        };
        kv.set(named).await.unwrap();
        let first = changes.message().await.unwrap().unwrap();
        let change = first.change.unwrap();
        assert_eq!(change.actor, "alice");
        let [op] = &change.operations[..] else {
            panic!("{change:?}")
        };
        let Some(Did::Set(entry)) = &op.operation else {
            panic!("{op:?}")
        };
        assert!(entry.key == "a/1" && entry.value == "one");
        drop(changes);

        kv.delete(DeleteRequest {
            key: "a/1".into(),
            ..DeleteRequest::default()
        })
        .await
        .unwrap();
        let resumed = WatchRequest {
            from: first.resume_from,
            lineage: first.lineage.clone(),
            ..watch.clone()
        };
        let mut changes = kv.watch(resumed).await.unwrap().into_inner();
        assert!(changes.message().await.unwrap().unwrap().change.is_none());
        let second = changes.message().await.unwrap().unwrap().change.unwrap();
        assert_eq!(
            second.operations[0].operation,
            Some(Did::Delete("a/1".into()))
        );

        let other = WatchRequest {
            lineage: "0123456789abcdef".into(),
            ..watch.clone()
        };
        let gone = kv.watch(other).await.unwrap_err();
        refused(&gone, Code::OutOfRange, "past-gone");
        let metadata = gone
            .get_error_details()
            .error_info()
            .unwrap()
            .metadata
            .clone();
        assert_eq!(metadata["revision"], second.revision.to_string());
        let ahead = WatchRequest {
            from: 1000,
            ..watch
        };
        refused(
            &kv.watch(ahead).await.unwrap_err(),
            Code::InvalidArgument,
            "invalid-argument",
        );
        let history = HistoryRequest {
            key: "a/1".into(),
            ..HistoryRequest::default()
        };
        let mut versions = kv.history(history).await.unwrap().into_inner();
        refused(
            &versions.message().await.unwrap_err(),
            Code::Unimplemented,
            "unsupported",
        );
    });
}

#[test]
fn a_ledger_streams_what_became_of_a_key() {
    let place = Place::new();
    let s = place.ready(&["--strategy", "ledger"]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        for n in 0..250 {
            kv.set(set("k", format!("{n}"))).await.unwrap();
        }
        let bob = DeleteRequest {
            key: "k".into(),
            actor: "bob".into(),
            ..DeleteRequest::default()
        };
        kv.delete(bob).await.unwrap();
        let mut all = async |limit| {
            let request = HistoryRequest {
                key: "k".into(),
                from: 0,
                limit,
            };
            let mut versions = kv.history(request).await.unwrap().into_inner();
            let mut found = Vec::new();
            while let Some(version) = versions.message().await.unwrap() {
                found.push(version);
            }
            found
        };
        let found = all(0).await;
        assert_eq!(found.len(), 251);
        for (n, version) in found[..250].iter().enumerate() {
            let entry = version.entry.as_ref().unwrap();
            assert!(entry.value == format!("{n}") && entry.version == n as u64 + 1);
            assert!(entry.revision == version.revision && version.time_ms > 0);
        }
        assert!(found[250].entry.is_none() && !found[250].expired && found[250].actor == "bob");
        assert_eq!(all(130).await.len(), 130);
    });
}
