//! Keys, or a passphrase, in a Secret of the user's: followed, and never written.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace, wait};
use serde_json::{Value, json};

use crate::backups::take;
use crate::reencrypt::{is_anew, reencrypted, states, uid};
use crate::restores::{has_event_within, restore_is};
use crate::rotation::{
    self, WRITER, goes_on, has_loaded, key, member, members, needs, none_failed, rotation,
    rotation_is,
};

const SECRET: &str = "secrets/mine";

pub fn spec(secret: &str) -> Value {
    json!({"volume": {"claim": {"size": "64Mi", "reclaimPolicy": "Delete"}}, "encryption": {"keys": {"secretRef": {"name": secret}}},
        "backup": {"destination": {"claim": "backups"}}})
}

/// A key by its id: 32 bytes that are text, so that they can be looked for.
fn bytes(id: &str) -> String {
    format!("canary-{id}-canary-canary-canary-{id}")
        .chars()
        .take(32)
        .collect()
}

/// A Secret as its user writes it.
fn secret(name: &str, current: &str, ids: &[&str]) -> Value {
    let mut entries: serde_json::Map<String, Value> = ids
        .iter()
        .map(|id| ((*id).to_owned(), json!(bytes(id))))
        .collect();
    entries.insert("current".to_owned(), json!(current));
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": entries})
}

/// Writes the whole Secret.
#[track_caller]
pub fn write(ns: &Namespace, current: &str, ids: &[&str]) {
    replace(ns, &secret("mine", current, ids));
}

#[track_caller]
fn replace(ns: &Namespace, secret: &Value) {
    let written = ns.cluster.send("PUT", &ns.path(SECRET), Some(secret));
    match written {
        Ok(_) => {}
        Err(gone) if gone.code == 404 => drop(ns.create(secret)),
        Err(why) => panic!("{SECRET}: {why}"),
    }
}

/// Long enough for the operator to read a Secret that it has kept in mind.
#[track_caller]
pub fn has_event(ns: &Namespace, reason: &str) {
    has_event_within(ns, reason, 2 * wait::LONG);
}

/// As long.
#[track_caller]
pub fn keys_are(ns: &Namespace, status: &str, reason: &str) -> String {
    wait::until(
        &format!("KeysReady is {status}, {reason}"),
        2 * wait::LONG,
        || {
            let condition = ns.condition("orders", "KeysReady")?;
            if condition["status"] == status && condition["reason"] == reason {
                Ok(condition["message"].as_str().unwrap_or_default().to_owned())
            } else {
                Err(condition.to_string())
            }
        },
    )
}

/// Long enough for kubelet to bring a changed Secret into a pod, and for the operator to try a restore on start again.
#[track_caller]
pub fn heals(ns: &Namespace, pod: &str) {
    wait::until(&format!("{pod} heals"), 2 * wait::LONG, || {
        let found = ns.get(&format!("pods/{pod}")).map_err(|e| e.to_string())?;
        let all = found["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten();
        let mut ready = all.filter(|c| c["type"] == "Ready" && c["status"] == "True");
        match ready.next() {
            Some(_) => Ok(()),
            None => Err(found["status"].to_string()),
        }
    });
}

/// Nobody but the test has written it.
#[track_caller]
pub fn untouched(ns: &Namespace, path: &str) {
    let meta = ns.get(path).unwrap()["metadata"].take();
    for field in ["labels", "annotations", "ownerReferences", "finalizers"] {
        assert!(meta[field].is_null(), "{meta}");
    }
    let managers = meta["managedFields"].as_array().into_iter().flatten();
    let managers: Vec<_> = managers.map(|m| m["manager"].to_string()).collect();
    let ours = managers.iter().any(|m| m.contains("codexstore-operator"));
    assert!(!ours, "{managers:?}");
}

#[test]
fn three_members_follow_a_secret_under_load_and_its_old_key_can_go() {
    let Some(ns) = namespace("own-keys") else {
        return;
    };
    let pods = ["web-0", "web-1", "web-2"];
    ns.create(&objects::claim("backups", "1Gi"));
    ns.create(&objects::store("orders", spec("mine")));
    let asked = keys_are(&ns, "False", "SecretMissing");
    assert!(asked.contains("codexctl key new --secret mine"), "{asked}");
    let early = ns.refused(&objects::pod("early", Some("orders")));
    assert!(
        early.contains("has no keyring") && early.contains("Secret mine"),
        "{early}"
    );
    write(&ns, "k1", &["k1"]);
    keys_are(&ns, "True", "KeyringReady");
    assert_eq!(ns.get("secrets/cxs-orders-keyring").unwrap_err().code, 404);
    members(&ns, 3, objects::pod_spec(IDLE));
    for pod in pods {
        assert_eq!(ns.put(pod, "first", pod), 201);
        ns.sh(pod, "app", WRITER).success("begin to write");
    }
    let taken = take(&ns, "before");
    assert_eq!(taken["members"][0]["keyId"], "k1", "{taken}");

    write(&ns, "k2", &["k1", "k2"]);
    has_event(&ns, "KeyPromoted");
    for pod in pods {
        needs(&ns, pod, &["k2"]);
        assert_eq!(member(&ns, pod)["keyId"], "k2");
    }
    has_event(&ns, "KeyRotated");
    none_failed(&ns, &pods);
    let status = ns.status("orders", "only the backup needs the old key", |s| {
        key(s, "k1")["neededBy"] == json!(["cxb/before"])
    });
    assert_eq!(key(&status, "k1")["state"], "Retiring", "{status}");
    assert_eq!(key(&status, "k2")["state"], "Active", "{status}");
    let table = ns.cluster.kubectl(&["-n", &ns.name, "get", "cxs"]);
    let table = table.success("kubectl get cxs");
    assert!(table.contains("   k2   "), "{table}");

    // Too early: it is missed, and members do not mind.
    write(&ns, "k2", &["k2"]);
    let missed = keys_are(&ns, "False", "KeyMissing");
    assert!(missed.contains("k1 (cxb/before)"), "{missed}");
    write(&ns, "k2", &["k1", "k2"]);
    keys_are(&ns, "True", "KeyringReady");
    let taken = take(&ns, "after");
    assert_eq!(taken["members"][0]["keyId"], "k2", "{taken}");
    ns.delete_and_wait("codexbackups/before");
    ns.status("orders", "nothing needs the old key", |s| {
        key(s, "k1")["state"] == "Retiring" && key(s, "k1")["neededBy"].is_null()
    });
    write(&ns, "k2", &["k2"]);
    has_event(&ns, "KeyRetired");
    let status = ns.status("orders", "the old key is told to be retired", |s| {
        key(s, "k1")["state"] == "Retired"
    });
    assert!(key(&status, "k1")["retiredAt"].is_string(), "{status}");
    assert!(key(&status, "k1")["neededBy"].is_null(), "{status}");
    assert_eq!(key(&status, "k2")["state"], "Active", "{status}");
    let listed = status["encryptionKeys"].as_array().map(Vec::len);
    assert_eq!(listed, Some(2), "{status}");
    keys_are(&ns, "True", "KeyringReady");
    for pod in pods {
        has_loaded(&ns, pod, &["k2"]);
    }
    goes_on(&ns);

    ns.create(&rotation("no"));
    let no = rotation_is(&ns, "no", "it is refused", |s| s["phase"] == "Failed");
    let why = no["message"].as_str().unwrap();
    assert!(
        why.contains("Secret mine") && why.contains("make that current"),
        "{no}"
    );
    untouched(&ns, SECRET);
    // No key is in what is said of the store.
    let store = ns.get("codexstores/orders").unwrap();
    let record = ns.get("configmaps/cxs-orders-keyring").unwrap();
    let said = format!(
        "{store}{record}{}{}",
        ns.get("events").unwrap(),
        ns.log("web-0", "codexstore")
    );
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn after_a_compromise_three_members_encrypt_everything_anew_under_load_once_there_is_a_new_key() {
    let Some(ns) = namespace("own-keys-seen") else {
        return;
    };
    let pods = ["web-0", "web-1", "web-2"];
    ns.create(&objects::claim("backups", "1Gi"));
    write(&ns, "k1", &["k0", "k1"]);
    ns.store("orders", spec("mine"));
    members(&ns, 3, objects::pod_spec(IDLE));
    for pod in pods {
        assert_eq!(ns.put(pod, "first", pod), 201);
        ns.sh(pod, "app", WRITER).success("begin to write");
    }
    take(&ns, "before");
    let mut seen = rotation("seen");
    seen["spec"]["reason"] = json!("Compromise");
    ns.create(&seen);
    let adding = |s: &Value| s["phase"] == "Adding";
    let waits = rotation_is(&ns, "seen", "it waits for a key", adding);
    let message = waits["message"].as_str().unwrap();
    assert!(
        message.contains("new key into Secret mine") && message.contains("k0, k1"),
        "{waits}"
    );
    let exposed = &waits["exposedBackups"];
    assert_eq!(exposed["names"], json!(["before"]), "{waits}");
    has_event(&ns, "WaitingForKey");
    // One that was there before is none.
    write(&ns, "k0", &["k0", "k1"]);
    ns.status("orders", "another key is current", |s| s["keyId"] == "k0");
    let waits = rotation_is(&ns, "seen", "it waits all the same", adding);
    assert!(waits["to"].is_null(), "{waits}");

    write(&ns, "k2", &["k0", "k1", "k2"]);
    for pod in pods {
        nudge_pod(&ns, pod);
    }
    let ended = |s: &Value| s["completedAt"].is_string();
    let done = rotation_is(&ns, "seen", "it is done", ended);
    assert_eq!(
        (&done["phase"], &done["to"], &done["ready"]),
        (&json!("Completed"), &json!("k2"), &json!("3/3")),
        "{done}"
    );
    assert_eq!(states(&done), ["web-0=Done", "web-1=Done", "web-2=Done"]);
    assert_eq!(reencrypted(&done), Some("True"), "{done}");
    for pod in pods {
        is_anew(&ns, pod, &json!("k2"), &uid(&ns, "seen"));
    }
    none_failed(&ns, &pods);
    for reason in ["Reencrypted", "BackupsExposed"] {
        has_event(&ns, reason);
    }
    let taken = take(&ns, "after");
    assert_eq!(taken["members"][0]["keyId"], "k2", "{taken}");
    ns.delete_and_wait("codexbackups/before");
    let none = |s: &Value| s["exposedBackups"]["count"] == 0;
    rotation_is(&ns, "seen", "nothing is exposed", none);
    goes_on(&ns);
    // Without a new key they get fresh data keys, and nothing is said to be safe.
    let mut anew = rotation("anew");
    anew["spec"]["mode"] = json!("Reencrypt");
    ns.create(&anew);
    let done = rotation_is(&ns, "anew", "it is done", ended);
    let keys = (&done["phase"], &done["from"], &done["to"]);
    assert_eq!(
        keys,
        (&json!("Completed"), &json!("k2"), &json!("k2")),
        "{done}"
    );
    is_anew(&ns, "web-2", &json!("k2"), &uid(&ns, "anew"));
    untouched(&ns, SECRET);
}

/// A store with one member, and with two keys of which the second is current.
fn two_keys(name: &str) -> Option<Namespace> {
    let ns = namespace(name)?;
    ns.create(&objects::claim("backups", "1Gi"));
    write(&ns, "k1", &["k1"]);
    ns.store("orders", spec("mine"));
    members(&ns, 1, objects::pod_spec(IDLE));
    assert_eq!(ns.put("web-0", "k", "v"), 201);
    write(&ns, "k2", &["k1", "k2"]);
    nudge(&ns);
    needs(&ns, "web-0", &["k2"]);
    Some(ns)
}

#[track_caller]
fn nudge(ns: &Namespace) {
    nudge_pod(ns, "web-0");
}

#[track_caller]
pub fn nudge_pod(ns: &Namespace, pod: &str) {
    rotation::nudge(ns, SECRET, pod);
}

/// A member that runs goes on with what it has loaded, one that is made waits, and both heal.
#[track_caller]
fn spoil(ns: &Namespace, content: &Value, reason: &str, words: &str) {
    replace(ns, content);
    nudge(ns);
    let told = keys_are(ns, "False", reason);
    assert!(told.contains(words), "{told}");
    let degraded = ns.condition_is("orders", "Degraded", "True");
    assert_eq!(degraded["reason"], *reason, "{degraded}");
    wait::until("it says that it did not load it", 2 * wait::LONG, || {
        let said = member(ns, "web-0");
        let message = said["message"].as_str().unwrap_or_default();
        if message.contains("the old one stays") {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });
    assert_eq!(ns.value("web-0", "k"), Some("v".to_owned()));
    assert_eq!(ns.put("web-0", "k", "still here"), 204);
    ns.status("orders", "its member is ready", |s| s["ready"] == "1/1");
    a_new_pod_waits(ns);
    write(ns, "k2", &["k1", "k2"]);
    nudge(ns);
    keys_are(ns, "True", "KeyringReady");
    heals(ns, "web-0");
    assert_eq!(ns.value("web-0", "k"), Some("still here".to_owned()));
    let status = ns.status("orders", "all is well", |s| s["ready"] == "1/1");
    assert_eq!(status["keyId"], "k2", "{status}");
    assert_eq!(key(&status, "k2")["state"], "Active", "{status}");
    untouched(ns, SECRET);
}

#[test]
fn a_half_written_secret_is_told_while_members_go_on_and_pods_wait_for_a_good_one() {
    let Some(ns) = two_keys("own-keys-half") else {
        return;
    };
    let half = secret("mine", "k3", &["k1", "k2"]);
    spoil(&ns, &half, "KeyMalformed", "does not name one of its keys");
}

#[test]
fn a_secret_that_is_rolled_back_behind_a_key_in_use_is_told_while_members_go_on() {
    let Some(ns) = two_keys("own-keys-back") else {
        return;
    };
    let older = secret("mine", "k1", &["k1"]);
    spoil(&ns, &older, "KeyMissing", "k2 (pod web-0");
    // An older key that is current again, with the newer one beside it, is a rotation as any other.
    write(&ns, "k1", &["k1", "k2"]);
    nudge(&ns);
    needs(&ns, "web-0", &["k1"]);
    assert_eq!(ns.value("web-0", "k"), Some("still here".to_owned()));
}

#[test]
fn a_secret_that_is_emptied_or_deleted_is_told_and_may_be_written_again() {
    let Some(ns) = two_keys("own-keys-gone") else {
        return;
    };
    let mut emptied = secret("mine", "k2", &[]);
    emptied["stringData"] = json!({});
    replace(&ns, &emptied);
    let told = keys_are(&ns, "False", "KeyMalformed");
    assert!(told.contains("`current` is missing"), "{told}");
    assert_eq!(ns.put("web-0", "k", "still here"), 204);
    a_new_pod_waits(&ns);
    ns.delete(SECRET);
    let told = keys_are(&ns, "False", "SecretMissing");
    assert!(
        told.contains("Secret mine is gone") && told.contains("k1, k2"),
        "{told}"
    );
    write(&ns, "k2", &["k1", "k2"]);
    nudge(&ns);
    keys_are(&ns, "True", "KeyringReady");
    heals(&ns, "web-0");
    assert_eq!(ns.value("web-0", "k"), Some("still here".to_owned()));
    untouched(&ns, SECRET);
}

/// Whose app is not started while the keyring is not good, and who says why.
#[track_caller]
fn a_new_pod_waits(ns: &Namespace) {
    ns.delete_and_wait("pods/web-0");
    let status = ns.status("orders", "the new member has a key error", |s| {
        s["members"][0]["state"] == "KeyError"
    });
    assert_eq!(status["ready"], "0/1");
    let pod = ns.get("pods/web-0").unwrap();
    assert_eq!(pod["status"]["phase"], "Pending", "the app waits");
    assert_eq!(ns.sidecar_restarts("web-0"), 0);
}

#[test]
fn another_secret_is_for_pods_that_are_made_anew_and_the_source_cannot_change() {
    let Some(ns) = namespace("own-keys-name") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    write(&ns, "k1", &["k1"]);
    ns.store("orders", spec("mine"));
    members(&ns, 1, objects::pod_spec(IDLE));
    assert_eq!(ns.put("web-0", "k", "v"), 201);
    ns.create(&secret("mine-2", "k2", &["k1", "k2"]));
    let named = json!({"spec": {"encryption": {"keys": {"secretRef": {"name": "mine-2"}}}}});
    ns.patch("codexstores/orders", &named);
    let status = ns.status("orders", "its member is outdated", |s| {
        s["outdatedMembers"] == 1
    });
    assert_eq!(status["keyring"]["secretName"], "mine-2", "{status}");
    assert_eq!(
        (&status["ready"], &status["keyId"]),
        (&json!("1/1"), &json!("k2")),
        "{status}"
    );
    assert_eq!(
        member(&ns, "web-0")["neededKeyIds"],
        json!(["k1"]),
        "it has the Secret of before"
    );
    ns.delete_and_wait("pods/web-0");
    ns.pod_ready("web-0");
    needs(&ns, "web-0", &["k2"]);
    assert_eq!(ns.value("web-0", "k"), Some("v".to_owned()));

    let path = ns.path("codexstores/orders");
    let managed = json!({"spec": {"encryption": {"keys": {"secretRef": null, "managed": {}}}}});
    let refused = ns.cluster.patch(&path, &managed).unwrap_err();
    assert!(
        refused.message.contains("between `managed`, `secretRef`"),
        "{refused}"
    );
    let both = json!({"spec": {"encryption": {"keys": {"managed": {}}}}});
    let refused = ns.cluster.patch(&path, &both).unwrap_err();
    assert!(
        refused.message.contains("more than one source"),
        "{refused}"
    );
    let ours = json!({"encryption": {"keys": {"secretRef": {"name": "cxs-orders-ca"}}}});
    let refused = ns.dry_run(&objects::store("other", ours)).unwrap_err();
    assert!(
        refused.message.contains("Secret of another name"),
        "{refused}"
    );
    // Its Secret is the sidecar's alone.
    let mut curious = objects::pod_spec(IDLE);
    curious["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "mine-2"}}]);
    let refused = ns.refused(&objects::pod_with("web-1", Some("orders"), curious));
    assert!(refused.contains("Secret mine-2"), "{refused}");
    untouched(&ns, "secrets/mine-2");
}

#[test]
fn a_passphrase_opens_members_and_backups_and_another_one_does_not() {
    let Some(ns) = namespace("own-words") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    let words = |text: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "stringData": {"words": text, "user": "me"}});
    replace(&ns, &words("too short"));
    let mut spec = spec("mine");
    spec["encryption"]["keys"] = json!({"passphraseRef": {"name": "mine", "key": "words"}});
    ns.create(&objects::store("orders", spec));
    let told = keys_are(&ns, "False", "KeyMalformed");
    assert!(told.contains("12 to 1024 bytes"), "{told}");
    replace(&ns, &words("canary horse battery"));
    keys_are(&ns, "True", "KeyringReady");
    members(&ns, 2, objects::pod_spec(IDLE));
    for pod in ["web-0", "web-1"] {
        assert_eq!(ns.put(pod, "k", pod), 201);
        let id = member(&ns, pod)["keyId"].clone();
        assert!(id.as_str().unwrap().starts_with("passphrase-"), "{id}");
    }
    take(&ns, "now");
    ns.delete_and_wait("pods/web-0");
    ns.pod_ready("web-0");
    assert_eq!(ns.value("web-0", "k"), Some("web-0".to_owned()));
    assert_eq!(ns.put("web-0", "k", "later"), 204);
    ns.create(&json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore", "metadata": {"name": "back"},
        "spec": {"storeRef": {"name": "orders"}, "members": [{"pod": "web-0"}]}}));
    restore_is(&ns, "back", "it is restored", |s| s["phase"] == "Succeeded");
    wait::until("it is restored", wait::LONG, || {
        match ns.value("web-0", "k") {
            Some(value) if value == "web-0" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    ns.create(&rotation("no"));
    let mut anew = rotation("anew");
    anew["spec"]["mode"] = json!("Reencrypt");
    ns.create(&anew);
    for name in ["no", "anew"] {
        let no = rotation_is(&ns, name, "it is refused", |s| s["phase"] == "Failed");
        assert!(
            no["message"].as_str().unwrap().contains("passphrase"),
            "{no}"
        );
    }

    // Another one: members that run go on, and say that it will not open them.
    replace(&ns, &words("canary horse stable"));
    wait::until("a member says so", 2 * wait::LONG, || {
        let said = member(&ns, "web-1");
        let message = said["message"].as_str().unwrap_or_default();
        if message.contains("will not open it") {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });
    assert_eq!(ns.put("web-1", "k", "goes on"), 204);
    ns.delete_and_wait("pods/web-1");
    ns.status("orders", "the new member has a key error", |s| {
        s["members"][1]["state"] == "KeyError"
    });
    replace(&ns, &words("canary horse battery"));
    heals(&ns, "web-1");
    assert_eq!(ns.value("web-1", "k"), Some("goes on".to_owned()));
    untouched(&ns, SECRET);
    let store = ns.get("codexstores/orders").unwrap();
    let said = format!(
        "{store}{}{}",
        ns.get("events").unwrap(),
        ns.log("web-1", "codexstore")
    );
    assert!(!said.contains("canary"), "{said}");
}
