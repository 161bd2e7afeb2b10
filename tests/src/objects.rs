//! The objects that tests create, small, and fit for a namespace that enforces the restricted Pod Security Standard.

use serde_json::{Value, json};

/// An image with a shell and curl. The test cluster has one loaded under this name.
pub fn app_image() -> String {
    std::env::var("CODEXSTORE_TEST_APP_IMAGE")
        .unwrap_or_else(|_| "docker.io/curlimages/curl:8.16.0".into())
}

/// The label that asks for a store.
pub const LABEL: &str = "codexstore.dev/store";

/// Does nothing until it is told to end.
pub const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";

/// A CodexStore.
pub fn store(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexStore", "metadata": {"name": name}, "spec": spec})
}

/// A container that runs a script.
pub fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": app_image(),
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}},
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    })
}

/// The spec of a pod with one container, `app`, that runs a script.
pub fn pod_spec(script: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 10,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container("app", script)],
    })
}

/// A pod that idles, with the label for a store.
pub fn pod(name: &str, store: Option<&str>) -> Value {
    pod_with(name, store, pod_spec(IDLE))
}

/// A pod of a given spec, with the label for a store.
pub fn pod_with(name: &str, store: Option<&str>, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels(name, store)}, "spec": spec})
}

/// A Deployment with one replica.
pub fn deployment(name: &str, store: &str, spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template(name, store, spec)}})
}

/// A StatefulSet with one replica.
pub fn stateful_set(name: &str, store: &str, spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": {
        "replicas": 1, "serviceName": name, "selector": {"matchLabels": {"app": name}},
        "template": template(name, store, spec)}})
}

/// A Job whose pod runs a script once.
pub fn job(name: &str, store: &str, mut spec: Value) -> Value {
    spec["restartPolicy"] = json!("Never");
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": template(name, store, spec)}})
}

/// A claim of a volume.
pub fn claim(name: &str, size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}})
}

fn template(name: &str, store: &str, spec: Value) -> Value {
    json!({"metadata": {"labels": labels(name, Some(store))}, "spec": spec})
}

fn labels(name: &str, store: Option<&str>) -> Value {
    let mut labels = json!({"app": name, "codexstore.dev/test-run": "e2e"});
    if let Some(store) = store {
        labels[LABEL] = json!(store);
    }
    labels
}
