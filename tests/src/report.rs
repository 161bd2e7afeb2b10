//! What happened in the namespace of a failed test.

use std::fmt::Write;

use serde_json::Value;

use crate::namespace::Namespace;

const TAIL: usize = 40;

/// Pods, stores, events and logs of a namespace, and the operator's logs that name it.
pub fn of(ns: &Namespace) -> String {
    let mut text = format!("\n===== namespace {} =====\n", ns.name);
    let items = |resource: &str| {
        ns.get(resource)
            .ok()
            .and_then(|l| l["items"].as_array().cloned())
            .unwrap_or_default()
    };
    for store in items("codexstores") {
        let _ = writeln!(
            text,
            "store {}: {}",
            store["metadata"]["name"], store["status"]
        );
    }
    let pods = items("pods");
    for pod in &pods {
        let _ = writeln!(text, "{}", pod_line(pod));
    }
    for event in items("events") {
        let object = &event["involvedObject"];
        let _ = writeln!(
            text,
            "event {}/{} {}: {}",
            object["kind"], object["name"], event["reason"], event["message"]
        );
    }
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let containers = pod["spec"]["initContainers"]
            .as_array()
            .into_iter()
            .flatten();
        for container in
            containers.chain(pod["spec"]["containers"].as_array().into_iter().flatten())
        {
            let container = container["name"].as_str().unwrap_or_default();
            let _ = writeln!(
                text,
                "--- log of {name}/{container}\n{}",
                tail(&ns.log(name, container))
            );
        }
    }
    for (pod, log) in ns.cluster.operator_logs() {
        let ours: Vec<_> = log.lines().filter(|l| l.contains(&ns.name)).collect();
        let _ = writeln!(
            text,
            "--- log of {pod} about it\n{}",
            tail(&ours.join("\n"))
        );
    }
    text
}

/// A pod in one line: phase and, of each container, its state.
pub fn pod_line(pod: &Value) -> String {
    let status = &pod["status"];
    let mut line = format!("pod {}: {}", pod["metadata"]["name"], status["phase"]);
    if let Some(reason) = status["reason"].as_str() {
        let _ = write!(line, " {reason} {}", status["message"]);
    }
    for list in ["initContainerStatuses", "containerStatuses"] {
        for c in status[list].as_array().into_iter().flatten() {
            let _ = write!(
                line,
                " | {} ready={} restarts={} {}",
                c["name"], c["ready"], c["restartCount"], c["state"]
            );
        }
    }
    if status["containerStatuses"].is_null() {
        let _ = write!(line, " {}", status["conditions"]);
    }
    line
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
