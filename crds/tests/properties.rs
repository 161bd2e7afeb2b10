//! What holds for any pod that is admitted.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // also in helpers: a failed one fails its test

mod common;

use codexstore_crds::{
    CodexStore, Decision, check_injected, decide, inject, is_injected, names, store_label,
};
use common::{config, store};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

const STORES: [&str; 4] = [
    "{}",
    "{volume: {claim: {size: 1024Mi}}}",
    "{volume: {podVolume: v0}}",
    "{encryption: {none: {}}, resources: {limits: {cpu: 1}}}",
];

fn mounts() -> impl Strategy<Value = Value> {
    let path = prop::sample::select(vec!["/a", "/run", "/var/lib/codexstore", "/b/../c", "/etc"]);
    let paths = prop::collection::btree_set(path, 0..4);
    (paths, any::<bool>()).prop_map(|(paths, socket)| {
        let mut mounts: Vec<_> = paths
            .iter()
            .map(|path| json!({"name": "v1", "mountPath": path}))
            .collect();
        if socket {
            mounts.push(json!({"name": "codexstore-socket", "mountPath": "/run/codexstore/", "readOnly": true}));
        }
        json!(mounts)
    })
}

fn container() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["A", "CODEXSTORE_SOCKET", "CODEXSTORE_STORE", "HOME"]);
    let env = prop::collection::btree_map(name, "[a-z]{0,3}", 0..4);
    let port = prop::option::of(prop::sample::select(vec![80, 7433, 7434, 20_000]));
    (env, mounts(), port, any::<bool>()).prop_map(|(env, mounts, port, bare)| {
        if bare {
            return json!({"image": "app"});
        }
        let env: Vec<_> = env
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        let ports: Vec<_> = port.iter().map(|p| json!({"containerPort": p})).collect();
        json!({"image": "app", "env": env, "volumeMounts": mounts, "ports": ports})
    })
}

fn pods() -> impl Strategy<Value = Pod> {
    let containers = prop::collection::vec(container(), 1..4);
    let inits = prop::collection::vec((container(), any::<bool>()), 0..3);
    let group = prop::option::of(0..3000_i64);
    (containers, inits, any::<bool>(), group, any::<bool>()).prop_map(
        |(mut containers, inits, host, group, narrow)| {
            for (i, container) in containers.iter_mut().enumerate() {
                container["name"] = format!("c{i}").into();
            }
            let inits: Vec<_> = inits
                .into_iter()
                .enumerate()
                .map(|(i, (mut container, sidecar))| {
                    container["name"] = format!("i{i}").into();
                    if sidecar {
                        container["restartPolicy"] = "Always".into();
                    }
                    container
                })
                .collect();
            let mut metadata = json!({"name": "web-0", "labels": {"codexstore.dev/store": "orders", "app": "web"},
                "annotations": {"mine": "kept"}});
            if narrow {
                metadata["annotations"][names::CONTAINERS_ANNOTATION] = "c0".into();
            }
            let mut spec = json!({"containers": containers, "initContainers": inits, "hostNetwork": host,
                "volumes": [{"name": "v0", "emptyDir": {}}, {"name": "v1", "configMap": {"name": "x"}}]});
            if let Some(group) = group {
                spec["securityContext"] = json!({"fsGroup": group, "runAsUser": 7});
            }
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod")
        },
    )
}

/// Whether all that `before` has is in `after`: entries of lists by name and path, or by equality.
fn keeps(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before
            .iter()
            .all(|(key, b)| after.get(key).is_some_and(|a| keeps(b, a))),
        (Value::Array(before), Value::Array(after)) => {
            let mut rest = after.iter();
            // in the same order
            before.iter().all(|b| {
                rest.any(|a| {
                    a.get("name") == b.get("name")
                        && a.get("mountPath") == b.get("mountPath")
                        && keeps(b, a)
                })
            })
        }
        _ => before == after,
    }
}

fn holds(pod: &Pod, store: &CodexStore) -> Result<(), TestCaseError> {
    prop_assert_eq!(decide(pod, "shop", Some(store)), Decision::Inject);
    let once = inject(pod, store, &config(), "seed").expect("admitted");
    let twice = inject(&once, store, &config(), "another seed").expect("admitted again");
    prop_assert_eq!(&twice, &once);
    prop_assert_eq!(check_injected(&once, store, &config()), Ok(()));
    prop_assert!(is_injected(&once) && store_label(&once) == store_label(pod));
    let (before, after) = (
        serde_json::to_value(pod).unwrap(),
        serde_json::to_value(&once).unwrap(),
    );
    prop_assert!(keeps(&before, &after), "lost: {before}\n{after}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn injecting_twice_is_injecting_once_and_nothing_of_the_users_is_lost(
        pod in pods(), spec in prop::sample::select(STORES.to_vec()),
    ) {
        holds(&pod, &store(spec))?;
    }
}
