//! Clients that are wrong, slow, huge or many: clear errors, bounded memory, and service for the
//! others.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::harness::{Answer, Place, Sidecar, ping, some_gave_way, with_64_descriptors};

/// A good client is served at once.
#[track_caller]
fn served(s: &Sidecar) {
    let started = Instant::now();
    let answer = s.put("good", b"value");
    assert!(answer.status == 201 || answer.status == 204, "{answer:?}");
    assert_eq!(s.get("/v1/keys/good").text(), "value");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn what_is_not_http_gets_a_problem() {
    let place = Place::new();
    let s = place.ready(&[]);
    for bad in [
        "GARBAGE\r\n\r\n",
        "\x00\x01\x02\x03\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /v1/status HTTP/1.1\r\nbad header\r\n\r\n",
        "GET /v1/status HTTP/1.1\r\n: x\r\n\r\n",
        "PUT /v1/keys/k HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "PUT /v1/keys/k HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "PUT /v1/keys/k HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\r\n\r\n",
    ] {
        let answer = s.send(bad.as_bytes());
        answer.refused(400, "malformed-request");
        assert!(answer.head.contains("connection: close"), "{answer:?}");
    }
    let bad_chunk = b"PUT /v1/keys/k HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n";
    s.send(bad_chunk).refused(400, "malformed-request");
    let metrics = s.get("/metrics").text();
    let malformed = metrics
        .lines()
        .find_map(|line| line.strip_prefix(r#"codexstore_rejected_total{reason="malformed"} "#));
    let malformed: u32 = malformed.unwrap().parse().unwrap();
    assert!(malformed >= 9, "{malformed}");
    s.get("/v1/keys/k").refused(404, "not-found");
    served(&s);
}

#[test]
fn large_and_many_headers_are_refused() {
    let place = Place::new();
    let s = place.ready(&[]);
    let huge = format!(
        "GET /v1/status HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(200 << 10)
    );
    s.send(huge.as_bytes()).refused(431, "headers-too-large");
    let many = "X: x\r\n".repeat(100);
    s.send(format!("GET /v1/status HTTP/1.1\r\n{many}\r\n").as_bytes())
        .refused(431, "headers-too-large");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(80 << 10));
    let answer = s.send(long.as_bytes());
    assert!(answer.status == 414 || answer.status == 431, "{answer:?}");
    served(&s);
}

#[test]
fn headers_and_bodies_that_drip_are_ended() {
    let place = Place::new();
    let s = place.ready(&["--io-timeout", "400ms"]);
    let drip = |first: &[u8], part: &[u8]| -> Answer {
        let mut stream = s.connect();
        stream.write_all(first).unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) && stream.write_all(part).is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "it was never ended"
        );
        Answer::read(&mut stream)
    };
    drip(b"GET /v1/status HTTP/1.1\r\n", b"X-Y: z\r\n").refused(408, "request-timeout");
    let mut stalled = s.connect();
    stalled
        .write_all(b"PUT /v1/keys/k HTTP/1.1\r\nHost: l\r\nContent-Length: 10\r\n\r\nabc")
        .unwrap();
    Answer::read(&mut stalled).refused(408, "request-timeout");
    // A first byte that HTTP/2 begins with as well buys no time.
    drip(b"P", b"UT /v1/keys/k HTTP/1.1\r\nX: y\r\nX").refused(408, "request-timeout");
    // Nor does HTTP/2 that never comes to a request.
    for part in ["PRI * HTT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut nothing = s.connect();
        nothing.write_all(part.as_bytes()).unwrap();
        let started = Instant::now();
        nothing.read_to_end(&mut Vec::new()).unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{part}");
    }
    let metrics = s.get("/metrics").text();
    assert!(
        metrics.contains(r#"codexstore_rejected_total{reason="slow_header"} 4"#),
        "{metrics}"
    );
    served(&s);
}

#[test]
fn a_refused_body_is_taken_in_and_the_connection_goes_on() {
    let place = Place::new();
    let s = place.ready(&["--io-timeout", "1s"]);
    let body = vec![b'x'; 4 << 20];
    for (target, status) in [
        ("PUT /v1/keys/a/b", 404),
        ("PUT /v1/keys/a?x=1", 400),
        ("PUT /v1/keys/%zz", 400),
        ("POST /v1/batch?x=1", 400),
        ("POST /v1/status", 405),
        ("GET /v1/status", 200),
    ] {
        let mut stream = s.connect();
        let head = format!(
            "{target} HTTP/1.1\r\nHost: l\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // In two parts, so that there is something to drain after the refusal.
        stream.write_all(&body[..1 << 20]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(&body[1 << 20..]).expect(target);
        // No answer of the sidecar's own accord comes between this request and the next.
        std::thread::sleep(Duration::from_millis(1500));
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n")
            .expect(target);
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        let statuses: Vec<&str> = all
            .split("HTTP/1.1 ")
            .skip(1)
            .map(|answer| &answer[..3])
            .collect();
        assert_eq!(statuses, [&status.to_string(), "200"], "{target}");
    }
}

#[test]
fn a_body_that_drips_ends_with_its_requests_time() {
    let place = Place::new();
    let s = place.ready(&["--request-timeout", "700ms"]);
    let mut stream = s.connect();
    stream
        .write_all(b"PUT /v1/keys/k HTTP/1.1\r\nHost: l\r\nContent-Length: 100000\r\n\r\n")
        .unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) && stream.write_all(b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "it was never ended"
    );
    Answer::read(&mut stream).refused(408, "request-timeout");
    served(&s);
}

#[test]
fn half_closed_clients_get_their_answer_and_idle_ones_are_closed() {
    let place = Place::new();
    let s = place.ready(&["--idle-timeout", "500ms", "--io-timeout", "500ms"]);
    // `send` ends its sending side right after the request: also while a write waits for the disk.
    assert_eq!(s.put("k", b"value").status, 201);
    assert_eq!(s.get("/v1/keys/k").text(), "value");
    // A body cut short by the client's end is not a value.
    let cut = s.send(b"PUT /v1/keys/k HTTP/1.1\r\nHost: l\r\nContent-Length: 10\r\n\r\nabc");
    assert!(cut.status == 400 || cut.status == 0, "{cut:?}");
    assert_eq!(s.get("/v1/keys/k").text(), "value");
    let mut idle = s.connect();
    let mut rest = Vec::new();
    let started = Instant::now();
    idle.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() && started.elapsed() < Duration::from_secs(5));
}

#[test]
fn clients_that_do_not_read_cost_bounded_memory_and_are_ended() {
    let place = Place::new();
    let s = place.ready(&["--io-timeout", "1s"]);
    for n in 0..4 {
        assert_eq!(s.put(&format!("big{n}"), &vec![n; 4 << 20]).status, 201);
    }
    let before = s.memory();
    let mut most = before;
    // Each alone on its connection: behind another answer it would never be computed.
    for target in ["/v1/keys?values=true", "/v1/keys/big0"] {
        // A gigabyte, if each had its answer. Three lists are computed at a time, and each is given up after a second: the last of
        // more of them would begin when the time for a request is over.
        let clients: Vec<UnixStream> = (0..48)
            .map(|_| {
                let mut stream = s.connect();
                let request = format!("GET {target} HTTP/1.1\r\nHost: l\r\n\r\n");
                stream.write_all(request.as_bytes()).unwrap();
                stream
            })
            .collect();
        served(&s);
        // What an answer that is being sent shares with the store is soon its own.
        s.put("big0", &vec![9; 4 << 20]);
        let ended = |s: &Sidecar| {
            let metrics = s.get("/metrics").text();
            metrics.contains("codexstore_connections 1\n")
        };
        let started = Instant::now();
        while !ended(&s) {
            most = most.max(s.memory());
            assert!(started.elapsed() < Duration::from_secs(30), "{target}");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(clients);
    }
    let grown = most - before;
    assert!(
        grown < 200 << 10,
        "{grown} KiB for clients that do not read"
    );
}

#[test]
fn a_client_that_reads_slowly_is_neither_idle_nor_in_the_way() {
    let place = Place::new();
    let s = place.ready(&["--max-connections", "2", "--idle-timeout", "400ms"]);
    let value: Vec<u8> = (0..=255).cycle().take(4 << 20).collect();
    assert_eq!(s.put("big", &value).status, 201);
    let mut slow = s.connect();
    slow.write_all(b"GET /v1/keys/big HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut bytes = vec![0; 100];
    slow.read_exact(&mut bytes).unwrap();
    // The table is full with this one and an idle one, which is the one to give way.
    let _idle = s.connect();
    served(&s);
    let started = Instant::now();
    let mut part = vec![0; 64 << 10];
    // More than the idle timeout, in which it reads all the time.
    while started.elapsed() < Duration::from_millis(1500) {
        let n = slow.read(&mut part).unwrap();
        assert!(n > 0, "cut after {} bytes", bytes.len());
        bytes.extend_from_slice(&part[..n]);
        std::thread::sleep(Duration::from_millis(50));
    }
    slow.read_to_end(&mut bytes).unwrap();
    let answer = Answer::parse(&bytes);
    assert_eq!(answer.status, 200);
    assert!(answer.body == value, "{} bytes came", answer.body.len());
}

#[test]
fn many_large_bodies_at_once_wait_their_turn_in_bounded_memory() {
    let place = Place::new();
    let s = place.ready(&["--max-memory", "1Gi"]);
    let before = s.memory();
    // All but the last byte of 64 bodies of 8 MiB: half a GiB if each were taken in.
    let mut clients: Vec<UnixStream> = Vec::new();
    for n in 0..64 {
        let mut stream = s.connect();
        stream.set_nonblocking(true).unwrap();
        let head = format!(
            "PUT /v1/keys/b{n} HTTP/1.1\r\nHost: l\r\nContent-Length: {}\r\n\r\n",
            8 << 20
        );
        stream.write_all(head.as_bytes()).unwrap();
        clients.push(stream);
    }
    let chunk = vec![0; 256 << 10];
    let mut left = vec![(8 << 20) - 1; clients.len()];
    let started = Instant::now();
    let mut most = 0;
    while started.elapsed() < Duration::from_secs(3) {
        for (stream, left) in clients.iter_mut().zip(&mut left) {
            let part = chunk.len().min(*left);
            *left -= stream.write(&chunk[..part]).unwrap_or(0);
        }
        most = most.max(s.memory());
    }
    let grown = most.saturating_sub(before);
    assert!(grown < 192 << 10, "{grown} KiB");
    drop(clients);
    served(&s);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let place = Place::new();
    let s = place.ready(&[]);
    let mut bytes = Vec::new();
    for n in 0..50 {
        let value = format!("value-{n}");
        bytes.extend_from_slice(
            format!(
                "PUT /v1/keys/p HTTP/1.1\r\nHost: l\r\nContent-Length: {}\r\n\r\n{value}",
                value.len()
            )
            .as_bytes(),
        );
        bytes.extend_from_slice(b"GET /v1/keys/p HTTP/1.1\r\nHost: l\r\n\r\n");
    }
    bytes.extend_from_slice(b"GET /v1/keys/p HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n");
    let mut stream = s.connect();
    stream.write_all(&bytes).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    let found: Vec<&str> = all
        .split("value-")
        .skip(1)
        .map(|rest| rest.split("HTTP").next().unwrap())
        .collect();
    let mut wanted: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    wanted.push("49".into());
    assert_eq!(found, wanted);
}

#[test]
fn with_64_descriptors_and_200_idle_connections_a_good_client_is_served() {
    let place = Place::new();
    let s = with_64_descriptors(&place);
    let idle: Vec<UnixStream> = (0..200).map(|_| s.connect()).collect();
    // Some of them half-way in a header, too.
    for mut stream in idle.iter().take(60) {
        let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\n");
    }
    for _ in 0..20 {
        served(&s);
    }
    some_gave_way(&s);
    drop(idle);
    served(&s);
}

#[test]
fn beyond_the_bounds_requests_are_refused_as_overloaded() {
    let place = Place::new();
    let s = place.ready(&["--max-connections", "4"]);
    // Four connections, each with a request in work.
    let busy: Vec<UnixStream> = (0..4)
        .map(|n| {
            let mut stream = s.connect();
            let head = format!(
                "PUT /v1/keys/b{n} HTTP/1.1\r\nHost: l\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            // It is in work once its body is asked for.
            let mut asked = [0; 25];
            stream.read_exact(&mut asked).unwrap();
            assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
            stream
        })
        .collect();
    s.get("/v1/status").refused(503, "overloaded");
    let (code, said) = ping(&s.socket, &[]);
    assert_eq!(code, 0, "a busy sidecar is alive: {said}");
    assert_eq!(ping(&s.socket, &["--ready"]).0, 1);
    for mut stream in busy {
        stream.write_all(b"body").unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 201");
    }
    served(&s);

    let place = Place::new();
    let s = place.ready(&["--max-requests", "1"]);
    let mut busy = s.connect();
    busy.write_all(b"PUT /v1/keys/b HTTP/1.1\r\nHost: l\r\nContent-Length: 4\r\n\r\n")
        .unwrap();
    s.until("it is in work", |s| s.get("/v1/status").status == 503);
    let refused = s.get("/v1/status");
    refused.refused(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(s.get("/healthz").status, 200);
    assert_eq!(s.get("/readyz").status, 200);
}
