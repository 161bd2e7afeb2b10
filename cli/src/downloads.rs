//! `backup download`: the files of a backup in a cluster, on this machine. What arrives is what its CodexBackup says, by SHA-256.
//!
//! A bucket is read from here, with what the store's Secret holds if the user may read that, and else with what the environment has.
//! A claim is read by a pod: see [`claim`].

mod claim;

use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use codexstore_api::encoding::hex;
use codexstore_crds::backup as crd;
use codexstore_crds::codex_backup::MAX_BACKUP_MEMBERS;
use codexstore_crds::{CodexBackup, jobs};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::InCluster,
    explain::cluster::Cluster,
    failure::{Coded, Exit},
    jobs::{self as work, bucket::Access, destination::Destination},
    offline::Bar,
    output::{self, Format, Table, size},
};

use claim::Reader;

/// How long a bucket may be away.
const AWAY: Duration = Duration::from_secs(20);
/// Bytes that are read at a time.
const PART: usize = 256 << 10;
/// Variables, other than those that a Secret may hold, that give a process an identity.
const OTHERS: &[&str] = &[
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_USE_AZURE_CLI",
];

/// `backup download`.
#[derive(Debug, Args)]
pub struct Download {
    /// The CodexBackup
    name: String,
    /// Directory for the files, which is made if it is not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Only this member's file, by the name of its pod. Can be given more than once
    #[arg(long, value_name = "POD")]
    member: Vec<String>,
    /// Address of the bucket's server as it is reached from here, in place of the one that the store names
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Image of the pod that reads a claim: the operator's. By default that of its Jobs in the namespace
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    place: InCluster,
}

/// A file that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// The pod whose it is; none for the sealed keyring.
    pod: Option<String>,
    file: String,
    bytes: Option<u64>,
    sha256: String,
}

/// `backup download`.
pub async fn download(args: &Download, format: Format) -> Result<()> {
    let cluster = Cluster::connect(&args.place).await?;
    let backup = cluster.backup_there(&args.name).await?;
    let wanted = wanted(&backup, &args.member)?;
    make_dir(&args.to)?;
    let mut missing = Vec::new();
    for one in &wanted {
        if !is_there(&args.to, one).await? {
            missing.push(one.clone());
        }
    }
    if !missing.is_empty() {
        let reader = Reader::new(&cluster);
        let all = fetch_all(&cluster, &reader, &backup, args, &missing);
        let done = tokio::select! {
            done = Box::pin(all) => done,
            // What was begun goes with what is dropped here.
            code = ended() => {
                eprintln!("codexctl: interrupted: what is whole stays in {}", args.to.display());
                code.and_then(|code| Err(Exit(code).into()))
            }
        };
        reader.remove().await;
        done?;
    }
    show(args, &wanted, format)
}

/// The files that are stored of a backup, and of these members if any are named.
fn wanted(backup: &CodexBackup, members: &[String]) -> Result<Vec<Wanted>> {
    let name = backup.name_any();
    let status = backup.status.clone().unwrap_or_default();
    if !status.usable() {
        let phase = status.phase.as_deref().unwrap_or("not begun");
        let what = format!("cxb/{name} has nothing stored: it is {phase}");
        return Err(Coded::not_found(what).into());
    }
    if members.is_empty() && status.members.len() >= MAX_BACKUP_MEMBERS {
        eprintln!(
            "cxb/{name} lists its first {MAX_BACKUP_MEMBERS} members only: these are downloaded"
        );
    }
    let file = |name: Option<&String>, sha256: Option<&String>| {
        let name = name.filter(|name| !name.contains('/') && !name.starts_with('.'));
        match (name, sha256) {
            (Some(name), Some(sha256)) => Ok((name.clone(), sha256.clone())),
            _ => Err(Coded::invalid(format!(
                "the status of cxb/{} does not say which files it has, and what their SHA-256 is",
                backup.name_any()
            ))),
        }
    };
    for asked in members {
        let found = status.members.iter().find(|m| m.pod == *asked);
        let why = match found {
            Some(member) if member.stored => continue,
            Some(member) => member.message.as_deref().unwrap_or("it is not stored"),
            None => "it is not among its members",
        };
        let what = format!("cxb/{name} has no file of {asked}: {why}");
        return Err(Coded::not_found(what).into());
    }
    for missing in status
        .members
        .iter()
        .filter(|m| !m.stored && members.is_empty())
    {
        let why = missing.message.as_deref().unwrap_or("no reason is given");
        eprintln!("of {} nothing is stored: {why}", missing.pod);
    }
    let mut all = Vec::new();
    for member in status.members.iter().filter(|m| m.stored) {
        if members.is_empty() || members.contains(&member.pod) {
            let (file, sha256) = file(member.file.as_ref(), member.sha256.as_ref())?;
            all.push(Wanted {
                pod: Some(member.pod.clone()),
                file,
                bytes: member.bytes.and_then(|n| u64::try_from(n).ok()),
                sha256,
            });
        }
    }
    if let Some(keyring) = &status.keyring {
        let (file, sha256) = file(Some(&keyring.file), Some(&keyring.sha256))?;
        all.push(Wanted {
            pod: None,
            file,
            bytes: None,
            sha256,
        });
    }
    Ok(all)
}

/// Makes a directory for its owner alone; one that is there stays as it is.
fn make_dir(dir: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("make {}", dir.display()))
}

/// Whether a file is there already. An error if it is another one: nothing is overwritten.
async fn is_there(dir: &Path, wanted: &Wanted) -> Result<bool> {
    let path = dir.join(&wanted.file);
    let mut file = match tokio::fs::File::open(&path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        file => file.with_context(|| format!("open {}", path.display()))?,
    };
    let sum = pass(&mut file, async |_| Ok(())).await;
    let sum = sum.with_context(|| format!("read {}", path.display()))?;
    if sum == wanted.sha256 {
        return Ok(true);
    }
    let what = format!(
        "{} is there, and is not what is stored, by its SHA-256: move it away",
        path.display()
    );
    Err(Coded::conflict(what).into())
}

/// Gives all bytes to somebody; their SHA-256.
async fn pass(
    from: &mut (impl AsyncRead + Unpin + ?Sized),
    mut to: impl AsyncFnMut(Bytes) -> Result<()>,
) -> Result<String> {
    let mut sum = Sha256::new();
    loop {
        let mut part = vec![0; PART];
        let read = from.read(&mut part).await?;
        if read == 0 {
            return Ok(hex(&sum.finalize()));
        }
        part.truncate(read);
        sum.update(&part);
        to(part.into()).await?;
    }
}

/// Where files are read.
enum Place<'a> {
    Bucket(Destination),
    Claim(&'a Reader),
}

/// A file that is being read.
struct Open {
    bytes: Pin<Box<dyn AsyncRead + Send>>,
    /// Whether that were all of them: what has ended otherwise may give no end of bytes.
    end: BoxFuture<'static, Result<()>>,
}

impl Place<'_> {
    async fn open(&self, path: &str) -> Result<Open> {
        match self {
            Place::Bucket(from) => Ok(Open {
                bytes: from.read(path).await?,
                end: futures::future::ready(Ok(())).boxed(),
            }),
            Place::Claim(reader) => reader.open(path).await,
        }
    }
}

async fn fetch_all(
    cluster: &Cluster,
    reader: &Reader,
    backup: &CodexBackup,
    args: &Download,
    wanted: &[Wanted],
) -> Result<()> {
    let directory = work::own_directory(&cluster.namespace, backup)?;
    let place = jobs::recorded(backup)
        .ok_or_else(|| Coded::invalid(format!("cxb/{} does not say where it is", args.name)))?;
    let from = if place.claim.is_some() {
        let start = reader.start(cluster, backup, args.image.as_deref());
        start.await?;
        Place::Claim(reader)
    } else {
        let place = reached(place.clone(), args.endpoint.as_deref());
        let access = access(cluster, &place).await?;
        Place::Bucket(Destination::bucket(&place, &access)?)
    };
    let into = Destination::Dir(args.to.clone());
    let total = wanted.iter().filter_map(|one| one.bytes).sum();
    let bar = Bar::of_bytes("downloading");
    let mut done = 0;
    for one in wanted {
        let count = |bytes| {
            done += bytes;
            bar.at(done, u64::max(total, done));
        };
        fetch(&from, &directory, one, &into, count).await?;
    }
    Ok(())
}

/// A destination, with its server where it is from here.
fn reached(mut place: crd::Destination, endpoint: Option<&str>) -> crd::Destination {
    let endpoint = endpoint.map(str::to_owned);
    if let (Some(s3), true) = (&mut place.s3, endpoint.is_some()) {
        // The name of the bucket is where it is at the server that the store names.
        let hosted = s3.virtual_hosted_style.unwrap_or(s3.endpoint.is_none());
        s3.virtual_hosted_style = Some(hosted);
        s3.endpoint.clone_from(&endpoint);
    }
    if let (Some(gcs), true) = (&mut place.gcs, endpoint.is_some()) {
        gcs.endpoint.clone_from(&endpoint);
    }
    if let (Some(azure), true) = (&mut place.azure, endpoint.is_some()) {
        azure.endpoint = endpoint;
    }
    place
}

/// Fetches one file, which appears whole or not at all, and only if it is what the backup says.
async fn fetch(
    from: &Place<'_>,
    directory: &str,
    wanted: &Wanted,
    into: &Destination,
    mut count: impl FnMut(u64),
) -> Result<()> {
    let path = format!("{directory}/{}", wanted.file);
    let Open { mut bytes, mut end } = from.open(&path).await?;
    let mut upload = into.create(&wanted.file)?;
    let passing = pass(&mut bytes, async |part| {
        count(part.len() as u64);
        upload.write(part).await
    });
    let mut passing = Box::pin(passing);
    let sum = tokio::select! {
        sum = &mut passing => match sum {
            Ok(sum) => end.await.map(|()| sum),
            Err(error) => Err(error),
        },
        ended = &mut end => match ended {
            // The last bytes are on their way.
            Ok(()) => (&mut passing).await,
            Err(error) => Err(error),
        },
    };
    let sum = sum.with_context(|| format!("download {path}"))?;
    drop(passing);
    if sum != wanted.sha256 {
        let what = format!(
            "{path} is not what was stored: its SHA-256 is {sum}, and the CodexBackup says {}",
            wanted.sha256
        );
        return Err(codexstore::Error::corrupt(what).into());
    }
    upload.finish().await
}

/// With what a bucket is read from here.
async fn access(cluster: &Cluster, place: &crd::Destination) -> Result<Access> {
    let mut ca = None;
    if let Some(named) = place.ca_ref() {
        let found: Option<ConfigMap> = cluster.get(&named.name).await?;
        let entry = found.and_then(|map| map.data?.remove("ca.crt"));
        let what = || {
            Coded::not_found(format!(
                "the ConfigMap {} has no ca.crt with the certificates of the bucket's server",
                named.name
            ))
        };
        ca = Some(entry.ok_or_else(what)?.into_bytes());
    }
    let mut credentials = None;
    if let Some((named, entries)) = place.credentials() {
        let why = match cluster.get::<Secret>(&named.name).await {
            Ok(Some(secret)) => {
                let data = secret.data.unwrap_or_default();
                let known = |name: &str| entries.iter().any(|(known, _)| *known == name);
                let text = data.into_iter().filter(|(name, _)| known(name));
                let text =
                    text.filter_map(|(name, value)| Some((name, String::from_utf8(value.0).ok()?)));
                credentials = Some(text.collect());
                None
            }
            Ok(None) => Some(format!("there is no Secret {}", named.name)),
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(why) = why {
            let names: Vec<_> = entries.iter().map(|(name, _)| *name).collect();
            let mut own = names.iter().chain(OTHERS);
            // Google's library looks into the home directory too.
            if place.gcs.is_none() && !own.any(|name| std::env::var_os(name).is_some()) {
                let what = format!(
                    "{why}, and the environment has no credentials of yours for the bucket: set {}",
                    names.join(", ")
                );
                return Err(Coded::denied(what).into());
            }
            eprintln!("{why}: the credentials are those of the environment");
        }
    }
    Ok(Access {
        credentials,
        ca,
        away: AWAY,
    })
}

/// Waits for somebody to end it; the exit code then.
async fn ended() -> Result<u8> {
    let listen = |kind| signal(kind).context("listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let number = tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
    };
    Ok(u8::try_from(128 + number).unwrap_or(u8::MAX))
}

fn show(args: &Download, all: &[Wanted], format: Format) -> Result<()> {
    let path = |one: &Wanted| args.to.join(&one.file);
    if format == Format::Json {
        let rows = all.iter().map(|one| {
            json!({"pod": one.pod, "path": path(one), "bytes": one.bytes, "sha256": one.sha256})
        });
        return output::json(&rows.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["POD", "SIZE", "PATH"]);
    for one in all {
        table.row(vec![
            one.pod.clone().unwrap_or_else(|| "(keyring)".to_owned()),
            one.bytes.map_or_else(String::new, size),
            path(one).display().to_string(),
        ]);
    }
    table.print()
}

#[cfg(test)]
#[path = "downloads_tests.rs"]
mod tests;
