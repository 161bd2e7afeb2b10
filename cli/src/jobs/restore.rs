//! `job restore`: members get what a backup holds.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use codexstore_api::bodies::RestoreTold;
use codexstore_api::client::RestoreInto;
use codexstore_api::encoding::hex;
use codexstore_crds::backup::{BackupPolicy, Destination as Place};
use codexstore_crds::codex_backup::{BackupMember, CodexBackupStatus, condition, phase};
use codexstore_crds::codex_restore::{CodexRestoreStatus, RestoredMember};
use codexstore_crds::{CodexBackup, CodexRestore, CodexStore, jobs, names, status::bounded};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource as _, ResourceExt};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::cluster::{Cluster, RESTORER};
use super::destination::Destination;
use super::lease::Holder;
use super::member::{self, Credentials};
use super::source::{self, Chosen, Source};
use super::take::{is_member, took};
use crate::failure::Coded;

/// Bytes that are sent at a time.
const PART: usize = 256 << 10;
/// Longest time for one member, where the store allows its backups less.
const LONGEST: Duration = Duration::from_hours(1);

/// Restores. Succeeds if at least one member is restored.
pub async fn restore(cluster: &Cluster, name: &str, holder: &str) -> Result<()> {
    let restore = cluster.restore(name).await?;
    let before = restore.status.clone().unwrap_or_default();
    let failed = before.phase.as_deref() != Some(phase::SUCCEEDED);
    // What waits for it goes on waiting: that is tried again.
    if before.ended() && !(restore.spec.on_start && failed) {
        eprintln!("cxr/{name} has ended already");
        return Ok(());
    }
    let store = cluster.store(&restore.spec.store_ref.name).await?;
    // Nothing is deleted while this reads.
    let lease = names::backup_lease(&store.name_any());
    let holder = Holder::new(
        &cluster.client,
        &cluster.namespace,
        lease,
        holder.to_owned(),
    );
    let mut run = Run {
        cluster,
        store: &store,
        restore: &restore,
        status: CodexRestoreStatus {
            phase: Some(phase::RUNNING.to_owned()),
            started_at: before.started_at.or_else(|| Some(Time(Timestamp::now()))),
            // How the last try went, until this one has ended.
            conditions: before.conditions,
            ..CodexRestoreStatus::default()
        },
    };
    run.tell("waiting for its turn").await?;
    let result = Box::pin(holder.hold(run.all())).await;
    run.sum(result.as_ref().err());
    run.finish().await?;
    result?;
    match run.status.phase.as_deref() {
        Some(phase::FAILED) => Err(anyhow::Error::msg(
            run.status.message.clone().unwrap_or_default(),
        )),
        _ => Ok(()),
    }
}

/// A restore that is being done.
struct Run<'a> {
    cluster: &'a Cluster,
    store: &'a CodexStore,
    restore: &'a CodexRestore,
    status: CodexRestoreStatus,
}

/// Where backups are read, and what is known of them.
struct Stock {
    destination: Destination,
    place: Place,
    location: String,
    sources: Vec<Source>,
    /// Those that must not be used.
    useless: BTreeSet<String>,
    /// Those that the cluster says are there.
    known: Vec<CodexBackup>,
    credentials: Credentials,
}

impl Run<'_> {
    async fn all(&mut self) -> Result<()> {
        let stock = self.stock().await?;
        let pods = self.cluster.pods(&self.store.name_any()).await?;
        let pods: Vec<_> = pods.into_iter().filter(is_member).collect();
        let mut targets: Vec<_> = self
            .restore
            .spec
            .members
            .iter()
            .map(|target| {
                let from = target.from.as_ref().unwrap_or(&target.pod);
                (target.pod.clone(), from.clone())
            })
            .collect();
        if targets.is_empty() {
            targets.extend(pods.iter().map(|pod| (pod.name_any(), pod.name_any())));
        }
        targets.sort();
        let total = targets.len();
        for (name, from) in targets {
            self.tell(&format!("restoring {name}")).await?;
            let pod = pods.iter().find(|pod| pod.name_any() == name);
            let done = match pod {
                Some(pod) => self.one(&stock, pod, &from).await,
                None => Err(anyhow!("no pod of that name is a member of the store")),
            };
            let entry = done.unwrap_or_else(|error| RestoredMember {
                message: Some(bounded(&format!("{error:#}"))),
                ..RestoredMember::default()
            });
            eprintln!("{name}: {}", words(&entry));
            self.status
                .members
                .push(RestoredMember { pod: name, ..entry });
            let done = self.status.members.iter().filter(|m| m.restored).count();
            self.status.ready = Some(format!("{done}/{total}"));
        }
        Ok(())
    }

    /// What there is to restore from.
    async fn stock(&self) -> Result<Stock> {
        let name = self.store.name_any();
        let mut known = self.cluster.backups_of(&name).await?;
        let named = self.restore.spec.backup_ref.as_ref().map(|b| &b.name);
        if let Some(named) = named {
            known.retain(|backup| backup.name_any() == *named);
        }
        let object = known.iter().find(|b| Some(&b.name_any()) == named);
        let place = jobs::restored_from(self.store, object);
        let place = place.ok_or_else(|| {
            Coded::invalid(format!("cxs/{name} has no spec.backup, so no destination"))
        })?;
        let directory = jobs::directory_of_store(&self.cluster.namespace, &name);
        let location = jobs::location(place, &directory);
        let destination = Destination::of(place)?;
        let sources = source::sources(&destination, &directory, named.map(String::as_str)).await;
        let sources = sources.with_context(|| format!("look for backups at {location}"))?;
        if let (Some(named), true) = (named, sources.is_empty()) {
            let what = format!("there is no backup {named} at {location}");
            return Err(Coded::not_found(what).into());
        }
        let of_no_use = |backup: &&CodexBackup| {
            let broken =
                backup.status.as_ref().and_then(CodexBackupStatus::verified) == Some(false);
            broken || backup.metadata.deletion_timestamp.is_some()
        };
        let useless = known.iter().filter(of_no_use).map(ResourceExt::name_any);
        let useless: BTreeSet<_> = useless.collect();
        if let Some(named) = named.filter(|named| useless.contains(*named)) {
            let what = format!("cxb/{named} is being deleted, or was found broken");
            return Err(Coded::invalid(what).into());
        }
        let uid = self.store.metadata.uid.as_deref().unwrap_or_default();
        Ok(Stock {
            destination,
            place: place.clone(),
            location,
            sources,
            useless,
            known,
            credentials: Credentials::load(Path::new(names::TLS_DIR), uid)?,
        })
    }

    async fn one(&self, stock: &Stock, pod: &Pod, from: &str) -> Result<RestoredMember> {
        let on_start = self.restore.spec.on_start;
        let found = stock.newest(from)?;
        let client = member::connect(pod, &stock.credentials).await?;
        let allowed = self
            .store
            .spec
            .backup
            .as_ref()
            .map(BackupPolicy::deadline_seconds);
        let allowed = Duration::from_secs(allowed.unwrap_or(0).unsigned_abs());
        let pod_uid = pod.uid().unwrap_or_default();
        let into = RestoreInto {
            pod_uid: &pod_uid,
            if_empty: on_start,
            longest: allowed.max(LONGEST),
        };
        let told = match found {
            Some((source, stored)) => {
                let (parts, body) = mpsc::channel(2);
                let (told, fed) = tokio::join!(
                    client.restore(&into, body),
                    feed(&stock.destination, source, stored, parts)
                );
                // Why there were no more parts says more than that there were not.
                fed?;
                told.map(|told| entry(source, &told))
            }
            None if on_start => {
                stock.check_none(from)?;
                client.restore_none(&into).await.map(|()| RestoredMember {
                    message: Some("there is no backup of it: it begins empty".to_owned()),
                    ..RestoredMember::default()
                })
            }
            None => {
                return Err(anyhow!(
                    "there is no backup of {from} at {}",
                    stock.location
                ));
            }
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
        self.status.conditions = vec![Condition {
            type_: condition::COMPLETED.to_owned(),
            status: if good { "True" } else { "False" }.to_owned(),
            reason: reason.clone(),
            message: message.clone(),
            observed_generation: None,
            last_transition_time: Time(now),
        }];
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
        eprintln!("cxr/{name}: {reason}, members {ready}");
        Ok(())
    }
}

impl Stock {
    /// The latest backup of that member, if the cluster knows of no later one that should be here.
    fn newest(&self, pod: &str) -> Result<Option<Chosen<'_>>> {
        let (sources, useless) = (&self.sources, &self.useless);
        source::newest(sources, pod, useless, &self.known, &self.place).map_err(|lacks| {
            anyhow!(
                "cxb/{} says that it holds {pod}, and what is at {} is not what it says. Restore another with a \
                 CodexRestore that names it, or delete this one",
                lacks.name_any(),
                self.location
            )
        })
    }

    /// An error if the cluster knows of a backup that should be here: a member must not begin empty then.
    fn check_none(&self, pod: &str) -> Result<()> {
        let said = self.known.iter().find(|backup| {
            let status = backup.status.as_ref();
            let members = status.map(|s| s.members.as_slice()).unwrap_or_default();
            !self.useless.contains(&backup.name_any())
                && members.iter().any(|m| m.pod == pod && m.stored)
        });
        match said {
            None => Ok(()),
            Some(backup) => Err(anyhow!(
                "cxb/{} says that it holds {pod}, and is not at {}: is that the right destination? Restore it with a \
                 CodexRestore that names it, or delete it",
                backup.name_any(),
                self.location
            )),
        }
    }
}

/// In short, for people.
fn words(member: &RestoredMember) -> String {
    match (&member.message, &member.backup) {
        (Some(message), _) => message.clone(),
        (None, Some(backup)) => format!(
            "restored from {backup}, revision {}",
            member.revision.unwrap_or_default()
        ),
        (None, None) => "not restored".to_owned(),
    }
}

fn entry(source: &Source, told: &RestoreTold) -> RestoredMember {
    let number = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
    RestoredMember {
        backup: Some(source.backup.clone()),
        revision: number(told.revision),
        keys: number(told.entries),
        lineage: Some(told.lineage.clone()),
        set_aside: told.set_aside.clone(),
        ..RestoredMember::default()
    }
}

/// Passes the bytes of a stored member on, the last of them once it is certain that they are those that were stored: a
/// member that does not get them all changes nothing.
async fn feed(
    destination: &Destination,
    source: &Source,
    stored: &BackupMember,
    parts: mpsc::Sender<io::Result<Bytes>>,
) -> Result<()> {
    let fed = pass_on(destination, source, stored, &parts).await;
    if fed.is_err() {
        let _ = parts.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
    }
    fed
}

async fn pass_on(
    destination: &Destination,
    source: &Source,
    stored: &BackupMember,
    parts: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<()> {
    let name = stored.file.as_deref().filter(|name| !name.contains('/'));
    let name = name.context("its file is not in the backup's directory")?;
    let path = format!("{}/{name}", source.directory);
    let mut file = destination.read(&path).await?;
    let mut sum = Sha256::new();
    let mut held = Bytes::new();
    loop {
        let mut part = vec![0; PART];
        let read = file.read(&mut part).await;
        let read = read.with_context(|| format!("read {path}"))?;
        if read == 0 {
            break;
        }
        part.truncate(read);
        sum.update(&part);
        let before = std::mem::replace(&mut held, Bytes::from(part));
        // A member that wants no more says why in its answer.
        if !before.is_empty() && parts.send(Ok(before)).await.is_err() {
            return Ok(());
        }
    }
    if Some(hex(&sum.finalize())) != stored.sha256 {
        return Err(anyhow!(
            "{path} is not what was stored: its SHA-256 differs"
        ));
    }
    let _ = parts.send(Ok(held)).await;
    Ok(())
}
