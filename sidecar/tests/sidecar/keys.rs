//! One key: write, read, remove, expire.

use std::collections::BTreeMap;

use crate::harness::Place;

#[test]
fn a_value_is_written_read_and_removed() {
    let place = Place::new();
    let s = place.ready(&[]);
    let made = s.put("greeting", b"hello");
    assert_eq!(made.status, 201, "{made:?}");
    assert!(made.body.is_empty());
    assert_eq!(made.header("codexstore-revision"), Some("1"));
    let changed = s.put("greeting", b"hello again");
    assert_eq!(changed.status, 204);
    assert_ne!(changed.header("etag"), made.header("etag"));

    let got = s.get("/v1/keys/greeting");
    assert_eq!((got.status, got.text().as_str()), (200, "hello again"));
    assert_eq!(got.header("etag"), changed.header("etag"));
    assert_eq!(got.header("codexstore-revision"), Some("2"));
    assert_eq!(got.header("codexstore-version"), Some("2"));
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    assert_eq!(got.header("codexstore-expires-at"), None);

    let head = s.request("HEAD", "/v1/keys/greeting", "", b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some("11"));
    assert_eq!(head.header("etag"), got.header("etag"));

    let gone = s.request("DELETE", "/v1/keys/greeting", "", b"");
    assert_eq!(gone.status, 204);
    assert_eq!(gone.header("codexstore-revision"), Some("3"));
    s.request("DELETE", "/v1/keys/greeting", "", b"")
        .refused(404, "not-found");
    s.get("/v1/keys/greeting").refused(404, "not-found");
    let head = s.request("HEAD", "/v1/keys/greeting", "", b"");
    assert_eq!((head.status, head.body.len()), (404, 0));
}

#[test]
fn keys_are_bytes_and_percent_encoded() {
    let place = Place::new();
    let s = place.ready(&[]);
    for key in [
        "a%2Fb",
        "%00%ff",
        "caf%C3%A9",
        "a.b",
        "%2E%2E",
        "~x",
        "a+b",
        "%25",
    ] {
        assert_eq!(s.put(key, key.as_bytes()).status, 201, "{key}");
        assert_eq!(s.get(&format!("/v1/keys/{key}")).text(), key);
    }
    // The same key written differently is the same key.
    assert_eq!(s.get("/v1/keys/%61%2e%62").text(), "a.b");
    s.put("a/b", b"").refused(404, "no-such-route");
    s.put("", b"").refused(400, "invalid-key");
    for bad in ["%", "%2", "%zz"] {
        s.put(bad, b"").refused(400, "malformed-request");
    }
    let longest = "k".repeat(1024);
    assert_eq!(s.put(&longest, b"x").status, 201);
    s.put(&format!("{longest}k"), b"x")
        .refused(400, "invalid-key");
    s.get(&format!("/v1/keys/{longest}k"))
        .refused(400, "invalid-key");
}

#[test]
fn empty_and_largest_values_are_kept_and_larger_ones_refused_unread() {
    let place = Place::new();
    let s = place.ready(&["--max-value", "1Mi"]);
    assert_eq!(s.put("empty", b"").status, 201);
    let got = s.get("/v1/keys/empty");
    assert_eq!((got.status, got.header("content-length")), (200, Some("0")));
    let largest: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    assert_eq!(s.put("large", &largest).status, 201);
    assert_eq!(s.get("/v1/keys/large").body, largest);
    s.put("larger", &vec![0; (1 << 20) + 1])
        .refused(413, "too-large");
    s.get("/v1/keys/larger").refused(404, "not-found");
    // The length alone is enough: nothing of the body is waited for.
    let mut early = s.connect();
    std::io::Write::write_all(
        &mut early,
        b"PUT /v1/keys/x HTTP/1.1\r\nHost: l\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n",
    )
    .unwrap();
    let mut first = [0; 12];
    std::io::Read::read_exact(&mut early, &mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 413");
    // Chunked, it is refused as soon as it is too long.
    let chunk = format!("80000\r\n{}\r\n", "x".repeat(0x80000));
    let body = format!("{chunk}{chunk}{chunk}0\r\n\r\n");
    let head = "PUT /v1/keys/x HTTP/1.1\r\nHost: l\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    s.send(format!("{head}{body}").as_bytes())
        .refused(413, "too-large");
    let body = format!("{chunk}0\r\n\r\n");
    assert_eq!(s.send(format!("{head}{body}").as_bytes()).status, 201);
}

#[test]
fn a_ttl_ends_a_value_and_a_plain_write_removes_it() {
    let place = Place::new();
    let s = place.ready(&[]);
    // Long enough for what is asked before it is over, on a busy machine too.
    let kept = s.request("PUT", "/v1/keys/kept?ttl=3s", "", b"x");
    let made = s.request("PUT", "/v1/keys/short?ttl=3s", "", b"x");
    assert_eq!((kept.status, made.status), (201, 201));
    assert_eq!(s.put("kept", b"y").status, 204);
    assert!(
        made.header("codexstore-expires-at").unwrap().ends_with('z'),
        "{made:?}"
    );
    let got = s.get("/v1/keys/short");
    assert_eq!(
        got.header("codexstore-expires-at"),
        made.header("codexstore-expires-at")
    );
    s.until("it expires", |s| s.get("/v1/keys/short").status == 404);
    let list = s.get("/v1/keys?prefix=short");
    assert!(list.text().starts_with("{\"items\":[]"), "{}", list.text());
    // Its own time would have been over before.
    assert_eq!(s.get("/v1/keys/kept").status, 200);
    for bad in ["0s", "-1s", "abc", "", "1y"] {
        s.request("PUT", &format!("/v1/keys/k?ttl={bad}"), "", b"x")
            .refused(400, "invalid-argument");
    }
    s.request("PUT", "/v1/keys/k?tll=5s", "", b"x")
        .refused(400, "invalid-argument");
    s.get("/v1/keys/k").refused(404, "not-found");
}

#[test]
fn what_would_be_stored_otherwise_than_sent_is_refused() {
    let place = Place::new();
    let s = place.ready(&[]);
    s.request("PUT", "/v1/keys/k", "Content-Encoding: gzip\r\n", b"x")
        .refused(415, "unsupported-media-type");
    s.request("PUT", "/v1/keys/k", "Content-Range: bytes 0-0/2\r\n", b"x")
        .refused(400, "malformed-request");
    assert_eq!(
        s.request("PUT", "/v1/keys/k", "Content-Encoding: identity\r\n", b"x")
            .status,
        201
    );
}

#[test]
fn another_server_behind_the_socket_is_not_a_store_without_the_key() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(
                b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            );
        }
    });
    crate::harness::runtime().block_on(async {
        let client = codexstore_api::Client::unix(&path).patience(std::time::Duration::ZERO);
        let got = client.get(b"k").await.unwrap_err();
        assert!(got.message().contains("CodexStore socket"), "{got}");
        assert!(client.head(b"k").await.is_err());
        assert!(client.delete(b"k", None).await.is_err());
    });
}

#[test]
fn the_clock_can_be_accepted_over_the_socket() {
    let place = crate::harness::Place::new();
    let s = place.ready(&[]);
    let accepted = s.request("POST", "/v1/clock/accept", "", b"");
    assert_eq!(accepted.status, 204, "{accepted:?}");
    crate::harness::runtime()
        .block_on(s.client().accept_clock())
        .unwrap();
}

#[test]
fn values_of_a_type_are_read_written_and_changed_by_many_at_once() {
    use codexstore_api::client::Put;
    let place = crate::harness::Place::new();
    let s = place.ready(&[]);
    crate::harness::runtime().block_on(async {
        let client = s.client();
        let (key, put) = (b"counts", Put::default());
        let add = |client: codexstore_api::Client, name: &'static str| async move {
            for _ in 0..50 {
                let one = |counts: Option<BTreeMap<String, u32>>| {
                    let mut counts = counts.unwrap_or_default();
                    *counts.entry(name.to_owned()).or_default() += 1;
                    Ok(counts)
                };
                client.update_json(key, None, one).await.unwrap();
            }
        };
        let both = [add(client.clone(), "a"), add(client.clone(), "b")];
        let both = both.map(tokio::spawn);
        for task in both {
            task.await.unwrap();
        }
        let found = client.get(key).await.unwrap().unwrap();
        let counts: BTreeMap<String, u32> = found.json().unwrap();
        assert_eq!(counts, BTreeMap::from([("a".into(), 50), ("b".into(), 50)]));
        assert_eq!(
            found.version, 100,
            "no change was lost, and none made twice"
        );

        client.set_json(key, &["x"], &put).await.unwrap();
        assert_eq!(
            &client.get(key).await.unwrap().unwrap().value[..],
            b"[\"x\"]"
        );
        let keep = |counts: Option<u32>| Ok(counts.unwrap_or_default());
        let wrong = client.update_json(key, None, keep).await.unwrap_err();
        assert!(wrong.is("invalid-argument"), "{wrong}");
        let none = BTreeMap::from([(vec![1_u8], 1)]);
        let wrong = client.set_json(key, &none, &put).await.unwrap_err();
        assert!(wrong.is("invalid-argument"), "{wrong}");
    });
}
