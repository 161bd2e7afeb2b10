//! Which backups there are at a destination, by what their directories say of themselves.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use codexstore_crds::CodexBackup;
use codexstore_crds::backup::Destination as Place;
use codexstore_crds::codex_backup::{BackupMember, CodexBackupStatus, MAX_BACKUP_MEMBERS};
use codexstore_crds::jobs::{MANIFEST, Manifest};
use kube::ResourceExt;
use tokio::io::AsyncReadExt as _;

use super::destination::Destination;

/// Longest manifest that is read.
const LONGEST: u64 = 16 << 20;

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub backup: String,
    /// Its directory within the destination.
    pub directory: String,
    /// When it was stored: seconds since 1970.
    pub stored_at: i64,
    /// Its members.
    pub members: Vec<BackupMember>,
}

/// All backups below the directory of a store, or the one of that name. What cannot be read is an error, and not a backup
/// less.
pub async fn sources(
    destination: &Destination,
    directory: &str,
    named: Option<&str>,
) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for path in destination.list(directory).await? {
        let Some(backup) = backup_of(&path, directory) else {
            continue;
        };
        if named.is_some_and(|named| named != backup) {
            continue;
        }
        let read = || format!("read {path}");
        let mut text = Vec::new();
        let file = destination.read(&path).await?;
        let read_in = file.take(LONGEST).read_to_end(&mut text).await;
        read_in.with_context(read)?;
        let manifest: Manifest = serde_json::from_slice(&text).with_context(read)?;
        found.push(Source {
            backup: backup.to_owned(),
            directory: format!("{directory}/{backup}"),
            stored_at: manifest.stored_at,
            members: manifest.members,
        });
    }
    Ok(found)
}

/// The backup whose manifest is at `path`, below the directory of a store.
fn backup_of<'a>(path: &'a str, directory: &str) -> Option<&'a str> {
    let (backup, file) = path
        .strip_prefix(directory)?
        .strip_prefix('/')?
        .split_once('/')?;
    (file.starts_with(MANIFEST.0) && file.ends_with(MANIFEST.1) && !file.contains('/'))
        .then_some(backup)
}

/// Whether a backup is of no use to anybody: it was found broken, or is being deleted.
pub fn is_broken(backup: &CodexBackup) -> bool {
    let status = backup.status.as_ref();
    let verified = status.and_then(CodexBackupStatus::verified);
    verified == Some(false) || backup.metadata.deletion_timestamp.is_some()
}

/// The backups that a restore does not choose, by name: of one that failed a manifest may be left, and not all that it names. Who
/// names one wants that.
pub fn useless(known: &[CodexBackup], named: Option<&str>) -> BTreeSet<String> {
    let failed = |backup: &CodexBackup| {
        let status = backup.status.as_ref();
        status.is_some_and(|status| status.ended() && !status.usable())
    };
    let useless = |backup: &&CodexBackup| is_broken(backup) || (named.is_none() && failed(backup));
    let useless = known.iter().filter(useless);
    useless.map(ResourceExt::name_any).collect()
}

/// A backup of a member, as [`newest`] chooses it.
pub type Chosen<'a> = (&'a Source, &'a BackupMember);

/// All backups of a member that are not known to be of no use, and of which the cluster, where it knows them, says the same.
pub fn usable<'a>(
    sources: &'a [Source],
    pod: &str,
    useless: &BTreeSet<String>,
    known: &[CodexBackup],
) -> Vec<Chosen<'a>> {
    let usable = sources
        .iter()
        .filter(|source| !useless.contains(&source.backup));
    let stored = usable.filter_map(|source| {
        let member = source.members.iter().find(|m| m.pod == pod && m.stored)?;
        let object = known.iter().find(|b| b.name_any() == source.backup);
        let said = object.and_then(said);
        said.is_none_or(|said| agrees(said, member))
            .then_some((source, member))
    });
    stored.collect()
}

/// The latest backup of a member, among those that are not known to be of no use. Of a backup that the cluster knows, the
/// manifest must say what its CodexBackup says. The error is a later one that the cluster knows to be at `place` and that
/// is not there like that: who can write there must not be able to put an older one in its place, or to take it away.
pub fn newest<'a, 'k>(
    sources: &'a [Source],
    pod: &str,
    useless: &BTreeSet<String>,
    known: &'k [CodexBackup],
    place: &Place,
) -> Result<Option<Chosen<'a>>, &'k CodexBackup> {
    let stored = usable(sources, pod, useless, known);
    let last = stored
        .iter()
        .max_by_key(|(source, _)| (source.stored_at, &source.backup));
    let lacks = known.iter().find(|backup| {
        let name = backup.name_any();
        let there = || stored.iter().any(|(source, _)| source.backup == name);
        let expected = |said: &CodexBackupStatus| {
            let ended = said.completed_at.as_ref().map_or(0, |t| t.0.as_second());
            let at = said.destination.as_ref().map(|at| at.location(""));
            at == Some(place.location(""))
                && said.members.iter().any(|m| m.pod == pod && m.stored)
                && last.is_none_or(|(source, _)| ended > source.stored_at)
        };
        !useless.contains(&name) && said(backup).is_some_and(expected) && !there()
    });
    lacks.map_or_else(|| Ok(last.copied()), Err)
}

/// What a backup that has ended well enough says of itself in the cluster.
fn said(backup: &CodexBackup) -> Option<&CodexBackupStatus> {
    backup.status.as_ref().filter(|status| status.usable())
}

/// Whether a manifest says of a member what the cluster says, which lists the first members only.
fn agrees(said: &CodexBackupStatus, member: &BackupMember) -> bool {
    match said.members.iter().find(|m| m.pod == member.pod) {
        Some(listed) => listed.stored && listed.sha256 == member.sha256,
        None => said.members.len() >= MAX_BACKUP_MEMBERS,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source(backup: &str, stored_at: i64, pods: &[(&str, bool)]) -> Source {
        let member = |(pod, stored): &(&str, bool)| BackupMember {
            pod: (*pod).to_owned(),
            stored: *stored,
            ..BackupMember::default()
        };
        Source {
            backup: backup.to_owned(),
            directory: format!("shop/orders/{backup}"),
            stored_at,
            members: pods.iter().map(member).collect(),
        }
    }

    #[test]
    fn of_each_member_the_latest_that_is_of_use_is_chosen() {
        let all = [
            source("a", 1, &[("web-0", true), ("web-1", true)]),
            source("c", 3, &[("web-0", true), ("web-1", false)]),
            source("b", 2, &[("web-0", true)]),
        ];
        let chosen = |pod, useless: &[&str]| {
            let useless = useless.iter().map(|name| (*name).to_owned()).collect();
            let found = newest(&all, pod, &useless, &[], &place("backups")).unwrap();
            found.map(|(source, _)| source.backup.as_str())
        };
        assert_eq!(chosen("web-0", &[]), Some("c"));
        assert_eq!(chosen("web-0", &["c"]), Some("b"));
        assert_eq!(chosen("web-1", &[]), Some("a"), "c does not hold it");
        assert_eq!(chosen("web-2", &[]), None);
        assert_eq!(chosen("web-0", &["a", "b", "c"]), None);
    }

    fn place(claim: &str) -> Place {
        serde_json::from_value(json!({"claim": claim})).unwrap()
    }

    /// A CodexBackup of web-0 that ended then.
    fn object(name: &str, ended: i64, claim: &str, sha256: &str, phase: &str) -> CodexBackup {
        serde_json::from_value(json!({
            "apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": {"name": name},
            "spec": {"storeRef": {"name": "orders"}},
            "status": {
                "phase": phase, "destination": place(claim),
                "completedAt": k8s_openapi::jiff::Timestamp::from_second(ended).unwrap().to_string(),
                "members": [{"pod": "web-0", "stored": true, "sha256": sha256}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn what_the_cluster_says_of_a_backup_binds_its_manifest() {
        let with_sum = |backup, stored_at, sum: &str| {
            let mut source = source(backup, stored_at, &[("web-0", true)]);
            source.members[0].sha256 = Some(sum.to_owned());
            source
        };
        let all = [with_sum("a", 10, "aa"), with_sum("b", 20, "bb")];
        let chosen = |all: &[Source], known: &[CodexBackup], useless: &[&str]| {
            let useless = useless.iter().map(|name| (*name).to_owned()).collect();
            match newest(all, "web-0", &useless, known, &place("backups")) {
                Ok(found) => found.map_or("none".to_owned(), |(source, m)| {
                    format!("{} {}", source.backup, m.sha256.as_deref().unwrap_or("-"))
                }),
                Err(lacks) => format!("lacks {}", lacks.name_any()),
            }
        };
        let a = object("a", 11, "backups", "aa", "Succeeded");
        let b = object("b", 21, "backups", "bb", "PartiallyFailed");
        let both = [a.clone(), b.clone()];
        assert_eq!(chosen(&all, &both, &[]), "b bb");
        // The files and the manifest of a, where b's were.
        let rolled_back = [with_sum("a", 10, "aa"), with_sum("b", 20, "aa")];
        assert_eq!(chosen(&rolled_back, &both, &[]), "lacks b");
        assert_eq!(chosen(&rolled_back, &both, &["b"]), "a aa");
        assert_eq!(chosen(&all[..1], &both, &[]), "lacks b");
        assert_eq!(chosen(&[], &both, &[]), "lacks a");
        // An earlier one that is gone is no reason to refuse.
        assert_eq!(chosen(&all[1..], &both, &[]), "b bb");
        // One that is elsewhere is not missing here, one that has not ended says nothing yet, and one that failed never will.
        for (claim, phase) in [
            ("others", "Succeeded"),
            ("backups", "Running"),
            ("backups", "Failed"),
        ] {
            let other = object("b", 21, claim, "bb", phase);
            assert_eq!(
                chosen(&all[..1], &[a.clone(), other], &[]),
                "a aa",
                "{claim} {phase}"
            );
        }
        // Of a backup whose Job was run twice, the manifest that the cluster speaks of.
        let twice = [with_sum("b", 20, "bb"), with_sum("b", 22, "cc")];
        assert_eq!(chosen(&twice, &both, &[]), "b bb");
    }

    #[test]
    fn what_failed_is_not_chosen_though_its_manifest_is_left_but_who_names_it_gets_it() {
        let all = [
            source("a", 10, &[("web-0", true)]),
            source("b", 20, &[("web-0", true)]),
        ];
        let chosen = |phase: &str, named| {
            let mut b = object("b", 21, "backups", "bb", phase);
            b.status.as_mut().unwrap().members[0].sha256 = None;
            let useless = useless(std::slice::from_ref(&b), named);
            let found = newest(&all, "web-0", &useless, &[b], &place("backups")).unwrap();
            found.unwrap().0.backup.as_str()
        };
        assert_eq!(chosen("Succeeded", None), "b");
        assert_eq!(chosen("Running", None), "b");
        assert_eq!(chosen("Failed", None), "a");
        assert_eq!(chosen("Failed", Some("b")), "b");
    }

    #[test]
    fn a_manifest_is_a_file_of_a_backup_of_this_store_alone() {
        let of = |path| backup_of(path, "shop/orders");
        assert_eq!(of("shop/orders/now/members-1a.json"), Some("now"));
        assert_eq!(of("shop/orders/now/web-0-1a.backup"), None);
        assert_eq!(of("shop/orders-2/now/members-1a.json"), None);
        assert_eq!(of("shop/orders/members-1a.json"), None);
        assert_eq!(of("shop/orders/now/deep/members-1a.json"), None);
    }

    #[tokio::test]
    async fn what_is_at_a_destination_is_found_and_what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let place = Destination::Dir(dir.path().to_owned());
        let all = |named| sources(&place, "shop/orders", named);
        assert_eq!(all(None).await.unwrap(), []);
        for (backup, at) in [("one", 1), ("two", 2)] {
            let manifest = Manifest {
                backup: backup.to_owned(),
                stored_at: at,
                members: Vec::new(),
                keyring: None,
            };
            let path = format!("shop/orders/{backup}/members-{at}.json");
            place
                .put(&path, serde_json::to_vec(&manifest).unwrap())
                .await
                .unwrap();
        }
        place
            .put("shop/orders/two/web-0.backup", vec![1])
            .await
            .unwrap();
        let sealed = place.put("shop/orders/two/keyring-1a.age", vec![1]);
        sealed.await.unwrap();
        assert_eq!(all(None).await.unwrap().len(), 2);
        let two = all(Some("two")).await.unwrap();
        assert_eq!((two.len(), two[0].stored_at), (1, 2));
        assert_eq!(all(Some("three")).await.unwrap(), []);
        place
            .put("shop/orders/bad/members-3.json", b"{".to_vec())
            .await
            .unwrap();
        assert!(all(None).await.is_err());
        let gone = Destination::Dir(dir.path().join("not-mounted"));
        assert!(sources(&gone, "shop/orders", None).await.is_err());
    }
}
