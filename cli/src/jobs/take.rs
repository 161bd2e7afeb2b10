//! `job backup`: reads each member and stores it.

use std::path::Path;

use anyhow::{Context, Result};
use codexstore_api::bodies::BackupTold;
use codexstore_crds::backup::BackupPolicy;
use codexstore_crds::codex_backup::{
    BackupMember, CodexBackupSpec, CodexBackupStatus, TRY_FAILED, condition, phase, took,
};
use codexstore_crds::jobs::{MANIFEST, Manifest};
use codexstore_crds::{CodexBackup, CodexStore, is_injected, jobs, names, status::bounded};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource as _, ResourceExt as _};

use super::cluster::{Cluster, TAKER};
use super::destination::{AtDestination, Destination};
use super::escrow;
use super::lease::Holder;
use super::member::{self, Credentials};
use super::tries::{self, condition_of};
use crate::failure::Coded;

/// Which backup.
pub enum Which<'a> {
    /// One that somebody created.
    Named(&'a str),
    /// The one of a scheduled Job, which makes it.
    Scheduled {
        /// The store.
        store: &'a str,
        /// The Job.
        job: &'a str,
    },
}

/// Takes a backup. Succeeds if at least one member is stored. One that stores none says so and has not ended ([`tries`]).
pub async fn take(cluster: &Cluster, which: Which<'_>, holder: &str) -> Result<()> {
    let (store, backup) = match which {
        Which::Named(name) => {
            let backup = cluster.backup(name).await?;
            (cluster.store(&backup.spec.store_ref.name).await?, backup)
        }
        Which::Scheduled { store, job } => {
            let store = cluster.store(store).await?;
            let backup = cluster.make(&scheduled(&store, job)).await?;
            (store, backup)
        }
    };
    if backup.status.as_ref().is_some_and(CodexBackupStatus::ended) {
        eprintln!("cxb/{} has ended already", backup.name_any());
        return Ok(());
    }
    let lease = names::backup_lease(&store.name_any());
    let holder = Holder::new(
        &cluster.client,
        &cluster.namespace,
        lease,
        holder.to_owned(),
    );
    let mut run = Run::begin(cluster, &store, &backup)?;
    let result = Box::pin(holder.hold(run.all())).await;
    if let Err(error) = &result {
        run.unreachable |= error.is::<AtDestination>();
        run.failed(&format!("{error:#}"));
    }
    if run.status.phase.as_deref() != Some(phase::FAILED) {
        return run.finish().await;
    }
    let why = run.status.message.take().unwrap_or_default();
    run.undo().await;
    run.status = tried(&run.status, &why, run.unreachable);
    run.write().await?;
    result?;
    Err(anyhow::Error::msg(why))
}

/// The status after a try that stored nothing, by the fault of the destination or not.
fn tried(status: &CodexBackupStatus, why: &str, unreachable: bool) -> CodexBackupStatus {
    let (message, completed) = tries::tried(why);
    let type_ = condition::DESTINATION_UNREACHABLE;
    let unreachable = unreachable.then(|| condition_of(type_, true, "DestinationFailed", why));
    CodexBackupStatus {
        phase: Some(phase::RUNNING.to_owned()),
        message: Some(message),
        conditions: [completed].into_iter().chain(unreachable).collect(),
        ..status.clone()
    }
}

/// The backup of a scheduled Job.
fn scheduled(store: &CodexStore, job: &str) -> CodexBackup {
    let name = store.name_any();
    let mut backup = CodexBackup::new(
        &jobs::backup_of_job(&name, job),
        CodexBackupSpec {
            store_ref: codexstore_crds::backup::LocalRef { name: name.clone() },
            ..CodexBackupSpec::default()
        },
    );
    backup.metadata.finalizers = Some(vec![names::STORED_FINALIZER.to_owned()]);
    backup.metadata.labels = Some(
        [
            (names::STORE_LABEL.to_owned(), name),
            (names::JOB_LABEL.to_owned(), job.to_owned()),
        ]
        .into(),
    );
    backup
}

/// A backup that is being taken.
struct Run<'a> {
    cluster: &'a Cluster,
    store: &'a CodexStore,
    backup: &'a CodexBackup,
    status: CodexBackupStatus,
    destination: Destination,
    directory: String,
    /// The manifest, once it may be there.
    manifest: Option<String>,
    /// Whether the sealed keyring goes with it.
    escrowed: Option<Condition>,
    /// Whether the destination failed.
    unreachable: bool,
    /// The pods of members that are not stored, and why.
    missed: Vec<(ObjectReference, String)>,
}

impl<'a> Run<'a> {
    fn begin(
        cluster: &'a Cluster,
        store: &'a CodexStore,
        backup: &'a CodexBackup,
    ) -> Result<Run<'a>> {
        let policy = store.spec.backup.as_ref().ok_or_else(|| {
            Coded::invalid(format!(
                "cxs/{} has no spec.backup, so no destination",
                store.name_any()
            ))
        })?;
        let before = backup.status.clone().unwrap_or_default();
        let named = before
            .destination
            .unwrap_or_else(|| policy.destination.clone());
        let directory = super::own_directory(&cluster.namespace, backup)?;
        let last_try =
            |c: &Condition| c.reason == TRY_FAILED || c.type_ == condition::DESTINATION_UNREACHABLE;
        let status = CodexBackupStatus {
            phase: Some(phase::RUNNING.to_owned()),
            // How the last try went, until this one has ended.
            conditions: before.conditions.into_iter().filter(last_try).collect(),
            started_at: before.started_at.or_else(|| Some(Time(Timestamp::now()))),
            location: Some(jobs::location(&named, &directory)),
            directory: Some(directory.clone()),
            destination: Some(named.clone()),
            ..CodexBackupStatus::default()
        };
        Ok(Run {
            cluster,
            store,
            backup,
            status,
            destination: Destination::of(&named)?,
            directory,
            manifest: None,
            escrowed: None,
            unreachable: false,
            missed: Vec::new(),
        })
    }

    async fn all(&mut self) -> Result<()> {
        self.tell("waiting for members to be read").await?;
        let uid = self.store.metadata.uid.as_deref().unwrap_or_default();
        let credentials = Credentials::load(Path::new(names::TLS_DIR), uid)?;
        let pods = self.cluster.pods(&self.store.name_any()).await?;
        let pods: Vec<_> = pods.iter().filter(|pod| is_member(pod)).collect();
        let total = pods.len();
        let mut stored = 0_usize;
        for pod in pods {
            let name = pod.name_any();
            self.tell(&format!("reading {name}")).await?;
            eprintln!("{name}: reading");
            let file = format!("{name}-{}.backup", random()?);
            let path = format!("{}/{file}", self.directory);
            let copied = member::copy(pod, &credentials, &self.destination, &path).await;
            let entry = match copied {
                Ok(told) => {
                    stored += 1;
                    eprintln!(
                        "{name}: revision {}, {} bytes stored and read back",
                        told.revision, told.bytes
                    );
                    entry(&name, file, &told)
                }
                Err(error) => {
                    self.unreachable |= error.is::<AtDestination>();
                    let why = format!("{error:#}");
                    eprintln!("{name}: {why}");
                    self.missed.push((pod.object_ref(&()), why.clone()));
                    BackupMember {
                        pod: name,
                        message: Some(bounded(&why)),
                        ..BackupMember::default()
                    }
                }
            };
            self.status.members.push(entry);
            self.status.ready = Some(format!("{stored}/{total}"));
        }
        self.sum();
        if self.status.phase.as_deref() != Some(phase::FAILED) {
            self.escrow().await;
            // Last, so that a directory that has it is whole: what a restore needs to know without a cluster.
            let manifest = Manifest {
                backup: self.backup.name_any(),
                stored_at: Timestamp::now().as_second(),
                members: self.status.members.clone(),
                keyring: self.status.keyring.clone(),
            };
            let manifest = serde_json::to_vec_pretty(&manifest).context("make JSON")?;
            let (start, end) = MANIFEST;
            let path = format!("{}/{start}{}{end}", self.directory, random()?);
            self.destination
                .put(self.manifest.insert(path), manifest)
                .await
                .context(AtDestination)?;
        }
        Ok(())
    }

    /// Stores the sealed keyring, where the spec asks for it. A backup without it is one that the cluster can open.
    async fn escrow(&mut self) {
        let asked = !self.store.spec.encryption.escrow_recipients().is_empty();
        let encrypted = self.status.members.iter().any(|m| m.key_id.is_some());
        if !asked || !encrypted {
            return;
        }
        let policy = self.store.spec.backup.as_ref();
        let deadline = policy.map_or(0, BackupPolicy::deadline_seconds);
        let now = Timestamp::now().as_second();
        let began = self.status.started_at.as_ref();
        let passed = began.map_or(0, |began| now - began.0.as_second());
        let stored = escrow::store(
            Path::new(names::ESCROW_DIR),
            &self.status.members,
            &self.destination,
            &self.directory,
            escrow::patience(deadline, passed),
        )
        .await;
        let (stored, reason, message) = match stored {
            Ok(keyring) => {
                let message = format!("the sealed keyring is stored as {}", keyring.file);
                self.status.keyring = Some(keyring);
                (true, "Stored", message)
            }
            Err(error) => (
                false,
                "NotStored",
                format!("no sealed keyring goes with it: {error:#}"),
            ),
        };
        eprintln!("{message}");
        if !stored {
            let name = self.backup.name_any();
            let about = [self.backup.object_ref(&()), self.store.object_ref(&())];
            let note = format!("backup {name}: {message}");
            self.cluster
                .event(&about, "Backup", false, "BackupNotEscrowed", &note)
                .await;
        }
        let escrowed = condition_of(condition::KEY_ESCROWED, stored, reason, &message);
        self.escrowed = Some(escrowed);
    }

    /// Deletes what a try stored that failed after all, as far as it can: the next one stores all of it anew, and may need the room.
    async fn undo(&mut self) {
        let manifest = self.manifest.as_deref();
        undo(
            &self.destination,
            &self.directory,
            manifest,
            &mut self.status.members,
        )
        .await;
    }

    /// What all members come to.
    fn sum(&mut self) {
        let members = &self.status.members;
        let stored = members.iter().filter(|m| m.stored).count();
        let total = |of: fn(&BackupMember) -> Option<i64>| members.iter().filter_map(of).sum();
        self.status.bytes = Some(total(|m| m.bytes));
        self.status.keys = Some(total(|m| m.keys));
        let missing: Vec<_> = members
            .iter()
            .filter(|m| !m.stored)
            .map(|m| {
                format!(
                    "{}: {}",
                    m.pod,
                    m.message.as_deref().unwrap_or("not stored")
                )
            })
            .collect();
        let (phase, message) = match (stored, members.len()) {
            (_, 0) => (
                phase::FAILED,
                Some("the store has no members: no pod runs with it".to_owned()),
            ),
            (0, _) => (phase::FAILED, Some(missing.join("; "))),
            (stored, all) if stored < all => (phase::PARTIALLY_FAILED, Some(missing.join("; "))),
            _ => (phase::SUCCEEDED, None),
        };
        self.status.phase = Some(phase.to_owned());
        self.status.message = message.map(|text| bounded(&text));
    }

    fn failed(&mut self, why: &str) {
        self.status.phase = Some(phase::FAILED.to_owned());
        self.status.message = Some(bounded(why));
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
        self.cluster.tell(self.backup, TAKER, status).await
    }

    async fn finish(&mut self) -> Result<()> {
        let now = Timestamp::now();
        let whole = self.status.phase.as_deref() == Some(phase::SUCCEEDED);
        let reason = self.status.phase.clone().unwrap_or_default();
        let message = self.status.message.clone().unwrap_or_default();
        self.status.completed_at = Some(Time(now));
        self.status.duration = took(self.status.started_at.as_ref(), now);
        let completed = condition_of(condition::COMPLETED, whole, &reason, &message);
        self.status.conditions = [completed]
            .into_iter()
            .chain(self.escrowed.take())
            .collect();
        self.write().await?;
        let name = self.backup.name_any();
        let about = [self.backup.object_ref(&()), self.store.object_ref(&())];
        let ready = self.status.ready.as_deref().unwrap_or("0/0");
        let note = format!("backup {name}: members {ready} stored. {message}");
        let event = if whole {
            "BackupSucceeded".to_owned()
        } else {
            format!("Backup{reason}")
        };
        self.cluster
            .event(&about, "Backup", whole, &event, note.trim_end())
            .await;
        // Who looks at a pod should not have to know which backups there are.
        for (pod, why) in std::mem::take(&mut self.missed) {
            let note = format!("backup {name}: it is not stored: {why}");
            self.cluster
                .event(&[pod], "Backup", false, "BackupFailed", &note)
                .await;
        }
        eprintln!("cxb/{name}: {reason}, members {ready}");
        Ok(())
    }
}

/// Deletes a manifest, and then the files that it names: never is there one that names what is not there.
async fn undo(
    destination: &Destination,
    directory: &str,
    manifest: Option<&str>,
    members: &mut [BackupMember],
) {
    if let Some(path) = manifest
        && let Err(error) = destination.delete(path).await
    {
        eprintln!("all of it stays: {error:#}");
        return;
    }
    for member in members.iter_mut().filter(|m| m.stored) {
        let Some(file) = &member.file else { continue };
        let path = format!("{directory}/{file}");
        if let Err(error) = destination.delete(&path).await {
            eprintln!("{}: {error:#}", member.pod);
            continue;
        }
        *member = BackupMember {
            pod: std::mem::take(&mut member.pod),
            message: Some(
                "was stored, and deleted again since the backup could not be ended".to_owned(),
            ),
            ..BackupMember::default()
        };
    }
}

/// Whether a pod is, or should be, a member.
pub fn is_member(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    is_injected(pod) && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn entry(pod: &str, file: String, told: &BackupTold) -> BackupMember {
    let number = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
    BackupMember {
        pod: pod.to_owned(),
        stored: true,
        file: Some(file),
        revision: number(told.revision),
        taken_at: told.created_at.parse().ok().map(MicroTime),
        lineage: Some(told.lineage.clone()),
        keys: number(told.entries),
        bytes: number(told.bytes),
        sha256: Some(told.sha256.clone()),
        root: Some(told.root.clone()),
        key_id: told.key_id.clone(),
        message: None,
    }
}

/// A name that no other try has.
pub fn random() -> Result<String> {
    let number = getrandom::u32().map_err(|e| anyhow::anyhow!("draw a random name: {e}"))?;
    Ok(format!("{number:08x}"))
}

#[cfg(test)]
mod tests {
    use codexstore_crds::codex_backup::last_try;
    use serde_json::json;

    use super::super::scripted;
    use super::*;

    #[tokio::test]
    async fn what_a_try_stored_goes_after_the_manifest_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::Dir(dir.path().to_owned());
        let stored = || BackupMember {
            pod: "web-0".to_owned(),
            stored: true,
            file: Some("web-0.backup".to_owned()),
            ..BackupMember::default()
        };
        let file = dir.path().join("now/web-0.backup");
        destination
            .put("now/web-0.backup", b"all".to_vec())
            .await
            .unwrap();
        // What cannot be deleted: a directory with something in it.
        destination
            .put("now/m.json/x", b"x".to_vec())
            .await
            .unwrap();
        let mut members = [stored()];
        undo(&destination, "now", Some("now/m.json"), &mut members).await;
        assert!(file.exists() && members[0].stored, "the manifest names it");
        std::fs::remove_dir_all(dir.path().join("now/m.json")).unwrap();
        let manifest = b"{}".to_vec();
        destination.put("now/m.json", manifest).await.unwrap();
        undo(&destination, "now", Some("now/m.json"), &mut members).await;
        assert!(!file.exists() && !dir.path().join("now/m.json").exists());
        assert!(!members[0].stored && members[0].message.is_some());
    }

    #[tokio::test]
    async fn the_pod_of_a_member_that_is_not_stored_is_told_so_once() {
        let mut store = CodexStore::new("orders", codexstore_crds::CodexStoreSpec::default());
        let policy = json!({"destination": {"claim": "b"}});
        store.spec.backup = serde_json::from_value(policy).unwrap();
        let backup = scheduled(&store, "cxs-orders-backup-29367390");
        let answer = serde_json::to_value(&backup).unwrap();
        let (cluster, asked) = scripted::cluster(move |_| answer.clone()).await;
        let mut run = Run::begin(&cluster, &store, &backup).unwrap();
        let member = |pod: &str, stored| BackupMember {
            pod: pod.to_owned(),
            stored,
            ..BackupMember::default()
        };
        run.status.members = vec![member("web-0", true), member("web-1", false)];
        let mut pod = Pod::default();
        pod.metadata.name = Some("web-1".to_owned());
        pod.metadata.namespace = Some("shop".to_owned());
        pod.metadata.uid = Some("u1".to_owned());
        run.missed
            .push((pod.object_ref(&()), "no answer".to_owned()));
        run.sum();
        run.finish().await.unwrap();
        let told = scripted::events(&asked);
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let all = told.iter();
        let all: Vec<_> = all
            .map(|e| (text(&e["regarding"]["kind"]), text(&e["reason"])))
            .collect();
        let wanted = [
            ("CodexBackup", "BackupPartiallyFailed"),
            ("CodexStore", "BackupPartiallyFailed"),
            ("Pod", "BackupFailed"),
        ];
        let wanted = wanted.map(|(kind, reason)| (kind.to_owned(), reason.to_owned()));
        assert_eq!(all, wanted);
        let pod = &told[2];
        assert_eq!(pod["type"], "Warning");
        assert_eq!(pod["regarding"]["uid"], "u1");
        let note = pod["note"].as_str().unwrap();
        assert!(
            note.contains("orders-29367390") && note.contains("no answer"),
            "{note}"
        );
    }

    #[test]
    fn a_try_that_stored_nothing_has_not_ended_and_says_why() {
        let running = CodexBackupStatus {
            phase: Some(phase::FAILED.to_owned()),
            directory: Some("shop/orders/now".to_owned()),
            members: vec![BackupMember {
                pod: "web-0".to_owned(),
                ..BackupMember::default()
            }],
            ..CodexBackupStatus::default()
        };
        let status = tried(&running, "web-0: no answer", false);
        assert!(!status.unreachable());
        assert!(!status.ended() && !status.usable() && status.completed_at.is_none());
        assert_eq!(last_try(&status.conditions), Some("web-0: no answer"));
        assert_eq!(
            (&status.directory, &status.members),
            (&running.directory, &running.members)
        );
        let message = status.message.unwrap();
        assert!(message.contains("web-0: no answer"), "{message}");
        // However much there is to say.
        let long = tried(&running, &"é".repeat(2000), true);
        assert!(long.unreachable() && last_try(&long.conditions).is_some());
        assert!(long.message.unwrap().chars().count() <= 1024);
    }
}
