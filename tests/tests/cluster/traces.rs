//! Spans of members, at an OpenTelemetry collector in the cluster.

use codexstore_tests::{Namespace, namespace, objects, wait};
use serde_json::json;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

const CONFIG: &str = "
receivers: {otlp: {protocols: {grpc: {endpoint: '0.0.0.0:4317'}}}}
exporters: {debug: {verbosity: detailed, sampling_initial: 1000000}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}
";

/// A collector, `otel` in the namespace, which prints whole what it takes.
fn collector(ns: &Namespace) {
    let image = std::env::var("CODEXSTORE_TEST_OTEL_IMAGE")
        .unwrap_or_else(|_| "localhost/codexstore-test-otel:1".into());
    ns.create(
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "otel"},
        "data": {"config.yaml": CONFIG}}),
    );
    let mut spec = objects::pod_spec(objects::IDLE);
    let container = &mut spec["containers"][0];
    container["image"] = json!(image);
    container["args"] = json!(["--config", "/etc/otel/config.yaml"]);
    container["volumeMounts"] = json!([{"name": "config", "mountPath": "/etc/otel"}]);
    container["readinessProbe"] = json!({"tcpSocket": {"port": 4317}, "periodSeconds": 1});
    container.as_object_mut().unwrap().remove("command");
    spec["volumes"] = json!([{"name": "config", "configMap": {"name": "otel"}}]);
    ns.create(&objects::pod_with("otel", None, spec));
    ns.create(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "otel"}, "spec": {
        "selector": {"app": "otel"}, "ports": [{"port": 4317}]}}),
    );
    ns.pod_ready("otel");
}

#[test]
fn spans_of_a_member_reach_a_collector_by_its_name_and_tell_no_key_or_value() {
    let Some(ns) = namespace("traces") else {
        return;
    };
    collector(&ns);
    let endpoint = format!("http://otel.{}:4317", ns.name);
    ns.store("orders", json!({"tracing": {"endpoint": endpoint}}));
    ns.create(&objects::pod("app", Some("orders")));
    ns.pod_ready("app");
    // A node takes up a Service a moment later, and spans that come before that are dropped.
    wait::until("the collector is reached", wait::SHORT, || {
        let to = format!("timeout 5 socat -u /dev/null TCP:otel.{}:4317", ns.name);
        let tried = ns.sh("app", "app", &to);
        if tried.ok { Ok(()) } else { Err(tried.err) }
    });
    let put = ns.http(
        "app",
        &format!(
            "-X PUT -d canary-value -H 'traceparent: 00-{TRACE}-{PARENT}-01' http://s/v1/keys/canary-key"
        ),
    );
    assert_eq!(put.status, 201, "{put:?}");
    assert_eq!(ns.put("app", "canary-other", "canary-value"), 201);
    let lines = [
        "Name           : PUT /v1/keys/{key}".to_owned(),
        format!("Trace ID       : {TRACE}"),
        format!("Parent ID      : {PARENT}"),
        "Name           : commit".to_owned(),
        "-> service.name: Str(codexstore)".to_owned(),
        format!("-> k8s.namespace.name: Str({})", ns.name),
        "-> k8s.pod.name: Str(app)".to_owned(),
        "-> codexstore.store.name: Str(orders)".to_owned(),
    ];
    // A log is written line by line.
    let printed = wait::until("the spans are there", wait::SHORT, || {
        let printed = ns.log("otel", "app");
        match lines.iter().find(|line| !printed.contains(line.as_str())) {
            None => Ok(printed),
            Some(line) => {
                let said = ns.log("app", "codexstore");
                Err(format!("{line} is not in {printed}\n{said}"))
            }
        }
    });
    assert_eq!(
        printed.matches("Kind           : Server").count(),
        1,
        "only what the app traces"
    );
    assert!(!printed.contains("canary"), "{printed}");

    // Another collector is another setting: the pod is one of before.
    let other =
        json!({"spec": {"tracing": {"endpoint": "http://otel:4317", "samplingRatePerMillion": 1}}});
    ns.patch("codexstores/orders", &other);
    ns.status("orders", "the pod is outdated", |status| {
        status["members"][0]["outdated"] == true
    });
    let tls = objects::store("tls", json!({"tracing": {"endpoint": "https://otel:4317"}}));
    let refused = ns.try_create(&tls).expect_err("TLS was accepted");
    let words = "write for example http://otel-collector.observability:4317";
    assert!(refused.message.contains(words), "{refused}");
}
