//! What is wrong with a store, in the words that users see.

use codexstore_crds::status::bounded;

/// Something that a user has to do something about, or to wait for. Not a failure of the operator: those are errors, and retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// CamelCase, for programs.
    pub reason: &'static str,
    /// For people: what is wrong, and what to do.
    pub message: String,
}

impl Problem {
    /// A problem.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: bounded(&message.into()),
        }
    }

    /// An object that has a name we need, and is not ours.
    pub fn foreign(kind: &str, name: &str, why: &str) -> Self {
        Self::new(
            FOREIGN_OBJECT,
            format!(
                "{kind} {name} was not made by the CodexStore operator ({why}) and is left alone, but its name is needed: rename \
                 it, or give the CodexStore another name"
            ),
        )
    }
}

/// What the API server says where it will not do something however often it is asked: a right that is missing, a quota, a field that it
/// does not take. Other errors are given back, and retried.
pub fn refusal(error: kube::Error) -> Result<String, kube::Error> {
    match error {
        kube::Error::Api(answer) if is_final(&answer) => Ok(answer.message),
        error => Err(error),
    }
}

/// Whether the API server will say so however often it is asked.
pub fn is_final(answer: &kube::core::Status) -> bool {
    matches!(answer.code, 400 | 403 | 422)
}

/// An object of that name is somebody else's.
pub const FOREIGN_OBJECT: &str = "ForeignObject";
/// The keyring Secret is gone.
pub const SECRET_MISSING: &str = "SecretMissing";
/// The keyring Secret cannot be read as a keyring.
pub const KEY_MALFORMED: &str = "KeyMalformed";
/// The keyring Secret lacks keys that it once had.
pub const KEY_MISSING: &str = "KeyMissing";
/// The keyring is to be sealed to what is no public key.
pub const ESCROW_INVALID: &str = "EscrowInvalid";
/// The keyring cannot be sealed.
pub const ESCROW_FAILED: &str = "EscrowFailed";
/// A claim could not be made or grown.
pub const VOLUME_FAILED: &str = "VolumeFailed";
/// A member does not answer.
pub const MEMBER_UNREACHABLE: &str = "MemberUnreachable";
/// A member answers that it cannot serve.
pub const MEMBER_FAILED: &str = "MemberFailed";
/// What backups need is refused by the API server, such as a schedule that is none.
pub const BACKUP_INVALID: &str = "BackupInvalid";
/// There should be a newer backup by now.
pub const BACKUP_OVERDUE: &str = "BackupOverdue";
/// The continuous archive is further behind than it may be.
pub const ARCHIVE_BEHIND: &str = "ArchiveBehind";
/// A member waits for its backup, which cannot be restored.
pub const RESTORE_FAILED: &str = "RestoreFailed";
/// The schedule of key rotations is none.
pub const ROTATION_INVALID: &str = "RotationInvalid";
/// There should have been a rotation of keys since.
pub const ROTATION_OVERDUE: &str = "RotationOverdue";
/// The current key has encrypted nearly as many messages as it may.
pub const KEY_WORN: &str = "KeyWorn";
/// Backups are kept that keys open which somebody may have seen.
pub const BACKUPS_EXPOSED: &str = "BackupsExposed";
/// A rotation of keys was given up.
pub const ROTATION_FAILED: &str = "RotationFailed";
/// A pod has the label but no sidecar.
pub const INJECTION_MISSING: &str = "InjectionMissing";
