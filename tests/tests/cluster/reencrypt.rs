//! Rotations that encrypt everything anew: under load, after a compromise, and what becomes of members that were down.

use std::collections::BTreeSet;

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace, wait};
use serde_json::{Value, json};

use crate::backups::take;
use crate::restores::has_event;
use crate::rotation::{
    WRITER, key, member, members, none_failed, rotation, rotation_is, signal, to_freeze,
};

pub fn spec(deadline: &str) -> Value {
    json!({"volume": {"claim": {"size": "256Mi", "reclaimPolicy": "Delete"}},
        "encryption": {"keys": {"managed": {"rotation": {"mode": "Reencrypt", "deadline": deadline}}}},
        "backup": {"destination": {"claim": "backups"}}})
}

/// As much as takes a while to encrypt anew: 40 values of a megabyte of noise.
pub fn fill(ns: &Namespace, pod: &str) {
    let script = "head -c 1000000 /dev/urandom >/tmp/noise; for n in $(seq 40); do \
        curl -fsS --unix-socket $CODEXSTORE_SOCKET -X PUT --data-binary @/tmp/noise http://s/v1/keys/noise-$n || exit 1; done";
    ns.sh(pod, "app", script).success("write noise");
}

pub fn uid(ns: &Namespace, name: &str) -> Value {
    ns.get(&format!("codexkeyrotations/{name}")).unwrap()["metadata"]["uid"].take()
}

/// How far each member is, as `pod=state`.
pub fn states(status: &Value) -> Vec<String> {
    let all = status["members"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|m| format!("{}={}", text(&m["pod"]), text(&m["state"])))
        .collect()
}

pub fn reencrypted(status: &Value) -> Option<&str> {
    let mut all = status["conditions"].as_array().into_iter().flatten();
    all.find(|c| c["type"] == "Reencrypted")?["status"].as_str()
}

/// All that the member holds is under the new key, and it says that it wrote it anew.
#[track_caller]
pub fn is_anew(ns: &Namespace, pod: &str, to: &Value, id: &Value) {
    let said = member(ns, pod);
    assert_eq!(said["neededKeyIds"], json!([to]), "{pod}: {said}");
    let told = &said["reencryption"];
    assert_eq!(
        (&told["id"], &told["state"]),
        (id, &json!("Done")),
        "{pod}: {said}"
    );
}

/// A member is restored from a backup.
#[track_caller]
pub fn restored(ns: &Namespace, backup: &str, pod: &str) {
    let name = format!("from-{backup}");
    ns.create(&json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore", "metadata": {"name": name},
        "spec": {"storeRef": {"name": "orders"}, "backupRef": {"name": backup}, "members": [{"pod": pod}]}}));
    wait::until(&format!("{backup} is restored"), 2 * wait::LONG, || {
        let found = ns.get(&format!("codexrestores/{name}")).unwrap();
        if found["status"]["phase"] == "Succeeded" {
            Ok(())
        } else {
            Err(found["status"].to_string())
        }
    });
    assert_eq!(ns.value(pod, "first"), Some(pod.to_owned()), "{backup}");
}

#[test]
fn three_members_encrypt_everything_anew_under_load_and_each_backup_can_be_restored() {
    let Some(ns) = namespace("reencrypt") else {
        return;
    };
    let pods = ["web-0", "web-1", "web-2"];
    ns.create(&objects::claim("backups", "2Gi"));
    ns.store("orders", spec("20m"));
    members(&ns, 3, objects::pod_spec(IDLE));
    for pod in pods {
        assert_eq!(ns.put(pod, "first", pod), 201);
        fill(&ns, pod);
        ns.sh(pod, "app", WRITER).success("begin to write");
    }
    take(&ns, "before");
    ns.create(&rotation("now"));
    rotation_is(&ns, "now", "the new key is current", |s| {
        s["promotedAt"].is_string()
    });
    take(&ns, "during");
    let done = rotation_is(&ns, "now", "it is done", |s| s["completedAt"].is_string());
    assert_eq!(
        (&done["phase"], &done["mode"], &done["ready"]),
        (&json!("Completed"), &json!("Reencrypt"), &json!("3/3")),
        "{done}"
    );
    assert_eq!(states(&done), ["web-0=Done", "web-1=Done", "web-2=Done"]);
    assert_eq!(reencrypted(&done), Some("True"), "{done}");
    let id = uid(&ns, "now");
    for pod in pods {
        is_anew(&ns, pod, &done["to"], &id);
    }
    none_failed(&ns, &pods);
    take(&ns, "after");
    // The one during it has the key that each member had read as the current one by then.
    let mut needed: Vec<_> = ns.list("codexbackups");
    needed.retain(|backup| {
        let members = backup["status"]["members"].as_array().unwrap();
        members.iter().any(|member| member["keyId"] == done["from"])
    });
    let name = |backup: &Value| format!("cxb/{}", backup["metadata"]["name"].as_str().unwrap());
    let needed: BTreeSet<_> = needed.iter().map(name).collect();
    assert!(
        needed.contains("cxb/before") && !needed.contains("cxb/after"),
        "{needed:?}"
    );
    let of = |status: &Value, which: &str| key(status, done[which].as_str().unwrap_or_default());
    let told = |status: &Value| -> BTreeSet<String> {
        let old = of(status, "from");
        let all = old["neededBy"].as_array().into_iter().flatten();
        all.filter_map(|by| by.as_str().map(str::to_owned))
            .collect()
    };
    let status = ns.status("orders", "its keys are counted, and whose they are", |s| {
        let counted = of(s, "to")["messages"].as_i64().is_some_and(|n| n > 0);
        counted && told(s) == needed
    });
    let old = of(&status, "from");
    assert_eq!(old["maxMessages"], 4_294_967_296_i64, "{status}");
    let table = ns.cluster.kubectl(&["-n", &ns.name, "get", "cxk"]);
    let table = table.success("kubectl get cxk");
    assert!(
        table.contains("MODE") && table.contains("Reencrypt"),
        "{table}"
    );
    for backup in ["before", "during", "after"] {
        restored(&ns, backup, "web-1");
    }
    // One that is opened again has all of it: what was written anew, and what came behind the switch.
    let written = ns.keys("web-0", "k-");
    ns.delete_and_wait("pods/web-0");
    ns.pod_ready("web-0");
    assert_eq!(ns.value("web-0", "first"), Some("web-0".to_owned()));
    assert_eq!(ns.keys("web-0", "k-"), written);
    assert_eq!(ns.keys("web-0", "noise-").len(), 40);
    let said = member(&ns, "web-0");
    assert_eq!(said["neededKeyIds"], json!([done["to"]]), "{said}");
}

#[test]
fn after_a_compromise_a_frozen_member_is_not_waited_for_and_its_exposed_backups_are_told() {
    let Some(ns) = namespace("compromise") else {
        return;
    };
    ns.create(&objects::claim("backups", "2Gi"));
    // Shorter than kubelet lets a frozen sidecar be.
    ns.store("orders", spec("30s"));
    members(&ns, 2, to_freeze());
    for pod in ["web-0", "web-1"] {
        assert_eq!(ns.put(pod, "first", pod), 201);
    }
    take(&ns, "before");
    signal(&ns, "web-0", "STOP");
    let mut seen = rotation("seen");
    seen["spec"]["reason"] = json!("Compromise");
    ns.create(&seen);
    let promoted = rotation_is(&ns, "seen", "it goes on without web-0", |s| {
        s["promotedAt"].is_string()
    });
    signal(&ns, "web-0", "CONT");
    assert_eq!(promoted["mode"], "Reencrypt", "{promoted}");
    assert!(
        states(&promoted).contains(&"web-0=Unreachable".to_owned()),
        "{promoted}"
    );
    assert_eq!(
        promoted["exposedBackups"]["names"],
        json!(["before"]),
        "{promoted}"
    );
    let current = ns.status("orders", "the new key is current", |s| {
        s["keyId"] == promoted["to"]
    });
    assert_eq!(current["keyId"], promoted["to"]);
    // In time, or when it is back: kubelet decides which.
    let wanted = |s: &Value| s["completedAt"].is_string() && reencrypted(s) == Some("True");
    let done = rotation_is(&ns, "seen", "it has caught up", wanted);
    assert_eq!(states(&done), ["web-0=Done", "web-1=Done"]);
    for pod in ["web-0", "web-1"] {
        is_anew(&ns, pod, &done["to"], &uid(&ns, "seen"));
        assert_eq!(ns.value(pod, "first"), Some(pod.to_owned()));
    }
    // It is told behind the status.
    has_event(&ns, "BackupsExposed");
    take(&ns, "after");
    ns.delete_and_wait("codexbackups/before");
    rotation_is(&ns, "seen", "nothing is exposed", |s| {
        s["exposedBackups"]["count"] == 0
    });

    let mut wrong = rotation("wrong");
    wrong["spec"]["reason"] = json!("Compromise");
    wrong["spec"]["mode"] = json!("Rewrap");
    let refused = ns.refused(&wrong);
    assert!(refused.contains("write `mode: Reencrypt`"), "{refused}");
}

#[test]
fn a_member_that_was_down_encrypts_anew_when_it_is_back() {
    let Some(ns) = namespace("reencrypt-late") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", spec("20m"));
    members(&ns, 2, objects::pod_spec(IDLE));
    for pod in ["web-0", "web-1"] {
        assert_eq!(ns.put(pod, "first", pod), 201);
    }
    let scale = |count: usize| ns.patch("statefulsets/web", &json!({"spec": {"replicas": count}}));
    scale(1);
    wait::until("web-1 is gone", wait::LONG, || match ns.get("pods/web-1") {
        Err(gone) if gone.code == 404 => Ok(()),
        other => Err(format!("{:?}", other.map(|p| p["status"]["phase"].clone()))),
    });
    ns.create(&rotation("now"));
    let done = rotation_is(&ns, "now", "it is done", |s| s["completedAt"].is_string());
    assert_eq!(done["phase"], "Completed", "{done}");
    assert_eq!(states(&done), ["web-0=Done", "web-1=Away"]);
    assert_eq!(reencrypted(&done), Some("False"), "{done}");
    scale(2);
    ns.pod_ready("web-1");
    rotation_is(&ns, "now", "it has caught up", |s| {
        reencrypted(s) == Some("True")
    });
    is_anew(&ns, "web-1", &done["to"], &uid(&ns, "now"));
    assert_eq!(ns.value("web-1", "first"), Some("web-1".to_owned()));
}
