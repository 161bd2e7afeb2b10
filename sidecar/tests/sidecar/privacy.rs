//! Nothing that belongs to the user is ever told to anyone else.

use crate::harness::Place;

#[test]
fn keys_and_values_are_in_no_log_metric_status_error_or_file() {
    let place = Place::new();
    let secret = b"canary-secret-32-bytes-long-xxxx";
    place.keyring("id-1", &[("id-1", secret)]);
    let mut s = place.ready(&["--log-level", "trace"]);
    let mut told = String::new();
    let mut tell = |answer: crate::harness::Answer| {
        told.push_str(&answer.head);
        told.push_str(&answer.text());
    };
    tell(s.put("canary-key", b"canary-value"));
    tell(s.request(
        "PUT",
        "/v1/keys/canary-key",
        "If-None-Match: *\r\n",
        b"canary-value",
    ));
    tell(s.request(
        "PUT",
        "/v1/keys/canary-key?canary-parameter=1",
        "",
        b"canary-value",
    ));
    tell(s.put("canary-key%zz", b"canary-value"));
    tell(s.get("/v1/keys/canary-none"));
    tell(s.get("/canary-path"));
    for body in [
        r#"{"operations":[{"op":"canary-op","key":"canary-key"}]}"#,
        r#"{"operations":[{"op":"set","key":"canary-key","canary-field":1}]}"#,
        r#"{"operations":[{"op":"set","key":"canary-key","text":"canary-value"}],"preconditions":[{"key":"canary-key","absent":true}]}"#,
        "canary-value",
    ] {
        tell(s.request("POST", "/v1/batch", "", body.as_bytes()));
    }
    tell(s.send(b"canary-garbage canary-value\r\n\r\n"));
    // HTTP/2 has a parser of its own, with a log of its own.
    for path in ["/v1/keys/canary key", "/v1/keys/canary-key", "canary"] {
        let mut client = crate::http2::Http2::connect(&s, 1 << 16);
        client.get(1, path.as_bytes());
        for _ in 0..4 {
            client.next();
        }
    }
    for line in [
        "SET canary-key canary-value",
        "INCR canary-key",
        "SET canary-key canary-value canary-option",
        "canary-command canary-value",
        "HSET canary-key canary-field canary-value",
        "EXPIRE canary-key canary-value",
        "SCAN 0 MATCH canary[",
        "CLIENT canary-word canary-value",
        "CONFIG SET canary-name canary-value",
        "$canary",
    ] {
        let answer = s.redis(format!("{line}\r\n"));
        // A name of a command is repeated, as far as it looks like one.
        assert!(
            !answer.replace("'canary-command'", "").contains("canary"),
            "{line}: {answer}"
        );
    }
    tell(s.get("/metrics"));
    tell(s.get("/v1/status"));
    s.get("/v1/keys?prefix=canary&values=true");
    s.request("DELETE", "/v1/keys?prefix=canary", "", b"");
    s.put("canary-key", &b"canary-value".repeat(100));
    s.terminate();
    assert!(!told.contains("canary"), "{told}");
    let log = s.log();
    assert!(
        log.contains("request") && log.lines().count() > 20,
        "there is a log"
    );
    let line = log.lines().find(|line| line.contains("canary"));
    // hyper's and h2's own traces name what they parse; ours never do.
    assert!(line.is_none(), "{}", line.unwrap_or_default());
    for (name, content) in place.contents() {
        assert!(!content.windows(6).any(|w| w == b"canary"), "{name}");
    }
}

/// A user that is not root, as in a pod.
const USER: u32 = 65_532;

#[test]
fn another_process_of_the_same_user_cannot_look_into_it() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    let place = Place::new();
    // Somewhere that the other user can get to, whatever the way to the build is.
    let binary = place.path("codexstore-sidecar");
    // Not by this process: what a test beside this starts meanwhile would have it open for writing for a moment, and no
    // such file can be run.
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_codexstore-sidecar"));
    assert!(copy.arg(&binary).status().unwrap().success());
    let root = rustix::process::geteuid().is_root();
    let user = |command: &mut Command| {
        if root {
            command.uid(USER).gid(USER);
        }
    };
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.dir.path(), open).unwrap();
    if root {
        chown(place.dir.path(), Some(USER), Some(USER)).unwrap();
    }
    let base = place.command(&[]);
    let mut command = Command::new(&binary);
    command.args(base.get_args());
    user(&mut command);
    let s = place.spawn(command);
    s.until("it is ready", |s| s.get("/readyz").status == 200);

    let look = |pid: u32, what: &str| {
        let mut command = Command::new("ls");
        if what == "environ" {
            command = Command::new("cat");
        }
        command.arg(format!("/proc/{pid}/{what}"));
        user(&mut command);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    // What is refused below is allowed with any other process of that user.
    let mut command = Command::new("sleep");
    command.arg("60");
    user(&mut command);
    let mut other = command.spawn().unwrap();
    for what in ["environ", "root/", "fd/"] {
        let (seen, said) = look(s.child.id(), what);
        assert!(!seen && said.contains("denied"), "{what}: {said}");
        let (seen, said) = look(other.id(), what);
        assert!(seen, "{what}: {said}");
    }
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(s.put("k", b"value").status, 201, "it works all the same");
}

/// As large a core file as this user may have, wherever a crash may leave one.
const MAY_DUMP: &str = "ulimit -c \"$(ulimit -H -c)\"; ";

#[test]
fn a_crash_leaves_no_core_file() {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    let place = Place::new();
    let cores = place.path("cores");
    std::fs::create_dir(&cores).unwrap();
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{MAY_DUMP}{script}")]);
        command.current_dir(&cores);
        command
    };
    let left = || std::fs::read_dir(&cores).unwrap().count();
    // What is refused below is allowed with any other process of this user.
    let other = shell("kill -s ABRT $$").status().unwrap();
    assert_eq!(other.signal(), Some(6), "{other}");
    if !other.core_dumped() {
        println!("this machine makes no core files at all: nothing can be seen here");
    }
    let before = left();
    let base = place.command(&[]);
    let mut command = shell("exec \"$0\" \"$@\"");
    command.arg(base.get_program()).args(base.get_args());
    let mut s = place.spawn(command);
    s.until("it is ready", |s| s.get("/readyz").status == 200);
    assert_eq!(s.put("canary-key", b"canary-value").status, 201);
    s.signal(rustix::process::Signal::ABORT);
    let status = s.child.wait().unwrap();
    assert_eq!(status.signal(), Some(6), "{status}");
    assert!(!status.core_dumped(), "{status}");
    assert_eq!(left(), before);
}
