//! A key is deleted by what the API server has, and not by what was seen before.

use codexstore_crds::names;
use codexstore_crds::rotation::Mode;
use serde_json::{Value, json};

use super::super::played::{Cluster, LOOKS, keyring};
use super::*;
use crate::controller::fake_api::FakeApi;
use crate::controller::fixtures::{claim_store, pod_of};
use crate::controller::reconcile::{Found, reconcile};
use crate::controller::scripted::{BACKUPS, CLAIM, RECORD, ROTATIONS, STORE, operator};

const CORE: &str = "/api/v1/namespaces/shop";
const SHOP: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop";

/// A store whose only member has gone on to another key so often: and the keys of before, sorted.
async fn rotated(times: usize) -> (Cluster, Vec<String>) {
    let cluster = Box::pin(Cluster::start(Mode::Rewrap, &["web-0"])).await;
    for n in 0..times {
        let name = format!("r{n}");
        cluster.ask(&name, &json!({}));
        let done = cluster.done(&name).await;
        assert_eq!(done["phase"], "Completed", "{done}");
    }
    let (mut ids, current) = keyring(&cluster.api);
    ids.retain(|id| *id != current);
    ids.sort();
    assert_eq!(ids.len(), times);
    (cluster, ids)
}

/// What the caches of an operator have, which then looks at a store whose keys may go, after this was done and before they have it.
async fn look_behind(cluster: &Cluster, change: impl FnOnce(&FakeApi)) {
    let api = &cluster.api;
    let operator = operator(api);
    let pods: Vec<_> = cluster
        .members
        .iter()
        .map(|m| Arc::new(m.pod.clone()))
        .collect();
    let claim = serde_json::from_value(api.get(CLAIM).unwrap()).unwrap();
    let (claims, backups, rotations) = ([Arc::new(claim)], api.all(BACKUPS), api.all(ROTATIONS));
    let found = Found {
        pods: &pods,
        claims: &claims,
        backups: &backups,
        rotations: &rotations,
        ..Found::default()
    };
    let mut store = api.get(STORE).unwrap();
    let cached = serde_json::from_value(store.clone()).unwrap();
    reconcile(&operator, &cached, found).await.unwrap();
    change(api);
    store["spec"]["encryption"]["keys"]["managed"]["rotation"]["retire"] = json!("Unneeded");
    api.put(STORE, &store);
    let cached = serde_json::from_value(store).unwrap();
    for _ in 0..LOOKS {
        reconcile(&operator, &cached, found).await.unwrap();
        let members = api.get(STORE).unwrap()["status"]["members"].take();
        // One that was asked in vain, on a machine that is busy, needs every key.
        if members[0]["state"] == "Ready" {
            return;
        }
    }
    panic!("web-0 does not answer");
}

/// What needs a key, by the status.
fn needed_by(api: &FakeApi, id: &str) -> String {
    let keys = api.get(STORE).unwrap()["status"]["encryptionKeys"].take();
    let mut all = keys.as_array().unwrap().iter();
    let found = all.find(|key| key["id"] == id).unwrap();
    found["neededBy"].to_string()
}

fn backup(api: &FakeApi, store: &str, status: &Value) {
    let backup = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": {"name": "b", "namespace": "shop"},
        "spec": {"storeRef": {"name": store}}, "status": status});
    api.put(&format!("{BACKUPS}/b"), &backup);
}

fn ended(key: &str) -> Value {
    json!({"phase": "Succeeded", "members": [{"pod": "web-0", "stored": true, "keyId": key}]})
}

fn claim(api: &FakeApi, name: &str, labels: &Value) {
    let claim = json!({"metadata": {"name": name, "namespace": "shop", "labels": labels}});
    api.put(&format!("{CORE}/persistentvolumeclaims/{name}"), &claim);
}

fn map(api: &FakeApi, name: &str, data: &Value) {
    let map = json!({"metadata": {"name": name, "namespace": "shop"}, "data": data});
    api.put(&format!("{CORE}/configmaps/{name}"), &map);
}

fn pod(api: &FakeApi, change: impl FnOnce(&mut Value)) {
    let mut pod = serde_json::to_value(pod_of(&claim_store("1Gi"), "web-5")).unwrap();
    pod["status"] = json!({"phase": "Running", "initContainerStatuses": [{"name": names::CONTAINER, "image": "", "imageID": "",
        "ready": true, "restartCount": 0, "state": {"running": {}}}]});
    change(&mut pod);
    api.put(&format!("{CORE}/pods/web-5"), &pod);
}

#[tokio::test]
async fn what_came_since_and_may_need_a_key_keeps_it() {
    type Change = fn(&FakeApi, &str);
    let all: &[(&str, Change)] = &[
        ("claim cxs-orders-web-7 (", |api, _| {
            claim(
                api,
                "cxs-orders-web-7",
                &json!({names::STORE_LABEL: "orders"}),
            );
        }),
        // Labels can be taken off.
        ("claim cxs-orders-web-7 (", |api, _| {
            claim(api, "cxs-orders-web-7", &Value::Null);
        }),
        ("cxb/b (not done)", |api, _| {
            backup(api, "orders", &Value::Null);
        }),
        ("\"cxb/b\"", |api, id| backup(api, "orders", &ended(id))),
        ("cxr/r (not done)", |api, _| {
            let restore = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore",
                "metadata": {"name": "r", "namespace": "shop"}, "spec": {"storeRef": {"name": "orders"}}});
            api.put(&format!("{SHOP}/codexrestores/r"), &restore);
        }),
        ("backup gone (kept)", |api, id| {
            let text = json!({"keyIds": [id]}).to_string();
            map(api, "cxs-orders-kept", &json!({"gone": text}));
        }),
        ("the archive (it does not say", |api, _| {
            map(
                api,
                "cxs-orders-archive",
                &json!({names::ARCHIVE_RECORD: "{}"}),
            );
        }),
        ("pod web-5 (it was not asked)", |api, _| pod(api, |_| {})),
        ("pod web-5 (it was not asked)", |api, _| {
            pod(api, |pod| pod["metadata"]["labels"] = json!({}));
        }),
    ];
    for (n, (wanted, change)) in all.iter().enumerate() {
        let (cluster, old) = rotated(1).await;
        Box::pin(look_behind(&cluster, |api| change(api, &old[0]))).await;
        assert_eq!(keyring(&cluster.api).0.len(), 2, "{n}: {wanted}");
        let said = needed_by(&cluster.api, &old[0]);
        assert!(said.contains(wanted), "{n}: {said}");
        assert!(!cluster.told("KeyRetired"), "{n}: {wanted}");
    }
}

/// Nothing else remembers volumes of a store that is deleted, and made again with volumes of another kind.
#[tokio::test]
async fn volumes_of_the_users_keep_all_keys_also_when_the_spec_names_none_any_more() {
    let (cluster, old) = rotated(1).await;
    let api = &cluster.api;
    let claims = api.get(STORE).unwrap();
    let mut own = claims.clone();
    own["metadata"]["uid"] = json!("an-earlier-uid");
    own["spec"]["volume"] = json!({"podVolume": "work"});
    api.put(STORE, &own);
    cluster.look().await;
    api.put(STORE, &claims);
    Box::pin(look_behind(&cluster, |_| {})).await;
    assert_eq!(keyring(api).0.len(), 2);
    let said = needed_by(api, &old[0]);
    assert!(said.contains("podVolume"), "{said}");
    // Nor is it forgotten when keys come and go.
    cluster.ask("later", &json!({}));
    cluster.done("later").await;
    assert_eq!(api.get(RECORD).unwrap()["data"]["podVolume"], "true");
}

#[tokio::test]
async fn what_came_since_and_needs_none_keeps_none() {
    type Change = fn(&FakeApi);
    let all: &[(&str, Change)] = &[
        ("nothing", |_| {}),
        ("a claim of another store", |api| {
            claim(
                api,
                "cxs1-orders-web-api-0",
                &json!({names::STORE_LABEL: "orders-web"}),
            );
        }),
        ("a backup of another store", |api| {
            backup(api, "other", &Value::Null);
        }),
        ("a backup with another key", |api| {
            backup(api, "orders", &ended("another"));
        }),
        ("a pod that has ended", |api| {
            pod(api, |pod| pod["status"]["phase"] = json!("Succeeded"));
        }),
        ("a pod that has not started", |api| {
            pod(api, |pod| pod["status"] = json!({}));
        }),
        ("a pod without sidecar", |api| {
            pod(api, |pod| {
                pod["metadata"]["labels"] = json!({});
                pod["spec"]["initContainers"][0]["env"] = json!([]);
            });
        }),
    ];
    for (what, change) in all {
        let (cluster, old) = rotated(1).await;
        Box::pin(look_behind(&cluster, change)).await;
        let ids = keyring(&cluster.api).0;
        assert!(ids.len() == 1 && !ids.contains(&old[0]), "{what}: {ids:?}");
        let keys = cluster.api.get(STORE).unwrap()["status"]["encryptionKeys"].take();
        assert_eq!(keys[1]["id"], json!(old[0]), "{what}: {keys}");
        assert_eq!(keys[1]["state"], "Retired", "{what}: {keys}");
        assert!(keys[1]["neededBy"].is_null(), "{what}: {keys}");
        assert!(cluster.told("KeyRetired"), "{what}");
    }
}

#[tokio::test]
async fn a_key_that_is_needed_after_all_does_not_keep_the_others() {
    let (cluster, old) = rotated(2).await;
    Box::pin(look_behind(&cluster, |api| {
        backup(api, "orders", &ended(&old[0]));
    }))
    .await;
    let ids = keyring(&cluster.api).0;
    assert!(ids.contains(&old[0]) && !ids.contains(&old[1]), "{ids:?}");
    assert_eq!(needed_by(&cluster.api, &old[0]), r#"["cxb/b"]"#);
}
