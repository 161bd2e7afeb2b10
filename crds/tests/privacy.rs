//! What is the sidecar's alone: its data, keys and certificates.

mod common;

use codexstore_crds::{Reason, check_ephemeral};
use common::{accepts, plain, pod, refuses, store};
use k8s_openapi::api::core::v1::Pod;

const EPHEMERAL: &str = "{}";
const CLAIM: &str = "{volume: {claim: {size: 1Gi}}}";
const POD_VOLUME: &str = "{volume: {podVolume: state}}";

#[test]
fn no_container_sees_the_data_the_keys_or_the_certificates() {
    let app = |rest: &str| {
        pod(&format!(
            "{{volumes: [{{name: state, emptyDir: {{}}}}], containers: [{{name: app, {rest}}}]}}"
        ))
    };
    for name in [
        "codexstore-data",
        "codexstore-keyring",
        "codexstore-tls",
        "codexstore-no-token",
    ] {
        let by_name = app(&format!("volumeMounts: [{{name: {name}, mountPath: /x}}]"));
        refuses(
            &store(EPHEMERAL),
            &by_name,
            Reason::PrivateVolume,
            "is for the sidecar alone",
        );
        let as_device = app(&format!(
            "volumeDevices: [{{name: {name}, devicePath: /x}}]"
        ));
        refuses(
            &store(EPHEMERAL),
            &as_device,
            Reason::PrivateVolume,
            "is for the sidecar alone",
        );
    }
    let own = app("volumeMounts: [{name: state, mountPath: /x}]");
    accepts(&store(EPHEMERAL), &own);
    refuses(
        &store(POD_VOLUME),
        &own,
        Reason::PrivateVolume,
        "volume state",
    );
    accepts(&store(POD_VOLUME), &app("image: x"));

    for secret in ["keyring", "server", "ca", "client-operator"] {
        let secret = format!("cxs-orders-{secret}");
        for env in [
            format!(
                "env: [{{name: K, valueFrom: {{secretKeyRef: {{name: {secret}, key: current}}}}}}]"
            ),
            format!("envFrom: [{{secretRef: {{name: {secret}}}}}]"),
        ] {
            refuses(
                &store(EPHEMERAL),
                &app(&env),
                Reason::PrivateVolume,
                &secret,
            );
        }
        for source in [
            format!("secret: {{secretName: {secret}}}"),
            format!("projected: {{sources: [{{secret: {{name: {secret}}}}}]}}"),
        ] {
            let aliased = pod(&format!(
                "{{volumes: [{{name: mine, {source}}}], containers: [{{name: app}}]}}"
            ));
            refuses(&store(EPHEMERAL), &aliased, Reason::PrivateVolume, &secret);
        }
    }
    accepts(
        &store(EPHEMERAL),
        &app("envFrom: [{secretRef: {name: cxs-other-keyring}}]"),
    );
    // A keyring that the user brings is the sidecar's alone too.
    let own = store("{encryption: {keys: {secretRef: {name: mine}}}}");
    let env = app("envFrom: [{secretRef: {name: mine}}]");
    refuses(&own, &env, Reason::PrivateVolume, "Secret mine");
    let volume = pod(
        "{volumes: [{name: x, projected: {sources: [{secret: {name: mine}}]}}], containers: [{name: app}]}",
    );
    refuses(&own, &volume, Reason::PrivateVolume, "Secret mine");
    accepts(&store(EPHEMERAL), &env);
}

#[test]
fn the_validating_webhook_sees_what_others_added_after_us() {
    let mut injected = accepts(&store(EPHEMERAL), &plain());
    let mount = serde_json::json!([{"name": "codexstore-keyring", "mountPath": "/keys"}]);
    injected.spec.as_mut().unwrap().containers[0].volume_mounts =
        serde_json::from_value(mount).unwrap();
    refuses(
        &store(EPHEMERAL),
        &injected,
        Reason::PrivateVolume,
        "codexstore-keyring",
    );
}

#[test]
fn the_socket_is_read_only_for_the_app() {
    let with = |rest: &str| {
        let mut injected = accepts(&store(EPHEMERAL), &plain());
        let mount = format!("[{{name: codexstore-socket, mountPath: /sock{rest}}}]");
        injected.spec.as_mut().unwrap().containers[0].volume_mounts =
            serde_yaml::from_str(&mount).unwrap();
        injected
    };
    refuses(
        &store(EPHEMERAL),
        &with(""),
        Reason::PrivateVolume,
        "readOnly",
    );
    accepts(&store(EPHEMERAL), &with(", readOnly: true"));
}

#[test]
fn claims_of_members_are_not_mounted_under_another_name() {
    let with_claim = |name: &str| {
        pod(&format!(
            "{{volumes: [{{name: state, persistentVolumeClaim: {{claimName: other}}}}, {{name: mine, persistentVolumeClaim: {{claimName: {name}}}}}], containers: [{{name: app}}]}}"
        ))
    };
    for claim in ["cxs-orders-web-0", "cxs-orders-web-1"] {
        refuses(
            &store(CLAIM),
            &with_claim(claim),
            Reason::PrivateVolume,
            claim,
        );
    }
    accepts(&store(CLAIM), &with_claim("cxs-invoices-web-0"));
    refuses(
        &store(POD_VOLUME),
        &with_claim("other"),
        Reason::PrivateVolume,
        "volume mine",
    );
    accepts(&store(POD_VOLUME), &with_claim("another"));
}

#[test]
fn ephemeral_containers_do_not_see_what_is_the_sidecars() {
    let old = accepts(&store(EPHEMERAL), &plain());
    let on_own_volume = accepts(
        &store(POD_VOLUME),
        &pod("{volumes: [{name: state, emptyDir: {}}], containers: [{name: app}]}"),
    );
    let with = |old: &Pod, rest: &str| {
        let mut new = old.clone();
        let debug = format!("[{{name: debug, {rest}}}]");
        new.spec.as_mut().unwrap().ephemeral_containers =
            Some(serde_yaml::from_str(&debug).unwrap());
        new
    };
    for rest in [
        "volumeMounts: [{name: codexstore-data, mountPath: /x}]",
        "volumeMounts: [{name: codexstore-keyring, mountPath: /x, readOnly: true}]",
        "volumeMounts: [{name: codexstore-tls, mountPath: /x}]",
        "volumeMounts: [{name: codexstore-socket, mountPath: /x}]",
        "envFrom: [{secretRef: {name: cxs-orders-keyring}}]",
        "env: [{name: K, valueFrom: {secretKeyRef: {name: cxs-orders-ca, key: tls.key}}}]",
    ] {
        let refusal = check_ephemeral(&old, &with(&old, rest)).expect_err(rest);
        assert_eq!(refusal.reason, Reason::PrivateVolume, "{rest}");
    }
    let mount = "volumeMounts: [{name: state, mountPath: /x}]";
    check_ephemeral(&on_own_volume, &with(&on_own_volume, mount)).expect_err("the data's volume");
    for rest in [
        "image: busybox",
        "volumeMounts: [{name: codexstore-socket, mountPath: /x, readOnly: true}]",
    ] {
        check_ephemeral(&old, &with(&old, rest)).expect(rest);
    }
    let mut unlabelled = with(
        &old,
        "volumeMounts: [{name: codexstore-data, mountPath: /x}]",
    );
    unlabelled.metadata.labels = None;
    check_ephemeral(&old, &unlabelled).expect_err("the label can be taken off a running pod");
    for secret in ["keyring", "server", "ca", "client-operator"] {
        let env = format!("envFrom: [{{secretRef: {{name: cxs-orders-{secret}}}}}]");
        let mut unlabelled = with(&old, &env);
        unlabelled.metadata.labels = None;
        check_ephemeral(&old, &unlabelled).expect_err(secret);
    }
    let mine = "envFrom: [{secretRef: {name: mine}}]";
    check_ephemeral(&old, &with(&old, mine)).expect("it is nobody's");
    let own = store("{encryption: {keys: {secretRef: {name: mine}}}}");
    let own = accepts(&own, &plain());
    check_ephemeral(&own, &with(&own, mine)).expect_err("its keyring");
}

#[test]
fn an_ephemeral_container_does_not_target_the_sidecar() {
    let with = |old: &Pod, target: &str| {
        let mut new = old.clone();
        let debug = format!("[{{name: debug, targetContainerName: {target}}}]");
        new.spec.as_mut().unwrap().ephemeral_containers =
            Some(serde_yaml::from_str(&debug).unwrap());
        new
    };
    let old = accepts(&store(EPHEMERAL), &plain());
    let refusal = check_ephemeral(&old, &with(&old, "codexstore")).expect_err("its processes");
    assert_eq!(refusal.reason, Reason::PrivateProcess);
    check_ephemeral(&old, &with(&old, "app")).expect("a container of the user's");
    let another = pod("{initContainers: [{name: codexstore}], containers: [{name: app}]}");
    check_ephemeral(&another, &with(&another, "codexstore")).expect("not ours, but called so");
}

#[test]
fn the_data_is_not_mounted_by_another_volume_of_the_same_source() {
    let with = |data: &str, other: &str| {
        pod(&format!(
            "{{volumes: [{{name: state, {data}}}, {{name: mine, {other}}}], containers: [{{name: app}}]}}"
        ))
    };
    let csi = "csi: {driver: d, volumeAttributes: {share: x}}";
    for (data, other) in [
        ("hostPath: {path: /data}", "hostPath: {path: /data}"),
        (
            "hostPath: {path: /data}",
            "hostPath: {path: /data/, type: Directory}",
        ),
        ("hostPath: {path: /data}", "hostPath: {path: /data/x}"),
        ("hostPath: {path: /data/x}", "hostPath: {path: /}"),
        (
            "nfs: {server: s, path: /a}",
            "nfs: {server: s, path: /a/, readOnly: true}",
        ),
        (
            csi,
            "csi: {driver: d, readOnly: true, volumeAttributes: {share: x}}",
        ),
        (
            "ephemeral: {}",
            "persistentVolumeClaim: {claimName: web-0-state}",
        ),
        (
            "persistentVolumeClaim: {claimName: web-0-mine}",
            "ephemeral: {}",
        ),
        (
            "persistentVolumeClaim: {claimName: c}",
            "persistentVolumeClaim: {claimName: c, readOnly: true}",
        ),
        (
            "iscsi: {iqn: q, lun: 0, targetPortal: p}",
            "iscsi: {iqn: q, lun: 0, targetPortal: p}",
        ),
    ] {
        refuses(
            &store(POD_VOLUME),
            &with(data, other),
            Reason::PrivateVolume,
            "volume mine",
        );
        accepts(&store(EPHEMERAL), &with(data, other));
    }
    for (data, other) in [
        ("hostPath: {path: /data}", "hostPath: {path: /database}"),
        ("nfs: {server: s, path: /a}", "nfs: {server: t, path: /a}"),
        (csi, "csi: {driver: d, volumeAttributes: {share: y}}"),
        ("emptyDir: {}", "emptyDir: {}"),
        ("ephemeral: {}", "ephemeral: {}"),
        (
            "ephemeral: {}",
            "persistentVolumeClaim: {claimName: web-1-state}",
        ),
    ] {
        accepts(&store(POD_VOLUME), &with(data, other));
    }
}
