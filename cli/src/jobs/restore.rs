//! `job restore`: members get what a backup holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use codexstore_api::archive::PiecePath;
use codexstore_api::bodies::RestoreTold;
use codexstore_api::client::RestoreInto;
use codexstore_crds::backup::BackupPolicy;
use codexstore_crds::codex_backup::{condition, phase, took};
use codexstore_crds::codex_restore::{CodexRestoreStatus, RestoredMember};
use codexstore_crds::pairs::pairs;
use codexstore_crds::{CodexRestore, CodexStore, jobs, names, status::bounded};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource as _, ResourceExt};
use tokio::sync::mpsc;

use super::cluster::{Cluster, RESTORER};
use super::destination::Destination;
use super::feed::{Keys, Parcel, feed};
use super::lease::Holder;
use super::member::{self, Credentials};
use super::plan::{Past, Plan};
use super::source::{self, Source};
use super::stock::Stock;
use super::stored;
use super::take::is_member;
use super::tries::{self, condition_of};
use crate::failure::{Coded, may_heal};

/// Longest time for one member, where the store allows its backups less.
const LONGEST: Duration = Duration::from_hours(1);

/// What the operator asks for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The CodexRestore.
    pub restore: &'a str,
    /// The backup that it chose for a copy of another store's data.
    pub backup: Option<&'a str>,
    /// Whether the store has a record of an archive: without one this Job may not ask for it.
    pub recorded: bool,
}

/// Restores. Succeeds if at least one member is restored. One that restores none, and that somebody asked for, has not ended if another try
/// may do better ([`tries`]): no member was changed, or else it gets the same once more.
pub async fn restore(cluster: &Cluster, asked: Asked<'_>, holder: &str) -> Result<()> {
    let name = asked.restore;
    let restore = cluster.restore(name).await?;
    let before = restore.status.clone().unwrap_or_default();
    let failed = before.phase.as_deref() != Some(phase::SUCCEEDED);
    // What waits for it goes on waiting: that is tried again.
    if before.ended() && !(restore.spec.on_start && failed) {
        eprintln!("cxr/{name} has ended already");
        return Ok(());
    }
    let store = cluster.store(&restore.spec.store_ref.name).await?;
    let named = restore.spec.backup_ref.as_ref().map(|b| b.name.as_str());
    let named = asked.backup.or(named);
    if restore.spec.from_store_ref.is_some() && named.is_none() {
        let what = "a copy of another store's data is of one backup: name it with --backup";
        return Err(Coded::invalid(what).into());
    }
    let mut run = Run {
        cluster,
        store: &store,
        restore: &restore,
        named,
        recorded: asked.recorded,
        left: Vec::new(),
        pods: BTreeMap::new(),
        heals: false,
        status: CodexRestoreStatus {
            // It stays until this has ended.
            backup: named.map(str::to_owned),
            phase: Some(phase::RUNNING.to_owned()),
            started_at: before.started_at.or_else(|| Some(Time(Timestamp::now()))),
            // How the last try went, until this one has ended.
            conditions: before.conditions,
            ..CodexRestoreStatus::default()
        },
    };
    run.tell("waiting for its turn").await?;
    let result = hold(&restore, cluster, holder, run.all()).await;
    run.heals |= result.as_ref().is_err_and(may_heal);
    run.sum(result.as_ref().err());
    let failed = run.status.phase.as_deref() == Some(phase::FAILED);
    let why = run.status.message.clone().unwrap_or_default();
    // One that members wait for is asked for again anyway.
    if failed && run.heals && !restore.spec.on_start {
        run.status = tried(&run.status, named, &why);
        run.write().await?;
    } else {
        run.finish().await?;
    }
    result?;
    if failed {
        return Err(anyhow::Error::msg(why));
    }
    Ok(())
}

/// The status after a try that restored nothing.
fn tried(status: &CodexRestoreStatus, named: Option<&str>, why: &str) -> CodexRestoreStatus {
    let (message, completed) = tries::tried(why);
    CodexRestoreStatus {
        phase: Some(phase::RUNNING.to_owned()),
        message: Some(message),
        conditions: vec![completed],
        // It stays until this has ended.
        backup: named.map(str::to_owned),
        ..status.clone()
    }
}

/// Does the work while no other Job of the store runs, and, of a copy, none of the store whose backup is read: nothing is deleted
/// meanwhile.
async fn hold(
    restore: &CodexRestore,
    cluster: &Cluster,
    holder: &str,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (store, source) = (restore.spec.store_ref.name.as_str(), restore.source());
    let lease = |store| {
        let lease = names::backup_lease(store);
        Holder::new(
            &cluster.client,
            &cluster.namespace,
            lease,
            holder.to_owned(),
        )
    };
    if store == source {
        return Box::pin(lease(store).hold(work)).await;
    }
    // In one order, so that two copies in opposite directions do not wait for each other.
    let (first, second) = (lease(store.min(source)), lease(store.max(source)));
    Box::pin(first.hold(second.hold(work))).await
}

/// A restore that is being done.
struct Run<'a> {
    cluster: &'a Cluster,
    store: &'a CodexStore,
    restore: &'a CodexRestore,
    /// The one backup that it is about.
    named: Option<&'a str>,
    /// Whether the store has a record of an archive.
    recorded: bool,
    /// Members of that backup which no member of the copy gets.
    left: Vec<String>,
    /// The pods of all members, by name.
    pods: BTreeMap<String, ObjectReference>,
    /// Whether something failed that may go well the next time.
    heals: bool,
    status: CodexRestoreStatus,
}

impl Run<'_> {
    async fn all(&mut self) -> Result<()> {
        let stock = self.stock().await?;
        let pods = self.cluster.pods(&self.store.name_any()).await?;
        let pods: Vec<_> = pods.into_iter().filter(is_member).collect();
        let about = pods.iter().map(|pod| (pod.name_any(), pod.object_ref(&())));
        self.pods = about.collect();
        let targets = self.targets(&stock, &pods)?;
        let total = targets.len();
        for (name, from) in targets {
            self.tell(&format!("restoring {name}")).await?;
            let pod = pods.iter().find(|pod| pod.name_any() == name);
            let missing = "no pod of that name is a member of the store";
            let done = match pod {
                Some(pod) => self.one(&stock, pod, &from).await,
                None => Err(Coded::not_found(missing).into()),
            };
            let mut entry = done.unwrap_or_else(|error| {
                self.heals |= may_heal(&error);
                RestoredMember {
                    message: Some(bounded(&format!("{error:#}"))),
                    ..RestoredMember::default()
                }
            });
            entry.from = (from != name).then_some(from);
            eprintln!("{name}: {}", words(&entry));
            self.status
                .members
                .push(RestoredMember { pod: name, ..entry });
            let done = self.status.members.iter().filter(|m| m.restored).count();
            self.status.ready = Some(format!("{done}/{total}"));
        }
        Ok(())
    }

    /// Which pods get whose backup, sorted.
    fn targets(&mut self, stock: &Stock, pods: &[Pod]) -> Result<Vec<(String, String)>> {
        let asked = &self.restore.spec.members;
        let pods: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
        if self.is_copy() {
            let stored = stock.stored();
            let backup = self.named.unwrap_or_default();
            let pairs = pairs(asked, &pods, backup, &stored).map_err(Coded::invalid)?;
            if asked.is_empty() {
                let left = |name: &&str| !pairs.iter().any(|(_, from)| from == name);
                let left = stored.into_iter().filter(left).map(str::to_owned);
                self.left = left.collect();
            }
            return Ok(pairs);
        }
        let mut targets: Vec<_> = asked
            .iter()
            .map(|target| {
                let from = target.from.as_ref().unwrap_or(&target.pod);
                (target.pod.clone(), from.clone())
            })
            .collect();
        if targets.is_empty() {
            targets.extend(pods.into_iter().map(|pod| (pod.clone(), pod)));
        }
        targets.sort();
        Ok(targets)
    }

    /// Whether it is about one backup, and nothing of what was archived since.
    fn is_alone(&self) -> bool {
        self.is_copy() || self.named.is_some()
    }

    fn is_copy(&self) -> bool {
        self.restore.spec.from_store_ref.is_some()
    }

    /// What there is to restore from.
    async fn stock(&self) -> Result<Stock> {
        let name = self.restore.source();
        let mut known = self.cluster.backups_of(name).await?;
        let named = self.named;
        if let Some(named) = named {
            known.retain(|backup| backup.name_any() == *named);
        }
        let object = known.iter().find(|b| Some(b.name_any().as_str()) == named);
        // Where a copy's backup is, its own store does not say.
        let place = if self.is_copy() {
            object.and_then(jobs::recorded)
        } else {
            jobs::restored_from(self.store, object)
        };
        let place = place.ok_or_else(|| {
            Coded::invalid(match named.filter(|_| self.is_copy()) {
                Some(named) => format!("no cxb/{named} of cxs/{name} says where it is stored"),
                None => format!("cxs/{name} has no spec.backup, so no destination"),
            })
        })?;
        let directory = jobs::directory_of_store(&self.cluster.namespace, name);
        let location = jobs::location(place, &directory);
        let destination = Destination::of(place)?;
        let sources = source::sources(&destination, &directory, named).await;
        let sources = sources.with_context(|| format!("look for backups at {location}"))?;
        if let (Some(named), true) = (named, sources.is_empty()) {
            let hint = self.of_another(named).await.unwrap_or_default();
            let what = format!("there is no backup {named} at {location}{hint}");
            return Err(Coded::not_found(what).into());
        }
        let useless = source::useless(&known, named);
        if let Some(named) = named.filter(|named| useless.contains(*named)) {
            let what = format!("cxb/{named} is being deleted, or was found broken");
            return Err(Coded::invalid(what).into());
        }
        let uid = self.store.metadata.uid.as_deref().unwrap_or_default();
        let archive = jobs::archive_directory(&self.cluster.namespace, name);
        let record = if self.is_alone() || !self.recorded {
            None
        } else {
            let here = jobs::location(place, &archive);
            let record = self.cluster.record(name).await?;
            let record = record.as_ref().map(stored::record).transpose()?.flatten();
            record.filter(|record| record.location == here)
        };
        Ok(Stock {
            record,
            archive,
            destination,
            place: place.clone(),
            location,
            sources,
            useless,
            known,
            credentials: Credentials::load(Path::new(names::TLS_DIR), uid)?,
        })
    }

    /// What to write, where the backup of that name is one of another store.
    async fn of_another(&self, named: &str) -> Option<String> {
        let store = self.cluster.backup(named).await.ok()?.spec.store_ref.name;
        (store != self.restore.source()).then(|| {
            format!(
                ": cxb/{named} is one of cxs/{store}, whose data is copied with `fromStoreRef: {{name: {store}}}`"
            )
        })
    }

    async fn one(&self, stock: &Stock, pod: &Pod, from: &str) -> Result<RestoredMember> {
        let on_start = self.restore.spec.on_start;
        let pieces = if self.is_alone() {
            Vec::new()
        } else {
            stock.pieces(from).await?
        };
        // By what there is: that stays as it is.
        let plan = self.plan(stock, from, &pieces);
        let plan = plan.map_err(|why| Coded::not_found(format!("{why:#}")))?;
        let client = member::connect(pod, &stock.credentials).await?;
        let allowed = self
            .store
            .spec
            .backup
            .as_ref()
            .map(BackupPolicy::deadline_seconds);
        let allowed = Duration::from_secs(allowed.unwrap_or(0).unsigned_abs());
        let pod_uid = pod.uid().unwrap_or_default();
        let archived = plan.as_ref().filter(|_| !self.is_alone());
        let archived = archived.filter(|plan| !plan.pieces.is_empty());
        let into = RestoreInto {
            pod_uid: &pod_uid,
            if_empty: on_start,
            pieces: archived.map(|plan| plan.until),
            longest: allowed.max(LONGEST),
        };
        let told = match &plan {
            Some(plan) => {
                let (source, member) = plan.base;
                let keys = match member.key_id {
                    Some(_) if self.is_copy() => Some(Keys::mounted()?),
                    _ => None,
                };
                let parcel = Parcel {
                    source,
                    stored: member,
                    keys: keys.as_ref(),
                    archive: (&stock.archive, from),
                    pieces: &plan.pieces,
                };
                let (parts, body) = mpsc::channel(2);
                let (told, fed) = tokio::join!(
                    client.restore(&into, body),
                    feed(&stock.destination, &parcel, parts)
                );
                // Why there were no more parts says more than that there were not.
                fed?;
                told.map(|told| entry(source, &told))
            }
            None => client.restore_none(&into).await.map(|()| RestoredMember {
                message: Some("there is no backup of it: it begins empty".to_owned()),
                ..RestoredMember::default()
            }),
        };
        match told {
            Ok(entry) => Ok(RestoredMember {
                restored: true,
                ..entry
            }),
            // An earlier try did it, or it did not wait any more.
            Err(there) if on_start && there.is("precondition-failed") => Ok(RestoredMember {
                restored: true,
                message: Some("it has a store already".to_owned()),
                ..RestoredMember::default()
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// What a member gets; none if it begins empty, for which it waits and which is sure.
    fn plan<'a>(
        &self,
        stock: &'a Stock,
        from: &'a str,
        pieces: &'a [PiecePath],
    ) -> Result<Option<Plan<'a>>> {
        let past = Past {
            pod: from,
            pieces,
            record: stock.record.as_ref(),
        };
        if let Some(wanted) = &self.restore.spec.point_in_time {
            let bases = stock.bases(from);
            let plan = match (&wanted.time, wanted.revision) {
                (Some(time), _) => {
                    let ms = u64::try_from(time.0.as_millisecond());
                    past.at_time(&bases, ms.context("a time before 1970")?)
                }
                (None, revision) => {
                    let revision = u64::try_from(revision.unwrap_or_default());
                    past.at_revision(&bases, revision.context("a revision below 0")?)
                }
            };
            return plan.map(Some).map_err(anyhow::Error::msg);
        }
        match stock.newest(from)? {
            Some(base) if self.is_alone() => Ok(Some(Plan::alone(base))),
            Some(base) => past.latest(base).map(Some).map_err(anyhow::Error::msg),
            None if self.restore.spec.on_start => {
                stock.check_none(from)?;
                past.check_none().map_err(anyhow::Error::msg)?;
                Ok(None)
            }
            None => Err(anyhow!(
                "there is no backup of {from} at {}",
                stock.location
            )),
        }
    }

    /// What all members come to.
    fn sum(&mut self, error: Option<&anyhow::Error>) {
        let members = &self.status.members;
        let done = members.iter().filter(|m| m.restored).count();
        let mut missing: Vec<_> = members
            .iter()
            .filter(|m| !m.restored)
            .map(|m| format!("{}: {}", m.pod, words(m)))
            .collect();
        missing.extend(error.map(|error| format!("{error:#}")));
        if members.is_empty() && missing.is_empty() {
            missing.push("the store has no members: no pod runs with it".to_owned());
        }
        let phase = match (done, missing.is_empty()) {
            (0, _) => phase::FAILED,
            (_, true) => phase::SUCCEEDED,
            (_, false) => phase::PARTIALLY_FAILED,
        };
        let nothing = members
            .iter()
            .filter(|m| m.restored && m.backup.is_none())
            .map(|m| format!("{}: {}", m.pod, words(m)));
        missing.extend(nothing);
        if !self.left.is_empty() {
            missing.push(format!("no member gets what {} had", self.left.join(", ")));
        }
        self.status.phase = Some(phase.to_owned());
        self.status.message = (!missing.is_empty()).then(|| bounded(&missing.join("; ")));
        self.status.backup = members.iter().filter_map(|m| m.backup.clone()).max();
    }

    async fn tell(&mut self, doing: &str) -> Result<()> {
        self.status.message = Some(doing.to_owned());
        self.write().await
    }

    async fn write(&self) -> Result<()> {
        let mut shown = self.status.clone();
        shown
            .members
            .truncate(codexstore_crds::codex_backup::MAX_BACKUP_MEMBERS);
        let status = serde_json::to_value(&shown).context("make JSON")?;
        self.cluster.tell(self.restore, RESTORER, status).await
    }

    async fn finish(&mut self) -> Result<()> {
        let now = Timestamp::now();
        let good = self.status.phase.as_deref() == Some(phase::SUCCEEDED);
        let reason = self.status.phase.clone().unwrap_or_default();
        let message = self.status.message.clone().unwrap_or_default();
        self.status.completed_at = Some(Time(now));
        self.status.duration = took(self.status.started_at.as_ref(), now);
        let completed = condition_of(condition::COMPLETED, good, &reason, &message);
        self.status.conditions = vec![completed];
        self.write().await?;
        let name = self.restore.name_any();
        let ready = self.status.ready.as_deref().unwrap_or("0/0");
        let backup = self.status.backup.as_deref();
        let from = backup.map(|backup| format!(" from {backup}"));
        let from = from.unwrap_or_default();
        let note = format!("restore {name}: members {ready} done{from}. {message}");
        let about = [self.restore.object_ref(&()), self.store.object_ref(&())];
        let event = match good {
            true if self.status.backup.is_none() => "NothingToRestore".to_owned(),
            true => "RestoreSucceeded".to_owned(),
            false => format!("Restore{reason}"),
        };
        self.cluster
            .event(&about, "Restore", good, &event, note.trim_end())
            .await;
        self.tell_pods().await;
        self.tell_source().await;
        eprintln!("cxr/{name}: {reason}, members {ready}");
        Ok(())
    }
}

impl Run<'_> {
    /// Tells each member's pod of its own restore: who looks at that should not have to know which restores there are.
    async fn tell_pods(&self) {
        let name = self.restore.name_any();
        for member in &self.status.members {
            let event = match (member.restored, &member.backup) {
                (true, Some(_)) => "RestoreSucceeded",
                (true, None) => "NothingToRestore",
                // It goes on waiting, and is tried again each minute: the operator tells it, and not each time.
                (false, _) if self.restore.spec.on_start => continue,
                (false, _) => "RestoreFailed",
            };
            let Some(about) = self.pods.get(&member.pod) else {
                continue;
            };
            let note = format!("restore {name}: {}", words(member));
            let about = [about.clone()];
            self.cluster
                .event(&about, "Restore", member.restored, event, &note)
                .await;
        }
    }

    /// Tells of a copy where the data came from: whoever looks after that should see where it went.
    async fn tell_source(&self) {
        let (true, Some(backup)) = (self.is_copy(), &self.status.backup) else {
            return;
        };
        let mut about = Vec::new();
        if let Ok(backup) = self.cluster.backup(backup).await {
            about.push(backup.object_ref(&()));
        }
        if let Ok(source) = self.cluster.store(self.restore.source()).await {
            about.push(source.object_ref(&()));
        }
        let (name, into) = (self.restore.name_any(), self.store.name_any());
        let note = format!("restore {name} copied backup {backup} into members of cxs/{into}");
        self.cluster
            .event(&about, "Restore", true, "BackupCopied", &note)
            .await;
    }
}

/// In short, for people.
fn words(member: &RestoredMember) -> String {
    match (&member.message, &member.backup) {
        (Some(message), _) => message.clone(),
        (None, Some(backup)) => {
            let since = if member.restored_to.is_some() {
                ", and what was archived since"
            } else {
                ""
            };
            let revision = member.revision.unwrap_or_default();
            format!("restored from {backup}{since}, revision {revision}")
        }
        (None, None) => "not restored".to_owned(),
    }
}

fn entry(source: &Source, told: &RestoreTold) -> RestoredMember {
    let number = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
    let archived = told.archive.filter(|archive| archive.batches > 0);
    let last = archived.and_then(|archive| archive.last_ms);
    let last = last.and_then(|ms| Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok());
    RestoredMember {
        backup: Some(source.backup.clone()),
        revision: number(archived.map_or(told.revision, |archive| archive.revision)),
        restored_to: last.map(MicroTime),
        // Of what was archived since nobody has counted the entries.
        keys: number(told.entries).filter(|_| archived.is_none()),
        lineage: Some(told.lineage.clone()),
        set_aside: told.set_aside.clone(),
        ..RestoredMember::default()
    }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
