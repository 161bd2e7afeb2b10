//! Which pods are admitted, and what is said to those that are not.

mod common;

use codexstore_crds::{Decision, Reason, decide};
use common::{accepts, annotated, plain, pod, refuses, store};

const EPHEMERAL: &str = "{}";
const CLAIM: &str = "{volume: {claim: {size: 1Gi}}}";
const POD_VOLUME: &str = "{volume: {podVolume: state}}";

#[test]
fn a_pod_without_the_label_is_skipped_and_told_how_to_ask() {
    let mut pod = plain();
    pod.metadata.labels = None;
    let Decision::Skip { reason } = decide(&pod, "shop", None) else {
        panic!("not skipped")
    };
    assert!(reason.contains("codexstore.dev/store: NAME"), "{reason}");
}

#[test]
fn a_store_that_is_not_there_is_refused_with_what_to_create() {
    let Decision::Refuse(refusal) = decide(&plain(), "shop", None) else {
        panic!("admitted")
    };
    assert_eq!(refusal.reason, Reason::StoreNotFound);
    for words in [
        "namespace shop has no CodexStore orders",
        "kind: CodexStore",
        "spec: {}",
    ] {
        assert!(refusal.message.contains(words), "{refusal}");
    }
    let mut empty = plain();
    empty
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("codexstore.dev/store".to_owned(), String::new());
    refuses(&store(EPHEMERAL), &empty, Reason::StoreNotFound, "is empty");
}

#[test]
fn a_store_on_its_way_out_takes_no_new_pods() {
    let mut leaving = store(EPHEMERAL);
    let time = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
    leaving.metadata.deletion_timestamp = Some(time);
    refuses(
        &leaving,
        &plain(),
        Reason::StoreDeleting,
        "is being deleted",
    );
}

#[test]
fn pods_wait_until_the_keyring_is_recorded() {
    let mut fresh = store(EPHEMERAL);
    fresh.status = None;
    refuses(&fresh, &plain(), Reason::KeyringPending, "try again");
}

#[test]
fn pods_that_cannot_have_a_sidecar_are_refused() {
    refuses(
        &store(EPHEMERAL),
        &pod("{os: {name: windows}, containers: [{name: app}]}"),
        Reason::PodUnsupported,
        "Linux",
    );
    refuses(
        &store(EPHEMERAL),
        &annotated(
            "{kubernetes.io/config.mirror: abc}",
            "{containers: [{name: app}]}",
        ),
        Reason::PodUnsupported,
        "static pod",
    );
}

#[test]
fn a_claim_needs_a_lasting_name() {
    accepts(&store(CLAIM), &plain());
    let mut generated = plain();
    generated.metadata.name = None;
    accepts(&store(EPHEMERAL), &generated);
    refuses(
        &store(CLAIM),
        &generated,
        Reason::NameRequired,
        "StatefulSet",
    );

    for (kind, lasting) in [
        ("StatefulSet", true),
        ("ReplicaSet", false),
        ("Job", false),
        ("DaemonSet", false),
    ] {
        let mut owned = plain();
        let controller = serde_json::json!([{"apiVersion": "v1", "kind": kind, "name": "o", "uid": "u", "controller": true}]);
        owned.metadata.owner_references = Some(serde_json::from_value(controller).unwrap());
        if lasting {
            accepts(&store(CLAIM), &owned);
        } else {
            refuses(&store(CLAIM), &owned, Reason::NameRequired, kind);
        }
    }
}

#[test]
fn a_claims_name_must_fit() {
    let called = |length: usize| {
        let mut pod = plain();
        pod.metadata.name = Some("p".repeat(length));
        pod
    };
    let room = 253 - "cxs-orders-".len();
    accepts(&store(CLAIM), &called(room));
    refuses(
        &store(CLAIM),
        &called(room + 1),
        Reason::NameTooLong,
        "room for 242",
    );
    accepts(&store(EPHEMERAL), &called(253));
}

#[test]
fn the_annotation_must_name_containers_of_the_pod() {
    let spec = "{initContainers: [{name: prepare}], containers: [{name: app}]}";
    for (list, known) in [
        ("app", true),
        ("app,prepare", true),
        (" app , prepare ", true),
        ("ap", false),
        ("", false),
        ("app,", false),
        ("codexstore", false),
    ] {
        let pod = annotated(&format!("{{codexstore.dev/containers: \"{list}\"}}"), spec);
        if known {
            accepts(&store(EPHEMERAL), &pod);
        } else {
            refuses(
                &store(EPHEMERAL),
                &pod,
                Reason::UnknownContainer,
                "prepare,app",
            );
        }
    }
}

#[test]
fn our_names_are_not_the_users() {
    for spec in [
        "{containers: [{name: codexstore}]}",
        "{initContainers: [{name: codexstore}], containers: [{name: app}]}",
        "{initContainers: [{name: codexstore, restartPolicy: Always, command: [/codexstore-sidecar, run]}], containers: [{name: app}]}",
    ] {
        refuses(
            &store(EPHEMERAL),
            &pod(spec),
            Reason::NameClash,
            "rename yours",
        );
    }
    for name in ["socket", "data", "keyring", "tls", "no-token"] {
        let spec = format!(
            "{{volumes: [{{name: codexstore-{name}, emptyDir: {{}}}}], containers: [{{name: app}}]}}"
        );
        refuses(
            &store(EPHEMERAL),
            &pod(&spec),
            Reason::NameClash,
            "rename yours",
        );
    }
}

#[test]
fn a_second_container_of_our_name_is_refused_beside_the_sidecar_too() {
    let mut injected = accepts(&store(EPHEMERAL), &plain());
    let spec = injected.spec.as_mut().unwrap();
    spec.containers[0].name = "codexstore".to_owned();
    refuses(
        &store(EPHEMERAL),
        &injected,
        Reason::NameClash,
        "rename yours",
    );
}

#[test]
fn nothing_else_is_mounted_where_the_socket_belongs() {
    let mounted = |path: &str| {
        pod(&format!(
            "{{volumes: [{{name: mine, emptyDir: {{}}}}], containers: [{{name: app, volumeMounts: [{{name: mine, mountPath: {path}}}]}}]}}"
        ))
    };
    for path in [
        "/run/codexstore",
        "/run/codexstore/",
        "//run/./codexstore",
        "/run/codexstore/sub",
        "/var/run/codexstore",
    ] {
        refuses(
            &store(EPHEMERAL),
            &mounted(path),
            Reason::PathClash,
            "mount it elsewhere",
        );
    }
    for path in [
        "/run",
        "/run/codexstore2",
        "/var/lib/codexstore",
        "/etc/codexstore/keyring",
    ] {
        accepts(&store(EPHEMERAL), &mounted(path));
    }
}

#[test]
fn the_pod_volume_must_be_there_and_writable() {
    let with = |source: &str| {
        pod(&format!(
            "{{volumes: [{{name: state, {source}}}], containers: [{{name: app}}]}}"
        ))
    };
    refuses(
        &store(POD_VOLUME),
        &plain(),
        Reason::BadPodVolume,
        "add it to spec.volumes",
    );
    for source in [
        "emptyDir: {}",
        "persistentVolumeClaim: {claimName: c}",
        "hostPath: {path: /x}",
        "ephemeral: {}",
    ] {
        accepts(&store(POD_VOLUME), &with(source));
    }
    for source in [
        "persistentVolumeClaim: {claimName: c, readOnly: true}",
        "csi: {driver: d, readOnly: true}",
        "nfs: {server: s, path: p, readOnly: true}",
        "configMap: {name: c}",
        "secret: {secretName: s}",
        "projected: {}",
        "downwardAPI: {}",
        "image: {reference: i}",
    ] {
        refuses(
            &store(POD_VOLUME),
            &with(source),
            Reason::BadPodVolume,
            "read-only",
        );
    }
    let ours = store("{volume: {podVolume: codexstore-keyring}}");
    refuses(
        &ours,
        &plain(),
        Reason::BadPodVolume,
        "name a volume of yours",
    );
}

#[test]
fn a_port_that_a_container_has_is_not_taken_for_metrics() {
    let taken = pod("{containers: [{name: app, ports: [{containerPort: 7434}]}]}");
    accepts(&store("{}"), &taken);
    accepts(&store("{metrics: {port: 9100}}"), &taken);
    refuses(
        &store("{metrics: {}}"),
        &taken,
        Reason::PortClash,
        "write another port",
    );
}
