//! The CodexKeyRotation resource: one rotation of a store's keys.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::LocalRef;
use crate::rotation::Mode;

/// Members that a rotation lists one by one.
pub const MAX_ROTATION_MEMBERS: usize = 500;
/// Backups that stay exposed, and are named.
pub const MAX_EXPOSED: usize = 50;

/// One rotation.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "codexstore.dev",
    version = "v1alpha1",
    kind = "CodexKeyRotation",
    plural = "codexkeyrotations",
    singular = "codexkeyrotation",
    shortname = "cxk",
    category = "codexstore",
    namespaced,
    status = "CodexKeyRotationStatus",
    derive = "PartialEq",
    doc = "A CodexKeyRotation gives a CodexStore a new key and has its members wrap the data keys of all their files with it, or encrypt everything anew: creating one does it now. The key of before stays in the keyring.",
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.storeRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Pending, Adding, Distributing, Promoting, Rewriting, Verifying, Completed, Failed"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".status.mode", description = "Rewrap or Reencrypt"),
    printcolumn(name = "From", type_ = "string", json_path = ".status.from", description = "id of the key of before"),
    printcolumn(name = "To", type_ = "string", json_path = ".status.to", description = "id of the new key"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.ready", description = "running members that are done with the phase, of all"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason", priority = "1"),
    printcolumn(name = "Exposed", type_ = "integer", json_path = ".status.exposedBackups.count", description = "backups that a key of before opens", priority = "1"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name of a CodexKeyRotation has at most 63 characters: choose a shorter metadata.name")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a CodexKeyRotation cannot be changed: create another one"))]
#[x_kube(validation = Rule::new("!(has(self.mode) && self.mode == 'Rewrap' && has(self.reason) && self.reason == 'Compromise')").message("a rewrap does not undo that somebody has seen a key: with `reason: Compromise`, drop `mode` or write `mode: Reencrypt`"))]
pub struct CodexKeyRotationSpec {
    /// The CodexStore in the same namespace that gets a new key.
    pub store_ref: LocalRef,

    /// What members do with the new key. `Rewrap`: they wrap the data keys of their files with it, which takes a moment. `Reencrypt`:
    /// they also write all that they hold anew, under fresh data keys. By default what the store's `managed.rotation.mode` says, and
    /// `Reencrypt` with `reason: Compromise`. Where the keys are in a Secret of yours (`secretRef`) it must be `Reencrypt`, and the key that
    /// is current there is the new one; with a passphrase there is no rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Mode")]
    pub mode: Option<Mode>,

    /// Why it is done. `Manual` (the default), `Scheduled` (by the store's schedule), `KeyBudget` (the key has encrypted nearly as much
    /// as one may), or `Compromise`: somebody may have seen a key. That one re-encrypts, does not wait longer than `rotation.deadline` for
    /// members before the new key is used, nor for a rotation that was created before it, which is given up; and it lists the backups
    /// that stay exposed. With `secretRef` it waits until you have put a new key into your Secret, and made it current, after it was created.
    #[serde(default)]
    pub reason: RotationReason,
}

/// See [`CodexKeyRotationSpec::reason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RotationReason {
    /// Somebody asked for it.
    #[default]
    Manual,
    /// It was time.
    Scheduled,
    /// The key has encrypted nearly as many messages as it may.
    KeyBudget,
    /// Somebody may have seen a key.
    Compromise,
}

/// What became of a rotation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CodexKeyRotationStatus {
    /// Pending (another one is not done), Adding (the new key is put into the keyring, or you are waited for to do that), Distributing (running members load it),
    /// Promoting (it is made the current key), Rewriting (members wrap their data keys with it, or encrypt everything anew), Verifying
    /// (members are listed and asked afresh), Completed or Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub phase: Option<String>,

    /// What members do with the new key, as it was decided when the rotation began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Mode")]
    pub mode: Option<Mode>,

    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// When the new key was first seen to be the current one, since the rotation began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promoted_at: Option<Time>,

    /// When a member last got further than it ever was: once the new key is current, the deadline counts from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_at: Option<Time>,

    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,

    /// Id of the key that was current before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub from: Option<String>,

    /// Id of the new key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub to: Option<String>,

    /// Running members that are done with the phase, of all that run, as `n/m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ready: Option<String>,

    /// What is waited for, or what went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,

    /// The members, sorted by pod; at most 500, those that are done left out first. Of a re-encryption that has ended, those that are not
    /// `Done` are re-encrypted when they can be reached again, for as long as this object is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub members: Vec<RotationMember>,

    /// With `reason: Compromise`, what keys of before open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_backups: Option<ExposedBackups>,

    /// Completed, Reencrypted where that was asked for, and `KeyringReady` where the keyring was not good meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How far a member is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationMember {
    /// Name of its pod.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// UID of its pod, where its data ends with that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub pod_uid: Option<String>,
    /// Loading (it has not said yet that it has the new key), Loaded, Rewriting, Done, Unreachable (it runs, and does not answer), Away (it
    /// does not run) or Failed.
    #[schemars(length(max = 32))]
    pub state: String,
    /// How far it is, or what is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
    /// How far it ever was since the new key is current, in percent, in steps of 10; 100 once it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
}

/// Backups that stay exposed, and the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExposedBackups {
    /// Ids of the keys that may have been seen: those of the keyring when the new key became current, and with `secretRef` when the rotation
    /// began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 64)))]
    pub key_ids: Vec<String>,
    /// How many there are.
    pub count: i32,
    /// Names of `CodexBackups`, the newest first; at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(max = 253)))]
    pub names: Vec<String>,
    /// Whether the continuous archive has pieces that such a key opens, or may have.
    #[serde(default)]
    pub archive: bool,
}

/// Values of [`RotationMember::state`].
pub mod member {
    /// It runs, and has not said that it has loaded the new key.
    pub const LOADING: &str = "Loading";
    /// It has loaded the new key.
    pub const LOADED: &str = "Loaded";
    /// It wraps its data keys with the new key, or encrypts everything anew.
    pub const REWRITING: &str = "Rewriting";
    /// Nothing that it holds needs another key, nor was any of it written under a data key of before where that was asked for.
    pub const DONE: &str = "Done";
    /// It runs, and does not answer.
    pub const UNREACHABLE: &str = "Unreachable";
    /// It does not run.
    pub const AWAY: &str = "Away";
    /// It says that it could not.
    pub const FAILED: &str = "Failed";
}

/// Values of [`CodexKeyRotationStatus::phase`].
pub mod phase {
    /// Another one is not done.
    pub const PENDING: &str = "Pending";
    /// The new key is put into the keyring.
    pub const ADDING: &str = "Adding";
    /// Running members load the new key.
    pub const DISTRIBUTING: &str = "Distributing";
    /// The new key is made current.
    pub const PROMOTING: &str = "Promoting";
    /// The new key is current, and running members wrap their data keys with it, or encrypt everything anew.
    pub const REWRITING: &str = "Rewriting";
    /// All said that they are done: they are listed and asked afresh.
    pub const VERIFYING: &str = "Verifying";
    /// All running members need the new key only.
    pub const COMPLETED: &str = "Completed";
    /// It was given up.
    pub const FAILED: &str = "Failed";
}

/// Reasons of the condition [`COMPLETED`]: `True` with the first one, and `False` with any of the others.
pub mod reason {
    /// All running members need the new key only.
    pub const COMPLETED: &str = "Completed";
    /// Nobody got further for as long as `rotation.deadline` says, or the keyring could not be changed.
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    /// Somebody else made another key the current one.
    pub const CURRENT_KEY_CHANGED: &str = "CurrentKeyChanged";
    /// The keyring has as many keys as members take.
    pub const KEYRING_FULL: &str = "KeyringFull";
    /// The API server refuses to change the keyring: the Secret is immutable, say.
    pub const KEYRING_REFUSED: &str = "KeyringRefused";
    /// It was given up for one with `reason: Compromise`.
    pub const SUPERSEDED: &str = "Superseded";
    /// A key that may have been seen is current again in a Secret of the user's.
    pub const EXPOSED_KEY_CURRENT: &str = "ExposedKeyCurrent";
    /// The keys are in a Secret of the user's, where a rewrap needs no CodexKeyRotation.
    pub const KEYS_OF_YOUR_OWN: &str = "KeysOfYourOwn";
    /// The keys are derived from a passphrase.
    pub const KEYS_FROM_PASSPHRASE: &str = "KeysFromPassphrase";
    /// The store has no keys.
    pub const NOT_ENCRYPTED: &str = "NotEncrypted";
    /// All of them.
    pub const ALL: [&str; 10] = [
        COMPLETED,
        DEADLINE_EXCEEDED,
        CURRENT_KEY_CHANGED,
        KEYRING_FULL,
        KEYRING_REFUSED,
        SUPERSEDED,
        EXPOSED_KEY_CURRENT,
        KEYS_OF_YOUR_OWN,
        KEYS_FROM_PASSPHRASE,
        NOT_ENCRYPTED,
    ];
}

/// Type of the condition that tells how it ended.
pub const COMPLETED: &str = "Completed";
/// Type of the condition that tells whether all that members hold was encrypted anew.
pub const REENCRYPTED: &str = "Reencrypted";
/// Type of the condition that tells whether the keyring is good, of a rotation that began and found that it was not. Once it is good
/// again, the deadline counts from there.
pub const KEYRING_READY: &str = "KeyringReady";

impl CodexKeyRotationSpec {
    /// What members are to do, where the store says `mode`.
    pub fn mode(&self, mode: Mode) -> Mode {
        match self.reason {
            RotationReason::Compromise => Mode::Reencrypt,
            _ => self.mode.unwrap_or(mode),
        }
    }
}

impl CodexKeyRotationStatus {
    /// What is known of the keyring, where it was not good meanwhile.
    pub fn keyring(&self) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.type_ == KEYRING_READY)
    }

    /// What its deadline counts from, in seconds since 1970: for the new key to be loaded, since it began; for what takes as long as there
    /// is data, since a member last got further; and not for as long as the keyring was not good. None before it began.
    pub fn waits_since(&self) -> Option<i64> {
        let times = match &self.promoted_at {
            None => [self.started_at.as_ref(), None],
            Some(promoted) => [Some(promoted), self.progress_at.as_ref()],
        };
        let changed = self.keyring().map(|c| &c.last_transition_time);
        let all = times.into_iter().flatten().chain(changed);
        all.map(|time| time.0.as_second()).max()
    }
}

impl CodexKeyRotation {
    /// Whether it has ended, well or not.
    pub fn ended(&self) -> bool {
        let phase = self.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some(phase::COMPLETED | phase::FAILED))
    }

    /// Members that are still to be re-encrypted, of a rotation that has ended.
    pub fn left(&self) -> impl Iterator<Item = &RotationMember> {
        let status = self.status.as_ref().filter(|status| {
            self.ended() && status.mode == Some(Mode::Reencrypt) && status.promoted_at.is_some()
        });
        let members = status.map(|status| status.members.as_slice());
        let members = members.unwrap_or_default().iter();
        members.filter(|listed| listed.state != member::DONE)
    }
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn each_reason_is_one_word_and_in_the_manual() {
        let manual = include_str!("../../docs/KEYS.md");
        for reason in reason::ALL {
            let words = reason.chars().all(|c| c.is_ascii_alphanumeric());
            assert!(words && reason.starts_with(|c: char| c.is_ascii_uppercase()));
            assert!(manual.contains(&format!("| `{reason}` |")), "{reason}");
        }
    }
}
