//! The CodexRestore resource: one restore of members of a store.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::{LocalRef, seconds};
use crate::codex_backup::phase;

/// Longest name of a CodexRestore: its Job's is made from it, and has 63 characters.
pub const MAX_RESTORE_NAME: usize = 59;

/// One restore.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "codexstore.dev",
    version = "v1alpha1",
    kind = "CodexRestore",
    plural = "codexrestores",
    singular = "codexrestore",
    shortname = "cxr",
    category = "codexstore",
    namespaced,
    status = "CodexRestoreStatus",
    derive = "PartialEq",
    doc = "A CodexRestore puts what a backup holds in the place of what members of a CodexStore hold: creating one does it now. What was there is set aside, not deleted.",
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.storeRef.name"),
    printcolumn(name = "Backup", type_ = "string", json_path = ".status.backup", description = "the backup that was restored, the last by name where members got different ones"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Pending, Running, Succeeded, PartiallyFailed, Failed"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.ready", description = "members that are restored, of all"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "On-Start", type_ = "boolean", json_path = ".spec.onStart", priority = "1"),
    printcolumn(name = "From-Store", type_ = "string", json_path = ".spec.fromStoreRef.name", description = "the other store whose data is copied", priority = "1"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration", priority = "1"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    validation = Rule::new("self.metadata.name.size() <= 59").message("the name of a CodexRestore has at most 59 characters, since names made from it must fit: choose a shorter metadata.name")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a CodexRestore cannot be changed: create another one"))]
#[x_kube(validation = Rule::new("!has(self.fromStoreRef) || self.fromStoreRef.name != self.storeRef.name").message("fromStoreRef is for another store's data, and names the store itself: drop it to restore the store's own backups"))]
#[x_kube(validation = Rule::new("!has(self.fromStoreRef) || !self.onStart").message("onStart restores a store's own backups: drop it, or drop fromStoreRef"))]
#[x_kube(validation = Rule::new("!has(self.pointInTime) || !has(self.backupRef)").message("pointInTime chooses the backup by itself: drop backupRef, or drop pointInTime to restore that backup alone"))]
#[x_kube(validation = Rule::new("!has(self.pointInTime) || !self.onStart").message("onStart restores the latest: drop it, or drop pointInTime"))]
#[x_kube(validation = Rule::new("!has(self.pointInTime) || !has(self.fromStoreRef)").message("a copy is of one backup, and not of a point in time: drop pointInTime, and name a backup with backupRef"))]
#[x_kube(validation = Rule::new("!has(self.pointInTime) || !has(self.pointInTime.revision) || (has(self.members) && self.members.size() == 1)").message("a revision is one member's: name that member with `members: [{pod: NAME}]`, or write pointInTime.time"))]
pub struct CodexRestoreSpec {
    /// The CodexStore in the same namespace whose members get other data. It needs `spec.backup`, which says where backups are.
    pub store_ref: LocalRef,

    /// Another CodexStore in the same namespace, whose data the members get: a copy. It need not exist any more; its CodexBackup
    /// and the Secret with its keyring do. Both stores are encrypted or neither is, and they have one strategy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_store_ref: Option<LocalRef>,

    /// Name of the backup, which is one of this store: a CodexBackup's, also of one that is not in the cluster any more but at
    /// the destination. Without it, of each member its latest that was not found broken. With `fromStoreRef` it names a
    /// CodexBackup of that store; without it, that store's latest in which every member is stored and that was not found broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_ref: Option<LocalRef>,

    /// A time, or a revision, that members go back to: a backup from before it, and what was archived since, up to there. Needs
    /// `backup.continuous` of the store to have been there at that time. Without it the latest: of each member the newest backup,
    /// and all that was archived since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point_in_time: Option<PointInTime>,

    /// The members to restore; without it all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub members: Vec<RestoreTarget>,

    /// How long it may wait for what is missing (a pod, a backup that is not done, a store) before it has failed: hours, minutes and
    /// seconds since its creation, by default 1h. While it waits, no other restore of the store begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != '' && duration(self) >= duration('1s') && duration(self) <= duration('8760h')").message("startDeadline is between 1s and 8760h: write for example 1h"))]
    pub start_deadline: Option<String>,

    /// `true` restores only members that wait for it because their volume is empty (`restore.onStart: IfEmpty` of the store),
    /// and has one of which there is no backup begin empty. The operator makes such ones.
    #[serde(default)]
    pub on_start: bool,
}

/// Exactly one of a time and a revision.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.time) != has(self.revision)").message("pointInTime needs exactly one of `time: \"2026-01-31T12:00:00Z\"` and `revision: 1000`"))]
pub struct PointInTime {
    /// Everything that was written up to this time is there, and nothing later; by the clocks of the members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<MicroTime>,
    /// The last revision that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub revision: Option<i64>,
}

/// A member to restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreTarget {
    /// Name of its pod.
    #[schemars(length(min = 1, max = 253))]
    pub pod: String,
    /// Name of the pod whose backup it gets; by default its own. With `fromStoreRef`, by default the one in the backup that has its
    /// name, or the only one with its ordinal: `copy-0` gets what `web-0` had.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub from: Option<String>,
}

/// What became of a restore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CodexRestoreStatus {
    /// Pending, Running, Succeeded (every member), `PartiallyFailed` (some) or Failed (none). What was not restored has the data
    /// that it had.
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

    /// The backup that was restored; the last by name where members got different ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub backup: Option<String>,

    /// Restored members of all, as `n/m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ready: Option<String>,

    /// The members, sorted by pod; at most 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub members: Vec<RestoredMember>,

    /// What went wrong, or what is being done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,

    /// Completed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The restore of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredMember {
    /// Name of its pod.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Whether it serves what was restored, or, on its start, begins empty since there is no backup of it.
    pub restored: bool,
    /// Name of the pod whose backup it got, where that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub from: Option<String>,
    /// The backup. Absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub backup: Option<String>,
    /// Time of the last write that it has, where that is known: one that came from the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_to: Option<MicroTime>,
    /// The last revision that it has; what the member does next has a much higher one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,
    /// Its new line of history.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub lineage: Option<String>,
    /// Directory on the member's volume, beside the store's, with what was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub set_aside: Option<String>,
    /// Why it is not restored, or that there was nothing to restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

impl CodexRestoreStatus {
    /// Whether it has ended, well or not.
    pub fn ended(&self) -> bool {
        matches!(
            self.phase.as_deref(),
            Some(phase::SUCCEEDED | phase::PARTIALLY_FAILED | phase::FAILED)
        )
    }
}

impl CodexRestoreSpec {
    /// How long it may wait, in seconds. None for one that members wait for, which is tried again as long as they do.
    pub fn start_deadline_seconds(&self) -> Option<i64> {
        let longest = self.start_deadline.as_deref().unwrap_or("1h");
        (!self.on_start).then(|| seconds(longest))
    }
}

impl CodexRestore {
    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.status.as_ref().is_some_and(CodexRestoreStatus::ended)
    }

    /// Name of the store whose backups it restores: another one's for a copy.
    pub fn source(&self) -> &str {
        let from = self.spec.from_store_ref.as_ref();
        &from.unwrap_or(&self.spec.store_ref).name
    }

    /// Whether it reads or changes what is this store's.
    pub fn concerns(&self, store: &str) -> bool {
        self.spec.store_ref.name == store || self.source() == store
    }

    /// Name of the backup that it restores, as far as that is known.
    pub fn backup(&self) -> Option<&str> {
        let chosen = self.status.as_ref().and_then(|s| s.backup.as_deref());
        chosen.or(self.spec.backup_ref.as_ref().map(|b| b.name.as_str()))
    }
}
