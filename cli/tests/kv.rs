//! get, set, delete, list, batch and status on a real store.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, process::Stdio};

use crate::support::{Store, codexctl, run, run_with};

#[test]
fn a_value_goes_in_and_out_byte_for_byte() {
    let store = Store::start();
    let bytes: Vec<u8> = (0..=255).chain(*b"\n\0\n").collect();
    run_with(&mut store.ctl(["set", "a/b c?", "-"]), &bytes).ok();
    let got = store.run(["get", "a/b c?"]);
    assert_eq!((got.code, got.out), (Some(0), bytes.clone()));

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    run(store.ctl(["set", "from-file", "--file"]).arg(file.path())).ok();
    assert_eq!(store.run(["get", "from-file"]).out, bytes);

    store.run(["set", "empty", ""]).ok();
    assert_eq!(store.run(["get", "empty"]).ok(), "");
    store.run(["set", "dash", "--", "-1"]).ok();
    store.run(["set", "dash", "-1"]).ok();
    assert_eq!(store.run(["get", "dash"]).ok(), "-1");
}

#[test]
fn json_says_what_is_known_about_a_value() {
    let store = Store::start();
    let written = store
        .run(["set", "k", "hello", "--ttl", "1h", "-o", "json"])
        .json();
    assert_eq!(written["created"], true);
    let entry = store.run(["get", "k", "-o", "json"]).json();
    assert_eq!(entry["key"], "k");
    assert_eq!(entry["text"], "hello");
    assert_eq!(entry["revision"], written["revision"]);
    assert_eq!(entry["version"], 1);
    assert!(
        entry["expiresAt"].as_str().unwrap().ends_with('Z'),
        "{entry}"
    );
    run_with(&mut store.ctl(["set", "k", "-"]), b"\xff").ok();
    let entry = store.run(["get", "k", "-o", "json"]).json();
    assert_eq!(entry["value"], "/w==");
    assert!(
        entry.get("text").is_none() && entry.get("expiresAt").is_none(),
        "{entry}"
    );
}

#[test]
fn what_is_not_there_exits_with_3() {
    let store = Store::start();
    assert!(
        store
            .run(["get", "none"])
            .fails(3)
            .contains("`none` is not there")
    );
    store.run(["delete", "none"]).fails(3);
    store.run(["set", "k", "v"]).ok();
    store.run(["delete", "k"]).ok();
    store.run(["get", "k"]).fails(3);
}

#[test]
fn preconditions_that_do_not_hold_exit_with_8_and_write_nothing() {
    let store = Store::start();
    store.run(["set", "k", "1", "--if-absent"]).ok();
    store.run(["set", "k", "2", "--if-absent"]).fails(8);
    let revision = store.run(["get", "k", "-o", "json"]).json()["revision"].to_string();
    store
        .run(["set", "k", "3", "--if-revision", "999999"])
        .fails(8);
    store
        .run(["set", "none", "3", "--if-revision", &revision])
        .fails(8);
    assert_eq!(store.run(["get", "k"]).ok(), "1");
    store
        .run(["set", "k", "4", "--if-revision", &revision])
        .ok();
    store
        .run(["set", "k", "5", "--if-revision", &revision])
        .fails(8);
    assert_eq!(store.run(["get", "k"]).ok(), "4");
}

#[test]
fn a_key_with_a_ttl_goes_away() {
    let store = Store::start();
    store.run(["set", "k", "v", "--ttl", "300ms"]).ok();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while store.run(["get", "k"]).code != Some(3) {
        assert!(
            std::time::Instant::now() < deadline,
            "the key is still there"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_prefix_is_deleted_and_everything_only_when_that_is_said() {
    let store = Store::start();
    for key in ["a/1", "a/2", "b"] {
        store.run(["set", key, "v"]).ok();
    }
    assert_eq!(
        store.run(["delete", "--prefix", "a/", "-o", "json"]).json()["deleted"],
        2
    );
    assert!(
        store
            .run(["delete", "--prefix", ""])
            .fails(2)
            .contains("--all")
    );
    assert_eq!(store.run(["get", "b"]).ok(), "v");
    assert_eq!(
        store.run(["delete", "--prefix", "", "--all"]).ok(),
        "1 deleted\n"
    );
    store.run(["get", "b"]).fails(3);
}

#[test]
fn a_long_list_is_followed_to_its_end() {
    let store = Store::start();
    let operations: Vec<_> = (0..2500)
        .map(
            |n| serde_json::json!({"op": "set", "key": format!("k/{n:05}"), "text": n.to_string()}),
        )
        .collect();
    let batch = serde_json::json!({"operations": operations}).to_string();
    run_with(&mut store.ctl(["batch"]), batch.as_bytes()).ok();

    let keys = |args: &[&str]| -> Vec<String> {
        let list = run(store.ctl(["list", "-o", "json"]).args(args)).json();
        let items = list["items"].as_array().unwrap();
        items
            .iter()
            .map(|i| i["key"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = keys(&[]);
    assert_eq!(all.len(), 2500);
    assert!(all.is_sorted());
    assert_eq!(keys(&["--limit", "1200"]), all[..1200]);
    assert_eq!(keys(&["--prefix", "k/0001"]), all[10..20]);
    assert_eq!(
        keys(&["--match", "k/*99", "--limit", "2"]),
        ["k/00099", "k/00199"]
    );
    assert!(keys(&["--prefix", "none"]).is_empty());

    let values = store
        .run(["list", "--values", "--limit", "150", "-o", "json"])
        .json();
    assert_eq!(values["items"][149]["text"], "149");
    let table = store.run(["list", "--limit", "1100"]).ok();
    assert_eq!(table.lines().filter(|l| l.starts_with("KEY")).count(), 1);
    assert_eq!(table.lines().count(), 1101);

    // A reader that has seen enough is no failure.
    let mut child = store
        .ctl(["list", "--values"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.len()),
        (Some(0), 0),
        "{output:?}"
    );
}

#[test]
fn a_key_that_is_no_text_is_a_key_like_any_other() {
    let store = Store::start();
    let key = OsStr::from_bytes(b"\xff\x1b[2J");
    run(store.ctl(["set"]).arg(key).arg("v")).ok();
    assert_eq!(run(store.ctl(["get"]).arg(key)).ok(), "v");
    let table = store.run(["list"]).ok();
    assert!(table.contains(r"\xff\u{1b}[2J"), "{table:?}");
    let list = store.run(["list", "-o", "json"]).json();
    assert_eq!(list["items"][0]["keyBase64"], "/xtbMko=");
    run(store.ctl(["delete"]).arg(key)).ok();
}

#[test]
fn a_batch_happens_whole_or_not_at_all() {
    let store = Store::start();
    store.run(["set", "stock", "1"]).ok();
    let batch = r#"{"preconditions": [{"key": "order", "absent": true}],
        "operations": [{"op": "set", "key": "order", "text": "tea"}, {"op": "delete", "key": "stock"}]}"#;
    assert!(
        run_with(&mut store.ctl(["batch", "-"]), batch.as_bytes())
            .ok()
            .starts_with("revision ")
    );
    assert_eq!(store.run(["get", "order"]).ok(), "tea");
    store.run(["set", "stock", "2"]).ok();
    run_with(&mut store.ctl(["batch"]), batch.as_bytes()).fails(8);
    assert_eq!(store.run(["get", "stock"]).ok(), "2");

    let wrong = run_with(
        &mut store.ctl(["batch"]),
        b"{\"operations\": [{\"op\": \"put\"}]}",
    )
    .fails(2);
    assert!(
        wrong.contains("stdin is not a batch") && wrong.contains("line 1"),
        "{wrong}"
    );
    store.run(["batch", "/no/such/file"]).fails(2);
}

#[test]
fn bounds_of_the_store_are_told_by_their_code() {
    let store = Store::start();
    let large = vec![b'x'; 9 << 20];
    let error = run_with(&mut store.ctl(["set", "k", "-"]), &large).fails(2);
    assert!(error.contains("too-large"), "{error}");
    store.run(["set", "", "v"]).fails(2);
    store.run(["set", &"k".repeat(1025), "v"]).fails(2);
}

#[test]
fn a_status_says_that_the_store_is_ready_and_encrypted() {
    let store = Store::start();
    store.run(["set", "k", "v"]).ok();
    let status = store.run(["status", "-o", "json"]).json();
    assert_eq!(status["state"], "Ready");
    assert_eq!(status["cipher"], "AES-256-GCM");
    assert_eq!(status["keyId"], store.said["keyId"]);
    assert_eq!(status["keys"], 1);
    let table = store.run(["status"]).ok();
    assert!(
        table.starts_with("State") && table.contains("Ready"),
        "{table}"
    );
}

#[test]
fn nobody_on_the_socket_exits_with_9_and_says_what_to_look_at() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let get = || run(codexctl().args(["get", "k", "--socket"]).arg(&socket));
    let error = get().fails(9);
    assert!(
        error.contains("no such socket") && error.contains("none.sock"),
        "{error}"
    );
    // A socket that somebody left behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let error = get().fails(9);
    assert!(error.contains("is its container running?"), "{error}");
}
