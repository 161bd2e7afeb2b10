//! What is told of a look: events and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use codexstore_crds::archive::Judged;
use codexstore_crds::{CodexStore, CodexStoreStatus, names};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Resource as _, ResourceExt as _};

use super::keyring::Keyring;
use super::problem::{self, Problem};
use super::rotation::Rotations;
use super::{Error, Shared, claims, schedule};
use crate::metrics::StoreLabels;

/// Tells of problems on the store, and on the pods that they hold up: who looks at a pod that waits should not have to
/// know where else to look.
pub async fn warn_of(
    shared: &Shared,
    store: &CodexStore,
    keyring: &Keyring,
    problems: &[Problem],
    held_up: &[(Arc<Pod>, Problem)],
) {
    let about = store.object_ref(&());
    for problem in problems
        .iter()
        .filter(|p| p.reason != problem::INJECTION_MISSING)
    {
        shared
            .events
            .warning(&about, problem.reason, &problem.message)
            .await;
    }
    if let Keyring::Broken(problem, _) = keyring {
        shared
            .events
            .warning(&about, problem.reason, &problem.message)
            .await;
    }
    for (pod, problem) in held_up {
        shared
            .events
            .warning(&pod.object_ref(&()), problem.reason, &problem.message)
            .await;
    }
}

/// Tells of a pod without a sidecar.
pub async fn uninjected(shared: &Shared, pod: &Pod) -> Option<Problem> {
    let note = format!(
        "the pod has the label {} but no sidecar, since it was created while the webhook was not there: create it again to give it one",
        names::STORE_LABEL
    );
    shared
        .events
        .warning(&pod.object_ref(&()), problem::INJECTION_MISSING, &note)
        .await;
    Some(Problem::new(
        problem::INJECTION_MISSING,
        format!("pod {}: {note}", pod.name_any()),
    ))
}

/// Tells pods of members of their own failure, in these words: who looks at one should not have to know which backups and restores there
/// are.
pub async fn warn_pods(
    shared: &Shared,
    namespace: &str,
    store: &str,
    reason: &'static str,
    failed: &BTreeMap<&str, String>,
) -> Result<(), Error> {
    if failed.is_empty() {
        return Ok(());
    }
    let params = ListParams::default().labels(&format!("{}={store}", names::STORE_LABEL));
    let pods = Api::<Pod>::namespaced(shared.client.clone(), namespace);
    for pod in pods.list(&params).await?.items {
        if let Some(note) = failed.get(pod.name_any().as_str()) {
            let about = pod.object_ref(&());
            shared.events.warning(&about, reason, note).await;
        }
    }
    Ok(())
}

/// Tells of claims that were made or grow.
pub async fn tell_of_claims(shared: &Shared, store: &CodexStore, volumes: &claims::Outcome) {
    let about = store.object_ref(&());
    for name in &volumes.made {
        let note = format!("PersistentVolumeClaim {name} made");
        shared.events.normal(&about, "ClaimCreated", &note).await;
    }
    for name in &volumes.grown {
        let note = format!("PersistentVolumeClaim {name} grows");
        shared.events.normal(&about, "ClaimGrown", &note).await;
    }
}

/// Tells of members that do not serve, in the words of the condition.
pub async fn tell_of_members(shared: &Shared, store: &CodexStore, status: &CodexStoreStatus) {
    let degraded = status.condition("Degraded").filter(|c| c.status == "True");
    let reasons = [problem::MEMBER_UNREACHABLE, problem::MEMBER_FAILED];
    let told = degraded.and_then(|c| {
        let reason = reasons.into_iter().find(|reason| c.reason == *reason)?;
        Some((reason, &c.message))
    });
    if let Some((reason, message)) = told {
        let about = store.object_ref(&());
        shared.events.warning(&about, reason, message).await;
    }
}

/// Shows what was seen in the metrics.
pub fn show(
    shared: &Shared,
    store: &CodexStore,
    status: &CodexStoreStatus,
    keyring: &Keyring,
    rotations: Rotations,
) {
    let labels = StoreLabels {
        namespace: store.namespace().unwrap_or_default(),
        store: store.name_any(),
    };
    let metrics = &shared.metrics;
    metrics
        .members_ready
        .get_or_create(&labels)
        .set(status.ready_members.into());
    metrics
        .members_total
        .get_or_create(&labels)
        .set(status.total_members.into());
    metrics
        .members_outdated
        .get_or_create(&labels)
        .set(status.outdated_members.into());
    let ok = matches!(keyring, Keyring::Ready(_) | Keyring::NotEncrypted);
    metrics.keyring_ok.get_or_create(&labels).set(ok.into());
    metrics
        .key_rotation_going
        .get_or_create(&labels)
        .set(rotations.going.into());
    match rotations.deadline {
        Some(deadline) => {
            let known = metrics.key_rotation_deadline.get_or_create(&labels);
            known.set(deadline);
        }
        // There is none of a rotation that is over.
        None => _ = metrics.key_rotation_deadline.remove(&labels),
    }
    metrics
        .key_rotation_failed
        .get_or_create(&labels)
        .set(rotations.failed.into());
    metrics
        .key_rotation_overdue
        .get_or_create(&labels)
        .set(rotations.overdue.into());
    metrics
        .key_messages
        .get_or_create(&labels)
        .set(rotations.messages);
    metrics
        .key_reencryption_left
        .get_or_create(&labels)
        .set(rotations.left);
    metrics
        .key_exposed_backups
        .get_or_create(&labels)
        .set(rotations.exposed);
}

/// For a store that is to have an archive.
pub fn show_archive(shared: &Shared, store: &CodexStore, judged: Option<&Judged>) {
    let labels = StoreLabels {
        namespace: store.namespace().unwrap_or_default(),
        store: store.name_any(),
    };
    let metrics = &shared.metrics;
    let Some(judged) = judged else {
        metrics.forget_archive(&labels);
        return;
    };
    let behind = metrics.archive_behind.get_or_create(&labels);
    behind.set(judged.behind);
    let current = judged.condition.0 == Some(true);
    let gauge = metrics.archive_current.get_or_create(&labels);
    gauge.set(current.into());
}

/// For a store that is to have backups; `judged` is what its archive comes to, if it is to have one.
pub fn show_backups(
    shared: &Shared,
    store: &CodexStore,
    backups: &schedule::Backups,
    judged: Option<&Judged>,
) {
    let labels = StoreLabels {
        namespace: store.namespace().unwrap_or_default(),
        store: store.name_any(),
    };
    let metrics = &shared.metrics;
    let Some((succeeded, ..)) = backups.condition else {
        metrics.forget_backups(&labels);
        return;
    };
    metrics
        .backup_overdue
        .get_or_create(&labels)
        .set(backups.overdue.into());
    let unreachable = backups.unreachable || judged.is_some_and(|judged| judged.unreachable);
    let gauge = metrics
        .backup_destination_unreachable
        .get_or_create(&labels);
    gauge.set(unreachable.into());
    let good = metrics.backup_succeeded.get_or_create(&labels);
    good.set((succeeded != Some(false)).into());
    if let Some(last) = &backups.last {
        metrics
            .backup_timestamp
            .get_or_create(&labels)
            .set(last.time.0.as_second());
    }
}
