//! The metrics listener: metrics over the network, and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::harness::{Answer, Place, Sidecar, free};

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
