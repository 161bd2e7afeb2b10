//! The metrics listener: metrics over the network, and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::grpc::{client, get, set};
use crate::harness::{Answer, Place, Sidecar, free, runtime};

fn start(place: &Place) -> (Sidecar, SocketAddr) {
    let address = free();
    let s = place.ready(&["--metrics-listen", &address.to_string()]);
    s.until("the metrics listener is bound", |_| {
        TcpStream::connect(address).is_ok()
    });
    (s, address)
}

fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let text = format!("{request} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    Answer::parse(&bytes)
}

#[test]
fn metrics_are_there_and_nothing_else_is() {
    let place = Place::new();
    let (s, address) = start(&place);
    s.put("secret-key", b"secret-value");
    let metrics = ask(address, "GET /metrics");
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    assert!(
        text.contains("# TYPE codexstore_keys gauge") && text.ends_with("# EOF\n"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(ask(address, "HEAD /metrics").status, 200);
    ask(address, "POST /metrics").refused(405, "method-not-allowed");
    for path in [
        "/",
        "/v1/status",
        "/v1/keys",
        "/v1/keys/secret-key",
        "/healthz",
        "/readyz",
    ] {
        ask(address, &format!("GET {path}")).refused(404, "no-such-route");
    }
    ask(address, "DELETE /v1/keys/secret-key").refused(404, "no-such-route");
    assert_eq!(s.get("/v1/keys/secret-key").text(), "secret-value");
    let counted = s.get("/metrics").text();
    let mut others = counted.lines().filter(|line| {
        line.starts_with("codexstore_requests_total") && line.contains("operation=\"other\"")
    });
    let all_zero = others.all(|line| line.ends_with(" 0"));
    assert!(
        all_zero,
        "what scrapers ask is not what apps ask: {counted}"
    );
}

#[test]
fn each_metric_is_explained_in_the_documents() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/OBSERVABILITY.md");
    let page = std::fs::read_to_string(path).unwrap();
    let place = Place::new();
    let metrics = place.ready(&[]).get("/metrics").text();
    let names = metrics.lines().filter_map(|line| {
        let name = line.strip_prefix("# TYPE codexstore_")?;
        name.split_once(' ')
    });
    let names: Vec<_> = names.map(|(name, _)| name).collect();
    assert!(names.contains(&"image_bytes") && names.contains(&"errors"));
    for name in names {
        let mut ends = ["`", "{", "_total`", "_total{"].iter();
        let told = ends.any(|end| page.contains(&format!("`{name}{end}")));
        assert!(told, "docs/OBSERVABILITY.md does not explain {name}");
    }
}

#[test]
fn errors_are_counted_by_their_code_in_every_protocol() {
    let place = Place::new();
    let s = place.ready(&[]);
    s.get("/nowhere").refused(404, "no-such-route");
    s.get("/v1/keys/none").refused(404, "not-found");
    runtime().block_on(async {
        let mut kv = client(&s).await;
        kv.set(set("", "v")).await.unwrap_err();
        kv.get(get("none")).await.unwrap_err();
    });
    let long = "k".repeat(1025);
    let answers = s.redis(format!(
        "GET {long}\r\nSET {long} v\r\nSET k v NO\r\nGET none\r\n"
    ));
    assert_eq!(answers.matches("-ERR ").count(), 3, "{answers}");
    let metrics = s.get("/metrics").text();
    let mut found: Vec<_> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("codexstore_errors_total"))
        // Of who asked before it was open.
        .filter(|line| !line.contains("\"starting\""))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            r#"{protocol="grpc",code="invalid-key"} 1"#,
            r#"{protocol="http",code="no-such-route"} 1"#,
            r#"{protocol="redis",code="invalid-key"} 2"#,
            r#"{protocol="redis",code="other"} 1"#,
        ]
    );
}

#[test]
fn whoever_holds_all_its_connections_keeps_no_scraper_out() {
    let place = Place::new();
    let (s, address) = start(&place);
    let silent: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut slow = TcpStream::connect(address).unwrap();
    slow.write_all(b"GET /metr").unwrap();
    assert_eq!(ask(address, "GET /metrics").status, 200);
    assert_eq!(
        s.put("k", b"v").status,
        201,
        "the socket has connections of its own"
    );
    drop((silent, slow));
}
