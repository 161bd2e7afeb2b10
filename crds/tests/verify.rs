//! What may be different on a pod at the end of its admission, and what may not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // also in helpers: a failed one fails its test

mod common;

use codexstore_crds::{Reason, check_injected, inject};
use common::{accepts, annotated, config, container, mounts, plain, pod, refuses, store};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

const POD: &str = "{volumes: [{name: mine, emptyDir: {}}], initContainers: [{name: prepare}], containers: [{name: app}]}";

/// A change to the JSON of a pod's spec.
type Change = fn(&mut Value);

/// The injected pod with a change made to its JSON.
fn changed(change: impl Fn(&mut Value)) -> Pod {
    let mut json = serde_json::to_value(accepts(&store("{}"), &pod(POD))).unwrap();
    change(&mut json["spec"]);
    serde_json::from_value(json).unwrap()
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

#[test]
fn what_others_may_rightly_add_passes_and_stays() {
    let additions: [Change; 9] = [
        |_| {},
        |spec| spec["initContainers"][0]["imagePullPolicy"] = json!("IfNotPresent"),
        |spec| spec["initContainers"][0]["image"] = json!("mirror:5000/library/sidecar:1"),
        |spec| spec["initContainers"][0]["image"] = json!("mirror/sidecar:1@sha256:ab"),
        |spec| spec["initContainers"][0]["resources"]["limits"]["cpu"] = json!("1"),
        |spec| spec["initContainers"].as_array_mut().unwrap().reverse(),
        |spec| {
            let env = spec["initContainers"][0]["env"].as_array_mut().unwrap();
            env.insert(0, json!({"name": "HTTPS_PROXY", "value": "x"}));
        },
        |spec| {
            let mounts = &mut spec["initContainers"][0]["volumeMounts"];
            push(mounts, json!({"name": "mine", "mountPath": "/etc/ssl"}));
        },
        |spec| {
            let context = &mut spec["initContainers"][0]["securityContext"];
            context["appArmorProfile"] = json!({"type": "RuntimeDefault"});
        },
    ];
    for (i, add) in additions.iter().enumerate() {
        let pod = changed(add);
        assert_eq!(check_injected(&pod, &store("{}"), &config()), Ok(()), "{i}");
    }
}

#[test]
fn what_was_changed_or_taken_away_is_refused_by_name() {
    let changes: [(&str, Change); 11] = [
        ("image of container codexstore", |spec| {
            spec["initContainers"][0]["image"] = json!("evil/sidecar:2");
        }),
        ("args of container codexstore", |spec| {
            spec["initContainers"][0]["args"] = json!(["--data-dir=/x"]);
        }),
        ("envFrom of container codexstore", |spec| {
            spec["initContainers"][0]["envFrom"] = json!([{"configMapRef": {"name": "x"}}]);
        }),
        ("env of container codexstore", |spec| {
            spec["initContainers"][0]["env"][0]["value"] = json!("other");
        }),
        ("volumeMounts of container codexstore", |spec| {
            spec["initContainers"][0]["volumeMounts"][2] =
                json!({"name": "mine", "mountPath": "/y"});
        }),
        ("securityContext of container codexstore", |spec| {
            spec["initContainers"][0]["securityContext"]["runAsUser"] = json!(0);
        }),
        ("resources of container codexstore", |spec| {
            spec["initContainers"][0]["resources"]["limits"]["memory"] = json!("1Mi");
        }),
        ("volumeMounts of container app", |spec| {
            spec["containers"][0]["volumeMounts"] = json!([]);
        }),
        ("env of container prepare", |spec| {
            spec["initContainers"][1]["env"] = json!([]);
        }),
        ("volume codexstore-keyring", |spec| {
            let volumes = spec["volumes"].as_array_mut().unwrap();
            let keyring = volumes
                .iter_mut()
                .find(|v| v["name"] == "codexstore-keyring");
            keyring.unwrap()["secret"]["secretName"] = json!("mine");
        }),
        ("securityContext of the pod", |spec| {
            spec["securityContext"] = json!({});
        }),
    ];
    for (what, change) in changes {
        let refusal = check_injected(&changed(change), &store("{}"), &config()).expect_err(what);
        assert_eq!(refusal.reason, Reason::SidecarChanged, "{what}");
        assert!(refusal.message.starts_with(what), "{what}: {refusal}");
    }
}

#[test]
fn a_store_that_changed_meanwhile_asks_for_another_try() {
    let pod = changed(|_| {});
    let refusal = check_injected(&pod, &store("{durability: Interval}"), &config()).unwrap_err();
    assert!(refusal.message.contains("create the pod again"));
}

#[test]
fn while_an_upgrade_runs_another_versions_pod_passes() {
    let mut cfg = config();
    cfg.operator_version = "2.0.0".to_owned();
    cfg.sidecar_image = "registry.example/sidecar:2".to_owned();
    assert_eq!(check_injected(&changed(|_| {}), &store("{}"), &cfg), Ok(()));
}

/// A pod that says of itself that it was injected.
fn seeded(sidecar: &str) -> Pod {
    annotated(
        "{codexstore.dev/injected-by: 1.0.0}",
        &format!(
            "{{volumes: [{{name: mine, emptyDir: {{}}}}], initContainers: [{{name: codexstore, restartPolicy: Always, \
             command: [/codexstore-sidecar, run], {sidecar}}}], containers: [{{name: app}}]}}"
        ),
    )
}

#[test]
fn a_pod_that_claims_to_be_injected_gets_our_image_all_the_same() {
    let ours = "registry.example/sidecar:1";
    for (image, kept) in [
        ("evil", false),
        ("registry.example/sidecar", false),
        ("registry.example/sidecar:2", false),
        ("registry.example/sidecar:1/evil", false),
        ("registry.example/evil-sidecar:1", false),
        ("registry.example/sidecar@sha256:ab", false),
        ("mirror.example:5000/sidecar:1", true),
    ] {
        let pod = accepts(&store("{}"), &seeded(&format!("image: \"{image}\"")));
        let wanted = if kept { image } else { ours };
        let found = container(&pod, "codexstore").image.as_deref();
        assert_eq!(found, Some(wanted), "{image}");
    }
    let mut pinned = config();
    pinned.sidecar_image = "registry.example/sidecar:1@sha256:ab".to_owned();
    for (image, kept) in [
        ("mirror.example/sidecar@sha256:ab", true),
        ("mirror.example/sidecar:1@sha256:cd", false),
        ("mirror.example/sidecar:1", false),
    ] {
        let pod = seeded(&format!("image: \"{image}\""));
        let pod = inject(&pod, &store("{}"), &pinned, "seed").unwrap();
        let found = container(&pod, "codexstore").image.as_deref();
        assert_eq!(found == Some(image), kept, "{image}");
    }
}

#[test]
fn a_pod_that_claims_to_be_injected_mounts_nothing_over_our_paths() {
    let at = |path: &str| {
        seeded(&format!(
            "volumeMounts: [{{name: mine, mountPath: \"{path}\"}}]"
        ))
    };
    for path in [
        "/var/lib/codexstore/data",
        "/var/lib/./codexstore//data/",
        "/x/../var/lib/codexstore/data",
        "/var/lib",
        "/",
        "etc/codexstore",
        "/etc/codexstore/keyring/",
        "/run/codexstore/x",
        "/codexstore-sidecar",
        "/var/run/secrets/kubernetes.io/serviceaccount/token",
    ] {
        refuses(
            &store("{}"),
            &at(path),
            Reason::PathClash,
            "remove the mount",
        );
    }
    for path in ["/var/lib/codexstore", "/var/lib/codexstore/"] {
        let pod = accepts(&store("{}"), &at(path));
        let fresh = accepts(&store("{}"), &plain());
        assert_eq!(
            mounts(container(&pod, "codexstore")),
            mounts(container(&fresh, "codexstore")),
            "{path}"
        );
    }
    accepts(&store("{}"), &at("/etc/ssl/certs"));
    accepts(&store("{}"), &at("/var/lib/codexstore2"));
}
