//! The CodexKeyRotation resource: one rotation of a store's keys.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::LocalRef;

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
    doc = "A CodexKeyRotation gives a CodexStore a new key and has its members wrap the data keys of all their files with it: creating one does it now. The key of before stays in the keyring.",
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.storeRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Pending, Adding, Distributing, Rewriting, Completed, Failed"),
    printcolumn(name = "From", type_ = "string", json_path = ".status.from", description = "id of the key of before"),
    printcolumn(name = "To", type_ = "string", json_path = ".status.to", description = "id of the new key"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.ready", description = "running members that are done with the phase, of all"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name of a CodexKeyRotation has at most 63 characters: choose a shorter metadata.name")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a CodexKeyRotation cannot be changed: create another one"))]
pub struct CodexKeyRotationSpec {
    /// The CodexStore in the same namespace that gets a new key.
    pub store_ref: LocalRef,
}

/// What became of a rotation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CodexKeyRotationStatus {
    /// Pending (another one is not done), Adding (the new key is put into the keyring), Distributing (running members load it),
    /// Rewriting (it is the current key, and they wrap their data keys with it), Completed or Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub phase: Option<String>,

    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

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

    /// Completed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Values of [`CodexKeyRotationStatus::phase`].
pub mod phase {
    /// Another one is not done.
    pub const PENDING: &str = "Pending";
    /// The new key is put into the keyring.
    pub const ADDING: &str = "Adding";
    /// Running members load the new key.
    pub const DISTRIBUTING: &str = "Distributing";
    /// The new key is current, and running members wrap their data keys with it.
    pub const REWRITING: &str = "Rewriting";
    /// All running members need the new key only.
    pub const COMPLETED: &str = "Completed";
    /// It was given up.
    pub const FAILED: &str = "Failed";
}

/// Type of the condition that tells how it ended.
pub const COMPLETED: &str = "Completed";

impl CodexKeyRotation {
    /// Whether it has ended, well or not.
    pub fn ended(&self) -> bool {
        let phase = self.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some(phase::COMPLETED | phase::FAILED))
    }
}
