//! `strategy: Ledger`: history, and changes as they come, from a container of the pod.

use codexstore_tests::{CURL, namespace, objects};
use serde_json::{Value, json};

#[test]
fn a_ledger_tells_history_and_a_watch_goes_on_behind_the_last_event() {
    let Some(ns) = namespace("ledger") else {
        return;
    };
    ns.store(
        "audit",
        json!({"strategy": "Ledger", "keep": {"revisions": 100_000}}),
    );
    ns.create(&objects::pod("app", Some("audit")));
    ns.pod_ready("app");
    for value in ["one", "two", "three"] {
        assert!(ns.put("app", "k", value) < 300);
    }
    let asked = ns
        .http("app", "'http://s/v1/keys/k/history?values=true'")
        .body;
    let history: Value = serde_json::from_str(&asked).unwrap();
    let values: Vec<_> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["value"].clone())
        .collect();
    assert_eq!(values, ["b25l", "dHdv", "dGhyZWU="]);
    let first = history["items"][0]["revision"].as_u64().unwrap();
    let then = ns.http("app", &format!("'http://s/v1/keys/k?revision={first}'"));
    assert_eq!(then.body, "one");

    // A watch that ends after a while, and one that goes on behind its first event.
    let watch = |more: &str| {
        let script = format!("{CURL} -N --max-time 5 {more} http://s/v1/watch?from={first}");
        ns.sh("app", "app", &script).out
    };
    let seen = watch("");
    let ids: Vec<&str> = seen
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    let behind: Vec<&str> = ids
        .iter()
        .copied()
        .filter(|id| id.ends_with(&format!("-{first}")))
        .collect();
    assert!(
        seen.matches("event: change").count() == 3 && !behind.is_empty(),
        "{seen}"
    );
    let rest = watch(&format!("-H 'Last-Event-ID: {}'", behind[0]));
    assert_eq!(rest.matches("event: change").count(), 2, "{rest}");
}
