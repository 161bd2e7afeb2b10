//! Pieces that are too old: deleted once no restore needs them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use codexstore_api::archive::PiecePath;
use codexstore_crds::backup::{Destination as Place, Verify};
use codexstore_crds::codex_backup::CodexBackupStatus;
use codexstore_crds::{CodexBackup, jobs, names};
use kube::ResourceExt as _;

use super::super::lease::Holder;
use super::super::plan::{Left, expired};
use super::super::source::{self, Source};
use super::super::stored::parse;
use super::base::is_base;
use super::{Archive, now_ms};

/// The backups that are left of each pod and line of history.
type Lines = BTreeMap<(String, String), Vec<Left>>;

/// Deletes them, and says how many. Nothing is deleted while a restore reads.
pub async fn prune(archive: &Archive) -> Result<u64> {
    let keep = archive.policy.keep_seconds().unsigned_abs() * 1000;
    let cut = now_ms().saturating_sub(keep);
    let store = archive.store.name_any();
    let lease = names::backup_lease(&store);
    let cluster = &archive.cluster;
    let holder = Holder::new(
        &cluster.client,
        &cluster.namespace,
        lease,
        archive.holder.clone(),
    );
    // A look first, without the Lease: most of the time there is nothing to do.
    if old(archive, cut).await?.is_empty() {
        archive.book.forget(cut);
        return Ok(0);
    }
    let deleted = holder.hold(delete(archive, cut)).await?;
    archive.book.forget(cut);
    archive.book.write(cluster).await?;
    Ok(deleted)
}

async fn delete(archive: &Archive, cut: u64) -> Result<u64> {
    let mut deleted = 0;
    for (path, pod, piece) in old(archive, cut).await? {
        archive.destination.delete(&path).await?;
        let key_id = piece.name.key_id.as_deref();
        archive.book.deleted(&pod, &piece.lineage, key_id);
        deleted += 1;
    }
    Ok(deleted)
}

/// What is to be deleted: path, pod and piece.
async fn old(archive: &Archive, cut: u64) -> Result<Vec<(String, String, PiecePath)>> {
    let mut found = Vec::new();
    let directory = &archive.directory;
    let visit = |path: &str| {
        if let Some((pod, piece)) = parse(path, directory)
            && piece.name.last_ms < cut
        {
            found.push((path.to_owned(), pod.to_owned(), piece));
        }
    };
    archive.destination.walk(directory, visit).await?;
    if found.is_empty() {
        return Ok(found);
    }
    let store = archive.store.name_any();
    let of_store = jobs::directory_of_store(&archive.cluster.namespace, &store);
    let sources = source::sources(&archive.destination, &of_store, None).await?;
    let known = archive.cluster.backups_of(&store).await?;
    // What is asked for now.
    let now = archive.cluster.store(&store).await?;
    let policy = now.spec.backup.as_ref();
    let verify = policy.map_or(Verify::Always, |policy| policy.verify);
    let place = policy.map(|policy| policy.destination.clone());
    let lines = left(&sources, &known, &place.unwrap_or_default(), verify);
    let none = Vec::new();
    found.retain(|(_, pod, piece)| {
        let line = (pod.clone(), piece.lineage.clone());
        expired(&piece.name, lines.get(&line).unwrap_or(&none), cut)
    });
    Ok(found)
}

/// The backups that are left, by what is at the destination and by what the cluster says: one that only one of them knows is left
/// too, but no restore counts on it.
fn left(sources: &[Source], known: &[CodexBackup], place: &Place, verify: Verify) -> Lines {
    let mut lines = Lines::new();
    let stored: BTreeSet<_> = sources.iter().map(|s| s.backup.as_str()).collect();
    for source in sources {
        let object = known.iter().find(|b| b.name_any() == source.backup);
        let good = object.is_some_and(|object| is_good(object, place, verify));
        for member in source.members.iter().filter(|member| member.stored) {
            let taken = member.taken_at.as_ref().map(|at| at.0.as_millisecond());
            let taken = taken.unwrap_or_else(|| source.stored_at.saturating_mul(1000));
            let left = Left {
                revision: number(member.revision),
                taken: u64::try_from(taken).unwrap_or_default(),
                good,
            };
            lines
                .entry(line(&member.pod, member.lineage.as_ref()))
                .or_default()
                .push(left);
        }
    }
    let objects = known
        .iter()
        .filter(|b| !stored.contains(b.name_any().as_str()));
    for status in objects.filter_map(|object| object.status.as_ref()) {
        for member in status.members.iter().filter(|member| member.stored) {
            let left = Left {
                revision: number(member.revision),
                taken: 0,
                good: false,
            };
            lines
                .entry(line(&member.pod, member.lineage.as_ref()))
                .or_default()
                .push(left);
        }
    }
    lines
}

fn line(pod: &str, lineage: Option<&String>) -> (String, String) {
    (pod.to_owned(), lineage.cloned().unwrap_or_default())
}

fn number(revision: Option<i64>) -> u64 {
    u64::try_from(revision.unwrap_or_default()).unwrap_or_default()
}

/// Whether a restore can count on a backup: it was opened, where each is.
fn is_good(backup: &CodexBackup, place: &Place, verify: Verify) -> bool {
    let status = backup.status.as_ref();
    let verified = status.and_then(CodexBackupStatus::verified);
    backup.metadata.deletion_timestamp.is_none()
        && status.is_some_and(|status| is_base(status, place))
        && (verify != Verify::Always || verified == Some(true))
}

#[cfg(test)]
mod tests {
    use codexstore_crds::codex_backup::BackupMember;
    use serde_json::{Value, json};

    use super::*;

    fn source(name: &str, revision: i64) -> Source {
        Source {
            backup: name.to_owned(),
            directory: format!("shop/orders/{name}"),
            stored_at: revision * 10,
            members: vec![BackupMember {
                pod: "web-0".to_owned(),
                stored: true,
                lineage: Some("aa".to_owned()),
                revision: Some(revision),
                ..BackupMember::default()
            }],
        }
    }

    fn object(name: &str, revision: i64, change: impl FnOnce(&mut Value)) -> CodexBackup {
        let mut backup = json!({
            "apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": {"name": name},
            "spec": {"storeRef": {"name": "orders"}},
            "status": {"phase": "Succeeded", "destination": {"claim": "backups"},
                "members": [{"pod": "web-0", "stored": true, "lineage": "aa", "revision": revision}],
                "conditions": [{"type": "Verified", "status": "True", "reason": "", "message": "",
                    "lastTransitionTime": "2026-11-23T00:00:00Z"}]},
        });
        change(&mut backup);
        serde_json::from_value(backup).unwrap()
    }

    #[test]
    fn a_restore_counts_on_backups_that_are_there_known_and_verified() {
        let place: Place = serde_json::from_value(json!({"claim": "backups"})).unwrap();
        let good = |objects: &[CodexBackup], verify| {
            let lines = left(&[source("a", 5)], objects, &place, verify);
            let line = ("web-0".to_owned(), "aa".to_owned());
            let mut all = lines[&line].clone();
            assert_eq!(all.len(), 1);
            let one = all.remove(0);
            assert_eq!((one.revision, one.taken), (5, 50_000));
            one.good
        };
        assert!(good(&[object("a", 5, |_| ())], Verify::Always));
        assert!(!good(&[], Verify::Never), "the cluster does not know it");
        let unverified = |b: &mut Value| b["status"]["conditions"] = json!([]);
        assert!(!good(&[object("a", 5, unverified)], Verify::Always));
        assert!(good(&[object("a", 5, unverified)], Verify::Never));
        let broken = |b: &mut Value| b["status"]["conditions"][0]["status"] = json!("False");
        assert!(!good(&[object("a", 5, broken)], Verify::Never));
        let elsewhere = |b: &mut Value| b["status"]["destination"]["claim"] = json!("others");
        assert!(!good(&[object("a", 5, elsewhere)], Verify::Always));
        // One whose files are not there keeps what it would need.
        let lines = left(&[], &[object("b", 7, |_| ())], &place, Verify::Always);
        let line = ("web-0".to_owned(), "aa".to_owned());
        assert_eq!(lines[&line].len(), 1);
        assert!(!lines[&line][0].good);
    }
}
