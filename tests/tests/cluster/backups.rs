//! Backups: taken now and by a schedule, verified with the key, expired, deleted, and opened without the cluster.

use std::path::Path;

use codexstore_escrow::Identity;
use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace, wait};
use serde_json::{Value, json};

use crate::members::codexctl;

const CLAIM: &str = "64Mi";

pub fn backup(store: &str, name: &str) -> Value {
    json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": {"name": name},
        "spec": {"storeRef": {"name": store}}})
}

/// Waits until the status of a backup is as wanted.
#[track_caller]
pub fn backup_is(ns: &Namespace, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait::until(&format!("cxb/{name}: {what}"), wait::LONG, || {
        let found = ns.get(&format!("codexbackups/{name}"));
        let status = found.map_err(|e| e.to_string())?["status"].take();
        if wanted(&status) {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
}

pub fn verified(status: &Value) -> Option<&str> {
    let all = status["conditions"].as_array()?;
    all.iter().find(|c| c["type"] == "Verified")?["status"].as_str()
}

#[track_caller]
pub fn take(ns: &Namespace, name: &str) -> Value {
    ns.create(&backup("orders", name));
    // Each by a Job of its own.
    backup_is(ns, name, "it has ended", |s| s["completedAt"].is_string());
    backup_is(ns, name, "it is verified", |s| verified(s) == Some("True"))
}

/// The pod of a Job that runs, and is another one than `not`.
#[track_caller]
pub fn pod_of(ns: &Namespace, job: &str, not: &str) -> String {
    let selector = format!("batch.kubernetes.io%2Fjob-name={job}");
    wait::until(&format!("a pod of {job}"), 2 * wait::LONG, || {
        let pods = ns.list(&format!("pods?labelSelector={selector}"));
        let runs = pods.iter().filter(|p| p["status"]["phase"] == "Running");
        let mut names = runs.filter_map(|p| p["metadata"]["name"].as_str());
        let found = names.find(|name| *name != not);
        found
            .map(str::to_owned)
            .ok_or_else(|| json!(pods).to_string())
    })
}

/// A pod that sees the destination as its owner does.
pub fn looker(ns: &Namespace) {
    let mut spec = objects::pod_spec(IDLE);
    spec["securityContext"]["runAsUser"] = json!(65532);
    spec["securityContext"]["fsGroup"] = json!(65532);
    spec["volumes"] = json!([{"name": "b", "persistentVolumeClaim": {"claimName": "backups"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "b", "mountPath": "/b"}]);
    ns.create(&objects::pod_with("look", None, spec));
    ns.pod_ready("look");
}

fn orders(verify: &str) -> Value {
    json!({"volume": {"claim": {"size": CLAIM}}, "backup": {
        "destination": {"claim": "backups"}, "retention": {"keepLast": 2}, "verify": verify}})
}

#[test]
fn three_members_are_backed_up_verified_shown_expired_and_restored_without_the_cluster() {
    let Some(ns) = namespace("backups") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    let identity = Identity::random().unwrap();
    let recipient = identity.recipient().unwrap().to_string();
    let mut spec = orders("Always");
    spec["encryption"] = json!({"keys": {"managed": {"escrow": {"recipients": [recipient]}}}});
    ns.store("orders", spec);
    let mut set = objects::stateful_set("web", "orders", objects::pod_spec(IDLE));
    set["spec"]["replicas"] = json!(3);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    ns.create(&set);
    for pod in ["web-0", "web-1", "web-2"] {
        ns.pod_ready(pod);
        for key in ["a", "b"] {
            assert_eq!(ns.put(pod, key, &format!("{key} of {pod}")), 201);
        }
    }
    let first = take(&ns, "first");
    assert_eq!(
        (&first["phase"], &first["ready"]),
        (&json!("Succeeded"), &json!("3/3"))
    );
    assert_eq!(first["keys"], 6, "{first}");
    let status = ns.status("orders", "it knows its last backup", |s| {
        s["lastBackup"]["verified"] == true
    });
    assert_eq!(status["lastBackup"]["name"], "first");
    ns.condition_is("orders", "LastBackupSucceeded", "True");
    let table = ns
        .cluster
        .kubectl(&["-n", &ns.name, "get", "cxb"])
        .success("kubectl get cxb");
    assert!(table.contains("Succeeded   True       3/3"), "{table}");
    looker(&ns);
    let files = ns
        .sh(
            "look",
            "app",
            "find /b -type f -exec stat -c '%a %u' {} + | sort -u",
        )
        .out;
    assert_eq!(files.trim(), "600 65532", "for their owner alone");

    // What is written later is in a later one, and the oldest expires with its files.
    assert_eq!(ns.put("web-1", "c", "late"), 201);
    assert_eq!(take(&ns, "second")["keys"], 7);
    take(&ns, "third");
    wait::until("the first has expired", wait::LONG, || {
        match ns.get("codexbackups/first") {
            Err(gone) if gone.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for name in ["second", "third"] {
        backup_is(&ns, name, "it says what keeps it", |s| {
            s["keptBy"] == json!(["keepLast"])
        });
    }
    let dirs = ns.sh("look", "app", "ls /b/*/orders").out;
    assert_eq!(
        dirs.split_whitespace().collect::<Vec<_>>(),
        ["second", "third"]
    );

    // The cluster is gone: a file and the keyring that is sealed beside it are enough.
    let dir = tempfile::tempdir().unwrap();
    let third = ns.get("codexbackups/third").unwrap();
    let keyring = unsealed(&ns, &third, &identity, dir.path());
    let secret = ns.get("secrets/cxs-orders-keyring").unwrap();
    for (name, value) in secret["data"].as_object().unwrap() {
        let unsealed = std::fs::read(Path::new(&keyring).join(name)).unwrap();
        assert!(unsealed == unbase64(value.as_str().unwrap()), "{name}");
    }
    let lines = exported(&ns, &third, "web-1", &keyring, dir.path());
    for value in ["a of web-1", "b of web-1", "late"] {
        assert!(lines.contains(value), "{lines}");
    }

    // Deleting one deletes what is stored.
    ns.delete_and_wait("codexbackups/second");
    let dirs = ns.sh("look", "app", "ls /b/*/orders").out;
    assert_eq!(dirs.trim(), "third");
}

/// What base64 stands for.
pub fn unbase64(text: &str) -> Vec<u8> {
    codexstore_api::encoding::unbase64(text.trim()).unwrap()
}

/// A file at the destination, by way of the pod that sees it.
#[track_caller]
pub fn stored(ns: &Namespace, backup: &Value, file: &Value) -> Vec<u8> {
    let directory = backup["status"]["directory"].as_str().unwrap();
    let path = format!("/b/{directory}/{}", file.as_str().unwrap());
    let text = ns.sh("look", "app", &format!("base64 -w0 {path}"));
    unbase64(&text.success("read what is stored"))
}

/// The sealed keyring beside a backup as a keyring directory in `dir`, by the commands of docs/BACKUP.md.
#[track_caller]
pub fn unsealed(ns: &Namespace, backup: &Value, identity: &Identity, dir: &Path) -> String {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let keyring = &backup["status"]["keyring"];
    let name = backup["metadata"]["name"].as_str().unwrap();
    let sealed = dir.join(format!("{name}.age"));
    std::fs::write(&sealed, stored(ns, backup, &keyring["file"])).unwrap();
    let me = dir.join("me.txt");
    std::fs::write(&me, identity.to_text().as_bytes()).unwrap();
    let into = text(&dir.join(format!("keyring-of-{name}")));
    let args = [
        "key",
        "unseal",
        &text(&sealed),
        "--identity",
        &text(&me),
        &into,
    ];
    codexctl(ns.cluster, &args).success("codexctl key unseal");
    into
}

/// All that a member's backup holds, as JSON Lines: a file and the keyring are enough.
#[track_caller]
pub fn exported(ns: &Namespace, backup: &Value, pod: &str, keyring: &str, dir: &Path) -> String {
    let members = backup["status"]["members"].as_array().unwrap();
    let member = members.iter().find(|m| m["pod"] == pod).unwrap();
    let name = backup["metadata"]["name"].as_str().unwrap();
    let file = dir.join(format!("{name}.backup"));
    std::fs::write(&file, stored(ns, backup, &member["file"])).unwrap();
    let into = dir.join(format!("data-of-{name}"));
    let (file, into) = (file.to_str().unwrap(), into.to_str().unwrap());
    let args = ["restore", file, "--into", into, "--keyring", keyring];
    codexctl(ns.cluster, &args).success("codexctl restore");
    codexctl(ns.cluster, &["export", into, "--keyring", keyring]).success("codexctl export")
}

#[test]
fn a_schedule_takes_backups_and_a_member_that_is_down_is_named() {
    let Some(ns) = namespace("schedule") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    let mut spec = orders("Always");
    spec["backup"]["schedule"] = json!("* * * * *");
    ns.store("orders", spec);
    ns.create(&objects::stateful_set(
        "web",
        "orders",
        objects::pod_spec(IDLE),
    ));
    ns.pod_ready("web-0");
    assert_eq!(ns.put("web-0", "k", "v"), 201);
    let name = wait::until("a scheduled backup is verified", 2 * wait::LONG, || {
        let all = ns.list("codexbackups");
        let good = all.iter().find(|b| verified(&b["status"]) == Some("True"));
        let name = good.and_then(|b| b["metadata"]["name"].as_str().map(str::to_owned));
        name.ok_or_else(|| json!(all).to_string())
    });
    assert!(name.starts_with("orders-"), "{name}");
    // Its own Job took it, and no other was made for it.
    assert!(
        ns.get(&format!("jobs/cxb-{name}-backup"))
            .is_err_and(|e| e.code == 404)
    );
    let paused = json!({"spec": {"backup": {"suspend": true}}});
    ns.patch("codexstores/orders", &paused);
    wait::until("the CronJob is suspended", wait::SHORT, || {
        let cron = ns
            .get("cronjobs/cxs-orders-backup")
            .map_err(|e| e.to_string())?;
        if cron["spec"]["suspend"] == true {
            Ok(())
        } else {
            Err(cron["spec"].to_string())
        }
    });

    let mut down = objects::pod("down-0", Some("orders"));
    down["spec"]["nodeSelector"] = json!({"no": "where"});
    ns.create(&down);
    ns.create(&backup("orders", "part"));
    let part = backup_is(&ns, "part", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    assert_eq!(
        (&part["phase"], &part["ready"]),
        (&json!("PartiallyFailed"), &json!("1/2"))
    );
    assert!(
        part["message"].as_str().unwrap().contains("down-0: "),
        "{part}"
    );
    ns.condition_is("orders", "LastBackupSucceeded", "False");

    // A schedule that is none is told, and the rest of the store goes on.
    ns.patch(
        "codexstores/orders",
        &json!({"spec": {"backup": {"schedule": "whenever"}}}),
    );
    let degraded = ns.condition_is("orders", "Degraded", "True");
    assert_eq!(degraded["reason"], "BackupInvalid", "{degraded}");
    assert_eq!(ns.put("web-0", "k2", "v"), 201);
    // Without a destination a backup waits and says why; without spec.backup there is no CronJob.
    ns.patch("codexstores/orders", &json!({"spec": {"backup": null}}));
    wait::until("the CronJob is gone", wait::SHORT, || {
        match ns.get("cronjobs/cxs-orders-backup") {
            Err(gone) if gone.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    ns.create(&backup("orders", "nowhere"));
    let waits = backup_is(&ns, "nowhere", "it waits", |s| s["phase"] == "Pending");
    assert!(
        waits["message"].as_str().unwrap().contains("spec.backup"),
        "{waits}"
    );
}

#[test]
fn a_bit_flipped_at_the_destination_is_found_and_a_full_destination_is_told() {
    let Some(ns) = namespace("flipped") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", orders("Never"));
    ns.create(&objects::pod("app-0", Some("orders")));
    ns.pod_ready("app-0");
    assert_eq!(ns.put("app-0", "k", "v"), 201);
    ns.create(&backup("orders", "flipped"));
    backup_is(&ns, "flipped", "it is stored", |s| {
        s["phase"] == "Succeeded"
    });
    looker(&ns);
    let flip =
        "f=$(ls /b/*/orders/flipped/*.backup) && printf X | dd of=$f bs=1 seek=9000 conv=notrunc";
    ns.sh("look", "app", flip).success("flip");
    ns.patch(
        "codexstores/orders",
        &json!({"spec": {"backup": {"verify": "Always"}}}),
    );
    // Something that makes the operator look at it.
    ns.patch(
        "codexbackups/flipped",
        &json!({"metadata": {"annotations": {"look": "now"}}}),
    );
    let status = backup_is(&ns, "flipped", "it was opened", |s| verified(s).is_some());
    assert_eq!(verified(&status), Some("False"), "{status}");
    ns.condition_is("orders", "LastBackupSucceeded", "False");

    // Where nothing can be written, nothing is said to be stored.
    ns.sh("look", "app", "chmod 500 /b/*/orders")
        .success("chmod");
    ns.create(&backup("orders", "refused"));
    // Its Job has three tries, and waits longer before each.
    backup_is(&ns, "refused", "a try has failed", |s| {
        s["conditions"][0]["reason"] == "TryFailed" || s["completedAt"].is_string()
    });
    let refused = backup_is(&ns, "refused", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    assert_eq!(refused["phase"], "Failed", "{refused}");
    assert!(
        refused["message"].as_str().unwrap().contains("app-0: "),
        "{refused}"
    );
    ns.sh("look", "app", "chmod 700 /b/*/orders")
        .success("chmod");
}

#[test]
fn two_at_once_take_turns_a_killed_run_goes_on_and_a_namespace_can_go() {
    let Some(ns) = namespace("turns") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", orders("Always"));
    ns.create(&objects::pod("app-0", Some("orders")));
    ns.pod_ready("app-0");
    assert_eq!(ns.put("app-0", "k", "v"), 201);
    // Somebody else writes to the destination.
    let lease = |age: i64| {
        let at = unix_now() - age;
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "cxs-orders-backup"},
            "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 600, "renewTime": micro_time(at)}})
    };
    ns.create(&lease(0));
    for name in ["one", "two"] {
        ns.create(&backup("orders", name));
    }
    let one = pod_of(&ns, "cxb-one-backup", "");
    pod_of(&ns, "cxb-two-backup", "");
    wait::until("it waits for its turn", wait::SHORT, || {
        let log = ns.log(&one, "backup");
        if log.contains("waiting for the Lease") {
            Ok(())
        } else {
            Err(log)
        }
    });
    for name in ["one", "two"] {
        let status = backup_is(&ns, name, "it waits", |s| s["phase"].is_string());
        assert_eq!(status["phase"], "Pending", "{status}");
    }
    // One run is killed, and its holder says nothing any more.
    ns.cluster.kill_pod(&ns.name, &one).unwrap();
    // In one step: those that wait would take one that is gone.
    ns.patch("leases/cxs-orders-backup", &lease(601));
    for name in ["one", "two"] {
        let status = backup_is(&ns, name, "it is verified", |s| verified(s) == Some("True"));
        assert_eq!(status["ready"], "1/1", "{status}");
    }
    looker(&ns);
    let files = ns.sh("look", "app", "find /b -name '*.backup' | wc -l").out;
    assert_eq!(files.trim(), "2");

    // With the namespace its backups' resources go; nothing waits for a Job that cannot be made any more.
    let path = codexstore_tests::path_of("", &format!("namespaces/{}", ns.name));
    ns.cluster.send("DELETE", &path, None).unwrap();
    wait::until("the namespace is gone", 3 * wait::LONG, || {
        match ns.cluster.get(&path) {
            Err(gone) if gone.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Seconds since 1970.
fn unix_now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_secs()).unwrap()
}

/// As a Lease has it.
fn micro_time(seconds: i64) -> String {
    let ms = u64::try_from(seconds).unwrap() * 1000;
    let text = codexstore_api::time::rfc3339(ms).unwrap();
    text.replace('Z', ".000000Z")
}
