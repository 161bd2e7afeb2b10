//! Arguments of the offline commands, and what they have in common.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use codexstore::{Encryption, Keyring, Passphrase};

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
        if self.dir.is_dir() {
            return Ok(&self.dir);
        }
        let what = if self.dir.exists() {
            "is not a directory"
        } else {
            "is not there"
        };
        Err(Coded::not_found(format!("{} {what}", self.dir.display())).into())
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
    #[allow(dead_code)] // verify is next
    pub fn encryption(&self) -> Result<Encryption> {
        Ok(match (&self.keyring, &self.passphrase_file) {
            (Some(dir), _) => Encryption::Keyring(Keyring::load(dir)?),
            (None, Some(file)) => Encryption::Passphrase(Passphrase::load(file)?),
            (None, None) => Encryption::None,
        })
    }
}

/// `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Which store
    #[command(flatten)]
    pub data: Data,
}
