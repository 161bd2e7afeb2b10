//! The Job of a restore, and of a copy: a restore of what another store backed up.
//!
//! A copy's Job has the keyrings of both stores: it wraps the data keys of what it passes on with the copy's current key. So neither store's
//! members ever hold the other's key.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;

use super::pod::job_spec;
use super::{COMPONENT, JobConfig, Task};
use crate::backup::Destination;
use crate::codex_backup::CodexBackup;
use crate::codex_restore::CodexRestore;
use crate::desired::{keyring_name, labels, store_name};
use crate::names;
use crate::store::CodexStore;

/// Where the keyring of the store whose data is copied is mounted.
pub const SOURCE_KEYRING_DIR: &str = "/etc/codexstore/source-keyring";

/// Flag of a restore's Job: the store has no record of an archive, nor does the Job have the right to look for one.
const NO_RECORD: &str = "--no-archive-record";

/// What is copied.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The backup.
    pub backup: &'a CodexBackup,
    /// The store that it is of, if that is still there.
    pub store: Option<&'a CodexStore>,
}

impl Origin<'_> {
    /// Name of the Secret with the keyring that opens the backup. It outlives its store.
    pub fn keyring(&self) -> String {
        let gone = || names::keyring_secret(&self.backup.spec.store_ref.name);
        self.store.map_or_else(gone, keyring_name)
    }

    /// The account that may read where the backup is, where that takes an identity: that of the store's own Jobs, as long as it has some.
    /// It goes with its store, so nothing else is done with it.
    pub(super) fn account(&self) -> Option<String> {
        let store = self.store.filter(|store| store.spec.backup.is_some())?;
        recorded(self.backup).filter(|at| at.takes_identity())?;
        Some(names::jobs_account(store_name(store)))
    }
}

/// Name of the Job of a restore.
pub fn restore_job_name(restore: &str) -> String {
    format!("cxr-{restore}")
}

/// Where a store's backups are restored from: where the named one is, or where the store keeps them now.
pub fn restored_from<'a>(
    store: &'a CodexStore,
    named: Option<&'a CodexBackup>,
) -> Option<&'a Destination> {
    let recorded = named.and_then(recorded);
    recorded.or(store.spec.backup.as_ref().map(|policy| &policy.destination))
}

/// Where a backup was stored.
pub fn recorded(backup: &CodexBackup) -> Option<&Destination> {
    backup.status.as_ref()?.destination.as_ref()
}

/// The Job of a restore; `None` without a destination. `named` is the backup that it names, where that is in the cluster; `recorded`
/// whether the store has a record of an archive, which the Job then reads.
pub fn restore_job(
    store: &CodexStore,
    restore: &CodexRestore,
    named: Option<&CodexBackup>,
    recorded: bool,
    cfg: &JobConfig,
) -> Option<Job> {
    let destination = restored_from(store, named)?;
    let args = if recorded {
        Vec::new()
    } else {
        vec![NO_RECORD.to_owned()]
    };
    job_of(store, restore, destination, None, args, cfg)
}

/// The Job that copies what another store backed up into a store's members; `None` without a destination.
pub fn copy_job(
    store: &CodexStore,
    restore: &CodexRestore,
    origin: &Origin<'_>,
    cfg: &JobConfig,
) -> Option<Job> {
    let destination = recorded(origin.backup)?;
    let backup = origin.backup.metadata.name.clone()?;
    let args = vec!["--backup".to_owned(), backup];
    job_of(store, restore, destination, Some(origin), args, cfg)
}

fn job_of(
    store: &CodexStore,
    restore: &CodexRestore,
    destination: &Destination,
    origin: Option<&Origin<'_>>,
    more: Vec<String>,
    cfg: &JobConfig,
) -> Option<Job> {
    let policy = store.spec.backup.as_ref()?;
    let name = restore.metadata.name.as_deref()?;
    let mut args = vec!["--restore".to_owned(), name.to_owned()];
    args.extend(more);
    let mut all = labels(store, COMPONENT);
    all.remove(names::STORE_LABEL);
    all.insert(names::RESTORE_LABEL.to_owned(), name.to_owned());
    let owner: Option<OwnerReference> = restore.controller_owner_ref(&());
    let spec = job_spec(store, policy, destination, Task::Restore, args, origin, cfg);
    Some(Job {
        metadata: ObjectMeta {
            name: Some(restore_job_name(name)),
            namespace: store.metadata.namespace.clone(),
            labels: Some(all),
            owner_references: Some(owner.into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        ..Job::default()
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::super::tests::{CLAIM, backup, cfg, mounted, pod, store};
    use super::*;
    use crate::codex_restore::CodexRestoreSpec;

    fn restore(name: &str) -> CodexRestore {
        let mut restore = CodexRestore::new(name, CodexRestoreSpec::default());
        restore.metadata.uid = Some("r-uid".to_owned());
        restore
    }

    fn claim_of(pod: &PodSpec) -> (String, Option<bool>) {
        let volumes = pod.volumes.clone().unwrap();
        let source = volumes[0].persistent_volume_claim.clone().unwrap();
        assert_eq!(
            source.read_only, None,
            "kubelet would not give it its group"
        );
        let mounts = pod.containers[0].volume_mounts.clone().unwrap();
        let mount = mounts.iter().find(|m| m.name == volumes[0].name).unwrap();
        (source.claim_name, mount.read_only)
    }

    #[test]
    fn a_restore_reads_where_its_backup_is_and_mounts_no_key() {
        let restore = restore("back");
        assert_eq!(
            restore_job(&store("{}"), &restore, None, true, &cfg()),
            None,
            "there is no destination"
        );
        let now = store(CLAIM);
        let before = store("{backup: {destination: {claim: before}}}");
        let named = backup(&before, "old");
        for (named, claim) in [(None, "backups"), (Some(&named), "before")] {
            let made = restore_job(&now, &restore, named, true, &cfg()).unwrap();
            assert_eq!(made.metadata.name.as_deref(), Some("cxr-back"));
            let pod = pod(made.spec.unwrap());
            let args = pod.containers[0].args.clone().unwrap();
            assert_eq!(args, ["job", "restore", "--restore", "back"]);
            assert_eq!(mounted(&pod), ["cxs-orders-client-restore"]);
            assert_eq!(claim_of(&pod), (claim.to_owned(), Some(true)));
        }
    }

    #[test]
    fn a_restore_that_has_no_right_to_look_for_a_record_is_told_that_there_is_none() {
        let made = restore_job(&store(CLAIM), &restore("back"), None, false, &cfg());
        let args = pod(made.unwrap().spec.unwrap()).containers[0].args.clone();
        let wanted = ["job", "restore", "--restore", "back", NO_RECORD];
        assert_eq!(args.unwrap(), wanted);
    }

    #[test]
    fn a_copy_reads_as_the_other_store_does_and_has_both_keyrings() {
        let restore = restore("copy");
        let mut other = store("{backup: {destination: {claim: theirs}}}");
        other.metadata.name = Some("sales".to_owned());
        let mut named = backup(&other, "monday");
        named.spec.store_ref.name = "sales".to_owned();
        let of = |ours: &str, theirs: Option<&CodexStore>| {
            let origin = Origin {
                backup: &named,
                store: theirs,
            };
            let made = copy_job(&store(ours), &restore, &origin, &cfg()).unwrap();
            let pod = pod(made.spec.unwrap());
            assert_eq!(claim_of(&pod), ("theirs".to_owned(), Some(true)));
            let args = pod.containers[0].args.clone().unwrap().join(" ");
            assert_eq!(args, "job restore --restore copy --backup monday");
            assert_eq!(pod.service_account_name.as_deref(), Some("cxs-orders-jobs"));
            pod
        };
        let keyrings = [
            "cxs-orders-client-restore",
            "cxs-orders-keyring",
            "cxs-sales-keyring",
        ];
        let pod = of(CLAIM, Some(&other));
        assert_eq!(mounted(&pod), keyrings);
        let mounts = pod.containers[0].volume_mounts.clone().unwrap();
        let at = |dir: &str| mounts.iter().find(|m| m.mount_path == dir).unwrap();
        assert_ne!(at(names::KEYRING_DIR).name, at(SOURCE_KEYRING_DIR).name);
        assert!(mounts.iter().all(|m| m.read_only == Some(true)));
        // Without the other store, or its account: by what is left of it.
        other.spec.backup = None;
        for theirs in [None, Some(&other)] {
            assert_eq!(mounted(&of(CLAIM, theirs)), keyrings);
        }
        let plain = of(
            "{encryption: {none: {}}, backup: {destination: {claim: b}}}",
            None,
        );
        assert_eq!(mounted(&plain), ["cxs-orders-client-restore"]);
        // A backup that does not say where it is.
        named.status = None;
        let origin = Origin {
            backup: &named,
            store: None,
        };
        assert_eq!(copy_job(&store(CLAIM), &restore, &origin, &cfg()), None);
    }

    #[test]
    fn a_copy_has_the_other_stores_account_only_where_the_bucket_takes_its_identity() {
        let restore = restore("copy");
        let of = |destination: &str| {
            let mut other = store(&format!("{{backup: {{destination: {destination}}}}}"));
            other.metadata.name = Some("sales".to_owned());
            let named = backup(&other, "monday");
            [Some(&other), None].map(|theirs| {
                let origin = Origin {
                    backup: &named,
                    store: theirs,
                };
                let made = copy_job(&store(CLAIM), &restore, &origin, &cfg()).unwrap();
                pod(made.spec.unwrap()).service_account_name.unwrap()
            })
        };
        let (ours, theirs) = ("cxs-orders-jobs", "cxs-sales-jobs");
        for at in [
            "{claim: b}",
            "{s3: {bucket: bkt, credentialsRef: {name: s3}}}",
            "{gcs: {bucket: bkt, credentialsRef: {name: g}}}",
            "{azure: {account: acc, container: bkt, credentialsRef: {name: a}}}",
        ] {
            assert_eq!(of(at), [ours, ours], "{at}");
        }
        for at in [
            "{s3: {bucket: bkt}}",
            "{gcs: {bucket: bkt}}",
            "{azure: {account: acc, container: bkt}}",
        ] {
            assert_eq!(of(at), [theirs, ours], "{at}");
        }
    }
}
