//! The Redis protocol at its bounds: what is too large, too slow, too much, or not the protocol.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::harness::{Place, many_connections, some_gave_way, with_64_descriptors};
use crate::redis::check;

#[test]
fn what_is_too_large_is_refused_and_the_connection_goes_on() {
    let place = Place::new();
    let s = place.ready(&["--max-value", "1Mi"]);
    let long = "x".repeat((1 << 20) + 1);
    let set = format!(
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{long}\r\n",
        long.len()
    );
    let answer = s.redis(format!("{set}PING\r\nEXISTS k\r\n"));
    assert_eq!(
        answer,
        "-ERR an argument has 1048577 bytes; at most 1048576 are allowed (too-large)\r\n+PONG\r\n:0\r\n"
    );
    let fits = format!(
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n{}\r\n",
        &long[1..]
    );
    assert_eq!(
        s.redis(format!("{fits}STRLEN k\r\n")),
        "+OK\r\n:1048576\r\n"
    );
    let answer = s.redis("APPEND k x\r\nSETRANGE k 1048576 x\r\nSTRLEN k\r\n");
    assert!(
        answer.starts_with("-ERR ") && answer.ends_with(":1048576\r\n"),
        "{answer}"
    );
    let key = "k".repeat(1025);
    check(
        &s,
        &format!("SET {key} v"),
        "-ERR a key is 1 to 1024 bytes long, not 1025 (invalid-key)|",
    );
    // A request of many parts, each of which is small enough.
    let part = format!("$1000000\r\n{}\r\n", "y".repeat(1_000_000));
    let answer = s.redis(format!("*9\r\n$4\r\nMSET\r\n{}PING\r\n", part.repeat(8)));
    assert_eq!(
        answer,
        "-ERR the request is too large (too-large)\r\n+PONG\r\n"
    );
}

#[test]
fn what_is_not_the_protocol_is_said_and_ends_the_connection() {
    let place = Place::new();
    let s = place.ready(&[]);
    for (bytes, says) in [
        ("*1\r\n:1\r\n", "expected '$'"),
        ("*x\r\n", "invalid multibulk length"),
        ("*1\r\n$9999999999\r\n", "invalid bulk length"),
        ("SET 'k\r\n", "unbalanced quotes"),
    ] {
        let answer = s.redis(format!("PING\r\n{bytes}PING\r\n"));
        assert!(
            answer.starts_with("+PONG\r\n-ERR Protocol error: ")
                && answer.contains(says)
                && answer.lines().count() == 2,
            "{bytes}: {answer}"
        );
    }
    let http = s.redis("GET /v1/keys/k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(http.starts_with("-ERR "), "{http}");
    assert!(
        s.get("/metrics")
            .text()
            .contains("rejected_total{reason=\"malformed\"} 4")
    );
}

#[test]
fn requests_that_drip_and_clients_that_do_not_read_are_ended() {
    let place = Place::new();
    let s = place.ready(&["--io-timeout", "300ms", "--request-timeout", "1s"]);
    let ended = |begun: Instant, mut stream: UnixStream| {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        begun.elapsed()
    };
    // Silent within a request.
    let mut stream = s.connect_redis();
    let begun = Instant::now();
    stream.write_all(b"*2\r\n$3\r\nGET\r\n$5").unwrap();
    let took = ended(begun, stream);
    assert!(
        took > Duration::from_millis(200) && took < Duration::from_secs(3),
        "{took:?}"
    );
    // Never silent, never done.
    let mut stream = s.connect_redis();
    stream.write_all(b"*2\r\n$4\r\nECHO\r\n$1000\r\n").unwrap();
    let begun = Instant::now();
    while stream.write_all(b"x").is_ok() && begun.elapsed() < Duration::from_secs(9) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    // Silent between requests: as long as it likes.
    let mut quiet = s.connect_redis();
    quiet.write_all(b"PING\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(700));
    quiet.write_all(b"PING\r\n").unwrap();
    quiet.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    quiet.read_to_string(&mut answers).unwrap();
    assert_eq!(answers, "+PONG\r\n+PONG\r\n");
    // Asks for much and takes nothing.
    s.put("large", &vec![b'x'; 4 << 20]);
    let before = s.memory();
    let mut greedy: Vec<UnixStream> = (0..20).map(|_| s.connect_redis()).collect();
    for stream in &mut greedy {
        stream
            .write_all("GET large\r\n".repeat(1000).as_bytes())
            .unwrap();
    }
    s.until("they are ended", |s| {
        s.get("/metrics")
            .text()
            .contains("rejected_total{reason=\"slow_reader\"} 20")
    });
    let grown = s.memory().saturating_sub(before);
    assert!(
        grown < 64 << 10,
        "{grown} KiB for answers that nobody takes"
    );
    check(&s, "STRLEN large", ":4194304|");
}

#[test]
fn beyond_the_bound_the_longest_idle_connection_gives_way_of_whichever_protocol() {
    let place = Place::new();
    let s = place.ready(&["--max-connections", "8"]);
    let mut first = s.connect_redis();
    first.write_all(b"PING\r\n").unwrap();
    first.read_exact(&mut [0; 7]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let _others: Vec<UnixStream> = (0..8).map(|_| s.connect()).collect();
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
    check(&s, "PING", "+PONG|");
}

#[test]
fn with_64_descriptors_and_200_idle_connections_a_good_client_is_served() {
    let place = Place::new();
    let s = with_64_descriptors(&place);
    let idle: Vec<UnixStream> = (0..200).map(|_| s.connect_redis()).collect();
    // Some of them half-way in a request, too.
    for mut stream in idle.iter().take(60) {
        let _ = stream.write_all(b"*2\r\n$3\r\nGET\r\n$5");
    }
    for _ in 0..20 {
        check(&s, "SET good value", "+OK|");
        check(&s, "GET good", "$5|value|");
    }
    some_gave_way(&s);
    drop(idle);
    check(&s, "GET good", "$5|value|");
}

#[test]
fn thousands_of_connections_that_were_served_cost_little() {
    let count = many_connections();
    let place = Place::new();
    let s = place.ready(&["--max-connections", "11000"]);
    let before = s.memory();
    let connections: Vec<UnixStream> = (0..count)
        .map(|n| {
            let mut stream = s.connect_redis();
            let command = format!("SET k{n} v\r\nGET k{n}\r\n");
            stream.write_all(command.as_bytes()).unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    let each = s.memory().saturating_sub(before) * 1024 / count as u64;
    println!("{count} connections that were served, {each} bytes each");
    assert!(each < 6 << 10, "{each} bytes for an idle connection");
    drop(connections);
}

#[test]
fn while_the_store_is_not_open_clients_are_told_that_it_loads() {
    let place = Place::new();
    place.keyring("other", &[]);
    let s = place.start(&[]);
    // The socket that is waited for is made before this one; who is served on it, finds both.
    assert_eq!(s.get("/healthz").status, 200);
    for command in ["PING", "GET k", "SET k v", "SCAN 0", "DBSIZE"] {
        let answer = s.redis(format!("{command}\r\n"));
        assert!(answer.starts_with("-LOADING "), "{command}: {answer}");
    }
    assert!(s.redis("HELLO 2\r\n").starts_with("*14\r\n"));
    assert!(s.redis("INFO\r\n").contains("loading:1"));
}

#[test]
fn writes_beyond_the_memory_budget_are_refused_and_deletes_make_room() {
    let place = Place::new();
    let s = place.ready(&["--max-memory", "2Mi"]);
    let value = "x".repeat(100_000);
    let set = |n| format!("*3\r\n$3\r\nSET\r\n$3\r\nk{n:02}\r\n$100000\r\n{value}\r\n");
    let answers = s.redis((10..50).map(set).collect::<String>());
    assert!(
        answers.starts_with("+OK\r\n")
            && answers.contains("-OOM ")
            && answers.contains("(memory-full)\r\n"),
        "{answers}"
    );
    assert_eq!(s.redis("STRLEN k10\r\n"), ":100000\r\n", "reads go on");
    check(&s, "DEL k10 k11 k12 k13", ":4|");
    assert_eq!(s.redis(set(10)), "+OK\r\n");
}

#[test]
fn writes_beyond_the_disk_budget_are_refused_and_reads_and_deletes_go_on() {
    let place = Place::new();
    let s = place.ready(&["--max-disk", "16Mi", "--compression", "none"]);
    let value = "x".repeat(400_000);
    let set = |n| format!("*3\r\n$3\r\nSET\r\n$4\r\nk{n:03}\r\n$400000\r\n{value}\r\n");
    let answers = s.redis((10..60).map(set).collect::<String>());
    assert!(
        answers.starts_with("+OK\r\n")
            && answers.contains("-MISCONF ")
            && answers.contains("(disk-full)\r\n"),
        "{answers}"
    );
    // A fold that was under way gives room back: until there is none.
    let mut refused = 0;
    for n in (10..60).cycle().take(1000) {
        let fits = s.redis(set(100 + n)).starts_with("+OK");
        refused = if fits { 0 } else { refused + 1 };
        if refused == 10 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    // A transaction that does not fit does nothing.
    let answers = s.redis(format!(
        "MULTI\r\nSET small v\r\n{}{}EXEC\r\nEXISTS small\r\n",
        set(90),
        set(91)
    ));
    assert!(
        answers.contains("-EXECABORT ") && answers.ends_with("(disk-full)\r\n:0\r\n"),
        "{answers}"
    );
    assert_eq!(s.redis("STRLEN k010\r\n"), ":400000\r\n", "reads go on");
    check(&s, "DEL k010 k011", ":2|");
}

#[test]
fn the_socket_has_its_mode_and_can_be_left_out() {
    let place = Place::new();
    let mut s = place.ready(&["--socket-mode", "0660"]);
    let socket = place.path("redis.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // What was sent before the end is answered.
    let mut stream = s.connect_redis();
    stream.write_all(b"SET k v\r\n").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(s.terminate().code(), Some(0));
    assert!(!socket.exists());
    let s = place.ready(&["--redis-socket", ""]);
    assert!(!socket.exists());
    assert_eq!(s.get("/v1/keys/k").text(), "v");
}
