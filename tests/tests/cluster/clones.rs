//! Clones: the members of a new store get what another store's backup holds, and go their own way from there.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace};
use serde_json::{Value, json};

use crate::backups::{backup, backup_is, take, verified};
use crate::restores::{has_event, of_member, restore_is};

fn spec() -> Value {
    json!({"volume": {"claim": {"size": "64Mi", "reclaimPolicy": "Delete"}}, "backup": {"destination": {"claim": "backups"}}})
}

/// A copy into the members of `orders-copy`, unless the spec says another store.
fn copy(name: &str, mut spec: Value) -> Value {
    for (field, store) in [("storeRef", "orders-copy"), ("fromStoreRef", "orders")] {
        if spec[field].is_null() {
            spec[field] = json!({"name": store});
        }
    }
    json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore", "metadata": {"name": name}, "spec": spec})
}

fn members(ns: &Namespace, name: &str, store: &str) -> [String; 2] {
    let mut set = objects::stateful_set(name, store, objects::pod_spec(IDLE));
    set["spec"]["replicas"] = json!(2);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    ns.create(&set);
    let pods = [0, 1].map(|n| format!("{name}-{n}"));
    for pod in &pods {
        ns.pod_ready(pod);
    }
    pods
}

fn says(ns: &Namespace, pod: &str) -> Value {
    serde_json::from_str(&ns.http(pod, "http://s/v1/status").body).unwrap()
}

fn keyring(ns: &Namespace, store: &str) -> Value {
    let secret = ns.get(&format!("secrets/cxs-{store}-keyring"));
    secret.unwrap()["data"].take()
}

#[track_caller]
fn ended(ns: &Namespace, name: &str) -> Value {
    restore_is(ns, name, "it has ended", |s| s["completedAt"].is_string())
}

#[test]
fn a_copy_has_exactly_the_backup_under_its_own_key_and_goes_its_own_way() {
    let Some(ns) = namespace("copy") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", spec());
    let web = members(&ns, "web", "orders");
    for pod in &web {
        assert_eq!(ns.put(pod, "whose", pod), 201);
        for n in 0..20 {
            assert_eq!(ns.put(pod, &format!("k-{n:02}"), "v"), 201);
        }
    }
    let taken = take(&ns, "monday");
    assert_eq!(ns.put("web-0", "later", "not in the backup"), 201);

    ns.store("orders-copy", spec());
    let copies = members(&ns, "copy", "orders-copy");
    assert_eq!(ns.put("copy-0", "before", "is set aside"), 201);
    let (ours, theirs) = (keyring(&ns, "orders-copy"), keyring(&ns, "orders"));
    ns.create(&copy("all", json!({})));
    let done = ended(&ns, "all");
    assert_eq!(
        (&done["phase"], &done["ready"], &done["backup"]),
        (&json!("Succeeded"), &json!("2/2"), &json!("monday")),
        "{done}"
    );
    let table = ns
        .cluster
        .kubectl(&["-n", &ns.name, "get", "cxr", "-o", "wide"])
        .success("kubectl get cxr -o wide");
    assert!(table.contains("FROM-STORE"), "{table}");

    has_event(&ns, "BackupCopied");

    // Each has what the one of its ordinal had then, and nothing else.
    for (n, (pod, from)) in copies.iter().zip(&web).enumerate() {
        let (done, stored) = (&done["members"][n], &taken["members"][n]);
        assert_eq!((&done["pod"], &done["from"]), (&json!(pod), &json!(from)));
        for field in ["revision", "keys"] {
            assert_eq!(done[field], stored[field], "{done} {stored}");
        }
        assert!(done["setAside"].is_string(), "{done}");
        let keys = ns.keys(pod, "");
        assert_eq!(keys.len(), 21, "{keys:?}");
        assert_eq!(ns.value(pod, "whose").as_ref(), Some(from));
        assert_eq!(ns.sidecar_restarts(pod), 0);
    }
    // No key has moved, and no member needs another's: not even what was set aside.
    assert_eq!(keyring(&ns, "orders-copy"), ours);
    assert_eq!(keyring(&ns, "orders"), theirs);
    let key = says(&ns, "copy-0")["keyId"].take();
    assert!(ours.get(key.as_str().unwrap()).is_some(), "{key}");
    for pod in &copies {
        let said = says(&ns, pod);
        assert_eq!(
            (&said["keyId"], &said["neededKeyIds"], &said["loadedKeyIds"]),
            (&key, &json!([key]), &json!([key])),
            "{said}"
        );
    }
    let status = ns.status("orders-copy", "it knows its key", |s| s["keyId"] == key);
    assert_eq!(
        status["encryptionKeys"].as_array().unwrap().len(),
        1,
        "{status}"
    );

    // What is written to either does not show in the other.
    assert_eq!(ns.put("copy-0", "whose", "copy-0"), 204);
    assert_eq!(ns.put("web-0", "k-00", "changed"), 204);
    assert_eq!(ns.value("web-0", "whose"), Some("web-0".to_owned()));
    assert_eq!(
        ns.value("web-0", "later"),
        Some("not in the backup".to_owned())
    );
    assert_eq!(ns.value("copy-0", "k-00"), Some("v".to_owned()));
    ns.delete_and_wait("pods/copy-0");
    ns.pod_ready("copy-0");
    assert_eq!(ns.value("copy-0", "whose"), Some("copy-0".to_owned()));
    assert_eq!(ns.value("copy-0", "before"), None);

    // It is a store as any other: it is backed up with its own key, and restored.
    ns.create(&backup("orders-copy", "of-the-copy"));
    let own = backup_is(&ns, "of-the-copy", "it is verified", |s| {
        verified(s) == Some("True")
    });
    assert_eq!(own["members"][0]["keyId"], key, "{own}");
    assert_ne!(taken["members"][0]["keyId"], key, "{taken}");
    // Another copy, of one that is named, into one of them.
    let one =
        json!({"backupRef": {"name": "monday"}, "members": [{"pod": "copy-1", "from": "web-0"}]});
    ns.create(&copy("one", one));
    let one = ended(&ns, "one");
    assert_eq!(
        (&one["phase"], &one["ready"]),
        (&json!("Succeeded"), &json!("1/1")),
        "{one}"
    );
    assert_eq!(ns.value("copy-1", "whose"), Some("web-0".to_owned()));
    assert_eq!(ns.value("copy-0", "whose"), Some("copy-0".to_owned()));
}

#[test]
fn a_copy_of_a_store_that_is_gone_is_there_before_its_app() {
    let Some(ns) = namespace("copy-of-gone") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", spec());
    ns.create(&objects::pod("app-0", Some("orders")));
    ns.pod_ready("app-0");
    assert_eq!(ns.put("app-0", "k", "v"), 201);
    take(&ns, "last");
    ns.delete_and_wait("pods/app-0");
    ns.delete_and_wait("codexstores/orders");

    let mut ours = spec();
    ours["restore"] = json!({"onStart": "IfEmpty"});
    ns.store("orders-copy", ours);
    ns.create(&copy(
        "first",
        json!({"members": [{"pod": "app-1", "from": "app-0"}]}),
    ));
    let waits = restore_is(&ns, "first", "it waits", |s| s["phase"] == "Pending");
    let message = waits["message"].as_str().unwrap();
    assert!(message.contains("waiting for pod app-1"), "{waits}");
    // It asks for its key at once: an app that starts without data would find none.
    let script = format!(
        "curl -fsS --unix-socket $CODEXSTORE_SOCKET http://s/v1/keys/k >/tmp/first; {IDLE}"
    );
    ns.create(&objects::pod_with(
        "app-1",
        Some("orders-copy"),
        objects::pod_spec(&script),
    ));
    ns.pod_ready("app-1");
    let done = ended(&ns, "first");
    assert_eq!(
        (&done["phase"], &done["backup"]),
        (&json!("Succeeded"), &json!("last")),
        "{done}"
    );
    let first = ns
        .sh("app-1", "app", "cat /tmp/first")
        .success("what it found");
    assert_eq!(first, "v");
    of_member(&ns, "app-1", |s| s["phase"] == "Succeeded");
    assert_eq!(ns.put("app-1", "after", "it goes on"), 201);
}

#[test]
fn a_copy_that_cannot_be_made_says_why() {
    let Some(ns) = namespace("copy-not") else {
        return;
    };
    let refused = |spec: Value| ns.try_create(&copy("x", spec)).unwrap_err().message;
    let same = refused(json!({"fromStoreRef": {"name": "orders-copy"}}));
    assert!(same.contains("names the store itself"), "{same}");
    let start = refused(json!({"onStart": true}));
    assert!(start.contains("onStart restores a store's own"), "{start}");

    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", spec());
    let mut plain = spec();
    plain["encryption"] = json!({"none": {}});
    ns.store("orders-copy", plain);
    ns.create(&copy("early", json!({})));
    let early = ended(&ns, "early");
    let message = early["message"].as_str().unwrap();
    assert!(
        message.contains("no CodexBackup of cxs/orders in which every member"),
        "{early}"
    );

    for (pod, store) in [("app-0", "orders"), ("copy-0", "orders-copy")] {
        ns.create(&objects::pod(pod, Some(store)));
        ns.pod_ready(pod);
        assert_eq!(ns.put(pod, "whose", pod), 201);
    }
    take(&ns, "now");
    ns.create(&copy("open", json!({})));
    let open = ended(&ns, "open");
    let message = open["message"].as_str().unwrap();
    assert!(
        message.contains("cxb/now is encrypted and cxs/orders-copy is not"),
        "{open}"
    );
    // Without saying that it is a copy.
    let mut unsaid = copy("unsaid", json!({"backupRef": {"name": "now"}}));
    unsaid["spec"]
        .as_object_mut()
        .unwrap()
        .remove("fromStoreRef");
    ns.create(&unsaid);
    let unsaid = ended(&ns, "unsaid");
    let message = unsaid["message"].as_str().unwrap();
    assert!(
        message.contains("`fromStoreRef: {name: orders}`"),
        "{unsaid}"
    );
    assert_eq!(ns.value("copy-0", "whose"), Some("copy-0".to_owned()));
}
