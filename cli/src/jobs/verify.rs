//! `job verify`: opens each stored member with its key, and compares.

use std::path::Path;

use anyhow::{Context, Result};
use codexstore::backup::{self, BackupInfo};
use codexstore::{Encryption, Keyring, Passphrase};
use codexstore_api::encoding::hex;
use codexstore_crds::codex_backup::{BackupMember, condition};
use codexstore_crds::{names, status::bounded};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;
use tokio_util::io::SyncIoBridge;

use super::cluster::{Cluster, VERIFIER};
use super::destination::Destination;
use crate::failure::Coded;

/// Verifies a backup and writes down the outcome. An error means that there is none: the destination or the keyring
/// could not be read.
pub async fn verify(cluster: &Cluster, name: &str) -> Result<()> {
    let found = cluster.backup(name).await?;
    let status = found.status.clone().unwrap_or_default();
    let (Some(named), true) = (&status.destination, status.usable()) else {
        return Err(Coded::invalid(format!("cxb/{name} has nothing stored")).into());
    };
    let directory = super::own_directory(cluster, &found)?;
    let destination = Destination::of(named)?;
    let mut wrong = Vec::new();
    let mut opened = 0_usize;
    for member in status.members.iter().filter(|m| m.stored) {
        eprintln!("{}: verifying", member.pod);
        let name = member.file.as_deref().filter(|name| !name.contains('/'));
        let Some(name) = name else {
            wrong.push(format!(
                "{}: its file is not in the backup's directory",
                member.pod
            ));
            continue;
        };
        let file = destination.read(&format!("{directory}/{name}")).await?;
        let bridge = SyncIoBridge::new(file);
        let encryption = encryption(member)?;
        let result = tokio::task::spawn_blocking(move || backup::verify(bridge, &encryption)).await;
        let result = result.context("the thread that verifies ended")?;
        match result {
            Ok(info) => match differs(member, &info) {
                None => opened += 1,
                Some(what) => wrong.push(format!(
                    "{}: {what} is not what the member said",
                    member.pod
                )),
            },
            // The bytes may be good: it is tried again. So may they be where the keyring lacks their key, which may be put back.
            Err(error) if matches!(error.code(), "io" | "key-missing") => {
                return Err(error.into());
            }
            Err(error) => wrong.push(format!("{}: {error}", member.pod)),
        }
    }
    let good = wrong.is_empty();
    let (reason, message) = if good {
        ("Opened", format!("{opened} members opened with their keys"))
    } else {
        ("NotWhatWasSaid", wrong.join("; "))
    };
    eprintln!("cxb/{name}: {message}");
    let verified = Condition {
        type_: condition::VERIFIED.to_owned(),
        status: if good { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: bounded(&message),
        observed_generation: found.metadata.generation,
        last_transition_time: Time(Timestamp::now()),
    };
    cluster
        .tell(&found, VERIFIER, json!({"conditions": [verified]}))
        .await?;
    let event = if good {
        "BackupVerified"
    } else {
        "BackupBroken"
    };
    let mut about = vec![found.object_ref(&())];
    if let Ok(store) = cluster.store(&found.spec.store_ref.name).await {
        about.push(store.object_ref(&()));
    }
    let note = format!("backup {}: {message}", found.name_any());
    cluster.event(&about, "Verify", good, event, &note).await;
    Ok(())
}

fn encryption(member: &BackupMember) -> Result<Encryption> {
    if member.key_id.is_none() {
        return Ok(Encryption::None);
    }
    if let Some(file) = std::env::var_os(names::PASSPHRASE_ENV) {
        let passphrase = Passphrase::load(Path::new(&file)).context("load the passphrase")?;
        return Ok(Encryption::Passphrase(passphrase));
    }
    let keyring = Keyring::load(Path::new(names::KEYRING_DIR)).context("load the keyring")?;
    Ok(Encryption::Keyring(keyring))
}

/// What of a backup is not what the member said when it made it.
fn differs(member: &BackupMember, info: &BackupInfo) -> Option<&'static str> {
    let (envelope, contents) = (&info.envelope, &info.contents);
    let number = |n: u64| i64::try_from(n).ok();
    [
        ("its length", number(envelope.bytes) == member.bytes),
        ("its SHA-256", Some(hex(&envelope.sha256)) == member.sha256),
        ("its revision", number(envelope.revision) == member.revision),
        (
            "its lineage",
            Some(envelope.lineage.to_string()) == member.lineage,
        ),
        (
            "its number of entries",
            number(contents.entries) == member.keys,
        ),
        ("its content root", Some(hex(&contents.root)) == member.root),
    ]
    .into_iter()
    .find_map(|(what, same)| (!same).then_some(what))
}
