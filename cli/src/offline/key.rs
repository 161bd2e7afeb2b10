//! `key`: a keyring that is a directory.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use codexstore::{KeyId, KeySize, Keyring};
use codexstore_api::codes::EXIT_ENCRYPTION;
use serde_json::json;

use super::derive::{self, Derive};
use super::keys::key_size;
use super::unseal::{self, Unseal};
use crate::failure::{Coded, Exit};
use crate::keyring::{self, Findings, Fresh};
use crate::output::{self, Format, Table};

/// `key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the keys of a keyring
    ///
    /// Their ids and sizes, and which one is current. Never a key.
    #[command(
        after_help = "Examples:\n  codexctl key list ./keyring\n  codexctl key list ./keyring -o json"
    )]
    List {
        /// Directory of the keyring
        dir: PathBuf,
    },
    /// Make a key
    ///
    /// The first key of a directory is its current one; others are added beside it. Files are for their owner alone, and none is
    /// overwritten. With `--secret`, what is printed is the manifest of a Secret with all keys of the directory; without a directory,
    /// with a new key that is nowhere else.
    #[command(
        after_help = "Examples:\n  codexctl key new ./keyring\n  codexctl key new --bits 128 --id k2 ./keyring\n  codexctl key new --secret orders-keys | kubectl apply --server-side -f -"
    )]
    New(New),
    /// Make another key current
    ///
    /// In one step: whoever reads the keyring sees the one or the other.
    #[command(
        name = "use",
        after_help = "Examples:\n  codexctl key use 20261129-0d4f ./keyring\n  codexctl key use 20261129-0d4f ./keyring --secret orders-keys | kubectl apply --server-side -f -"
    )]
    Use {
        /// Id of the key
        #[arg(value_parser = key_id)]
        id: KeyId,
        /// Directory of the keyring
        dir: PathBuf,
        /// Print the manifest of a Secret of this name, which holds the keys
        #[arg(long, value_name = "NAME", value_parser = keyring::secret_name)]
        secret: Option<String>,
    },
    /// Make a key, and make it current
    ///
    /// As `new` and then `use`. The keys of before stay, since files need them until their data keys are wrapped anew.
    #[command(
        after_help = "Examples:\n  codexctl key rotate ./keyring\n  codexctl key rotate ./keyring --secret orders-keys | kubectl apply --server-side -f -"
    )]
    Rotate(Rotate),
    /// Make a key from a passphrase
    ///
    /// By PBKDF2-HMAC-SHA256. What is printed is no secret, and makes the same key again with the same passphrase: keep it. Otherwise as `new`. Whoever has a
    /// file that the key wrapped can try passphrases offline, so take one from a generator.
    #[command(
        after_help = "Examples:\n  codexctl key derive ./keyring\n  codexctl key derive ./keyring --passphrase-file words.txt --salt 000102030405060708090a0b0c0d0e0f --iterations 600000"
    )]
    Derive(Derive),
    /// Make a keyring directory from a sealed keyring
    ///
    /// For when the cluster is gone: a store with `escrow.recipients` has its keyring, sealed, beside each of its backups. The directory, with files for their
    /// owner alone, is what `--keyring` takes.
    #[command(
        after_help = "Examples:\n  codexctl key unseal keyring-1a2b3c4d.age --identity me.txt ./keyring\n  age -d -i me.txt keyring-1a2b3c4d.age | codexctl key unseal - ./keyring"
    )]
    Unseal(Unseal),
    /// Say what is wrong with a keyring
    ///
    /// All of it, and never a key. Exits with 6 if a store cannot use it. Files that others can read, and two ids of one key,
    /// are told of and are no failure.
    #[command(
        after_help = "Examples:\n  codexctl key check ./keyring\n  codexctl key check ./keyring -o json"
    )]
    Check {
        /// Directory of the keyring
        dir: PathBuf,
    },
}

/// What a new key is like.
#[derive(Debug, Args)]
pub struct Kind {
    /// Its size in bits: 128, 192 or 256
    #[arg(long, value_name = "BITS", default_value = "256", value_parser = key_size)]
    pub bits: KeySize,
    /// Its id; by default the day and four random digits
    #[arg(long, value_name = "ID", value_parser = key_id)]
    pub id: Option<KeyId>,
    /// Print the manifest of a Secret of this name, which holds the keys
    #[arg(long, value_name = "NAME", value_parser = keyring::secret_name)]
    pub secret: Option<String>,
}

/// `key new`.
#[derive(Debug, Args)]
pub struct New {
    /// What is made
    #[command(flatten)]
    pub kind: Kind,
    /// Directory of the keyring, which is made if it is not there
    #[arg(required_unless_present = "secret")]
    pub dir: Option<PathBuf>,
}

/// `key rotate`.
#[derive(Debug, Args)]
pub struct Rotate {
    /// What is made
    #[command(flatten)]
    pub kind: Kind,
    /// Directory of the keyring
    pub dir: PathBuf,
}

pub(super) fn key_id(text: &str) -> Result<KeyId, String> {
    KeyId::new(text).map_err(|why| why.to_string())
}

/// `key`.
pub fn key(command: &KeyCommand, format: Format) -> Result<()> {
    match command {
        KeyCommand::List { dir } => list(dir, format),
        KeyCommand::New(new) => match &new.dir {
            None => {
                let secret = new.kind.secret.as_deref().unwrap_or_default();
                let fresh = Fresh::random(new.kind.bits, new.kind.id.clone())?;
                output::raw(&keyring::manifest_of(secret, &fresh, format))
            }
            Some(dir) => {
                let first = is_empty(dir)?;
                let fresh = made(dir, &new.kind, first)?;
                tell(dir, &fresh.id, first, &new.kind, format)
            }
        },
        KeyCommand::Rotate(rotate) => {
            if is_empty(&rotate.dir)? {
                let what = format!(
                    "{} holds no keyring: make one with `key new`",
                    rotate.dir.display()
                );
                return Err(Coded::not_found(what).into());
            }
            let fresh = made(&rotate.dir, &rotate.kind, false)?;
            set_current(&rotate.dir, &fresh.id)?;
            tell(&rotate.dir, &fresh.id, true, &rotate.kind, format)
        }
        KeyCommand::Use { id, dir, secret } => {
            keyring::changeable(dir)?;
            use_key(dir, id)?;
            match secret {
                Some(secret) => output::raw(&keyring::manifest(secret, dir, format)?),
                None if format == Format::Json => output::json(&json!({"current": id.as_str()})),
                None => output::line(&format!("{id} is current")),
            }
        }
        KeyCommand::Derive(args) => derive::derive(args, format),
        KeyCommand::Unseal(unseal) => unseal::unseal(unseal, format),
        KeyCommand::Check { dir } => check(dir, format),
    }
}

/// Whether the directory is to have its first key.
pub(super) fn is_empty(dir: &Path) -> Result<bool> {
    match keyring::entries(dir) {
        Ok(entries) => Ok(entries.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("read {}", dir.display())),
    }
}

/// A new key that is in the directory.
fn made(dir: &Path, kind: &Kind, first: bool) -> Result<Fresh> {
    put(dir, first, || Fresh::random(kind.bits, kind.id.clone()))
}

/// Puts a key into the directory, which is made last: nobody is asked for a passphrase in vain.
pub(super) fn put(dir: &Path, first: bool, make: impl FnOnce() -> Result<Fresh>) -> Result<Fresh> {
    keyring::changeable(dir)?;
    if !first {
        // Not beside files that are no keys, nor into a keyring that nobody can use.
        Keyring::load(dir)?;
    }
    let fresh = make()?;
    let done = if first {
        keyring::make(dir, &fresh)
    } else {
        keyring::add(dir, &fresh)
    };
    match done {
        Ok(()) => Ok(fresh),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let what = format!(
                "{} has a key {}: nothing was changed",
                dir.display(),
                fresh.id
            );
            Err(Coded::conflict(what).into())
        }
        Err(error) => Err(error).with_context(|| format!("write to {}", dir.display())),
    }
}

fn set_current(dir: &Path, id: &KeyId) -> Result<()> {
    keyring::set_current(dir, id).with_context(|| format!("write to {}", dir.display()))
}

/// Works also where `current` is what is wrong.
fn use_key(dir: &Path, id: &KeyId) -> Result<()> {
    let path = dir.join(id.as_str());
    let bytes = match keyring::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = format!("{} has no key {id}", dir.display());
            return Err(Coded::not_found(what).into());
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    codexstore::Key::new(&bytes).with_context(|| format!("key {id}"))?;
    set_current(dir, id)
}

fn tell(dir: &Path, id: &KeyId, current: bool, kind: &Kind, format: Format) -> Result<()> {
    match (&kind.secret, format) {
        (Some(secret), _) => output::raw(&keyring::manifest(secret, dir, format)?),
        (None, Format::Json) => output::json(&json!({
            "id": id.as_str(), "bits": kind.bits.bits(), "current": current,
        })),
        (None, Format::Table) if current => output::line(&format!("{id} is made, and current")),
        (None, Format::Table) => output::line(&format!(
            "{id} is made; `codexctl key use {id} {}` makes it current",
            dir.display()
        )),
    }
}

fn list(dir: &Path, format: Format) -> Result<()> {
    let keyring = Keyring::load(dir)?;
    let keys: Vec<_> = keyring
        .ids()
        .filter_map(|id| Some((id, keyring.get(id)?.size().bits())))
        .map(|(id, bits)| (id.as_str(), bits, id == keyring.current()))
        .collect();
    if format == Format::Json {
        let keys: Vec<_> = keys
            .iter()
            .map(|(id, bits, current)| json!({"id": id, "bits": bits, "current": current}))
            .collect();
        return output::json(&json!({"current": keyring.current().as_str(), "keys": keys}));
    }
    let mut table = Table::new(&["ID", "BITS", "CURRENT"]);
    for (id, bits, current) in keys {
        let current = if current { "*" } else { "" };
        table.row(vec![id.to_owned(), bits.to_string(), current.to_owned()]);
    }
    table.print()
}

fn check(dir: &Path, format: Format) -> Result<()> {
    if !dir.is_dir() {
        return Err(Coded::not_found(format!("{} is not a directory", dir.display())).into());
    }
    let Findings { faults, warnings } = keyring::check(dir)?;
    match format {
        Format::Json => output::json(&json!({"faults": faults, "warnings": warnings}))?,
        Format::Table => {
            for (kind, list) in [("fault", &faults), ("warning", &warnings)] {
                for what in list {
                    output::line(&format!("{kind}: {what}"))?;
                }
            }
            if faults.is_empty() {
                let count = Keyring::load(dir)?.ids().count();
                let keys = if count == 1 { "key" } else { "keys" };
                output::line(&format!(
                    "{}: {count} {keys}, and a store can use them",
                    dir.display()
                ))?;
            }
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Exit(EXIT_ENCRYPTION).into())
}
