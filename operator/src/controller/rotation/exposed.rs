//! Backups, and what is archived, that keys open which somebody may have seen. Pure.

use std::sync::Arc;

use codexstore_crds::CodexBackup;
use codexstore_crds::archive::Record;
use codexstore_crds::codex_backup::{BackupMember, MAX_BACKUP_MEMBERS};
use codexstore_crds::codex_key_rotation::{ExposedBackups, MAX_EXPOSED};
use codexstore_crds::status::first_few;
use kube::ResourceExt as _;

/// Backups that one of these keys opens, the newest first, and whether the archive has pieces that one opens. What does not say which
/// key it needs may need one of them.
pub fn of(
    backups: &[Arc<CodexBackup>],
    archive: Option<&Record>,
    key_ids: Vec<String>,
) -> ExposedBackups {
    let opens =
        |m: &BackupMember| m.stored && m.key_id.as_ref().is_none_or(|key| key_ids.contains(key));
    let is_exposed = |backup: &&Arc<CodexBackup>| {
        let members = backup.status.as_ref().map(|s| s.members.as_slice());
        let members = members.unwrap_or_default();
        members.len() >= MAX_BACKUP_MEMBERS || members.iter().any(opens)
    };
    let mut exposed: Vec<_> = backups.iter().filter(is_exposed).collect();
    exposed.sort_by_key(|b| (std::cmp::Reverse(b.creation_timestamp()), b.name_any()));
    let count = i32::try_from(exposed.len()).unwrap_or(i32::MAX);
    let names = exposed.iter().take(MAX_EXPOSED).map(|b| b.name_any());
    let archived = |record: &Record| key_ids.iter().any(|id| record.needs(id));
    ExposedBackups {
        names: names.collect(),
        count,
        archive: archive.is_some_and(archived),
        key_ids,
    }
}

/// In words; none where nothing is exposed.
pub fn told(exposed: &ExposedBackups) -> Option<String> {
    let total = usize::try_from(exposed.count).unwrap_or_default();
    let list = first_few(&exposed.names, total, 5);
    let which = "that keys open which may have been seen";
    let backups = match total {
        0 => None,
        1 => Some(format!("one backup is kept {which}: {list}")),
        n => Some(format!("{n} backups are kept {which}: {list}")),
    };
    let backups = backups.map(|what| format!("{what}. Delete them once there are newer ones"));
    let archive = exposed.archive.then(|| {
        format!("the archive has pieces {which}. They go once there is a newer backup and `continuous.keep` is over")
    });
    let all: Vec<_> = backups.into_iter().chain(archive).collect();
    (!all.is_empty()).then(|| all.join(". "))
}

#[cfg(test)]
mod tests {
    use codexstore_crds::archive::Elsewhere;
    use codexstore_crds::codex_backup::CodexBackupSpec;
    use serde_json::json;

    use super::*;

    fn backup(name: &str, hour: u8, members: &serde_json::Value) -> Arc<CodexBackup> {
        let mut backup = CodexBackup::new(name, CodexBackupSpec::default());
        backup.metadata.creation_timestamp =
            serde_json::from_value(json!(format!("2026-11-01T{hour:02}:00:00Z"))).unwrap();
        backup.status =
            serde_json::from_value(json!({"phase": "Succeeded", "members": members})).unwrap();
        Arc::new(backup)
    }

    #[test]
    fn what_keys_of_before_open_is_exposed_and_what_is_not_known_too() {
        let one = |key: &str| json!([{"pod": "web-0", "stored": true, "keyId": key}]);
        let all = [
            backup("older", 1, &one("k1")),
            backup("old", 2, &one("k2")),
            backup("new", 3, &one("k3")),
            backup("silent", 4, &json!([{"pod": "web-0", "stored": true}])),
            backup(
                "nothing",
                5,
                &json!([{"pod": "web-0", "stored": false, "keyId": "k1"}]),
            ),
        ];
        let found = of(&all, None, vec!["k1".to_owned(), "k2".to_owned()]);
        assert_eq!(found.names, ["silent", "old", "older"]);
        assert_eq!(found.count, 3);
        let said = told(&found).unwrap();
        assert!(
            said.starts_with("3 backups") && said.contains("silent, old, older."),
            "{said}"
        );
        assert_eq!(told(&of(&all[2..3], None, vec!["k1".to_owned()])), None);
    }

    #[test]
    fn pieces_that_keys_of_before_open_are_exposed_and_an_archive_that_says_nothing_too() {
        let archived = |ids: Option<&[&str]>, elsewhere: &[&str]| {
            let texts = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
            let record = Record {
                key_ids: ids.map(texts),
                elsewhere: vec![Elsewhere {
                    location: "before".to_owned(),
                    key_ids: Some(texts(elsewhere)),
                }],
                ..Record::default()
            };
            of(&[], Some(&record), vec!["k1".to_owned(), "k2".to_owned()])
        };
        let found = archived(Some(&["k2", "k3"]), &[]);
        assert_eq!((found.archive, found.count), (true, 0));
        let said = told(&found).unwrap();
        assert!(said.starts_with("the archive has pieces"), "{said}");
        assert!(archived(None, &[]).archive);
        assert!(archived(Some(&["k3"]), &["k1"]).archive);
        let clean = archived(Some(&["k3"]), &["k3"]);
        assert_eq!((clean.archive, told(&clean)), (false, None));
        assert!(!of(&[], None, vec!["k1".to_owned()]).archive);
    }

    #[test]
    fn of_very_many_the_newest_are_named_and_all_are_counted() {
        let members = json!([{"pod": "web-0", "stored": true, "keyId": "k1"}]);
        let all: Vec<_> = (0..=MAX_EXPOSED)
            .map(|n| backup(&format!("b{n:02}"), u8::try_from(n % 24).unwrap(), &members))
            .collect();
        let found = of(&all, None, vec!["k1".to_owned()]);
        assert_eq!((found.count, found.names.len()), (51, 50));
        assert!(told(&found).unwrap().contains("and 46 more"));
    }
}
