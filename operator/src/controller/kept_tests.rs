use codexstore_crds::rotation::{Retire, RotationPolicy};
use serde_json::Value;

use super::super::backups;
use super::super::fake_api::{FakeApi, Fault};
use super::super::fixtures::{rotating, store};
use super::super::scripted::{
    BACKUPS, ROTATION, STORE, condition, facts, look, operator, pair, rotation, with,
};
use super::*;

const MAP: &str = "/api/v1/namespaces/shop/configmaps/cxs-orders-kept";

fn path(name: &str) -> String {
    format!("{BACKUPS}/{name}")
}

/// Somebody deletes a backup whose members need these keys, and whose files are to stay.
fn delete(api: &FakeApi, name: &str, keys: &[Option<&str>], change: impl FnOnce(&mut Value)) {
    let one = |(n, key)| json!({"pod": format!("web-{n}"), "stored": true, "keyId": key});
    let mut members: Vec<_> = keys.iter().enumerate().map(one).collect();
    members.push(json!({"pod": "web-9", "stored": false, "keyId": "not-stored"}));
    let mut backup = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "finalizers": [names::STORED_FINALIZER],
            "deletionTimestamp": "2026-11-01T00:01:00Z"},
        "spec": {"storeRef": {"name": "orders"}, "deletionPolicy": "Retain"},
        "status": {"phase": "PartiallyFailed", "completedAt": "2026-11-01T00:00:00Z", "destination": {"claim": "b"},
            "directory": format!("shop/orders/{name}"), "location": format!("pvc/b:/shop/orders/{name}"), "members": members}});
    change(&mut backup);
    api.put(&path(name), &backup);
}

/// One look by an operator that has just started.
async fn look_at(api: &FakeApi, name: &str) -> Result<(), Error> {
    let Some(backup) = api.get(&path(name)) else {
        return Ok(());
    };
    let backup = serde_json::from_value(backup).unwrap();
    backups::look(&backup, &operator(api), None).await?;
    Ok(())
}

fn entries(api: &FakeApi) -> Value {
    let mut map = api.get(MAP).unwrap_or_default();
    let mut data = map["data"].take();
    for (_, text) in data.as_object_mut().into_iter().flatten() {
        *text = serde_json::from_str(text.as_str().unwrap()).unwrap();
    }
    data
}

#[tokio::test]
async fn which_keys_its_files_need_is_written_down_before_a_backup_goes() {
    let wanted =
        json!({"monday": {"location": "pvc/b:/shop/orders/monday", "keyIds": ["k1", "k2"]}});
    let mut faults = 0;
    for fault in [Fault::Before, Fault::After] {
        for call in 0.. {
            let api = with(&store()).await;
            delete(
                &api,
                "monday",
                &[Some("k2"), Some("k1"), Some("k2")],
                |_| {},
            );
            api.fail(call, fault);
            for _ in 0..3 {
                let _ = look_at(&api, "monday").await;
                let gone = api.get(&path("monday")).is_none();
                assert!(!gone || entries(&api) == wanted, "{fault:?} at {call}");
            }
            assert!(api.get(&path("monday")).is_none(), "{fault:?} at {call}");
            if api.calls().len() <= call {
                break;
            }
            faults += 1;
        }
    }
    assert!(faults >= 6, "{faults}");
}

#[tokio::test]
async fn it_outlives_the_store_and_grows_by_what_comes_to_it() {
    let api = with(&store()).await;
    delete(&api, "monday", &[Some("k1")], |_| {});
    look_at(&api, "monday").await.unwrap();
    let made = api.get(MAP).unwrap()["metadata"].take();
    assert_eq!(made["labels"][names::STORE_LABEL], "orders");
    assert_eq!(made["ownerReferences"], Value::Null);
    // Another of that name, and files that nobody may delete any more.
    delete(&api, "monday", &[Some("k3")], |_| {});
    look_at(&api, "monday").await.unwrap();
    api.remove(STORE);
    let is_to_go = |b: &mut Value| b["spec"]["deletionPolicy"] = json!("Delete");
    delete(&api, "tuesday", &[Some("k2")], is_to_go);
    look_at(&api, "tuesday").await.unwrap();
    assert_eq!(api.told("StoredBackupLeft"), 1);
    // One whose Job has not ended may have stored anything.
    let running = |b: &mut Value| b["status"]["phase"] = json!("Running");
    delete(&api, "wednesday", &[], running);
    look_at(&api, "wednesday").await.unwrap();
    let at = |name: &str| format!("pvc/b:/shop/orders/{name}");
    let wanted = json!({
        "monday": {"location": at("monday"), "keyIds": ["k1", "k3"]},
        "tuesday": {"location": at("tuesday"), "keyIds": ["k2"]},
        "wednesday": {"location": at("wednesday"), "keyIds": null},
    });
    assert_eq!(entries(&api), wanted);
    assert_eq!(api.all::<CodexBackup>(BACKUPS).len(), 0);
}

#[tokio::test]
async fn what_needs_no_key_is_not_written_down() {
    let api = with(&store()).await;
    let nothing = |b: &mut Value| b["status"] = json!({"phase": "Pending"});
    delete(&api, "never-begun", &[], nothing);
    delete(&api, "none-stored", &[], |_| {});
    delete(&api, "not-encrypted", &[None, None], |_| {});
    let pruned = |b: &mut Value| {
        b["spec"]["deletionPolicy"] = json!("Delete");
        b["status"]["directory"] = Value::Null;
    };
    delete(&api, "not-there", &[Some("k1")], pruned);
    for name in ["never-begun", "none-stored", "not-encrypted", "not-there"] {
        look_at(&api, name).await.unwrap();
        assert!(api.get(&path(name)).is_none(), "{name}");
    }
    assert!(api.get(MAP).is_none(), "{}", entries(&api));
}

#[tokio::test]
async fn a_backup_stays_while_that_cannot_be_written_down_but_in_a_namespace_that_goes() {
    let api = with(&store()).await;
    let theirs = json!({"metadata": {"name": "cxs-orders-kept"}, "data": {"a": "theirs"}});
    api.put(MAP, &theirs);
    let before = api.get(MAP).unwrap();
    delete(&api, "monday", &[Some("k1")], |_| {});
    for _ in 0..2 {
        look_at(&api, "monday").await.unwrap();
        assert!(api.get(&path("monday")).is_some());
    }
    assert_eq!(api.get(MAP).unwrap(), before, "whose it is not");
    assert!(api.told("KeysNotRecorded") > 0);
    api.remove(MAP);
    api.forbid("configmaps");
    look_at(&api, "monday").await.unwrap();
    assert!(api.get(&path("monday")).is_some(), "nobody may write there");

    let api = with(&store()).await;
    delete(&api, "monday", &[Some("k1")], |_| {});
    api.terminate();
    look_at(&api, "monday").await.unwrap();
    assert!(api.get(&path("monday")).is_none());
}

#[test]
fn what_has_no_room_for_itself_is_written_down_with_the_others() {
    let files = |ids: &[&str]| Files {
        location: "pvc/b".to_owned(),
        key_ids: Some(ids.iter().map(|id| (*id).to_owned()).collect()),
    };
    let mut data = BTreeMap::new();
    let mut add = |name: &str, ids: &[&str]| {
        let (name, text) = entry(&data, name, files(ids));
        data.insert(name.clone(), text);
        let size: usize = data
            .iter()
            .map(|(name, text)| name.len() + text.len())
            .sum();
        assert!(size < ROOM + (128 << 10), "{size}");
        name
    };
    let mut alone = 0;
    while add(&format!("b{alone}"), &["k1"; 400]) != names::KEPT_OTHERS {
        alone += 1;
    }
    assert!(alone > 100, "{alone}");
    assert_eq!(add("later", &["k2"; 400]), names::KEPT_OTHERS);
    assert_eq!(add("b0", &["k1"; 400]), "b0", "there is room for it");
    let map = ConfigMap {
        data: Some(data),
        ..ConfigMap::default()
    };
    let kept = Kept::parse(&map);
    let others = ["other backups (kept)"];
    assert_eq!(kept.needing("k2").collect::<Vec<_>>(), others);
    assert_eq!(kept.needing("k1").count(), alone + 1);
    // More than a keyring can have: any.
    let many: Vec<_> = (0..=MAX_KEYS).map(|n| format!("k{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(files(&many).and(files(&[])).key_ids, None);
    assert_eq!(files(&["b"]).and(files(&["a"])), files(&["a", "b"]));
    assert!(files(&["b"]).and(Files::default()).need("any"));
}

#[tokio::test]
async fn a_key_that_files_need_stays_until_somebody_says_that_they_are_gone() {
    let policy = RotationPolicy {
        retire: Retire::Unneeded,
        ..RotationPolicy::default()
    };
    let api = with(&rotating(store(), policy)).await;
    look(&api, &[]).await.unwrap();
    let first = facts(&api).current;
    delete(&api, "monday", &[Some(&first)], |_| {});
    look_at(&api, "monday").await.unwrap();
    delete(&api, "tuesday", &[Some("another")], |_| {});
    look_at(&api, "tuesday").await.unwrap();
    api.put(ROTATION, &rotation("now", &json!({})));
    for _ in 0..16 {
        look(&api, &[]).await.unwrap();
    }
    assert!(facts(&api).ids.contains(&first), "its files need it");
    let listed = || api.get(STORE).unwrap()["status"]["encryptionKeys"].take();
    let needed = listed();
    let mut all = needed.as_array().unwrap().iter();
    let key = all.find(|key| key["id"] == json!(first)).unwrap();
    assert_eq!(key["neededBy"], json!(["backup monday (kept)"]), "{key}");
    // As with `kubectl patch --type=json` and a `remove`; what cannot be read may need any.
    let mut map = api.get(MAP).unwrap();
    map["data"] = json!({"by-hand": "soon", "tuesday": map["data"]["tuesday"]});
    api.put(MAP, &map);
    for _ in 0..2 {
        look(&api, &[]).await.unwrap();
    }
    assert!(facts(&api).ids.contains(&first), "{}", listed());
    map["data"].as_object_mut().unwrap().remove("by-hand");
    api.put(MAP, &map);
    for _ in 0..2 {
        look(&api, &[]).await.unwrap();
    }
    assert!(!facts(&api).ids.contains(&first), "{}", listed());
    assert_eq!(api.told("KeyRetired"), 1);
}

#[tokio::test]
async fn files_that_stayed_forbid_a_new_key() {
    let api = FakeApi::start().await;
    delete(&api, "monday", &[Some("k1")], |_| {});
    look_at(&api, "monday").await.unwrap();
    api.put(STORE, &store());
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "SecretMissing"));
    let said = api.get(STORE).unwrap()["status"].to_string();
    assert!(
        said.contains("backup monday (kept), by the ConfigMap cxs-orders-kept"),
        "{said}"
    );
    api.remove(MAP);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
}
