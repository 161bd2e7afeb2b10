//! HTTP/2, frame by frame: what only a client that breaks the usual order shows.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::harness::{Place, Sidecar};

pub const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

/// A client that says exactly what it is told to.
pub struct Http2(UnixStream);

impl Http2 {
    /// Connects and grants each stream so many bytes.
    pub fn connect(s: &Sidecar, window: u32) -> Http2 {
        let mut client = Http2(s.connect());
        client
            .0
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        let mut setting = vec![0, 4];
        setting.extend_from_slice(&window.to_be_bytes());
        client.frame(SETTINGS, 0, 0, &setting);
        client
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.0.write_all(&bytes).unwrap();
    }

    pub fn get(&mut self, stream: u32, path: &[u8]) {
        // HPACK: GET and http are in its table; path and authority are literals.
        let mut block = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
        block.extend_from_slice(path);
        block.extend_from_slice(&[0x01, 1, b'l']);
        self.frame(HEADERS, 5, stream, &block);
    }

    /// Begins a gRPC call.
    pub fn call(&mut self, stream: u32, path: &[u8]) {
        // HPACK: POST and http are in its table, and the names of path, authority and content type.
        let mut block = vec![0x83, 0x86];
        let fields: [(&[u8], &[u8]); 4] = [
            (&[0x04], path),
            (&[0x01], b"l"),
            (&[0x0f, 0x10], b"application/grpc"),
            (b"\0\x02te", b"trailers"),
        ];
        for (name, value) in fields {
            block.extend_from_slice(name);
            block.push(u8::try_from(value.len()).unwrap());
            block.extend_from_slice(value);
        }
        self.frame(HEADERS, 4, stream, &block);
    }

    /// Ends the sending side.
    pub fn half_close(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    /// The next frame: its kind, stream and length; `None` at the end.
    pub fn next(&mut self) -> Option<(u8, u32, usize)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], stream, length))
    }

    pub fn until_end(&mut self) {
        let started = Instant::now();
        while self.next().is_some() {}
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "ended after {took:?}");
    }
}

#[test]
fn an_answer_for_which_no_window_is_granted_is_ended() {
    let place = Place::new();
    let s = place.ready(&["--io-timeout", "500ms"]);
    s.put("small", b"value");
    s.put("big", &vec![1; 4 << 20]);
    for (window, path) in [
        (0, "/v1/keys/small"),
        (0, "/v1/keys/big"),
        (9, "/v1/keys/big"),
    ] {
        let mut client = Http2::connect(&s, window);
        client.get(1, path.as_bytes());
        client.until_end();
    }
    let metrics = s.get("/metrics").text();
    assert!(
        metrics.contains(r#"codexstore_rejected_total{reason="slow_reader"} 3"#),
        "{metrics}"
    );
}

#[test]
fn answers_that_wait_for_a_window_count_as_in_work() {
    let place = Place::new();
    let s = place.ready(&["--io-timeout", "5s", "--max-requests", "2"]);
    s.put("small", b"value");
    let mut client = Http2::connect(&s, 0);
    for stream in [1, 3] {
        client.get(stream, b"/v1/keys/small");
        while client.next().is_some_and(|(kind, ..)| kind != HEADERS) {}
    }
    s.get("/v1/keys/small").refused(503, "overloaded");
    s.until("they are given up", |s| {
        s.get("/v1/keys/small").status == 200
    });
}

#[test]
fn an_answer_that_is_taken_bit_by_bit_is_sent_whole() {
    let place = Place::new();
    let s = place.ready(&["--io-timeout", "2s", "--idle-timeout", "2s"]);
    s.put("big", &vec![1; 1 << 20]);
    let mut client = Http2::connect(&s, 0);
    client.get(1, b"/v1/keys/big");
    let grant = (80_u32 << 10).to_be_bytes();
    let mut got = 0;
    let mut granted = 0;
    while got < 1 << 20 {
        if got >= granted {
            // All pauses together are longer than either, and each is a good deal shorter.
            std::thread::sleep(Duration::from_millis(400));
            client.frame(WINDOW_UPDATE, 0, 0, &grant);
            client.frame(WINDOW_UPDATE, 0, 1, &grant);
            granted += 80 << 10;
        }
        let (kind, _, length) = client.next().expect("it goes on");
        if kind == DATA {
            got += length;
        }
    }
}
