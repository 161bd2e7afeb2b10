//! The standing part of a store's backups: the account and the CronJob of its Jobs, and which backups have expired.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use codexstore_crds::archive::Record;
use codexstore_crds::backup::Destination;
use codexstore_crds::codex_backup::{CodexBackupStatus, kept_by, phase};
use codexstore_crds::status::{BackupSchedule, LastBackup};
use codexstore_crds::{CodexBackup, CodexRestore, CodexStore, jobs, names, overdue, retention};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::ownership::{Ownership, ownership};
use super::problem::{self, Problem};
use super::{Error, Shared};

/// How long the objects are taken to be as they were last applied.
const APPLIED: Duration = Duration::from_mins(10);

/// What was applied, and when.
pub type Applied = Option<(Instant, u64)>;

/// What is known of a store's backups.
#[derive(Debug, Default)]
pub struct Backups {
    /// What is in the way.
    pub problems: Vec<Problem>,
    /// The latest that is stored.
    pub last: Option<LastBackup>,
    /// How far the schedule is, if there is one.
    pub schedule: Option<BackupSchedule>,
    /// Whether there should be a newer one by now.
    pub overdue: bool,
    /// Whether the latest that has ended failed at the destination that there is now.
    pub unreachable: bool,
    /// Condition `LastBackupSucceeded`: value, reason, message. None for a store without `spec.backup`.
    pub condition: Option<(Option<bool>, &'static str, String)>,
}

/// Makes what a store's backups need, and says how they are. `recorded`: it has a record of an archive, or is to have one.
pub async fn ensure(
    shared: &Shared,
    store: &CodexStore,
    backups: &[Arc<CodexBackup>],
    recorded: bool,
) -> Result<Backups, Error> {
    let mut seen = Backups {
        last: last(backups),
        ..Backups::default()
    };
    let Some(policy) = &store.spec.backup else {
        let refused = remove_cron_job(shared, store).await?;
        // The condition stays until it is gone.
        seen.condition = refused.is_some().then(|| outcome(backups));
        seen.problems.extend(refused);
        return Ok(seen);
    };
    seen.condition = Some(outcome(backups));
    seen.unreachable = unreachable(backups, &policy.destination);
    if store.metadata.deletion_timestamp.is_some() {
        return Ok(seen);
    }
    seen.problems = apply(shared, store, recorded).await?;
    let now = Timestamp::now();
    seen.schedule = overdue::schedule(policy, backups.iter().map(|b| &**b), now);
    seen.overdue = overdue::overdue(store, backups.iter().map(|b| &**b), now).is_some();
    if seen.overdue {
        let what = "there is no good backup within two periods of the schedule: `kubectl get cxb` shows how the latest went";
        seen.problems
            .push(Problem::new(problem::BACKUP_OVERDUE, what));
    }
    Ok(seen)
}

/// Deletes backups that have expired, and says of the others what keeps them. What an archive goes on from stays for as long as it goes back; `record` says how far each line
/// of history went. One of which it does not say that goes on until there is a backup of another.
pub async fn expire(
    shared: &Shared,
    store: &CodexStore,
    backups: &[Arc<CodexBackup>],
    restores: &[Arc<CodexRestore>],
    record: Option<&Record>,
) -> Result<(), Error> {
    if store.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let api = Api::<CodexBackup>::namespaced(
        shared.client.clone(),
        &store.namespace().unwrap_or_default(),
    );
    let Some(policy) = &store.spec.backup else {
        // Nothing expires, whatever was said before.
        for backup in backups {
            tell_kept(&api, backup, &[]).await?;
        }
        return Ok(());
    };
    // One that is not chosen yet chooses among those that are there when it does, and no Job deletes meanwhile: a restore does
    // so once it holds the Lease, and of a copy the status says it before there is a Job.
    let in_use: BTreeSet<_> = restores
        .iter()
        .filter(|restore| !restore.ended())
        .filter_map(|restore| restore.backup().map(str::to_owned))
        .collect();
    let mut archived = BTreeSet::new();
    if let Some(continuous) = &policy.continuous {
        let cut = Timestamp::now().as_second() - continuous.keep_seconds();
        let cut = Timestamp::from_second(cut).unwrap_or_default();
        let over = |pod: &str, lineage: &str| {
            let line = record?.line(pod, lineage)?;
            if line.live {
                return Some(false);
            }
            let last = i64::try_from(line.seen_ms()?).ok()?;
            Some(last < cut.as_millisecond())
        };
        let all = backups.iter().map(|b| &**b);
        archived = retention::followed(all, cut, policy.verify, over);
    }
    let used = [(kept_by::RESTORE, &in_use), (kept_by::ARCHIVE, &archived)];
    let all = backups.iter().map(|b| &**b);
    let mut kept = BTreeMap::new();
    for (name, by) in retention::kept(all, &policy.retention, &used) {
        if !by.is_empty() {
            kept.insert(name.to_owned(), by);
            continue;
        }
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => tracing::info!(backup = name, "expired"),
            Err(kube::Error::Api(answer)) if answer.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    for backup in backups {
        if let Some(by) = kept.get(&backup.name_any()) {
            tell_kept(&api, backup, by).await?;
        }
    }
    Ok(())
}

/// Writes what keeps a backup, if that is something new. It is merged: what its Jobs say of it, and who said it, stays.
async fn tell_kept(api: &Api<CodexBackup>, backup: &CodexBackup, by: &[&str]) -> Result<(), Error> {
    if backup.status.iter().flat_map(|s| &s.kept_by).eq(by) {
        return Ok(());
    }
    let by = (!by.is_empty()).then_some(by);
    let patch = json!({"metadata": {"uid": backup.metadata.uid}, "status": {"keptBy": by}});
    let (name, params) = (backup.name_any(), PatchParams::default());
    match api.patch_status(&name, &params, &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        // It is gone, or another one by now.
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409 | 422) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The latest backup that has something stored.
fn last(backups: &[Arc<CodexBackup>]) -> Option<LastBackup> {
    let stored = backups.iter().filter_map(|backup| {
        let status = backup.status.as_ref().filter(|status| status.usable())?;
        let time = status.completed_at.clone()?;
        Some((time.0, backup.name_any(), status))
    });
    let (time, name, status) = stored.max_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)))?;
    Some(LastBackup {
        name,
        phase: status.phase.clone().unwrap_or_default(),
        time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time),
        verified: status.verified(),
    })
}

/// The latest backup that has ended: its name and status.
fn ended(backups: &[Arc<CodexBackup>]) -> Option<(String, &CodexBackupStatus)> {
    let ended = backups.iter().filter_map(|backup| {
        let status = backup.status.as_ref().filter(|status| status.ended())?;
        Some((backup.name_any(), status))
    });
    let at = |status: &CodexBackupStatus| status.completed_at.as_ref().map(|t| t.0);
    ended.max_by(|a, b| (at(a.1), &a.0).cmp(&(at(b.1), &b.0)))
}

/// Whether the latest backup that has ended failed at this destination. What a later try of a Job makes up for is none.
fn unreachable(backups: &[Arc<CodexBackup>], at: &Destination) -> bool {
    let failed = |status: &CodexBackupStatus| {
        status.unreachable() && status.destination.as_ref() == Some(at)
    };
    ended(backups).is_some_and(|(_, status)| failed(status))
}

/// How the latest backup that has ended went.
fn outcome(backups: &[Arc<CodexBackup>]) -> (Option<bool>, &'static str, String) {
    let Some((name, status)) = ended(backups) else {
        return (None, "NoBackupYet", "no backup has ended yet".to_owned());
    };
    let message = status.message.clone().unwrap_or_default();
    match (status.phase.as_deref(), status.verified()) {
        (Some(phase::SUCCEEDED), Some(false)) => {
            let message = format!("{name} was stored, but is not what the members said");
            (Some(false), "NotVerified", message)
        }
        (Some(phase::SUCCEEDED), verified) => {
            let how = if verified == Some(true) {
                "stored and verified"
            } else {
                "stored"
            };
            (Some(true), "Succeeded", format!("{name} is {how}"))
        }
        (Some(phase::PARTIALLY_FAILED), _) => {
            (Some(false), "PartiallyFailed", format!("{name}: {message}"))
        }
        _ => (Some(false), "Failed", format!("{name}: {message}")),
    }
}

async fn apply(shared: &Shared, store: &CodexStore, recorded: bool) -> Result<Vec<Problem>, Error> {
    let cfg = &shared.jobs;
    let account = jobs::service_account(store);
    let binding = jobs::role_binding(store, cfg);
    // For nobody else: an operator that may not make Roles does all but archive.
    let archive = recorded.then(|| (jobs::archive_role(store), jobs::archive_binding(store)));
    let cron = jobs::cron_job(store, cfg);
    let mut hasher = DefaultHasher::new();
    // A struct of strings and numbers always serialises.
    let text = serde_json::to_string(&(&account, &binding, &archive, &cron)).unwrap_or_default();
    text.hash(&mut hasher);
    let print = hasher.finish();
    let known = shared.remember(store, |memory| memory.applied);
    if known.is_some_and(|(at, what)| what == print && at.elapsed() < APPLIED) {
        return Ok(Vec::new());
    }
    let client = &shared.client;
    let mut problems = Vec::new();
    problems.extend(one(client, store, &account, FAILED).await?);
    problems.extend(one(client, store, &binding, FAILED).await?);
    if let Some((role, binding)) = &archive {
        problems.extend(one(client, store, role, UNREADABLE).await?);
        problems.extend(one(client, store, binding, UNREADABLE).await?);
    }
    problems.extend(match cron {
        Some(cron) => one(client, store, &cron, FAILED).await?,
        None => delete_cron_job(client, store).await?,
    });
    if problems.is_empty() {
        shared.remember(store, |memory| {
            memory.applied = Some((Instant::now(), print));
        });
    }
    Ok(problems)
}

/// What does not happen where the API server refuses what it needs.
const FAILED: &str = "backups are not taken";
const UNREADABLE: &str = "Jobs cannot use the record of the archive";

/// Applies one object, unless its name is taken; `failed` is what does not happen where that, or to look at it, is refused.
pub(super) async fn one<K>(
    client: &Client,
    store: &CodexStore,
    wanted: &K,
    failed: &str,
) -> Result<Option<Problem>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let api = Api::<K>::namespaced(client.clone(), &store.namespace().unwrap_or_default());
    let name = wanted.name_any();
    match api.get_opt(&name).await {
        Ok(Some(found)) => {
            if let Ownership::Foreign(why) = ownership(found.meta(), store) {
                return Ok(Some(Problem::foreign(&K::kind(&()), &name, &why)));
            }
        }
        Ok(None) => {}
        Err(error) => return Ok(Some(refused(error, failed)?)),
    }
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    match api.patch(&name, &params, &Patch::Apply(wanted)).await {
        Ok(_) => Ok(None),
        Err(error) => Ok(Some(refused(error, failed)?)),
    }
}

/// What is wrong where the API server refuses something: nothing that waiting heals, and the rest of the store goes on.
fn refused(error: kube::Error, failed: &str) -> Result<Problem, Error> {
    let what = format!("{failed}: {}", problem::refusal(error)?);
    Ok(Problem::new(problem::BACKUP_INVALID, what))
}

/// Deletes one object if it is ours; `failed` is what is so where that, or to look at it, is refused.
pub(super) async fn delete<K>(
    client: &Client,
    store: &CodexStore,
    name: &str,
    failed: &str,
) -> Result<Option<Problem>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let api = Api::<K>::namespaced(client.clone(), &store.namespace().unwrap_or_default());
    let found = match api.get_opt(name).await {
        Ok(found) => found,
        Err(error) => return Ok(Some(refused(error, failed)?)),
    };
    let ours = |found: &K| !matches!(ownership(found.meta(), store), Ownership::Foreign(_));
    if !found.as_ref().is_some_and(ours) {
        return Ok(None);
    }
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(None),
        Err(error) => Ok(Some(refused(error, failed)?)),
    }
}

/// After `spec.backup` is gone, of which the condition is the memory.
async fn remove_cron_job(shared: &Shared, store: &CodexStore) -> Result<Option<Problem>, Error> {
    let had = store.status.as_ref().is_some_and(|status| {
        let condition = codexstore_crds::status::condition::LAST_BACKUP_SUCCEEDED;
        status.condition(condition).is_some()
    });
    if !had {
        return Ok(None);
    }
    shared.remember(store, |memory| memory.applied = None);
    delete_cron_job(&shared.client, store).await
}

async fn delete_cron_job(client: &Client, store: &CodexStore) -> Result<Option<Problem>, Error> {
    let name = names::backup_cron_job(&store.name_any());
    let failed = "backups are still taken by the schedule of before";
    delete::<CronJob>(client, store, &name, failed).await
}

#[cfg(test)]
mod tests {
    use codexstore_crds::codex_backup::CodexBackupSpec;

    use super::*;

    fn backup(name: &str, at: &str, phase: &str) -> Arc<CodexBackup> {
        let mut backup = CodexBackup::new(name, CodexBackupSpec::default());
        backup.status = Some(CodexBackupStatus {
            phase: Some(phase.to_owned()),
            completed_at: Some(serde_json::from_value(at.into()).unwrap()),
            message: (phase == phase::FAILED).then(|| "no bucket".to_owned()),
            ..CodexBackupStatus::default()
        });
        Arc::new(backup)
    }

    #[test]
    fn the_last_stored_one_and_the_last_outcome_are_told() {
        assert_eq!(outcome(&[]).0, None);
        let all = [
            backup("a", "2026-11-01T00:00:00Z", phase::SUCCEEDED),
            backup("c", "2026-11-03T00:00:00Z", phase::FAILED),
            backup("b", "2026-11-02T00:00:00Z", phase::PARTIALLY_FAILED),
            backup("d", "2026-11-04T00:00:00Z", phase::RUNNING),
        ];
        assert_eq!(last(&all).unwrap().name, "b");
        let (value, reason, message) = outcome(&all);
        assert_eq!((value, reason), (Some(false), "Failed"));
        assert_eq!(message, "c: no bucket");
        assert_eq!(outcome(&all[..1]).0, Some(true));
    }

    #[test]
    fn a_destination_is_unreachable_by_the_latest_backup_that_has_ended_and_by_no_try_of_one() {
        let claim = |name: &str| Destination {
            claim: Some(name.to_owned()),
            ..Destination::default()
        };
        let failed = |name: &str, at: &str, phase: &str| {
            let mut backup = CodexBackup::clone(&backup(name, at, phase));
            let status = backup.status.as_mut().unwrap();
            status.destination = Some(claim("b"));
            let told = serde_json::json!([{"type": "DestinationUnreachable", "status": "True", "reason": "DestinationFailed",
                "message": "", "lastTransitionTime": at}]);
            status.conditions = serde_json::from_value(told).unwrap();
            Arc::new(backup)
        };
        let mut all = vec![backup("a", "2026-11-01T00:00:00Z", phase::SUCCEEDED)];
        all.push(failed("b", "2026-11-02T00:00:00Z", phase::RUNNING));
        assert!(!unreachable(&all, &claim("b")), "it has tries left");
        all.push(failed("c", "2026-11-03T00:00:00Z", phase::FAILED));
        assert!(unreachable(&all, &claim("b")));
        assert!(!unreachable(&all, &claim("another")), "it has moved");
        all.push(backup("d", "2026-11-04T00:00:00Z", phase::FAILED));
        assert!(!unreachable(&all, &claim("b")), "by its members' fault");
        all.push(failed("e", "2026-11-05T00:00:00Z", phase::FAILED));
        assert!(unreachable(&all, &claim("b")));
        all.push(backup("f", "2026-11-06T00:00:00Z", phase::SUCCEEDED));
        assert!(!unreachable(&all, &claim("b")));
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod runs;
