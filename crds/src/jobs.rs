//! The Jobs that take, verify, delete and restore backups, as pure functions of the store.
//!
//! Each does one thing with as little as that needs: taking one mounts the certificate for members and no key, verifying
//! one mounts the keyring and no certificate, deleting one neither. They run `codexctl`, which is in the operator's image.

mod archiver;
mod pod;
mod reader;
mod restore;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job, JobTemplateSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use serde::{Deserialize, Serialize};

use crate::backup::{BackupPolicy, Destination};
use crate::codex_backup::{BackupMember, CodexBackup, StoredKeyring};
use crate::desired::{labels, owner_reference, store_name};
use crate::names;
use crate::store::CodexStore;
pub use archiver::{
    ARCHIVE, archive_binding, archive_directory, archive_record, archive_role, archiver,
};
use pod::{job_spec, pod_labels};
pub use reader::reader;
pub use restore::{
    Origin, SOURCE_KEYRING_DIR, copy_job, recorded, restore_job, restore_job_name, restored_from,
};

/// `codexctl` in its image.
pub const CODEXCTL: &str = "/codexctl";
/// Where a claim of backups is mounted.
pub const DESTINATION_DIR: &str = "/destination";
/// Where the certificates of a destination's server are mounted.
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
    /// Restores.
    Restore,
}

impl Task {
    /// Its name, as `codexctl job` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Task::Backup => "backup",
            Task::Verify => "verify",
            Task::Prune => "prune",
            Task::Restore => "restore",
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
    format!("{}/{backup}", directory_of_store(namespace, store))
}

/// Directory of all backups of a store within their destination.
pub fn directory_of_store(namespace: &str, store: &str) -> String {
    format!("{namespace}/{store}")
}

/// What a backup's directory says of itself in a file `members-*.json`, which is written last: where there is one, the files
/// that it names are whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Name of the CodexBackup.
    pub backup: String,
    /// When its members were stored: seconds since 1970.
    pub stored_at: i64,
    /// Its members, also those that are not stored.
    pub members: Vec<BackupMember>,
    /// The sealed keyring beside them, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<StoredKeyring>,
}

/// What the name of a file with a [`Manifest`] begins with, and ends with.
pub const MANIFEST: (&str, &str) = ("members-", ".json");

/// What the name of a sealed keyring begins with, and ends with.
pub const SEALED_KEYRING: (&str, &str) = ("keyring-", ".age");

/// A destination as people write it.
pub fn location(destination: &Destination, directory: &str) -> String {
    destination.location(directory)
}

/// The account that all Jobs of a store run as.
pub fn service_account(store: &CodexStore) -> ServiceAccount {
    let policy = store.spec.backup.as_ref();
    let annotations = policy.map(|policy| policy.service_account_annotations.clone());
    ServiceAccount {
        metadata: ObjectMeta {
            annotations: annotations.filter(|all| !all.is_empty()),
            ..owned(store, names::jobs_account(store_name(store)))
        },
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
    let at = &policy.destination;
    let mut template = job_spec(store, policy, at, Task::Backup, args, None, cfg);
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
            // Two would wait for each other. What was missed is made up for by one, however long ago: that takes that there is no
            // startingDeadlineSeconds.
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

/// What somebody wrote who has a backup verified now, until there is an answer.
pub fn verify_asked(backup: &CodexBackup) -> Option<&str> {
    let all = backup.metadata.annotations.as_ref()?;
    all.get(names::VERIFY_ANNOTATION).map(String::as_str)
}

/// The Job that does this to a backup; `None` without a destination.
pub fn job(store: &CodexStore, backup: &CodexBackup, task: Task, cfg: &JobConfig) -> Option<Job> {
    let policy = store.spec.backup.as_ref();
    let recorded = backup.status.as_ref().and_then(|s| s.destination.as_ref());
    let destination = match task {
        Task::Backup => recorded.or(policy.map(|p| &p.destination))?,
        Task::Verify | Task::Prune | Task::Restore => recorded?,
    };
    let name = backup.metadata.name.as_deref()?;
    let args = vec!["--backup".to_owned(), name.to_owned()];
    let fallback = BackupPolicy::default();
    let policy = policy.unwrap_or(&fallback);
    let mut all = labels(store, COMPONENT);
    all.remove(names::STORE_LABEL);
    all.insert(names::BACKUP_LABEL.to_owned(), name.to_owned());
    let owner: Option<OwnerReference> = backup.controller_owner_ref(&());
    let asked = verify_asked(backup).filter(|_| task == Task::Verify);
    let asked = asked.map(|asked| [(names::VERIFY_ANNOTATION.to_owned(), asked.to_owned())]);
    Some(Job {
        metadata: ObjectMeta {
            name: Some(job_name(name, task)),
            namespace: store.metadata.namespace.clone(),
            labels: Some(all),
            annotations: asked.map(Into::into),
            owner_references: Some(owner.into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(job_spec(store, policy, destination, task, args, None, cfg)),
        ..Job::default()
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::JobSpec;
    use k8s_openapi::api::core::v1::{EnvVar, PodSpec};

    use super::*;
    use crate::codex_backup::{CodexBackupSpec, CodexBackupStatus};

    pub(super) fn store(spec: &str) -> CodexStore {
        let mut store = CodexStore::new("orders", serde_yaml::from_str(spec).unwrap());
        store.metadata.namespace = Some("shop".to_owned());
        store.metadata.uid = Some("uid".to_owned());
        store
    }

    pub(super) fn cfg() -> JobConfig {
        JobConfig {
            image: "codexctl:1".to_owned(),
            image_pull_policy: None,
            cluster_role: "codexstore-jobs".to_owned(),
        }
    }

    pub(super) const CLAIM: &str =
        "{backup: {schedule: '0 * * * *', destination: {claim: backups}}}";
    const S3: &str = "{backup: {destination: {s3: {bucket: bkt, prefix: a/b, credentialsRef: {name: s3}, caRef: {name: ca}}}}}";

    pub(super) fn backup(store: &CodexStore, name: &str) -> CodexBackup {
        let mut backup = CodexBackup::new(name, CodexBackupSpec::default());
        backup.metadata.uid = Some("b-uid".to_owned());
        backup.status = Some(CodexBackupStatus {
            destination: store.spec.backup.as_ref().map(|b| b.destination.clone()),
            ..CodexBackupStatus::default()
        });
        backup
    }

    pub(super) fn pod(spec: JobSpec) -> PodSpec {
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

    pub(super) fn mounted(pod: &PodSpec) -> Vec<String> {
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
        assert_eq!(spec.starting_deadline_seconds, None);
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
        let own = self::store(
            "{encryption: {keys: {secretRef: {name: mine}}}, backup: {destination: {claim: b}}}",
        );
        let verify = job(&own, &backup, Task::Verify, &cfg()).unwrap();
        let verify = pod(verify.spec.unwrap());
        let of_passphrase = |pod: &PodSpec| {
            let mut env = pod.containers[0].env.iter().flatten();
            env.any(|var| var.name == names::PASSPHRASE_ENV)
        };
        assert_eq!(
            (mounted(&verify), of_passphrase(&verify)),
            (vec!["mine".to_owned()], false)
        );
        let own = self::store(
            "{encryption: {keys: {passphraseRef: {name: mine}}}, backup: {destination: {claim: b}}}",
        );
        let verify = job(&own, &backup, Task::Verify, &cfg()).unwrap();
        let verify = pod(verify.spec.unwrap());
        assert_eq!(
            (mounted(&verify), of_passphrase(&verify)),
            (vec!["mine".to_owned()], true)
        );
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
    fn a_job_that_somebody_asked_for_says_so() {
        let store = store(CLAIM);
        let mut backup = backup(&store, "now");
        let asked = |backup: &CodexBackup, task| {
            let made = job(&store, backup, task, &cfg()).unwrap();
            made.metadata.annotations
        };
        assert_eq!(asked(&backup, Task::Verify), None);
        let wanted = [(names::VERIFY_ANNOTATION.to_owned(), "7".to_owned())];
        backup.metadata.annotations = Some(wanted.clone().into());
        assert_eq!(asked(&backup, Task::Verify), Some(wanted.into()));
        assert_eq!(asked(&backup, Task::Prune), None);
    }

    #[test]
    fn a_job_that_takes_a_backup_has_the_sealed_keyring_where_the_spec_asks_for_it() {
        let config_maps = |spec: &str, task| {
            let store = store(spec);
            let made = job(&store, &backup(&store, "now"), task, &cfg()).unwrap();
            let pod = pod(made.spec.unwrap());
            let volumes = pod.volumes.into_iter().flatten();
            let maps = volumes.filter_map(|v| v.config_map);
            maps.map(|map| (map.name, map.optional)).collect::<Vec<_>>()
        };
        let escrow = "{backup: {destination: {claim: b}}, encryption: {keys: {managed: {escrow: {recipients: [age1x]}}}}}";
        let wanted = [("cxs-orders-escrow".to_owned(), Some(true))];
        assert_eq!(config_maps(escrow, Task::Backup), wanted);
        assert_eq!(config_maps(escrow, Task::Verify), []);
        assert_eq!(config_maps(escrow, Task::Prune), []);
        assert_eq!(config_maps(CLAIM, Task::Backup), []);
        let none = escrow.replace("[age1x]", "[]");
        assert_eq!(config_maps(&none, Task::Backup), []);
    }

    #[test]
    fn the_account_bears_what_gives_it_an_identity() {
        assert_eq!(service_account(&store(CLAIM)).metadata.annotations, None);
        let spec = "{backup: {destination: {claim: b}, serviceAccountAnnotations: {eks.amazonaws.com/role-arn: 'arn:x'}}}";
        let made = service_account(&store(spec)).metadata.annotations.unwrap();
        assert_eq!(made["eks.amazonaws.com/role-arn"], "arn:x");
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

    #[test]
    fn each_cloud_has_its_credentials_or_an_identity() {
        let of = |destination: &str| {
            let store = store(&format!("{{backup: {{destination: {destination}}}}}"));
            let made = job(&store, &backup(&store, "now"), Task::Backup, &cfg()).unwrap();
            let template = made.spec.unwrap().template;
            let env = template.spec.unwrap().containers[0].env.clone().unwrap();
            let secret = |e: &EnvVar| e.value_from.as_ref()?.secret_key_ref.clone();
            let keys: Vec<_> = env.iter().filter_map(secret).map(|s| s.key).collect();
            let labels = template.metadata.unwrap().labels.unwrap();
            let identity = labels.contains_key("azure.workload.identity/use");
            let destination = store.spec.backup.unwrap().destination;
            (location(&destination, "a/b"), keys, identity)
        };
        let (at, keys, identity) = of("{gcs: {bucket: bkt, credentialsRef: {name: g}}}");
        assert_eq!((at.as_str(), identity), ("gs://bkt/a/b", false));
        assert_eq!(keys, ["GOOGLE_SERVICE_ACCOUNT_KEY"]);
        let (at, keys, identity) = of("{azure: {account: acc, container: bkt, prefix: x}}");
        assert_eq!((at.as_str(), identity), ("azure://acc/bkt/x/a/b", true));
        assert!(keys.is_empty());
        let (_, keys, identity) =
            of("{azure: {account: acc, container: bkt, credentialsRef: {name: a}}}");
        assert_eq!((keys.len(), identity), (5, false));
    }
}
