//! The interface's own description, and what it says about itself.

use crate::harness::{Place, ping};

#[test]
fn the_document_lists_exactly_what_is_served() {
    let place = Place::new();
    let s = place.ready(&[]);
    let document: serde_json::Value = serde_json::from_slice(&s.get("/openapi.json").body).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    for schema in ["List", "Batch", "Problem", "Status"] {
        assert!(
            document["components"]["schemas"].get(schema).is_some(),
            "{schema}"
        );
    }
    let paths = document["paths"].as_object().unwrap();
    for (path, described) in paths {
        let target = path.replace("{key}", "k");
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"] {
            if (path.as_str(), method) == ("/v1/watch", "GET") {
                // It answers for as long as one listens.
                continue;
            }
            let listed = described.get(method.to_lowercase()).is_some()
                || (method == "HEAD" && path != "/v1/watch" && described.get("get").is_some());
            let answer = s.request(method, &target, "", b"");
            assert_eq!(answer.status != 405, listed, "{method} {path}: {answer:?}");
            if !listed {
                let allow = answer.header("allow").unwrap().to_uppercase();
                for (method, _) in described.as_object().unwrap() {
                    assert!(
                        allow.contains(&method.to_uppercase()),
                        "{allow} lacks {method}"
                    );
                }
            }
        }
    }
    for other in [
        "/",
        "/v1",
        "/v1/",
        "/v1/keys/a/past",
        "/v1/watch/",
        "/metrics/",
        "//v1/status",
        "*",
    ] {
        s.get(other).refused(404, "no-such-route");
    }
}

#[test]
fn status_health_and_metrics_tell_what_runs() {
    let place = Place::new();
    let s = place.ready(&[
        "--store",
        "orders",
        "--pod-uid",
        "u-1",
        "--spec-hash",
        "h",
        "--compression",
        "snappy",
    ]);
    s.put("k", b"value");
    let status = s.status();
    assert_eq!(status.state, codexstore_api::status::State::Ready);
    assert_eq!(
        (
            status.store.as_str(),
            status.pod_uid.as_str(),
            status.spec_hash.as_str()
        ),
        ("orders", "u-1", "h")
    );
    assert_eq!((status.keys, status.revision), (1, 1));
    assert_eq!(
        (status.cipher.as_str(), status.compression.as_str()),
        ("AES-256-GCM", "snappy")
    );
    assert_eq!(status.key_id, crate::harness::KEY_ID);
    assert_eq!(status.loaded_key_ids, [crate::harness::KEY_ID]);
    assert_eq!(status.max_disk, 256 << 20);
    assert_eq!(status.lineage.len(), 16);
    assert_eq!(s.get("/healthz").text(), "ok\n");
    let metrics = s.get("/metrics").text();
    for line in [
        r#"codexstore_requests_total{protocol="http",operation="put",outcome="ok"} 1"#,
        "codexstore_keys 1",
        "codexstore_revision 1",
        "codexstore_ready 1",
        "codexstore_disk_limit_bytes 268435456",
    ] {
        assert!(metrics.contains(line), "{line} not in\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
    s.get("/v1/status?x=1").refused(400, "invalid-argument");
    assert_eq!(ping(&s.socket, &[]).0, 0);
    assert_eq!(ping(&s.socket, &["--ready"]).0, 0);
}

#[test]
fn http2_with_prior_knowledge_serves_the_same() {
    let place = Place::new();
    let s = place.ready(&[]);
    s.put("k", b"value");
    crate::harness::runtime().block_on(async {
        let stream = tokio::net::UnixStream::connect(&s.socket).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::spawn(connection);
        let ask = |method: &str, kind: &str| {
            let request = http::Request::builder()
                .method(method)
                .uri("http://localhost/v1/keys/k")
                .header("content-type", kind)
                .body(http_body_util::Empty::<bytes::Bytes>::new())
                .unwrap();
            sender.clone().send_request(request)
        };
        let many = (0..100)
            .map(|_| ask("GET", "text/plain"))
            .collect::<Vec<_>>();
        for answer in many {
            use http_body_util::BodyExt;
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(
                &answer.into_body().collect().await.unwrap().to_bytes()[..],
                b"value"
            );
        }
        let head = ask("HEAD", "text/plain").await.unwrap();
        assert_eq!(head.headers()["content-length"], "5");
        // A call of no service: a status that gRPC clients understand.
        let grpc = ask("POST", "application/grpc+proto").await.unwrap();
        assert_eq!(
            (grpc.status().as_u16(), &grpc.headers()["grpc-status"]),
            (200, &"12".parse().unwrap())
        );
    });
}
