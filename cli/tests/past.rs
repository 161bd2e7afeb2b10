//! watch, history and get --revision on real stores.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use crate::support::{ORDERS, Store, codexctl, run, run_with};

/// A CodexStore that remembers.
fn ledger() -> String {
    ORDERS.replace(
        "spec: {}",
        "spec: {strategy: Ledger, keep: {age: 720h, revisions: 1000}}",
    )
}

#[test]
fn a_ledger_from_a_manifest_tells_what_became_of_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start_in(dir.path(), &ledger());
    let set = |value: &str, actor: &str| {
        let set = ["set", "k", value, "--actor", actor, "-o", "json"];
        store.run(set).json()["revision"].as_u64().unwrap()
    };
    let first = set("one", "alice");
    let second = set("two", "bob");
    store.run(["set", "other", "x"]).ok();
    let batch = br#"{"operations": [{"op": "delete", "key": "k"}]}"#;
    run_with(
        store.ctl(["batch"]).env("CODEXSTORE_ACTOR", "müller"),
        batch,
    )
    .ok();

    let all = store.run(["history", "k", "--values", "-o", "json"]).json();
    let items = all["items"].as_array().unwrap();
    let seen: Vec<_> = items
        .iter()
        .map(|i| {
            let text = |name: &str| i[name].as_str().unwrap_or_default().to_owned();
            (text("op"), text("text"), text("actor"))
        })
        .collect();
    let wanted = [
        ("set", "one", "alice"),
        ("set", "two", "bob"),
        ("delete", "", "müller"),
    ];
    assert_eq!(
        seen,
        wanted.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()))
    );
    assert_eq!(items[0]["revision"], first);
    let table = store.run(["history", "k", "--limit", "1"]).ok();
    assert!(
        table.starts_with("REVISION") && table.lines().count() == 2,
        "{table}"
    );
    let from = second.to_string();
    let table = store.run(["history", "k", "--from", &from]).ok();
    assert_eq!(table.lines().count(), 3, "{table}");

    let at = |revision: u64| store.run(["get", "k", "--revision", &revision.to_string()]);
    assert_eq!(at(first).ok(), "one");
    assert_eq!(at(second).ok(), "two");
    at(second + 2).fails(3);
    at(second + 1_000_000).fails(2);
    store.run(["get", "k"]).fails(3);
    let status = store.run(["status", "-o", "json"]).json();
    assert_eq!(status["strategy"], "ledger");
    let anchor = status["anchor"].as_str().unwrap();
    let table = store.run(["status"]).ok();
    let shown = table.lines().find(|line| line.starts_with("Anchor"));
    assert!(shown.unwrap().ends_with(anchor), "{table}");

    // Kept elsewhere, it is one of what lies there later.
    assert!(store.stop().success());
    let dev = dir.path().join("dev");
    let verify = |keys: &[&str]| {
        let mut verify = codexctl();
        verify.current_dir(&dev).args(["verify", "data"]).args(keys);
        run(verify.args(["--anchor", anchor, "-o", "json"])).json()
    };
    for keys in [&["--keyring", "keyring"][..], &[]] {
        assert_eq!(verify(keys)["anchorHeld"], true);
    }
}

#[test]
fn a_store_that_keeps_the_present_says_what_has_a_past() {
    let store = Store::start();
    store.run(["set", "k", "v"]).ok();
    let error = store.run(["history", "k"]).fails(2);
    assert!(error.contains("ledger"), "{error}");
    store.run(["get", "k", "--revision", "1"]).fails(2);
}

#[test]
fn a_watch_prints_what_happens_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start_in(dir.path(), ORDERS);
    store.run(["set", "a/1", "one"]).ok();
    let changes = |args: &[&str]| -> Vec<serde_json::Value> {
        let text = run(store.ctl(["watch", "-o", "json"]).args(args)).ok();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let all = changes(&["--from", "1", "--limit", "1", "--values"]);
    assert_eq!(all[0]["operations"][0]["text"], "one");
    let id = all[0]["id"].as_str().unwrap();

    // One that waits, over a restart of the sidecar.
    let mut child = store
        .ctl(["watch", "--prefix", "a/", "--values", "--limit", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("REVISION"));
    store.run(["set", "b", "unseen"]).ok();
    store.run(["set", "a/2", "two", "--actor", "alice"]).ok();
    let line = lines.next().unwrap().unwrap();
    assert!(line.ends_with("set      alice      a/2   two"), "{line}");
    assert!(store.stop().success());
    let store = Store::start_in(dir.path(), ORDERS);
    store.run(["delete", "a/2"]).ok();
    let line = lines.next().unwrap().unwrap();
    assert!(line.ends_with("delete   -          a/2"), "{line}");
    assert!(lines.next().is_none() && child.wait().unwrap().success());

    let text = run(&mut store.ctl(["watch", "-o", "json", "--limit", "3", "--after", id])).ok();
    assert_eq!(text.lines().count(), 3);
    let error = store.run(["watch", "--from", "1000000"]).fails(2);
    assert!(error.contains("revision"), "{error}");
    let error = store
        .run(["watch", "--after", "0000000000000001-1"])
        .fails(3);
    assert!(error.contains("watch --from"), "{error}");
}
