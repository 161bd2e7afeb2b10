//! The CodexStore custom resource as Rust types, and the pure functions that give it meaning.
//!
//! Nothing here talks to a cluster, a disk or a clock: the operator's webhook, `codexctl explain` and
//! `codexctl dev` call the same functions, so what one says the others do. Same input, same output:
//! [`inject()`] applied to what it made changes nothing.
//!
//! ```
//! use codexstore_crds::{CodexStore, CodexStoreSpec, Decision, decide};
//! use k8s_openapi::api::core::v1::Pod;
//!
//! let store = CodexStore::new("orders", CodexStoreSpec::default());
//! let mut pod = Pod::default();
//! assert!(matches!(decide(&pod, "shop", Some(&store)), Decision::Skip { .. }));
//!
//! let label = ("codexstore.dev/store".to_owned(), "orders".to_owned());
//! pod.metadata.labels = Some([label].into());
//! let Decision::Refuse(refusal) = decide(&pod, "shop", None) else { unreachable!() };
//! assert!(refusal.message.contains("has no CodexStore orders"));
//! ```

pub mod encryption;
pub mod names;
pub mod observe;
pub mod quantity;

pub mod store;

pub mod status;

pub mod backup;

pub mod archive;

pub mod destination;

pub mod codex_backup;

pub mod codex_restore;

pub mod pairs;

pub mod codex_key_rotation;

pub mod rotation;

pub mod overdue;

pub mod retention;

pub mod jobs;

pub mod settings;

pub mod desired;

pub mod inject;

pub mod manifest;

pub use codex_backup::{CodexBackup, CodexBackupSpec, CodexBackupStatus};
pub use codex_key_rotation::{CodexKeyRotation, CodexKeyRotationSpec, CodexKeyRotationStatus};
pub use codex_restore::{CodexRestore, CodexRestoreSpec, CodexRestoreStatus};
pub use inject::{
    Decision, InjectConfig, Reason, Refusal, admin_port, check_ephemeral, check_injected, decide,
    inject, is_injected, served_store, store_label,
};
pub use quantity::Quantity;
pub use settings::{sidecar_env, spec_hash};
pub use status::{CodexStoreStatus, KeyringStatus, MemberStatus};
pub use store::{CodexStore, CodexStoreSpec};
