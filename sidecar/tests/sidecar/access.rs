//! Access rules, by real users: curl runs as them. That wants root; elsewhere there is one user.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use codexstore_api::grpc::kv_client::KvClient;
use codexstore_api::grpc::{GetRequest, ListRequest};
use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};
use tonic::{Code, Status};

use crate::grpc::{Connection, get, refused, set};
use crate::harness::{Place, Sidecar, not_run, runtime};

const RULES: &str = r#"[
    {"uids": [4001], "prefixes": ["a/", "c/"], "verbs": ["Read", "Write"]},
    {"gids": [5000], "prefixes": ["b/"], "verbs": ["Read"]},
    {"uids": [4003], "verbs": ["Write"]},
    {"uids": [0], "verbs": ["Read", "Write"]}
]"#;

/// Whether this may be other users.
fn others() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        not_run("to be other users wants root");
    }
    root
}

/// A request by a user: status and body.
fn ask(s: &Sidecar, (uid, gid): (u32, u32), arguments: &[&str]) -> (u16, String) {
    let out = Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "20",
            "-w",
            "\n%{http_code}",
            "--unix-socket",
        ])
        .arg(&s.socket)
        .args(arguments)
        .uid(uid)
        .gid(gid)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn names(body: &str) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_str(body).unwrap();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["key"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn users_do_what_rules_give_them_and_see_no_other_keys() {
    if !others() {
        return;
    }
    let place = Place::new();
    std::fs::set_permissions(place.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let s = place.ready(&["--access", RULES]);
    let (root, alice, bob, carol, eve) = (
        (0, 0),
        (4001, 4001),
        (4002, 5000),
        (4003, 4003),
        (4004, 4004),
    );
    for key in ["a%2F1", "a%2F2", "b%2F1", "b%2F2", "c%2F1", "d%2F1"] {
        let target = format!("http://s/v1/keys/{key}");
        assert_eq!(ask(&s, root, &["-T", "/etc/hostname", &target]).0, 201);
    }
    for (who, method, target, status) in [
        (alice, "GET", "keys/a%2F1", 200),
        (alice, "PUT", "keys/c%2F2", 201),
        (alice, "GET", "keys/b%2F1", 403),
        (alice, "GET", "keys/none", 403),
        (alice, "DELETE", "keys?prefix=a%2F", 200),
        (alice, "DELETE", "keys?prefix=&all=true", 403),
        (bob, "GET", "keys/b%2F1", 200),
        (bob, "PUT", "keys/b%2F1", 403),
        (bob, "DELETE", "keys/b%2F1", 403),
        (bob, "GET", "keys/a%2F1", 403),
        (carol, "PUT", "keys/d%2F2", 201),
        (carol, "GET", "keys/d%2F2", 403),
        (carol, "POST", "clock/accept", 204),
        (bob, "POST", "clock/accept", 403),
        (eve, "GET", "keys/b%2F1", 403),
        (eve, "PUT", "keys/e", 403),
        (eve, "GET", "status", 200),
    ] {
        let target = format!("http://s/v1/{target}");
        let (got, body) = ask(&s, who, &["-X", method, "-d", "v", &target]);
        assert_eq!(got, status, "{who:?} {method} {target}: {body}");
        if status == 403 {
            assert!(
                body.contains("\"denied\"") && body.contains("spec.access"),
                "{body}"
            );
            assert!(!body.contains("none"), "{body}");
        }
    }
    // A condition tells what is there.
    let create = [
        "-X",
        "PUT",
        "-d",
        "v",
        "-H",
        "If-None-Match: *",
        "http://s/v1/keys/d%2F9",
    ];
    assert_eq!(ask(&s, carol, &create).0, 403);
    // A batch is permitted as a whole.
    let batch =
        r#"{"operations":[{"op":"set","key":"c/3","text":"v"},{"op":"delete","key":"b/1"}]}"#;
    let (got, body) = ask(&s, alice, &["-d", batch, "http://s/v1/batch"]);
    assert!(got == 403 && body.contains("operation 1"), "{body}");
    let guarded = r#"{"operations":[{"op":"set","key":"d/3","text":"v"}],"preconditions":[{"key":"d/1","absent":true}]}"#;
    let (got, body) = ask(&s, carol, &["-d", guarded, "http://s/v1/batch"]);
    assert!(
        got == 403 && body.contains("precondition 0"),
        "{got} {body}"
    );
    assert_eq!(s.get("/v1/keys/c%2F3").status, 404);
}

#[test]
fn a_list_goes_through_permitted_keys_page_by_page_and_its_cursor_names_no_others() {
    if !others() {
        return;
    }
    let place = Place::new();
    std::fs::set_permissions(place.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let s = place.ready(&["--access", RULES]);
    for key in ["a/1", "a/2", "b/secret", "c/1", "c/2", "d/secret"] {
        assert_eq!(s.put(&key.replace('/', "%2F"), b"v").status, 201);
    }
    let alice = (4001, 4001);
    let (status, body) = ask(&s, alice, &["http://s/v1/keys"]);
    assert_eq!(
        (status, names(&body)),
        (200, ["a/1", "a/2", "c/1", "c/2"].map(String::from).to_vec())
    );
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, body) = ask(&s, alice, &[&format!("http://s/v1/keys?limit=1{cursor}")]);
        seen.extend(names(&body));
        let list: serde_json::Value = serde_json::from_str(&body).unwrap();
        let Some(next) = list["cursor"].as_str() else {
            break;
        };
        let named = codexstore_api::encoding::unbase64url(next).unwrap();
        assert!(
            named.starts_with(b"a/") || named.starts_with(b"c/"),
            "{named:?}"
        );
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["a/1", "a/2", "c/1", "c/2"]);
    let (_, body) = ask(&s, alice, &["http://s/v1/keys?prefix=b"]);
    assert_eq!(names(&body), Vec::<String>::new());
    let (_, body) = ask(&s, (4002, 5000), &["http://s/v1/keys?from=a&match=*e*"]);
    assert_eq!(names(&body), ["b/secret"]);
}

#[test]
fn rules_that_cannot_be_read_end_the_start_and_say_what_is_wrong() {
    let place = Place::new();
    let out = place
        .command(&["--access", r#"[{"verbs": ["Read"]}]"#])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{text}");
    assert!(
        text.contains("--access") && text.contains("rule 0 holds for nobody"),
        "{text}"
    );
}

/// A connection that a user has made: what the kernel says of it stays as it was then.
fn connect_as(s: &Sidecar, (uid, gid): (u32, u32)) -> UnixStream {
    let socket = s.socket.clone();
    // These system calls are of one thread, which ends here.
    let connecting = std::thread::spawn(move || {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        UnixStream::connect(socket).unwrap()
    });
    connecting.join().unwrap()
}

#[test]
fn grpc_goes_by_the_same_rules() {
    if !others() {
        return;
    }
    let place = Place::new();
    std::fs::set_permissions(place.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let s = place.ready(&["--access", RULES]);
    for key in ["a%2F1", "b%2F1"] {
        assert_eq!(s.put(key, b"v").status, 201);
    }
    let denied = |status: Status| {
        refused(&status, Code::PermissionDenied, "denied");
        let says = status.message();
        assert!(
            says.contains("spec.access") && !says.contains("/1"),
            "{says}"
        );
    };
    runtime().block_on(async {
        let of = async |who| KvClient::new(Connection::over(connect_as(&s, who)).await);
        let mut alice = of((4001, 4001)).await;
        let found = alice.get(get("a/1")).await.unwrap().into_inner();
        assert_eq!(found.entry.unwrap().value, "v");
        alice.set(set("c/1", "v")).await.unwrap();
        denied(alice.get(get("b/1")).await.unwrap_err());
        denied(alice.set(set("d/1", "v")).await.unwrap_err());

        let mut bob = of((4002, 5000)).await;
        bob.get(get("b/1")).await.unwrap();
        denied(bob.set(set("b/1", "x")).await.unwrap_err());
        let mut pages = bob.list(ListRequest::default()).await.unwrap().into_inner();
        let mut keys = Vec::new();
        while let Some(page) = pages.message().await.unwrap() {
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
        }
        assert_eq!(keys, ["b/1"]);

        let mut carol = of((4003, 4003)).await;
        carol.set(set("d/1", "v")).await.unwrap();
        denied(carol.get(get("d/1")).await.unwrap_err());
        let then = GetRequest {
            revision: Some(1),
            ..get("d/1")
        };
        denied(carol.get(then).await.unwrap_err());

        let mut eve = of((4004, 4004)).await;
        denied(eve.get(get("a/1")).await.unwrap_err());
    });
}

/// What redis-cli prints for a user, an answer a line.
fn redis(s: &Sidecar, (uid, gid): (u32, u32), lines: &[&str]) -> Vec<String> {
    use std::io::Write;
    let mut child = Command::new("redis-cli")
        .arg("-s")
        .arg(s.socket.with_file_name("redis.sock"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .uid(uid)
        .gid(gid)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all((lines.join("\n") + "\n").as_bytes())
        .unwrap();
    drop(stdin);
    let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let answers = text.lines().filter(|line| !line.is_empty());
    answers.map(str::to_owned).collect()
}

#[test]
fn the_redis_protocol_goes_by_the_same_rules() {
    if !others() {
        return;
    }
    if Command::new("redis-cli").arg("--version").output().is_err() {
        return not_run("there is no redis-cli");
    }
    let place = Place::new();
    std::fs::set_permissions(place.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let s = place.ready(&["--access", RULES]);
    let (root, alice, bob, carol, eve) = (
        (0, 0),
        (4001, 4001),
        (4002, 5000),
        (4003, 4003),
        (4004, 4004),
    );
    let all = ["mset a/1 v a/2 v b/1 v b/2 v c/1 v d/1 v", "dbsize"];
    assert_eq!(redis(&s, root, &all), ["OK", "6"]);
    for (who, line, allowed) in [
        (alice, "get a/1", true),
        (alice, "get b/1", false),
        (alice, "get none", false),
        (alice, "mget a/1 b/1", false),
        (alice, "mset a/1 v b/1 v", false),
        (alice, "set c/2 v get", true),
        (alice, "rename a/1 c/3", true),
        (alice, "rename a/2 b/3", false),
        (alice, "copy b/1 a/3", false),
        (alice, "flushall", false),
        (alice, "watch b/1", false),
        (bob, "get b/1", true),
        (bob, "ttl b/1", true),
        (bob, "set b/1 v", false),
        (bob, "expire b/1 10", false),
        (bob, "getdel b/1", false),
        (bob, "strlen a/1", false),
        (carol, "set d/2 v", true),
        (carol, "set d/2 v nx", false),
        (carol, "set d/2 v get", false),
        (carol, "expire d/2 100", true),
        (carol, "expire d/2 200 nx", false),
        (carol, "pexpire d/2 1 gt", false),
        (carol, "expireat d/2 1 xx", false),
        (carol, "persist d/2", false),
        (carol, "del d/1", true),
        (carol, "incr n", false),
        (carol, "get d/2", false),
        (eve, "get a/1", false),
        (eve, "exists a/1", false),
        (eve, "object encoding a/1", false),
    ] {
        let said = redis(&s, who, &[line]).concat();
        let denied = said.starts_with("NOPERM no rule gives uid ");
        assert_eq!(denied, !allowed, "{who:?} {line}: {said}");
        assert!(!denied || !said.contains("/1"), "{said}");
    }
    // Within a transaction, too.
    let said = redis(
        &s,
        bob,
        &["multi", "set a/9 v", "dbsize", "get b/1", "exec"],
    );
    assert!(
        said[0] == "OK" && said[1].starts_with("NOPERM") && said[2].starts_with("NOPERM"),
        "{said:?}"
    );
    assert!(
        said[3] == "QUEUED" && said[4].starts_with("EXECABORT"),
        "{said:?}"
    );
    // Who lists sees what it may read.
    assert_eq!(
        redis(
            &s,
            bob,
            &["dbsize", "keys *", "scan 0 count 1000", "randomkey"]
        )[..6],
        ["2", "b/1", "b/2", "0", "b/1", "b/2"]
    );
    assert_eq!(redis(&s, bob, &["keys a*", "scan 0 match [ac]*"]), ["0"]);
    assert_eq!(redis(&s, eve, &["dbsize", "keys *"]), ["0"]);
    let told = |who| redis(&s, who, &["info keyspace"]).concat();
    assert!(told(root).contains("db0:keys="), "{}", told(root));
    for who in [alice, bob, carol, eve] {
        assert_eq!(told(who).trim(), "# Keyspace", "{who:?}");
    }
    // A cursor of others leads nowhere else.
    let page = redis(&s, root, &["scan 0 count 3"]);
    let next = redis(&s, bob, &[&format!("scan {} count 1000", page[0])]);
    assert!(
        next[1..].iter().all(|key| key.starts_with("b/")),
        "{next:?}"
    );
    assert_eq!(redis(&s, root, &["flushall", "dbsize"]), ["OK", "0"]);
}
