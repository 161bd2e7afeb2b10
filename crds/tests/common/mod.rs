//! Helpers for the tests of admission: a store and a pod from a few lines of YAML, and one check each way.

#![allow(dead_code, clippy::panic)] // each test file uses some; a failed check panics

use codexstore_crds::{
    CodexStore, Decision, InjectConfig, KeyringStatus, Reason, decide, inject, status,
};
use k8s_openapi::api::core::v1::{Container, Pod, Volume};

/// A store called `orders` with a keyring; `spec` is YAML in flow style.
pub fn store(spec: &str) -> CodexStore {
    let yaml = format!(
        "{{apiVersion: codexstore.dev/v1alpha1, kind: CodexStore, metadata: {{name: orders, namespace: shop, uid: store-uid}}, spec: {spec}}}"
    );
    let mut store: CodexStore = serde_yaml::from_str(&yaml).expect("a CodexStore");
    store.status = Some(status::CodexStoreStatus {
        keyring: Some(KeyringStatus {
            secret_name: "cxs-orders-keyring".to_owned(),
            secret_uid: "secret-uid".to_owned(),
        }),
        ..Default::default()
    });
    store
}

/// A labelled pod called `web-0` from the YAML of its spec.
pub fn pod(spec: &str) -> Pod {
    annotated("{}", spec)
}

/// The same with annotations.
pub fn annotated(annotations: &str, spec: &str) -> Pod {
    let yaml = format!(
        "{{metadata: {{name: web-0, generateName: web-, labels: {{codexstore.dev/store: orders}}, annotations: {annotations}}}, spec: {spec}}}"
    );
    serde_yaml::from_str(&yaml).expect("a Pod")
}

/// The simplest pod.
pub fn plain() -> Pod {
    pod("{containers: [{name: app}]}")
}

pub fn config() -> InjectConfig {
    InjectConfig {
        sidecar_image: "registry.example/sidecar:1".to_owned(),
        image_pull_policy: None,
        operator_version: "1.0.0".to_owned(),
    }
}

/// The pod is admitted; and doing it twice changes nothing.
#[track_caller]
pub fn accepts(store: &CodexStore, pod: &Pod) -> Pod {
    assert_eq!(decide(pod, "shop", Some(store)), Decision::Inject);
    let once = inject(pod, store, &config(), "seed").expect("admitted");
    assert_eq!(
        decide(&once, "shop", Some(store)),
        Decision::Inject,
        "as it was injected"
    );
    let twice = inject(&once, store, &config(), "another seed").expect("admitted again");
    assert_eq!(twice, once, "injected twice");
    once
}

/// The pod is refused for this reason, with a message that contains these words.
#[track_caller]
pub fn refuses(store: &CodexStore, pod: &Pod, reason: Reason, words: &str) {
    let Decision::Refuse(refusal) = decide(pod, "shop", Some(store)) else {
        panic!("admitted, where {reason} was expected");
    };
    assert_eq!(refusal.reason, reason, "{refusal}");
    assert!(
        refusal.message.contains(words),
        "`{words}` is not in: {refusal}"
    );
}

/// The container of this name, init containers included.
#[track_caller]
pub fn container<'a>(pod: &'a Pod, name: &str) -> &'a Container {
    let spec = pod.spec.as_ref().expect("spec");
    let mut all = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    all.find(|c| c.name == name).expect("the container")
}

#[track_caller]
pub fn volume<'a>(pod: &'a Pod, name: &str) -> &'a Volume {
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|s| s.volumes.as_ref())
        .expect("volumes");
    volumes.iter().find(|v| v.name == name).expect("the volume")
}

/// Names of the volumes that a container mounts, with their paths.
pub fn mounts(container: &Container) -> Vec<(&str, &str)> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .map(|m| (m.name.as_str(), m.mount_path.as_str()))
        .collect()
}

pub fn env<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
    container
        .env
        .iter()
        .flatten()
        .find(|e| e.name == name)?
        .value
        .as_deref()
}
