//! `cas`, `ttl`, and export and import over the socket of a store that runs.

use crate::support::{Store, run, run_with};

#[test]
fn a_value_is_replaced_if_it_is_the_expected_one() {
    let store = Store::start();
    store.run(["set", "leader", "a"]).ok();
    store.run(["cas", "leader", "a", "b"]).ok();
    assert!(
        store
            .run(["cas", "leader", "a", "c"])
            .fails(8)
            .contains("expected")
    );
    store.run(["cas", "none", "", "c"]).fails(8);
    assert_eq!(store.run(["get", "leader"]).ok(), "b");
    let json = store
        .run(["cas", "leader", "b", "c", "--ttl", "1h", "-o", "json"])
        .json();
    let entry = store.run(["get", "leader", "-o", "json"]).json();
    assert_eq!(entry["revision"], json["revision"]);
    assert!(entry["expiresAt"].is_string(), "{entry}");
}

#[test]
fn many_that_compare_and_set_lose_no_count() {
    let store = Store::start();
    store.run(["set", "n", "0"]).ok();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    loop {
                        let now = store.run(["get", "n"]).ok();
                        let next = (now.parse::<u32>().unwrap() + 1).to_string();
                        if store.run(["cas", "n", &now, &next]).code == Some(0) {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(store.run(["get", "n"]).ok(), "40");
}

#[test]
fn the_time_to_live_is_shown_set_and_taken_away() {
    let store = Store::start();
    store.run(["set", "k", "v"]).ok();
    assert_eq!(store.run(["ttl", "k"]).ok(), "never\n");
    store.run(["ttl", "k", "2h"]).ok();
    let left = store.run(["ttl", "k"]).ok();
    assert!(left.starts_with("1h59m") || left == "2h\n", "{left}");
    let json = store.run(["ttl", "k", "-o", "json"]).json();
    assert!(json["seconds"].as_f64().unwrap() > 7000.0, "{json}");
    store.run(["ttl", "k", "--persist"]).ok();
    let json = store.run(["ttl", "k", "-o", "json"]).json();
    assert!(
        json["seconds"].is_null() && json["expiresAt"].is_null(),
        "{json}"
    );
    assert_eq!(store.run(["get", "k"]).ok(), "v");
    store.run(["ttl", "none"]).fails(3);
    store.run(["ttl", "none", "1s"]).fails(3);
    store
        .run(["ttl", "k", "1s", "--persist"])
        .fails_with_usage();
}

#[test]
fn what_is_exported_over_the_socket_comes_back_exactly() {
    let (from, into) = (Store::start(), Store::start());
    run_with(&mut from.ctl(["set", "odd", "-"]), b"\xff\0\n").ok();
    from.run(["set", "short", "v", "--ttl", "1h"]).ok();
    for n in 0..250 {
        from.run(["set", &format!("k/{n:03}"), &format!("value {n}")])
            .ok();
    }
    let text_of = |store: &Store| store.socket().to_str().unwrap().to_owned();
    let (a, b) = (text_of(&from), text_of(&into));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.jsonl");
    let to = file.to_str().unwrap();
    let json = from.run(["export", &a, "--to", to, "-o", "json"]).json();
    assert_eq!(json["entries"], 252);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(from.run(["export", &a]).ok(), text);
    let some = from.run(["export", &a, "--prefix", "k/1"]).ok();
    assert_eq!(some.lines().count(), 100);

    let done = into.run(["import", &b, to, "-o", "json"]).json();
    assert_eq!(
        (&done["created"], &done["expired"]),
        (&252.into(), &0.into())
    );
    let there = into.run(["import", &b, to]).fails(8);
    assert!(there.contains("nothing was imported: line 1"), "{there}");
    let piped = run_with(&mut into.ctl(["import", &b]), text.as_bytes()).fails(8);
    assert!(piped.contains("one of their keys is there"), "{piped}");
    into.run(["delete", "odd"]).ok();
    let skipped = into
        .run(["import", &b, to, "--on-conflict", "skip", "-o", "json"])
        .json();
    assert_eq!(
        (&skipped["created"], &skipped["skipped"]),
        (&1.into(), &251.into())
    );
    let replaced = into
        .run([
            "import",
            &b,
            to,
            "--on-conflict",
            "replace",
            "--add-prefix",
            "k/",
            "-o",
            "json",
        ])
        .json();
    assert_eq!(
        (&replaced["created"], &replaced["replaced"]),
        (&252.into(), &0.into())
    );
    // What counts is the same but for what a store counts for itself.
    let values = |text: &str| -> Vec<(serde_json::Value, serde_json::Value, bool)> {
        let line = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let field =
            |l: &serde_json::Value, a: &str, b: &str| l.get(a).or(l.get(b)).unwrap().clone();
        text.lines()
            .map(line)
            .map(|l| {
                (
                    field(&l, "key", "keyBase64"),
                    field(&l, "text", "value"),
                    l["expiresAt"].is_string(),
                )
            })
            .collect()
    };
    into.run(["delete", "--prefix", "k/k/"]).ok();
    for key in ["k/odd", "k/short"] {
        into.run(["delete", key]).ok();
    }
    assert_eq!(values(&into.run(["export", &b]).ok()), values(&text));
    from.run(["export", &a, "--unencrypted"]).fails(2);
    run(from
        .ctl(["export", "/nowhere/s.sock", "--to"])
        .arg(dir.path().join("x")))
    .fails(3);
}

#[test]
fn what_a_store_does_is_shown() {
    let store = Store::start();
    let mut top = store.ctl(["top", "--interval", "1s", "--count", "1"]);
    let mut top = top.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // For as long as it looks, whenever it began to.
    while top.try_wait().unwrap().is_none() {
        store.run(["set", "k", "v"]).ok();
    }
    let text = String::from_utf8(top.wait_with_output().unwrap().stdout).unwrap();
    let put = text
        .lines()
        .find(|line| line.contains("put"))
        .unwrap_or_default();
    assert!(put.starts_with("http") && put.contains('.'), "{text}");
    assert!(text.contains("orders") && text.contains("Ready"), "{text}");
    let json = store
        .run(["top", "--interval", "100ms", "--count", "2", "-o", "json"])
        .ok();
    assert_eq!(json.lines().count(), 2);
    // What the table has, the objects have too, as `status` names it.
    let status = store.run(["status", "-o", "json"]).ok();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    for line in json.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for name in [
            "store",
            "pod",
            "state",
            "revision",
            "keys",
            "maxMemory",
            "maxDisk",
            "keyId",
        ] {
            assert!(!line[name].is_null(), "{name}: {line}");
            assert_eq!(line[name], status[name], "{name}");
        }
        for name in ["memoryBytes", "diskBytes", "connections"] {
            assert!(line[name].as_f64().unwrap() > 0.0, "{name}: {line}");
        }
        assert!(line["operations"].is_array(), "{line}");
    }
}
