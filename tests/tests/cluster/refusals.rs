//! What is refused, and what the user is told to do about it.

use codexstore_tests::namespace;
use codexstore_tests::objects::{self, IDLE, container};
use serde_json::json;

#[test]
fn a_label_that_names_no_store_is_refused_with_what_to_create() {
    let Some(ns) = namespace("no-store") else {
        return;
    };
    let message = ns.refused(&objects::pod("app", Some("missing")));
    for part in ["missing", "CodexStore", ns.name.as_str()] {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
    ns.store("missing", json!({}));
    ns.create(&objects::pod("app", Some("missing")));
    ns.pod_ready("app");
}

#[test]
fn a_label_that_is_no_name_is_refused() {
    let Some(ns) = namespace("bad-label") else {
        return;
    };
    for label in ["", "Not_A_Name"] {
        let message = ns.refused(&objects::pod("app", Some(label)));
        assert!(message.contains("codexstore.dev/store"), "{message}");
    }
}

#[test]
fn a_store_deleted_while_pods_use_it_leaves_those_alone_and_refuses_new_ones() {
    let Some(ns) = namespace("deleted") else {
        return;
    };
    ns.store("orders", json!({}));
    ns.create(&objects::pod("old", Some("orders")));
    ns.pod_ready("old");
    assert_eq!(ns.put("old", "k", "before"), 201);
    let keyring = ns.get("secrets/cxs-orders-keyring").unwrap();
    ns.delete_and_wait("codexstores/orders");

    assert_eq!(ns.value("old", "k").as_deref(), Some("before"));
    assert_eq!(ns.put("old", "k", "after"), 204);
    let message = ns.refused(&objects::pod("new", Some("orders")));
    assert!(message.contains("orders"), "{message}");

    // Created again, it finds its keyring, and takes pods.
    ns.store("orders", json!({}));
    let again = ns.get("secrets/cxs-orders-keyring").unwrap();
    assert_eq!(keyring["metadata"]["uid"], again["metadata"]["uid"]);
    assert_eq!(keyring["data"], again["data"]);
    ns.create(&objects::pod("new", Some("orders")));
    ns.pod_ready("new");
    assert_eq!(ns.value("old", "k").as_deref(), Some("after"));
}

#[test]
fn a_container_that_mounts_our_volumes_is_refused() {
    let Some(ns) = namespace("mounts") else {
        return;
    };
    ns.store("orders", json!({}));
    for volume in ["codexstore-data", "codexstore-keyring", "codexstore-tls"] {
        for list in ["containers", "initContainers"] {
            let mut pod = objects::pod("app", Some("orders"));
            let mut thief = container("thief", IDLE);
            thief["volumeMounts"] = json!([{"name": volume, "mountPath": "/loot"}]);
            let mut all = pod["spec"][list].as_array().cloned().unwrap_or_default();
            all.push(thief);
            pod["spec"][list] = json!(all);
            let message = ns.refused(&pod);
            assert!(
                message.contains("thief") && message.contains(volume),
                "{list}: {message}"
            );
        }
    }
}

#[test]
fn a_container_that_mounts_the_stores_own_pod_volume_is_refused() {
    let Some(ns) = namespace("pod-volume") else {
        return;
    };
    ns.store("orders", json!({"volume": {"podVolume": "work"}}));
    let mut pod = objects::pod("app", Some("orders"));
    pod["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
    ns.dry_run(&pod)
        .expect("the volume is there, and no container mounts it");
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
    let message = ns.refused(&pod);
    assert!(message.contains("work"), "{message}");
}

#[test]
fn a_pod_that_mounts_the_keyring_secret_by_another_name_is_refused() {
    let Some(ns) = namespace("loot") else { return };
    ns.store("orders", json!({}));
    let mut pod = objects::pod("app", Some("orders"));
    pod["spec"]["volumes"] =
        json!([{"name": "loot", "secret": {"secretName": "cxs-orders-keyring"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "loot", "mountPath": "/loot"}]);
    let message = ns.refused(&pod);
    assert!(message.contains("cxs-orders-keyring"), "{message}");
}

#[test]
fn an_ephemeral_container_that_mounts_our_volumes_is_refused_and_another_is_not() {
    let Some(ns) = namespace("ephemeral") else {
        return;
    };
    ns.store("orders", json!({}));
    ns.create(&objects::pod("app", Some("orders")));
    ns.pod_ready("app");
    let add = |name: &str, volume: Option<&str>| {
        let mut c = container(name, "true");
        c.as_object_mut().unwrap().remove("resources");
        if let Some(volume) = volume {
            c["volumeMounts"] = json!([{"name": volume, "mountPath": "/loot"}]);
        }
        let body = json!({"spec": {"ephemeralContainers": [c]}});
        let path = ns.path("pods/app/ephemeralcontainers");
        ns.cluster
            .patch_as(&path, &body, "application/strategic-merge-patch+json")
    };
    let refused = |name: &str, volume: &str| {
        let e = add(name, Some(volume)).expect_err(volume);
        assert!(
            e.message.contains(volume) && e.message.contains("codexstore.dev"),
            "{e}"
        );
    };
    for volume in ["codexstore-data", "codexstore-keyring", "codexstore-tls"] {
        refused("thief", volume);
    }
    let mut c = container("near", "true");
    c.as_object_mut().unwrap().remove("resources");
    c["targetContainerName"] = json!("codexstore");
    let body = json!({"spec": {"ephemeralContainers": [c]}});
    let path = ns.path("pods/app/ephemeralcontainers");
    let e = ns
        .cluster
        .patch_as(&path, &body, "application/strategic-merge-patch+json")
        .expect_err("one in the sidecar's process namespace");
    assert!(e.message.contains("codexstore.dev"), "{e}");
    add("look", None).expect("an ephemeral container that touches nothing of ours");
    // Without its label the pod still has our volumes.
    ns.patch(
        "pods/app",
        &json!({"metadata": {"labels": {objects::LABEL: null}}}),
    );
    refused("thief", "codexstore-keyring");
}

#[test]
fn wrong_specs_are_refused_with_what_to_write_instead() {
    let Some(ns) = namespace("specs") else { return };
    let cases = [
        (
            "two volumes",
            json!({"volume": {"ephemeral": {}, "podVolume": "x"}}),
            "one of",
        ),
        ("no size", json!({"volume": {"claim": {}}}), "size"),
        ("unknown strategy", json!({"strategy": "Magic"}), "Snapshot"),
        (
            "two ways of keys",
            json!({"encryption": {"none": {}, "keys": {"managed": {}}}}),
            "none",
        ),
        ("key size", json!({"encryption": {"keySize": 100}}), "256"),
    ];
    for (what, spec, part) in cases {
        let e = ns
            .try_create(&objects::store("orders", spec))
            .expect_err(what);
        assert!(e.message.contains(part), "{what}: {e}");
    }
    // The API server drops what the resource does not know unless it is asked to be strict.
    let strict = ns.path("codexstores?fieldValidation=Strict");
    let later = objects::store("orders", json!({"backup": {"schedule": "* * * * *"}}));
    let e = ns
        .cluster
        .send("POST", &strict, Some(&later))
        .expect_err("a field of a later version");
    assert!(e.message.contains("backup"), "{e}");
    let long = "x".repeat(41);
    let e = ns
        .try_create(&objects::store(&long, json!({})))
        .expect_err("a name of 41 characters");
    assert!(e.message.contains("40"), "{e}");

    ns.store("orders", json!({}));
    let path = ns.path("codexstores/orders");
    let e = ns.cluster.patch(
        &path,
        &json!({"spec": {"volume": {"ephemeral": null, "podVolume": "x"}}}),
    );
    assert!(
        e.clone()
            .expect_err("kind of volume")
            .message
            .contains("cannot be changed"),
        "{e:?}"
    );
    let e = ns.cluster.patch(
        &path,
        &json!({"spec": {"encryption": {"keys": null, "none": {}}}}),
    );
    assert!(
        e.clone()
            .expect_err("encryption off")
            .message
            .contains("cannot be turned on or off"),
        "{e:?}"
    );
}
