use codexstore_crds::codex_backup::last_try;
use serde_json::{Value, json};

use super::super::scripted;
use super::*;

#[test]
fn a_try_that_restored_nothing_has_not_ended_and_keeps_its_backup() {
    let failed = CodexRestoreStatus {
        phase: Some(phase::FAILED.to_owned()),
        ready: Some("0/1".to_owned()),
        ..CodexRestoreStatus::default()
    };
    let status = tried(&failed, Some("monday"), "web-0: no answer");
    assert!(!status.ended() && status.completed_at.is_none());
    assert_eq!(last_try(&status.conditions), Some("web-0: no answer"));
    // What retention leaves alone.
    assert_eq!(status.backup.as_deref(), Some("monday"));
    assert_eq!(status.ready, failed.ready);
}

/// How a try ends where nothing is mounted as the destination, and the statuses that it wrote.
async fn one_try(policy: Value, restore: Value, status: Value) -> (Result<()>, Vec<Value>) {
    let object = |kind: &str, name: &str, spec: Value, status: Value| {
        json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "shop", "uid": "u"},
            "spec": spec, "status": status})
    };
    let store = object("CodexStore", "orders", json!({"backup": policy}), json!({}));
    let mut spec = json!({"storeRef": {"name": "orders"}});
    for (key, value) in restore.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let restore = object("CodexRestore", "back", spec, status);
    let (cluster, asked) = scripted::cluster(move |line| {
        if line.contains("/leases/") {
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "cxs-orders-backup"}})
        } else if line.contains("/codexrestores/") {
            restore.clone()
        } else if line.contains("/codexstores/") {
            store.clone()
        } else if line.contains("/codexbackups") {
            json!({"metadata": {}, "items": []})
        } else {
            json!({})
        }
    })
    .await;
    let asks = Asked {
        restore: "back",
        backup: None,
        recorded: false,
    };
    let ended = super::restore(&cluster, asks, "me").await;
    let asked = asked.lock().unwrap();
    let written = asked.iter().filter(|(line, _)| line.starts_with("PATCH"));
    let written = written.map(|(_, body)| serde_json::from_str::<Value>(body).unwrap());
    (
        ended,
        written.map(|mut body| body["status"].take()).collect(),
    )
}

#[tokio::test]
async fn what_may_heal_leaves_the_end_to_the_operator_and_what_does_not_has_failed_at_once() {
    let claim = || json!({"destination": {"claim": "b"}});
    let (ended, written) = one_try(claim(), json!({}), json!({})).await;
    let why = format!("{:#}", ended.unwrap_err());
    let last = written.last().unwrap();
    assert_eq!(
        (&last["phase"], &last["conditions"][0]["reason"]),
        (&json!("Running"), &json!("TryFailed")),
        "{last}"
    );
    assert!(last["completedAt"].is_null(), "{last}");
    assert!(why.contains("look for backups at"), "{why}");
    // The next one goes on from there, and says so until it has ended too.
    let (_, again) = one_try(claim(), json!({}), last.clone()).await;
    assert_eq!(again[0]["conditions"], last["conditions"]);

    let nowhere = one_try(Value::Null, json!({}), json!({})).await;
    let waits = one_try(claim(), json!({"onStart": true}), json!({})).await;
    for (ended, written) in [nowhere, waits] {
        let last = written.last().unwrap();
        assert_eq!(last["phase"], "Failed", "{last}");
        assert!(ended.is_err() && last["completedAt"].is_string(), "{last}");
    }
    let over = one_try(claim(), json!({}), json!({"phase": "Failed"})).await;
    assert!(over.0.is_ok() && over.1.is_empty());
}

/// What pods are told of a restore that has ended so, as (pod, type, reason).
async fn pods_told(on_start: bool, members: Vec<RestoredMember>) -> Vec<(String, String, String)> {
    let store = CodexStore::new("orders", codexstore_crds::CodexStoreSpec::default());
    let mut restore = CodexRestore::new("back", codexstore_crds::CodexRestoreSpec::default());
    restore.spec.store_ref.name = "orders".to_owned();
    restore.spec.on_start = on_start;
    let answer = serde_json::to_value(&restore).unwrap();
    let (cluster, asked) = scripted::cluster(move |_| answer.clone()).await;
    let pod = |name: &str| ObjectReference {
        kind: Some("Pod".to_owned()),
        name: Some(name.to_owned()),
        namespace: Some("shop".to_owned()),
        ..ObjectReference::default()
    };
    let pods = ["web-0", "web-1", "web-2"].map(|name| (name.to_owned(), pod(name)));
    let mut run = Run {
        cluster: &cluster,
        store: &store,
        restore: &restore,
        named: None,
        recorded: false,
        left: Vec::new(),
        pods: pods.into(),
        heals: false,
        status: CodexRestoreStatus {
            members,
            ..CodexRestoreStatus::default()
        },
    };
    run.sum(None);
    run.finish().await.unwrap();
    let all = scripted::events(&asked);
    let own = all.iter().filter(|e| e["regarding"]["kind"] == "Pod");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    own.map(|e| {
        (
            text(&e["regarding"]["name"]),
            text(&e["type"]),
            text(&e["reason"]),
        )
    })
    .collect()
}

#[tokio::test]
async fn each_pod_is_told_of_its_own_restore_and_one_that_waits_on_of_no_try() {
    let member = |pod: &str, restored: bool, backup: Option<&str>| RestoredMember {
        pod: pod.to_owned(),
        restored,
        backup: backup.map(str::to_owned),
        ..RestoredMember::default()
    };
    let members = || {
        vec![
            member("web-0", true, Some("monday")),
            member("web-1", true, None),
            member("web-2", false, None),
            // Named, and not there.
            member("web-3", false, None),
        ]
    };
    let told = |pod: &str, type_: &str, reason: &str| (pod.into(), type_.into(), reason.into());
    let good = [
        told("web-0", "Normal", "RestoreSucceeded"),
        told("web-1", "Normal", "NothingToRestore"),
    ];
    assert_eq!(pods_told(true, members()).await, good);
    let all = [&good[..], &[told("web-2", "Warning", "RestoreFailed")]].concat();
    assert_eq!(pods_told(false, members()).await, all);
}
