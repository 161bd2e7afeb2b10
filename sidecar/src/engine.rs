//! What stands between the protocols and the state they serve.
//!
//! The protocols know [`Engine`] and nothing of how it keeps things. [`local::Local`] is the store
//! in this pod; an engine that talks to another machine fits the same trait.

pub mod condition;
pub mod follow;
pub mod local;
pub mod owner;
mod reencrypt;
pub mod restore;

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use codexstore::archive::{Archived, Position};
use codexstore::backup::BackupInfo;
use codexstore::{
    Batch, Committed, Entry, Error, KeyId, Page, Program, Rewrapped, Scan, Stats, Version, Watch,
};
use codexstore_api::status::{Reencryption, State};

pub use condition::{Conditions, Tag};

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The store is not open; without an error it is being opened for the first time.
    NotOpen(Option<Error>),
    /// The operation failed.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error)
    }
}

/// Result of an engine's operation.
pub type Result<T> = std::result::Result<T, Failure>;

/// A value as a protocol sends it.
#[derive(Debug, Clone)]
pub struct Value {
    /// The value.
    pub bytes: Bytes,
    /// Lineage and modified revision.
    pub tag: Tag,
    /// The revision that created the key.
    pub created: u64,
    /// How often the key was written since it was created.
    pub version: u64,
    /// Milliseconds since 1970.
    pub expires_at: Option<u64>,
}

/// A write of one key.
#[derive(Debug, Clone)]
pub struct Put {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Bytes,
    /// Time until it expires.
    pub ttl: Option<Duration>,
    /// What must hold.
    pub conditions: Conditions,
    /// Who writes, if they say so.
    pub actor: Option<String>,
}

/// What a write did.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// The new tag.
    pub tag: Tag,
    /// True if the key was not there.
    pub created: bool,
    /// Milliseconds since 1970.
    pub expires_at: Option<u64>,
}

/// Whether the state is served, and its numbers.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// In short.
    pub state: State,
    /// Why it is not served, or what else is wrong.
    pub message: Option<String>,
    /// The error behind it, if there is one.
    pub error: Option<Error>,
    /// Numbers, all zero while nothing is open.
    pub stats: Stats,
    /// The keys that what restores set aside needs, where that is known.
    pub set_aside_keys: Option<BTreeSet<KeyId>>,
    /// The last re-encryption that was asked for.
    pub reencryption: Option<Reencryption>,
}

/// What reads look at: the store, a point in time of it, or a transaction.
pub trait Look {
    /// The entry of a key.
    fn entry(&self, key: &[u8]) -> codexstore::Result<Option<Entry>>;

    /// The store's time: milliseconds since 1970.
    fn now_ms(&self) -> u64;

    /// Number of live keys.
    fn live(&self) -> u64;
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Each read for itself.
    Latest,
    /// All reads at one point in time, which costs a little more.
    OnePoint,
}

/// The operations that every protocol offers.
pub trait Engine: Send + Sync + 'static {
    /// A key's value.
    fn get(&self, key: &[u8]) -> impl Future<Output = Result<Option<Value>>> + Send;

    /// Writes a key. Holds `share` until that is decided, also when nobody waits any more.
    fn put(
        &self,
        put: Put,
        share: impl Send + 'static,
    ) -> impl Future<Output = Result<Written>> + Send;

    /// Removes a key; the revision of that, or `None` if it was not there.
    fn delete(
        &self,
        key: Vec<u8>,
        conditions: Conditions,
        actor: Option<String>,
    ) -> impl Future<Output = Result<Option<u64>>> + Send;

    /// Removes all keys with a prefix: how many, and the revision after it. It goes on when nobody
    /// waits any more, and holds `place` until it ends.
    fn delete_prefix(
        &self,
        prefix: Vec<u8>,
        place: impl Send + 'static,
    ) -> impl Future<Output = Result<(u64, u64)>> + Send;

    /// Commits a batch. Holds `share` as [`Engine::put`] does.
    fn commit(
        &self,
        batch: Batch,
        share: impl Send + 'static,
    ) -> impl Future<Output = Result<Committed>> + Send;

    /// Runs a program in the committer. Holds `share` as [`Engine::put`] does.
    fn run<P: Program>(
        &self,
        program: P,
        share: impl Send + 'static,
    ) -> impl Future<Output = Result<P::Output>> + Send;

    /// Believes the wall clock after a jump that was not believed at the start.
    fn accept_clock(&self) -> impl Future<Output = Result<()>> + Send;

    /// Wraps the data keys of all files with the keyring's current key.
    fn rewrap(&self) -> impl Future<Output = Result<Rewrapped>> + Send;

    /// Begins to seal all files anew under fresh data keys, beside its work, unless that was asked for under this id
    /// and did not fail; how far it is, at once.
    fn reencrypt(&self, id: &str) -> Result<Reencryption>;

    /// One page of scans, one behind the other, at one point in time and at most as much as each
    /// bounds. It may compute for a while and is called off the I/O thread.
    fn scan(&self, scans: &[Scan]) -> Result<Page>;

    /// Looks at what is there, at once and on this thread. What is looked at stays in memory
    /// meanwhile, so it is for a moment.
    fn look<T>(&self, sight: Sight, with: impl FnOnce(&dyn Look) -> T) -> Result<T>;

    /// Runs programs as one group and returns at once. Each `done` is called exactly once, on whatever
    /// thread, and must not block: so a protocol that has many writes of one connection on their way
    /// gathers their answers without a task or a channel for each.
    fn submit_all<P: Program>(
        &self,
        programs: impl Iterator<Item = (P, impl FnOnce(Result<P::Output>) + Send + 'static)>,
    );

    /// The latest revision, and the latest that is on disk.
    fn revisions(&self) -> Result<(u64, u64)>;

    /// Writes a backup of the present, and says what it wrote. It may take long, and blocks.
    fn backup(&self, out: &mut impl std::io::Write) -> Result<BackupInfo>;

    /// Where the store is, for those who archive it.
    fn archive_position(&self) -> Result<Position>;

    /// What was committed behind a revision of that line of history, as a piece of the archive. It reads, and blocks.
    fn archive(&self, lineage: u64, after: u64) -> Result<Archived>;

    /// Which history the revisions are of. Not known before the store is open.
    fn lineage(&self) -> Result<u64>;

    /// Changes from a revision on, or from what comes next, of keys with a prefix.
    fn watch(&self, from: Option<u64>, prefix: Bytes) -> Result<Watch>;

    /// What became of a key, from a revision on. It reads, and is called off the I/O thread.
    fn versions(
        &self,
        key: &[u8],
        from: u64,
    ) -> Result<impl Iterator<Item = codexstore::Result<Version>>>;

    /// A key's value right after a revision. As [`Engine::versions`].
    fn get_at(&self, key: &[u8], revision: u64) -> Result<Option<Value>>;

    /// State and numbers.
    fn health(&self) -> Health;
}
