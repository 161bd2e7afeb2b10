//! Reconciles CodexRestore resources, and makes those of members that wait for their backup.
//!
//! The Job writes into the status what it did. Here is written only what no Job can: that it has not begun, may not begin, has no try
//! left, or has ended without a word.

use std::sync::Arc;
use std::time::{Duration, Instant};

use codexstore_api::status::State;
use codexstore_crds::backup::LocalRef;
use codexstore_crds::codex_backup::{condition, last_try, phase, took};
use codexstore_crds::codex_restore::RestoreTarget;
use codexstore_crds::status::{bounded, condition_of};
use codexstore_crds::{
    CodexBackup, CodexRestore, CodexRestoreSpec, CodexRestoreStatus, CodexStore, desired, jobs,
    names,
};
use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::controller::{Action, Config, Controller, Error as ControllerError};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::archive;
use super::copies::{self, Not};
use super::events;
use super::job_run::{self, Run, run_of};
use super::members::{self, Member};
use super::problem::{self, Problem};
use super::reconcile::jitter;
use super::tell;
use super::told::{self, Over};
use super::{Error, Shared, api};

/// Until the next look: after a change that another one follows, and when only time brings something new.
const SOON: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_mins(5);
/// Until it is seen whether what was missing is there.
const WAITS: Duration = Duration::from_secs(20);
/// Seconds until the restore of a member that waits for it is tried again.
const AGAIN: i64 = 60;
/// Who writes what is written here.
const MANAGER: &str = "codexstore-operator-restore";

/// Reconciles the restores of one namespace, or of all, until `stop`.
pub async fn run(
    shared: Arc<Shared>,
    namespace: Option<String>,
    concurrency: u16,
    stop: CancellationToken,
) {
    let client = &shared.client;
    let (restores, writer) = reflector::store();
    let restore_stream = watcher(
        api::<CodexRestore>(client, namespace.as_deref()),
        watcher::Config::default(),
    )
    .default_backoff()
    .reflect(writer)
    .touched_objects();
    let ours = format!("{}={}", super::MANAGED_BY, names::FIELD_MANAGER);
    let job_stream = watcher(
        api::<Job>(client, namespace.as_deref()),
        watcher::Config::default().labels(&ours),
    )
    .default_backoff()
    .touched_objects();
    Controller::for_stream(restore_stream, restores)
        .with_config(
            Config::default()
                .debounce(Duration::from_millis(200))
                .concurrency(concurrency),
        )
        .watches_stream(job_stream, |job: Job| {
            let name = job.labels().get(names::RESTORE_LABEL)?;
            Some(ObjectRef::new(name).within(&job.namespace()?))
        })
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(look, failed, shared)
        .for_each(|result| {
            match result {
                Ok(_)
                | Err(ControllerError::ReconcilerFailed(..) | ControllerError::ObjectNotFound(_)) =>
                    {}
                Err(error) => warn!(%error, "watch of restores"),
            }
            std::future::ready(())
        })
        .await;
}

pub(super) async fn look(restore: Arc<CodexRestore>, shared: Arc<Shared>) -> Result<Action, Error> {
    let started = Instant::now();
    let one = One {
        shared: &shared,
        namespace: restore.namespace().unwrap_or_default(),
        restore: &restore,
    };
    // One that is being deleted takes its Job with it.
    let again = match restore.metadata.deletion_timestamp {
        None => one.go_on().await?,
        Some(_) => None,
    };
    shared.metrics.reconciled("restore", started.elapsed());
    Ok(again.map_or_else(Action::await_change, |time| Action::requeue(jitter(time))))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the controller's"
)]
fn failed(restore: Arc<CodexRestore>, why: &Error, shared: Arc<Shared>) -> Action {
    error!(restore = restore.name_any(), namespace = restore.namespace(), error = %why, "cannot reconcile the restore");
    shared.metrics.reconciled("error", Duration::ZERO);
    Action::requeue(jitter(Duration::from_secs(15)))
}

/// One look at one restore.
struct One<'a> {
    shared: &'a Shared,
    namespace: String,
    restore: &'a CodexRestore,
}

impl One<'_> {
    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.shared.client.clone(), &self.namespace)
    }

    fn restores(&self) -> Api<CodexRestore> {
        Api::namespaced(self.shared.client.clone(), &self.namespace)
    }

    async fn go_on(&self) -> Result<Option<Duration>, Error> {
        let status = self.restore.status.clone().unwrap_or_default();
        let job = jobs::restore_job_name(&self.restore.name_any());
        if status.ended() {
            return self.again(&status, &job).await;
        }
        let found = self.jobs().get_opt(&job).await?;
        match found.as_ref().map_or(Run::None, job_run::state) {
            Run::Going => self.going(&status, &job, found).await,
            Run::None if status.phase.as_deref() != Some(phase::RUNNING) => {
                Box::pin(self.begin(&status)).await
            }
            ended => {
                // What a cache does not show yet may have been written by now.
                let live = self.restores().get_opt(&self.restore.name_any()).await?;
                let live = live.and_then(|live| live.status).unwrap_or_default();
                if live.ended() {
                    return Ok(Some(SOON));
                }
                let why = ended.failure(last_try(&live.conditions));
                self.end(&live, &why).await?;
                self.tell_store(&why).await?;
                self.warn_pods(&live).await?;
                Ok(None)
            }
        }
    }

    /// A copy's Job may run as the account of the store that it reads from, which goes with that store. Then no pod of the Job can say
    /// anything any more, and no other one can be made: it is started again, as the account of the store that gets the data.
    async fn going(
        &self,
        status: &CodexRestoreStatus,
        job: &str,
        found: Option<Job>,
    ) -> Result<Option<Duration>, Error> {
        let spec = &self.restore.spec;
        if spec.from_store_ref.is_none() {
            return Ok(Some(LATER));
        }
        let going = found.filter(|job| job.metadata.deletion_timestamp.is_none());
        let account = going.and_then(|job| job.spec?.template.spec?.service_account_name);
        if account != Some(names::jobs_account(self.restore.source())) {
            return Ok(Some(LATER));
        }
        let stores = Api::<CodexStore>::namespaced(self.shared.client.clone(), &self.namespace);
        if stores.get_opt(self.restore.source()).await?.is_some() {
            return Ok(Some(WAITS));
        }
        let what = format!(
            "cxs/{} was deleted, and with it the account that its Job ran as: the Job is started again as the one of cxs/{}",
            self.restore.source(),
            spec.store_ref.name
        );
        // First what lets it begin again: a Job that is gone otherwise means that it has failed.
        let told = json!({"phase": phase::PENDING, "message": what, "backup": status.backup});
        if !self.tell(told).await? {
            return Ok(None);
        }
        job_run::delete(&self.jobs(), job).await?;
        let about = self.restore.object_ref(&());
        self.shared
            .events
            .warning(&about, "RestoreStartedAgain", &what)
            .await;
        Ok(Some(SOON))
    }

    /// A member that waits goes on waiting, so its restore is tried again.
    async fn again(
        &self,
        status: &CodexRestoreStatus,
        job: &str,
    ) -> Result<Option<Duration>, Error> {
        let good = status.phase.as_deref() == Some(phase::SUCCEEDED);
        if good || !self.restore.spec.on_start {
            return Ok(None);
        }
        let ended = status.completed_at.as_ref().map_or(0, |t| t.0.as_second());
        let left = ended + AGAIN - Timestamp::now().as_second();
        if let Ok(left @ 1..) = u64::try_from(left) {
            return Ok(Some(Duration::from_secs(left)));
        }
        match run_of(&self.jobs(), job).await? {
            Run::None => Box::pin(self.begin(status)).await,
            Run::Going => Ok(Some(LATER)),
            Run::Done | Run::Failed(_) => {
                job_run::delete(&self.jobs(), job).await?;
                Ok(Some(SOON))
            }
        }
    }

    async fn begin(&self, status: &CodexRestoreStatus) -> Result<Option<Duration>, Error> {
        let client = || self.shared.client.clone();
        let named = &self.restore.spec.store_ref.name;
        let stores = Api::<CodexStore>::namespaced(client(), &self.namespace);
        let Some(store) = stores.get_opt(named).await? else {
            return self
                .pending(status, &format!("there is no CodexStore {named}"))
                .await;
        };
        if store.spec.backup.is_none() {
            let what = format!("cxs/{named} has no spec.backup, which says where backups are");
            return self.pending(status, &what).await;
        }
        if let Some(other) = self.earlier().await? {
            let what = format!("cxr/{} is not done yet", other.name_any());
            if self.restore.spec.on_start {
                self.pending(status, &what).await?;
                return Ok(Some(SOON));
            }
            // Who asked for it did not know what the other one brings.
            let says = other.status.and_then(|s| s.message).unwrap_or_default();
            let what = format!(
                "refused, since {what} ({says}): create it again when that has ended, or delete that one"
            );
            self.end(status, &what).await?;
            return Ok(None);
        }
        let job = match Box::pin(self.job(status, &store)).await? {
            Ok(job) => job,
            Err(Not::Yet(what)) => return self.pending(status, &what).await,
            Err(Not::Never(why)) => {
                self.end(status, &why).await?;
                return Ok(None);
            }
        };
        let Some(job) = job else {
            return Ok(Some(LATER));
        };
        let made = job_run::create(&self.jobs(), &job).await?;
        Ok(Some(if made { LATER } else { SOON }))
    }

    /// The Job that does it, if it can be done.
    async fn job(
        &self,
        status: &CodexRestoreStatus,
        store: &CodexStore,
    ) -> Result<Result<Option<Job>, Not>, Error> {
        let (restore, cfg) = (self.restore, &self.shared.jobs);
        let Some(from) = &restore.spec.from_store_ref else {
            let backup = self.backup().await?;
            // What is archived behind a backup that is named is not restored.
            let recorded = restore.spec.backup_ref.is_some()
                || archive::live(self.shared, store).await?.is_some();
            let job = jobs::restore_job(store, restore, backup.as_ref(), recorded, cfg);
            return Ok(Ok(job));
        };
        let found = copies::look(&self.shared.client, store, restore, &from.name).await?;
        let found = match found {
            Ok(found) => found,
            Err(not) => return Ok(Err(not)),
        };
        let origin = found.origin();
        self.chosen(status, &origin.backup.name_any()).await?;
        Ok(Ok(jobs::copy_job(store, restore, &origin, cfg)))
    }

    /// Says which backup a copy is of. Its Job does so too, once its pod runs: until then the backup must not expire.
    async fn chosen(&self, status: &CodexRestoreStatus, backup: &str) -> Result<(), Error> {
        if status.backup.as_deref() == Some(backup) {
            return Ok(());
        }
        let what = "its Job is being started";
        self.tell(json!({"phase": phase::PENDING, "message": what, "backup": backup}))
            .await?;
        Ok(())
    }

    /// The backup that it names, if the cluster has it as one of the store's.
    async fn backup(&self) -> Result<Option<CodexBackup>, Error> {
        let Some(named) = &self.restore.spec.backup_ref else {
            return Ok(None);
        };
        let backups = Api::<CodexBackup>::namespaced(self.shared.client.clone(), &self.namespace);
        let found = backups.get_opt(&named.name).await?;
        Ok(found.filter(|found| found.spec.store_ref == self.restore.spec.store_ref))
    }

    /// Another restore of the same store that was asked for by a user, has not ended, and comes before this one, which has not begun: one
    /// that has begun, or was asked for earlier.
    async fn earlier(&self) -> Result<Option<CodexRestore>, Error> {
        let order = |r: &CodexRestore| (r.metadata.creation_timestamp.clone(), r.name_any());
        let mut all = self.restores().list(&ListParams::default()).await?.items;
        all.retain(|other| {
            other.spec.store_ref == self.restore.spec.store_ref
                && other.metadata.uid != self.restore.metadata.uid
                && other.metadata.deletion_timestamp.is_none()
                && !other.spec.on_start
                && !other.ended()
        });
        let before = |other: &&CodexRestore| order(other) < order(self.restore);
        if let Some(other) = all.iter().find(before) {
            return Ok(Some(other.clone()));
        }
        for other in all {
            let job = jobs::restore_job_name(&other.name_any());
            if self.jobs().get_opt(&job).await?.is_some() {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    async fn pending(
        &self,
        status: &CodexRestoreStatus,
        what: &str,
    ) -> Result<Option<Duration>, Error> {
        if let Some(longest) = self.restore.spec.start_deadline_seconds()
            && self.age() > longest
        {
            let why = format!(
                "gave up after {longest} s ({what}): create it again when that is there, or with a longer `startDeadline`"
            );
            self.end(status, &why).await?;
            return Ok(None);
        }
        if status.message.as_deref() != Some(what) {
            self.tell(json!({"phase": phase::PENDING, "message": what}))
                .await?;
        }
        Ok(Some(WAITS))
    }

    /// Seconds since the resource was made.
    fn age(&self) -> i64 {
        let created = self.restore.metadata.creation_timestamp.as_ref();
        created.map_or(0, |at| Timestamp::now().as_second() - at.0.as_second())
    }

    /// Writes that it has failed, where no Job did.
    async fn end(&self, status: &CodexRestoreStatus, why: &str) -> Result<(), Error> {
        let now = Time(Timestamp::now());
        let completed = condition_of(
            condition::COMPLETED,
            "False",
            phase::FAILED,
            why,
            now.clone(),
        );
        // All that is known of it, under our name: the Job's is not heard any more.
        self.tell(json!(CodexRestoreStatus {
            phase: Some(phase::FAILED.to_owned()),
            duration: took(status.started_at.as_ref(), now.0),
            completed_at: Some(now),
            message: Some(bounded(why)),
            conditions: vec![completed],
            ..status.clone()
        }))
        .await?;
        let about = self.restore.object_ref(&());
        self.shared
            .events
            .warning(&about, problem::RESTORE_FAILED, why)
            .await;
        Ok(())
    }

    /// Tells of a failure where whoever looks after the store sees it.
    async fn tell_store(&self, why: &str) -> Result<(), Error> {
        let stores = Api::<CodexStore>::namespaced(self.shared.client.clone(), &self.namespace);
        let store = stores.get_opt(&self.restore.spec.store_ref.name).await?;
        if let Some(store) = store {
            let note = format!("restore {}: {why}", self.restore.name_any());
            let about = store.object_ref(&());
            self.shared
                .events
                .warning(&about, problem::RESTORE_FAILED, &note)
                .await;
        }
        Ok(())
    }

    /// Tells the pods of members that are not restored. One that waits is told where it is looked at.
    async fn warn_pods(&self, status: &CodexRestoreStatus) -> Result<(), Error> {
        if self.restore.spec.on_start {
            return Ok(());
        }
        let name = self.restore.name_any();
        let missed = status.members.iter().filter(|m| !m.restored);
        let missed = missed.map(|m| {
            let why = m.message.as_deref().unwrap_or("its Job has failed");
            (m.pod.as_str(), format!("restore {name}: {why}"))
        });
        let (store, missed) = (&self.restore.spec.store_ref.name, missed.collect());
        let reason = problem::RESTORE_FAILED;
        tell::warn_pods(self.shared, &self.namespace, store, reason, &missed).await
    }

    /// False if it is gone, or another one by now.
    async fn tell(&self, status: Value) -> Result<bool, Error> {
        let client = &self.shared.client;
        Ok(told::tell(client, self.restore, MANAGER, Over::Any, &status).await?)
    }
}

/// Has the members that wait for their backup restored, and says of which that does not succeed.
pub async fn on_start(
    shared: &Shared,
    store: &CodexStore,
    members: &[Member],
    restores: &[Arc<CodexRestore>],
) -> Result<Vec<Problem>, Error> {
    let namespace = store.namespace().unwrap_or_default();
    let api = Api::<CodexRestore>::namespaced(shared.client.clone(), &namespace);
    let named = |pod_uid: Option<String>| restore_name(store, &pod_uid.unwrap_or_default());
    let mut problems = Vec::new();
    if store.metadata.deletion_timestamp.is_some() {
        return Ok(problems);
    }
    for member in members {
        let says = |state| matches!(&member.answer, Some(Ok(status)) if status.state == state);
        let waits = says(State::AwaitingRestore);
        let lives = member.pod.metadata.deletion_timestamp.is_none();
        let name = named(member.pod.uid());
        let known = restores.iter().find(|r| r.name_any() == name);
        if lives && says(State::Ready) && known.is_none() && store.spec.restores_on_start() {
            opened(shared, &member.pod).await;
        }
        if !waits || !lives {
            continue;
        }
        let Some(restore) = known else {
            let made = api
                .create(&PostParams::default(), &of_member(store, member, &name))
                .await;
            match made {
                Ok(_) => info!(restore = name, namespace, "a member waits for its backup"),
                Err(kube::Error::Api(answer)) if answer.code == 409 => {}
                Err(error) => return Err(error.into()),
            }
            continue;
        };
        let conditions = restore.status.as_ref().map(|s| s.conditions.as_slice());
        let failed = conditions
            .unwrap_or_default()
            .iter()
            .find(|c| c.type_ == condition::COMPLETED && c.status == "False");
        if let Some(failed) = failed {
            let what = format!(
                "member {} waits for its backup and does not begin empty: {}",
                member.pod.name_any(),
                failed.message
            );
            let about = member.pod.object_ref(&());
            shared
                .events
                .warning(&about, problem::RESTORE_FAILED, &what)
                .await;
            problems.push(Problem::new(problem::RESTORE_FAILED, what));
        }
    }
    // Of pods that are gone.
    let done = |r: &CodexRestore| {
        r.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase::SUCCEEDED)
    };
    for restore in restores.iter().filter(|r| r.spec.on_start && !done(r)) {
        let ours = restore.labels().get(names::STORE_LABEL) == Some(&store.name_any());
        let name = restore.name_any();
        if ours && !members.iter().any(|m| named(m.pod.uid()) == name) {
            match api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(answer)) if answer.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(problems)
}

/// Tells that a member found its store and nothing was restored: once for each start, since later ones are not told of.
async fn opened(shared: &Shared, pod: &Pod) {
    let now = Timestamp::now();
    let age = members::started_at(pod).map(|at| now.duration_since(at).unsigned_abs());
    if age.is_some_and(|age| age < events::QUIET) {
        let note = "its volume holds a store, which was opened: nothing is restored";
        let about = pod.object_ref(&());
        shared.events.normal(&about, "DataPresent", note).await;
    }
}

/// Name of the restore of the member in a pod: one for each, however often it is looked at.
fn restore_name(store: &CodexStore, pod_uid: &str) -> String {
    let short: String = pod_uid.chars().take(13).collect();
    format!("{}-{short}", store.name_any())
}

fn of_member(store: &CodexStore, member: &Member, name: &str) -> CodexRestore {
    let mut restore = CodexRestore::new(
        name,
        CodexRestoreSpec {
            store_ref: LocalRef {
                name: store.name_any(),
            },
            members: vec![RestoreTarget {
                pod: member.pod.name_any(),
                from: None,
            }],
            on_start: true,
            ..CodexRestoreSpec::default()
        },
    );
    restore.metadata.labels = Some(desired::labels(store, "restore"));
    restore.metadata.owner_references = Some(desired::owner_reference(store).into_iter().collect());
    restore
}

#[cfg(test)]
#[path = "restores_tests.rs"]
mod tests;
