//! Connections that last: what they cost while nothing is asked, and that what they ask in whatever pieces, with whatever
//! pauses, is answered in order.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::harness::{Answer, Place, many_connections};

/// Longer than a connection keeps its buffers for.
const LONG: Duration = Duration::from_millis(400);

#[test]
fn thousands_of_connections_that_were_served_cost_little() {
    let count = many_connections();
    let place = Place::new();
    let s = place.ready(&["--max-connections", "11000"]);
    let before = s.memory();
    let idle: Vec<UnixStream> = (0..count)
        .map(|_| {
            let mut stream = s.connect();
            stream.write_all(&get("healthz")).unwrap();
            assert_eq!(next(&mut BufReader::new(&stream)).status, 200);
            stream
        })
        .collect();
    let each = s.memory().saturating_sub(before) * 1024 / count as u64;
    println!("{count} connections that were served, {each} bytes each");
    assert!(each < 6 << 10, "{each} bytes for an idle connection");
    let open = format!("codexstore_connections {}\n", count + 1);
    assert!(s.get("/metrics").text().contains(&open));
    assert_eq!(s.get("/v1/keys/none").status, 404, "others are served");
    drop(idle);
    s.until("they are gone", |s| {
        s.get("/metrics")
            .text()
            .contains("codexstore_connections 1\n")
    });
}

fn get(path: &str) -> Vec<u8> {
    format!("GET /{path} HTTP/1.1\r\nHost: l\r\n\r\n").into_bytes()
}

/// The next answer, and no byte of the one behind it.
fn next(stream: &mut impl BufRead) -> Answer {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_until(b'\n', &mut bytes).unwrap(), 0, "it ended");
    }
    let mut answer = Answer::parse(&bytes);
    let len = answer
        .header("content-length")
        .map_or(0, |len| len.parse().unwrap());
    answer.body.resize(len, 0);
    stream.read_exact(&mut answer.body).unwrap();
    answer
}

fn put(key: &str, value: &[u8]) -> Vec<u8> {
    let len = value.len();
    let head = format!("PUT /v1/keys/{key} HTTP/1.1\r\nHost: l\r\nContent-Length: {len}\r\n\r\n");
    [head.as_bytes(), value].concat()
}

#[test]
fn requests_in_any_pieces_and_with_any_pauses_are_answered_in_order() {
    let place = Place::new();
    let s = place.ready(&[]);
    let large: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let requests = [
        put("a", b"one"),
        get("v1/keys/a"),
        put("b", &large),
        get("v1/keys/b"),
        put("b", b""),
        get("v1/keys/b"),
        get("v1/keys/none"),
        get("v1/keys/a"),
    ];
    let answers: [(u16, &[u8]); 8] = [
        (201, b""),
        (200, b"one"),
        (201, b""),
        (200, &large),
        (204, b""),
        (200, b""),
        (404, b""),
        (200, b"one"),
    ];
    let all = requests.concat();
    let ends: Vec<usize> = requests
        .iter()
        .scan(0, |end, request| {
            *end += request.len();
            Some(*end)
        })
        .collect();
    // Cut at each request's end, in its header, in its line, in its body, and two requests at a time.
    let before = |by: usize| ends.iter().map(|end| end.saturating_sub(by)).collect();
    let cuts: [Vec<usize>; 5] = [
        ends.clone(),
        before(3),
        ends.iter().map(|end| end + 2).collect(),
        before(30),
        ends.iter().step_by(2).copied().collect(),
    ];
    for (way, cuts) in cuts.iter().enumerate() {
        for pause in [Duration::ZERO, Duration::from_millis(20), LONG] {
            for key in ["a", "b"] {
                s.request("DELETE", &format!("/v1/keys/{key}"), "", b"");
            }
            let mut writing = s.connect();
            let mut stream = BufReader::new(writing.try_clone().unwrap());
            let (all, cuts) = (all.clone(), cuts.clone());
            let writer = std::thread::spawn(move || {
                let mut from = 0;
                for to in cuts.into_iter().chain([all.len()]) {
                    let to = to.clamp(from, all.len());
                    writing.write_all(&all[from..to]).unwrap();
                    from = to;
                    std::thread::sleep(pause);
                }
                // It ends its side: what it asked is answered, and no more comes.
                writing.shutdown(std::net::Shutdown::Write).unwrap();
            });
            for (number, (status, body)) in answers.iter().enumerate() {
                let answer = next(&mut stream);
                assert_eq!(answer.status, *status, "way {way}, {pause:?}, {number}");
                assert!(body.is_empty() || answer.body == *body, "{way} {number}");
            }
            writer.join().unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert!(rest.is_empty());
        }
    }
}
