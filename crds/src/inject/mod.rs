//! What happens to a pod at admission: skipped, given its sidecar, or refused.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;

use crate::{CodexStore, names};

/// What the operator knows that the store does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectConfig {
    /// Image of the sidecar.
    pub sidecar_image: String,
    /// Pull policy of that image; absent: the cluster's default for its tag.
    pub image_pull_policy: Option<String>,
    /// Version of the operator, noted on the pod.
    pub operator_version: String,
}

/// What is to happen to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The pod does not ask for a store.
    Skip {
        /// Why, in a sentence.
        reason: String,
    },
    /// The pod gets a sidecar (or has it already): [`inject`] succeeds.
    Inject,
    /// The pod asks for a store and cannot have it.
    Refuse(Refusal),
}

/// Why a pod is refused, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs: metrics, events, tests.
    pub reason: Reason,
    /// For people: what is wrong and what to write instead.
    pub message: String,
}

/// Why a pod is refused, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The label names no store of this namespace.
    StoreNotFound,
    /// The store is being deleted.
    StoreDeleting,
    /// The store has no keyring yet.
    KeyringPending,
    /// The pod cannot have a sidecar at all.
    PodUnsupported,
    /// `claim` needs a lasting pod name.
    NameRequired,
    /// A name made from the pod's would be too long.
    NameTooLong,
    /// The annotation names a container that the pod lacks.
    UnknownContainer,
    /// Something of the user's is called like something of ours.
    NameClash,
    /// Something else is mounted where the socket belongs.
    PathClash,
    /// A container of the user's would see the store's data, keys or certificates.
    PrivateVolume,
    /// `podVolume` names a volume that the pod lacks, or that cannot hold a store.
    BadPodVolume,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The store that a pod asks for by its label.
pub fn store_label(pod: &Pod) -> Option<&str> {
    pod.metadata
        .labels
        .as_ref()?
        .get(names::STORE_LABEL)
        .map(String::as_str)
}

/// Decides on a pod that is to be created in `namespace`; `store` is the one that [`store_label`] names, if it exists.
pub fn decide(_pod: &Pod, _namespace: &str, _store: Option<&CodexStore>) -> Decision {
    Decision::Skip {
        reason: String::new(),
    }
}

/// The pod with its sidecar. `seed` (the request's UID) spreads admin ports of pods on the host's network.
pub fn inject(
    pod: &Pod,
    _store: &CodexStore,
    _cfg: &InjectConfig,
    _seed: &str,
) -> Result<Pod, Refusal> {
    Ok(pod.clone())
}

/// The JSON patch from one pod to the other.
pub fn patch(before: &Pod, after: &Pod) -> Result<json_patch::Patch, serde_json::Error> {
    Ok(json_patch::diff(
        &serde_json::to_value(before)?,
        &serde_json::to_value(after)?,
    ))
}

/// Whether the pod has a sidecar of ours.
pub fn is_injected(_pod: &Pod) -> bool {
    false
}

/// Port of the sidecar's admin listener in this pod.
pub fn admin_port(_pod: &Pod) -> Option<u16> {
    None
}

/// Checks an update of a pod's ephemeral containers: new ones may not mount what is the sidecar's alone.
pub fn check_ephemeral(_old: &Pod, _new: &Pod) -> Result<(), Refusal> {
    Ok(())
}
