//! `codexctl restore --store` against an API server that answers by a script.

use serde_json::{Value, json};

use crate::explain::{Server, status};

const RESTORES: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexrestores";

/// A server on which a restore is made, and is then like this.
fn server(told: &Value) -> Server {
    let restore = |status: &Value| {
        json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore",
            "metadata": {"name": "orders-x7k2p", "namespace": "shop", "uid": "r1"},
            "spec": {"storeRef": {"name": "orders"}}, "status": status})
    };
    let one = format!("{RESTORES}/orders-x7k2p");
    Server::start(&[
        (RESTORES, 201, restore(&json!({}))),
        (&one, 200, restore(told)),
    ])
}

fn ended(phase: &str, message: Option<&str>) -> Value {
    json!({"phase": phase, "ready": "1/2", "message": message, "completedAt": "2026-11-30T12:00:00Z",
        "members": [
            {"pod": "web-0", "restored": true, "backup": "now", "revision": 41, "keys": 7, "setAside": "set-aside-1"},
            {"pod": "web-1", "restored": message.is_none(), "message": message}]})
}

#[test]
fn a_restore_is_made_and_followed_to_its_end() {
    let server = server(&ended("Succeeded", None));
    let args = [
        "now", "--store", "orders", "-n", "shop", "--member", "web-0",
    ];
    let ran = server.run("restore", &args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("cxr/orders-x7k2p is created"), "{ran:?}");
    let table = String::from_utf8(ran.out).unwrap();
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["web-0", "yes", "now", "41", "7", "set-aside-1"]);
    let sent: Value = serde_json::from_str(&server.sent.lock().unwrap()[0]).unwrap();
    assert_eq!(sent["metadata"], json!({"generateName": "orders-"}));
    assert_eq!(
        (&sent["spec"]["backupRef"]["name"], &sent["spec"]["members"]),
        (&json!("now"), &json!([{"pod": "web-0"}]))
    );
}

#[test]
fn one_that_is_not_restored_is_a_failure_with_its_reason() {
    let server = server(&ended("PartiallyFailed", Some("disk-full")));
    let ran = server.run("restore", &["--latest", "--store", "orders", "-o", "json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let said = ran.err.lines().last().unwrap();
    let wanted = "codexctl: cxr/orders-x7k2p has ended as PartiallyFailed: disk-full";
    assert_eq!(said, wanted);
    let told: Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!(
        (&told["name"], &told["members"][1]["restored"]),
        (&json!("orders-x7k2p"), &json!(false))
    );
}

#[test]
fn who_does_not_wait_is_told_its_name_only() {
    let server = server(&json!({"phase": "Running"}));
    let args = ["--latest", "--store", "orders", "--wait=false"];
    let said = server.run("restore", &args).ok();
    assert_eq!(said, "cxr/orders-x7k2p is created\n");
    assert_eq!(server.asked.lock().unwrap().len(), 1, "it is not looked at");
}

#[test]
fn what_the_server_refuses_has_its_exit_code() {
    for (code, exit) in [(403, 4), (404, 3), (409, 8), (422, 2)] {
        let server = Server::start(&[(RESTORES, code, status(code, "No", "no, for a reason"))]);
        let said = server.run("restore", &["--latest", "--store", "orders"]);
        let said = said.fails(exit);
        assert!(
            said.contains("create a CodexRestore: no, for a reason"),
            "{said}"
        );
    }
}
