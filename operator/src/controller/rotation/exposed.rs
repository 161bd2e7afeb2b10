//! Backups that keys open which somebody may have seen. Pure.

use std::sync::Arc;

use codexstore_crds::CodexBackup;
use codexstore_crds::codex_backup::{BackupMember, MAX_BACKUP_MEMBERS};
use codexstore_crds::codex_key_rotation::{ExposedBackups, MAX_EXPOSED};
use kube::ResourceExt as _;

/// Backups that one of these keys opens, the newest first. One that does not say which key it needs may need one of them.
pub fn of(backups: &[Arc<CodexBackup>], key_ids: Vec<String>) -> ExposedBackups {
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
    ExposedBackups {
        names: names.collect(),
        count,
        key_ids,
    }
}

/// In words; none where no backup is exposed.
pub fn told(exposed: &ExposedBackups) -> Option<String> {
    const NAMED: usize = 5;
    if exposed.count == 0 {
        return None;
    }
    let shown: Vec<_> = exposed
        .names
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect();
    let more = usize::try_from(exposed.count)
        .unwrap_or(usize::MAX)
        .saturating_sub(shown.len());
    let shown = shown.join(", ");
    let list = match more {
        0 => shown,
        more => format!("{shown} and {more} more"),
    };
    Some(format!(
        "{} that keys open which may have been seen: {list}. Delete them once there are newer ones",
        match exposed.count {
            1 => "one backup is kept".to_owned(),
            n => format!("{n} backups are kept"),
        }
    ))
}

#[cfg(test)]
mod tests {
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
        let found = of(&all, vec!["k1".to_owned(), "k2".to_owned()]);
        assert_eq!(found.names, ["silent", "old", "older"]);
        assert_eq!(found.count, 3);
        let said = told(&found).unwrap();
        assert!(
            said.starts_with("3 backups") && said.contains("silent, old, older."),
            "{said}"
        );
        assert_eq!(told(&of(&all[2..3], vec!["k1".to_owned()])), None);
    }

    #[test]
    fn of_very_many_the_newest_are_named_and_all_are_counted() {
        let members = json!([{"pod": "web-0", "stored": true, "keyId": "k1"}]);
        let all: Vec<_> = (0..=MAX_EXPOSED)
            .map(|n| backup(&format!("b{n:02}"), u8::try_from(n % 24).unwrap(), &members))
            .collect();
        let found = of(&all, vec!["k1".to_owned()]);
        assert_eq!((found.count, found.names.len()), (51, 50));
        assert!(told(&found).unwrap().contains("and 46 more"));
    }
}
