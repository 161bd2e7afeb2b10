//! The archiver of a store: a Deployment of one pod, and the record that it keeps.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::pod::{Parts, container, template};
use super::{COMPONENT, JobConfig, directory_of_store, owned};
use crate::desired::{labels, store_name};
use crate::names;
use crate::store::CodexStore;

/// Name of the directory with a store's archive beside its backups, whose names never begin like this.
pub const ARCHIVE: &str = "_archive";
/// Memory for a few pieces, each as large as the largest value.
const MEMORY: &str = "512Mi";
/// How long it has to end; what it was storing is stored again.
const GRACE: i64 = 10;
/// Annotation of its pod: what it was started for, so that it is started anew for something else.
const DESTINATION_ANNOTATION: &str = "codexstore.dev/destination";

/// Directory of a store's archive within its destination.
pub fn archive_directory(namespace: &str, store: &str) -> String {
    format!("{}/{ARCHIVE}", directory_of_store(namespace, store))
}

/// The Deployment that archives; `None` for a store that does not ask for it.
pub fn archiver(store: &CodexStore, cfg: &JobConfig) -> Option<Deployment> {
    let policy = store.spec.backup.as_ref()?;
    let continuous = policy.continuous.as_ref()?;
    let name = store_name(store);
    let destination = &policy.destination;
    let mut parts = Parts::of(destination, false);
    parts.secret(
        names::TLS_VOLUME,
        &names::backup_client_secret(name),
        names::TLS_DIR,
        None,
    );
    let args = ["--store", name, "--interval", &continuous.interval];
    let args = args.into_iter().chain(["--keep", &continuous.keep]);
    let args = args.map(str::to_owned).collect();
    let mut container = container("archive", args, &mut parts, cfg);
    let resources = container.resources.get_or_insert_default();
    let limits = resources.limits.get_or_insert_default();
    limits.insert("memory".to_owned(), Quantity(MEMORY.to_owned()));
    // It is no Job.
    let env = container.env.get_or_insert_default();
    env.retain(|var| var.name != "JOB_NAME");
    let mut template = template(store, destination, None, container, parts);
    let selector = BTreeMap::from([(names::ARCHIVER_LABEL.to_owned(), name.to_owned())]);
    let metadata = template.metadata.get_or_insert_default();
    let own = metadata.labels.get_or_insert_default();
    own.extend(selector.clone());
    // A struct of strings always serialises.
    let text = serde_json::to_string(destination).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let print = format!("{:016x}", hasher.finish());
    metadata.annotations = Some([(DESTINATION_ANNOTATION.to_owned(), print)].into());
    if let Some(spec) = &mut template.spec {
        spec.termination_grace_period_seconds = Some(GRACE);
    }
    Some(Deployment {
        metadata: owned(store, names::archiver(name)),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            // Two would ask members twice, and a claim may be mounted once.
            strategy: Some(DeploymentStrategy {
                type_: Some("Recreate".to_owned()),
                rolling_update: None,
            }),
            revision_history_limit: Some(1),
            selector: LabelSelector {
                match_labels: Some(selector),
                match_expressions: None,
            },
            template,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    })
}

/// What the store's Jobs may do with the record, which a ClusterRole cannot name: restores read it, and the archiver writes it.
pub fn archive_role(store: &CodexStore) -> Role {
    let name = names::archive_record(store_name(store));
    let policy = store.spec.backup.as_ref();
    let verbs: &[&str] = match policy.and_then(|policy| policy.continuous.as_ref()) {
        Some(_) => &["get", "patch"],
        None => &["get"],
    };
    Role {
        metadata: owned(store, name.clone()),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["configmaps".to_owned()]),
            resource_names: Some(vec![name]),
            verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
            non_resource_urls: None,
        }]),
    }
}

/// Gives them that.
pub fn archive_binding(store: &CodexStore) -> RoleBinding {
    let name = names::archive_record(store_name(store));
    RoleBinding {
        metadata: owned(store, name.clone()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name,
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: names::jobs_account(store_name(store)),
            namespace: store.metadata.namespace.clone(),
            api_group: None,
        }]),
    }
}

/// The record before anything is known. It has no owner: pieces outlive their CodexStore, and need their keys. To be created, never
/// applied.
pub fn archive_record(store: &CodexStore) -> ConfigMap {
    let mut metadata = owned(store, names::archive_record(store_name(store)));
    metadata.owner_references = None;
    metadata.labels = Some(labels(store, COMPONENT));
    ConfigMap {
        metadata,
        data: Some([(names::ARCHIVE_RECORD.to_owned(), "{}".to_owned())].into()),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{backup, cfg, mounted, pod, store};
    use super::super::{DESTINATION_DIR, Task, job};
    use super::*;
    use crate::archive::Record;

    const CONTINUOUS: &str =
        "{volume: {claim: {size: 1Gi}}, backup: {destination: {claim: backups}, continuous: {}}}";

    #[test]
    fn an_archiver_is_one_pod_with_the_certificate_and_no_key() {
        assert_eq!(archiver(&store("{}"), &cfg()), None);
        let without = CONTINUOUS.replace(", continuous: {}", "");
        assert_eq!(archiver(&store(&without), &cfg()), None);
        let made = archiver(&store(CONTINUOUS), &cfg()).unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("cxs-orders-archiver"));
        assert_eq!(made.metadata.owner_references.unwrap()[0].uid, "uid");
        let spec = made.spec.unwrap();
        assert_eq!(spec.strategy.unwrap().type_.as_deref(), Some("Recreate"));
        let labels = spec.template.metadata.clone().unwrap().labels.unwrap();
        let selector = spec.selector.match_labels.unwrap();
        assert!(selector.iter().all(|(k, v)| labels.get(k) == Some(v)));
        assert!(
            !labels.contains_key(names::STORE_LABEL),
            "it gets no sidecar"
        );
        assert_eq!(labels["app.kubernetes.io/component"], "backup");
        let pod = spec.template.spec.unwrap();
        assert_eq!(pod.restart_policy, None, "Always");
        assert_eq!(mounted(&pod), ["cxs-orders-client-backup"]);
        let container = &pod.containers[0];
        let args = [
            "job",
            "archive",
            "--store",
            "orders",
            "--interval",
            "5s",
            "--keep",
            "168h",
        ];
        assert_eq!(container.args.clone().unwrap(), args);
        let mounts = container.volume_mounts.clone().unwrap();
        let destination = mounts.iter().find(|m| m.mount_path == DESTINATION_DIR);
        assert_eq!(destination.unwrap().read_only, None, "it writes there");
    }

    #[test]
    fn another_destination_starts_it_anew() {
        let print = |spec: &str| {
            let made = archiver(&store(spec), &cfg()).unwrap();
            let template = made.spec.unwrap().template;
            template.metadata.unwrap().annotations.unwrap()[DESTINATION_ANNOTATION].clone()
        };
        let bucket = |name: &str| {
            let s3 = format!("s3: {{bucket: {name}}}");
            CONTINUOUS.replace("claim: backups", &s3)
        };
        assert_eq!(print(CONTINUOUS), print(CONTINUOUS));
        assert_ne!(print(&bucket("one")), print(&bucket("two")));
    }

    #[test]
    fn jobs_that_mount_its_claim_prefer_its_node() {
        let affinity = |spec: &str| {
            let store = store(spec);
            let made = job(&store, &backup(&store, "now"), Task::Verify, &cfg()).unwrap();
            pod(made.spec.unwrap()).affinity
        };
        let beside = affinity(CONTINUOUS).unwrap().pod_affinity.unwrap();
        assert_eq!(
            beside.required_during_scheduling_ignored_during_execution,
            None
        );
        let terms = beside.preferred_during_scheduling_ignored_during_execution;
        let selector = terms.unwrap()[0].pod_affinity_term.label_selector.clone();
        let wanted = ("codexstore.dev/archiver".to_owned(), "orders".to_owned());
        assert_eq!(selector.unwrap().match_labels, Some([wanted].into()));
        assert_eq!(
            affinity(&CONTINUOUS.replace("claim: backups", "s3: {bucket: b}")),
            None
        );
        assert_eq!(affinity(&CONTINUOUS.replace(", continuous: {}", "")), None);
    }

    #[test]
    fn the_record_outlives_the_store_and_its_role_names_it_alone() {
        let store = store(CONTINUOUS);
        let record = archive_record(&store);
        assert_eq!(record.metadata.owner_references, None);
        let text = &record.data.unwrap()[names::ARCHIVE_RECORD];
        assert_eq!(Record::parse(text), Some(Record::default()));
        let rules = archive_role(&store).rules.unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(
            rules[0].resource_names.clone().unwrap(),
            ["cxs-orders-archive"]
        );
        assert_eq!(rules[0].verbs, ["get", "patch"]);
        assert_eq!(archive_binding(&store).role_ref.name, "cxs-orders-archive");
        // What was archived before is still restored, and nobody writes on.
        let without = self::store(&CONTINUOUS.replace(", continuous: {}", ""));
        assert_eq!(archive_role(&without).rules.unwrap()[0].verbs, ["get"]);
    }
}
