//! Why a pod is refused.

use std::fmt;

/// Why a pod is refused, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs: metrics, events, tests.
    pub reason: Reason,
    /// For people: what is wrong and what to write instead.
    pub message: String,
}

impl Refusal {
    pub(super) fn new<T>(reason: Reason, message: impl Into<String>) -> Result<T, Self> {
        Err(Self {
            reason,
            message: message.into(),
        })
    }
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
    /// A container of the user's has the port on which the store's metrics are to be served.
    PortClash,
    /// Something else is mounted where the socket belongs.
    PathClash,
    /// A container of the user's would see the store's data, keys or certificates.
    PrivateVolume,
    /// A container of the user's would see the sidecar's processes.
    PrivateProcess,
    /// The pod is not as it was injected.
    SidecarChanged,
    /// `podVolume` names a volume that the pod lacks, or that cannot hold a store.
    BadPodVolume,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
