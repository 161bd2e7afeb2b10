//! The release that all tests share, used and changed.

use codexstore_tests::{Namespace, RELEASE, SYSTEM, exclusive, objects};
use serde_json::json;

use super::operator::upgrade;

#[test]
fn helm_test_puts_and_gets_through_a_socket() {
    // Alone: helm refuses a second operation on a release.
    let Some((cluster, _alone)) = exclusive() else {
        return;
    };
    cluster.operator_ready();
    let output = cluster.helm(&["-n", SYSTEM, "test", RELEASE, "--timeout=120s"]);
    if !output.ok {
        let pods = cluster.kubectl(&["get", "pods,events", "-A"]).out;
        panic!("helm test failed: {}{}\n{pods}", output.out, output.err);
    }
    assert!(output.out.contains("Succeeded"), "{}", output.out);
}

#[test]
fn a_list_of_namespaces_limits_operator_and_webhook() {
    let Some((cluster, _alone)) = exclusive() else {
        return;
    };
    let inside = Namespace::alone(cluster, "inside");
    let outside = Namespace::alone(cluster, "outside");
    let set = format!("--set=operator.namespaces={{{}}}", inside.name);
    upgrade(cluster, &[&set]);
    cluster.operator_ready();
    inside.store("orders", json!({}));
    let pod = objects::pod("app", Some("orders"));
    inside.create(&pod);
    inside.pod_ready("app");
    inside.status("orders", "its member is ready", |s| s["ready"] == "1/1");
    // Elsewhere neither the webhook nor the controller looks.
    outside.create(&objects::store("orders", json!({})));
    let untouched = outside.dry_run(&pod).expect("admitted as it is");
    assert!(untouched["spec"]["initContainers"].is_null());
    assert!(outside.get("codexstores/orders").expect("the store")["status"].is_null());
    upgrade(cluster, &["--reset-values"]);
    cluster.operator_ready();
    outside.condition_is("orders", "KeysReady", "True");
}
