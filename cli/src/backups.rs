//! `backup`: of files by [`files`]; `list` and `show` in a cluster: what each CodexBackup says, and nothing is read from where those are
//! stored; `download` by [`downloads`].

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::Subcommand;
use codexstore_crds::codex_backup::{BackupMember, StoredKeyring, condition};
use codexstore_crds::{CodexBackup, CodexBackupStatus, jobs};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde::Serialize;

use crate::{
    args::InCluster,
    downloads::{self, Download},
    explain::cluster::Cluster,
    failure::Coded,
    follow::{Seen, follow},
    offline::{args::KeysIfAny, backup as files},
    output::{self, Format, Table, size},
};

/// `backup`.
#[derive(Debug, Subcommand)]
pub enum Backup {
    /// Verify a backup: a file, or one in a cluster
    ///
    /// In a cluster (with -n, or as cxb/NAME) a Job opens what is stored with the store's keys, compares it with what the members said, and writes
    /// the condition Verified, whatever was there before. No key leaves the cluster. Exits with 1 if nobody could say.
    ///
    /// Of a file: with keys, opens all of it and compares it with what the store said when it wrote it. Without keys, checks its
    /// chain of hashes, which tells damage but not a forgery: compare the SHA-256 with what the store told. Exits
    /// with 7 when anything is wrong.
    #[command(
        after_help = "Examples:\n  codexctl backup verify orders.backup --keyring /keyring\n  codexctl backup verify - < orders.backup\n  codexctl backup verify before-the-upgrade -n shop"
    )]
    Verify {
        /// A file, or `-` for stdin. In a cluster, the CodexBackup
        #[arg(value_name = "FILE|NAME")]
        file: PathBuf,
        /// With which keys, of a file
        #[command(flatten)]
        keys: KeysIfAny,
        #[command(flatten)]
        place: InCluster,
    },
    /// List the backups in a directory, or in a cluster
    ///
    /// In a directory those of each store, the newest last, by headers and the last frame only: `verify` proves the
    /// rest. Without a directory each CodexBackup of a namespace. Exits with 3 if there is no such directory.
    #[command(
        after_help = "Examples:\n  codexctl backup list /backups\n  codexctl backup list -n shop --store orders"
    )]
    List {
        /// The directory; without it, in a cluster
        #[arg(conflicts_with_all = ["store", "namespace", "context", "kubeconfig"])]
        dir: Option<PathBuf>,
        /// Those of this CodexStore only
        #[arg(long, value_name = "NAME")]
        store: Option<String>,
        #[command(flatten)]
        place: InCluster,
    },
    /// Show a backup in a cluster, with what is stored of each member
    #[command(
        after_help = "Examples:\n  codexctl backup show orders-29367390 -n shop\n  codexctl backup show before-the-upgrade -o json"
    )]
    Show {
        /// The CodexBackup
        name: String,
        #[command(flatten)]
        place: InCluster,
    },
    /// Download the files of a backup in a cluster
    ///
    /// Of each member one, and the sealed keyring if there is one, as they are stored: encrypted. Each is compared with the SHA-256
    /// in the CodexBackup before it has its name, and is for its owner alone. What is there already is compared and not
    /// downloaded; nothing is overwritten (8). A bucket is read with the Secret that the store names, if you may read that, or
    /// else with the credentials of the environment. A claim is read by a pod that is made for it, and deleted at the end, which takes the
    /// right to make one and to run a command in it. Exits with 3 if nothing is stored, 4 without a right or credentials, 7 if a file is not
    /// what was stored.
    #[command(
        after_help = "Examples:\n  codexctl backup download before-the-upgrade -n shop --to ./backup\n  codexctl backup download orders-29367390 --to . --member web-0\n  codexctl backup download orders-29367390 --to . --endpoint http://localhost:9000"
    )]
    Download(Download),
}

/// `backup`.
pub async fn backup(command: &Backup, format: Format) -> Result<()> {
    match command {
        Backup::Verify { file, keys, place } => match named(file, place) {
            None => files::verify(file, keys, format),
            Some(_) if keys.are_given() => {
                let what =
                    "the Job that verifies a backup in a cluster has the store's keys: name none";
                Err(Coded::invalid(what).into())
            }
            Some(name) => Box::pin(verify(name, place, format)).await,
        },
        Backup::List { dir: Some(dir), .. } => files::list(dir, format),
        Backup::List { store, place, .. } => list(store.as_deref(), place, format).await,
        Backup::Show { name, place } => show(name, place, format).await,
        Backup::Download(download) => Box::pin(downloads::download(download, format)).await,
    }
}

/// What a backup says of itself, in the words of its resource.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    name: String,
    store: String,
    phase: Option<String>,
    /// Status of the condition: `True`, `False`, `Unknown`, or none before it was looked at.
    verified: Option<String>,
    verified_message: Option<String>,
    ready: Option<String>,
    keys: Option<i64>,
    bytes: Option<i64>,
    started_at: Option<Time>,
    completed_at: Option<Time>,
    location: Option<String>,
    /// What keeps it: it expires when nothing does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kept_by: Vec<String>,
    message: Option<String>,
    /// The sealed keyring beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    keyring: Option<StoredKeyring>,
    /// Why there is none, where there is to be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    keyring_message: Option<String>,
    /// Of one that is shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<BackupMember>,
}

impl Facts {
    fn of(backup: CodexBackup) -> Facts {
        let status = backup.status.clone().unwrap_or_default();
        let find = |type_| status.conditions.iter().find(|c| c.type_ == type_).cloned();
        let verified = find(condition::VERIFIED);
        let escrowed = find(condition::KEY_ESCROWED).filter(|c| c.status != "True");
        Facts {
            name: backup.name_any(),
            store: backup.spec.store_ref.name,
            phase: status.phase,
            verified: verified.as_ref().map(|c| c.status.clone()),
            verified_message: verified.map(|c| c.message),
            ready: status.ready,
            keys: status.keys,
            bytes: status.bytes,
            started_at: status.started_at,
            completed_at: status.completed_at,
            location: status.location,
            kept_by: status.kept_by,
            message: status.message,
            keyring: status.keyring,
            keyring_message: escrowed.map(|c| c.message),
            members: status.members,
        }
    }
}

/// The name of a CodexBackup, if that is what is to be verified and not a file.
fn named<'a>(file: &'a Path, place: &InCluster) -> Option<&'a str> {
    let text = file.to_str()?;
    let name = text.strip_prefix("cxb/");
    let elsewhere =
        place.namespace.is_some() || place.context.is_some() || place.kubeconfig.is_some();
    name.or(elsewhere.then_some(text))
}

/// Has the operator verify a backup, and waits for the answer.
async fn verify(name: &str, place: &InCluster, format: Format) -> Result<()> {
    let cluster = Cluster::connect(place).await?;
    let backup = cluster.backup_there(name).await?;
    if !backup
        .status
        .as_ref()
        .is_some_and(CodexBackupStatus::usable)
    {
        return Err(Coded::not_found(format!("cxb/{name} has nothing stored")).into());
    }
    let mark = Timestamp::now().to_string();
    cluster.ask_to_verify(&backup, &mark).await?;
    eprintln!("cxb/{name}: a Job is to open it, and does so too if this is interrupted");
    let hint = format!(
        "there is no answer yet: job/cxb-{name}-verify, which the operator makes, says how it is"
    );
    let verified = follow(
        &cluster,
        &backup,
        &hint,
        |backup: CodexBackup| match jobs::verify_asked(&backup) {
            Some(_) => Seen::Going(None),
            None => Seen::Ended(Facts::of(backup)),
        },
    );
    let facts = verified.await?;
    let message = facts.verified_message.clone().unwrap_or_default();
    let verified = facts.verified.clone();
    if format == Format::Json {
        output::json(&facts)?;
    } else {
        let mut table = Table::bare();
        for (label, value) in [
            ("Backup", Some(facts.name)),
            ("Verified", facts.verified),
            ("", facts.verified_message),
        ] {
            table.row(vec![label.to_owned(), value.unwrap_or_default()]);
        }
        table.print()?;
    }
    match verified.as_deref() {
        Some("True") => Ok(()),
        Some("False") => {
            let what = format!("cxb/{name} is not what was stored: {message}");
            Err(codexstore::Error::corrupt(what).into())
        }
        _ => Err(anyhow!(
            "nobody can say whether cxb/{name} is good: {message}"
        )),
    }
}

async fn list(store: Option<&str>, place: &InCluster, format: Format) -> Result<()> {
    let all = Cluster::connect(place).await?.backups().await?;
    let mut all: Vec<_> = all.into_iter().map(Facts::of).collect();
    all.retain(|backup| store.is_none_or(|store| backup.store == store));
    all.sort_by(|a, b| {
        // Those that have not ended are the newest.
        let order = |f: &Facts| (f.completed_at.is_none(), f.completed_at.clone());
        (&a.store, order(a), &a.name).cmp(&(&b.store, order(b), &b.name))
    });
    if format == Format::Json {
        for backup in &mut all {
            backup.members.clear();
        }
        return output::json(&all);
    }
    let mut table = Table::new(&[
        "STORE", "BACKUP", "PHASE", "VERIFIED", "MEMBERS", "ENTRIES", "SIZE", "ENDED", "KEPT BY",
    ]);
    for backup in all {
        table.row(vec![
            backup.store,
            backup.name,
            backup.phase.unwrap_or_default(),
            backup.verified.unwrap_or_default(),
            backup.ready.unwrap_or_default(),
            number(backup.keys),
            bytes(backup.bytes),
            time(backup.completed_at.as_ref()).unwrap_or_default(),
            backup.kept_by.join(","),
        ]);
    }
    table.print()
}

async fn show(name: &str, place: &InCluster, format: Format) -> Result<()> {
    let cluster = Cluster::connect(place).await?;
    let facts = Facts::of(cluster.backup_there(name).await?);
    if format == Format::Json {
        return output::json(&facts);
    }
    let members = members(&facts.members);
    let kept_by = (!facts.kept_by.is_empty()).then(|| facts.kept_by.join(", "));
    let mut table = Table::bare();
    for (label, value) in [
        ("Backup", Some(facts.name)),
        ("Store", Some(facts.store)),
        ("Phase", facts.phase),
        ("Message", facts.message),
        ("Verified", facts.verified),
        ("", facts.verified_message),
        ("Began", time(facts.started_at.as_ref())),
        ("Ended", time(facts.completed_at.as_ref())),
        ("Stored at", facts.location),
        ("Kept by", kept_by),
        (
            "Keyring",
            facts.keyring.map(|k| k.file).or(facts.keyring_message),
        ),
    ] {
        if let Some(value) = value {
            table.row(vec![label.to_owned(), value]);
        }
    }
    output::raw(format!("{}\n{}", table.render(), members.render()).as_bytes())
}

fn members(all: &[BackupMember]) -> Table {
    let mut table = Table::new(&[
        "POD", "STORED", "REVISION", "ENTRIES", "SIZE", "KEY", "FILE", "MESSAGE",
    ]);
    for member in all {
        table.row(vec![
            member.pod.clone(),
            if member.stored { "yes" } else { "no" }.to_owned(),
            number(member.revision),
            number(member.keys),
            bytes(member.bytes),
            member.key_id.clone().unwrap_or_default(),
            member.file.clone().unwrap_or_default(),
            member.message.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn number(number: Option<i64>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

fn bytes(count: Option<i64>) -> String {
    count.map_or_else(String::new, |count| size(count.unsigned_abs()))
}

fn time(at: Option<&Time>) -> Option<String> {
    at.map(|at| at.0.to_string())
}
