//! Rotation of keys: under load, with members that are down or do not answer, by a schedule, and what becomes of old keys.

use std::collections::BTreeSet;

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace, wait};
use serde_json::{Value, json};

use crate::backups::take;

const SECRET: &str = "secrets/cxs-orders-keyring";

/// Writes keys one after the other, behind `$FROM` if that is set, and notes those that were not acknowledged.
pub const WRITER: &str = "sh -c 'n=${FROM:-0}; while [ ! -e /tmp/stop ]; do n=$((n+1)); \
    curl -fsS -m 10 --unix-socket $CODEXSTORE_SOCKET -X PUT -d $n http://s/v1/keys/k-$n || echo $n >>/tmp/failed; \
    echo $n >/tmp/last; done; touch /tmp/ended' >/dev/null 2>&1 &";

pub fn rotation(name: &str) -> Value {
    json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexKeyRotation", "metadata": {"name": name},
        "spec": {"storeRef": {"name": "orders"}}})
}

pub fn spec(rotation: &Value) -> Value {
    json!({"volume": {"claim": {"size": "64Mi", "reclaimPolicy": "Delete"}}, "encryption": {"keys": {"managed": {"rotation": rotation}}},
        "backup": {"destination": {"claim": "backups"}}})
}

#[track_caller]
pub fn rotation_is(
    ns: &Namespace,
    name: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    wait::until(&format!("cxk/{name}: {what}"), 2 * wait::LONG, || {
        let found = ns.get(&format!("codexkeyrotations/{name}"));
        let status = found.map_err(|e| e.to_string())?["status"].take();
        if wanted(&status) {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
}

/// The ids of the keyring's keys, and the current one.
pub fn keyring(ns: &Namespace) -> (Vec<String>, String) {
    let secret = ns.get(SECRET).unwrap();
    let entries = secret["data"].as_object().unwrap();
    let ids = entries
        .keys()
        .filter(|id| *id != "current")
        .cloned()
        .collect();
    let status = ns.get("codexstores/orders").unwrap()["status"].take();
    (ids, status["keyId"].as_str().unwrap_or_default().to_owned())
}

pub fn member(ns: &Namespace, pod: &str) -> Value {
    serde_json::from_str(&ns.http(pod, "http://s/v1/status").body).unwrap()
}

/// Has kubelet look at the pod's volumes now, which it does whenever a pod changes, and not in a minute or two. The operator looks too.
#[track_caller]
pub fn nudge(ns: &Namespace, secret: &str, pod: &str) {
    let version = ns.get(secret).unwrap()["metadata"]["resourceVersion"].take();
    let seen = json!({"metadata": {"annotations": {"example.com/secret-version": version}}});
    ns.patch(&format!("pods/{pod}"), &seen);
}

/// The running member needs these keys and no other.
#[track_caller]
pub fn needs(ns: &Namespace, pod: &str, ids: &[&str]) {
    has_keys(ns, pod, "neededKeyIds", ids);
}

/// The running member has loaded these keys and no other.
#[track_caller]
pub fn has_loaded(ns: &Namespace, pod: &str, ids: &[&str]) {
    has_keys(ns, pod, "loadedKeyIds", ids);
}

#[track_caller]
fn has_keys(ns: &Namespace, pod: &str, which: &str, ids: &[&str]) {
    let what = format!("{which} of {pod} are {ids:?}");
    wait::until(&what, 2 * wait::LONG, || {
        let said = member(ns, pod);
        if said[which] == json!(ids) {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });
}

/// What the store says of a key.
pub fn key(status: &Value, id: &str) -> Value {
    let all = status["encryptionKeys"].as_array().into_iter().flatten();
    let mut found = all.filter(|key| key["id"] == id);
    found.next().cloned().unwrap_or_default()
}

pub fn members(ns: &Namespace, count: usize, spec: Value) {
    let mut set = objects::stateful_set("web", "orders", spec);
    set["spec"]["replicas"] = json!(count);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    ns.create(&set);
    for n in 0..count {
        ns.pod_ready(&format!("web-{n}"));
    }
}

/// Each writer goes on past the rotation, and none of its requests has failed.
#[track_caller]
pub fn none_failed(ns: &Namespace, pods: &[&str]) {
    for pod in pods.iter().copied() {
        let last = || {
            ns.sh(pod, "app", "cat /tmp/last")
                .out
                .trim()
                .parse::<u64>()
                .unwrap_or(0)
        };
        let until = last() + 20;
        wait::until(&format!("{pod} goes on"), wait::LONG, || match last() {
            n if n > until => Ok(()),
            n => Err(n),
        });
        ns.sh(
            pod,
            "app",
            "touch /tmp/stop; while [ ! -e /tmp/ended ]; do sleep 0.1; done",
        )
        .success("stop");
        let failed = ns.sh(pod, "app", "cat /tmp/failed 2>/dev/null").out;
        assert_eq!(failed, "", "writes of {pod} failed");
        let count = usize::try_from(last()).unwrap();
        assert_eq!(ns.keys(pod, "k-").len(), count, "{pod}");
    }
}

/// A member starts again with what it had, and another one is restored from what was backed up behind a rotation.
#[track_caller]
pub fn goes_on(ns: &Namespace) {
    ns.delete_and_wait("pods/web-0");
    ns.pod_ready("web-0");
    assert_eq!(ns.value("web-0", "first"), Some("web-0".to_owned()));
    ns.create(&json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore", "metadata": {"name": "back"},
        "spec": {"storeRef": {"name": "orders"}, "members": [{"pod": "web-1"}]}}));
    wait::until("it is restored", wait::LONG, || {
        let found = ns.get("codexrestores/back").unwrap();
        if found["status"]["phase"] == "Succeeded" {
            Ok(())
        } else {
            Err(found["status"].to_string())
        }
    });
    assert_eq!(ns.value("web-1", "first"), Some("web-1".to_owned()));
}

#[test]
fn three_members_get_a_new_key_under_load_and_the_old_one_goes_when_no_backup_needs_it() {
    let Some(ns) = namespace("rotate") else {
        return;
    };
    let pods = ["web-0", "web-1", "web-2"];
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", spec(&json!({"retire": "Unneeded"})));
    members(&ns, 3, objects::pod_spec(IDLE));
    for pod in pods {
        assert_eq!(ns.put(pod, "first", pod), 201);
        ns.sh(pod, "app", WRITER).success("begin to write");
    }
    take(&ns, "before");
    take(&ns, "stays");
    let stays = json!({"spec": {"deletionPolicy": "Retain"}});
    ns.patch("codexbackups/stays", &stays);
    let (old, from) = keyring(&ns);
    assert_eq!(old, std::slice::from_ref(&from));

    ns.create(&rotation("now"));
    let done = rotation_is(&ns, "now", "it is done", |s| s["completedAt"].is_string());
    assert_eq!(
        (&done["phase"], &done["ready"]),
        (&json!("Completed"), &json!("3/3")),
        "{done}"
    );
    assert_eq!(done["from"], from, "{done}");
    let to = done["to"].as_str().unwrap().to_owned();
    assert_ne!(to, from);
    for pod in pods {
        let said = member(&ns, pod);
        assert_eq!(
            (&said["keyId"], &said["neededKeyIds"]),
            (&json!(to), &json!([to])),
            "{said}"
        );
    }
    let table = ns.cluster.kubectl(&["-n", &ns.name, "get", "cxk"]);
    let table = table.success("kubectl get cxk");
    assert!(
        table.contains(&format!("Completed   Rewrap   {from}   {to}   3/3")),
        "{table}"
    );
    none_failed(&ns, &pods);

    // The backups of before need the old key, and say so; without them the key goes.
    let status = ns.status("orders", "only the backups need the old key", |s| {
        let old = key(s, &from);
        let needed = old["neededBy"].as_array().into_iter().flatten();
        let needed: BTreeSet<_> = needed.filter_map(Value::as_str).collect();
        old["state"] == "Retiring" && needed == BTreeSet::from(["cxb/before", "cxb/stays"])
    });
    assert_eq!(key(&status, &to)["state"], "Active", "{status}");
    let taken = take(&ns, "after");
    assert_eq!(taken["members"][0]["keyId"], to, "{taken}");
    assert_eq!(keyring(&ns).0.len(), 2);
    ns.delete_and_wait("codexbackups/before");
    // Of one whose files stay, until somebody says that they are gone too.
    ns.delete_and_wait("codexbackups/stays");
    ns.status("orders", "the files that stay need it", |s| {
        key(s, &from)["neededBy"] == json!(["backup stays (kept)"])
    });
    assert_eq!(keyring(&ns).0.len(), 2);
    let gone = r#"[{"op": "remove", "path": "/data/stays"}]"#;
    let patch = ["-n", &ns.name, "patch", "cm", "cxs-orders-kept"];
    let patch = [&patch[..], &["--type=json", "-p", gone]].concat();
    ns.cluster.kubectl(&patch).success("kubectl patch cm");
    wait::until("the old key is gone", wait::LONG, || match keyring(&ns).0 {
        ids if ids == [to.clone()] => Ok(()),
        ids => Err(format!("{ids:?}")),
    });
    let status = ns.status("orders", "the old key is told to be retired", |s| {
        key(s, &from)["state"] == "Retired"
    });
    let old = key(&status, &from);
    assert!(old["retiredAt"].is_string(), "{status}");
    assert!(old["neededBy"].is_null(), "{status}");
    assert_eq!(key(&status, &to)["state"], "Active", "{status}");
    let listed = status["encryptionKeys"].as_array().map(Vec::len);
    assert_eq!(listed, Some(2), "{status}");
    assert_eq!(keyring(&ns).0, std::slice::from_ref(&to));
    assert_eq!(
        ns.condition("orders", "KeysReady").unwrap()["status"],
        "True"
    );
    let events: Vec<_> = ns
        .list("events")
        .iter()
        .map(|e| e["reason"].clone())
        .collect();
    for reason in ["KeyAdded", "KeyPromoted", "KeyRotated", "KeyRetired"] {
        assert!(events.contains(&json!(reason)), "{reason}: {events:?}");
    }
    for pod in pods {
        nudge(&ns, SECRET, pod);
        has_loaded(&ns, pod, &[&to]);
    }
    goes_on(&ns);
}

#[test]
fn a_member_that_does_not_answer_is_waited_for_and_one_that_was_down_catches_up() {
    let Some(ns) = namespace("rotate-late") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", spec(&json!({"retire": "Unneeded"})));
    members(&ns, 2, to_freeze());
    for pod in ["web-0", "web-1"] {
        assert_eq!(ns.put(pod, "k", pod), 201);
    }
    scale(&ns, 1);
    let (_, from) = keyring(&ns);

    signal(&ns, "web-0", "STOP");
    ns.create(&rotation("now"));
    let waits = rotation_is(&ns, "now", "it says whom it waits for", |s| {
        let message = s["message"].as_str().unwrap_or_default();
        s["phase"] == "Distributing" && message.contains("web-0")
    });
    assert_eq!(
        (&waits["ready"], keyring(&ns).1),
        (&json!("0/1"), from.clone()),
        "{waits}"
    );
    signal(&ns, "web-0", "CONT");
    let done = rotation_is(&ns, "now", "it is done", |s| s["completedAt"].is_string());
    assert_eq!(done["phase"], "Completed", "{done}");
    let to = done["to"].as_str().unwrap().to_owned();
    let status = ns.status(
        "orders",
        "the claim that is not mounted holds the old key",
        |s| {
            key(s, &from)["neededBy"]
                .to_string()
                .contains("cxs-orders-web-1")
        },
    );
    assert_eq!(status["keyId"], to, "{status}");
    assert_eq!(keyring(&ns).0.len(), 2);

    scale(&ns, 2);
    ns.pod_ready("web-1");
    assert_eq!(ns.value("web-1", "k"), Some("web-1".to_owned()));
    needs(&ns, "web-1", &[&to]);
    wait::until("the old key is gone", 2 * wait::LONG, || {
        match keyring(&ns).0 {
            ids if ids == [to.clone()] => Ok(()),
            ids => Err(format!("{ids:?}")),
        }
    });
    ns.delete_and_wait("pods/web-1");
    ns.pod_ready("web-1");
    assert_eq!(ns.value("web-1", "k"), Some("web-1".to_owned()));
}

#[test]
fn a_schedule_rotates_and_a_wrong_one_is_told() {
    let Some(ns) = namespace("rotate-by-time") else {
        return;
    };
    ns.store(
        "orders",
        json!({"encryption": {"keys": {"managed": {"rotation": {"schedule": "* * * * *", "timeZone": "Europe/Berlin"}}}}}),
    );
    let (_, first) = keyring(&ns);
    let made = wait::until("one is made and done", 3 * wait::LONG, || {
        let all = ns.list("codexkeyrotations");
        let done = all.iter().find(|r| r["status"]["phase"] == "Completed");
        done.cloned().ok_or_else(|| json!(all).to_string())
    });
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("orders-"), "{made}");
    assert_eq!(made["status"]["from"], first, "{made}");
    ns.status("orders", "it has another key", |s| {
        s["keyId"] != json!(first)
    });
    let wrong = json!({"spec": {"encryption": {"keys": {"managed": {"rotation": {"schedule": "monthly"}}}}}});
    ns.patch("codexstores/orders", &wrong);
    let told = ns.condition_is("orders", "Degraded", "True");
    assert_eq!(told["reason"], "RotationInvalid", "{told}");
    assert!(
        told["message"].as_str().unwrap().contains("monthly"),
        "{told}"
    );

    ns.create(&objects::store(
        "plain",
        json!({"encryption": {"none": {}}}),
    ));
    let mut none = rotation("none");
    none["spec"]["storeRef"]["name"] = json!("plain");
    ns.create(&none);
    let none = rotation_is(&ns, "none", "it is refused", |s| s["phase"] == "Failed");
    assert!(
        none["message"].as_str().unwrap().contains("not encrypted"),
        "{none}"
    );
}

/// The spec of a pod whose app idles and may stop the sidecar, on any cluster: one process namespace, and one user.
pub fn to_freeze() -> Value {
    let mut pod = objects::pod_spec(IDLE);
    pod["shareProcessNamespace"] = json!(true);
    pod["securityContext"]["runAsUser"] = json!(65532);
    pod
}

/// So many members: one goes where there are two, and comes back where there is one.
pub fn scale(ns: &Namespace, count: usize) {
    ns.patch("statefulsets/web", &json!({"spec": {"replicas": count}}));
    if count == 1 {
        wait::until("web-1 is gone", wait::LONG, || match ns.get("pods/web-1") {
            Err(gone) if gone.code == 404 => Ok(()),
            other => Err(format!("{:?}", other.map(|p| p["status"]["phase"].clone()))),
        });
    }
}

/// Sends a signal to the sidecar of a pod that shares its process namespace with an app of the same user.
pub fn signal(ns: &Namespace, pod: &str, signal: &str) {
    let script = format!(
        r#"
for p in /proc/[0-9]*; do
  case "$(tr '\0' ' ' <$p/cmdline 2>/dev/null)" in /codexstore-sidecar\ run*) kill -{signal} ${{p#/proc/}} && echo sent;; esac
done"#
    );
    let printed = ns
        .sh(pod, "app", &script)
        .success("a signal to the sidecar");
    assert_eq!(printed.trim(), "sent");
}
