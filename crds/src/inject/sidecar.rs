//! The sidecar's container.
//!
//! Fields that the API server would fill in are set to what it would say: a second injection then differs in
//! nothing, also not from a pod that was read back.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, ExecAction, ObjectFieldSelector,
    PodSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext, VolumeMount,
};

use super::InjectConfig;
use crate::{CodexStore, names, settings::sidecar_env};

/// What the container depends on besides the store.
pub(super) struct Place {
    port: u16,
    host_network: bool,
}

impl Place {
    pub(super) fn of(spec: &PodSpec, port: u16) -> Self {
        Self {
            port,
            host_network: spec.host_network == Some(true),
        }
    }

    fn port(&self, name: &str, port: u16) -> ContainerPort {
        let port = i32::from(port);
        ContainerPort {
            name: Some(name.to_owned()),
            container_port: port,
            // on the host's network the scheduler then keeps two pods off one port
            host_port: self.host_network.then_some(port),
            protocol: Some("TCP".to_owned()),
            host_ip: None,
        }
    }
}

/// The port of the metrics, if the store wants them on the network.
pub(super) fn metrics_port(store: &CodexStore) -> Option<u16> {
    store.spec.metrics.as_ref()?.port()
}

pub(super) fn command() -> [String; 2] {
    [names::SIDECAR_BINARY.to_owned(), "run".to_owned()]
}

pub(super) fn container(store: &CodexStore, cfg: &InjectConfig, place: &Place) -> Container {
    let admin = place.port(names::ADMIN_PORT_NAME, place.port);
    let metrics = metrics_port(store).map(|port| place.port(names::METRICS_PORT_NAME, port));
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(cfg.sidecar_image.clone()),
        image_pull_policy: cfg.image_pull_policy.clone(),
        command: Some(command().to_vec()),
        // a native sidecar: up before the next container starts, down after the last has ended
        restart_policy: Some("Always".to_owned()),
        env: Some(environment(store, place)),
        ports: Some(std::iter::once(admin).chain(metrics).collect()),
        // holds the app back until the store serves; a day, since recovery takes what it takes, and a missing
        // key must not make a crash loop
        startup_probe: Some(probe(&["ping", "--ready"], 1, 86_400)),
        liveness_probe: Some(probe(&["ping"], 10, 6)),
        readiness_probe: Some(probe(&["ping", "--ready"], 5, 3)),
        resources: Some(resources(store)),
        security_context: Some(security_context()),
        volume_mounts: Some(mounts(store)),
        termination_message_path: Some("/dev/termination-log".to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn environment(store: &CodexStore, place: &Place) -> Vec<EnvVar> {
    let fixed = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    };
    let mut env: Vec<_> = sidecar_env(store)
        .into_iter()
        .map(|(n, v)| fixed(&n, v))
        .collect();
    env.push(fixed(
        "CODEXSTORE_ADMIN_LISTEN",
        format!("[::]:{}", place.port),
    ));
    if let Some(port) = metrics_port(store) {
        env.push(fixed("CODEXSTORE_METRICS_LISTEN", format!("[::]:{port}")));
    }
    if store.spec.encryption.passphrase_entry().is_some() {
        env.push(fixed(
            names::PASSPHRASE_ENV,
            names::PASSPHRASE_FILE.to_owned(),
        ));
    }
    if store.spec.restores_on_start() {
        env.push(fixed("CODEXSTORE_AWAIT_RESTORE", "true".to_owned()));
    }
    env.push(field("CODEXSTORE_POD_NAME", "metadata.name"));
    env.push(field("CODEXSTORE_POD_UID", "metadata.uid"));
    env.push(field("CODEXSTORE_NAMESPACE", "metadata.namespace"));
    env
}

fn mounts(store: &CodexStore) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![
        mount(names::SOCKET_VOLUME, names::SOCKET_DIR, false),
        mount(names::DATA_VOLUME, names::DATA_DIR, false),
    ];
    if store.spec.encryption.is_on() {
        mounts.push(mount(names::KEYRING_VOLUME, names::KEYRING_DIR, true));
    }
    mounts.push(mount(names::TLS_VOLUME, names::TLS_DIR, true));
    // service account admission leaves a container alone that mounts something here
    mounts.push(mount(names::NO_TOKEN_VOLUME, names::TOKEN_DIR, true));
    mounts
}

fn resources(store: &CodexStore) -> ResourceRequirements {
    let wanted = &store.spec.resources;
    let mut limits = BTreeMap::from([("memory".to_owned(), wanted.limits.memory.to_k8s())]);
    if let Some(cpu) = &wanted.limits.cpu {
        limits.insert("cpu".to_owned(), cpu.to_k8s());
    }
    ResourceRequirements {
        limits: Some(limits),
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), wanted.requests.cpu.to_k8s()),
            ("memory".to_owned(), wanted.requests.memory.to_k8s()),
        ])),
        claims: None,
    }
}

/// What the `restricted` Pod Security Standard asks for, whatever the pod says.
fn security_context() -> SecurityContext {
    SecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(names::SIDECAR_UID),
        run_as_group: Some(names::SIDECAR_UID),
        privileged: Some(false),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            add: None,
            drop: Some(vec!["ALL".to_owned()]),
        }),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..SecurityContext::default()
    }
}

fn probe(args: &[&str], period_seconds: i32, failure_threshold: i32) -> Probe {
    let command = std::iter::once(names::SIDECAR_BINARY).chain(args.iter().copied());
    Probe {
        exec: Some(ExecAction {
            command: Some(command.map(str::to_owned).collect()),
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(5),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

/// A path without doubled or trailing slashes, `.` and `..`.
pub(super) fn clean_path(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether one of two clean paths is the other or above it.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    let above = |a: &str, b: &str| {
        let rest = b.strip_prefix(a.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    above(a, b) || above(b, a)
}
