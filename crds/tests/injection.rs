//! What a pod looks like after admission.

mod common;

use codexstore_crds::{admin_port, inject, is_injected, names, spec_hash};
use common::{accepts, annotated, config, container, env, mounts, plain, pod, store, volume};

#[test]
fn the_sidecar_is_the_first_init_container_and_native() {
    let pod = accepts(
        &store("{}"),
        &pod("{initContainers: [{name: prepare}], containers: [{name: app}]}"),
    );
    let inits = pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap();
    let order: Vec<_> = inits.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(order, ["codexstore", "prepare"]);
    assert_eq!(inits[0].restart_policy.as_deref(), Some("Always"));
    let startup = inits[0].startup_probe.as_ref().unwrap();
    let command = startup.exec.as_ref().unwrap().command.as_ref().unwrap();
    assert_eq!(
        command,
        &["/codexstore-sidecar", "ping", "--ready"],
        "the app waits until the store serves"
    );
    assert!(is_injected(&pod));
}

#[test]
fn every_container_gets_the_socket_read_only_and_its_path() {
    let pod = accepts(
        &store("{}"),
        &pod("{initContainers: [{name: prepare}], containers: [{name: app}, {name: helper}]}"),
    );
    for name in ["prepare", "app", "helper"] {
        let c = container(&pod, name);
        assert_eq!(
            mounts(c),
            [("codexstore-socket", "/run/codexstore")],
            "{name}"
        );
        assert_eq!(
            c.volume_mounts.as_ref().unwrap()[0].read_only,
            Some(true),
            "{name}"
        );
        assert_eq!(
            env(c, "CODEXSTORE_SOCKET"),
            Some("/run/codexstore/codexstore.sock"),
            "{name}"
        );
        assert_eq!(
            env(c, "CODEXSTORE_REDIS_SOCKET"),
            Some("/run/codexstore/redis.sock"),
            "{name}"
        );
    }
}

#[test]
fn the_annotation_narrows_who_gets_the_socket() {
    let pod = accepts(
        &store("{}"),
        &annotated(
            r#"{codexstore.dev/containers: "app, prepare"}"#,
            "{initContainers: [{name: prepare}], containers: [{name: app}, {name: helper}]}",
        ),
    );
    for (name, has) in [("prepare", true), ("app", true), ("helper", false)] {
        assert_eq!(!mounts(container(&pod, name)).is_empty(), has, "{name}");
        assert_eq!(
            env(container(&pod, name), "CODEXSTORE_SOCKET").is_some(),
            has,
            "{name}"
        );
    }
}

#[test]
fn what_the_user_set_is_kept() {
    let before = pod(
        "{securityContext: {fsGroup: 2000}, volumes: [{name: mine, emptyDir: {}}], containers: [{name: app, \
         image: shop, env: [{name: CODEXSTORE_SOCKET, value: /elsewhere}], volumeMounts: [{name: mine, mountPath: /run}]}]}",
    );
    let pod = accepts(&store("{}"), &before);
    let app = container(&pod, "app");
    assert_eq!(env(app, "CODEXSTORE_SOCKET"), Some("/elsewhere"));
    assert_eq!(
        mounts(app),
        [("mine", "/run"), ("codexstore-socket", "/run/codexstore")]
    );
    assert_eq!(app.image.as_deref(), Some("shop"));
    assert_eq!(volume(&pod, "mine"), volume(&before, "mine"));
    let context = pod
        .spec
        .as_ref()
        .unwrap()
        .security_context
        .as_ref()
        .unwrap();
    assert_eq!(
        (context.fs_group, context.fs_group_change_policy.as_ref()),
        (Some(2000), None)
    );
    let annotations = pod.metadata.annotations.as_ref().unwrap();
    assert!(!annotations.contains_key(names::FS_GROUP_ANNOTATION));
}

#[test]
fn a_pod_without_fs_group_gets_ours_and_a_note() {
    let pod = accepts(&store("{}"), &plain());
    let context = pod
        .spec
        .as_ref()
        .unwrap()
        .security_context
        .as_ref()
        .unwrap();
    assert_eq!(context.fs_group, Some(65532));
    assert_eq!(
        context.fs_group_change_policy.as_deref(),
        Some("OnRootMismatch")
    );
    let annotations = pod.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[names::FS_GROUP_ANNOTATION], "65532");
    assert_eq!(annotations[names::INJECTED_BY_ANNOTATION], "1.0.0");
    assert_eq!(
        annotations[names::SPEC_HASH_ANNOTATION],
        spec_hash(&store("{}"))
    );
}

#[test]
fn the_sidecar_passes_restricted_whatever_the_pod_says() {
    let pod = accepts(
        &store("{}"),
        &pod(
            "{securityContext: {runAsUser: 0, runAsNonRoot: false, seccompProfile: {type: Unconfined}}, containers: [{name: app}]}",
        ),
    );
    let context = container(&pod, "codexstore")
        .security_context
        .clone()
        .unwrap();
    assert_eq!(context.run_as_non_root, Some(true));
    assert_eq!(context.run_as_user, Some(65532));
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    assert_eq!(context.capabilities.unwrap().drop.unwrap(), ["ALL"]);
    assert_eq!(context.seccomp_profile.unwrap().type_, "RuntimeDefault");
}

#[test]
fn keys_certificates_data_and_token_are_as_they_should_be() {
    let pod = accepts(&store("{}"), &plain());
    let sidecar = container(&pod, "codexstore");
    assert_eq!(
        mounts(sidecar),
        [
            ("codexstore-socket", "/run/codexstore"),
            ("codexstore-data", "/var/lib/codexstore"),
            ("codexstore-keyring", "/etc/codexstore/keyring"),
            ("codexstore-tls", "/etc/codexstore/tls"),
            (
                "codexstore-no-token",
                "/var/run/secrets/kubernetes.io/serviceaccount"
            ),
        ]
    );
    for (name, secret) in [
        ("codexstore-keyring", "cxs-orders-keyring"),
        ("codexstore-tls", "cxs-orders-server"),
    ] {
        let source = volume(&pod, name).secret.as_ref().unwrap();
        assert_eq!(source.secret_name.as_deref(), Some(secret));
        assert_eq!(
            (source.default_mode, source.items.as_ref()),
            (Some(0o444), None),
            "whole, and readable"
        );
    }
    for name in ["codexstore-socket", "codexstore-no-token"] {
        assert_eq!(
            volume(&pod, name)
                .empty_dir
                .as_ref()
                .unwrap()
                .medium
                .as_deref(),
            Some("Memory")
        );
    }
    for name in [
        "CODEXSTORE_POD_UID",
        "CODEXSTORE_POD_NAME",
        "CODEXSTORE_NAMESPACE",
    ] {
        let var = sidecar
            .env
            .iter()
            .flatten()
            .find(|e| e.name == name)
            .unwrap();
        assert!(
            var.value_from.as_ref().unwrap().field_ref.is_some(),
            "{name}"
        );
    }
}

#[test]
fn a_keyring_that_the_user_brings_is_mounted_in_the_place_of_ours() {
    let pod = accepts(
        &store("{encryption: {keys: {secretRef: {name: mine}}}}"),
        &plain(),
    );
    let source = volume(&pod, "codexstore-keyring").secret.as_ref().unwrap();
    assert_eq!(source.secret_name.as_deref(), Some("mine"));
    assert_eq!(
        (source.default_mode, source.items.as_ref()),
        (Some(0o444), None)
    );
    let mounted = |name: &str| {
        let by = mounts(container(&pod, name));
        by.iter().any(|(name, _)| *name == "codexstore-keyring")
    };
    assert!(mounted("codexstore") && !mounted("app"));
}

#[test]
fn of_a_passphrases_secret_only_that_entry_is_mounted() {
    let of = |keys: &str| {
        let spec = format!("{{encryption: {{keys: {keys}}}}}");
        accepts(&store(&spec), &plain())
    };
    let pod = of("{passphraseRef: {name: mine, key: words}}");
    let source = volume(&pod, "codexstore-keyring").secret.as_ref().unwrap();
    assert_eq!(source.secret_name.as_deref(), Some("mine"));
    let items = source.items.as_deref().unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!((&*items[0].key, &*items[0].path), ("words", "passphrase"));
    let file = |pod: &k8s_openapi::api::core::v1::Pod| {
        let sidecar = container(pod, names::CONTAINER);
        env(sidecar, "CODEXSTORE_PASSPHRASE_FILE").map(str::to_owned)
    };
    assert_eq!(
        file(&pod).as_deref(),
        Some("/etc/codexstore/keyring/passphrase")
    );
    assert_eq!(file(&of("{secretRef: {name: mine}}")), None);
}

#[test]
fn each_kind_of_volume_holds_the_data() {
    let pod_spec = "{volumes: [{name: state, emptyDir: {}}], containers: [{name: app}]}";
    let data = |spec: &str| {
        let pod = accepts(&store(spec), &pod(pod_spec));
        let mounted = mounts(container(&pod, "codexstore"));
        let (name, _) = mounted
            .iter()
            .find(|(_, path)| *path == "/var/lib/codexstore")
            .unwrap();
        volume(&pod, name).clone()
    };
    let ephemeral = data("{volume: {ephemeral: {sizeLimit: 2Gi}}}");
    assert_eq!(ephemeral.empty_dir.unwrap().size_limit.unwrap().0, "2Gi");
    let claim = data("{volume: {claim: {size: 1Gi}}}");
    assert_eq!(
        claim.persistent_volume_claim.unwrap().claim_name,
        "cxs-orders-web-0"
    );
    assert_eq!(data("{volume: {podVolume: state}}").name, "state");
}

#[test]
fn an_unencrypted_store_needs_no_keyring() {
    let mut store = store("{encryption: {none: {}}}");
    store.status = None;
    let pod = accepts(&store, &plain());
    let sidecar = container(&pod, "codexstore");
    assert!(
        mounts(sidecar)
            .iter()
            .all(|(name, _)| *name != "codexstore-keyring")
    );
    assert_eq!(env(sidecar, "CODEXSTORE_NO_ENCRYPTION"), Some("true"));
}

#[test]
fn resources_come_from_the_spec() {
    let pod = accepts(
        &store("{resources: {requests: {cpu: 1}, limits: {cpu: 2, memory: 512Mi}}}"),
        &plain(),
    );
    let sidecar = container(&pod, "codexstore");
    let resources = serde_json::to_value(sidecar.resources.as_ref().unwrap()).unwrap();
    assert_eq!(
        resources,
        serde_json::json!({"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "2", "memory": "512Mi"}})
    );
    assert_eq!(
        env(sidecar, "CODEXSTORE_MAX_MEMORY"),
        Some("375809638"),
        "70 %"
    );
}

#[test]
fn the_admin_port_is_free_in_the_pod() {
    let simple = accepts(&store("{}"), &plain());
    assert_eq!(admin_port(&simple), Some(7433));
    let taken = pod("{containers: [{name: app, ports: [{containerPort: 7433}]}]}");
    let moved = accepts(&store("{}"), &taken);
    assert_eq!(admin_port(&moved), Some(7434));
    assert_eq!(
        env(container(&moved, "codexstore"), "CODEXSTORE_ADMIN_LISTEN"),
        Some("[::]:7434")
    );
}

#[test]
fn on_the_hosts_network_the_seed_chooses_the_port() {
    let host = pod("{hostNetwork: true, containers: [{name: app}]}");
    let injected = |seed: &str| inject(&host, &store("{}"), &config(), seed).unwrap();
    accepts(&store("{}"), &host);
    let ports: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|s| admin_port(&injected(s)).unwrap())
        .collect();
    assert!(
        ports.iter().all(|p| (20_000..30_000).contains(p)),
        "{ports:?}"
    );
    assert!(
        ports[0] != ports[1] || ports[1] != ports[2],
        "spread: {ports:?}"
    );
    assert_eq!(
        admin_port(&injected("a")),
        Some(ports[0]),
        "same seed, same port"
    );
    let port = container(&injected("a"), "codexstore")
        .ports
        .clone()
        .unwrap()
        .remove(0);
    assert_eq!(
        port.host_port,
        Some(port.container_port),
        "so that the scheduler keeps two pods off it"
    );

    let busy = format!(
        "{{hostNetwork: true, containers: [{{name: app, ports: [{{containerPort: {0}, hostPort: {0}}}]}}]}}",
        ports[0]
    );
    let moved = inject(&pod(&busy), &store("{}"), &config(), "a").unwrap();
    assert_ne!(
        admin_port(&moved),
        Some(ports[0]),
        "not one that the pod uses itself"
    );
}

#[test]
fn what_other_webhooks_added_is_kept_when_called_again() {
    let mut between = accepts(&store("{}"), &plain());
    let spec = between.spec.as_mut().unwrap();
    let mesh = serde_json::from_value(serde_json::json!({"name": "mesh"})).unwrap();
    spec.init_containers.as_mut().unwrap().insert(0, mesh);
    let sidecar = &mut spec.init_containers.as_mut().unwrap()[1];
    sidecar.image = Some("mirror.example/sidecar:1".to_owned());
    let added = serde_json::json!({"name": "HTTPS_PROXY", "value": "x"});
    sidecar
        .env
        .as_mut()
        .unwrap()
        .push(serde_json::from_value(added).unwrap());

    let again = accepts(&store("{}"), &between);
    let sidecar = container(&again, "codexstore");
    assert_eq!(sidecar.image.as_deref(), Some("mirror.example/sidecar:1"));
    assert_eq!(env(sidecar, "HTTPS_PROXY"), Some("x"));
    assert_eq!(
        mounts(container(&again, "mesh")),
        [("codexstore-socket", "/run/codexstore")]
    );
    let inits = again
        .spec
        .as_ref()
        .unwrap()
        .init_containers
        .as_ref()
        .unwrap();
    assert_eq!(inits[0].name, "codexstore", "first again");
}

#[test]
fn a_pod_applied_again_from_its_yaml_is_brought_up_to_date() {
    let old = accepts(&store("{}"), &plain());
    let mut cfg = config();
    cfg.operator_version = "2.0.0".to_owned();
    cfg.sidecar_image = "registry.example/sidecar:2".to_owned();
    let now = store(
        "{durability: Interval, encryption: {keySize: 128}, volume: {ephemeral: {sizeLimit: 2Gi}}}",
    );
    let new = inject(&old, &now, &cfg, "seed").unwrap();
    let fresh = inject(&plain(), &now, &cfg, "seed").unwrap();
    assert_eq!(new, fresh);
}

#[test]
fn metrics_have_a_port_where_the_store_asks_for_it() {
    let ports = |spec: &str, pod_spec: &str| {
        let pod = accepts(&store(spec), &pod(pod_spec));
        let sidecar = container(&pod, names::CONTAINER);
        let listen = env(sidecar, "CODEXSTORE_METRICS_LISTEN").map(str::to_owned);
        let ports: Vec<_> = sidecar.ports.iter().flatten().cloned().collect();
        let named = |name: &str| {
            let found = ports.iter().find(|p| p.name.as_deref() == Some(name));
            found.map(|p| p.container_port)
        };
        (named("cxs-admin"), named("cxs-metrics"), listen)
    };
    let one = "{containers: [{name: app}]}";
    assert_eq!(ports("{}", one), (Some(7433), None, None));
    let listen = |port: u16| Some(format!("[::]:{port}"));
    assert_eq!(
        ports("{metrics: {}}", one),
        (Some(7433), Some(7434), listen(7434))
    );
    // The admin listener gives way, since the store says nothing of its port.
    let (admin, metrics, _) = ports("{metrics: {port: 7433}}", one);
    assert_eq!(metrics, Some(7433));
    assert_ne!(admin, Some(7433));
}

#[test]
fn spans_go_where_the_store_says_and_nowhere_without_it() {
    let settings = |spec: &str| {
        let pod = accepts(&store(spec), &pod("{containers: [{name: app}]}"));
        let sidecar = container(&pod, names::CONTAINER);
        let of = |name| env(sidecar, name).map(str::to_owned);
        (
            of("CODEXSTORE_OTLP_ENDPOINT"),
            of("CODEXSTORE_OTLP_SAMPLING_RATE_PER_MILLION"),
        )
    };
    assert_eq!(settings("{}"), (None, None));
    let endpoint = "http://otel-collector.observability:4317";
    let spec = format!("{{tracing: {{endpoint: \"{endpoint}\", samplingRatePerMillion: 1000}}}}");
    assert_eq!(
        settings(&spec),
        (Some(endpoint.to_owned()), Some("1000".to_owned()))
    );
}

#[test]
fn a_member_waits_for_its_backup_where_the_store_asks_for_it() {
    let waits = |spec: &str| {
        let pod = accepts(&store(spec), &pod("{containers: [{name: app}]}"));
        let sidecar = container(&pod, names::CONTAINER);
        env(sidecar, "CODEXSTORE_AWAIT_RESTORE").map(str::to_owned)
    };
    assert_eq!(waits("{}"), None);
    assert_eq!(waits("{restore: {onStart: Never}}"), None);
    assert_eq!(
        waits("{restore: {onStart: IfEmpty}}").as_deref(),
        Some("true")
    );
}
