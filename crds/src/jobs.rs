//! The Jobs that take, verify and delete backups, as pure functions of the store.
//!
//! Each does one thing with as little as that needs: taking one mounts the certificate for members and no key, verifying
//! one mounts the keyring and no certificate, deleting one neither. They run `codexctl`, which is in the operator's image.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, EnvVar, EnvVarSource, KeyToPath,
    ObjectFieldSelector, PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec,
    PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretKeySelector, SecretVolumeSource,
    SecurityContext, ServiceAccount, Volume, VolumeMount,
};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;

use crate::backup::{BackupPolicy, Destination};
use crate::codex_backup::CodexBackup;
use crate::desired::{labels, owner_reference, store_name};
use crate::names;
use crate::store::CodexStore;

/// `codexctl` in its image.
pub const CODEXCTL: &str = "/codexctl";
/// Where a claim of backups is mounted.
pub const DESTINATION_DIR: &str = "/destination";
/// Where the certificates of an S3 server are mounted.
pub const CA_FILE: &str = "/etc/codexstore/ca/ca.crt";
/// How long an ended Job stays to be looked at, in seconds.
const TTL: i32 = 3600;
/// Longest time for verifying and deleting, in seconds, unless taking a backup may take longer.
const LEAST_DEADLINE: i64 = 3600;

/// What the operator knows that the store does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobConfig {
    /// Image with `codexctl`.
    pub image: String,
    /// Pull policy of that image; absent: the cluster's default for its tag.
    pub image_pull_policy: Option<String>,
    /// ClusterRole that the Jobs' service accounts are bound to, within their namespace.
    pub cluster_role: String,
}

/// What a Job does, which is the last part of its name too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Takes a backup.
    Backup,
    /// Opens one and compares.
    Verify,
    /// Deletes what is stored.
    Prune,
}

impl Task {
    /// Its name, as `codexctl job` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Task::Backup => "backup",
            Task::Verify => "verify",
            Task::Prune => "prune",
        }
    }
}

/// Name of the Job that does this to a backup.
pub fn job_name(backup: &str, task: Task) -> String {
    format!("cxb-{backup}-{}", task.as_str())
}

/// Name of the backup that a scheduled Job takes: the store's, and the number that its CronJob gave it.
pub fn backup_of_job(store: &str, job: &str) -> String {
    let number = job.strip_prefix(&names::backup_cron_job(store));
    let number = number.unwrap_or(job).trim_start_matches('-');
    format!("{store}-{number}")
}

/// Directory of a backup within its destination.
pub fn directory(namespace: &str, store: &str, backup: &str) -> String {
    format!("{namespace}/{store}/{backup}")
}

/// A destination as people write it.
pub fn location(destination: &Destination, directory: &str) -> String {
    match (&destination.claim, &destination.s3) {
        (Some(claim), _) => format!("pvc/{claim}:/{directory}"),
        (None, Some(s3)) => {
            let prefix = s3.prefix.as_ref().map(|p| format!("{p}/"));
            format!(
                "s3://{}/{}{directory}",
                s3.bucket,
                prefix.unwrap_or_default()
            )
        }
        (None, None) => directory.to_owned(),
    }
}

/// The account that all Jobs of a store run as.
pub fn service_account(store: &CodexStore) -> ServiceAccount {
    ServiceAccount {
        metadata: owned(store, names::jobs_account(store_name(store))),
        ..ServiceAccount::default()
    }
}

/// What that account may do, in its namespace only.
pub fn role_binding(store: &CodexStore, cfg: &JobConfig) -> RoleBinding {
    let name = names::jobs_account(store_name(store));
    RoleBinding {
        metadata: owned(store, name.clone()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "ClusterRole".to_owned(),
            name: cfg.cluster_role.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name,
            namespace: store.metadata.namespace.clone(),
            api_group: None,
        }]),
    }
}

fn owned(store: &CodexStore, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: store.metadata.namespace.clone(),
        labels: Some(labels(store, COMPONENT)),
        owner_references: Some(owner_reference(store).into_iter().collect()),
        ..ObjectMeta::default()
    }
}

/// Component of everything here.
const COMPONENT: &str = "backup";

/// The CronJob; `None` for a store that has no schedule.
pub fn cron_job(store: &CodexStore, cfg: &JobConfig) -> Option<CronJob> {
    let policy = store.spec.backup.as_ref()?;
    let schedule = policy.schedule.clone()?;
    let name = store_name(store);
    let args = vec![
        "--store".to_owned(),
        name.to_owned(),
        "--job".to_owned(),
        "$(JOB_NAME)".to_owned(),
    ];
    let mut template = job_spec(store, policy, &policy.destination, Task::Backup, args, cfg);
    // The CronJob's own limits say how many ended ones stay.
    template.ttl_seconds_after_finished = None;
    let mut metadata = owned(store, names::backup_cron_job(name));
    metadata.annotations = None;
    Some(CronJob {
        metadata,
        spec: Some(CronJobSpec {
            schedule,
            time_zone: policy.time_zone.clone(),
            suspend: Some(policy.suspend),
            // Two would wait for each other; what was missed is made up for by one.
            concurrency_policy: Some("Forbid".to_owned()),
            successful_jobs_history_limit: Some(1),
            failed_jobs_history_limit: Some(2),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels(store)),
                    ..ObjectMeta::default()
                }),
                spec: Some(template),
            },
            ..CronJobSpec::default()
        }),
        ..CronJob::default()
    })
}

/// The Job that does this to a backup; `None` without a destination.
pub fn job(store: &CodexStore, backup: &CodexBackup, task: Task, cfg: &JobConfig) -> Option<Job> {
    let policy = store.spec.backup.as_ref();
    let recorded = backup.status.as_ref().and_then(|s| s.destination.as_ref());
    let destination = match task {
        Task::Backup => recorded.or(policy.map(|p| &p.destination))?,
        Task::Verify | Task::Prune => recorded?,
    };
    let name = backup.metadata.name.as_deref()?;
    let args = vec!["--backup".to_owned(), name.to_owned()];
    let fallback = BackupPolicy::default();
    let policy = policy.unwrap_or(&fallback);
    let mut all = labels(store, COMPONENT);
    all.remove(names::STORE_LABEL);
    all.insert(names::BACKUP_LABEL.to_owned(), name.to_owned());
    let owner: Option<OwnerReference> = backup.controller_owner_ref(&());
    Some(Job {
        metadata: ObjectMeta {
            name: Some(job_name(name, task)),
            namespace: store.metadata.namespace.clone(),
            labels: Some(all),
            owner_references: Some(owner.into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(job_spec(store, policy, destination, task, args, cfg)),
        ..Job::default()
    })
}

/// Labels of Jobs' pods: not the one that asks for a sidecar.
fn pod_labels(store: &CodexStore) -> BTreeMap<String, String> {
    let mut all = labels(store, COMPONENT);
    all.remove(names::STORE_LABEL);
    all
}

fn job_spec(
    store: &CodexStore,
    policy: &BackupPolicy,
    destination: &Destination,
    task: Task,
    args: Vec<String>,
    cfg: &JobConfig,
) -> JobSpec {
    let mut parts = Parts::of(destination, task == Task::Verify);
    match task {
        Task::Backup => parts.secret(
            names::TLS_VOLUME,
            &names::backup_client_secret(store_name(store)),
            names::TLS_DIR,
        ),
        Task::Verify if store.spec.encryption.is_on() => parts.secret(
            names::KEYRING_VOLUME,
            &names::keyring_secret(store_name(store)),
            names::KEYRING_DIR,
        ),
        Task::Verify | Task::Prune => {}
    }
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
    let mut all_args = vec!["job".to_owned(), task.as_str().to_owned()];
    all_args.extend(args);
    let container = Container {
        name: task.as_str().to_owned(),
        image: Some(cfg.image.clone()),
        image_pull_policy: cfg.image_pull_policy.clone(),
        command: Some(vec![CODEXCTL.to_owned()]),
        args: Some(all_args),
        env: Some(parts.env),
        volume_mounts: (!parts.mounts.is_empty()).then_some(parts.mounts),
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
    };
    let deadline = match task {
        Task::Backup => policy.deadline_seconds(),
        Task::Verify | Task::Prune => policy.deadline_seconds().max(LEAST_DEADLINE),
    };
    JobSpec {
        active_deadline_seconds: Some(deadline),
        // A pod that is killed is made up for; one that says that it failed is not helped by much more.
        backoff_limit: Some(2),
        ttl_seconds_after_finished: Some(TTL),
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(pod_labels(store)),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                service_account_name: Some(names::jobs_account(store_name(store))),
                restart_policy: Some("Never".to_owned()),
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
        },
        ..JobSpec::default()
    }
}

/// Volumes, mounts and environment of a Job's container.
#[derive(Default)]
struct Parts {
    volumes: Vec<Volume>,
    mounts: Vec<VolumeMount>,
    env: Vec<EnvVar>,
}

impl Parts {
    /// What a destination needs.
    fn of(destination: &Destination, read_only: bool) -> Parts {
        let mut parts = Parts::default();
        if let Some(claim) = &destination.claim {
            let source = Volume {
                name: "destination".to_owned(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.clone(),
                    read_only: read_only.then_some(true),
                }),
                ..Volume::default()
            };
            parts.mount(source, DESTINATION_DIR, read_only);
        }
        let Some(s3) = &destination.s3 else {
            return parts;
        };
        if let Some(secret) = &s3.credentials_ref {
            for (key, optional) in [
                ("AWS_ACCESS_KEY_ID", false),
                ("AWS_SECRET_ACCESS_KEY", false),
                ("AWS_SESSION_TOKEN", true),
            ] {
                parts.env.push(EnvVar {
                    name: key.to_owned(),
                    value: None,
                    value_from: Some(EnvVarSource {
                        secret_key_ref: Some(SecretKeySelector {
                            name: secret.name.clone(),
                            key: key.to_owned(),
                            optional: optional.then_some(true),
                        }),
                        ..EnvVarSource::default()
                    }),
                });
            }
        }
        if let Some(ca) = &s3.ca_ref {
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

    fn secret(&mut self, volume: &str, secret: &str, dir: &str) {
        let source = Volume {
            name: volume.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.to_owned()),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        };
        self.mount(source, dir, true);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codex_backup::{CodexBackupSpec, CodexBackupStatus};

    fn store(spec: &str) -> CodexStore {
        let mut store = CodexStore::new("orders", serde_yaml::from_str(spec).unwrap());
        store.metadata.namespace = Some("shop".to_owned());
        store.metadata.uid = Some("uid".to_owned());
        store
    }

    fn cfg() -> JobConfig {
        JobConfig {
            image: "codexctl:1".to_owned(),
            image_pull_policy: None,
            cluster_role: "codexstore-jobs".to_owned(),
        }
    }

    const CLAIM: &str = "{backup: {schedule: '0 * * * *', destination: {claim: backups}}}";
    const S3: &str = "{backup: {destination: {s3: {bucket: bkt, prefix: a/b, credentialsRef: {name: s3}, caRef: {name: ca}}}}}";

    fn backup(store: &CodexStore, name: &str) -> CodexBackup {
        let mut backup = CodexBackup::new(name, CodexBackupSpec::default());
        backup.metadata.uid = Some("b-uid".to_owned());
        backup.status = Some(CodexBackupStatus {
            destination: store.spec.backup.as_ref().map(|b| b.destination.clone()),
            ..CodexBackupStatus::default()
        });
        backup
    }

    fn pod(spec: JobSpec) -> PodSpec {
        assert!(
            !spec
                .template
                .metadata
                .unwrap()
                .labels
                .unwrap()
                .contains_key(names::STORE_LABEL)
        );
        spec.template.spec.unwrap()
    }

    fn mounted(pod: &PodSpec) -> Vec<String> {
        let secrets = pod.volumes.iter().flatten();
        secrets
            .filter_map(|v| v.secret.as_ref()?.secret_name.clone())
            .collect()
    }

    #[test]
    fn a_cron_job_is_made_for_a_schedule_and_takes_one_at_a_time() {
        assert_eq!(cron_job(&store("{}"), &cfg()), None);
        assert_eq!(cron_job(&store(S3), &cfg()), None);
        let cron = cron_job(&store(CLAIM), &cfg()).unwrap();
        assert_eq!(cron.metadata.name.as_deref(), Some("cxs-orders-backup"));
        let spec = cron.spec.unwrap();
        assert_eq!(spec.concurrency_policy.as_deref(), Some("Forbid"));
        let job = spec.job_template.spec.unwrap();
        assert_eq!(job.active_deadline_seconds, Some(3600));
        let pod = pod(job);
        assert_eq!(mounted(&pod), ["cxs-orders-client-backup"]);
        let args = pod.containers[0].args.clone().unwrap();
        assert_eq!(
            args,
            ["job", "backup", "--store", "orders", "--job", "$(JOB_NAME)"]
        );
        assert_eq!(
            backup_of_job("orders", "cxs-orders-backup-29367390"),
            "orders-29367390"
        );
        assert_eq!(backup_of_job("orders", "by-hand"), "orders-by-hand");
    }

    #[test]
    fn only_verifying_mounts_keys_and_only_taking_the_certificate() {
        let store = store(CLAIM);
        let backup = backup(&store, "now");
        let of = |task| pod(job(&store, &backup, task, &cfg()).unwrap().spec.unwrap());
        assert_eq!(mounted(&of(Task::Backup)), ["cxs-orders-client-backup"]);
        assert_eq!(mounted(&of(Task::Verify)), ["cxs-orders-keyring"]);
        assert!(mounted(&of(Task::Prune)).is_empty());
        let read_only = |pod: &PodSpec| {
            let mounts = pod.containers[0].volume_mounts.clone().unwrap();
            mounts
                .iter()
                .find(|m| m.mount_path == DESTINATION_DIR)
                .unwrap()
                .read_only
        };
        assert_eq!(read_only(&of(Task::Verify)), Some(true));
        assert_eq!(read_only(&of(Task::Prune)), None);
        let plain = self::store("{encryption: {none: {}}, backup: {destination: {claim: b}}}");
        let spec = job(&plain, &backup, Task::Verify, &cfg())
            .unwrap()
            .spec
            .unwrap();
        assert!(mounted(&pod(spec)).is_empty());
    }

    #[test]
    fn credentials_reach_a_job_by_reference_only() {
        let store = store(S3);
        let backup = backup(&store, "now");
        let made = job(&store, &backup, Task::Prune, &cfg()).unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("cxb-now-prune"));
        assert_eq!(
            made.metadata.owner_references.clone().unwrap()[0].uid,
            "b-uid"
        );
        let pod = pod(made.spec.unwrap());
        let env = pod.containers[0].env.clone().unwrap();
        let key = env
            .iter()
            .find(|e| e.name == "AWS_SECRET_ACCESS_KEY")
            .unwrap();
        assert_eq!(key.value, None);
        let from = key.value_from.clone().unwrap().secret_key_ref.unwrap();
        assert_eq!(from.name, "s3");
        assert_eq!(
            location(
                store.spec.backup.as_ref().map(|b| &b.destination).unwrap(),
                "shop/orders/now"
            ),
            "s3://bkt/a/b/shop/orders/now"
        );
    }
}
