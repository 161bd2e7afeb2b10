//! Restores: of members whose volumes are gone, on their start, and of members that run, when somebody asks.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace, wait};
use serde_json::{Value, json};

use crate::backups::{backup, backup_is, take};
use crate::held::{Held, added};
use crate::own_keys::heals;
use crate::reencrypt::restored;
use crate::rotation::{self, members, needs, nudge, rotation_is};
use crate::s3;

const KEYRING: &str = "secrets/cxs-orders-keyring";

/// Writes keys one after the other, each a revision of its own, for as long as the pod lives.
pub const WRITER: &str = "sh -c 'n=0; while :; do n=$((n+1)); \
    curl -fsS -m 5 --unix-socket $CODEXSTORE_SOCKET -X PUT -d $n http://s/v1/keys/$(printf k-%06d $n) || n=$((n-1)); \
    done' >/dev/null 2>&1 &";

pub fn orders(on_start: &str) -> Value {
    json!({"volume": {"claim": {"size": "64Mi", "reclaimPolicy": "Delete"}}, "restore": {"onStart": on_start},
        "backup": {"destination": {"claim": "backups"}}})
}

pub fn restore(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["storeRef"] = json!({"name": "orders"});
    json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore", "metadata": {"name": name}, "spec": spec})
}

#[track_caller]
pub fn restore_is(
    ns: &Namespace,
    name: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    wait::until(&format!("cxr/{name}: {what}"), wait::LONG, || {
        let found = ns.get(&format!("codexrestores/{name}"));
        let status = found.map_err(|e| e.to_string())?["status"].take();
        if wanted(&status) {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
}

/// The restore of a member on its start.
#[track_caller]
pub fn of_member(ns: &Namespace, pod: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait::until(&format!("the restore of {pod}"), 2 * wait::LONG, || {
        let all = ns.list("codexrestores");
        let mut own = all
            .iter()
            .filter(|r| r["spec"]["onStart"] == true && r["spec"]["members"][0]["pod"] == pod);
        let found = own.find(|r| wanted(&r["status"]));
        found.cloned().ok_or_else(|| json!(all).to_string())
    })
}

/// Somebody else uses the destination, and goes on to.
pub fn hold_destination(ns: &Namespace) {
    ns.create(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "cxs-orders-backup"},
        "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3600, "renewTime": "2999-01-01T00:00:00.000000Z"}}));
}

#[track_caller]
pub fn has_event(ns: &Namespace, reason: &str) {
    has_event_within(ns, reason, wait::SHORT);
}

#[track_caller]
pub fn has_event_within(ns: &Namespace, reason: &str, limit: std::time::Duration) {
    wait::until(&format!("the event {reason}"), limit, || {
        let all = ns.list("events");
        let reasons: Vec<_> = all.iter().map(|e| e["reason"].clone()).collect();
        if reasons.contains(&json!(reason)) {
            Ok(())
        } else {
            Err(json!(reasons).to_string())
        }
    });
}

fn gone(ns: &Namespace, what: &str) {
    wait::until(&format!("{what} is gone"), wait::LONG, || {
        match ns.get(what) {
            Err(gone) if gone.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn three_members_have_what_each_backup_claims_after_pods_and_volumes_are_gone() {
    let Some(ns) = namespace("lost") else {
        return;
    };
    let pods = ["web-0", "web-1", "web-2"];
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", orders("IfEmpty"));
    let mut set = objects::stateful_set("web", "orders", objects::pod_spec(IDLE));
    set["spec"]["replicas"] = json!(3);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    ns.create(&set);
    // The destination was read and holds nothing: they begin empty.
    for pod in pods {
        ns.pod_ready(pod);
        let none = of_member(&ns, pod, |s| s["phase"] == "Succeeded");
        let message = none["status"]["message"].as_str().unwrap();
        assert!(message.contains("begins empty"), "{none}");
        ns.sh(pod, "app", WRITER).success("begin to write");
    }
    has_event(&ns, "NothingToRestore");
    for pod in pods {
        wait::until(&format!("{pod} writes"), wait::SHORT, || {
            let count = ns.keys(pod, "k-").len();
            if count > 20 { Ok(()) } else { Err(count) }
        });
    }
    // While they write.
    let taken = take(&ns, "under-load");
    assert_eq!(taken["ready"], "3/3", "{taken}");
    ns.delete_and_wait("statefulsets/web");
    for pod in pods {
        gone(&ns, &format!("pods/{pod}"));
        ns.delete_and_wait(&format!("persistentvolumeclaims/cxs-orders-{pod}"));
    }

    ns.create(&set);
    for pod in pods {
        ns.pod_ready(pod);
        let done = of_member(&ns, pod, |s| s["backup"] == "under-load");
        assert_eq!(done["status"]["phase"], "Succeeded", "{done}");
        let members = taken["members"].as_array().unwrap();
        let claimed = members.iter().find(|m| m["pod"] == pod).unwrap();
        // Each key was one revision: those up to the backup's are there, and no other.
        let keys = ns.keys(pod, "");
        let count = claimed["keys"].as_i64().unwrap();
        assert_eq!(claimed["revision"], count, "{claimed}");
        let wanted: Vec<_> = (1..=count).map(|n| format!("k-{n:06}")).collect();
        assert_eq!(keys, wanted, "{pod}");
        assert_eq!(
            ns.value(pod, &format!("k-{count:06}")),
            Some(count.to_string())
        );
    }
    has_event(&ns, "RestoreSucceeded");
    let table = ns
        .cluster
        .kubectl(&["-n", &ns.name, "get", "cxr"])
        .success("kubectl get cxr");
    assert!(table.contains("under-load   Succeeded   1/1"), "{table}");
    // A pod that comes back to its volume is not restored.
    assert_eq!(ns.put("web-0", "later", "stays"), 201);
    ns.delete_and_wait("pods/web-0");
    ns.pod_ready("web-0");
    assert_eq!(ns.value("web-0", "later"), Some("stays".to_owned()));
}

#[test]
fn a_destination_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let Some(ns) = namespace("unread") else {
        return;
    };
    s3::server(&ns);
    let bucket = |name: &str| s3::destination(&ns, name, false);
    let mut spec = orders("IfEmpty");
    spec["backup"] = bucket("nowhere")["spec"]["backup"].take();
    ns.store("orders", spec);
    let set = objects::stateful_set("web", "orders", objects::pod_spec(IDLE));
    ns.create(&set);
    let degraded = |words: &str| {
        let what = format!("it says {words}");
        ns.status("orders", &what, |s| {
            let all = s["conditions"].as_array().into_iter().flatten();
            let mut degraded = all.filter(|c| c["type"] == "Degraded" && c["status"] == "True");
            degraded.any(|c| {
                c["reason"] == "RestoreFailed" && c["message"].as_str().unwrap().contains(words)
            })
        })
    };
    let status = degraded("NoSuchBucket");
    assert_eq!(status["members"][0]["state"], "AwaitingRestore", "{status}");
    has_event(&ns, "RestoreFailed");
    let app = ns.get("pods/web-0").unwrap();
    assert_eq!(
        app["status"]["containerStatuses"][0]["started"], false,
        "the app waits"
    );
    // It is tried again by itself once that is put right.
    ns.patch("codexstores/orders", &bucket("backups"));
    heals(&ns, "web-0");
    assert_eq!(ns.put("web-0", "k", "v"), 201);
    take(&ns, "first");

    assert_eq!(ns.put("web-0", "k2", "v"), 201);
    take(&ns, "second");

    // Who can write to the destination put the first backup, with its manifest, in the place of the second: that is neither
    // restored nor taken for none.
    let files = |command: &str| {
        let command = format!("cd /data/backups/team/a/*/orders && {command}");
        ns.sh("s3", "app", &command).success(&command)
    };
    files("mv second /data/moved && mv first second");
    ns.delete("statefulsets/web");
    gone(&ns, "pods/web-0");
    ns.delete_and_wait("persistentvolumeclaims/cxs-orders-web-0");
    ns.create(&set);
    degraded("says that it holds web-0");
    files("mv second first && mv /data/moved second");
    heals(&ns, "web-0");
    assert_eq!(ns.keys("web-0", ""), ["k", "k2"]);
}

#[test]
fn a_member_that_runs_gets_another_past_and_what_it_had_is_set_aside() {
    let Some(ns) = namespace("back") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", orders("Never"));
    for pod in ["app-0", "app-1"] {
        ns.create(&objects::pod(pod, Some("orders")));
        ns.pod_ready(pod);
        assert_eq!(ns.put(pod, "whose", pod), 201);
    }
    take(&ns, "first");
    for pod in ["app-0", "app-1"] {
        assert_eq!(ns.put(pod, "later", pod), 201);
    }
    take(&ns, "second");
    let refused = ns.try_create(&restore(
        "x",
        json!({"members": [{"pod": "app-0"}, {"pod": "app-0"}]}),
    ));
    assert!(refused.is_err(), "one member twice");

    // Somebody else uses the destination: it waits, and another one does not line up behind it.
    ns.delete("leases/cxs-orders-backup");
    hold_destination(&ns);
    let one =
        json!({"backupRef": {"name": "first"}, "members": [{"pod": "app-0"}, {"pod": "gone-0"}]});
    ns.create(&restore("one", one));
    restore_is(&ns, "one", "it waits", |s| s["phase"] == "Running");
    ns.create(&restore("two", json!({})));
    let two = restore_is(&ns, "two", "it is refused", |s| s["phase"] == "Failed");
    let message = two["message"].as_str().unwrap();
    assert!(message.contains("cxr/one is not done"), "{two}");
    assert_eq!(ns.value("app-0", "later"), Some("app-0".to_owned()));
    ns.delete("leases/cxs-orders-backup");
    let one = restore_is(&ns, "one", "it has ended", |s| s["completedAt"].is_string());
    assert_eq!(
        (&one["phase"], &one["ready"], &one["backup"]),
        (&json!("PartiallyFailed"), &json!("1/2"), &json!("first")),
        "{one}"
    );
    let aside = one["members"][0]["setAside"].as_str().unwrap();
    assert!(aside.starts_with("data.before-"), "{one}");
    // Without the pod being made anew; and the other member has what it had.
    assert_eq!(ns.sidecar_restarts("app-0"), 0);
    assert_eq!(ns.value("app-0", "later"), None);
    assert_eq!(ns.value("app-0", "whose"), Some("app-0".to_owned()));
    assert_eq!(ns.value("app-1", "later"), Some("app-1".to_owned()));
    assert_eq!(ns.put("app-0", "after", "it goes on"), 201);

    // The latest, and of another member.
    let from = json!({"members": [{"pod": "app-0", "from": "app-1"}]});
    ns.create(&restore("three", from));
    let three = restore_is(&ns, "three", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    assert_eq!(three["backup"], "second", "{three}");
    assert_eq!(ns.value("app-0", "whose"), Some("app-1".to_owned()));
    ns.create(&restore("none", json!({"backupRef": {"name": "nothing"}})));
    let none = restore_is(&ns, "none", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    let message = none["message"].as_str().unwrap();
    assert!(message.contains("no backup nothing"), "{none}");
    // By its first try: no other one would find it.
    assert!(!message.contains("job/"), "{none}");

    // What does not verify is neither opened nor deleted, until somebody says what takes its place.
    ns.delete_and_wait("pods/app-1");
    let mut spec = objects::pod_spec(
        "cd /d/data && for f in image-* journal-*; do printf XXXX | dd of=$f bs=1 seek=12300 conv=notrunc; done; ls -d /d/data*",
    );
    spec["securityContext"]["runAsUser"] = json!(65532);
    spec["restartPolicy"] = json!("Never");
    spec["volumes"] =
        json!([{"name": "d", "persistentVolumeClaim": {"claimName": "cxs-orders-app-1"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
    ns.create(&objects::pod_with("break", None, spec));
    ns.pod_succeeded("break");
    ns.create(&objects::pod("app-1", Some("orders")));
    ns.status("orders", "it is corrupt", |s| {
        let all = s["members"].as_array().into_iter().flatten();
        all.into_iter().any(|m| m["state"] == "IntegrityError")
    });
    ns.create(&restore("heal", json!({"members": [{"pod": "app-1"}]})));
    let heal = restore_is(&ns, "heal", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    assert_eq!(heal["phase"], "Succeeded", "{heal}");
    assert!(heal["members"][0]["setAside"].is_string(), "{heal}");
    ns.pod_ready("app-1");
    assert_eq!(ns.value("app-1", "later"), Some("app-1".to_owned()));
}

#[test]
fn a_member_without_a_claim_gets_what_another_one_had_where_a_restore_names_it() {
    let Some(ns) = namespace("unclaimed") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store(
        "orders",
        json!({"volume": {"ephemeral": {}}, "backup": {"destination": {"claim": "backups"}}}),
    );
    let pod = |name: &str| {
        ns.create(&objects::pod(name, Some("orders")));
        ns.pod_ready(name);
    };
    pod("app-0");
    assert_eq!(ns.put("app-0", "k", "from app-0"), 201);
    take(&ns, "first");
    // What it held goes with it, and no other one gets that by itself.
    ns.delete_and_wait("pods/app-0");
    pod("app-1");
    assert_eq!(ns.value("app-1", "k"), None);
    assert_eq!(ns.put("app-1", "own", "v"), 201);
    assert!(ns.list("codexrestores").is_empty());

    let from = json!({"members": [{"pod": "app-1", "from": "app-0"}]});
    ns.create(&restore("named", from));
    let named = restore_is(&ns, "named", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    let member = &named["members"][0];
    assert_eq!(
        (&named["phase"], &member["from"], &member["backup"]),
        (&json!("Succeeded"), &json!("app-0"), &json!("first")),
        "{named}"
    );
    let aside = member["setAside"].as_str().unwrap();
    assert!(aside.starts_with("data.before-"), "{named}");
    assert_eq!(ns.sidecar_restarts("app-1"), 0);
    assert_eq!(ns.value("app-1", "k"), Some("from app-0".to_owned()));
    assert_eq!(ns.value("app-1", "own"), None);
    assert_eq!(ns.put("app-1", "after", "it goes on"), 201);
}

#[test]
fn a_restore_says_what_it_waits_for() {
    let Some(ns) = namespace("waits") else {
        return;
    };
    ns.create(&restore("early", json!({})));
    let status = restore_is(&ns, "early", "it waits", |s| s["phase"] == "Pending");
    assert_eq!(status["message"], "there is no CodexStore orders");
    ns.store("orders", json!({}));
    ns.create(&restore("nowhere", json!({})));
    let status = restore_is(&ns, "nowhere", "it has a message", |s| {
        s["message"].is_string()
    });
    assert!(
        status["message"].as_str().unwrap().contains("spec.backup"),
        "{status}"
    );
    ns.create(&backup("orders", "b"));
    backup_is(&ns, "b", "it waits", |s| s["phase"] == "Pending");
    let same = json!({"spec": {"storeRef": {"name": "other"}}});
    let refused = ns.cluster.patch(&ns.path("codexrestores/early"), &same);
    assert!(refused.unwrap_err().message.contains("create another one"));
    let needs = ns.try_create(&objects::store(
        "other",
        json!({"restore": {"onStart": "IfEmpty"}}),
    ));
    assert!(needs.unwrap_err().message.contains("needs `backup`"));
}

#[test]
fn backups_of_before_during_and_after_a_rotation_are_each_restored() {
    let Some(ns) = namespace("rotate-backups") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store("orders", rotation::spec(&json!({})));
    members(&ns, 1, objects::pod_spec(IDLE));
    assert_eq!(ns.put("web-0", "first", "web-0"), 201);
    let marked = |name: &str| {
        ns.put("web-0", "mark", name);
        take(&ns, name)["members"][0]["keyId"].take()
    };
    let from = marked("before");
    let waiting = Held::before(&ns, "Promoting");
    ns.create(&rotation::rotation("now"));
    added(&ns, "now");
    marked("waiting");
    let held = Held::before(&ns, "Verifying");
    drop(waiting);
    nudge(&ns, KEYRING, "web-0");
    rotation_is(&ns, "now", "the new key is current", |s| {
        s["promotedAt"].is_string()
    });
    marked("during");
    let now = ns.get("codexkeyrotations/now").unwrap()["status"].take();
    assert!(now["completedAt"].is_null(), "{now}");
    drop(held);
    nudge(&ns, KEYRING, "web-0");
    let done = rotation_is(&ns, "now", "it is done", |s| s["completedAt"].is_string());
    let keys = (&done["phase"], &done["mode"], &done["from"], &done["to"]);
    let to = marked("after");
    assert_eq!(
        keys,
        (&json!("Completed"), &json!("Rewrap"), &from, &to),
        "{done}"
    );
    for backup in ["before", "waiting", "during", "after"] {
        restored(&ns, backup, "web-0");
        assert_eq!(ns.value("web-0", "mark").as_deref(), Some(backup));
    }
    needs(&ns, "web-0", &[to.as_str().unwrap()]);
}
