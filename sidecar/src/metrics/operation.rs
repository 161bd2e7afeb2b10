//! What requests ask for, as a label.

/// What a request asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Operation {
    /// A value.
    Get,
    /// A value's header.
    Head,
    /// Write a value.
    Put,
    /// Remove a key.
    Delete,
    /// Remove keys by prefix.
    DeletePrefix,
    /// A page of keys.
    List,
    /// A batch.
    Batch,
    /// What became of a key.
    History,
    /// Changes as they come; counted when they begin.
    Watch,
    /// The status.
    Status,
    /// Liveness or readiness.
    Health,
    /// Anything else.
    Other,
    /// A backup, of the admin listener; counted when it begins.
    Backup,
    /// A restore, of the admin listener.
    Restore,
    /// The data keys wrapped anew.
    Rewrap,
    /// All files under fresh data keys: asked for, or asked about.
    Reencrypt,
    /// A piece of the archive, of the admin listener.
    Archive,
}

impl Operation {
    pub(super) const ALL: [Operation; 17] = [
        Operation::Get,
        Operation::Head,
        Operation::Put,
        Operation::Delete,
        Operation::DeletePrefix,
        Operation::List,
        Operation::Batch,
        Operation::History,
        Operation::Watch,
        Operation::Status,
        Operation::Health,
        Operation::Other,
        Operation::Backup,
        Operation::Restore,
        Operation::Rewrap,
        Operation::Reencrypt,
        Operation::Archive,
    ];

    /// How many of them, the first ones, there are on the socket.
    pub(super) const OF_SOCKET: usize = 12;

    /// Whether the admin listener has it.
    pub(super) const fn is_of_admin(self) -> bool {
        matches!(
            self,
            Operation::Status
                | Operation::Health
                | Operation::Backup
                | Operation::Restore
                | Operation::Rewrap
                | Operation::Reencrypt
                | Operation::Archive
        )
    }

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Head => "head",
            Operation::Put => "put",
            Operation::Delete => "delete",
            Operation::DeletePrefix => "delete_prefix",
            Operation::List => "list",
            Operation::Batch => "batch",
            Operation::History => "history",
            Operation::Watch => "watch",
            Operation::Backup => "backup",
            Operation::Restore => "restore",
            Operation::Rewrap => "rewrap",
            Operation::Reencrypt => "reencrypt",
            Operation::Archive => "archive",
            Operation::Status => "status",
            Operation::Health => "health",
            Operation::Other => "other",
        }
    }
}
