//! The pod of a Job: what it mounts, and how little it may do.

use std::collections::BTreeMap;
use std::mem;

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, EnvVar, EnvVarSource, KeyToPath,
    ObjectFieldSelector, PersistentVolumeClaimVolumeSource, PodAffinity, PodAffinityTerm,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{
    CA_FILE, CODEXCTL, COMPONENT, DESTINATION_DIR, JobConfig, LEAST_DEADLINE, Origin,
    SOURCE_KEYRING_DIR, TTL, Task,
};
use crate::backup::{BackupPolicy, Destination};
use crate::desired::{keyring_items, keyring_name, labels, store_name};
use crate::names;
use crate::store::CodexStore;

/// Label of pods that are to have an identity in Azure.
const WORKLOAD_IDENTITY: &str = "azure.workload.identity/use";

/// Labels of Jobs' pods: not the one that asks for a sidecar.
pub(super) fn pod_labels(store: &CodexStore) -> BTreeMap<String, String> {
    let mut all = labels(store, COMPONENT);
    all.remove(names::STORE_LABEL);
    all
}

pub(super) fn job_spec(
    store: &CodexStore,
    policy: &BackupPolicy,
    destination: &Destination,
    task: Task,
    args: Vec<String>,
    origin: Option<&Origin<'_>>,
    cfg: &JobConfig,
) -> JobSpec {
    let mut parts = Parts::of(destination, matches!(task, Task::Verify | Task::Restore));
    match task {
        Task::Backup => {
            parts.secret(
                names::TLS_VOLUME,
                &names::backup_client_secret(store_name(store)),
                names::TLS_DIR,
                None,
            );
            parts.escrow(store);
        }
        Task::Verify if store.spec.encryption.is_on() => parts.keys(store),
        Task::Restore => parts.secret(
            names::TLS_VOLUME,
            &names::restore_client_secret(store_name(store)),
            names::TLS_DIR,
            None,
        ),
        Task::Verify | Task::Prune => {}
    }
    if let Some(origin) = origin.filter(|_| store.spec.encryption.is_on()) {
        parts.secret(
            names::KEYRING_VOLUME,
            &keyring_name(store),
            names::KEYRING_DIR,
            None,
        );
        let theirs = origin.keyring();
        parts.secret("source-keyring", &theirs, SOURCE_KEYRING_DIR, None);
    }
    let account = origin.and_then(Origin::account);
    let container = container(task.as_str(), args, &mut parts, cfg);
    let deadline = match task {
        Task::Backup => policy.deadline_seconds(),
        Task::Verify | Task::Prune | Task::Restore => policy.deadline_seconds().max(LEAST_DEADLINE),
    };
    let mut template = template(store, destination, account, container, parts);
    if let Some(spec) = &mut template.spec {
        spec.restart_policy = Some("Never".to_owned());
        let archived = policy.continuous.is_some() && destination.claim.is_some();
        spec.affinity = archived.then(|| beside_the_archiver(store));
    }
    JobSpec {
        active_deadline_seconds: Some(deadline),
        // A pod that is killed is made up for; one that says that it failed is not helped by much more.
        backoff_limit: Some(2),
        ttl_seconds_after_finished: Some(TTL),
        template,
        ..JobSpec::default()
    }
}

/// The pod of a Job or of the archiver: it may do nothing on its node.
pub(super) fn template(
    store: &CodexStore,
    destination: &Destination,
    account: Option<String>,
    container: Container,
    parts: Parts,
) -> PodTemplateSpec {
    let mut labels = pod_labels(store);
    if destination.azure.is_some() && destination.credentials().is_none() {
        // By this Azure's webhook gives a pod the identity of its service account.
        labels.insert(WORKLOAD_IDENTITY.to_owned(), "true".to_owned());
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: account.or_else(|| Some(names::jobs_account(store_name(store)))),
            containers: vec![container],
            volumes: (!parts.volumes.is_empty()).then_some(parts.volumes),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(names::SIDECAR_UID),
                run_as_group: Some(names::SIDECAR_UID),
                fs_group: Some(names::SIDECAR_UID),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            ..PodSpec::default()
        }),
    }
}

/// A claim that one node mounts at a time is mounted where the archiver has it. Preferred only: one that many nodes mount is
/// mounted anywhere.
pub(super) fn beside_the_archiver(store: &CodexStore) -> Affinity {
    let archiver = (
        names::ARCHIVER_LABEL.to_owned(),
        store_name(store).to_owned(),
    );
    Affinity {
        pod_affinity: Some(PodAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: PodAffinityTerm {
                        label_selector: Some(LabelSelector {
                            match_labels: Some([archiver].into()),
                            match_expressions: None,
                        }),
                        topology_key: "kubernetes.io/hostname".to_owned(),
                        ..PodAffinityTerm::default()
                    },
                },
            ]),
            required_during_scheduling_ignored_during_execution: None,
        }),
        ..Affinity::default()
    }
}

/// What runs `codexctl`, with what the parts hold for it.
pub(super) fn container(
    task: &str,
    args: Vec<String>,
    parts: &mut Parts,
    cfg: &JobConfig,
) -> Container {
    let field = |path: &str| EnvVarSource {
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: path.to_owned(),
        }),
        ..EnvVarSource::default()
    };
    for (name, path) in [
        (
            "JOB_NAME",
            "metadata.labels['batch.kubernetes.io/job-name']",
        ),
        ("POD_NAME", "metadata.name"),
    ] {
        parts.env.push(EnvVar {
            name: name.to_owned(),
            value: None,
            value_from: Some(field(path)),
        });
    }
    let quantity = |text: &str| Quantity(text.to_owned());
    let mut all_args = vec!["job".to_owned(), task.to_owned()];
    all_args.extend(args);
    Container {
        name: task.to_owned(),
        image: Some(cfg.image.clone()),
        image_pull_policy: cfg.image_pull_policy.clone(),
        command: Some(vec![CODEXCTL.to_owned()]),
        args: Some(all_args),
        env: Some(mem::take(&mut parts.env)),
        volume_mounts: (!parts.mounts.is_empty()).then(|| mem::take(&mut parts.mounts)),
        resources: Some(ResourceRequirements {
            requests: Some(BTreeMap::from([
                ("cpu".to_owned(), quantity("10m")),
                ("memory".to_owned(), quantity("32Mi")),
            ])),
            limits: Some(BTreeMap::from([("memory".to_owned(), quantity("256Mi"))])),
            claims: None,
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                add: None,
                drop: Some(vec!["ALL".to_owned()]),
            }),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// Volumes, mounts and environment of a Job's container.
#[derive(Default)]
pub(super) struct Parts {
    volumes: Vec<Volume>,
    mounts: Vec<VolumeMount>,
    env: Vec<EnvVar>,
}

impl Parts {
    /// What a destination needs.
    pub(super) fn of(destination: &Destination, read_only: bool) -> Parts {
        let mut parts = Parts::default();
        if let Some(claim) = &destination.claim {
            let source = Volume {
                name: "destination".to_owned(),
                // Read-only is the mount in the container, and not the volume: kubelet gives a volume its group when it is first
                // mounted, and not at all for who only reads it; a Job that writes beside that one could not.
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.clone(),
                    read_only: None,
                }),
                ..Volume::default()
            };
            parts.mount(source, DESTINATION_DIR, read_only);
        }
        if let Some((secret, entries)) = destination.credentials() {
            for (key, optional) in entries {
                parts.env.push(EnvVar {
                    name: (*key).to_owned(),
                    value: None,
                    value_from: Some(EnvVarSource {
                        secret_key_ref: Some(SecretKeySelector {
                            name: secret.name.clone(),
                            key: (*key).to_owned(),
                            optional: optional.then_some(true),
                        }),
                        ..EnvVarSource::default()
                    }),
                });
            }
        }
        if let Some(ca) = destination.ca_ref() {
            let source = Volume {
                name: "ca".to_owned(),
                config_map: Some(ConfigMapVolumeSource {
                    name: ca.name.clone(),
                    items: Some(vec![KeyToPath {
                        key: "ca.crt".to_owned(),
                        path: "ca.crt".to_owned(),
                        mode: None,
                    }]),
                    ..ConfigMapVolumeSource::default()
                }),
                ..Volume::default()
            };
            let dir = CA_FILE.trim_end_matches("/ca.crt");
            parts.mount(source, dir, true);
        }
        parts
    }

    /// The store's keyring, or its passphrase.
    fn keys(&mut self, store: &CodexStore) {
        let items = keyring_items(store);
        if items.is_some() {
            self.env.push(EnvVar {
                name: names::PASSPHRASE_ENV.to_owned(),
                value: Some(names::PASSPHRASE_FILE.to_owned()),
                value_from: None,
            });
        }
        let secret = keyring_name(store);
        self.secret(names::KEYRING_VOLUME, &secret, names::KEYRING_DIR, items);
    }

    pub(super) fn secret(
        &mut self,
        volume: &str,
        secret: &str,
        dir: &str,
        items: Option<Vec<KeyToPath>>,
    ) {
        let source = Volume {
            name: volume.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.to_owned()),
                default_mode: Some(0o440),
                items,
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        };
        self.mount(source, dir, true);
    }

    /// The sealed keyring, where the spec asks for it. A backup does not wait for one that is not there: it says so.
    fn escrow(&mut self, store: &CodexStore) {
        if store.spec.encryption.escrow_recipients().is_empty() {
            return;
        }
        let source = Volume {
            name: names::ESCROW_VOLUME.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: names::escrow(store_name(store)),
                optional: Some(true),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        };
        self.mount(source, names::ESCROW_DIR, true);
    }

    fn mount(&mut self, source: Volume, dir: &str, read_only: bool) {
        self.mounts.push(VolumeMount {
            name: source.name.clone(),
            mount_path: dir.to_owned(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        });
        self.volumes.push(source);
    }
}
