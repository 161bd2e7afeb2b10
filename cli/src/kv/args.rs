//! Arguments of the commands that look at changes and at the past.

use std::ffi::OsString;

use clap::Args;

use crate::args::Socket;

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
