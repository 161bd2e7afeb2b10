//! What a member says about itself: the body of `GET /v1/status`, on the socket and on the admin
//! listener.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether the store serves, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
pub enum State {
    /// Being opened.
    #[default]
    Starting,
    /// Reading what is on disk.
    Recovering,
    /// Not open: the volume holds no store, and a backup is to be restored first.
    AwaitingRestore,
    /// Open for reads and writes.
    Ready,
    /// Open for reads; writes are refused after a failed write until the store is opened again.
    Poisoned,
    /// Not open: keys are missing or wrong.
    KeyError,
    /// Not open: stored bytes do not verify.
    IntegrityError,
    /// Not open: another process has it.
    Locked,
    /// Not open: the disk cannot be used.
    IoError,
    /// Not open: the settings do not fit the stored data, or the format is of another version.
    ConfigError,
    /// Being closed.
    Stopping,
    /// A state of a newer version.
    #[serde(other)]
    Unknown,
}

impl State {
    /// The state's stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Starting => "Starting",
            State::Recovering => "Recovering",
            State::AwaitingRestore => "AwaitingRestore",
            State::Ready => "Ready",
            State::Poisoned => "Poisoned",
            State::KeyError => "KeyError",
            State::IntegrityError => "IntegrityError",
            State::Locked => "Locked",
            State::IoError => "IoError",
            State::ConfigError => "ConfigError",
            State::Stopping => "Stopping",
            State::Unknown => "Unknown",
        }
    }

    /// True if the store is open, with its keys loaded: for reads at least.
    pub const fn is_open(self) -> bool {
        matches!(self, State::Ready | State::Poisoned)
    }

    /// True if applications are served.
    pub const fn is_ready(self) -> bool {
        matches!(self, State::Ready)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a re-encryption is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
pub enum ReencryptionState {
    /// It is under way.
    Running,
    /// Every file is under a fresh data key, and what was under the old ones is gone from the directory.
    Done,
    /// It was given up; the store goes on with what it had. It can be asked for again under the same id.
    Failed,
    /// A state of a newer version.
    #[default]
    #[serde(other)]
    Unknown,
}

impl ReencryptionState {
    /// The state's stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReencryptionState::Running => "Running",
            ReencryptionState::Done => "Done",
            ReencryptionState::Failed => "Failed",
            ReencryptionState::Unknown => "Unknown",
        }
    }
}

/// The last re-encryption that this sidecar was asked for. It is kept in memory only: a sidecar that was started
/// since tells none, and is asked again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Reencryption {
    /// The id that it was asked for with.
    pub id: String,
    /// How far it is.
    pub state: ReencryptionState,
    /// Bytes of files that were sealed anew.
    pub done_bytes: u64,
    /// Of about how many; it grows with what is written meanwhile.
    pub total_bytes: u64,
    /// Why it failed: the error's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why it failed, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a key is needed for: files whose data keys it wraps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NeededKey {
    /// How many: the image and log files.
    pub files: u64,
    /// Their bytes on disk, space allocated ahead included.
    pub bytes: u64,
}

/// A member's state. Unknown fields are ignored and missing ones take defaults, so that operator
/// and sidecar of different versions understand each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Name of the CodexStore; empty outside a cluster.
    pub store: String,
    /// UID of the CodexStore.
    pub store_uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod: callers compare it, since an address may be another pod's by now.
    pub pod_uid: String,
    /// Hash of the spec that this sidecar was injected with.
    pub spec_hash: String,
    /// Version of the sidecar.
    pub version: String,
    /// Whether the store serves, and if not, why.
    pub state: State,
    /// Why it does not serve, or what else is wrong (a keyring that could not be reloaded).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `snapshot`.
    pub strategy: String,
    /// `always` or `interval`.
    pub durability: String,
    /// `zstd`, `gzip`, `snappy` or `none`.
    pub compression: String,
    /// `AES-256-GCM`, `AES-192-GCM`, `AES-128-GCM` or `none`.
    pub cipher: String,
    /// The store's lineage, 16 hexadecimal digits.
    pub lineage: String,
    /// How often the directory has changed its owner.
    pub epoch: u64,
    /// Where the log of a ledger stands on disk, as `STORE:EPOCH:REVISION:FILE:SEQUENCE:CHAIN`: kept elsewhere, it tells later
    /// whether the ledger was cut, rolled back or went another way. No part of it is secret. Absent of a snapshot, and while the
    /// store is not open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
    /// The newest revision.
    pub revision: u64,
    /// Number of keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub bytes: u64,
    /// Bytes that the store's files take on disk.
    pub disk_bytes: u64,
    /// Budget of `disk_bytes`.
    pub max_disk: u64,
    /// Bytes of memory accounted to the index.
    pub memory_bytes: u64,
    /// Budget of `memory_bytes`.
    pub max_memory: u64,
    /// Bytes of journal since the last image.
    pub journal_bytes: u64,
    /// Id of the key that wraps new files now; empty without encryption.
    pub key_id: String,
    /// Ids of all keys that are loaded.
    pub loaded_key_ids: Vec<String>,
    /// Ids of the keys that the store's files need; absent while it is not open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed_key_ids: Option<Vec<String>>,
    /// The same keys by id, each with the files that it wraps; absent while the store is not open, and of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed_keys: Option<BTreeMap<String, NeededKey>>,
    /// Ids of the keys that what restores set aside on the volume needs; absent while that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_aside_key_ids: Option<Vec<String>>,
    /// The last re-encryption that was asked for; absent if none was since the sidecar started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reencryption: Option<Reencryption>,
    /// Data keys that were wrapped since the store was opened: messages under the keys of the keyring. Absent of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_wraps: Option<u64>,
    /// Log files that were begun in the store's life, at most.
    pub log_number: u64,
    /// When this sidecar started, RFC 3339.
    pub started_at: String,
    /// Seconds since then.
    pub uptime_seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_another_version_parses() {
        let status: Status =
            serde_json::from_str(r#"{"state":"Dreaming","revision":7,"novel":[1]}"#).unwrap();
        assert_eq!(status.state, State::Unknown);
        assert_eq!(status.revision, 7);
        assert!(status.loaded_key_ids.is_empty());
        assert_eq!(status.needed_key_ids, None, "not known, and not none");
        assert_eq!(
            status.needed_keys, None,
            "an earlier version counts nothing"
        );
        assert_eq!(status.reencryption, None);
        assert_eq!(status.anchor, None);
    }

    #[test]
    fn what_a_key_wraps_stands_under_its_id() {
        let json = r#"{"neededKeys":{"old":{"files":2,"bytes":9,"novel":1},"new":{"files":1}}}"#;
        let status: Status = serde_json::from_str(json).unwrap();
        let keys = status.needed_keys.as_ref().unwrap();
        assert_eq!((keys["old"].files, keys["old"].bytes), (2, 9));
        assert_eq!((keys["new"].files, keys["new"].bytes), (1, 0));
        let back = serde_json::to_value(&status).unwrap();
        assert_eq!(back["neededKeys"]["old"]["files"], 2);
    }

    #[test]
    fn a_reencryption_goes_both_ways_and_one_of_another_version_parses() {
        let json = r#"{"id":"r-1","state":"Running","doneBytes":3,"totalBytes":9}"#;
        let told: Reencryption = serde_json::from_str(json).unwrap();
        assert_eq!(told.state, ReencryptionState::Running);
        assert_eq!((told.done_bytes, told.total_bytes), (3, 9));
        assert_eq!(serde_json::to_string(&told).unwrap(), json);
        let told: Reencryption = serde_json::from_str(r#"{"state":"Pausing","novel":1}"#).unwrap();
        assert_eq!(told.state, ReencryptionState::Unknown);
    }

    #[test]
    fn names_are_camel_case_and_states_go_both_ways() {
        let status = Status {
            state: State::KeyError,
            ..Status::default()
        };
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["state"], "KeyError");
        assert!(json.get("podUid").is_some() && json.get("loadedKeyIds").is_some());
        assert!(json.get("message").is_none());
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
    }
}
