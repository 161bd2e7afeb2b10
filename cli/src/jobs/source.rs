//! Which backups there are at a destination, by what their directories say of themselves.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use codexstore_crds::codex_backup::BackupMember;
use codexstore_crds::jobs::{MANIFEST, Manifest};
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

/// The latest backup of a member, among those that are not known to be of no use.
pub fn newest<'a>(
    sources: &'a [Source],
    pod: &str,
    useless: &BTreeSet<String>,
) -> Option<(&'a Source, &'a BackupMember)> {
    let usable = sources
        .iter()
        .filter(|source| !useless.contains(&source.backup));
    let stored = usable.filter_map(|source| {
        let member = source.members.iter().find(|m| m.pod == pod && m.stored)?;
        Some((source, member))
    });
    stored.max_by_key(|(source, _)| (source.stored_at, &source.backup))
}

#[cfg(test)]
mod tests {
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
            newest(&all, pod, &useless).map(|(source, _)| source.backup.as_str())
        };
        assert_eq!(chosen("web-0", &[]), Some("c"));
        assert_eq!(chosen("web-0", &["c"]), Some("b"));
        assert_eq!(chosen("web-1", &[]), Some("a"), "c does not hold it");
        assert_eq!(chosen("web-2", &[]), None);
        assert_eq!(chosen("web-0", &["a", "b", "c"]), None);
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
