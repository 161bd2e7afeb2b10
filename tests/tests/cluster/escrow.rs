//! Escrow: the keyring, sealed, goes with each backup, whatever becomes of keys, recipients and the cluster.

use std::path::Path;

use codexstore_escrow::{Identity, Recipient, identities, unseal};
use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace, wait};
use serde_json::{Value, json};

use crate::backups::{backup, backup_is, exported, looker, stored, take, unsealed};

fn spec(recipients: &[&str]) -> Value {
    json!({"volume": {"claim": {"size": "64Mi", "reclaimPolicy": "Delete"}},
        "encryption": {"keys": {"managed": {"escrow": {"recipients": recipients}}}},
        "restore": {"onStart": "IfEmpty"},
        "backup": {"destination": {"claim": "backups"}, "deadline": "2m", "retention": {"keepLast": 9}}})
}

fn escrowed(status: &Value) -> (&str, &str) {
    let all = status["conditions"].as_array().unwrap();
    let found = all.iter().find(|c| c["type"] == "KeyEscrowed").unwrap();
    (
        found["status"].as_str().unwrap(),
        found["reason"].as_str().unwrap(),
    )
}

fn set(ns: &Namespace) {
    ns.create(&objects::stateful_set(
        "web",
        "orders",
        objects::pod_spec(IDLE),
    ));
    ns.pod_ready("web-0");
}

#[track_caller]
fn gone(ns: &Namespace, resource: &str) {
    wait::until(&format!("{resource} is gone"), wait::LONG, || {
        match ns.get(resource) {
            Err(gone) if gone.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn backups_before_and_after_a_rotation_open_and_a_new_cluster_goes_on_with_them() {
    let Some(ns) = namespace("escrow") else {
        return;
    };
    let identity = Identity::random().unwrap();
    let recipient = identity.recipient().unwrap().to_string();
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", spec(&[&recipient]));
    set(&ns);
    ns.condition_is("orders", "KeyEscrowed", "True");
    assert_eq!(ns.put("web-0", "k", "before"), 201);
    let kept = |name: &str| {
        let mut object = backup("orders", name);
        object["spec"]["deletionPolicy"] = json!("Retain");
        ns.create(&object);
    };
    kept("before");
    backup_is(&ns, "before", "it is stored", |s| s["phase"] == "Succeeded");
    ns.create(
        &json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexKeyRotation",
        "metadata": {"name": "now"}, "spec": {"storeRef": {"name": "orders"}}}),
    );
    // The moment that the new key is there.
    wait::until("the new key is current", 2 * wait::LONG, || {
        let status = ns.get("codexkeyrotations/now").map_err(|e| e.to_string())?["status"].take();
        let phase = status["phase"].as_str().unwrap_or_default();
        if ["Rewriting", "Completed"].contains(&phase) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert_eq!(ns.put("web-0", "k", "after"), 204);
    kept("after");
    backup_is(&ns, "after", "it is stored", |s| s["phase"] == "Succeeded");

    looker(&ns);
    let dir = tempfile::tempdir().unwrap();
    let mut keyring = String::new();
    for name in ["before", "after"] {
        let object = ns.get(&format!("codexbackups/{name}")).unwrap();
        assert_eq!(escrowed(&object["status"]), ("True", "Stored"), "{object}");
        keyring = unsealed(&ns, &object, &identity, dir.path());
        let needs = object["status"]["members"][0]["keyId"].as_str().unwrap();
        assert!(Path::new(&keyring).join(needs).is_file(), "{needs}");
        let lines = exported(&ns, &object, "web-0", &keyring, dir.path());
        assert!(lines.contains(name), "{lines}");
    }

    // All is gone but what is stored. What docs/BACKUP.md says goes on from there.
    for resource in [
        "statefulsets/web",
        "codexbackups/before",
        "codexbackups/after",
        "codexkeyrotations/now",
        "codexstores/orders",
        "secrets/cxs-orders-keyring",
        "configmaps/cxs-orders-keyring",
        "configmaps/cxs-orders-escrow",
    ] {
        ns.delete(resource);
    }
    for resource in [
        "codexstores/orders",
        "pods/web-0",
        "persistentvolumeclaims/cxs-orders-web-0",
    ] {
        gone(&ns, resource);
    }
    let kubectl = |args: &[&str]| {
        let args = [&["-n", &ns.name], args].concat();
        ns.cluster.kubectl(&args).success("kubectl");
    };
    let from = format!("--from-file={keyring}");
    kubectl(&["create", "secret", "generic", "cxs-orders-keyring", &from]);
    kubectl(&[
        "label",
        "secret",
        "cxs-orders-keyring",
        "codexstore.dev/keyring=orders",
    ]);
    ns.store("orders", spec(&[&recipient]));
    set(&ns);
    assert_eq!(ns.value("web-0", "k").as_deref(), Some("after"));
    assert_eq!(ns.put("web-0", "k", "later"), 204);
}

#[test]
fn recipients_change_and_who_is_none_is_refused_or_told_of() {
    let Some(ns) = namespace("recipients") else {
        return;
    };
    let people = [Identity::random().unwrap(), Identity::random().unwrap()];
    let public = people
        .each_ref()
        .map(|i| i.recipient().unwrap().to_string());
    ns.create(&objects::claim("backups", "1Gi"));
    let secret = people[0].to_text();
    let why = ns.refused(&objects::store("orders", spec(&[&secret])));
    assert!(why.contains("age-keygen"), "{why}");
    assert!(
        !why.contains(&secret[20..50]),
        "the identity is repeated: {why}"
    );

    // Nobody is named, and nothing is wrong.
    ns.store("orders", spec(&[]));
    set(&ns);
    assert_eq!(ns.put("web-0", "k", "v"), 201);
    let status = ns.status("orders", "its member is ready", |s| {
        s["ready"] == "1/1" && s["phase"] == "Ready"
    });
    assert_eq!(escrowed(&status), ("False", "NotAskedFor"));
    let none = take(&ns, "none");
    assert!(none["keyring"].is_null(), "{none}");

    let name = |recipients: &[&str]| {
        let escrow = json!({"escrow": {"recipients": recipients}});
        ns.patch(
            "codexstores/orders",
            &json!({"spec": {"encryption": {"keys": {"managed": escrow}}}}),
        );
    };
    let sealed_to = |recipients: i32| {
        ns.status("orders", "the keyring is sealed", |s| {
            s["escrow"]["recipients"] == recipients && escrowed(s).0 == "True"
        })
    };
    name(&[&public[0], &public[1]]);
    sealed_to(2);
    take(&ns, "both");
    name(&[&public[1]]);
    sealed_to(1);
    take(&ns, "one");
    looker(&ns);
    let opens = |backup: &str, who: &Identity| {
        let object = ns.get(&format!("codexbackups/{backup}")).unwrap();
        let bytes = stored(&ns, &object, &object["status"]["keyring"]["file"]);
        let who = identities(&who.to_text()).unwrap();
        unseal(&bytes, &who).is_ok()
    };
    assert!(opens("both", &people[0]) && opens("both", &people[1]));
    assert!(!opens("one", &people[0]) && opens("one", &people[1]));

    // A slip that the schema cannot see: the store says so, and a backup is kept that says that it has no keyring.
    let mut slip = public[0].clone();
    slip.replace_range(40..41, if &slip[40..41] == "q" { "p" } else { "q" });
    assert!(Recipient::parse(&slip).is_err());
    name(&[&slip]);
    let bad = ns.condition_is("orders", "Degraded", "True");
    assert_eq!(bad["reason"], "EscrowInvalid", "{bad}");
    ns.delete("configmaps/cxs-orders-escrow");
    ns.create(&backup("orders", "without"));
    let without = backup_is(&ns, "without", "it is stored", |s| {
        s["completedAt"].is_string()
    });
    assert_eq!(without["phase"], "Succeeded", "{without}");
    assert_eq!(escrowed(&without), ("False", "NotStored"), "{without}");
    name(&[&public[1]]);
    ns.condition_is("orders", "Degraded", "False");
    sealed_to(1);

    // Deleting a backup deletes its keyring.
    ns.delete_and_wait("codexbackups/one");
    let left = ns.sh("look", "app", "ls /b/*/orders").out;
    assert!(!left.split_whitespace().any(|dir| dir == "one"), "{left}");
}
