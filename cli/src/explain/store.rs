//! Judges a store: its conditions, and its members by the judgement on their pods.

use codexstore_crds::{
    CodexStore, names,
    status::{condition, phase},
};
use k8s_openapi::api::core::v1::{Event, Pod};
use serde::Serialize;

use super::{
    cluster::Webhook,
    pod,
    report::{Finding, Level, PodReport},
};
use crate::output::Table;

/// What is said about a store.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreReport {
    /// Always `CodexStore`.
    pub kind: &'static str,
    /// The store.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The operator's word for its state.
    pub phase: String,
    /// Hash of the present spec.
    pub spec_hash: String,
    /// Each pod that asks for it.
    pub members: Vec<PodReport>,
    /// About the store as a whole.
    pub findings: Vec<Finding>,
}

/// Says how a store and its members are.
pub fn explain(
    namespace: &str,
    store: &CodexStore,
    pods: &[Pod],
    webhook: &Webhook,
    events: &[Event],
) -> StoreReport {
    let name = store.metadata.name.clone().unwrap_or_default();
    let judge = |pod: &Pod| {
        pod::explain(&pod::Facts {
            namespace,
            pod,
            store: Some(store),
            webhook,
            events,
        })
    };
    let mut members: Vec<PodReport> = pods.iter().map(judge).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let status = store.status.as_ref();
    let mut findings = conditions(store);
    findings.extend(members_as_a_whole(&members));
    findings.extend(refused(events, &name));
    StoreReport {
        kind: "CodexStore",
        namespace: namespace.to_owned(),
        phase: status.and_then(|s| s.phase.clone()).unwrap_or_default(),
        spec_hash: codexstore_crds::spec_hash(store),
        name,
        members,
        findings,
    }
}

fn conditions(store: &CodexStore) -> Vec<Finding> {
    let Some(status) = &store.status else {
        let text = "the operator has not looked at this store yet";
        return vec![Finding::new(Level::Problem, "NotReconciled", text).action(
            "if it stays so, look whether the operator runs: kubectl get pods -n codexstore-system",
        )];
    };
    let mut findings = Vec::new();
    if store.metadata.deletion_timestamp.is_some() {
        let text = "the store is being deleted: its pods go on, and new ones are refused";
        findings.push(Finding::new(Level::Warning, phase::DELETING, text));
    }
    if status.observed_generation < store.metadata.generation {
        let text = "the operator has not seen the newest spec yet";
        findings.push(Finding::new(Level::Note, "NotReconciled", text).action(
            "if it stays so, look whether the operator runs: kubectl get pods -n codexstore-system",
        ));
    }
    for (type_, bad, level) in [
        (condition::KEYS_READY, "False", Level::Problem),
        (condition::DEGRADED, "True", Level::Problem),
        (condition::READY, "False", Level::Warning),
        (condition::PROGRESSING, "True", Level::Note),
    ] {
        let found = status.condition(type_).filter(|c| c.status == bad);
        let known = |c: &str| findings.iter().any(|f: &Finding| f.message == c);
        if let Some(found) = found.filter(|c| !known(&c.message)) {
            findings.push(Finding::new(
                level,
                found.reason.clone(),
                found.message.clone(),
            ));
        }
    }
    if findings.is_empty() {
        let said = status
            .condition(condition::READY)
            .map(|c| c.message.clone());
        let text = said.unwrap_or_else(|| "all is well".to_owned());
        findings.push(Finding::new(Level::Ok, "Ready", text));
    }
    findings
}

fn members_as_a_whole(members: &[PodReport]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let names = |wanted: &dyn Fn(&PodReport) -> bool| {
        let names: Vec<&str> = members
            .iter()
            .filter(|m| wanted(m))
            .map(|m| m.name.as_str())
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(names) = names(&|m| m.outdated == Some(true)) {
        let text = format!("outdated, until they are made anew: {names}");
        findings.push(Finding::new(Level::Warning, "MembersOutdated", text));
    }
    if let Some(names) = names(&|m| !m.injected) {
        let text = format!("pods that ask for this store and have no sidecar: {names}");
        findings.push(
            Finding::new(Level::Problem, "NotInjected", text)
                .action("codexctl explain pod/NAME says why"),
        );
    }
    if members.is_empty() {
        let text = format!("no pod has the label {}", names::STORE_LABEL);
        findings.push(Finding::new(Level::Note, "NoMembers", text));
    }
    findings
}

/// Pods that were refused exist only in the words of what tried to make them.
pub fn refused(events: &[Event], about: &str) -> Option<Finding> {
    let by_us = |event: &&Event| {
        let message = event.message.as_deref().unwrap_or_default();
        event.reason.as_deref() == Some("FailedCreate")
            && message.contains(names::GROUP)
            && message.contains("denied")
            && (message.contains(about)
                || event
                    .involved_object
                    .name
                    .as_deref()
                    .is_some_and(|n| about.starts_with(n)))
    };
    let event = events
        .iter()
        .filter(by_us)
        .max_by_key(|event| event.last_timestamp.as_ref().map(|t| t.0))?;
    let object = &event.involved_object;
    let text = format!(
        "{} {} could not make a pod: {}",
        object.kind.as_deref().unwrap_or_default(),
        object.name.as_deref().unwrap_or_default(),
        event.message.as_deref().unwrap_or_default()
    );
    Some(Finding::new(Level::Warning, "PodRefused", text))
}

impl StoreReport {
    /// For people.
    pub fn text(&self) -> String {
        let phase = if self.phase.is_empty() {
            "not reconciled"
        } else {
            &self.phase
        };
        let mut text = format!(
            "cxs/{} in namespace {}: {phase}\n\n",
            self.name, self.namespace
        );
        text.extend(self.findings.iter().map(Finding::text));
        if self.members.is_empty() {
            return text;
        }
        let mut table = Table::new(&["POD", "SIDECAR", "READY", "SPEC", "WHY"]);
        for member in &self.members {
            let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
            let spec = match member.outdated {
                Some(true) => "outdated",
                Some(false) => "current",
                None => "-",
            };
            let why = member
                .worst()
                .map(|f| f.message.clone())
                .unwrap_or_default();
            table.row(vec![
                member.name.clone(),
                yes(member.injected),
                member.ready.map_or_else(|| "-".to_owned(), yes),
                spec.to_owned(),
                why,
            ]);
        }
        format!("{text}\n{}", table.render())
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
