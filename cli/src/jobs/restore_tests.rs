use codexstore_crds::codex_backup::last_try;
use serde_json::{Value, json};

use super::super::scripted::serve;
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
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
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
    let (address, asked) = serve(move |line, _| {
        let answer = if line.contains("/leases/") {
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "cxs-orders-backup"}})
        } else if line.contains("/codexrestores/") {
            restore.clone()
        } else if line.contains("/codexstores/") {
            store.clone()
        } else if line.contains("/codexbackups") {
            json!({"metadata": {}, "items": []})
        } else {
            json!({})
        };
        (200, None, answer.to_string().into_bytes())
    })
    .await;
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let cluster = Cluster {
        client: kube::Client::try_from(config).unwrap(),
        namespace: "shop".to_owned(),
    };
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
