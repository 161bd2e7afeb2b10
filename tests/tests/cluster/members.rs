//! What the store says of its members: drift, columns, events, and codexctl's view.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::run::{self, Output};
use codexstore_tests::{Cluster, namespace, path_of};
use serde_json::{Value, json};

use crate::protocol::sidecar_memory;

/// codexctl on this machine, with the test cluster.
pub fn codexctl(cluster: &Cluster, args: &[&str]) -> Output {
    run::run(&mut run::command(&binary(), args, &cluster.kubeconfig))
}

/// Where codexctl is.
pub fn binary() -> String {
    std::env::var("CODEXSTORE_TEST_CODEXCTL").unwrap_or_else(|_| {
        let target = run::root().join("target");
        let built = [
            "x86_64-unknown-linux-gnu/release/codexctl",
            "aarch64-unknown-linux-gnu/release/codexctl",
            "release/codexctl",
            "debug/codexctl",
        ];
        let found = built.iter().map(|b| target.join(b)).find(|p| p.exists());
        found
            .expect("codexctl is built: make images")
            .to_string_lossy()
            .into_owned()
    })
}

#[test]
fn a_spec_change_shows_members_as_outdated_and_codexctl_says_which() {
    let Some(ns) = namespace("drift") else {
        return;
    };
    ns.store("orders", json!({}));
    ns.create(&objects::deployment(
        "web",
        "orders",
        objects::pod_spec(IDLE),
    ));
    let old = ns.app_ready("web");
    let status = ns.status("orders", "one member", |s| s["ready"] == "1/1");
    assert_ne!(status["members"][0]["outdated"], true, "{status}");

    ns.patch(
        "codexstores/orders",
        &json!({"spec": {"durability": "Interval"}}),
    );
    let status = ns.status("orders", "the member is outdated", |s| {
        s["members"][0]["outdated"] == true
    });
    assert_eq!(status["members"][0]["pod"], old.as_str());
    assert_eq!(status["ready"], "1/1", "an outdated member still serves");
    let pod = format!("pod/{old}");
    let told = codexctl(ns.cluster, &["explain", &pod, "-n", &ns.name]).success("codexctl explain");
    assert!(told.contains("the sidecar is outdated"), "{told}");
    let told = codexctl(ns.cluster, &["explain", "cxs/orders", "-n", &ns.name]).out;
    let named = told
        .lines()
        .any(|l| l.contains("outdated") && l.contains(&old));
    assert!(named, "{told}");

    // A pod made by the new spec is up to date.
    ns.delete_and_wait(&format!("pods/{old}"));
    let new = ns.app_ready("web");
    ns.status("orders", "the new member is not outdated", |s| {
        s["members"][0]["pod"] == new.as_str()
            && s["members"][0]["outdated"] != true
            && s["ready"] == "1/1"
    });
    let told = codexctl(
        ns.cluster,
        &["explain", &format!("pod/{new}"), "-n", &ns.name],
    )
    .success("codexctl explain");
    assert!(!told.contains("outdated"), "{told}");
}

#[test]
fn codexctl_explains_why_a_pod_has_a_store_or_has_none() {
    let Some(ns) = namespace("explain") else {
        return;
    };
    ns.store("orders", json!({}));
    ns.create(&objects::pod("with", Some("orders")));
    ns.create(&objects::pod("without", None));
    ns.pod_ready("with");
    ns.pod_ready("without");
    let told =
        codexctl(ns.cluster, &["explain", "pod/with", "-n", &ns.name]).success("codexctl explain");
    assert!(told.contains("orders"), "{told}");
    let told = codexctl(ns.cluster, &["explain", "pod/without", "-n", &ns.name]);
    assert!(
        format!("{}{}", told.out, told.err).contains(objects::LABEL),
        "{told:?}"
    );
    let json = codexctl(
        ns.cluster,
        &["explain", "pod/with", "-n", &ns.name, "-o", "json"],
    )
    .success("-o json");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert!(json.is_object(), "{json}");
    let missing = codexctl(ns.cluster, &["explain", "pod/nobody", "-n", &ns.name]);
    assert!(!missing.ok && missing.err.contains("nobody"), "{missing:?}");
}

#[test]
fn the_columns_of_kubectl_get_are_those_of_the_conventions() {
    let Some(ns) = namespace("columns") else {
        return;
    };
    ns.store("orders", json!({}));
    ns.create(&objects::pod("app", Some("orders")));
    ns.pod_ready("app");
    let status = ns.status("orders", "one member", |s| {
        s["ready"] == "1/1" && s["phase"] == "Ephemeral"
    });
    let get = |args: &[&str]| {
        let out = ns
            .cluster
            .kubectl(&[&["-n", &ns.name, "get"], args].concat())
            .success("kubectl get");
        out.lines()
            .map(|l| l.split_whitespace().map(String::from).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    let table = get(&["cxs"]);
    assert_eq!(
        table[0],
        ["NAME", "READY", "STATUS", "KEY", "LAST-BACKUP", "AGE"]
    );
    assert_eq!(table[1][..3], ["orders", "1/1", "Ephemeral"]);
    assert_eq!(table[1][3], status["keyId"].as_str().unwrap());
    for column in ["STRATEGY", "KEYS", "BYTES"] {
        assert!(
            get(&["cxs", "-o", "wide"])[0].contains(&column.to_string()),
            "{column}"
        );
    }
    // One word for all that CodexStore has in a namespace.
    let crd = path_of("", "customresourcedefinitions/codexstores.codexstore.dev");
    let names = ns.cluster.get(&crd).unwrap()["spec"]["names"].clone();
    assert_eq!(names["categories"], json!(["codexstore"]));
    assert_eq!(names["shortNames"], json!(["cxs"]));
}

#[test]
fn children_carry_the_projects_labels_and_foreign_objects_are_left_alone() {
    let Some(ns) = namespace("foreign") else {
        return;
    };
    let foreign = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cxs-taken-keyring"}, "data": {"mine": "eA=="}});
    let before = ns.create(&foreign);
    ns.create(&objects::store("taken", json!({})));
    let lost = ns.condition_is("taken", "KeysReady", "False");
    assert!(
        lost["message"]
            .as_str()
            .unwrap()
            .contains("cxs-taken-keyring"),
        "{lost}"
    );
    assert_eq!(
        ns.get("secrets/cxs-taken-keyring").unwrap()["metadata"]["resourceVersion"],
        before["metadata"]["resourceVersion"]
    );

    ns.store("orders", json!({}));
    for secret in ["keyring", "ca", "server", "client-operator"] {
        let secret = ns.get(&format!("secrets/cxs-orders-{secret}")).unwrap();
        let labels = &secret["metadata"]["labels"];
        assert_eq!(
            labels["app.kubernetes.io/managed-by"], "codexstore-operator",
            "{secret}"
        );
        assert_eq!(labels["codexstore.dev/store"], "orders", "{secret}");
        let owned = !secret["metadata"]["ownerReferences"].is_null();
        assert_eq!(
            owned,
            secret["metadata"]["name"] != "cxs-orders-keyring",
            "only a keyring has no owner"
        );
    }
}

#[test]
fn a_fresh_sidecar_is_small_and_says_how_long_it_took_to_open_its_store() {
    let Some(ns) = namespace("fresh") else { return };
    ns.store("orders", json!({}));
    let mut spec = objects::pod_spec(IDLE);
    spec["shareProcessNamespace"] = json!(true);
    ns.create(&objects::pod_with("one", Some("orders"), spec));
    ns.pod_ready("one");
    // How long that may be is said by the benchmark `sidecar.ready`, with the machine to itself.
    let log = ns.log("one", "codexstore");
    let line = log.lines().find(|l| l.contains("the store is open"));
    let line = line.expect("the log says when it opened");
    let line: Value = serde_json::from_str(line).expect("logs are JSON");
    line["millis"].as_u64().expect("milliseconds");
    ns.status("orders", "it was asked for its state", |s| {
        s["readyMembers"] == 1
    });
    // Not the pages of the program, which all sidecars of a node share and the kernel may drop.
    let idle = sidecar_memory(&ns, "one", "RssAnon");
    assert!(idle < 8 << 20, "{idle} bytes");
}
