//! The sealed keyring that goes with a backup.
//!
//! The operator seals the keyring, and keeps that in a `ConfigMap` that the Job has mounted. What is stored beside the members must hold the key of
//! each: where a key has become current just now, the mounted files may be older, and are waited for.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use codexstore_api::encoding::hex;
use codexstore_crds::codex_backup::{BackupMember, StoredKeyring};
use codexstore_crds::jobs::SEALED_KEYRING;
use codexstore_crds::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::destination::Destination;
use super::member;

/// Longest time for which a key is waited for: kubelet brings changes within a minute or two.
const PATIENCE: Duration = Duration::from_mins(3);
/// How often is looked meanwhile.
const AGAIN: Duration = Duration::from_secs(5);

/// How long is waited where a whole backup may take `deadline` seconds, of which `passed` are over: the rest must be enough to end it well.
pub fn patience(deadline: i64, passed: i64) -> Duration {
    let left = deadline.saturating_sub(passed.max(0)).max(0);
    PATIENCE.min(Duration::from_secs(left.unsigned_abs() / 4))
}

/// The keyring as it is mounted.
struct Sealed {
    text: Vec<u8>,
    ids: BTreeSet<String>,
    at: Option<Time>,
}

/// Stores the sealed keyring beside the members, once it has their keys, and reads it back.
pub async fn store(
    mounted: &Path,
    members: &[BackupMember],
    destination: &Destination,
    directory: &str,
    patience: Duration,
) -> Result<StoredKeyring> {
    let stored = members.iter().filter(|m| m.stored);
    let needed: BTreeSet<_> = stored.filter_map(|m| m.key_id.clone()).collect();
    let sealed = with_keys(mounted, &needed, patience, AGAIN).await?;
    let (start, end) = SEALED_KEYRING;
    let file = format!("{start}{}{end}", super::take::random()?);
    let path = format!("{directory}/{file}");
    let sha256 = hex(&Sha256::digest(&sealed.text));
    destination.put(&path, sealed.text).await?;
    let (_, read) = member::sum(destination, &path).await?;
    if read != sha256 {
        return Err(anyhow!(
            "what was read back of the sealed keyring is not what was written: SHA-256 {read}"
        ));
    }
    Ok(StoredKeyring {
        file,
        sha256,
        sealed_at: sealed.at,
    })
}

async fn with_keys(
    mounted: &Path,
    needed: &BTreeSet<String>,
    patience: Duration,
    again: Duration,
) -> Result<Sealed> {
    let end = Instant::now() + patience;
    loop {
        let lacks = match read(mounted)? {
            Some(sealed) => {
                let mut lacks = needed.difference(&sealed.ids);
                match lacks.next() {
                    None => return Ok(sealed),
                    Some(id) => format!("the sealed keyring lacks the key {id}"),
                }
            }
            None => "there is no sealed keyring".to_owned(),
        };
        if Instant::now() >= end {
            return Err(anyhow!(
                "{lacks}: the condition KeyEscrowed of the CodexStore says how it is"
            ));
        }
        eprintln!("{lacks}: waiting for it");
        tokio::time::sleep(again).await;
    }
}

/// None where it is not there (yet).
fn read(mounted: &Path) -> Result<Option<Sealed>> {
    // Kubelet changes all files at once, by this link: those that are read belong together.
    let link = mounted.join("..data");
    let dir = match link.canonicalize() {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", link.display())),
    };
    let entry = |name: &str| match std::fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", dir.join(name).display())),
    };
    let (Some(text), Some(ids)) = (entry(names::ESCROW_SEALED)?, entry(names::ESCROW_IDS)?) else {
        return Ok(None);
    };
    let at = entry(names::ESCROW_TIME)?.unwrap_or_default();
    let at = String::from_utf8_lossy(&at).trim().parse().ok();
    let ids = String::from_utf8_lossy(&ids);
    Ok(Some(Sealed {
        text,
        ids: ids.split(',').map(|id| id.trim().to_owned()).collect(),
        at: at.map(Time),
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// As kubelet shows a `ConfigMap`, in its version `n`.
    fn mount(dir: &Path, n: u32, ids: &str) {
        let version = dir.join(format!("..{n}"));
        std::fs::create_dir(&version).unwrap();
        let write = |name: &str, text: &str| std::fs::write(version.join(name), text).unwrap();
        write(names::ESCROW_SEALED, &format!("sealed {n}"));
        write(names::ESCROW_IDS, ids);
        write(names::ESCROW_TIME, "2026-11-29T12:00:00Z");
        let new = dir.join("..new");
        symlink(version.file_name().unwrap(), &new).unwrap();
        std::fs::rename(new, dir.join("..data")).unwrap();
    }

    fn members(ids: &[&str]) -> Vec<BackupMember> {
        let member = |id: &&str| BackupMember {
            stored: true,
            key_id: Some((*id).to_owned()),
            ..BackupMember::default()
        };
        let mut all: Vec<_> = ids.iter().map(member).collect();
        // One that is not stored needs nothing.
        all.push(BackupMember {
            key_id: Some("other".to_owned()),
            ..BackupMember::default()
        });
        all
    }

    #[tokio::test]
    async fn what_is_stored_has_the_keys_of_all_stored_members() {
        let dir = tempfile::tempdir().unwrap();
        let (mounted, root) = (dir.path().join("m"), dir.path().join("d"));
        std::fs::create_dir(&mounted).unwrap();
        std::fs::create_dir(&root).unwrap();
        let destination = Destination::Dir(root.clone());
        let of = async |ids: &[&str]| {
            let all = members(ids);
            store(
                &mounted,
                &all,
                &destination,
                "shop/orders/now",
                Duration::ZERO,
            )
            .await
        };
        let why = of(&["a"]).await.unwrap_err().to_string();
        assert!(why.starts_with("there is no sealed keyring"), "{why}");
        mount(&mounted, 1, "a");
        let stored = of(&["a", "a"]).await.unwrap();
        let inner = stored.file.strip_prefix("keyring-").unwrap();
        assert_eq!(inner.strip_suffix(".age").unwrap().len(), 8);
        let at = root.join("shop/orders/now").join(&stored.file);
        assert_eq!(std::fs::read(at).unwrap(), b"sealed 1");
        assert_eq!(stored.sha256, hex(&Sha256::digest(b"sealed 1")));
        assert_eq!(
            stored.sealed_at.unwrap().0.to_string(),
            "2026-11-29T12:00:00Z"
        );
        let why = of(&["a", "b"]).await.unwrap_err().to_string();
        assert!(
            why.starts_with("the sealed keyring lacks the key b"),
            "{why}"
        );
        // Another try takes another name.
        mount(&mounted, 2, "a,b");
        assert_ne!(of(&["a", "b"]).await.unwrap().file, stored.file);
    }

    #[tokio::test]
    async fn a_key_that_is_on_its_way_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        mount(dir.path(), 1, "a");
        let needed = BTreeSet::from(["b".to_owned()]);
        let arrives = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            mount(dir.path(), 2, "a,b");
        };
        let waits = with_keys(dir.path(), &needed, PATIENCE, Duration::from_millis(10));
        let (sealed, ()) = tokio::join!(waits, arrives);
        assert_eq!(sealed.unwrap().text, b"sealed 2");
        assert_eq!(patience(3600, 60), PATIENCE);
        assert_eq!(patience(60, 20), Duration::from_secs(10));
        assert_eq!(patience(60, 90), Duration::ZERO);
    }
}
