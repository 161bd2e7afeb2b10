//! Arguments of the commands that look at changes and at the past.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use crate::args::{Socket, positive_duration};

/// `get`.
#[derive(Debug, Args)]
pub struct Get {
    /// Which store
    #[command(flatten)]
    pub socket: Socket,
    /// The key: 1 to 1,024 bytes
    pub key: OsString,
    /// As it was right after this revision; only a store with the strategy Ledger knows
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
}

/// `cas`.
#[derive(Debug, Args)]
pub struct Cas {
    /// Which store
    #[command(flatten)]
    pub socket: Socket,
    /// Who writes
    #[command(flatten)]
    pub actor: Actor,
    /// The key
    pub key: OsString,
    /// The value that it must have now
    #[arg(allow_hyphen_values = true)]
    pub expected: OsString,
    /// The value that it gets
    #[arg(allow_hyphen_values = true)]
    pub value: OsString,
    /// The key expires after this time: 30s, 1h30m, 7d
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub ttl: Option<Duration>,
}

/// `ttl`.
#[derive(Debug, Args)]
pub struct Ttl {
    /// Which store
    #[command(flatten)]
    pub socket: Socket,
    /// Who writes
    #[command(flatten)]
    pub actor: Actor,
    /// The key
    pub key: OsString,
    /// The key expires after this time from now: 30s, 1h30m, 7d
    #[arg(value_parser = positive_duration)]
    pub time: Option<Duration>,
    /// The key does not expire any more
    #[arg(long, conflicts_with = "time")]
    pub persist: bool,
}

/// `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Which store
    #[command(flatten)]
    pub socket: Socket,
    /// Time between two looks
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = positive_duration)]
    pub interval: Duration,
    /// End after this many
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// Who writes.
#[derive(Debug, Args)]
pub struct Actor {
    /// Who does it: a label of at most 256 bytes that `history` and `watch` show
    #[arg(long, env = "CODEXSTORE_ACTOR", value_name = "LABEL")]
    pub actor: Option<String>,
}

/// `history`.
#[derive(Debug, Args)]
pub struct History {
    /// Which store
    #[command(flatten)]
    pub socket: Socket,
    /// The key
    pub key: OsString,
    /// From this revision on; by default the oldest that is kept
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub from: Option<u64>,
    /// At most this many versions
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Show values too
    #[arg(long)]
    pub values: bool,
}

/// `watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Which store
    #[command(flatten)]
    pub socket: Socket,
    /// Only keys that begin with this
    #[arg(long)]
    pub prefix: Option<OsString>,
    /// From this revision on; by default what comes next
    #[arg(long, value_name = "REVISION", conflicts_with = "after", value_parser = clap::value_parser!(u64).range(1..))]
    pub from: Option<u64>,
    /// Go on behind the change with this `id`, as `-o json` prints it
    #[arg(long, value_name = "ID")]
    pub after: Option<String>,
    /// End after this many changes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Show values too
    #[arg(long)]
    pub values: bool,
}
