//! Why a sidecar is not ready, and what to do.

use codexstore_api::status::State;
use codexstore_crds::{CodexStore, MemberStatus, admin_port, names, status::condition};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use serde::Deserialize;

use super::{
    pod::{Facts, sidecar},
    report::{Finding, Level},
};

/// Whether the sidecar serves, and what is to be said about that.
pub fn judge(facts: &Facts<'_>, member: Option<&MemberStatus>) -> (bool, Vec<Finding>) {
    let pod = facts.pod;
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if let Some(phase @ ("Succeeded" | "Failed")) = phase {
        let message = format!("the pod has ended ({phase}), and its sidecar with it");
        return (false, vec![Finding::new(Level::Note, "Ended", message)]);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let message = "the pod is being deleted; the sidecar serves until the app has ended";
        return (
            false,
            vec![Finding::new(Level::Note, "Terminating", message)],
        );
    }
    let Some(status) = sidecar_status(pod) else {
        return (false, vec![not_started(pod)]);
    };
    let state = status.state.clone().unwrap_or_default();
    if let Some(waiting) = state.waiting {
        let reason = waiting.reason.unwrap_or_else(|| "Waiting".to_owned());
        let message = waiting.message.unwrap_or_default();
        return (false, vec![waits(facts, status, &reason, &message)]);
    }
    if let Some(ended) = state.terminated {
        let message = format!(
            "the sidecar ended with code {} and is started again",
            ended.exit_code
        );
        return (
            false,
            vec![Finding::new(Level::Problem, "Ended", message).action(logs(pod))],
        );
    }
    if !status.ready {
        return (false, vec![not_ready(facts, member)]);
    }
    let mut findings = vec![Finding::new(Level::Ok, "Ready", serves(member))];
    findings.extend(unreachable(pod, member));
    findings.extend(poisoned(member));
    findings.extend(keys(facts.store));
    findings.extend(app(pod));
    (true, findings)
}

fn sidecar_status(pod: &Pod) -> Option<&ContainerStatus> {
    let mut all = pod
        .status
        .as_ref()?
        .init_container_statuses
        .iter()
        .flatten();
    all.find(|c| c.name == names::CONTAINER)
}

fn serves(member: Option<&MemberStatus>) -> String {
    match member.and_then(|m| m.keys.zip(m.revision)) {
        Some((keys, revision)) => format!("the sidecar serves {keys} keys at revision {revision}"),
        None => "the sidecar serves".to_owned(),
    }
}

fn not_started(pod: &Pod) -> Finding {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let mut unscheduled = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
    match unscheduled.next() {
        Some(condition) => {
            let why = condition
                .message
                .as_deref()
                .unwrap_or("no reason was given");
            Finding::new(
                Level::Problem,
                "NotScheduled",
                format!("no node takes the pod: {why}"),
            )
        }
        None => Finding::new(
            Level::Note,
            "Starting",
            "kubelet has not started the pod's containers yet",
        ),
    }
}

fn waits(facts: &Facts<'_>, status: &ContainerStatus, reason: &str, message: &str) -> Finding {
    let pod = facts.pod;
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            Finding::new(Level::Problem, reason, format!("the sidecar's image {} cannot be pulled: {message}", status.image))
                .action("put the image where the nodes can pull it, or set image.registry and imagePullSecrets of the chart and of the pod")
        }
        "CrashLoopBackOff" => {
            let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
            let killed = last.and_then(|t| t.reason.as_deref()) == Some("OOMKilled");
            if killed {
                let text = "the sidecar was killed for want of memory, again and again";
                return Finding::new(Level::Problem, "OutOfMemory", text)
                    .action("raise spec.resources.limits.memory of the CodexStore, then make the pod anew");
            }
            let code = last.map_or_else(String::new, |t| format!(" with code {}", t.exit_code));
            let text = format!("the sidecar ends again and again{code}");
            Finding::new(Level::Problem, reason, text).action(logs(pod))
        }
        _ => {
            if let Some(keys) = keys(facts.store) {
                return keys;
            }
            match last_warning(pod, facts.events) {
                Some(event) => {
                    let reason = event.reason.as_deref().unwrap_or(reason);
                    let text = event.message.as_deref().unwrap_or(message);
                    Finding::new(Level::Problem, reason, format!("the sidecar cannot start: {text}"))
                }
                None if message.is_empty() => {
                    Finding::new(Level::Note, reason, "the sidecar is being started")
                }
                None => Finding::new(Level::Problem, reason, format!("the sidecar cannot start: {message}")),
            }
        }
    }
}

/// The newest warning about a pod's start; later ones repeat what the first said, and so count up.
fn last_warning<'a>(pod: &Pod, events: &'a [Event]) -> Option<&'a Event> {
    let about = |event: &&Event| {
        let failed = event
            .reason
            .as_deref()
            .is_some_and(|r| r.starts_with("Failed"));
        failed && event.involved_object.uid == pod.metadata.uid
    };
    events
        .iter()
        .filter(about)
        .max_by_key(|event| event.last_timestamp.as_ref().map(|t| t.0))
}

/// What is wrong with the keyring: the operator says what to do in its message.
pub fn keys(store: Option<&CodexStore>) -> Option<Finding> {
    let status = store?.status.as_ref()?;
    let keys = status.condition(condition::KEYS_READY)?;
    (keys.status == "False")
        .then(|| Finding::new(Level::Problem, keys.reason.clone(), keys.message.clone()))
}

/// Running, and the store is not open.
fn not_ready(facts: &Facts<'_>, member: Option<&MemberStatus>) -> Finding {
    let name = member.and_then(|m| m.state.as_deref()).unwrap_or_default();
    let said = member.and_then(|m| m.message.as_deref());
    let said = said.map(|said| format!(": {said}")).unwrap_or_default();
    let problem = |text: &str| Finding::new(Level::Problem, name, format!("{text}{said}"));
    match state(name) {
        State::KeyError => {
            let secret = keyring_of(facts.pod).unwrap_or_default();
            problem("keys are missing or wrong").action(format!(
                "put the right keyring into Secret {secret}; the sidecar tries again by itself, and nothing has been changed on disk"
            ))
        }
        State::IntegrityError => problem("stored bytes do not verify").action(
            "restore a backup with a CodexRestore, which sets the data aside, or bring it back from a copy; the sidecar changes nothing on it",
        ),
        State::AwaitingRestore => {
            Finding::new(Level::Note, name, format!("the app waits{said}")).action(
                "kubectl get cxr shows how its restore goes; where that fails, the condition Degraded of the store says why",
            )
        }
        State::Locked => problem("another process has the volume").action(
            "find the pod that still mounts it and let it end; the sidecar tries again by itself",
        ),
        State::IoError => problem("the volume cannot be used")
            .action("look at the volume and its node; the sidecar tries again by itself"),
        State::ConfigError => problem("the spec does not fit what is stored")
            .action("put the spec back as it was, or start with an empty volume"),
        State::Starting | State::Recovering => {
            Finding::new(Level::Note, name, format!("the store is being opened{said}"))
        }
        _ => Finding::new(
            Level::Problem,
            "NotReady",
            format!("the sidecar runs, and does not say that it serves{said}"),
        )
        .action(logs(facts.pod)),
    }
}

fn state(name: &str) -> State {
    let text = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name);
    State::deserialize(text).unwrap_or(State::Unknown)
}

/// The Secret that the sidecar has its keys from.
fn keyring_of(pod: &Pod) -> Option<&str> {
    let mut volumes = pod.spec.as_ref()?.volumes.iter().flatten();
    let keyring = volumes.find(|volume| volume.name == names::KEYRING_VOLUME)?;
    keyring.secret.as_ref()?.secret_name.as_deref()
}

fn unreachable(pod: &Pod, member: Option<&MemberStatus>) -> Option<Finding> {
    let member = member.filter(|m| m.state.as_deref() == Some("Unreachable"))?;
    let port = admin_port(pod).unwrap_or(names::ADMIN_PORT);
    let said = member.message.as_deref().unwrap_or_default();
    let text = format!("the app is served, but the operator cannot ask the sidecar: {said}");
    let action = format!(
        "allow the operator's namespace to reach TCP port {port} of this pod (NetworkPolicy)"
    );
    Some(Finding::new(Level::Warning, "MemberUnreachable", text).action(action))
}

fn poisoned(member: Option<&MemberStatus>) -> Option<Finding> {
    let member = member.filter(|m| m.state.as_deref() == Some(State::Poisoned.as_str()))?;
    let said = member.message.as_deref().unwrap_or_default();
    let text = format!("a write to the volume failed, and writes are refused since: {said}");
    Some(Finding::new(Level::Problem, "Poisoned", text).action(
        "look at the volume and its node, then restart the sidecar: it opens what was acknowledged",
    ))
}

/// Containers of the app that wait: not the store's doing, and good to know.
fn app(pod: &Pod) -> Option<Finding> {
    let status = pod.status.as_ref()?;
    let inits = status.init_container_statuses.iter().flatten();
    let all = inits.chain(status.container_statuses.iter().flatten());
    let waiting: Vec<String> = all
        .filter(|c| c.name != names::CONTAINER)
        .filter_map(|c| {
            let waiting = c.state.as_ref()?.waiting.as_ref()?;
            Some(format!(
                "{} ({})",
                c.name,
                waiting.reason.as_deref().unwrap_or("waiting")
            ))
        })
        .collect();
    (!waiting.is_empty()).then(|| {
        let text = format!(
            "the store is up; other containers wait: {}",
            waiting.join(", ")
        );
        Finding::new(Level::Note, "AppWaits", text)
    })
}

fn logs(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let container = sidecar(pod).map_or(names::CONTAINER, |c| c.name.as_str());
    format!("kubectl logs {name} -n {namespace} -c {container} says more")
}
