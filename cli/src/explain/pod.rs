//! Judges one pod: facts in, report out.

use codexstore_crds::{
    CodexStore, Decision, MemberStatus, decide, is_injected, names, sidecar_env, spec_hash,
    store_label,
};
use k8s_openapi::api::core::v1::{Container, Event, Pod};

use super::{
    cluster::Webhook,
    readiness,
    report::{Finding, Level, PodReport},
};

/// All that is looked at.
pub struct Facts<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod.
    pub pod: &'a Pod,
    /// The store that it asks for or has, if that exists.
    pub store: Option<&'a CodexStore>,
    /// The operator's webhook.
    pub webhook: &'a Webhook,
    /// Warnings of the namespace.
    pub events: &'a [Event],
}

/// The store that a pod asks for, or for which it has a sidecar.
pub fn store_of(pod: &Pod) -> Option<&str> {
    store_label(pod).or_else(|| sidecar_setting(pod, "CODEXSTORE_STORE"))
}

/// Says why a pod has a sidecar or none, and how that one is.
pub fn explain(facts: &Facts<'_>) -> PodReport {
    let pod = facts.pod;
    let injected = is_injected(pod);
    let mut report = PodReport {
        kind: "Pod",
        name: pod.metadata.name.clone().unwrap_or_default(),
        namespace: facts.namespace.to_owned(),
        store: store_of(pod).map(str::to_owned),
        injected,
        outdated: None,
        ready: None,
        findings: Vec::new(),
    };
    // The webhook sees a pod before its name is made up.
    let decision = decide(&as_created(pod, injected), facts.namespace, facts.store);
    if !injected {
        report.findings.push(not_injected(facts, decision));
        report.findings.extend(near_miss(pod));
        return report;
    }

    let by = annotation(pod, names::INJECTED_BY_ANNOTATION).unwrap_or("of an unknown version");
    let message = format!(
        "the label {}={} asks for a sidecar, and operator {by} put it in",
        names::STORE_LABEL,
        report.store.as_deref().unwrap_or_default()
    );
    report
        .findings
        .push(Finding::new(Level::Ok, "Injected", message));
    report.findings.extend(if_made_anew(decision));
    let member = member(facts);
    if let Some(store) = facts.store {
        let outdated = outdated(pod, store, member);
        report.outdated = Some(outdated.is_some());
        report.findings.push(outdated.unwrap_or_else(|| {
            let message = "the sidecar runs with the present spec";
            Finding::new(Level::Ok, "UpToDate", message)
        }));
    }
    let (ready, findings) = readiness::judge(facts, member);
    report.ready = Some(ready);
    report.findings.extend(findings);
    report
}

/// The pod as the webhook would see it.
fn as_created(pod: &Pod, injected: bool) -> Pod {
    let mut pod = pod.clone();
    let named_by_server = pod.metadata.generate_name.is_some() && owner_kind(&pod) != "StatefulSet";
    if named_by_server && !injected {
        pod.metadata.name = None;
    }
    pod
}

fn not_injected(facts: &Facts<'_>, decision: Decision) -> Finding {
    match decision {
        Decision::Skip { reason } => Finding::new(Level::Note, "NotAsked", reason),
        Decision::Refuse(refusal) => Finding::new(
            Level::Problem,
            refusal.reason.to_string(),
            format!("made now, the pod would be refused: {}", refusal.message),
        )
        .action(format!(
            "the pod is there, so it was made without the webhook ({}); once this is put right, {}",
            without_webhook(facts).1,
            make_anew(facts)
        )),
        Decision::Inject => {
            let (reason, why) = without_webhook(facts);
            Finding::new(
                Level::Problem,
                reason,
                format!("the pod asks for a store and was made without its sidecar: {why}"),
            )
            .action(match facts.webhook {
                Webhook::Absent => format!(
                    "install the operator (helm install codexstore charts/codexstore -n \
                     codexstore-system --create-namespace), then {}",
                    make_anew(facts)
                ),
                Webhook::Present { selects: false, .. } => {
                    "move the workload to another namespace".to_owned()
                }
                _ => make_anew(facts),
            })
        }
    }
}

/// Why the webhook did not see the pod.
fn without_webhook(facts: &Facts<'_>) -> (&'static str, String) {
    let made = facts.pod.metadata.creation_timestamp.as_ref();
    match facts.webhook {
        Webhook::Absent => (
            "NoWebhook",
            "the operator's webhook is not installed".to_owned(),
        ),
        Webhook::Present { selects: false, .. } => (
            "NamespaceExcluded",
            format!(
                "the operator's webhook leaves namespace {} alone: kube-system, the operator's own, and what \
                 its installation excludes",
                facts.namespace
            ),
        ),
        Webhook::Present {
            since: Some(since), ..
        } if made.is_some_and(|made| made.0 < since.0) => (
            "OlderThanWebhook",
            "it is older than the operator's installation".to_owned(),
        ),
        Webhook::Present { .. } => (
            "NotSeenByWebhook",
            "its label was added after it was made, or the webhook was not installed then"
                .to_owned(),
        ),
        Webhook::Unknown(why) => (
            "NotSeenByWebhook",
            format!(
                "its label was added after it was made, or the webhook was not installed or leaves this \
                 namespace alone (which could not be looked up: {why})"
            ),
        ),
    }
}

/// A label's name and value in the wrong place.
fn near_miss(pod: &Pod) -> Option<Finding> {
    if store_label(pod).is_some() {
        return None;
    }
    let store = annotation(pod, names::STORE_LABEL)?;
    let label = names::STORE_LABEL;
    let message = format!("the pod has {label}={store} as an annotation: it must be a label");
    Some(Finding::new(Level::Warning, "AnnotationNotLabel", message))
}

/// What would come of a pod that has a sidecar, were it made again.
fn if_made_anew(decision: Decision) -> Option<Finding> {
    match decision {
        Decision::Inject => None,
        Decision::Skip { .. } => Some(
            Finding::new(
                Level::Warning,
                "LabelRemoved",
                format!("the pod no longer has the label {}", names::STORE_LABEL),
            )
            .action("put the label on the pod template, or its successor has no store"),
        ),
        Decision::Refuse(refusal) => Some(Finding::new(
            Level::Warning,
            refusal.reason.to_string(),
            format!(
                "this pod goes on, but a successor would be refused: {}",
                refusal.message
            ),
        )),
    }
}

/// What in the pod is older than the spec, or the operator.
fn outdated(pod: &Pod, store: &CodexStore, member: Option<&MemberStatus>) -> Option<Finding> {
    let uid = sidecar_setting(pod, "CODEXSTORE_STORE_UID");
    let why = if uid.is_some() && uid != store.metadata.uid.as_deref() {
        "it was admitted for an earlier CodexStore of this name".to_owned()
    } else if annotation(pod, names::SPEC_HASH_ANNOTATION) != Some(spec_hash(store).as_str()) {
        let changed = changed_settings(pod, store);
        if changed.is_empty() {
            "the spec's volume or resources have changed since".to_owned()
        } else {
            format!("the spec has changed since: {}", changed.join(", "))
        }
    } else {
        let member = member.filter(|m| m.outdated)?;
        let said = member.message.as_deref().unwrap_or_default();
        let said = said.rsplit("outdated: ").next().unwrap_or_default();
        said.to_owned()
    };
    let mut action = remake(pod);
    if store.spec.volume.ephemeral.is_some() {
        action.push_str("; the store is ephemeral: the pod's data goes with it");
    }
    let message = format!("the sidecar is outdated: {why}");
    Some(Finding::new(Level::Warning, "Outdated", message).action(action))
}

/// Settings of the sidecar that differ from those of the spec.
fn changed_settings(pod: &Pod, store: &CodexStore) -> Vec<String> {
    let identity = [
        "CODEXSTORE_STORE",
        "CODEXSTORE_STORE_UID",
        "CODEXSTORE_SPEC_HASH",
    ];
    let settings = sidecar_env(store);
    let of_spec = settings
        .iter()
        .filter(|(name, _)| !identity.contains(&name.as_str()));
    of_spec
        .filter_map(|(name, wanted)| {
            let is = sidecar_setting(pod, name);
            let plain = name
                .trim_start_matches("CODEXSTORE_")
                .to_lowercase()
                .replace('_', "-");
            (is != Some(wanted.as_str())).then(|| {
                format!(
                    "{plain} is {} here and {wanted} in the spec",
                    is.unwrap_or("not set")
                )
            })
        })
        .collect()
}

fn make_anew(facts: &Facts<'_>) -> String {
    remake(facts.pod)
}

fn remake(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let delete = match pod.metadata.namespace.as_deref() {
        Some(namespace) => format!("kubectl delete pod {name} -n {namespace}"),
        None => format!("kubectl delete pod {name}"),
    };
    match owner_kind(pod) {
        "" => format!("{delete}, and create it again"),
        "Job" => format!("{delete}; its Job makes a new one"),
        kind => format!("{delete}, or roll the workload out again; its {kind} makes a new one"),
    }
}

fn owner_kind(pod: &Pod) -> &str {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners
        .find(|o| o.controller == Some(true))
        .map_or("", |o| o.kind.as_str())
}

/// What the store's status says about this pod, and not one of its name before it.
fn member<'a>(facts: &Facts<'a>) -> Option<&'a MemberStatus> {
    let meta = &facts.pod.metadata;
    let status = facts.store?.status.as_ref()?;
    status.members.iter().find(|m| {
        Some(&m.pod) == meta.name.as_ref() && (m.pod_uid.is_none() || m.pod_uid == meta.uid)
    })
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(name)
        .map(String::as_str)
}

/// The sidecar.
pub fn sidecar(pod: &Pod) -> Option<&Container> {
    let mut inits = pod.spec.as_ref()?.init_containers.iter().flatten();
    inits.find(|c| c.name == names::CONTAINER)
}

fn sidecar_setting<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let mut env = sidecar(pod)?.env.iter().flatten();
    env.find(|e| e.name == name)?.value.as_deref()
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
