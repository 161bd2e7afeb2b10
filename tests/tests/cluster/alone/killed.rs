//! An operator that dies while a backup, a restore or two rotations are under way, with Jobs that do.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Cluster, Namespace, SYSTEM, exclusive};
use serde_json::json;

use crate::attempts::each_step;
use crate::backups::{pod_of, take};
use crate::restores::restore_is;
use crate::rotation::{keyring, member, members, rotation, rotation_is};
use crate::{restores, rotation};

pub fn kill_operator(cluster: &Cluster) {
    for pod in cluster.operator_pods() {
        let name = pod["metadata"]["name"].as_str().unwrap();
        cluster.kill_pod(SYSTEM, name).unwrap();
    }
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
