//! Pieces that are too old: deleted once no restore needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use codexstore_api::archive::PiecePath;
use codexstore_crds::backup::{Destination as Place, Verify};
use codexstore_crds::{CodexBackup, jobs, names};
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::super::destination::Destination;
use super::super::lease::Holder;
use super::super::plan::{Left, expired};
use super::super::source::{self, Source};
use super::super::stored::{parse, path};
use super::base::is_base;
use super::shelf::Shelf;
use super::{Archive, now_ms};

/// For how long it deletes before others have a turn, which wait for the Lease, and for how long they have it.
const TURN: Duration = Duration::from_secs(20);
const OTHERS: Duration = Duration::from_secs(5);

/// The backups that are left of each pod and line of history.
type Lines = BTreeMap<(String, String), Vec<Left>>;

/// A piece that is old, and its pod.
type Old = (String, PiecePath);

/// Deletes them, and says how many. Nothing is deleted while a restore reads.
pub async fn prune(archive: &Archive) -> Result<u64> {
    let keep = archive.policy.keep_seconds().unsigned_abs() * 1000;
    let cut = now_ms().saturating_sub(keep);
    let walk = archive.book.walk();
    let (mut shelf, mut old) = look(archive, cut).await?;
    let deleted = delete(archive, &mut shelf, &mut old, cut).await;
    archive.book.walked(walk, shelf.keys.into_keys().collect());
    archive.book.forget(cut, |line| archive.bases.knows(line));
    deleted
}

/// What is stored, and what of it is old.
async fn look(archive: &Archive, cut: u64) -> Result<(Shelf, Vec<Old>)> {
    let directory = &archive.directory;
    let (mut shelf, mut old) = (Shelf::default(), Vec::new());
    let visit = |path: &str| {
        shelf.add(path, directory);
        if let Some((pod, piece)) = parse(path, directory)
            && piece.name.last_ms < cut
        {
            old.push((pod.to_owned(), piece));
        }
    };
    archive.destination.walk(directory, visit).await?;
    Ok((shelf, old))
}

async fn delete(archive: &Archive, shelf: &mut Shelf, old: &mut Vec<Old>, cut: u64) -> Result<u64> {
    if old.is_empty() {
        return Ok(0);
    }
    // A look first, without the Lease: most of the time nothing is to be deleted.
    retain(old, &lines(archive).await?, cut);
    // From the beginning of each line, so that no gap is left.
    old.sort_unstable_by(|a, b| b.cmp(a));
    let (cluster, mut deleted) = (&archive.cluster, 0);
    let lease = names::backup_lease(&archive.store.name_any());
    let holder = archive.holder.clone();
    let holder = Holder::new(&cluster.client, &cluster.namespace, lease, holder);
    while !old.is_empty() {
        if deleted > 0 {
            tokio::time::sleep(OTHERS).await;
        }
        let turn = async {
            // Backups may have gone since.
            retain(old, &lines(archive).await?, cut);
            some(
                &archive.destination,
                &archive.directory,
                old,
                TURN,
                |pod, piece| {
                    archive.book.deleted(pod, &piece.lineage);
                    shelf.remove(piece);
                    deleted += 1;
                },
            )
            .await
        };
        holder.hold(turn).await?;
    }
    Ok(deleted)
}

/// Leaves what no restore needs to go back to `cut` or later.
fn retain(old: &mut Vec<Old>, lines: &Lines, cut: u64) {
    old.retain(|(pod, piece)| {
        let line = (pod.clone(), piece.lineage.clone());
        let left = lines.get(&line).map(Vec::as_slice);
        expired(&piece.name, left.unwrap_or_default(), cut)
    });
}

/// Deletes from the end of the list for so long, but one at least.
async fn some(
    destination: &Destination,
    directory: &str,
    old: &mut Vec<Old>,
    time: Duration,
    mut deleted: impl FnMut(&str, &PiecePath),
) -> Result<()> {
    let since = Instant::now();
    while let Some((pod, piece)) = old.last() {
        destination.delete(&path(directory, pod, piece)).await?;
        deleted(pod, piece);
        old.pop();
        if since.elapsed() >= time {
            break;
        }
    }
    Ok(())
}

/// The backups of the store that are left.
async fn lines(archive: &Archive) -> Result<Lines> {
    let store = archive.store.name_any();
    let of_store = jobs::directory_of_store(&archive.cluster.namespace, &store);
    let sources = source::sources(&archive.destination, &of_store, None).await?;
    let known = archive.cluster.backups_of(&store).await?;
    // What is asked for now.
    let now = archive.cluster.store(&store).await?;
    let policy = now.spec.backup.as_ref();
    let verify = policy.map_or(Verify::Always, |policy| policy.verify);
    let place = policy.map(|policy| policy.destination.clone());
    Ok(left(&sources, &known, &place.unwrap_or_default(), verify))
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
            let left = Left {
                revision: number(member.revision),
                taken: member.from_ms(source.stored_at),
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

/// Whether a restore can count on a backup.
fn is_good(backup: &CodexBackup, place: &Place, verify: Verify) -> bool {
    let good = |status| is_base(status, place) && status.counts(verify);
    backup.metadata.deletion_timestamp.is_none() && backup.status.as_ref().is_some_and(good)
}

#[cfg(test)]
mod tests {
    use codexstore_crds::codex_backup::BackupMember;
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn what_is_old_is_deleted_in_turns_from_the_beginning_and_keys_go_with_the_last_that_needs_them()
     {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::Dir(dir.path().to_owned());
        let directory = "shop/orders/_archive";
        let mut shelf = Shelf::default();
        let mut old = Vec::new();
        for (from, key) in [(4, "k2"), (0, "k1"), (2, "k1"), (6, "k2")] {
            let (to, ms) = (from + 2, 10);
            let piece = format!(
                "00000000000000aa/{:020}/{from:020}-{to:020}-{ms:015}.{key}.piece",
                1
            );
            let piece = PiecePath::parse(&piece).unwrap();
            let path = path(directory, "web-0", &piece);
            assert!(destination.put_new(&path, vec![1].into()).await.unwrap());
            shelf.add(&path, directory);
            old.push(("web-0".to_owned(), piece));
        }
        let base = Left {
            revision: 6,
            taken: 20,
            good: true,
        };
        let lines = [(
            ("web-0".to_owned(), "00000000000000aa".to_owned()),
            vec![base],
        )];
        retain(&mut old, &lines.into(), 30);
        old.sort_unstable_by(|a, b| b.cmp(a));
        let mut gone = Vec::new();
        let mut turn = async |time| {
            let deleted = |_: &str, piece: &PiecePath| {
                shelf.remove(piece);
                gone.push(piece.name.from);
            };
            let done = some(&destination, directory, &mut old, time, deleted);
            done.await.unwrap();
            let keys: Vec<_> = shelf.keys.keys().cloned().collect();
            (gone.clone(), old.len(), keys.join(" "))
        };
        let turns = [turn(Duration::ZERO).await, turn(Duration::ZERO).await];
        assert_eq!(turns[0], (vec![0], 2, "k1 k2".to_owned()));
        assert_eq!(turns[1], (vec![0, 2], 1, "k2".to_owned()));
        assert_eq!(turn(TURN).await, (vec![0, 2, 4], 0, "k2".to_owned()));
        let mut left = Vec::new();
        let visit = |path: &str| left.push(path.to_owned());
        destination.walk(directory, visit).await.unwrap();
        assert_eq!(left.len(), 1, "a backup shows what was before it: {left:?}");
    }

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
