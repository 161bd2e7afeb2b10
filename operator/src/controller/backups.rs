//! Reconciles CodexBackup resources: the Job that takes one, the Job that verifies it, and the Job that deletes what is
//! stored before the resource goes.
//!
//! A Job writes into the status what it did. Here is written only what no Job can: that one has not begun, has no try left, or has
//! ended without a word.

use std::sync::Arc;
use std::time::{Duration, Instant};

use codexstore_crds::backup::Verify;
use codexstore_crds::codex_backup::{
    CodexBackupStatus, DeletionPolicy, condition, last_try, phase, took,
};
use codexstore_crds::jobs::{self, Task};
use codexstore_crds::status::{bounded, condition_of};
use codexstore_crds::{CodexBackup, CodexStore, names, retention};
use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::controller::{Action, Config, Controller, Error as ControllerError};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::job_run::{self, Run, run_of};
use super::kept::{self, Written};
use super::reconcile::jitter;
use super::tell;
use super::told::{self, Over};
use super::{Error, Shared, api};

/// Until the next look: after a change that another one follows, and when only time brings something new.
const SOON: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_mins(5);
/// How long a scheduled Job may be unknown before its backup counts as failed: caches lag.
const GRACE: i64 = 60;
/// Who writes what is written here.
const MANAGER: &str = "codexstore-operator-backup";

/// Reconciles the backups of one namespace, or of all, until `stop`.
pub async fn run(
    shared: Arc<Shared>,
    namespace: Option<String>,
    concurrency: u16,
    stop: CancellationToken,
) {
    let client = &shared.client;
    let (backups, writer) = reflector::store();
    let backup_stream = watcher(
        api::<CodexBackup>(client, namespace.as_deref()),
        watcher::Config::default(),
    )
    .default_backoff()
    .reflect(writer)
    .touched_objects();
    let ours = format!("{}={}", super::MANAGED_BY, names::FIELD_MANAGER);
    let (jobs, job_writer) = reflector::store();
    let job_stream = watcher(
        api::<Job>(client, namespace.as_deref()),
        watcher::Config::default().labels(&ours),
    )
    .default_backoff()
    .modify(|job: &mut Job| {
        // Only how it is.
        job.managed_fields_mut().clear();
        job.spec = None;
    })
    .reflect(job_writer)
    .touched_objects();
    let scope = Arc::new(Scope { shared, jobs });
    Controller::for_stream(backup_stream, backups)
        .with_config(
            Config::default()
                .debounce(Duration::from_millis(200))
                .concurrency(concurrency),
        )
        .watches_stream(job_stream, |job: Job| backup_of(&job))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            |backup, scope: Arc<Scope>| async move {
                Box::pin(look(&backup, &scope.shared, Some(&scope.jobs))).await
            },
            failed,
            scope,
        )
        .for_each(|result| {
            match result {
                Ok(_)
                | Err(ControllerError::ReconcilerFailed(..) | ControllerError::ObjectNotFound(_)) =>
                    {}
                Err(error) => warn!(%error, "watch of backups"),
            }
            std::future::ready(())
        })
        .await;
}

/// What looks share.
struct Scope {
    shared: Arc<Shared>,
    /// The Jobs, as they were seen last.
    jobs: reflector::Store<Job>,
}

/// The backup that a Job is for.
fn backup_of(job: &Job) -> Option<ObjectRef<CodexBackup>> {
    let labels = job.labels();
    let name = match labels.get(names::BACKUP_LABEL) {
        Some(name) => name.clone(),
        // One of a CronJob's.
        None => jobs::backup_of_job(labels.get("app.kubernetes.io/instance")?, &job.name_any()),
    };
    Some(ObjectRef::new(&name).within(&job.namespace()?))
}

pub(super) async fn look(
    backup: &CodexBackup,
    shared: &Shared,
    seen: Option<&reflector::Store<Job>>,
) -> Result<Action, Error> {
    let started = Instant::now();
    let one = One {
        shared,
        seen,
        namespace: backup.namespace().unwrap_or_default(),
        backup,
    };
    let again = if backup.metadata.deletion_timestamp.is_some() {
        one.delete().await?
    } else {
        Box::pin(one.go_on()).await?
    };
    shared.metrics.reconciled("backup", started.elapsed());
    Ok(again.map_or_else(Action::await_change, |time| Action::requeue(jitter(time))))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the controller's"
)]
fn failed(backup: Arc<CodexBackup>, why: &Error, scope: Arc<Scope>) -> Action {
    error!(backup = backup.name_any(), namespace = backup.namespace(), error = %why, "cannot reconcile the backup");
    scope.shared.metrics.reconciled("error", Duration::ZERO);
    Action::requeue(jitter(Duration::from_secs(15)))
}

/// One look at one backup.
struct One<'a> {
    shared: &'a Shared,
    seen: Option<&'a reflector::Store<Job>>,
    namespace: String,
    backup: &'a CodexBackup,
}

impl One<'_> {
    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.shared.client.clone(), &self.namespace)
    }

    fn backups(&self) -> Api<CodexBackup> {
        Api::namespaced(self.shared.client.clone(), &self.namespace)
    }

    async fn store(&self) -> Result<Option<CodexStore>, Error> {
        let api = Api::<CodexStore>::namespaced(self.shared.client.clone(), &self.namespace);
        Ok(api.get_opt(&self.backup.spec.store_ref.name).await?)
    }

    /// Takes and verifies.
    async fn go_on(&self) -> Result<Option<Duration>, Error> {
        if !self.finalized() {
            // Before anything can be stored.
            self.finalizers(|all| all.push(names::STORED_FINALIZER.to_owned()))
                .await?;
            return Ok(Some(SOON));
        }
        let status = self.backup.status.clone().unwrap_or_default();
        if !status.ended() {
            return self.take(&status).await;
        }
        if !status.usable() {
            return Ok(None);
        }
        if let Some(asked) = jobs::verify_asked(self.backup) {
            return Box::pin(self.verify_as_asked(asked)).await;
        }
        if status.verified().is_some() {
            return Ok(None);
        }
        let job = jobs::job_name(&self.backup.name_any(), Task::Verify);
        match self.run(&job).await? {
            Run::None => {
                let Some(store) = self.store().await? else {
                    return Ok(None);
                };
                let policy = store.spec.backup.as_ref().map(|policy| policy.verify);
                let verify = policy.unwrap_or(Verify::Never);
                if !self.is_to_be_verified(verify).await? {
                    return Ok(None);
                }
                self.start(&store, Task::Verify).await
            }
            Run::Going => Ok(None),
            // Its word is on its way; if it has none, its Job goes with time and is made anew.
            Run::Done => Ok(Some(LATER)),
            Run::Failed(why) => {
                let message = format!("could not be verified, and will be tried again: {why}");
                self.unverified(&message).await?;
                self.warn("BackupNotVerified", &message).await;
                Ok(Some(LATER))
            }
        }
    }

    /// Verifies once more, by a Job that was made for it, and takes the wish away once there is an answer. One that goes on answers another
    /// question: what it has read already may have changed since.
    async fn verify_as_asked(&self, asked: &str) -> Result<Option<Duration>, Error> {
        let name = jobs::job_name(&self.backup.name_any(), Task::Verify);
        let found = self.jobs().get_opt(&name).await?;
        let run = found.as_ref().map_or(Run::None, job_run::state);
        let made_for = found
            .as_ref()
            .and_then(|job| job.annotations().get(names::VERIFY_ANNOTATION));
        let own = made_for.is_some_and(|of| of == asked);
        match run {
            Run::Going => Ok(Some(LATER)),
            Run::None => {
                let Some(store) = self.store().await? else {
                    let why = "the CodexStore is gone, so nobody may read what is stored";
                    return self.unanswered(why).await;
                };
                self.start(&store, Task::Verify).await
            }
            Run::Done | Run::Failed(_) if !own => {
                job_run::delete(&self.jobs(), &name).await?;
                Ok(Some(SOON))
            }
            Run::Done => self.answered().await,
            Run::Failed(why) => {
                self.unanswered(&format!("could not be verified: {why}"))
                    .await
            }
        }
    }

    /// Says that nobody knows, and takes the wish away when that is written.
    async fn unanswered(&self, why: &str) -> Result<Option<Duration>, Error> {
        if self.unverified(why).await? {
            self.warn("BackupNotVerified", why).await;
            // What was seen is older than that.
            return Ok(Some(SOON));
        }
        self.answered().await
    }

    /// Takes away the wish to have it verified.
    async fn answered(&self) -> Result<Option<Duration>, Error> {
        let gone = json!({"annotations": {names::VERIFY_ANNOTATION: null}});
        self.change(gone).await?;
        Ok(Some(SOON))
    }

    async fn is_to_be_verified(&self, verify: Verify) -> Result<bool, Error> {
        let others = match verify {
            Verify::Weekly => self.backups().list(&ListParams::default()).await?.items,
            Verify::Always | Verify::Never => Vec::new(),
        };
        Ok(retention::to_be_verified(self.backup, &others, verify))
    }

    async fn take(&self, status: &CodexBackupStatus) -> Result<Option<Duration>, Error> {
        let name = self.backup.name_any();
        let scheduled = self.backup.labels().get(names::JOB_LABEL);
        let job = scheduled
            .cloned()
            .unwrap_or_else(|| jobs::job_name(&name, Task::Backup));
        match (self.run(&job).await?, scheduled) {
            (Run::Going, _) => Ok(Some(LATER)),
            (Run::None, None) if status.phase.as_deref() != Some(phase::RUNNING) => {
                let Some(store) = self.store().await? else {
                    let what =
                        format!("there is no CodexStore {}", self.backup.spec.store_ref.name);
                    return self.pending(status, &what).await;
                };
                if store.spec.backup.is_none() {
                    let what = format!(
                        "cxs/{} has no spec.backup, which says where backups go",
                        store.name_any()
                    );
                    return self.pending(status, &what).await;
                }
                self.pending(status, "its Job is being started").await?;
                self.start(&store, Task::Backup).await
            }
            (Run::None, Some(_)) if self.age() < GRACE => Ok(Some(SOON)),
            (ended, _) => {
                // What a cache does not show yet may have been written by now.
                let live = self.backups().get_opt(&name).await?;
                let live = live.and_then(|live| live.status).unwrap_or_default();
                if live.ended() {
                    return Ok(Some(SOON));
                }
                let why = ended.failure(last_try(&live.conditions));
                self.lost(&live, &why).await?;
                self.warn("BackupFailed", &why).await;
                if let Some(store) = self.store().await? {
                    let note = format!("backup {name}: {why}");
                    let about = store.object_ref(&());
                    self.shared
                        .events
                        .warning(&about, "BackupFailed", &note)
                        .await;
                }
                self.warn_pods(&live).await?;
                Ok(None)
            }
        }
    }

    /// Tells the pods of members that are not stored.
    async fn warn_pods(&self, status: &CodexBackupStatus) -> Result<(), Error> {
        let name = self.backup.name_any();
        let missed = status.members.iter().filter(|m| !m.stored);
        let missed = missed.map(|m| {
            let why = m.message.as_deref().unwrap_or("its Job has failed");
            let note = format!("backup {name}: it is not stored: {why}");
            (m.pod.as_str(), note)
        });
        let store = &self.backup.spec.store_ref.name;
        let missed = missed.collect();
        tell::warn_pods(self.shared, &self.namespace, store, "BackupFailed", &missed).await
    }

    /// Deletes what is stored, then lets go.
    async fn delete(&self) -> Result<Option<Duration>, Error> {
        if !self.finalized() {
            return Ok(None);
        }
        let status = self.backup.status.clone().unwrap_or_default();
        if status.directory.is_none() {
            return self.let_go().await;
        }
        if self.backup.spec.deletion_policy == DeletionPolicy::Retain {
            return self.leave().await;
        }
        let Some(store) = self.store().await? else {
            let note = format!(
                "the CodexStore is gone, so nobody may delete what is stored: it stays at {}",
                status.location.as_deref().unwrap_or_default()
            );
            self.warn("StoredBackupLeft", &note).await;
            return self.leave().await;
        };
        let name = jobs::job_name(&self.backup.name_any(), Task::Prune);
        match self.run(&name).await? {
            Run::None => match self.start(&store, Task::Prune).await {
                Err(Error::Kube(kube::Error::Api(answer))) if terminating(&answer) => {
                    let note = format!(
                        "the namespace is being deleted: what is stored stays at {}",
                        status.location.as_deref().unwrap_or_default()
                    );
                    self.warn("StoredBackupLeft", &note).await;
                    self.leave().await
                }
                other => other,
            },
            Run::Going => Ok(Some(LATER)),
            Run::Done => self.let_go().await,
            Run::Failed(why) => {
                let note =
                    format!("what is stored could not be deleted, and will be tried again: {why}");
                self.warn("PruneFailed", &note).await;
                job_run::delete(&self.jobs(), &name).await?;
                Ok(Some(LATER))
            }
        }
    }

    /// How a Job is. One that goes on changes often, and what was seen of it is enough: another look follows its end. Of one that
    /// was not seen, or has ended, it is asked.
    async fn run(&self, name: &str) -> Result<Run, Error> {
        let seen = self
            .seen
            .and_then(|jobs| jobs.get(&ObjectRef::new(name).within(&self.namespace)));
        if let Some(Run::Going) = seen.map(|job| job_run::state(&job)) {
            return Ok(Run::Going);
        }
        run_of(&self.jobs(), name).await
    }

    async fn start(&self, store: &CodexStore, task: Task) -> Result<Option<Duration>, Error> {
        let Some(job) = jobs::job(store, self.backup, task, &self.shared.jobs) else {
            return Ok(Some(LATER));
        };
        let made = job_run::create(&self.jobs(), &job).await?;
        Ok(Some(if made { LATER } else { SOON }))
    }

    /// Seconds since the resource was made.
    fn age(&self) -> i64 {
        let created = self.backup.metadata.creation_timestamp.as_ref();
        created.map_or(0, |at| Timestamp::now().as_second() - at.0.as_second())
    }

    async fn pending(
        &self,
        status: &CodexBackupStatus,
        what: &str,
    ) -> Result<Option<Duration>, Error> {
        if status.message.as_deref() != Some(what) {
            self.tell(json!({"phase": phase::PENDING, "message": what}))
                .await?;
        }
        Ok(Some(LATER))
    }

    /// Writes that no try of a Job stored anything, or that it ended without a word.
    async fn lost(&self, status: &CodexBackupStatus, why: &str) -> Result<(), Error> {
        let now = Time(Timestamp::now());
        // All that is known of it, under our name: the Job's is not heard any more.
        let mut told = json!(CodexBackupStatus {
            phase: Some(phase::FAILED.to_owned()),
            duration: took(status.started_at.as_ref(), now.0),
            completed_at: Some(now.clone()),
            message: Some(bounded(why)),
            conditions: Vec::new(),
            ..status.clone()
        });
        let completed = condition_of(condition::COMPLETED, "False", phase::FAILED, why, now);
        let unreachable = |c: &&Condition| c.type_ == condition::DESTINATION_UNREACHABLE;
        let unreachable = status.conditions.iter().filter(unreachable).cloned();
        let conditions: Vec<_> = [completed].into_iter().chain(unreachable).collect();
        if let Some(told) = told.as_object_mut() {
            told.insert("conditions".to_owned(), json!(conditions));
        }
        self.tell(told).await
    }

    /// Writes that nobody can say whether it is good. False if that is written already.
    async fn unverified(&self, why: &str) -> Result<bool, Error> {
        let known = self.backup.status.iter().flat_map(|s| &s.conditions);
        let mut known = known.filter(|c| c.type_ == condition::VERIFIED && c.status == "Unknown");
        // A new time each time would be a change, by which it is looked at again.
        if known.any(|c| c.message == bounded(why)) {
            return Ok(false);
        }
        let now = Time(Timestamp::now());
        let unknown = condition_of(condition::VERIFIED, "Unknown", "VerifyFailed", why, now);
        self.tell(json!({"conditions": [unknown]})).await?;
        Ok(true)
    }

    async fn tell(&self, status: Value) -> Result<(), Error> {
        let client = &self.shared.client;
        told::tell(client, self.backup, MANAGER, Over::Any, &status).await?;
        Ok(())
    }

    async fn warn(&self, reason: &'static str, note: &str) {
        let about = self.backup.object_ref(&());
        self.shared.events.warning(&about, reason, note).await;
    }

    fn finalized(&self) -> bool {
        self.backup
            .finalizers()
            .iter()
            .any(|f| f == names::STORED_FINALIZER)
    }

    /// Lets go of files that stay. Which keys they need is written down first: nothing else says so from then on.
    async fn leave(&self) -> Result<Option<Duration>, Error> {
        match kept::write(&self.shared.client, self.backup).await? {
            Written::Done => self.let_go().await,
            Written::Late => Ok(Some(SOON)),
            Written::Refused(why) => {
                let note = format!(
                    "which keys its files need cannot be written down, and it stays until that is put right: {why}"
                );
                self.warn("KeysNotRecorded", &note).await;
                Ok(Some(LATER))
            }
        }
    }

    async fn let_go(&self) -> Result<Option<Duration>, Error> {
        self.finalizers(|all| all.retain(|f| f != names::STORED_FINALIZER))
            .await?;
        Ok(None)
    }

    async fn finalizers(&self, change: impl FnOnce(&mut Vec<String>)) -> Result<(), Error> {
        let mut all = self.backup.finalizers().to_vec();
        change(&mut all);
        self.change(json!({"finalizers": all})).await
    }

    /// Changes the metadata of what was seen, and of nothing newer.
    async fn change(&self, mut metadata: Value) -> Result<(), Error> {
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert(
                "resourceVersion".to_owned(),
                json!(self.backup.resource_version()),
            );
            metadata.insert("uid".to_owned(), json!(self.backup.metadata.uid));
        }
        let patch = json!({"metadata": metadata});
        let params = PatchParams::default();
        let name = self.backup.name_any();
        match self
            .backups()
            .patch(&name, &params, &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            // Changed or gone meanwhile: the next look sees.
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409 | 422) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether an answer says that nothing can be made in a namespace any more.
pub(super) fn terminating(answer: &kube::core::Status) -> bool {
    answer.code == 403 && answer.message.contains("because it is being terminated")
}

#[cfg(test)]
#[path = "backups_tests.rs"]
mod tests;
