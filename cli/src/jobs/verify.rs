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
use super::member::sum;
use crate::failure::Coded;

/// What a good backup fails with where the keys are not those that it was made with.
const KEYS: [&str; 3] = ["key-missing", "wrong-key", "encryption-mismatch"];

/// Verifies a backup and writes down the outcome. An error means that there is none: the destination or the keyring
/// could not be read.
pub async fn verify(cluster: &Cluster, name: &str) -> Result<()> {
    let found = cluster.backup(name).await?;
    let status = found.status.clone().unwrap_or_default();
    let (Some(named), true) = (&status.destination, status.usable()) else {
        return Err(Coded::invalid(format!("cxb/{name} has nothing stored")).into());
    };
    let directory = super::own_directory(&cluster.namespace, &found)?;
    let destination = Destination::of(named)?;
    let mut wrong = Vec::new();
    let mut opened = 0_usize;
    for member in status.members.iter().filter(|m| m.stored) {
        eprintln!("{}: verifying", member.pod);
        let encryption = encryption(member)?;
        match look(&destination, &directory, member, encryption).await? {
            None => opened += 1,
            Some(what) => wrong.push(format!("{}: {what}", member.pod)),
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

/// What is wrong with a stored member. An error means that nobody can say: it is tried again.
async fn look(
    destination: &Destination,
    directory: &str,
    member: &BackupMember,
    encryption: Encryption,
) -> Result<Option<String>> {
    let name = member.file.as_deref().filter(|name| !name.contains('/'));
    let Some(name) = name else {
        let what = "its file is not in the backup's directory";
        return Ok(Some(what.to_owned()));
    };
    let path = format!("{directory}/{name}");
    let bridge = SyncIoBridge::new(destination.read(&path).await?);
    let result = tokio::task::spawn_blocking(move || backup::verify(bridge, &encryption)).await;
    match result.context("the thread that verifies ended")? {
        Ok(info) => {
            let differs = differs(member, &info);
            Ok(differs.map(|what| format!("{what} is not what the member said")))
        }
        // The bytes may be good.
        Err(error) if error.code() == "io" => Err(error.into()),
        // They are, and the keys may be put back: a backup that is said to be broken is never used again.
        Err(error) if KEYS.contains(&error.code()) => {
            let (_, sha256) = sum(destination, &path).await?;
            if Some(sha256) == member.sha256 {
                return Err(error.into());
            }
            Ok(Some(error.to_string()))
        }
        Err(error) => Ok(Some(error.to_string())),
    }
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

#[cfg(test)]
mod tests {
    use codexstore::{Key, KeyId, Options, Store};

    use super::*;

    fn keyring(id: &str, byte: u8) -> Encryption {
        let key = Key::new(&[byte; 32]).unwrap();
        Encryption::Keyring(Keyring::single(KeyId::new(id).unwrap(), key))
    }

    fn words(text: &str) -> Encryption {
        Encryption::Passphrase(Passphrase::new(text.as_bytes()).unwrap())
    }

    /// What is said of a backup that is stored like `stored`, of a member with these keys, by a Job with others.
    async fn said(
        keys: Encryption,
        jobs: Encryption,
        stored: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Option<String>> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("data"), Options::new(keys)).unwrap();
        store.set(b"k", b"v").unwrap();
        let mut bytes = Vec::new();
        let info = store.backup(&mut bytes).unwrap();
        stored(&mut bytes);
        let root = dir.path().join("destination");
        std::fs::create_dir(&root).unwrap();
        let destination = Destination::Dir(root);
        let path = "shop/orders/monday/web-0.backup";
        destination.put(path, bytes).await.unwrap();
        let (envelope, contents) = (&info.envelope, &info.contents);
        let number = |n: u64| i64::try_from(n).ok();
        let member = BackupMember {
            pod: "web-0".to_owned(),
            stored: true,
            file: Some("web-0.backup".to_owned()),
            bytes: number(envelope.bytes),
            sha256: Some(hex(&envelope.sha256)),
            revision: number(envelope.revision),
            lineage: Some(envelope.lineage.to_string()),
            keys: number(contents.entries),
            root: Some(hex(&contents.root)),
            ..BackupMember::default()
        };
        look(&destination, "shop/orders/monday", &member, jobs).await
    }

    #[tokio::test]
    async fn a_good_backup_is_not_broken_because_the_keys_are_others_now() {
        let good = said(keyring("a", 7), keyring("a", 7), |_| {}).await;
        assert_eq!(good.unwrap(), None);
        for (keys, jobs, why) in [
            (keyring("a", 7), keyring("b", 7), "key-missing"),
            (keyring("a", 7), keyring("a", 8), "wrong-key"),
            (words("correct horse"), words("correct horze"), "wrong-key"),
            (
                keyring("a", 7),
                words("correct horse"),
                "encryption-mismatch",
            ),
        ] {
            let error = said(keys, jobs, |_| {}).await.unwrap_err();
            let error: codexstore::Error = error.downcast().unwrap();
            assert_eq!(error.code(), why);
        }
    }

    #[tokio::test]
    async fn other_bytes_are_broken_whatever_the_keys_are() {
        let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
        for jobs in [keyring("a", 7), keyring("a", 8), keyring("b", 7)] {
            let broken = said(keyring("a", 7), jobs, flip).await;
            assert!(broken.unwrap().is_some());
        }
    }
}
