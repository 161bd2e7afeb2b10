//! The pod by which somebody reads a claim of backups who is not in the cluster.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource as _;

use super::pod::{Parts, beside_the_archiver, container, template};
use super::{JobConfig, recorded};
use crate::codex_backup::CodexBackup;
use crate::store::{CodexStore, CodexStoreSpec};

/// How long such a pod stays at most, in seconds: who made it deletes it.
const LONGEST: i64 = 3600;

/// What such a pod runs: nothing, until somebody reads.
pub const HOLD: &str = "hold";

/// A pod that mounts the claim in which a backup is, and can only read it; `None` if that is in no claim. It has no right in the cluster, ends
/// by itself, and goes with the backup.
pub fn reader(backup: &CodexBackup, cfg: &JobConfig) -> Option<Pod> {
    let destination = recorded(backup)?;
    destination.claim.as_ref()?;
    let name = backup.metadata.name.as_deref()?;
    let namespace = backup.metadata.namespace.clone();
    let mut store = CodexStore::new(&backup.spec.store_ref.name, CodexStoreSpec::default());
    store.metadata.namespace.clone_from(&namespace);
    let mut parts = Parts::of(destination, true);
    let mut container = container(HOLD, Vec::new(), &mut parts, cfg);
    container.env = None;
    let affinity = beside_the_archiver(&store);
    let template = template(&store, destination, None, container, parts);
    let mut spec = template.spec?;
    spec.service_account_name = None;
    spec.automount_service_account_token = Some(false);
    spec.restart_policy = Some("Never".to_owned());
    spec.active_deadline_seconds = Some(LONGEST);
    spec.termination_grace_period_seconds = Some(1);
    spec.affinity = Some(affinity);
    Some(Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("cxb-{name}-read-")),
            namespace,
            owner_references: Some(backup.owner_ref(&()).into_iter().collect()),
            labels: template.metadata.and_then(|metadata| metadata.labels),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        ..Pod::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::DESTINATION_DIR;
    use super::super::tests::{CLAIM, backup, cfg, mounted, store};
    use super::*;
    use crate::names;

    #[test]
    fn who_reads_a_claim_has_a_pod_that_may_do_nothing_else_and_ends() {
        let made = reader(&backup(&store(CLAIM), "now"), &cfg()).unwrap();
        let name = made.metadata.generate_name.as_deref();
        assert_eq!(name, Some("cxb-now-read-"));
        let owner = &made.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.uid.as_str(), owner.controller), ("b-uid", None));
        let labels = made.metadata.labels.unwrap();
        assert!(
            !labels.contains_key(names::STORE_LABEL),
            "it gets no sidecar"
        );
        let pod = made.spec.unwrap();
        assert_eq!(pod.active_deadline_seconds, Some(3600));
        assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
        assert_eq!(pod.service_account_name, None);
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert!(mounted(&pod).is_empty());
        assert_eq!(pod.volumes.unwrap().len(), 1);
        let container = &pod.containers[0];
        assert_eq!(container.args.clone().unwrap(), ["job", "hold"]);
        let mount = &container.volume_mounts.as_ref().unwrap()[0];
        assert_eq!(
            (mount.mount_path.as_str(), mount.read_only),
            (DESTINATION_DIR, Some(true))
        );
        let bucket = store("{backup: {destination: {s3: {bucket: bkt}}}}");
        assert_eq!(reader(&backup(&bucket, "now"), &cfg()), None);
    }
}
