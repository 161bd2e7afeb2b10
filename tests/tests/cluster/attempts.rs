//! What fails first and succeeds later, and what is given up: tries of a Job, steps that it dies in, a destination that is full, a schedule that
//! was held up, a restore that waits.

use codexstore_tests::{Namespace, namespace, objects, wait};
use serde_json::{Value, json};

use crate::backups::{backup, backup_is, looker, pod_of, verified};
use crate::restores::{restore, restore_is};
use crate::{rotation, s3};

fn orders(backup: &Value) -> Value {
    let mut spec = json!({"volume": {"claim": {"size": "128Mi"}}, "backup": {"destination": {"claim": "backups"}, "verify": "Always"}});
    for (key, value) in backup.as_object().unwrap() {
        spec["backup"][key] = value.clone();
    }
    spec
}

/// A try has failed, and it says why.
#[track_caller]
fn tried(ns: &Namespace, name: &str) -> Value {
    let status = backup_is(ns, name, "a try has failed", has_failed_try);
    goes_on(&status);
    status
}

fn has_failed_try(status: &Value) -> bool {
    let all = status["conditions"].as_array();
    all.is_some_and(|all| all.iter().any(|c| c["reason"] == "TryFailed"))
}

#[track_caller]
fn goes_on(status: &Value) {
    assert_eq!(status["phase"], "Running", "{status}");
    assert!(status["completedAt"].is_null(), "{status}");
}

#[test]
fn a_backup_and_a_restore_whose_first_tries_failed_are_done_by_later_ones() {
    let Some(ns) = namespace("tries") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", orders(&json!({})));
    ns.create(&objects::pod("app-0", Some("orders")));
    ns.pod_ready("app-0");
    assert_eq!(ns.put("app-0", "k", "v"), 201);
    ns.create(&backup("orders", "first"));
    backup_is(&ns, "first", "it is verified", |s| {
        verified(s) == Some("True")
    });
    looker(&ns);
    ns.sh("look", "app", "chmod 500 /b/*/orders")
        .success("chmod");
    ns.create(&backup("orders", "later"));
    let status = tried(&ns, "later");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("app-0: "), "{status}");
    assert_eq!(status["conditions"][1]["type"], "DestinationUnreachable");
    // What goes on is not what went wrong.
    ns.condition_is("orders", "LastBackupSucceeded", "True");
    ns.sh("look", "app", "chmod 700 /b/*/orders")
        .success("chmod");
    let status = backup_is(&ns, "later", "it is verified", |s| {
        verified(s) == Some("True")
    });
    assert_eq!(status["ready"], "1/1", "{status}");
    let all = status["conditions"].to_string();
    assert!(!all.contains("DestinationUnreachable"), "{status}");

    assert_eq!(ns.put("app-0", "late", "goes"), 201);
    ns.sh("look", "app", "chmod 000 /b/*/orders")
        .success("chmod");
    ns.create(&restore("back", json!({})));
    let status = restore_is(&ns, "back", "a try has failed", has_failed_try);
    goes_on(&status);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("Permission denied"), "{status}");
    assert_eq!(ns.keys("app-0", ""), ["k", "late"]);
    ns.sh("look", "app", "chmod 700 /b/*/orders")
        .success("chmod");
    let status = restore_is(&ns, "back", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    assert_eq!(
        (&status["phase"], &status["backup"]),
        (&json!("Succeeded"), &json!("later")),
        "{status}"
    );
    assert_eq!(ns.keys("app-0", ""), ["k"]);
}

/// Takes a backup of two members, verifies it and deletes it, and in the middle of each step calls `die` with the name of the Job that does it:
/// before there is one, while it reads the first member, when that is stored and it reads the second, while it verifies, and while it deletes.
#[track_caller]
pub fn each_step(ns: &Namespace, die: impl Fn(Option<&str>)) {
    s3::server(ns);
    let mut spec = s3::destination(ns, "backups", false)["spec"].take();
    spec["backup"]["verify"] = json!("Never");
    ns.store("orders", spec);
    rotation::members(ns, 2, rotation::to_freeze());
    for pod in ["web-0", "web-1"] {
        assert_eq!(ns.put(pod, "k", pod), 201);
    }
    rotation::signal(ns, "web-0", "STOP");
    ns.create(&backup("orders", "now"));
    die(None);
    let reads = |pod: &str| {
        let doing = format!("reading {pod}");
        backup_is(ns, "now", &doing, |s| s["message"] == doing.as_str())
    };
    reads("web-0");
    die(Some("cxb-now-backup"));
    rotation::signal(ns, "web-1", "STOP");
    rotation::signal(ns, "web-0", "CONT");
    assert_eq!(reads("web-1")["ready"], "1/2");
    die(Some("cxb-now-backup"));
    rotation::signal(ns, "web-1", "CONT");
    let done = backup_is(ns, "now", "it has ended", |s| s["completedAt"].is_string());
    assert_eq!(
        (&done["phase"], &done["ready"]),
        (&json!("Succeeded"), &json!("2/2")),
        "{done}"
    );

    // From here on the destination does not answer.
    s3::signal(ns, "STOP");
    ns.patch(
        "codexstores/orders",
        &json!({"spec": {"backup": {"verify": "Always"}}}),
    );
    // Something that makes the operator look at it.
    let look = json!({"metadata": {"annotations": {"look": "now"}}});
    ns.patch("codexbackups/now", &look);
    let pod = pod_of(ns, "cxb-now-verify", "");
    wait::until("it verifies", wait::SHORT, || {
        let log = ns.log(&pod, "verify");
        if log.contains("web-0: verifying") {
            Ok(())
        } else {
            Err(log)
        }
    });
    die(Some("cxb-now-verify"));
    s3::signal(ns, "CONT");
    backup_is(ns, "now", "it is verified", |s| verified(s) == Some("True"));

    s3::signal(ns, "STOP");
    ns.delete("codexbackups/now");
    let pod = pod_of(ns, "cxb-now-prune", "");
    wait::until("it deletes", wait::SHORT, || {
        let lease = ns.get("leases/cxs-orders-backup");
        let lease = lease.map_err(|e| e.to_string())?["spec"].take();
        if lease["holderIdentity"] == pod.as_str() {
            Ok(())
        } else {
            Err(lease.to_string())
        }
    });
    die(Some("cxb-now-prune"));
    s3::signal(ns, "CONT");
    wait::until("it is gone", wait::LONG, || {
        match ns.get("codexbackups/now") {
            Err(gone) if gone.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(s3::files(ns), "");
    assert_eq!(ns.value("web-1", "k"), Some("web-1".to_owned()));
}

#[test]
fn a_backup_goes_on_whichever_of_its_steps_its_job_died_in() {
    let Some(ns) = namespace("dies") else {
        return;
    };
    each_step(&ns, |job| {
        let Some(job) = job else {
            return;
        };
        let killed = pod_of(&ns, job, "");
        ns.cluster.kill_pod(&ns.name, &killed).unwrap();
        // Until kubelet has done it. The Lease would run out by itself; who verifies has none.
        std::thread::sleep(std::time::Duration::from_secs(2));
        if ns.get("leases/cxs-orders-backup").is_ok() {
            ns.delete("leases/cxs-orders-backup");
        }
    });
}

#[test]
fn a_destination_that_is_full_says_so_keeps_nothing_partial_and_heals() {
    let Some(ns) = namespace("full-destination") else {
        return;
    };
    ns.create(&objects::claim("backups", "32Mi"));
    ns.store("orders", orders(&json!({"retention": {"keepLast": 10}})));
    ns.create(&objects::pod("app-0", Some("orders")));
    ns.pod_ready("app-0");
    assert_eq!(ns.put("app-0", "small", "v"), 201);
    ns.create(&backup("orders", "small"));
    backup_is(&ns, "small", "it is verified", |s| {
        verified(s) == Some("True")
    });
    for key in 0..6 {
        let put = format!(
            "dd if=/dev/urandom of=/tmp/v bs=1M count=6 && curl -fsS --unix-socket $CODEXSTORE_SOCKET -T /tmp/v http://s/v1/keys/big-{key}"
        );
        ns.sh("app-0", "app", &put).success("put 6 MiB");
    }
    ns.create(&backup("orders", "large"));
    let status = tried(&ns, "large");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("the destination is full"), "{status}");
    looker(&ns);
    let files = "find /b/*/orders -type f ! -path '*/small/*' | wc -l";
    let ended = backup_is(&ns, "large", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    assert_eq!(ended["phase"], "Failed", "{ended}");
    let message = ended["message"].as_str().unwrap();
    assert!(message.contains("the destination is full"), "{ended}");
    assert_eq!(ns.sh("look", "app", files).out.trim(), "0");
    ns.condition_is("orders", "LastBackupSucceeded", "False");
    // Less data, and it goes on.
    let delete =
        "curl -fsS --unix-socket $CODEXSTORE_SOCKET -X DELETE 'http://s/v1/keys?prefix=big-'";
    ns.sh("app-0", "app", delete).success("delete");
    ns.create(&backup("orders", "after"));
    backup_is(&ns, "after", "it is verified", |s| {
        verified(s) == Some("True")
    });
    ns.condition_is("orders", "LastBackupSucceeded", "True");
}

#[test]
fn what_a_schedule_missed_is_made_up_for_by_one_run() {
    let Some(ns) = namespace("catch-up") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    let spec =
        json!({"schedule": "* * * * *", "timeZone": "Etc/UTC", "retention": {"keepLast": 20}});
    ns.store("orders", orders(&spec));
    ns.create(&objects::pod("app-0", Some("orders")));
    ns.pod_ready("app-0");
    // A CronJob names its Jobs by the minute.
    let minutes = || -> Vec<i64> {
        let all = ns.list("codexbackups");
        let names = all.iter().filter_map(|b| b["metadata"]["name"].as_str());
        let mut minutes: Vec<_> = names
            .filter_map(|name| name.strip_prefix("orders-")?.parse().ok())
            .collect();
        minutes.sort_unstable();
        minutes
    };
    let now = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        i64::try_from(now.unwrap().as_secs() / 60).unwrap()
    };
    let some = |than: i64| {
        wait::until("a scheduled one", 2 * wait::LONG, || {
            match minutes().last() {
                Some(last) if *last > than => Ok(*last),
                _ => Err(format!("{:?}", minutes())),
            }
        })
    };
    let last = some(0);
    ns.patch(
        "codexstores/orders",
        &json!({"spec": {"backup": {"suspend": true}}}),
    );
    std::thread::sleep(std::time::Duration::from_secs(200));
    let last = minutes().last().copied().unwrap_or(last);
    let resumed = now();
    assert!(resumed - last >= 3, "{last} {resumed}");
    ns.patch(
        "codexstores/orders",
        &json!({"spec": {"backup": {"suspend": false}}}),
    );
    let first = some(last);
    assert!(
        first >= resumed,
        "the latest that was missed: {first}, {resumed}"
    );
    some(first);
    let between: Vec<_> = minutes()
        .into_iter()
        .filter(|minute| (last + 1..first).contains(minute))
        .collect();
    assert_eq!(between, [0_i64; 0], "one run makes up for all");
}

#[test]
fn a_restore_that_waits_is_given_up_at_its_deadline_and_holds_up_no_other() {
    let Some(ns) = namespace("waits") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", orders(&json!({})));
    ns.store("orders-copy", orders(&json!({})));
    for (pod, store) in [("app-0", "orders"), ("copy-0", "orders-copy")] {
        ns.create(&objects::pod(pod, Some(store)));
        ns.pod_ready(pod);
    }
    assert_eq!(ns.put("app-0", "k", "v"), 201);
    ns.create(&backup("orders", "now"));
    backup_is(&ns, "now", "it is verified", |s| {
        verified(s) == Some("True")
    });
    let copy = |name: &str, more: Value| {
        let mut spec =
            json!({"storeRef": {"name": "orders-copy"}, "fromStoreRef": {"name": "orders"}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore", "metadata": {"name": name}, "spec": spec})
    };
    let never = ns.try_create(&copy("bad", json!({"startDeadline": "0s"})));
    let message = never.unwrap_err().message;
    assert!(message.contains("startDeadline is between"), "{message}");

    // Of two that are created in one second the first by name is the earlier one.
    ns.create(&copy(
        "at-first",
        json!({"startDeadline": "90s", "members": [{"pod": "nobody-0", "from": "app-0"}]}),
    ));
    restore_is(&ns, "at-first", "it waits", |s| s["phase"] == "Pending");
    ns.create(&copy(
        "refused",
        json!({"members": [{"pod": "copy-0", "from": "app-0"}]}),
    ));
    let refused = restore_is(&ns, "refused", "it is refused", |s| s["phase"] == "Failed");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("cxr/at-first") && message.contains("nobody-0"),
        "{refused}"
    );
    let given_up = restore_is(&ns, "at-first", "it is given up", |s| {
        s["phase"] == "Failed"
    });
    let message = given_up["message"].as_str().unwrap();
    assert!(message.contains("startDeadline"), "{given_up}");
    ns.create(&copy(
        "next",
        json!({"members": [{"pod": "copy-0", "from": "app-0"}]}),
    ));
    let next = restore_is(&ns, "next", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    assert_eq!(next["phase"], "Succeeded", "{next}");
    assert_eq!(ns.value("copy-0", "k"), Some("v".to_owned()));
}
