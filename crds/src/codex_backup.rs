//! The CodexBackup resource: one backup of a store's members.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use k8s_openapi::jiff::{Timestamp, Unit};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::{Destination, LocalRef, Verify};

/// Longest name of a CodexBackup: the names of its Jobs are made from it, and have 63 characters.
pub const MAX_BACKUP_NAME: usize = 52;
/// Members listed one by one.
pub const MAX_BACKUP_MEMBERS: usize = 500;

/// One backup.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "codexstore.dev",
    version = "v1alpha1",
    kind = "CodexBackup",
    plural = "codexbackups",
    singular = "codexbackup",
    shortname = "cxb",
    category = "codexstore",
    namespaced,
    status = "CodexBackupStatus",
    derive = "PartialEq",
    doc = "A CodexBackup is one backup of the members of a CodexStore: creating one takes a backup now, deleting one deletes what is stored.",
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.storeRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Pending, Running, Succeeded, PartiallyFailed, Failed"),
    printcolumn(name = "Verified", type_ = "string", json_path = ".status.conditions[?(@.type==\"Verified\")].status", description = "whether it was opened with its key and is what the members said"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.ready", description = "members that are stored, of all"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.bytes"),
    printcolumn(name = "Started", type_ = "date", json_path = ".status.startedAt"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Kept-By", type_ = "string", json_path = ".status.keptBy", description = "what keeps it now: it expires when nothing does"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Key", type_ = "string", json_path = ".status.members[*].keyId", description = "id of the key that the first stored member needs", priority = "1"),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keys", priority = "1"),
    printcolumn(name = "Location", type_ = "string", json_path = ".status.location", priority = "1"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("the name of a CodexBackup has at most 52 characters, since names made from it must fit: choose a shorter metadata.name")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.storeRef == oldSelf.storeRef").message("storeRef cannot be changed: create another CodexBackup"))]
pub struct CodexBackupSpec {
    /// The CodexStore in the same namespace whose members are backed up. Cannot be changed.
    pub store_ref: LocalRef,

    /// What happens to what is stored when the CodexBackup is deleted: `Delete` (the default) or `Retain`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// See [`CodexBackupSpec::deletion_policy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It is deleted from the destination.
    #[default]
    Delete,
    /// It stays at the destination.
    Retain,
}

/// What became of a backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CodexBackupStatus {
    /// Pending, Running, Succeeded (every member is stored), `PartiallyFailed` (some are) or Failed (none is).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub phase: Option<String>,

    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,

    /// How long it took, such as `1m12s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub duration: Option<String>,

    /// Where it is, for people: a directory of the claim, or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub location: Option<String>,

    /// Directory within the destination. Absent until something may be stored there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub directory: Option<String>,

    /// The destination, as the store named it when this began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,

    /// Stored members of all, as `n/m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ready: Option<String>,

    /// Bytes that are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,

    /// Entries in all members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,

    /// The members, sorted by pod; at most 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub members: Vec<BackupMember>,

    /// The sealed keyring that is stored beside the members, where the store's spec asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyring: Option<StoredKeyring>,

    /// What keeps it now; it expires, and is deleted, when nothing does. Rules of the store's retention (`keepLast`, `keepDaily`, …) count backups,
    /// so that when that is depends on those that come. Where no rule keeps it: `latest` (that is whole), `latestVerified`, or `failed`
    /// (one of the last three that failed). `restore`: one that has not ended uses it; `archive`: a continuous archive goes back to it.
    /// Absent until it has ended, and where the store has no `spec.backup`: nothing expires then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 32)))]
    pub kept_by: Vec<String>,

    /// What went wrong, or what is being done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,

    /// Completed and Verified, `KeyEscrowed` where a sealed keyring is asked for, and `DestinationUnreachable` where nothing is stored since the
    /// destination failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The backup of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupMember {
    /// Name of its pod.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Whether it is stored, and was read back.
    pub stored: bool,
    /// File within the backup's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    pub file: Option<String>,
    /// The revision that it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// When it began to be read: the store's time, which is not before that of the revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<MicroTime>,
    /// Line of history of that revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub lineage: Option<String>,
    /// Entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// SHA-256 of all bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub sha256: Option<String>,
    /// SHA-256 over all entries, as the member said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub root: Option<String>,
    /// Id of the key that it needs. Absent without encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub key_id: Option<String>,
    /// Why it is not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

impl BackupMember {
    /// The time before which nobody can go back to with it, in milliseconds since 1970: when it was begun, upwards, since a member
    /// refuses a time before it; where that is not known, when all was stored, in seconds since 1970.
    pub fn from_ms(&self, stored_at: i64) -> u64 {
        let taken = self.taken_at.as_ref().map(|at| at.0.as_microsecond());
        let taken = taken.map(|micros| u64::try_from(micros).unwrap_or_default().div_ceil(1000));
        taken.unwrap_or_else(|| {
            u64::try_from(stored_at)
                .unwrap_or_default()
                .saturating_mul(1000)
        })
    }
}

/// A sealed keyring beside the files of a backup. No key can be read from it without an identity of one of its recipients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredKeyring {
    /// File within the backup's directory.
    #[schemars(length(max = 300))]
    pub file: String,
    /// SHA-256 of all bytes.
    #[schemars(length(max = 64))]
    pub sha256: String,
    /// When it was sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_at: Option<Time>,
}

/// Values of [`CodexBackupStatus::phase`].
pub mod phase {
    /// Its Job has not begun.
    pub const PENDING: &str = "Pending";
    /// Members are being read.
    pub const RUNNING: &str = "Running";
    /// Every member is stored.
    pub const SUCCEEDED: &str = "Succeeded";
    /// Some members are stored.
    pub const PARTIALLY_FAILED: &str = "PartiallyFailed";
    /// Nothing is stored.
    pub const FAILED: &str = "Failed";
}

/// Values of [`CodexBackupStatus::kept_by`].
pub mod kept_by {
    /// The rule `keepLast`.
    pub const LAST: &str = "keepLast";
    /// The rule `keepHourly`.
    pub const HOURLY: &str = "keepHourly";
    /// The rule `keepDaily`.
    pub const DAILY: &str = "keepDaily";
    /// The rule `keepWeekly`.
    pub const WEEKLY: &str = "keepWeekly";
    /// The rule `keepMonthly`.
    pub const MONTHLY: &str = "keepMonthly";
    /// No rule, but it is the latest that is whole.
    pub const LATEST: &str = "latest";
    /// No rule, but it is the latest that was verified.
    pub const LATEST_VERIFIED: &str = "latestVerified";
    /// Nothing is stored; it says what went wrong.
    pub const FAILED: &str = "failed";
    /// A restore uses it.
    pub const RESTORE: &str = "restore";
    /// A continuous archive goes on from it.
    pub const ARCHIVE: &str = "archive";
}

/// Types of conditions.
pub mod condition {
    /// Every member was stored and read back.
    pub const COMPLETED: &str = "Completed";
    /// Every stored member was opened with its key, and is what the member said.
    pub const VERIFIED: &str = "Verified";
    /// A sealed keyring with the key of every stored member is stored beside them, and was read back.
    pub const KEY_ESCROWED: &str = "KeyEscrowed";
    /// Nothing is stored, and it was the destination that failed. Not there otherwise.
    pub const DESTINATION_UNREACHABLE: &str = "DestinationUnreachable";
}

/// Reason of the condition `Completed` while a try has failed and the Job has others left.
pub const TRY_FAILED: &str = "TryFailed";

/// Why the last try that ended has failed, as long as no later one has ended: what the conditions of a backup or a restore say.
pub fn last_try(conditions: &[Condition]) -> Option<&str> {
    let mut all = conditions.iter();
    let found = all.find(|c| c.type_ == condition::COMPLETED && c.reason == TRY_FAILED)?;
    Some(&found.message)
}

/// How long something took, for people.
pub fn took(began: Option<&Time>, now: Timestamp) -> Option<String> {
    let took = now.since(began?.0).ok()?.round(Unit::Second).ok()?;
    Some(format!("{took:#}").replace(' ', ""))
}

impl CodexBackupStatus {
    /// Whether it has ended, well or not.
    pub fn ended(&self) -> bool {
        matches!(
            self.phase.as_deref(),
            Some(phase::SUCCEEDED | phase::PARTIALLY_FAILED | phase::FAILED)
        )
    }

    /// Whether something is stored that a restore could use.
    pub fn usable(&self) -> bool {
        matches!(
            self.phase.as_deref(),
            Some(phase::SUCCEEDED | phase::PARTIALLY_FAILED)
        )
    }

    /// Whether an archive may count on it, so that earlier ones need not stay: where each is verified, once that went well.
    pub fn counts(&self, verify: Verify) -> bool {
        let verified = self.verified();
        self.usable() && verified.unwrap_or(verify != Verify::Always)
    }

    /// Whether nothing is stored since the destination failed: it was not reached, refused what was asked of it, or is full.
    pub fn unreachable(&self) -> bool {
        let mut all = self.conditions.iter();
        all.any(|c| c.type_ == condition::DESTINATION_UNREACHABLE && c.status == "True")
    }

    /// Status of the condition `Verified`; none before it was looked at.
    pub fn verified(&self) -> Option<bool> {
        let found = self
            .conditions
            .iter()
            .find(|c| c.type_ == condition::VERIFIED)?;
        match found.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }
}
