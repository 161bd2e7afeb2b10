//! `codexctl backup` against an API server that answers by a script.

use serde_json::{Value, json};

use crate::explain::Server;
use crate::support::Ran;

const BACKUPS: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexbackups";

fn backup(name: &str, store: &str, ended: Option<&str>) -> Value {
    let status = match ended {
        None => json!({"phase": "Running", "startedAt": "2026-11-02T00:00:00Z"}),
        Some(ended) => json!({
            "phase": "PartiallyFailed", "ready": "1/2", "keys": 3, "bytes": 2048, "completedAt": ended,
            "location": format!("pvc/backups:/shop/{store}/{name}"),
            "members": [
                {"pod": "web-0", "stored": true, "revision": 7, "keys": 3, "bytes": 2048, "keyId": "k1", "file": "web-0-1a.backup"},
                {"pod": "web-1", "stored": false, "message": "no answer"}],
            "conditions": [{"type": "Verified", "status": "True", "reason": "Opened", "message": "1 members opened with their keys",
                "lastTransitionTime": ended}],
        }),
    };
    json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"storeRef": {"name": store}}, "status": status})
}

fn server() -> Server {
    let items = [
        backup("now", "orders", None),
        backup("tuesday", "orders", Some("2026-11-01T09:00:00Z")),
        backup("monday", "orders", Some("2026-11-01T08:00:00Z")),
        backup("other", "carts", Some("2026-11-01T10:00:00Z")),
    ];
    let tuesday = format!("{BACKUPS}/tuesday");
    Server::start(&[
        (BACKUPS, 200, json!({"items": items, "metadata": {}})),
        (&tuesday, 200, items[1].clone()),
    ])
}

fn ran(server: &Server, args: &[&str]) -> Ran {
    server.run("backup", args)
}

#[test]
fn backups_of_a_namespace_are_listed_by_store_and_age() {
    let server = server();
    let table = ran(&server, &["list"]).ok();
    let names: Vec<_> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1).unwrap())
        .collect();
    assert_eq!(names, ["other", "monday", "tuesday", "now"], "{table}");
    let row = table.lines().nth(3).unwrap();
    let row: Vec<_> = row.split_whitespace().collect();
    let wanted = "orders tuesday PartiallyFailed True 1/2 3 2 KiB 2026-11-01T09:00:00Z";
    assert_eq!(row.join(" "), wanted);
    let rows = ran(&server, &["list", "--store", "orders", "-o", "json"]).json();
    assert_eq!(rows.as_array().unwrap().len(), 3);
    assert_eq!(rows[0]["name"], "monday");
    assert_eq!(rows[2]["verified"], Value::Null, "{rows}");
}

#[test]
fn a_backup_is_shown_with_its_members() {
    let server = server();
    let text = ran(&server, &["show", "tuesday"]).ok();
    for says in [
        "Stored at   pvc/backups:/shop/orders/tuesday",
        "1 members opened",
        "web-0   yes      7          3         2 KiB   k1    web-0-1a.backup",
        "no answer",
    ] {
        assert!(text.contains(says), "{says} is not in {text}");
    }
    let shown = ran(&server, &["show", "tuesday", "-o", "json"]).json();
    assert_eq!(shown["members"][0]["keyId"], "k1", "{shown}");
    let gone = ran(&server, &["show", "sunday"]).fails(3);
    assert!(
        gone.contains("cxb/sunday is not there in namespace shop"),
        "{gone}"
    );
}

#[test]
fn a_directory_and_a_cluster_are_not_mixed_up() {
    let server = server();
    ran(&server, &["list", "/backups", "--store", "orders"]).fails_with_usage();
    ran(&server, &["list", "/no/such/directory"]).fails(3);
    assert!(server.asked.lock().unwrap().is_empty());
}
