//! The keyring: lost, wrong, put back. No data is ever given up for a new key.

use std::time::Duration;

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace, wait};
use serde_json::{Value, json};

use crate::held::{Held, added};
use crate::own_keys::{heals, keys_are};
use crate::rotation::{members, needs, nudge, rotation, rotation_is};

const CLAIM: &str = "64Mi";

#[test]
fn a_deleted_keyring_stops_nothing_that_runs_and_is_never_replaced() {
    let Some(ns) = namespace("keyring") else {
        return;
    };
    let spec = json!({"volume": {"claim": {"size": CLAIM}}});
    ns.store("orders", spec.clone());
    ns.create(&objects::stateful_set(
        "web",
        "orders",
        objects::pod_spec(IDLE),
    ));
    ns.pod_ready("web-0");
    assert_eq!(ns.put("web-0", "k", "precious"), 201);
    let keyring = ns.get("secrets/cxs-orders-keyring").unwrap();
    ns.delete("secrets/cxs-orders-keyring");

    // The running member goes on; the store says what is wrong.
    let lost = keys_are(&ns, "False", "SecretMissing");
    assert!(lost.contains("cxs-orders-keyring"), "{lost}");
    assert_eq!(ns.value("web-0", "k").as_deref(), Some("precious"));
    assert_eq!(ns.put("web-0", "k", "still here"), 204);

    // A recreated pod waits for its Secret, and the events say why.
    ns.delete_and_wait("pods/web-0");
    wait::until("the new pod waits in ContainerCreating", wait::LONG, || {
        waits(&ns, "web-0")
    });
    let uid = ns.get("pods/web-0").unwrap()["metadata"]["uid"].clone();
    wait::until("an event on that pod says why", wait::LONG, || {
        let events = ns.list("events");
        let ours = events.iter().filter(|e| {
            let by = e["reportingComponent"].as_str().unwrap_or_default();
            by.contains("codexstore") && e["involvedObject"]["uid"] == uid
        });
        let texts: Vec<_> = ours.filter_map(|e| e["message"].as_str()).collect();
        let told = texts.iter().any(|t| t.contains("cxs-orders-keyring"));
        if told {
            Ok(())
        } else {
            Err(format!("{texts:?}"))
        }
    });
    ns.status("orders", "the member says why it waits", |s| {
        let message = s["members"][0]["message"].as_str().unwrap_or_default();
        s["ready"] == "0/1" && message.contains("cxs-orders-keyring")
    });

    // Nothing makes a new key, not even for a store that was deleted and created again.
    let absent = || match ns.get("secrets/cxs-orders-keyring") {
        Err(e) if e.code == 404 => Ok(()),
        other => Err(format!("{:?}", other.map(|s| s["metadata"].clone()))),
    };
    ns.delete_and_wait("codexstores/orders");
    ns.create(&objects::store("orders", spec));
    let lost = ns.condition_is("orders", "KeysReady", "False");
    assert!(
        lost["message"]
            .as_str()
            .unwrap()
            .contains("cxs-orders-keyring"),
        "{lost}"
    );
    wait::stays("no new keyring", Duration::from_secs(5), absent);

    // Put back, it heals.
    ns.create(&fresh(&keyring));
    ns.condition_is("orders", "KeysReady", "True");
    ns.pod_ready("web-0");
    assert_eq!(ns.value("web-0", "k").as_deref(), Some("still here"));
    ns.status("orders", "its member is ready", |s| s["ready"] == "1/1");
}

/// web-1 is made anew, and its app is not started; web-0 goes on.
#[track_caller]
fn one_waits_and_one_goes_on(ns: &Namespace) {
    ns.delete_and_wait("pods/web-1");
    ns.status("orders", "the new member has a key error", |s| {
        s["members"][1]["state"] == "KeyError"
    });
    assert_eq!(ns.value("web-0", "k").as_deref(), Some("v"));
    assert_eq!(ns.put("web-0", "k", "v"), 204);
    let now = ns.get("codexkeyrotations/now").unwrap()["status"].take();
    assert!(now["completedAt"].is_null(), "it is not given up: {now}");
}

#[test]
fn a_key_deleted_by_hand_in_the_middle_of_a_rotation_and_a_rollback_are_told_and_it_goes_on_when_they_are_undone()
 {
    let Some(ns) = namespace("rotate-hands") else {
        return;
    };
    let secret = "secrets/cxs-orders-keyring";
    ns.store("orders", json!({"volume": {"claim": {"size": CLAIM}}}));
    members(&ns, 2, objects::pod_spec(IDLE));
    for pod in ["web-0", "web-1"] {
        assert_eq!(ns.put(pod, "k", "v"), 201);
    }
    let before = ns.get(secret).unwrap()["data"].take();
    let from = current(&json!({"data": before}));
    let entries = |data: &Value| ns.patch(secret, &json!({"data": data}));
    let told = |reason: &str, words: &str| {
        wait::until(&format!("{reason}, {words}"), wait::LONG, || {
            let condition = ns.condition("orders", "KeysReady")?;
            let message = condition["message"].as_str().unwrap_or_default();
            if condition["reason"] == reason && message.contains(words) {
                Ok(())
            } else {
                Err(condition.to_string())
            }
        });
    };
    let undone = |data: &Value| {
        entries(data);
        keys_are(&ns, "True", "KeyringReady");
        nudge(&ns, secret, "web-1");
        heals(&ns, "web-1");
        assert_eq!(ns.value("web-1", "k").as_deref(), Some("v"));
    };
    // The old key, while it is current still.
    let held = Held::before(&ns, "Promoting");
    ns.create(&rotation("now"));
    let to: &str = &added(&ns, "now");
    entries(&json!({&from: null}));
    one_waits_and_one_goes_on(&ns);
    told("KeyMalformed", "`current` does not name one of its keys");
    let held_later = Held::before(&ns, "Verifying");
    drop(held);
    undone(&before);

    // The Secret as it was before the rotation, when the members need the new key.
    nudge(&ns, secret, "web-0");
    rotation_is(&ns, "now", "the new key is current", |s| {
        s["promotedAt"].is_string()
    });
    for pod in ["web-0", "web-1"] {
        nudge(&ns, secret, pod);
        needs(&ns, pod, &[to]);
    }
    let after = ns.get(secret).unwrap()["data"].take();
    entries(&json!({"current": before["current"], to: null}));
    one_waits_and_one_goes_on(&ns);
    told("KeyMissing", to);
    // The old key, which nothing needs any more but what is not known here.
    entries(&json!({"current": after["current"], to: after[to], &from: null}));
    told("KeyMissing", &from);
    assert_eq!(ns.put("web-0", "k", "v"), 204);
    drop(held_later);
    undone(&after);
    let done = rotation_is(&ns, "now", "it is done", |s| s["completedAt"].is_string());
    assert_eq!(done["phase"], "Completed", "{done}");
    let now = ns.get(secret).unwrap()["data"].take();
    assert_eq!(now, after, "no other key came, and none is lost");
    for pod in ["web-0", "web-1"] {
        needs(&ns, pod, &[to]);
        assert_eq!(ns.value(pod, "k").as_deref(), Some("v"));
    }
}

#[test]
fn a_wrong_key_is_an_encryption_error_that_modifies_nothing() {
    let Some(ns) = namespace("wrong-key") else {
        return;
    };
    ns.create(&objects::claim("work", CLAIM));
    ns.store("orders", json!({"volume": {"podVolume": "work"}}));
    let volumes = json!([{"name": "work", "persistentVolumeClaim": {"claimName": "work"}}]);
    let mut spec = objects::pod_spec(IDLE);
    spec["volumes"] = volumes.clone();
    let member = objects::pod_with("app", Some("orders"), spec);
    ns.create(&member);
    ns.pod_ready("app");
    assert_eq!(ns.put("app", "k", "v"), 201);
    ns.delete_and_wait("pods/app");
    // A pod that is no member looks at the files.
    let mut spec = objects::pod_spec(IDLE);
    spec["securityContext"]["runAsUser"] = json!(65532);
    spec["volumes"] = volumes;
    spec["containers"][0]["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
    ns.create(&objects::pod_with("witness", None, spec));
    ns.pod_ready("witness");
    let before = files(&ns);
    assert!(
        before.contains("image") || before.contains("journal"),
        "{before}"
    );

    let right = ns.get("secrets/cxs-orders-keyring").unwrap();
    let id = current(&right);
    // 32 bytes of zero: a key of the right size, and not this store's.
    let wrong = json!({"data": {&id: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}});
    ns.patch("secrets/cxs-orders-keyring", &wrong);
    ns.create(&member);
    let status = ns.status("orders", "the member reports its key error", |s| {
        s["members"][0]["state"] == "KeyError"
    });
    assert_eq!(status["ready"], "0/1");
    let message = status["members"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains(&id), "the message names the key: {status}");
    assert!(
        ns.log("app", "codexstore").contains("Encryption"),
        "{}",
        ns.log("app", "codexstore")
    );
    assert_eq!(ns.condition("orders", "Ready").unwrap()["status"], "False");
    // Neither key is in what is said about them.
    let said = format!(
        "{status}{}{}",
        ns.get("events").unwrap(),
        ns.log("app", "codexstore")
    );
    for key in [&right, &wrong] {
        let key = key["data"][&id].as_str().unwrap();
        assert!(!said.contains(&key[..24]), "a key is in: {said}");
    }
    wait::stays("no file changes", Duration::from_secs(3), || {
        match files(&ns) {
            now if now == before => Ok(()),
            now => Err(format!("{before}\nbecame\n{now}")),
        }
    });
    assert_eq!(
        ns.sidecar_restarts("app"),
        0,
        "it waits for the right key, and does not crash in a loop"
    );

    // The right key heals it without anybody's help.
    ns.patch(
        "secrets/cxs-orders-keyring",
        &json!({"data": {&id: right["data"][&id]}}),
    );
    ns.pod_ready("app");
    assert_eq!(ns.value("app", "k").as_deref(), Some("v"));
}

#[test]
fn an_unencrypted_store_says_so_and_has_no_keyring() {
    let Some(ns) = namespace("plain") else { return };
    ns.create(&objects::store(
        "orders",
        json!({"encryption": {"none": {}}}),
    ));
    ns.create(&objects::store(
        "other",
        json!({"encryption": {"keySize": 128}}),
    ));
    ns.condition_is("orders", "KeysReady", "True");
    ns.condition_is("other", "KeysReady", "True");
    for (pod, store) in [("plain", "orders"), ("small", "other")] {
        ns.create(&objects::pod(pod, Some(store)));
        ns.pod_ready(pod);
        assert_eq!(ns.put(pod, "k", "v"), 201);
        assert_eq!(ns.value(pod, "k").as_deref(), Some("v"));
    }
    assert_eq!(ns.get("secrets/cxs-orders-keyring").unwrap_err().code, 404);
    assert_eq!(member_state(&ns, "plain").unwrap()["cipher"], "none");
    assert_eq!(member_state(&ns, "small").unwrap()["cipher"], "AES-128-GCM");
}

/// The Secret as somebody would put it back from a copy.
fn fresh(secret: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": secret["type"], "data": secret["data"],
        "metadata": {"name": secret["metadata"]["name"], "labels": secret["metadata"]["labels"]}})
}

/// The id of the current key: the Secret has two entries, `current` and the key.
fn current(secret: &Value) -> String {
    let names: Vec<_> = secret["data"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|k| *k != "current")
        .cloned()
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].clone()
}

fn member_state(ns: &Namespace, pod: &str) -> Result<Value, String> {
    let reply = ns.http(pod, "http://s/v1/status");
    serde_json::from_str(&reply.body).map_err(|e| format!("{e}: {reply:?}"))
}

fn files(ns: &Namespace) -> String {
    // Names, sizes and contents, in an order that does not change; LOCK has none.
    let script = "cd /work && find . -type f ! -name LOCK -exec sha256sum {} + | sort -k 2";
    ns.sh("witness", "app", script).success("listing the files")
}

fn waits(ns: &Namespace, pod: &str) -> Result<(), String> {
    let pod = ns.get(&format!("pods/{pod}")).map_err(|e| e.to_string())?;
    let first = &pod["status"]["initContainerStatuses"][0]["state"]["waiting"]["reason"];
    if first == "ContainerCreating" || first == "PodInitializing" {
        Ok(())
    } else {
        Err(pod["status"].to_string())
    }
}
