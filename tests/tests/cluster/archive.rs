//! The continuous archive: what is lost with a volume, points in time, and an archiver that dies.

use std::process::Command;

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace, wait};
use serde_json::{Value, json};

use crate::backups::{looker, stored, unbase64};
use crate::members::codexctl;
use crate::restores::{WRITER, has_event, of_member, restore_is};
use crate::s3;

/// A store whose members are archived each second, and backed up only where that asks for it.
fn archived(destination: &Value, strategy: &str) -> Value {
    json!({"strategy": strategy, "volume": {"claim": {"size": "64Mi", "reclaimPolicy": "Delete"}},
        "restore": {"onStart": "IfEmpty"},
        "backup": {"destination": destination, "continuous": {"interval": "1s"}}})
}

fn web(ns: &Namespace) -> Value {
    let set = objects::stateful_set("web", "orders", objects::pod_spec(IDLE));
    ns.create(&set);
    ns.pod_ready("web-0");
    set
}

/// How far web-0 is archived.
fn member(status: &Value) -> &Value {
    &status["archive"]["members"][0]
}

/// Waits until all is archived, and there is a backup that this follows; another one than in `before`'s line of history.
#[track_caller]
fn is_current(ns: &Namespace, before: &Value) -> Value {
    let what = "its archive is current";
    let status = wait::until(what, 3 * wait::LONG, || {
        let status = ns.get("codexstores/orders").map_err(|e| e.to_string())?["status"].take();
        let all = status["conditions"].as_array().into_iter().flatten();
        let current = all
            .into_iter()
            .any(|c| c["type"] == "ArchiveCurrent" && c["status"] == "True");
        let member = member(&status);
        let other = member["lineage"].is_string() && member["lineage"] != *before;
        if current && other && member["based"] == true {
            Ok(status)
        } else {
            Err(format!("{} {}", status["archive"], status["conditions"]))
        }
    });
    member(&status).clone()
}

/// Waits until the archive says that it is so far.
#[track_caller]
fn reaches(ns: &Namespace, revision: i64) -> Value {
    let status = ns.status("orders", &format!("archived up to {revision}"), |s| {
        member(s)["revision"].as_i64() >= Some(revision)
    });
    member(&status).clone()
}

/// Waits until the archive knows of all up to now.
#[track_caller]
fn catches_up(ns: &Namespace) {
    let now = now(ns);
    ns.status("orders", &format!("archived until {now}"), |s| {
        member(s)["archivedUntil"].as_str() > Some(now.as_str())
    });
}

/// The time by the clock of the node: RFC 3339, to the second that has begun.
fn now(ns: &Namespace) -> String {
    let now = ns.sh("web-0", "app", "date -u +%Y-%m-%dT%H:%M:%SZ").out;
    now.trim().to_owned()
}

fn pause() {
    std::thread::sleep(std::time::Duration::from_secs(2));
}

/// The numbers of the keys that the writer wrote: all from the first on.
#[track_caller]
fn written(ns: &Namespace) -> i64 {
    let keys = ns.keys("web-0", "k-");
    let wanted: Vec<_> = (1..=keys.len()).map(|n| format!("k-{n:06}")).collect();
    assert_eq!(keys, wanted, "one is missing in the middle");
    i64::try_from(keys.len()).unwrap()
}

#[track_caller]
fn lose_the_volume(ns: &Namespace, set: &Value) {
    ns.delete_and_wait("statefulsets/web");
    wait::until("web-0 is gone", wait::LONG, || match ns.get("pods/web-0") {
        Err(gone) if gone.code == 404 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    ns.delete_and_wait("persistentvolumeclaims/cxs-orders-web-0");
    ns.create(set);
    ns.pod_ready("web-0");
}

fn bases(ns: &Namespace) -> Vec<Value> {
    let mut all = ns.list("codexbackups");
    all.retain(|b| b["metadata"]["labels"]["codexstore.dev/archive-base"] == "true");
    all
}

#[track_caller]
fn go_back(ns: &Namespace, name: &str, to: &Value, phase: &str) -> Value {
    ns.create(&json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore", "metadata": {"name": name},
        "spec": {"storeRef": {"name": "orders"}, "pointInTime": to, "members": [{"pod": "web-0"}]}}));
    let done = restore_is(ns, name, "it has ended", |s| s["completedAt"].is_string());
    assert_eq!(done["phase"], phase, "{done}");
    done
}

#[test]
fn a_volume_that_is_lost_under_writes_costs_seconds() {
    let Some(ns) = namespace("archived") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", archived(&json!({"claim": "backups"}), "Snapshot"));
    let set = web(&ns);
    // There is no schedule: the archiver asks for the one backup that it needs.
    is_current(&ns, &Value::Null);
    assert_eq!(bases(&ns).len(), 1);
    assert_eq!(ns.list("codexbackups").len(), 1);
    ns.sh("web-0", "app", WRITER).success("begin to write");
    wait::until("it writes", wait::SHORT, || {
        let count = ns.keys("web-0", "k-").len();
        if count > 50 { Ok(()) } else { Err(count) }
    });
    // Each key was one revision, in a store that began empty.
    let said = reaches(&ns, 50);
    let revision = said["revision"].as_i64().unwrap();
    lose_the_volume(&ns, &set);

    let done = of_member(&ns, "web-0", |s| s["backup"].is_string());
    let restored = &done["status"]["members"][0];
    let count = written(&ns);
    assert!(count >= revision, "{count} keys, and {said} was archived");
    // One that was committed and not answered was written once more.
    assert!(restored["revision"].as_i64() >= Some(count), "{done}");
    assert!(restored["restoredTo"].is_string(), "{done}");
    assert_eq!(
        ns.value("web-0", &format!("k-{count:06}")),
        Some(count.to_string())
    );
    // It goes on in another line of history, for which there is another backup.
    let after = is_current(&ns, &said["lineage"]);
    assert_ne!(after["lineage"], said["lineage"]);
    assert_eq!(bases(&ns).len(), 2);

    // Without it nothing of it is left but what is stored, and what says which keys that needs.
    let off = json!({"spec": {"backup": {"continuous": null}}});
    ns.patch("codexstores/orders", &off);
    wait::until("the archiver is gone", wait::SHORT, || {
        match ns.get("deployments/cxs-orders-archiver") {
            Err(gone) if gone.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(ns.get("configmaps/cxs-orders-archive").is_ok());
    ns.status("orders", "it has no archive", |s| s["archive"].is_null());
}

#[test]
fn a_time_comes_back_and_both_histories_stay_restorable() {
    let Some(ns) = namespace("in-time") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", archived(&json!({"claim": "backups"}), "Ledger"));
    web(&ns);
    let first = is_current(&ns, &Value::Null);
    assert_eq!(ns.put("web-0", "a", "1"), 201);
    pause();
    let between = now(&ns);
    pause();
    assert_eq!(ns.put("web-0", "b", "1"), 201);
    pause();
    let later = now(&ns);
    catches_up(&ns);

    let time = |time: &str| json!({"time": time});
    let done = go_back(&ns, "between", &time(&between), "Succeeded");
    assert_eq!(ns.keys("web-0", ""), ["a"], "{done}");
    let to = done["members"][0]["restoredTo"].as_str().unwrap();
    assert!(to < between.as_str(), "{done}");
    let second = is_current(&ns, &first["lineage"]);
    assert_eq!(ns.put("web-0", "c", "1"), 201);
    pause();
    let in_second = now(&ns);
    catches_up(&ns);

    // What was left can be gone back to, and then what was left for that.
    go_back(&ns, "later", &time(&later), "Succeeded");
    assert_eq!(ns.keys("web-0", ""), ["a", "b"]);
    let third = is_current(&ns, &second["lineage"]);
    assert_ne!(third["lineage"], first["lineage"]);
    go_back(&ns, "second", &time(&in_second), "Succeeded");
    assert_eq!(ns.keys("web-0", ""), ["a", "c"]);
    is_current(&ns, &third["lineage"]);

    // What cannot be had says what can.
    let none = go_back(&ns, "before", &time("2020-01-01T00:00:00Z"), "Failed");
    let message = none["message"].as_str().unwrap();
    assert!(
        message.contains("no backup from before it") && message.contains("What can be had"),
        "{none}"
    );
    // Each restore goes on 2^32 further: in no line there were so many.
    let never = json!({"revision": 1_i64 << 50});
    let none = go_back(&ns, "never", &never, "Failed");
    let message = none["message"].as_str().unwrap();
    assert!(message.contains("revision 1125899906842624"), "{none}");
    assert_eq!(ns.keys("web-0", ""), ["a", "c"]);
    for both in [
        json!({"storeRef": {"name": "orders"}, "pointInTime": {"revision": 1}}),
        json!({"storeRef": {"name": "orders"}, "pointInTime": {}}),
        json!({"storeRef": {"name": "orders"}, "pointInTime": {"time": later}, "backupRef": {"name": "x"}}),
    ] {
        ns.refused(
            &json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore",
            "metadata": {"name": "refused"}, "spec": both}),
        );
    }
    without_a_cluster(&ns, &first["lineage"], &between);
}

/// What docs/BACKUP.md says of a cluster that is gone, from a backup and the archive of the line of history that `a` and `b` were written in.
#[track_caller]
fn without_a_cluster(ns: &Namespace, lineage: &Value, between: &str) {
    looker(ns);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let keyring = at("keyring");
    std::fs::create_dir(&keyring).unwrap();
    let secret = ns.get("secrets/cxs-orders-keyring").unwrap();
    for (name, value) in secret["data"].as_object().unwrap() {
        let value = unbase64(value.as_str().unwrap());
        std::fs::write(format!("{keyring}/{name}"), value).unwrap();
    }
    let all = bases(ns);
    let base = all
        .iter()
        .find(|b| b["status"]["members"][0]["lineage"] == *lineage);
    let base = base.unwrap_or_else(|| panic!("no backup of {lineage}: {}", json!(all)));
    let backup = at("web-0.backup");
    std::fs::write(
        &backup,
        stored(ns, base, &base["status"]["members"][0]["file"]),
    )
    .unwrap();
    let tar = format!(
        "tar -C /b/{}/orders/_archive -c web-0 | base64 -w0",
        ns.name
    );
    let tar = unbase64(&ns.sh("look", "app", &tar).success("download the archive"));
    std::fs::write(at("archive.tar"), tar).unwrap();
    let unpacked = Command::new("tar")
        .args(["-C", &at(""), "-xf", &at("archive.tar")])
        .status();
    assert!(unpacked.unwrap().success());

    let archive = at("web-0");
    let run = |args: &[&str]| {
        let args = [args, &["--keyring", &keyring]].concat();
        codexctl(ns.cluster, &args).success(&args.join(" "))
    };
    run(&["archive", "verify", &archive]);
    for (into, until, wanted) in [
        ("data", None, &["a", "b"][..]),
        ("then", Some(between), &["a"]),
    ] {
        let into = at(into);
        let mut args = vec!["restore", &backup, "--archive", &archive];
        args.extend(["--into", &into]);
        args.extend(until.iter().flat_map(|time| ["--until-time", time]));
        run(&args);
        let exported = run(&["export", &into]);
        let keys: Vec<_> = exported
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["key"].take())
            .collect();
        assert_eq!(keys, wanted, "{exported}");
    }
}

#[test]
fn an_archiver_that_is_killed_goes_on_without_a_gap() {
    let Some(ns) = namespace("arch-s3") else {
        return;
    };
    s3::server(&ns);
    let destination =
        s3::destination(&ns, "backups", false)["spec"]["backup"]["destination"].take();
    ns.store("orders", archived(&destination, "Snapshot"));
    let set = web(&ns);
    is_current(&ns, &Value::Null);
    ns.sh("web-0", "app", WRITER).success("begin to write");
    let archiver = || {
        let pods = ns.list("pods?labelSelector=codexstore.dev%2Farchiver%3Dorders");
        let mut running = pods.iter().filter(|p| p["status"]["phase"] == "Running");
        running
            .next()
            .map(|p| p["metadata"]["name"].as_str().unwrap().to_owned())
    };
    let mut reached = reaches(&ns, 1)["revision"].as_i64().unwrap();
    for _ in 0..2 {
        let killed = archiver().expect("an archiver that runs");
        ns.cluster.kill_pod(&ns.name, &killed).unwrap();
        wait::until("another one runs", wait::LONG, || match archiver() {
            Some(other) if other != killed => Ok(()),
            other => Err(format!("{other:?}")),
        });
        // What the one before wrote down was before that.
        let revision = |said: &Value| said["revision"].as_i64().unwrap();
        reached = revision(&reaches(&ns, reached));
        reached = revision(&reaches(&ns, reached + 20));
    }
    // The destination is away for a while: it goes on when that is back.
    s3::signal(&ns, "STOP");
    let noticed = wait::until("it says that it is stuck", 3 * wait::LONG, || {
        let status = ns.get("codexstores/orders").map_err(|e| e.to_string())?["status"].take();
        match member(&status)["message"].as_str() {
            Some(why) => Ok(why.to_owned()),
            None => Err(status["archive"].to_string()),
        }
    });
    assert!(!noticed.is_empty());
    s3::signal(&ns, "CONT");
    let said = reaches(&ns, reached + 20);
    let gaps = ns.list("events");
    assert!(
        !gaps.iter().any(|e| e["reason"] == "ArchiveGap"),
        "{gaps:?}"
    );
    has_event(&ns, "ArchiveBackupRequested");
    assert_eq!(bases(&ns).len(), 1, "all of it follows the first backup");

    lose_the_volume(&ns, &set);
    let count = written(&ns);
    assert!(
        count >= said["revision"].as_i64().unwrap(),
        "{count} {said}"
    );

    // What was stored is missed, and nothing older takes its place.
    is_current(&ns, &said["lineage"]);
    assert_eq!(ns.put("web-0", "last", "1"), 201);
    catches_up(&ns);
    let newest =
        "cd /data/backups && find . -name '*.piece' | sort | xargs ls -t | head -1 | xargs rm -v";
    ns.sh("s3", "app", newest).success(newest);
    ns.delete_and_wait("statefulsets/web");
    wait::until("web-0 is gone", wait::LONG, || match ns.get("pods/web-0") {
        Err(gone) if gone.code == 404 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    ns.delete_and_wait("persistentvolumeclaims/cxs-orders-web-0");
    ns.create(&set);
    ns.status("orders", "it says that pieces are missing", |s| {
        let all = s["conditions"].as_array().into_iter().flatten();
        let mut degraded = all.filter(|c| c["type"] == "Degraded" && c["status"] == "True");
        degraded.any(|c| c["message"].as_str().unwrap().contains("files are missing"))
    });
}
