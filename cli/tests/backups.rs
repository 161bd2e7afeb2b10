//! `codexctl backup` against an API server that answers by a script.

use codexstore_api::encoding::{base64, hex};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::explain::Server;
use crate::support::{Ran, run};

const BACKUPS: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexbackups";

fn backup(name: &str, store: &str, ended: Option<&str>) -> Value {
    let status = match ended {
        None => json!({"phase": "Running", "startedAt": "2026-11-02T00:00:00Z"}),
        Some(ended) => json!({
            "phase": "PartiallyFailed", "ready": "1/2", "keys": 3, "bytes": 2048, "completedAt": ended,
            "location": format!("pvc/backups:/shop/{store}/{name}"), "keptBy": ["keepLast", "keepDaily"],
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
    let wanted =
        "orders tuesday PartiallyFailed True 1/2 3 2 KiB 2026-11-01T09:00:00Z keepLast,keepDaily";
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
        "Kept by     keepLast, keepDaily",
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

/// A server on which a backup is verified, with this outcome.
fn verified(status: &str) -> Server {
    let mut tuesday = backup("tuesday", "orders", Some("2026-11-01T09:00:00Z"));
    tuesday["metadata"]["uid"] = json!("b1");
    tuesday["status"]["conditions"][0]["status"] = json!(status);
    let path = format!("{BACKUPS}/tuesday");
    Server::start(&[(&path, 200, tuesday)])
}

#[test]
fn a_backup_of_a_cluster_is_verified_by_whoever_has_the_keys_and_the_exit_code_says_how_it_is() {
    for (status, code) in [("True", 0), ("False", 7), ("Unknown", 1)] {
        for args in [
            ["verify", "cxb/tuesday"].as_slice(),
            &["verify", "tuesday", "-n", "shop"],
        ] {
            let server = verified(status);
            let ran = ran(&server, args);
            assert_eq!(ran.code, Some(code), "{ran:?}");
            let text = String::from_utf8(ran.out).unwrap();
            assert!(
                text.contains(status) && text.contains("1 members opened"),
                "{text}"
            );
            let sent: Value = serde_json::from_str(&server.sent.lock().unwrap()[0]).unwrap();
            let mark = &sent["metadata"]["annotations"]["codexstore.dev/verify"];
            assert!(
                mark.is_string() && sent["metadata"]["uid"] == "b1",
                "{sent}"
            );
        }
    }
    let server = server();
    let keys = ["verify", "tuesday", "-n", "shop", "--unencrypted"];
    ran(&server, &keys).fails(2);
    ran(&server, &["verify", "/no/such/file"]).fails(3);
    assert!(server.asked.lock().unwrap().is_empty());
    assert!(
        ran(&server, &["verify", "sunday", "-n", "shop"])
            .fails(3)
            .contains("cxb/sunday")
    );
}

const SECRET: &str = "/api/v1/namespaces/shop/secrets/s3";

/// A server that is the cluster, and the one with the bucket; what it has stored is JSON.
fn bucket(secret: u16) -> (Server, String) {
    let content = json!({"backup": true});
    let mut tuesday = backup("tuesday", "orders", Some("2026-11-01T09:00:00Z"));
    tuesday["status"]["destination"] = json!({"s3": {"bucket": "bkt", "prefix": "team",
        "endpoint": "http://s3.invalid", "credentialsRef": {"name": "s3"}}});
    let sha256 = hex(&Sha256::digest(content.to_string()));
    tuesday["status"]["members"][0]["sha256"] = json!(sha256);
    let data =
        json!({"AWS_ACCESS_KEY_ID": base64(b"me"), "AWS_SECRET_ACCESS_KEY": base64(b"hush-hush")});
    let answer = match secret {
        200 => {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "data": data})
        }
        code => crate::explain::status(code, "No", "no, for a reason"),
    };
    let one = format!("{BACKUPS}/tuesday");
    let file = "/bkt/team/shop/orders/tuesday/web-0-1a.backup";
    let server = Server::start(&[
        (&one, 200, tuesday),
        (SECRET, secret, answer),
        (file, 200, content.clone()),
    ]);
    (server, content.to_string())
}

/// Downloads it, with these variables and no other of the cloud's.
fn download(server: &Server, to: &std::path::Path, env: &[(&str, &str)]) -> Ran {
    let to = to.to_str().unwrap();
    let args = ["download", "tuesday", "--to", to, "--endpoint", &server.url];
    let mut command = server.command("backup", &args);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    run(command.envs(env.iter().copied()))
}

#[test]
fn a_file_in_a_bucket_is_downloaded_with_the_secret_or_with_ones_own_credentials() {
    let (server, content) = bucket(200);
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let file = to.join("web-0-1a.backup");
    let ran = download(&server, &to, &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.err, "of web-1 nothing is stored: no answer\n");
    let table = String::from_utf8(ran.out).unwrap();
    assert!(
        table.contains("web-0") && table.contains(file.to_str().unwrap()),
        "{table}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
    // What is there is compared, without asking for anything else.
    let asked = server.asked.lock().unwrap().len();
    assert_eq!(download(&server, &to, &[]).code, Some(0));
    assert_eq!(server.asked.lock().unwrap().len(), asked + 1);
    std::fs::write(&file, "another").unwrap();
    let ran = download(&server, &to, &[]);
    assert!(
        ran.code == Some(8) && ran.err.contains("is not what is stored"),
        "{ran:?}"
    );

    let (server, _) = bucket(403);
    let to = dir.path().join("own");
    let ran = download(&server, &to, &[]);
    let words = [
        "no, for a reason",
        "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
    ];
    let said = words.iter().all(|word| ran.err.contains(word));
    assert!(ran.code == Some(4) && said, "{ran:?}");
    let own = [
        ("AWS_ACCESS_KEY_ID", "me"),
        ("AWS_SECRET_ACCESS_KEY", "hush-hush"),
    ];
    let ran = download(&server, &to, &own);
    assert!(ran.code == Some(0) && !ran.err.contains("hush"), "{ran:?}");
    assert!(to.join("web-0-1a.backup").is_file());
}
