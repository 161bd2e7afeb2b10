//! The values of labels: how requests came, what they asked for, how they ended, and why they were turned away.

use http::StatusCode;

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP on the socket.
    Http,
    /// gRPC on the socket.
    Grpc,
    /// On the admin listener.
    Admin,
    /// The Redis protocol, on its socket.
    Redis,
}

impl Protocol {
    /// The label.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
            Protocol::Admin => "admin",
            Protocol::Redis => "redis",
        }
    }
}

/// Labels of [`Outcome`].
pub(super) const OUTCOMES: [&str; 4] = ["ok", "not_found", "refused", "failed"];

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// As asked.
    Ok,
    /// There is no such key.
    NotFound,
    /// The request is wrong, or may not be.
    Refused,
    /// The store or the sidecar could not.
    Failed,
}

/// How a request with this status ended.
pub(super) fn outcome(status: StatusCode) -> Outcome {
    match status.as_u16() {
        0..400 => Outcome::Ok,
        404 => Outcome::NotFound,
        400..500 => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

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

/// Why a connection or request was turned away before it was looked at.
#[derive(Debug, Clone, Copy)]
pub enum Turned {
    /// No place for one more connection.
    Connections,
    /// An idle connection gave way to a new one.
    Evicted,
    /// The header did not come in time.
    SlowHeader,
    /// The client did not take its answer.
    SlowReader,
    /// Not the protocol.
    Malformed,
    /// The operating system had no descriptor left.
    Descriptors,
}

impl Turned {
    pub(super) const ALL: [(Turned, &'static str); 6] = [
        (Turned::Connections, "connections"),
        (Turned::Evicted, "evicted"),
        (Turned::SlowHeader, "slow_header"),
        (Turned::SlowReader, "slow_reader"),
        (Turned::Malformed, "malformed"),
        (Turned::Descriptors, "descriptors"),
    ];
}
