//! Arguments of the offline commands, and what they have in common.

use std::{
    ffi::OsString,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::Args;
use codexstore::{Anchor, Encryption, Keyring, Passphrase, Strategy};

use crate::failure::Coded;

/// Which store.
#[derive(Debug, Args)]
pub struct Data {
    /// Directory of the store's files
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

impl Data {
    /// The directory, if there is one: nothing here makes it.
    pub fn there(&self) -> Result<&Path> {
        there(&self.dir)
    }
}

/// With which keys. Exactly one of them: a store without encryption is asked for in so many words.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Keys {
    /// Directory of the keyring: the file `current`, and one file for each key
    #[arg(long, value_name = "DIR")]
    pub keyring: Option<PathBuf>,
    /// File with the passphrase that the store's keys are derived from
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The store is not encrypted
    #[arg(long)]
    pub unencrypted: bool,
}

impl Keys {
    /// Reads the keys.
    pub fn encryption(&self) -> Result<Encryption> {
        Ok(match (&self.keyring, &self.passphrase_file) {
            (Some(dir), _) => Encryption::Keyring(Keyring::load(dir)?),
            (None, Some(file)) => Encryption::Passphrase(Passphrase::load(file)?),
            (None, None) => Encryption::None,
        })
    }
}

/// A store that nobody has open, or one that runs.
#[derive(Debug, Args)]
pub struct DataOrSocket {
    /// Directory of the store's files, or the socket of a store that runs
    #[arg(value_name = "DIR|SOCKET")]
    pub dir: PathBuf,
}

impl DataOrSocket {
    /// Whether it is the socket of one that runs.
    pub fn is_live(&self) -> bool {
        std::fs::metadata(&self.dir).is_ok_and(|found| found.file_type().is_socket())
    }

    /// The directory, if there is one.
    pub fn there(&self) -> Result<&Path> {
        there(&self.dir)
    }
}

fn there(dir: &Path) -> Result<&Path> {
    if dir.is_dir() {
        return Ok(dir);
    }
    let what = if dir.exists() {
        "is not a directory"
    } else {
        "is not there"
    };
    Err(Coded::not_found(format!("{} {what}", dir.display())).into())
}

/// `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Which store
    #[command(flatten)]
    pub data: Data,
}

/// With which keys, or none of them.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct KeysIfAny {
    /// Directory of the keyring: the file `current`, and one file for each key
    #[arg(long, value_name = "DIR")]
    pub keyring: Option<PathBuf>,
    /// File with the passphrase that the store's keys are derived from
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The store is not encrypted
    #[arg(long)]
    pub unencrypted: bool,
}

impl KeysIfAny {
    /// Reads the keys, which have to be named.
    pub fn needed(&self) -> Result<Encryption> {
        self.encryption()?.ok_or_else(|| {
            let what =
                "with which keys? Add --keyring DIR, --passphrase-file FILE or --unencrypted";
            Coded::invalid(what).into()
        })
    }

    /// Whether any are named, or none are asked for in so many words.
    pub fn are_given(&self) -> bool {
        self.keyring.is_some() || self.passphrase_file.is_some() || self.unencrypted
    }

    /// An error if keys are named: a store that runs has its own.
    pub fn none_for_live(&self) -> Result<()> {
        if !self.are_given() {
            return Ok(());
        }
        let what = "a store that runs has its keys: name none for a socket";
        Err(Coded::invalid(what).into())
    }

    /// Reads the keys, if any are named.
    pub fn encryption(&self) -> Result<Option<Encryption>> {
        if !self.are_given() {
            return Ok(None);
        }
        let keys = Keys {
            keyring: self.keyring.clone(),
            passphrase_file: self.passphrase_file.clone(),
            unencrypted: self.unencrypted,
        };
        keys.encryption().map(Some)
    }
}

/// `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Which store
    #[command(flatten)]
    pub data: Data,
    /// With which keys
    #[command(flatten)]
    pub keys: KeysIfAny,
    /// Of a ledger: an anchor that was kept elsewhere, as `status`, `inspect` and `verify` show it; the
    /// ledger must still pass through it
    #[arg(long, value_name = "TEXT")]
    pub anchor: Option<Anchor>,
}

/// `salvage`.
#[derive(Debug, Args)]
pub struct Salvage {
    /// Which store
    #[command(flatten)]
    pub data: Data,
    /// With which keys; the new store has the same
    #[command(flatten)]
    pub keys: Keys,
    /// Directory of the new store, which must not be there, or be empty
    #[arg(long, value_name = "NEW")]
    pub into: PathBuf,
    /// Take nothing from behind a gap: the newest whole image, and the log up to the first damage
    #[arg(long)]
    pub strict: bool,
}

/// `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Which store
    #[command(flatten)]
    pub data: DataOrSocket,
    /// With which keys, for a directory
    #[command(flatten)]
    pub keys: KeysIfAny,
    /// Only keys that begin with this
    #[arg(long)]
    pub prefix: Option<OsString>,
    /// File to write, for its owner alone; without it, stdout
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
}

/// What to do with a key that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Conflict {
    /// End with an error
    Fail,
    /// Leave what is there
    Skip,
    /// Put what comes in its place
    Replace,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceFormat {
    /// One JSON object per line, as `export` writes them
    Jsonl,
    /// One JSON object whose members become keys
    Json,
    /// A snapshot of Redis
    Rdb,
}

/// What to do with a value of Redis that is not a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Collections {
    /// End with an error
    Fail,
    /// Make JSON of it
    Json,
    /// Leave it out
    Skip,
}

/// A table of a SQLite database.
#[derive(Debug, Args)]
#[allow(clippy::struct_field_names)] // they are named after their options
pub struct Sqlite {
    /// Import from a table of this SQLite database
    #[arg(long, value_name = "FILE", requires_all = ["table", "key_column", "value_column"], conflicts_with = "file")]
    pub sqlite: Option<PathBuf>,
    /// The table
    #[arg(long, value_name = "TABLE", requires = "sqlite")]
    pub table: Option<String>,
    /// The column with the keys
    #[arg(long, value_name = "COLUMN", requires = "sqlite")]
    pub key_column: Option<String>,
    /// The column with the values
    #[arg(long, value_name = "COLUMN", requires = "sqlite")]
    pub value_column: Option<String>,
    /// A column with times of expiry: Unix time in seconds, or NULL
    #[arg(long, value_name = "COLUMN", requires = "sqlite")]
    pub expires_column: Option<String>,
}

/// `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Which store; a directory is made if it is not there
    #[command(flatten)]
    pub data: DataOrSocket,
    /// File to import, or `-` for stdin
    #[arg(default_value = "-")]
    pub file: PathBuf,
    /// With which keys, for a directory
    #[command(flatten)]
    pub keys: KeysIfAny,
    /// What the file holds
    #[arg(long, value_enum, default_value = "jsonl", conflicts_with = "sqlite")]
    pub format: SourceFormat,
    /// What to do with a key that is there already
    #[arg(long, value_enum, default_value = "fail", value_name = "WHAT")]
    pub on_conflict: Conflict,
    /// Import only keys that begin with this
    #[arg(long)]
    pub prefix: Option<OsString>,
    /// Put this before every key
    #[arg(long, value_name = "PREFIX")]
    pub add_prefix: Option<OsString>,
    /// A table of SQLite
    #[command(flatten)]
    pub sqlite: Sqlite,
    /// Redis: which database of the snapshot
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub redis_db: u32,
    /// Redis: what to do with hashes, lists, sets and sorted sets
    #[arg(long, value_enum, default_value = "fail", value_name = "WHAT")]
    pub collections: Collections,
}

/// A strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StrategyName {
    /// The present only
    Snapshot,
    /// Every revision
    Ledger,
}

impl From<StrategyName> for Strategy {
    fn from(name: StrategyName) -> Strategy {
        match name {
            StrategyName::Snapshot => Strategy::Snapshot,
            StrategyName::Ledger => Strategy::Ledger,
        }
    }
}

/// `convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Which store
    #[command(flatten)]
    pub data: Data,
    /// With which keys
    #[command(flatten)]
    pub keys: Keys,
    /// What it becomes
    #[arg(long, value_enum)]
    pub strategy: StrategyName,
}
