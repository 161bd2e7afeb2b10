//! The CodexStore resource: what a user writes.
//!
//! Each field's documentation becomes its description in the CRD. Defaults stand in the schema too, so
//! the API server fills them in and `kubectl get -o yaml` shows what is in force.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::encryption::{Empty, Encryption, KeySize, Keys, Managed, PassphraseRef};
use crate::{
    Quantity,
    backup::{BackupPolicy, OnStart, RestorePolicy},
    observe::{Metrics, Tracing},
    status::CodexStoreStatus,
};

/// What a CodexStore is. All fields have defaults: `spec: {}` is a working, encrypted store that survives
/// crashes of containers but not the deletion of its pod.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "codexstore.dev",
    version = "v1alpha1",
    kind = "CodexStore",
    plural = "codexstores",
    singular = "codexstore",
    shortname = "cxs",
    category = "codexstore",
    namespaced,
    status = "CodexStoreStatus",
    derive = "PartialEq",
    doc = "A CodexStore is a durable, encrypted key-value store for pods: a pod with the label `codexstore.dev/store: NAME` gets a sidecar that serves it on the socket /run/codexstore/codexstore.sock.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "members that are ready, of all"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase", description = "Ready, Ephemeral (ready; data ends with the pod), Progressing, Degraded"),
    printcolumn(name = "Key", type_ = "string", json_path = ".status.keyId", description = "id of the current key"),
    printcolumn(name = "Last-Backup", type_ = "date", json_path = ".status.lastBackup.time", description = "age of the latest backup that is stored"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Strategy", type_ = "string", json_path = ".spec.strategy", priority = "1"),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keys", description = "entries in all members", priority = "1"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.bytes", description = "live bytes in all members", priority = "1"),
    validation = Rule::new("self.metadata.name.size() <= 40").message("the name of a CodexStore has at most 40 characters, since names made from it must fit: choose a shorter metadata.name")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.keep) || self.strategy == 'Ledger'").message("keep is for `strategy: Ledger`: a Snapshot keeps the present only"))]
#[x_kube(validation = Rule::new("!has(self.restore) || self.restore.onStart != 'IfEmpty' || (has(self.backup) && has(self.volume.claim))").message("restore.onStart: IfEmpty needs `backup`, where the backups are, and `volume.claim`, since it takes lasting members: add them or write `onStart: Never`"))]
#[x_kube(validation = Rule::new("!has(self.backup) || !has(self.backup.continuous) || has(self.volume.claim)").message("backup.continuous needs `volume.claim`, since it takes lasting members: write `volume: {claim: {size: 1Gi}}` or drop continuous"))]
#[x_kube(validation = Rule::new("has(self.encryption.none) == has(oldSelf.encryption.none)").message("encryption cannot be turned on or off: create a new CodexStore with the encryption you want and copy the data"))]
#[x_kube(validation = Rule::new("(has(self.encryption.keys) && has(self.encryption.keys.secretRef)) == (has(oldSelf.encryption.keys) && has(oldSelf.encryption.keys.secretRef)) && (has(self.encryption.keys) && has(self.encryption.keys.passphraseRef)) == (has(oldSelf.encryption.keys) && has(oldSelf.encryption.keys.passphraseRef))").message("encryption.keys cannot be changed between `managed`, `secretRef` and `passphraseRef`: create a new CodexStore with the keys you want and copy the data"))]
#[x_kube(validation = Rule::new("has(self.volume.ephemeral) == has(oldSelf.volume.ephemeral) && has(self.volume.claim) == has(oldSelf.volume.claim) && has(self.volume.podVolume) == has(oldSelf.volume.podVolume)").message("the kind of volume cannot be changed: create a new CodexStore with the volume you want and copy the data"))]
pub struct CodexStoreSpec {
    /// How the store keeps data on disk. `Snapshot` (the default): one atomic image and a short journal of
    /// what came after it. `Ledger`: every revision, with its time and who made it. Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("strategy cannot be changed: create a new CodexStore with the strategy you want and copy the data"))]
    pub strategy: Strategy,

    /// What a ledger keeps: everything, by default, until the volume is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,

    /// When a write is answered. `Always` (the default): when it is on disk. `Interval`: at once, and it
    /// is on disk within 100 ms; a crash of the node loses at most that.
    #[serde(default)]
    pub durability: Durability,

    /// Compression of what is written to disk: `Zstd` (the default), `None`, `Gzip` or `Snappy`. What was
    /// written before a change stays readable.
    #[serde(default)]
    pub compression: Compression,

    /// Encryption at rest; by default on, with a key that the operator makes once.
    #[serde(default)]
    pub encryption: Encryption,

    /// Where the data lives: exactly one of `ephemeral`, `claim` and `podVolume`. By default
    /// `ephemeral: {sizeLimit: 1Gi}`.
    #[serde(default)]
    pub volume: Volume,

    /// Backups of the members: when, to where, and for how long. Without it there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupPolicy>,

    /// What becomes of members whose volume is empty, for pods that are made from now on. By default they begin empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestorePolicy>,

    /// Who may do what on the socket, for pods that are made from now on. Without rules (the default) every
    /// process that can open the socket may do everything; with rules, what some rule gives to the user or
    /// primary group of the process that connects, and nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub access: Vec<AccessRule>,

    /// Serves the sidecar's metrics over the pod's network, for a Prometheus that scrapes pods. Absent (the default): they
    /// are on the socket only. `metrics: {}` serves them on port 7434.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,

    /// Sends spans of requests to a collector, for pods that are made from now on. Absent (the default): there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,

    /// CPU and memory of the sidecar. The store itself may use 70 % of the memory limit, and leaves 24Mi of it at least.
    #[serde(default)]
    pub resources: Resources,
}

impl CodexStoreSpec {
    /// Whether a member with an empty volume waits for its backup.
    pub fn restores_on_start(&self) -> bool {
        let on_start = self.restore.as_ref().map(|restore| restore.on_start);
        on_start == Some(OnStart::IfEmpty)
    }
}

/// See [`CodexStoreSpec::strategy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// One atomic image and a short journal.
    #[default]
    Snapshot,
    /// Every revision.
    Ledger,
}

/// What a ledger keeps. With both rules, what either keeps.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.age) || has(self.revisions)").message("keep says nothing: give it `age: 720h`, `revisions: 100000` or both, or leave it out to keep everything"))]
pub struct Keep {
    /// Revisions younger than this: hours, minutes and seconds, such as `720h` or `1h30m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != '' && duration(self) >= duration('1s')").message("keep.age is at least 1s: write for example 720h"))]
    pub age: Option<String>,

    /// So many of the latest revisions: 1 or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub revisions: Option<i64>,
}

/// See [`CodexStoreSpec::durability`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Durability {
    /// Answered means on disk.
    #[default]
    Always,
    /// On disk within 100 ms.
    Interval,
}

/// See [`CodexStoreSpec::compression`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    /// As it is.
    None,
    /// Zstandard: the best ratio for its cost.
    #[default]
    Zstd,
    /// Gzip.
    Gzip,
    /// Snappy: the least CPU.
    Snappy,
}

/// Where the data lives: exactly one of the three. The kind cannot be changed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.ephemeral) ? 1 : 0) + (has(self.claim) ? 1 : 0) + (has(self.podVolume) ? 1 : 0) == 1").message("volume needs exactly one of `ephemeral: {sizeLimit: 1Gi}`, `claim: {size: 1Gi}` and `podVolume: NAME`"))]
pub struct Volume {
    /// An empty directory on the node: survives crashes of containers, ends with the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<Ephemeral>,

    /// A PersistentVolumeClaim per pod, named `cxs-STORE-POD` (`cxsN-STORE-POD` where the
    /// store's name has N hyphens) and made by the operator. For pods with
    /// lasting names: those of a StatefulSet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,

    /// Name of a volume of the pod's own `spec.volumes`, which then belongs to the store: no container
    /// mounts it, and one running pod has it at a time. A DNS label of at most 63 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub pod_volume: Option<String>,
}

impl Default for Volume {
    fn default() -> Self {
        Self {
            ephemeral: Some(Ephemeral::default()),
            claim: None,
            pod_volume: None,
        }
    }
}

/// An empty directory on the node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ephemeral {
    /// Most that it may hold: by default 1Gi, at least 16Mi. The store keeps to 85 % of it, since a pod over
    /// this limit is evicted.
    #[serde(default = "one_gibibyte")]
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity('16Mi')) >= 0").message("sizeLimit is at least 16Mi: write for example 1Gi"))]
    pub size_limit: Quantity,
}

impl Default for Ephemeral {
    fn default() -> Self {
        Self {
            size_limit: one_gibibyte(),
        }
    }
}

fn one_gibibyte() -> Quantity {
    Quantity::known("1Gi")
}

/// A PersistentVolumeClaim per pod.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0").message("claim.size can grow but not shrink: write the old size or a larger one"))]
pub struct Claim {
    /// Size of each claim, at least 16Mi. The store keeps to 85 % of it. It can grow, where the storage class
    /// allows that, but not shrink.
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity('16Mi')) >= 0").message("claim.size is at least 16Mi: write for example 1Gi"))]
    pub size: Quantity,

    /// Storage class of claims made from now on. Absent: the cluster's default class. Empty: no class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,

    /// What happens to the claims when the CodexStore is deleted: `Retain` (the default) or `Delete`. Neither
    /// deleting a pod nor scaling down deletes a claim.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
}

/// See [`Claim::reclaim_policy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// Claims stay.
    #[default]
    Retain,
    /// Claims go with the CodexStore.
    Delete,
}

/// What some users or groups may do with some keys. Rules only give: what no rule gives is denied.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.uids) && self.uids.size() > 0) || (has(self.gids) && self.gids.size() > 0)").message("a rule holds for nobody: give it uids, gids or both"))]
#[x_kube(validation = Rule::new("!(has(self.uids) && 65534 in self.uids) && !(has(self.gids) && 65534 in self.gids)").message("65534 is as whom the kernel shows every user and group that it cannot name: run the container as another one, and give the rule that"))]
pub struct AccessRule {
    /// Users that it holds for: the `runAsUser` of containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 0, max = 4_294_967_295_i64)))]
    pub uids: Vec<i64>,

    /// Primary groups that it holds for: the `runAsGroup` of containers. Supplementary groups do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 0, max = 4_294_967_295_i64)))]
    pub gids: Vec<i64>,

    /// Beginnings of the keys that it holds for, of at most 128 characters each. Absent: every key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 128)))]
    pub prefixes: Option<Vec<String>>,

    /// What it allows: `Read` (keys, values, history, changes), `Write` (set, delete, expire), or both. A write with a
    /// condition needs both.
    #[schemars(length(min = 1, max = 2))]
    pub verbs: Vec<AccessVerb>,
}

/// What a rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessVerb {
    /// To see keys, values, their history and their changes.
    Read,
    /// To set, delete and expire.
    Write,
}

/// CPU and memory of the sidecar.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("quantity(string(self.requests.memory)).compareTo(quantity(string(self.limits.memory))) <= 0").message("requests.memory (64Mi by default) is above limits.memory: lower the request or raise the limit"))]
#[x_kube(validation = Rule::new("!has(self.limits.cpu) || quantity(string(self.requests.cpu)).compareTo(quantity(string(self.limits.cpu))) <= 0").message("requests.cpu (10m by default) is above limits.cpu: lower the request or raise the limit"))]
pub struct Resources {
    /// What the scheduler keeps free for the sidecar.
    #[serde(default)]
    pub requests: Requests,

    /// What the sidecar may use at most.
    #[serde(default)]
    pub limits: Limits,
}

/// What the scheduler keeps free for the sidecar.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// CPU; by default 10m.
    #[serde(default = "default_cpu")]
    pub cpu: Quantity,
    /// Memory; by default 64Mi.
    #[serde(default = "default_memory_request")]
    pub memory: Quantity,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            cpu: default_cpu(),
            memory: default_memory_request(),
        }
    }
}

fn default_cpu() -> Quantity {
    Quantity::known("10m")
}

fn default_memory_request() -> Quantity {
    Quantity::known("64Mi")
}

/// What the sidecar may use at most.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// CPU; by default no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Memory; by default 256Mi, at least 64Mi. The store keeps to 70 % of it, and leaves 24Mi at least.
    #[serde(default = "default_memory_limit")]
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity('64Mi')) >= 0").message("limits.memory is at least 64Mi: write for example 256Mi"))]
    pub memory: Quantity,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: None,
            memory: default_memory_limit(),
        }
    }
}

fn default_memory_limit() -> Quantity {
    Quantity::known("256Mi")
}
