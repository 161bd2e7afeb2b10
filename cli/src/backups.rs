//! `backup`: of files by [`files`]; `list` and `show` in a cluster: what each CodexBackup says. Nothing is read from where those are stored.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use codexstore_crds::CodexBackup;
use codexstore_crds::codex_backup::{BackupMember, StoredKeyring, condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use serde::Serialize;

use crate::{
    args::InCluster,
    explain::cluster::Cluster,
    failure::Coded,
    offline::{args::KeysIfAny, backup as files},
    output::{self, Format, Table, size},
};

/// `backup`.
#[derive(Debug, Subcommand)]
pub enum Backup {
    /// Verify a backup
    ///
    /// With keys, opens all of it and compares it with what the store said when it wrote it. Without keys, checks its
    /// chain of hashes, which tells damage but not a forgery: compare the SHA-256 with what the store told. Exits
    /// with 7 when anything is wrong.
    #[command(
        after_help = "Examples:\n  codexctl backup verify orders.backup --keyring /keyring\n  codexctl backup verify - < orders.backup"
    )]
    Verify {
        /// The backup, or `-` for stdin
        file: PathBuf,
        /// With which keys
        #[command(flatten)]
        keys: KeysIfAny,
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
}

/// `backup`.
pub async fn backup(command: &Backup, format: Format) -> Result<()> {
    match command {
        Backup::Verify { file, keys } => files::verify(file, keys, format),
        Backup::List { dir: Some(dir), .. } => files::list(dir, format),
        Backup::List { store, place, .. } => list(store.as_deref(), place, format).await,
        Backup::Show { name, place } => show(name, place, format).await,
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
            message: status.message,
            keyring: status.keyring,
            keyring_message: escrowed.map(|c| c.message),
            members: status.members,
        }
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
        "STORE", "BACKUP", "PHASE", "VERIFIED", "MEMBERS", "ENTRIES", "SIZE", "ENDED",
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
        ]);
    }
    table.print()
}

async fn show(name: &str, place: &InCluster, format: Format) -> Result<()> {
    let cluster = Cluster::connect(place).await?;
    let Some(backup) = cluster.backup(name).await? else {
        let namespace = &cluster.namespace;
        let what = format!("cxb/{name} is not there in namespace {namespace}");
        return Err(Coded::not_found(what).into());
    };
    let facts = Facts::of(backup);
    if format == Format::Json {
        return output::json(&facts);
    }
    let members = members(&facts.members);
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
