//! What the operator says about a CodexStore.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::archive::ArchiveStatus;

/// Members listed one by one; above that only the counts are complete.
pub const MAX_MEMBERS: usize = 500;
/// Keys listed one by one.
pub const MAX_KEYS: usize = 64;
/// Longest message in a status, in characters.
pub const MAX_MESSAGE: usize = 1024;

/// State of a CodexStore, as the operator last saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CodexStoreStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// One word: Ready, Ephemeral (ready, and the data ends with the pod), Progressing, Degraded or Deleting.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub phase: Option<String>,

    /// Ready members of all, as `n/m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ready: Option<String>,

    /// How many members there are.
    #[serde(default)]
    pub total_members: i32,

    /// How many of them are ready.
    #[serde(default)]
    pub ready_members: i32,

    /// How many of them run with an older spec or operator: delete their pods to bring them up to date.
    #[serde(default)]
    pub outdated_members: i32,

    /// Entries in all members that answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,

    /// Live bytes in all members that answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,

    /// Id of the current key. Absent without encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub key_id: Option<String>,

    /// The keyring that was made for this store, found, or brought by its user. Pods are admitted once this is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyring: Option<KeyringStatus>,

    /// The keyring as it was last sealed for the escrow. Absent where that is not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escrow: Option<EscrowStatus>,

    /// The keys in the keyring, sorted by id; at most 64, the current one among them. Behind them, as far as there is room, the last 8 that are Retired, the
    /// latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub encryption_keys: Vec<KeyStatus>,

    /// Up to where members' use of keys is counted, sorted by pod; at most 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub key_uses: Vec<KeyUse>,

    /// By which schedule the key is rotated, and since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_schedule: Option<RotationSchedule>,

    /// The latest backup that has something stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<LastBackup>,

    /// How far the schedule of `spec.backup` is. Absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_schedule: Option<BackupSchedule>,

    /// The continuous archive, as far as its record says. Absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveStatus>,

    /// The members, sorted by pod; at most 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub members: Vec<MemberStatus>,

    /// Ready, Progressing, Degraded, `KeysReady`, `KeyEscrowed` where there are keys, and `LastBackupSucceeded` where there are to be backups, and
    /// `ArchiveCurrent` where there is to be an archive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How far the schedule of a store's backups is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupSchedule {
    /// The last time of the schedule for which a backup was begun, as the backups that there are say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_time: Option<Time>,
    /// Its next time; absent while it is suspended. Without `timeZone` it is told as if the controller manager's were UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Time>,
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastBackup {
    /// Name of the CodexBackup.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Succeeded or `PartiallyFailed`.
    #[schemars(length(max = 32))]
    pub phase: String,
    /// When it ended.
    pub time: Time,
    /// Whether it was opened with its keys and is what the members said; absent while nobody has looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
}

/// A schedule that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationSchedule {
    /// The schedule.
    #[schemars(length(max = 100))]
    pub schedule: String,
    /// The last time that was made use of, or when the schedule was first seen: what is later and has passed is due.
    pub since: Time,
    /// When a rotation was last completed, or when the schedule was first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<Time>,
}

/// Messages that AES-GCM with random nonces may encrypt under one key: 2^32 (NIST SP 800-38D, 8.3).
pub const MAX_KEY_MESSAGES: i64 = 1 << 32;

/// A key of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// Its id.
    #[schemars(length(max = 64))]
    pub id: String,
    /// Active (it wraps what is written now), Adding (it is to become that), Retiring (it was that), Missing (it was that, and is
    /// no longer in the Secret) or Retired (nothing needed it any more, and it is no longer in the Secret).
    #[schemars(length(max = 32))]
    pub state: String,
    /// What needs it: members, claims that no member has mounted, backups (also those that stayed without their CodexBackup), the archive. Empty: nothing that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 512)))]
    pub needed_by: Vec<String>,
    /// Members that have loaded it, of those that were asked, which are those that run: `2/3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub loaded: Option<String>,
    /// Files whose data keys it wraps, of the members that answered when they were last asked. Absent if none of them says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<i64>,
    /// Bytes of these files on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// When the operator first saw it in the keyring of this CodexStore. One that the operator makes is there from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen_at: Option<Time>,
    /// When the operator saw that it was gone, of one that is Retired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<Time>,
    /// Messages that it has encrypted, which are data keys that it wrapped: an estimate that is rather too high, over all members that this
    /// CodexStore ever had. It never falls; a CodexStore that is deleted and created again counts anew, from what its members say then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<i64>,
    /// The same of other stores that have this key in a Secret that they share with this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_elsewhere: Option<i64>,
    /// How many it may encrypt: 2^32 (NIST SP 800-38D, 8.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<i64>,
}

/// Up to where a member's use of keys is in the counts of [`KeyStatus::messages`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyUse {
    /// Name of the pod.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Line of history of its store: another one is another store.
    #[schemars(length(max = 32))]
    pub lineage: String,
    /// How often its store has changed its owner.
    pub epoch: i64,
    /// Log files that were begun in its store's life.
    pub logs: i64,
    /// Data keys that were wrapped since its store was opened.
    pub wraps: i64,
    /// The key that wrapped the newest file.
    #[schemars(length(max = 64))]
    pub key_id: String,
}

/// The keyring of a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyringStatus {
    /// Name of the Secret.
    #[schemars(length(max = 253))]
    pub secret_name: String,
    /// UID of the Secret, as it was last good.
    #[schemars(length(max = 63))]
    pub secret_uid: String,
}

/// A sealed keyring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EscrowStatus {
    /// Name of the `ConfigMap` that holds it.
    #[schemars(length(max = 253))]
    pub config_map_name: String,
    /// To how many recipients it is sealed.
    pub recipients: i32,
    /// Ids of the keys in it, sorted; at most 64.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    pub key_ids: Vec<String>,
    /// When it was sealed.
    pub sealed_at: Time,
}

/// One member: one lasting copy of state, and the pod in which it lives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Name of the pod.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// UID of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub pod_uid: Option<String>,
    /// Node of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,
    /// Whether it serves reads and writes.
    pub ready: bool,
    /// What the sidecar says of itself (Ready, Recovering, `KeyError`, …), or why it cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub state: Option<String>,
    /// Last committed revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,
    /// Live bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Id of the key that it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub key_id: Option<String>,
    /// Hash of the spec with which the pod was admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub spec_hash: Option<String>,
    /// Whether the pod runs with an older spec or operator.
    #[serde(default)]
    pub outdated: bool,
    /// Why it is not ready, or what is outdated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

impl CodexStoreStatus {
    /// Takes the members: sorts and bounds the list, and counts them.
    pub fn set_members(&mut self, mut members: Vec<MemberStatus>) {
        members.sort_by(|a, b| a.pod.cmp(&b.pod));
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        self.total_members = count(members.len());
        self.ready_members = count(members.iter().filter(|m| m.ready).count());
        self.outdated_members = count(members.iter().filter(|m| m.outdated).count());
        self.ready = Some(format!("{}/{}", self.ready_members, self.total_members));
        let sum = |f: fn(&MemberStatus) -> Option<i64>| {
            members.iter().filter_map(f).reduce(i64::saturating_add)
        };
        self.keys = sum(|m| m.keys);
        self.bytes = sum(|m| m.bytes);
        for member in &mut members {
            member.message = member.message.take().map(|m| bounded(&m));
        }
        members.truncate(MAX_MEMBERS);
        self.members = members;
    }

    /// The condition of this type.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.type_ == type_)
    }

    /// Sets one condition; its time changes only with its status (`True`, `False` or `Unknown`).
    pub fn set_condition(&mut self, change: &ConditionChange<'_>, now: &Time) {
        let status = match change.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let since = self
            .condition(change.type_)
            .filter(|old| old.status == status)
            .map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
        let condition = Condition {
            type_: change.type_.to_owned(),
            status: status.to_owned(),
            reason: change.reason.to_owned(),
            message: bounded(change.message),
            observed_generation: change.generation,
            last_transition_time: since,
        };
        match self.conditions.iter_mut().find(|c| c.type_ == change.type_) {
            Some(old) => *old = condition,
            None => self.conditions.push(condition),
        }
    }
}

/// What [`CodexStoreStatus::set_condition`] sets.
#[derive(Clone, Copy, Debug)]
pub struct ConditionChange<'a> {
    /// One of [`condition`]'s names.
    pub type_: &'a str,
    /// True, false, or unknown.
    pub status: Option<bool>,
    /// CamelCase, for programs.
    pub reason: &'a str,
    /// For people; cut at [`MAX_MESSAGE`] characters.
    pub message: &'a str,
    /// Generation of the spec that was looked at.
    pub generation: Option<i64>,
}

/// Types of conditions.
pub mod condition {
    /// All members are ready.
    pub const READY: &str = "Ready";
    /// Something is being made or waited for.
    pub const PROGRESSING: &str = "Progressing";
    /// Something is wrong that does not heal by waiting.
    pub const DEGRADED: &str = "Degraded";
    /// The latest backup that has ended is whole.
    pub const LAST_BACKUP_SUCCEEDED: &str = "LastBackupSucceeded";
    /// All that members have written is archived, but for the last seconds, and a restore can use it.
    pub const ARCHIVE_CURRENT: &str = "ArchiveCurrent";
    /// The keyring is there and well-formed.
    pub const KEYS_READY: &str = "KeysReady";
    /// Of keys in a Secret of the user's: members that run have loaded the current one, and need no other.
    pub const KEY_IN_USE: &str = "KeyInUse";
    /// The keyring is sealed to the recipients that the spec names, as it is now.
    pub const KEY_ESCROWED: &str = "KeyEscrowed";
}

/// Values of [`CodexStoreStatus::phase`].
pub mod phase {
    /// All members are ready, and their data lasts.
    pub const READY: &str = "Ready";
    /// All members are ready, and their data ends with their pods.
    pub const EPHEMERAL: &str = "Ephemeral";
    /// Something is being made or waited for.
    pub const PROGRESSING: &str = "Progressing";
    /// Something is wrong that does not heal by waiting.
    pub const DEGRADED: &str = "Degraded";
    /// The CodexStore is being deleted.
    pub const DELETING: &str = "Deleting";
}

/// The first `shown` of `names`, and how many more of `total` there are: `a, b and 3 more`.
pub fn first_few<T: AsRef<str>>(
    names: impl IntoIterator<Item = T>,
    total: usize,
    shown: usize,
) -> String {
    let mut text = String::new();
    let mut count: usize = 0;
    for name in names.into_iter().take(shown) {
        if count > 0 {
            text.push_str(", ");
        }
        text.push_str(name.as_ref());
        count += 1;
    }
    match total.saturating_sub(count) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// A condition whose status is `True`, `False` or `Unknown`, since `now`.
pub fn condition_of(
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Time,
) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: bounded(message),
        observed_generation: None,
        last_transition_time: now,
    }
}

/// `text`, cut to what a message has room for.
pub fn bounded(text: &str) -> String {
    if text.chars().count() <= MAX_MESSAGE {
        return text.to_owned();
    }
    text.chars().take(MAX_MESSAGE - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_the_first_few_are_named_and_the_others_counted() {
        let names = ["a", "b", "c"];
        assert_eq!(first_few(names, 3, 3), "a, b, c");
        assert_eq!(first_few(names, 3, 2), "a, b and 1 more");
        assert_eq!(first_few(names, 9, 5), "a, b, c and 6 more");
        assert_eq!(first_few([""; 0], 0, 5), "");
    }

    fn at(time: &str) -> Time {
        serde_json::from_value(time.into()).unwrap()
    }

    #[test]
    fn a_conditions_time_changes_with_its_status_only() {
        let mut status = CodexStoreStatus::default();
        let change = |state, reason| ConditionChange {
            type_: condition::READY,
            status: state,
            reason,
            message: "m",
            generation: Some(3),
        };
        let (one, two, three) = (
            at("2026-01-01T00:00:01Z"),
            at("2026-01-01T00:00:02Z"),
            at("2026-01-01T00:00:03Z"),
        );
        status.set_condition(&change(Some(false), "A"), &one);
        status.set_condition(&change(Some(false), "B"), &two);
        let ready = status.condition("Ready").unwrap();
        assert_eq!(
            (ready.reason.as_str(), &ready.last_transition_time),
            ("B", &one)
        );
        status.set_condition(&change(None, "C"), &three);
        let ready = status.condition("Ready").unwrap();
        assert_eq!(
            (ready.status.as_str(), &ready.last_transition_time),
            ("Unknown", &three)
        );
        assert_eq!(ready.observed_generation, Some(3));
        assert_eq!(status.conditions.len(), 1);
    }

    #[test]
    fn members_are_counted_before_the_list_is_cut() {
        let member = |n: usize| MemberStatus {
            pod: format!("web-{n:04}"),
            ready: n.is_multiple_of(2),
            outdated: n == 7,
            keys: (n < 10).then_some(1),
            message: Some("é".repeat(2000)),
            ..MemberStatus::default()
        };
        let mut status = CodexStoreStatus::default();
        status.set_members((0..=MAX_MEMBERS).rev().map(member).collect());
        assert_eq!(status.ready.as_deref(), Some("251/501"));
        assert_eq!(
            (status.outdated_members, status.keys, status.bytes),
            (1, Some(10), None)
        );
        assert_eq!(status.members.len(), MAX_MEMBERS);
        assert_eq!(status.members[0].pod, "web-0000", "sorted");
        let message = status.members[0].message.as_ref().unwrap();
        assert_eq!(
            message.chars().count(),
            MAX_MESSAGE,
            "as much as the schema takes"
        );
    }
}
