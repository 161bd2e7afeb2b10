//! Start, stop, flags, the socket's file.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use crate::harness::{Answer, Place, outcome, ping};

#[test]
fn it_is_small_when_idle() {
    let place = Place::new();
    let s = place.ready(&[]);
    // The bar is 8 MiB for the release build, which the benchmark holds; this one has no
    // optimisation and its debug information.
    assert!(s.memory() < 24 << 10, "{} KiB", s.memory());
}

#[test]
fn sigterm_answers_what_is_in_work_and_removes_the_socket() {
    let place = Place::new();
    let mut s = place.ready(&["--shutdown-timeout", "5s"]);
    // A request whose body is still on its way, an idle connection, and a half-sent header.
    let mut slow = s.connect();
    slow.write_all(b"PUT /v1/keys/late HTTP/1.1\r\nHost: l\r\nContent-Length: 4\r\n\r\nla")
        .unwrap();
    let idle = s.connect();
    let mut half = s.connect();
    half.write_all(b"GET /v1/keys/k HTTP/1.1\r\nHo").unwrap();
    s.until("the request is in work", |s| {
        s.get("/metrics")
            .text()
            .contains("codexstore_connections 4")
    });
    s.signal(rustix::process::Signal::TERM);
    s.until("the socket is gone", |s| !s.socket.exists());
    slow.write_all(b"te").unwrap();
    let answer = Answer::read(&mut slow);
    assert_eq!(answer.status, 201, "{answer:?}");
    let mut rest = Vec::new();
    let mut idle = idle;
    idle.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    half.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "it had asked nothing");
    assert_eq!(s.child.wait().unwrap().code(), Some(0));
    assert!(s.log().contains("the store is closed"));
    assert_eq!(place.ready(&[]).get("/v1/keys/late").text(), "late");
}

#[test]
fn a_client_that_hangs_does_not_hold_up_the_end() {
    let place = Place::new();
    let mut s = place.ready(&["--shutdown-timeout", "500ms"]);
    let mut hanging = s.connect();
    hanging
        .write_all(b"PUT /v1/keys/k HTTP/1.1\r\nHost: l\r\nContent-Length: 4\r\n\r\n")
        .unwrap();
    s.until("it is in work", |s| {
        s.get("/metrics")
            .text()
            .contains("codexstore_connections 2")
    });
    let started = Instant::now();
    assert_eq!(s.terminate().code(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_second_sidecar_waits_for_the_first_and_takes_over() {
    let place = Place::new();
    let mut first = place.ready(&[]);
    first.put("k", b"value");
    let other = place.path("other.sock");
    let socket = ["--socket", other.to_str().unwrap()];
    let mut command = place.command(&[&socket[..], &["--redis-socket", ""]].concat());
    let mut second = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (code, said) = ping(&other, &["--ready"]);
        if said.contains("locked") {
            break;
        }
        assert!(code != 0 && Instant::now() < deadline, "{code} {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(first.get("/v1/keys/k").text(), "value", "the first goes on");
    first.terminate();
    let deadline = Instant::now() + Duration::from_secs(20);
    while ping(&other, &["--ready"]).0 != 0 {
        assert!(Instant::now() < deadline, "the second never took over");
        std::thread::sleep(Duration::from_millis(20));
    }
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn the_socket_has_its_mode_and_the_data_is_private() {
    let place = Place::new();
    let mut command = place.command(&["--socket-mode", "0620"]);
    command.env("CODEXSTORE_MAX_CONNECTIONS", "10");
    let s = place.spawn(command);
    s.until("it is ready", |s| s.get("/readyz").status == 200);
    let mode = std::fs::metadata(&s.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o620);
    assert_eq!(
        std::fs::metadata(place.path("data")).unwrap().mode() & 0o7777,
        0o700
    );
    assert!(
        s.log().contains(r#""max_connections":10"#),
        "flags are also variables"
    );
}

#[test]
fn wrong_flags_end_with_code_2_before_anything_is_touched() {
    for (args, said) in [
        (&["--max-value", "1Ti"][..], "64Mi"),
        (&["--socket-mode", "0999"], "octal"),
        (&["--durability", "sometimes"], "always"),
        (&["--no-such-flag"], "no-such-flag"),
    ] {
        let place = Place::new();
        let (code, stderr) = outcome(place.command(args));
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{stderr}");
        assert!(!place.socket().exists() && !place.path("data").exists());
    }
    let place = Place::new();
    std::fs::write(place.socket(), "not a socket").unwrap();
    let (code, stderr) = outcome(place.command(&[]));
    assert!(
        code == 1
            && stderr.contains("something else")
            && stderr.lines().all(|l| l.starts_with('{')),
        "{code} {stderr}"
    );
    let (code, said) = ping(&place.path("none.sock"), &[]);
    assert!(
        code == 1 && said.contains("no answer from"),
        "{code} {said}"
    );
    let mut help = std::process::Command::new(env!("CARGO_BIN_EXE_codexstore-sidecar"));
    let help = help.args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for part in [
        "curl --unix-socket",
        "CODEXSTORE_KEYRING_DIR",
        "Exit codes:",
        "disk-full",
    ] {
        assert!(help.contains(part), "{part}");
    }
}

#[test]
fn corrupt_data_is_an_integrity_error_and_left_alone() {
    let place = Place::new();
    let mut s = place.ready(&[]);
    for n in 0..20 {
        s.put(&format!("k{n}"), &[n; 600]);
    }
    s.terminate();
    // Any file with frames in it: flip a bit in the middle of its written part.
    let (name, mut content) = place
        .contents()
        .into_iter()
        .filter(|(name, _)| name.starts_with("journal") || name.starts_with("image"))
        .max_by_key(|(_, content)| content.iter().filter(|byte| **byte != 0).count())
        .unwrap();
    let last = content.iter().rposition(|byte| *byte != 0).unwrap();
    content[8192 + (last - 8192) / 2] ^= 1;
    std::fs::write(place.path("data").join(&name), &content).unwrap();
    let unchanged = || {
        // Each try to open counts as an owner, in a file of its own.
        let files = place.fingerprint().into_iter();
        files
            .filter(|(name, ..)| !name.starts_with("epoch"))
            .collect::<Vec<_>>()
    };
    let before = unchanged();
    let s = place.start(&[]);
    s.until("it has tried", |s| {
        s.status().state == codexstore_api::status::State::IntegrityError
    });
    let answer = s.get("/v1/keys/k1");
    assert_eq!(
        (answer.status, answer.problem().code.as_str()),
        (503, "corrupt")
    );
    assert!(s.status().message.unwrap().contains(&name));
    assert_eq!(unchanged(), before);
}
