//! An operator that dies while a rotation, a backup or a restore is under way, with members and Jobs that do.

use std::collections::BTreeSet;

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Cluster, Namespace, SYSTEM, exclusive};
use serde_json::{Value, json};

use crate::attempts::each_step;
use crate::backups::{pod_of, take};
use crate::restores::restore_is;
use crate::rotation::{keyring, member, members, rotation, rotation_is};
use crate::{reencrypt, restores, rotation};

fn kill_operator(cluster: &Cluster) {
    for pod in cluster.operator_pods() {
        let name = pod["metadata"]["name"].as_str().unwrap();
        cluster.kill_pod(SYSTEM, name).unwrap();
    }
}

#[test]
fn an_operator_that_dies_again_and_again_and_a_member_that_dies_meanwhile_lose_nothing() {
    let Some((cluster, _alone)) = exclusive() else {
        return;
    };
    let ns = Namespace::alone(cluster, "reencrypt-deaths");
    ns.create(&objects::claim("backups", "2Gi"));
    ns.store("orders", reencrypt::spec("20m"));
    // One process namespace and one user: so the app may stop the sidecar, on any cluster.
    let mut pod = objects::pod_spec(IDLE);
    pod["shareProcessNamespace"] = json!(true);
    pod["securityContext"]["runAsUser"] = json!(65532);
    members(&ns, 2, pod);
    for pod in ["web-0", "web-1"] {
        assert_eq!(ns.put(pod, "first", pod), 201);
        reencrypt::fill(&ns, pod);
    }
    // While no operator is there kubelet may bring both the new key, and nobody would be waited for: one loads it later.
    rotation::signal(&ns, "web-1", "STOP");
    ns.create(&rotation("now"));
    let mut seen = BTreeSet::new();
    for phase in [
        "Adding",
        "Distributing",
        "Promoting",
        "Rewriting",
        "Verifying",
    ] {
        // A phase may be over before it is seen.
        let order = [
            "Adding",
            "Distributing",
            "Promoting",
            "Rewriting",
            "Verifying",
            "Completed",
        ];
        let from = order.iter().position(|p| *p == phase).unwrap();
        let now = rotation_is(&ns, "now", phase, |s| {
            order[from..].iter().any(|p| s["phase"] == *p)
        });
        seen.insert(now["phase"].as_str().unwrap().to_owned());
        kill_operator(cluster);
        if phase == "Distributing" {
            rotation::signal(&ns, "web-1", "CONT");
        }
        if phase == "Rewriting" {
            cluster.kill_pod(&ns.name, "web-0").unwrap();
        }
    }
    // The other phases are over in a moment.
    let long = ["Distributing", "Rewriting"];
    assert!(long.iter().all(|phase| seen.contains(*phase)), "{seen:?}");
    ns.pod_ready("web-0");
    let wanted =
        |s: &Value| s["completedAt"].is_string() && reencrypt::reencrypted(s) == Some("True");
    let done = rotation_is(&ns, "now", "all is encrypted anew", wanted);
    assert_eq!(done["phase"], "Completed", "{done}");
    for pod in ["web-0", "web-1"] {
        assert_eq!(
            member(&ns, pod)["neededKeyIds"],
            json!([done["to"]]),
            "{pod}"
        );
        assert_eq!(ns.value(pod, "first"), Some(pod.to_owned()));
        assert_eq!(ns.keys(pod, "noise-").len(), 40, "{pod}");
    }
    let secret = ns.get("secrets/cxs-orders-keyring").unwrap();
    let entries = secret["data"].as_object().unwrap();
    assert_eq!(entries.len(), 3, "one new key, and none is lost");
    cluster.operator_ready();
}

#[test]
fn a_restore_goes_on_where_its_job_and_the_operator_died() {
    let Some((cluster, _alone)) = exclusive() else {
        return;
    };
    let ns = Namespace::alone(cluster, "taken-up");
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", restores::orders("Never"));
    ns.create(&objects::pod("app-0", Some("orders")));
    ns.pod_ready("app-0");
    assert_eq!(ns.put("app-0", "k", "v"), 201);
    take(&ns, "first");
    assert_eq!(ns.put("app-0", "later", "goes"), 201);
    ns.delete("leases/cxs-orders-backup");
    restores::hold_destination(&ns);
    // Before the operator has made the Job, and while the Job waits: it dies either time, and so does the Job's pod.
    ns.create(&restores::restore("back", json!({})));
    kill_operator(cluster);
    let first = pod_of(&ns, "cxr-back", "");
    restore_is(&ns, "back", "it waits", |s| s["phase"] == "Running");
    kill_operator(cluster);
    cluster.kill_pod(&ns.name, &first).unwrap();
    pod_of(&ns, "cxr-back", &first);
    ns.delete("leases/cxs-orders-backup");
    let back = restore_is(&ns, "back", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    assert_eq!(
        (&back["phase"], &back["ready"]),
        (&json!("Succeeded"), &json!("1/1")),
        "{back}"
    );
    assert_eq!(ns.keys("app-0", ""), ["k"]);
    assert_eq!(ns.put("app-0", "after", "it goes on"), 201);
    cluster.operator_ready();
}

#[test]
fn a_backup_goes_on_whichever_of_its_steps_the_operator_died_in() {
    let Some((cluster, _alone)) = exclusive() else {
        return;
    };
    let ns = Namespace::alone(cluster, "steps");
    each_step(&ns, |_| kill_operator(cluster));
    cluster.operator_ready();
}

#[test]
fn two_at_once_take_turns_whatever_becomes_of_the_operator() {
    let Some((cluster, _alone)) = exclusive() else {
        return;
    };
    let ns = Namespace::alone(cluster, "rotate-twice");
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", rotation::spec(&json!({})));
    members(&ns, 1, objects::pod_spec(IDLE));
    assert_eq!(ns.put("web-0", "k", "v"), 201);
    let (_, first) = keyring(&ns);
    ns.create(&rotation("one"));
    ns.create(&rotation("two"));
    kill_operator(cluster);
    for phase in ["Distributing", "Rewriting"] {
        rotation_is(&ns, "one", "it goes on", |s| {
            s["phase"] == phase || s["phase"] == "Completed"
        });
        kill_operator(cluster);
    }
    let one = rotation_is(&ns, "one", "it is done", |s| s["completedAt"].is_string());
    let two = rotation_is(&ns, "two", "it is done", |s| s["completedAt"].is_string());
    for done in [&one, &two] {
        assert_eq!(done["phase"], "Completed", "{done}");
    }
    assert_eq!((&one["from"], &two["from"]), (&json!(first), &one["to"]));
    // Old keys stay, unless the spec says otherwise.
    let (ids, current) = keyring(&ns);
    assert_eq!((ids.len(), &json!(current)), (3, &two["to"]));
    assert_eq!(member(&ns, "web-0")["neededKeyIds"], json!([current]));
    assert_eq!(ns.value("web-0", "k"), Some("v".to_owned()));
    cluster.operator_ready();
}
