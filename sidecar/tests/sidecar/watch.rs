//! Watches over HTTP: in order, without a gap, resumable, bounded.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use codexstore_api::bodies::Changed;
use codexstore_api::status::State;

use crate::harness::{Answer, KEY_ID, Place, Sidecar, many_connections};

/// One event of a stream.
#[derive(Debug, Default, Clone)]
pub struct Event {
    id: String,
    kind: String,
    data: String,
}

impl Event {
    pub fn change(&self) -> Changed {
        assert_eq!(self.kind, "change", "{self:?}");
        serde_json::from_str(&self.data).unwrap()
    }
}

/// A client that reads events as the standard says, chunks of HTTP/1.1 taken apart.
pub struct Events {
    lines: BufReader<UnixStream>,
    id: String,
}

impl Events {
    pub fn open(s: &Sidecar, query: &str, headers: &str) -> Events {
        let mut stream = s.connect();
        write!(
            stream,
            "GET /v1/watch{query} HTTP/1.1\r\nHost: s\r\n{headers}\r\n"
        )
        .unwrap();
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(
            head.to_lowercase()
                .contains("content-type: text/event-stream"),
            "{head}"
        );
        Events {
            lines,
            id: String::new(),
        }
    }

    /// The bytes of one chunk; none at the end.
    fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        if self.lines.read_line(&mut size).unwrap_or(0) == 0 {
            return None;
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut bytes = vec![0; size + 2];
        self.lines.read_exact(&mut bytes).ok()?;
        bytes.truncate(size);
        (size > 0).then(|| String::from_utf8(bytes).unwrap())
    }

    /// The next event with data. Ids of blocks without data count too.
    pub fn next(&mut self) -> Option<Event> {
        let mut text = String::new();
        loop {
            text.push_str(&self.chunk()?);
            if !text.ends_with("\n\n") {
                continue;
            }
            let mut event = Event::default();
            for line in text.lines() {
                match line.split_once(": ") {
                    Some(("id", id)) => id.clone_into(&mut self.id),
                    Some(("event", kind)) => kind.clone_into(&mut event.kind),
                    Some(("data", data)) => data.clone_into(&mut event.data),
                    _ => assert!(line.is_empty() || line == ":", "{line}"),
                }
            }
            text.clear();
            if !event.data.is_empty() {
                event.id.clone_from(&self.id);
                return Some(event);
            }
        }
    }
}

fn refused(s: &Sidecar, query: &str, headers: &str) -> Answer {
    s.request("GET", &format!("/v1/watch{query}"), headers, b"")
}

#[test]
fn changes_come_in_order_with_what_they_did_to_watched_keys() {
    let place = Place::new();
    let s = place.ready(&[]);
    let mut events = Events::open(&s, "?prefix=a/&values=true", "");
    assert_eq!(s.put("b", b"unseen").status, 201);
    let named = s.request(
        "PUT",
        "/v1/keys/a%2F1?ttl=1h",
        "Codexstore-Actor: alice\r\n",
        b"one",
    );
    assert_eq!(named.status, 201);
    let batch = r#"{"operations":[{"op":"set","key":"a/2","text":"two"},{"op":"set","key":"b","text":"x"},{"op":"delete","key":"a/1"}]}"#;
    assert_eq!(
        s.request("POST", "/v1/batch", "", batch.as_bytes()).status,
        200
    );
    let first = events.next().unwrap();
    let change = first.change();
    assert_eq!(
        first.id.split_once('-').unwrap().1,
        change.revision.to_string()
    );
    assert_eq!(change.actor.as_deref(), Some("alice"));
    let [op] = &change.operations[..] else {
        panic!("{change:?}")
    };
    assert_eq!(
        (op.op.as_str(), op.key.as_deref(), op.value.as_deref()),
        ("set", Some("a/1"), Some("b25l"))
    );
    assert!(op.expires_at.is_some() && op.version == Some(1));
    let second = events.next().unwrap().change();
    assert!(second.revision > change.revision && second.actor.is_none());
    let mut seen: Vec<_> = second
        .operations
        .iter()
        .map(|op| (op.op.as_str(), op.key.as_deref().unwrap()))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [("delete", "a/1"), ("set", "a/2")]);
}

#[test]
fn a_watch_goes_on_where_it_was_after_a_restart_and_under_load_without_a_gap() {
    let place = Place::new();
    let mut s = place.ready(&[]);
    let mut events = Events::open(&s, "", "");
    let mut seen = Vec::new();
    let mut written = Vec::new();
    for round in 0..3 {
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let s = &s;
                    scope.spawn(move || {
                        let put = |n| {
                            s.put(&format!("k-{round}-{writer}-{n}"), b"v")
                                .header("codexstore-revision")
                                .unwrap()
                                .parse::<u64>()
                                .unwrap()
                        };
                        (0..50).map(put).collect::<Vec<_>>()
                    })
                })
                .collect();
            for writer in writers {
                written.extend(writer.join().unwrap());
            }
        });
        // Some now, the others after the restart.
        for _ in 0..120 {
            seen.push(events.next().unwrap().change().revision);
        }
        let last = events.id.clone();
        assert!(s.terminate().success());
        s = place.ready(&[]);
        events = Events::open(&s, "", &format!("Last-Event-ID: {last}\r\n"));
        for _ in 0..80 {
            seen.push(events.next().unwrap().change().revision);
        }
    }
    written.sort_unstable();
    assert_eq!(seen, written);
    // Whoever saw no event yet resumes from where it began.
    let mut quiet = Events::open(&s, "?prefix=other", "");
    assert_eq!(s.put("k", b"v").status, 201);
    assert_eq!(s.put("other", b"v").status, 201);
    let revision = quiet.next().unwrap().change().revision;
    assert!(revision > *seen.last().unwrap());
}

#[test]
fn what_is_gone_or_wrong_is_refused_with_where_to_begin_anew() {
    let place = Place::new();
    let s = place.ready(&[]);
    for _ in 0..3 {
        s.put("k", b"v");
    }
    let lineage = s.status().lineage;
    refused(&s, "?from=x", "").refused(400, "invalid-argument");
    refused(&s, "?from=0", "").refused(400, "invalid-argument");
    refused(&s, "?from=1000", "").refused(400, "invalid-argument");
    refused(&s, "?since=1", "").refused(400, "invalid-argument");
    refused(&s, "", "Last-Event-ID: 12\r\n").refused(400, "invalid-argument");
    let other = format!("{:016x}", u64::from_str_radix(&lineage, 16).unwrap() ^ 1);
    let gone = refused(&s, "", &format!("Last-Event-ID: {other}-2\r\n"));
    gone.refused(410, "past-gone");
    assert_eq!(
        gone.header("codexstore-revision").unwrap(),
        s.status().revision.to_string()
    );
    let mut all = Events::open(&s, "?from=1", "");
    assert_eq!(
        all.next().unwrap().change().operations[0].key.as_deref(),
        Some("k")
    );
}

#[test]
fn who_resumes_before_the_store_is_open_is_told_to_come_again() {
    let place = Place::new();
    let s = place.ready(&[]);
    s.put("k", b"v");
    let last = format!("Last-Event-ID: {}-1\r\n", s.status().lineage);
    drop(s);
    place.keyring("other", &[(KEY_ID, &[7; 32])]);
    let s = place.start(&[]);
    s.until("it has tried", |s| s.status().state == State::KeyError);
    refused(&s, "", &last).refused(503, "invalid-keyring");
    place.keyring(KEY_ID, &[(KEY_ID, &[7; 32])]);
    s.until("it heals", |s| s.get("/readyz").status == 200);
    Events::open(&s, "", &last);
}

#[test]
fn the_stream_ends_when_the_sidecar_stops_and_a_client_that_leaves_is_forgotten() {
    let place = Place::new();
    let mut s = place.ready(&["--max-requests", "2"]);
    let first = Events::open(&s, "", "");
    let mut second = Events::open(&s, "", "");
    refused(&s, "", "").refused(503, "overloaded");
    // Other requests are not held up by watches.
    assert_eq!(s.put("k", b"v").status, 201);
    drop(first);
    s.until("its place is free", |s| {
        let mut stream = s.connect();
        write!(stream, "GET /v1/watch HTTP/1.1\r\nHost: s\r\n\r\n").unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        head.ends_with(b"200")
    });
    assert!(second.next().is_some());
    let begun = Instant::now();
    assert!(s.terminate().success());
    assert!(second.next().is_none());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_slow_reader_holds_little_memory_and_is_ended() {
    let place = Place::new();
    let s = place.ready(&["--io-timeout", "1s"]);
    let slow: Vec<_> = (0..16)
        .map(|_| Events::open(&s, "?values=true", ""))
        .collect();
    let before = s.memory();
    for n in 0..64 {
        assert_eq!(
            s.put("large", &vec![n; 1 << 20]).status,
            if n == 0 { 201 } else { 204 }
        );
    }
    let grown = s.memory().saturating_sub(before);
    // Two events each at most, of the 64 that wait for each: 1.4 GiB.
    assert!(grown < 128 << 10, "{grown} KiB more");
    s.until("they are turned away", |s| {
        let metrics = String::from_utf8(s.get("/metrics").body).unwrap();
        metrics.contains(r#"codexstore_rejected_total{reason="slow_reader"} 16"#)
    });
    drop(slow);
    assert_eq!(s.get("/v1/keys/large").body.len(), 1 << 20);
}

#[test]
fn an_event_reaches_a_thousand_watchers() {
    // With the usual limit there would be none left for the tests beside this.
    many_connections();
    let place = Place::new();
    let s = place.ready(&["--max-connections", "1100"]);
    let mut watchers: Vec<_> = (0..1000)
        .map(|_| Events::open(&s, "?values=true", ""))
        .collect();
    let mut times = Vec::new();
    for round in 0..5 {
        let begun = Instant::now();
        assert!(s.put("k", format!("{round}").as_bytes()).status < 300);
        for watcher in &mut watchers {
            assert_eq!(
                watcher.next().unwrap().change().operations[0]
                    .key
                    .as_deref(),
                Some("k")
            );
        }
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!(
        "an event reached 1,000 watchers within {:?} (median of 5)",
        times[2]
    );
}
