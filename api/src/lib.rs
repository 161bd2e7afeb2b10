//! The CodexStore wire contract: what a sidecar and its callers agree on.
//!
//! - [`codes`]: every error code, with its HTTP status, gRPC code, Redis prefix and exit code, in
//!   one table.
//! - [`problem`]: the error body (RFC 9457).
//! - [`bodies`]: the JSON bodies of lists, batches, changes and history.
//! - [`archive`]: names of the pieces of an archive, and which of them follow a backup.
//! - [`status`]: what a member says about itself.
//! - `grpc`, with the feature of that name: the gRPC interface, generated from its proto.
//! - [`client`]: a client over the Unix socket, or over any stream.
//!
//! **This crate knows nothing of the store's insides**: it can be used by a program that only
//! talks to a socket.
//!
//! ```no_run
//! # async fn example() -> Result<(), codexstore_api::Error> {
//! use codexstore_api::client::{Client, Put};
//!
//! let client = Client::unix("/run/codexstore/codexstore.sock");
//! client.set(b"greeting", "hello", &Put::default()).await?;
//! if let Some(found) = client.get(b"greeting").await? {
//!     assert_eq!(&found.value[..], b"hello");
//! }
//! # Ok(())
//! # }
//! ```

pub mod archive;
pub mod bodies;
pub mod client;
pub mod codes;
pub mod encoding;
pub mod error;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod problem;
pub mod status;
pub mod time;

pub use client::Client;
pub use codes::{Kind, Retry};
pub use error::Error;
pub use problem::Problem;
pub use status::Status;

/// Result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Longest key, in bytes.
pub const MAX_KEY: usize = 1024;

/// Names of the headers that say more about a value than HTTP's own do.
pub mod header {
    /// Code of an error, as its body has it: the answer to HEAD has no body.
    pub const CODE: &str = "codexstore-code";
    /// Revision of the value, or of the change that was made.
    pub const REVISION: &str = "codexstore-revision";
    /// How often the key was written since it was created.
    pub const VERSION: &str = "codexstore-version";
    /// Who makes a change, in a request: a label of at most 256 bytes for history and watchers.
    pub const ACTOR: &str = "codexstore-actor";
    /// Trailer of a backup's stream: a [`BackupTold`](crate::bodies::BackupTold) as JSON. Without it the stream is no backup.
    pub const BACKUP: &str = "codexstore-backup";
    /// Trailer of a backup's stream that ended early: a [`Problem`](crate::Problem) as JSON.
    pub const PROBLEM: &str = "codexstore-problem";
    /// Of an answer about the archive: a [`PieceTold`](crate::bodies::PieceTold) beside a piece, else an
    /// [`ArchivePosition`](crate::bodies::ArchivePosition), as JSON.
    pub const ARCHIVE: &str = "codexstore-archive";
    /// UID of the pod that answers, as the downward API gave it.
    pub const POD_UID: &str = "codexstore-pod-uid";
    /// When the value expires, RFC 3339 in UTC; absent if it does not.
    pub const EXPIRES_AT: &str = "codexstore-expires-at";
}

/// True if that can be the id of a re-encryption: 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub fn reencryption_id(id: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&id.len()) && id.bytes().all(may)
}

/// What a request may add to a path.
pub mod query {
    /// Of a restore: refused where there is a store already.
    pub const IF_EMPTY: &str = "ifEmpty=true";
    /// Of a re-encryption: the id of the request, as [`reencryption_id`](super::reencryption_id) takes it.
    pub const ID: &str = "id";
    /// Of a restore: pieces of the archive come right behind the backup.
    pub const PIECES: &str = "pieces=true";
    /// Of a restore: the last revision that is taken of the pieces behind the backup.
    pub const UNTIL_REVISION: &str = "untilRevision";
    /// Of a restore: of the pieces behind the backup, what was committed at this time or before: RFC 3339, or milliseconds since
    /// 1970.
    pub const UNTIL_TIME: &str = "untilTime";
    /// Of the archive: the line of history that is archived, 16 hexadecimal digits.
    pub const LINEAGE: &str = "lineage";
    /// Of the archive: the last revision that is archived.
    pub const AFTER: &str = "after";
}

/// Paths under which a sidecar answers.
pub mod path {
    /// List, and delete by prefix; one key is below it, percent-encoded.
    pub const KEYS: &str = "/v1/keys";
    /// Atomic batches.
    pub const BATCH: &str = "/v1/batch";
    /// Changes as they come.
    pub const WATCH: &str = "/v1/watch";
    /// Believe the wall clock after a jump.
    pub const ACCEPT_CLOCK: &str = "/v1/clock/accept";
    /// A backup as a stream, on the admin listener.
    pub const BACKUP: &str = "/v1/backup";
    /// A piece of the continuous archive, on the admin listener.
    pub const ARCHIVE: &str = "/v1/archive";
    /// A backup to restore, on the admin listener, with pieces of the archive right behind it.
    pub const RESTORE: &str = "/v1/restore";
    /// Wrap the data keys of all files with the keyring's current key, on the admin listener.
    pub const REWRAP: &str = "/v1/rewrap";
    /// Seal all files anew under fresh data keys, on the admin listener; `?id=` names the request.
    pub const REENCRYPT: &str = "/v1/reencrypt";
    /// Word that there is nothing to restore, on the admin listener.
    pub const OPEN_EMPTY: &str = "/v1/restore/none";
    /// The member's state, as JSON.
    pub const STATUS: &str = "/v1/status";
    /// 200 while the process serves.
    pub const HEALTH: &str = "/healthz";
    /// 200 while the store is open.
    pub const READY: &str = "/readyz";
    /// Metrics in Prometheus' text form.
    pub const METRICS: &str = "/metrics";
    /// This interface, described for `OpenAPI` tools.
    pub const OPENAPI: &str = "/openapi.json";
}
