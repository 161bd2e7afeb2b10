//! What the webhook makes of a pod, and that it keeps what the user set.

use codexstore_tests::objects::{self, IDLE, container};
use codexstore_tests::{namespace, wait};
use serde_json::{Value, json};

#[test]
fn a_namespace_that_enforces_the_restricted_standard_admits_an_injected_pod() {
    let Some(ns) = namespace("restricted") else {
        return;
    };
    ns.store("orders", json!({}));
    // The namespace refuses what is not restricted: the test must be able to fail.
    let mut lax = objects::pod("lax", None);
    lax["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    assert!(
        ns.try_create(&lax)
            .unwrap_err()
            .message
            .contains("PodSecurity")
    );
    ns.create(&objects::pod("app", Some("orders")));
    let pod = ns.pod_ready("app");
    let sidecar = sidecar(&pod);
    assert_eq!(sidecar["restartPolicy"], "Always");
    let context = &sidecar["securityContext"];
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    for kind in ["requests", "limits"] {
        assert!(
            sidecar["resources"][kind]["memory"].is_string(),
            "no memory in {kind}"
        );
    }
}

#[test]
fn containers_of_different_users_share_the_socket_and_cannot_remove_it() {
    let Some(ns) = namespace("uids") else { return };
    ns.privileged();
    ns.store("orders", json!({}));
    let mut spec = objects::pod_spec(IDLE);
    spec["securityContext"] = json!({});
    let mut containers = Vec::new();
    for (name, uid) in [("app", 10_001), ("other", 20_002), ("root", 0)] {
        let mut c = container(name, IDLE);
        c["securityContext"]["runAsUser"] = json!(uid);
        containers.push(c);
    }
    spec["containers"] = json!(containers);
    ns.create(&objects::pod_with("app", Some("orders"), spec));
    ns.pod_ready("app");
    for name in ["app", "other", "root"] {
        let put = ns.http_in(
            "app",
            name,
            &format!("-X PUT -d {name} http://s/v1/keys/by-{name}"),
        );
        assert_eq!(put.status, 201, "{name}: {put:?}");
        let gone = ns.sh("app", name, "rm -f $CODEXSTORE_SOCKET");
        assert!(!gone.ok, "{name} may remove the socket");
    }
    for name in ["app", "other", "root"] {
        assert_eq!(
            ns.value("app", &format!("by-{name}")).as_deref(),
            Some(name)
        );
    }
}

#[test]
fn an_app_image_without_a_shell_works() {
    let Some(ns) = namespace("no-shell") else {
        return;
    };
    ns.store("orders", json!({}));
    // The operator's image is FROM scratch, with codexctl beside the operator: nothing else to run.
    let image = ns.cluster.operator_pods()[0]["spec"]["containers"][0]["image"].clone();
    let step = |name: &str, command: Value| {
        let mut c = container(name, "");
        c["image"] = image.clone();
        c["command"] = command;
        c
    };
    let mut spec = objects::pod_spec("");
    spec["restartPolicy"] = json!("Never");
    spec["initContainers"] = json!([step(
        "put",
        json!(["/codexctl", "set", "greeting", "no shell here"])
    )]);
    spec["containers"] = json!([step("app", json!(["/codexctl", "get", "greeting"]))]);
    ns.create(&objects::pod_with("app", Some("orders"), spec));
    ns.pod_succeeded("app");
    assert_eq!(ns.log("app", "app").trim_end(), "no shell here");
}

#[test]
fn the_webhook_applied_to_its_own_result_changes_nothing() {
    let Some(ns) = namespace("twice") else { return };
    ns.privileged();
    ns.store("orders", json!({}));
    let mut host = objects::pod_spec(IDLE);
    host["hostNetwork"] = json!(true);
    let mut two = objects::pod_spec(IDLE);
    two["initContainers"] = json!([container("first", "true")]);
    two["containers"] = json!([container("app", IDLE), container("other", IDLE)]);
    for (name, spec) in [
        ("plain", objects::pod_spec(IDLE)),
        ("host", host),
        ("two", two),
    ] {
        let once = ns
            .dry_run(&objects::pod_with(name, Some("orders"), spec))
            .unwrap();
        assert_eq!(sidecar(&once)["name"], "codexstore");
        let mut again = json!({"apiVersion": "v1", "kind": "Pod", "spec": once["spec"]});
        for field in ["name", "labels", "annotations"] {
            again["metadata"][field] = once["metadata"][field].clone();
        }
        let twice = ns.dry_run(&again).unwrap();
        assert_eq!(once["spec"], twice["spec"], "{name}");
        assert_eq!(
            once["metadata"]["annotations"], twice["metadata"]["annotations"],
            "{name}"
        );
    }
}

#[test]
fn defaults_and_quotas_of_the_namespace_hold_for_an_injected_pod() {
    let Some(ns) = namespace("limits") else {
        return;
    };
    ns.store("orders", json!({}));
    // A limit that the namespace wants of each container is one that the store does not set.
    ns.create(
        &json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "cpu"}, "spec": {"limits": [
            {"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "5m"}, "max": {"cpu": "1"}}]}}),
    );
    ns.create(
        &json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "cpu"}, "spec": {
            "hard": {"limits.cpu": "2"}}}),
    );
    wait::until("the quota is counted", wait::SHORT, || {
        let quota = ns.get("resourcequotas/cpu").map_err(|e| e.to_string())?;
        match &quota["status"]["hard"]["limits.cpu"] {
            Value::Null => Err(quota.to_string()),
            _ => Ok(()),
        }
    });
    ns.create(&objects::pod("app", Some("orders")));
    let pod = ns.pod_ready("app");
    assert_eq!(sidecar(&pod)["resources"]["limits"]["cpu"], "200m");
    assert_eq!(ns.put("app", "k", "v"), 201);
}

#[test]
fn a_container_of_the_same_user_and_process_namespace_reaches_neither_keys_nor_files() {
    let Some(ns) = namespace("shared-pids") else {
        return;
    };
    ns.store("orders", json!({}));
    let mut spec = objects::pod_spec(IDLE);
    spec["shareProcessNamespace"] = json!(true);
    spec["securityContext"]["runAsUser"] = json!(65532);
    spec["securityContext"]["runAsGroup"] = json!(65532);
    ns.create(&objects::pod_with("app", Some("orders"), spec));
    ns.pod_ready("app");
    // Runs a command with $p as the sidecar's directory below /proc; what it prints.
    let near = |command: &str| {
        let script = format!(
            "for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" in \
             /codexstore-sidecar\\ run*) {command};; esac; done"
        );
        ns.sh("app", "app", &script).out
    };
    assert!(
        near("echo $p").contains("/proc/"),
        "the app does not see the sidecar: nothing was tried"
    );
    for attempt in [
        "head -c 1 $p/root/etc/codexstore/keyring/current",
        "ls $p/root/var/lib/codexstore",
        "head -c 1 $p/environ",
        "head -c 1 $p/mem",
        "ls $p/fd/",
    ] {
        assert_eq!(near(attempt), "", "{attempt}");
    }
}

#[test]
fn what_the_user_set_is_kept() {
    let Some(ns) = namespace("kept") else { return };
    ns.store("orders", json!({}));
    let mut spec = objects::pod_spec(IDLE);
    spec["securityContext"]["fsGroup"] = json!(4321);
    spec["securityContext"]["fsGroupChangePolicy"] = json!("Always");
    spec["containers"][0]["env"] =
        json!([{"name": "CODEXSTORE_SOCKET", "value": "/mine"}, {"name": "A", "value": "b"}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    spec["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    spec["initContainers"] = json!([container("mine", "true")]);
    spec["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
    let user = objects::pod_with("app", Some("orders"), spec);
    let pod = ns.dry_run(&user).unwrap();
    assert_eq!(
        pod["spec"]["securityContext"],
        user["spec"]["securityContext"]
    );
    assert_eq!(
        pod["metadata"]["annotations"]["codexstore.dev/fs-group"],
        Value::Null
    );
    let app = &pod["spec"]["containers"][0];
    assert_eq!(env(app, "CODEXSTORE_SOCKET"), "/mine");
    assert_eq!(env(app, "A"), "b");
    let mounts = app["volumeMounts"].as_array().unwrap();
    assert!(
        mounts
            .iter()
            .any(|m| m["name"] == "scratch" && m["mountPath"] == "/scratch")
    );
    // Ours is first, the user's follow in their order.
    let order: Vec<_> = pod["spec"]["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(order, ["codexstore", "mine"]);
    assert!(
        pod["spec"]["tolerations"]
            .as_array()
            .unwrap()
            .iter()
            .any(|t| t["key"] == "a")
    );

    // Where the user set none, the pod gets one, and says so.
    let pod = ns.dry_run(&objects::pod("plain", Some("orders"))).unwrap();
    assert_eq!(pod["spec"]["securityContext"]["fsGroup"], 65532);
    assert_eq!(
        pod["spec"]["securityContext"]["fsGroupChangePolicy"],
        "OnRootMismatch"
    );
    assert_eq!(
        pod["metadata"]["annotations"]["codexstore.dev/fs-group"],
        "65532"
    );
}

#[test]
fn the_users_init_containers_and_each_container_use_the_socket() {
    let Some(ns) = namespace("several") else {
        return;
    };
    ns.store("orders", json!({}));
    let mut spec = objects::pod_spec(IDLE);
    let put = "curl -sf --unix-socket $CODEXSTORE_SOCKET -X PUT -d early http://s/v1/keys/init";
    spec["initContainers"] = json!([container("migrate", put)]);
    spec["containers"] = json!([container("app", IDLE), container("other", IDLE)]);
    ns.create(&objects::pod_with("app", Some("orders"), spec));
    ns.pod_ready("app");
    assert_eq!(ns.value("app", "init").as_deref(), Some("early"));
    assert_eq!(
        ns.http_in("app", "other", "http://s/v1/keys/init").body,
        "early"
    );
}

#[test]
fn an_annotation_narrows_the_containers_that_get_the_socket() {
    let Some(ns) = namespace("narrow") else {
        return;
    };
    ns.store("orders", json!({}));
    let mut pod = objects::pod("app", Some("orders"));
    pod["spec"]["containers"] = json!([container("app", IDLE), container("other", IDLE)]);
    pod["metadata"]["annotations"] = json!({"codexstore.dev/containers": "app"});
    let made = ns.dry_run(&pod).unwrap();
    assert!(mounts(&made["spec"]["containers"][0]).contains(&"codexstore-socket".to_string()));
    assert!(!mounts(&made["spec"]["containers"][1]).contains(&"codexstore-socket".to_string()));
    pod["metadata"]["annotations"] = json!({"codexstore.dev/containers": "app,typo"});
    let message = ns.refused(&pod);
    assert!(message.contains("typo"), "{message}");
}

#[test]
fn pods_on_the_host_network_have_ports_that_do_not_collide() {
    let Some(ns) = namespace("hostnet") else {
        return;
    };
    ns.privileged();
    ns.store("orders", json!({}));
    for name in ["one", "two"] {
        let mut spec = objects::pod_spec(IDLE);
        spec["hostNetwork"] = json!(true);
        ns.create(&objects::pod_with(name, Some("orders"), spec));
    }
    let ports: Vec<_> = ["one", "two"]
        .map(|name| admin_port(&ns.pod_ready(name)))
        .to_vec();
    assert_ne!(ports[0], ports[1]);
    for port in ports {
        assert!((20_000..30_000).contains(&port), "{port}");
    }
    // The operator reaches both.
    ns.status("orders", "both members answer", |s| s["ready"] == "2/2");
}

#[test]
fn the_sidecar_has_no_api_token_and_nobody_else_has_its_volumes() {
    let Some(ns) = namespace("token") else { return };
    ns.store("orders", json!({}));
    ns.create(&objects::pod("app", Some("orders")));
    let pod = ns.pod_ready("app");
    let tokens = "/var/run/secrets/kubernetes.io/serviceaccount";
    let at = |c: &Value| -> Vec<String> {
        let all = c["volumeMounts"].as_array().into_iter().flatten();
        all.filter(|m| m["mountPath"] == tokens)
            .filter_map(|m| m["name"].as_str().map(String::from))
            .collect()
    };
    assert_eq!(at(&sidecar(&pod)), ["codexstore-no-token"]);
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let hidden = volumes
        .iter()
        .find(|v| v["name"] == "codexstore-no-token")
        .unwrap();
    assert!(hidden["emptyDir"].is_object(), "{hidden}");
    for volume in volumes.iter().filter(|v| !v["projected"].is_null()) {
        assert!(
            !mounts(&sidecar(&pod)).contains(&volume["name"].as_str().unwrap().to_string()),
            "{volume}"
        );
    }
    // The app keeps its own token: the test would pass on a cluster that mounts none.
    assert!(ns.sh("app", "app", &format!("test -s {tokens}/token")).ok);
    let app = mounts(&pod["spec"]["containers"][0]);
    for secret in ["codexstore-data", "codexstore-keyring", "codexstore-tls"] {
        assert!(!app.contains(&secret.to_string()), "{secret} in the app");
    }
    assert!(
        !ns.sh(
            "app",
            "app",
            "ls /etc/codexstore/keyring /var/lib/codexstore"
        )
        .ok
    );
}

fn admin_port(pod: &Value) -> u64 {
    let sidecar = sidecar(pod);
    let port = &sidecar["ports"][0];
    assert_eq!(
        port["containerPort"], port["hostPort"],
        "the scheduler must know of it"
    );
    port["containerPort"].as_u64().unwrap()
}

fn sidecar(pod: &Value) -> Value {
    let first = pod["spec"]["initContainers"][0].clone();
    assert_eq!(first["name"], "codexstore", "the sidecar comes first");
    first
}

fn env(container: &Value, name: &str) -> Value {
    let found: Vec<_> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["name"] == name)
        .collect();
    assert_eq!(found.len(), 1, "{name} is set {} times", found.len());
    found[0]["value"].clone()
}

fn mounts(container: &Value) -> Vec<String> {
    let all = container["volumeMounts"].as_array().into_iter().flatten();
    all.filter_map(|m| m["name"].as_str().map(String::from))
        .collect()
}
