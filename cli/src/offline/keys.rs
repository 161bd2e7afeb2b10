//! `migrate-encryption` and `passphrase`: a store under other keys, while nobody has it open.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use codexstore::{Compression, Encryption, KeySize, Keyring, Options, Passphrase};
use serde_json::json;
use zeroize::Zeroizing;

use super::args::{Data, Keys};
use super::progress::Bar;
use crate::failure::Coded;
use crate::output::{self, Format};

/// `migrate-encryption`.
#[derive(Debug, Args)]
pub struct MigrateEncryption {
    /// Which store
    #[command(flatten)]
    pub data: Data,
    /// What opens it now
    #[command(flatten)]
    pub keys: Keys,
    /// What opens it afterwards
    #[command(flatten)]
    pub to: NewKeys,
    /// Size of the frames' keys
    #[arg(long, value_name = "BITS", default_value = "256", value_parser = key_size)]
    pub key_size: KeySize,
    /// How the new files are compressed
    #[arg(long, value_name = "METHOD", value_enum, default_value_t)]
    pub compression: Method,
}

/// With which keys from now on. Exactly one of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[allow(clippy::struct_field_names)] // the names of the flags
pub struct NewKeys {
    /// Directory of the new keyring
    #[arg(long, value_name = "DIR")]
    pub to_keyring: Option<PathBuf>,
    /// File with the new passphrase
    #[arg(long, value_name = "FILE")]
    pub to_passphrase_file: Option<PathBuf>,
    /// Leave the store unencrypted: whoever can read the disk can read the data
    #[arg(long)]
    pub to_unencrypted: bool,
}

impl NewKeys {
    fn encryption(&self) -> Result<Encryption> {
        Ok(match (&self.to_keyring, &self.to_passphrase_file) {
            (Some(dir), _) => Encryption::Keyring(Keyring::load(dir)?),
            (None, Some(file)) => Encryption::Passphrase(Passphrase::load(file)?),
            (None, None) => Encryption::None,
        })
    }
}

/// 128, 192 or 256.
pub fn key_size(text: &str) -> Result<KeySize, String> {
    let bits = text.parse().ok().and_then(KeySize::from_bits);
    bits.ok_or_else(|| "128, 192 or 256".to_owned())
}

/// How files are compressed.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Method {
    /// Not at all
    None,
    /// Zstandard
    #[default]
    Zstd,
    /// Deflate, as gzip has it
    Gzip,
    /// Snappy
    Snappy,
}

impl From<Method> for Compression {
    fn from(method: Method) -> Compression {
        match method {
            Method::None => Compression::None,
            Method::Zstd => Compression::Zstd,
            Method::Gzip => Compression::Gzip,
            Method::Snappy => Compression::Snappy,
        }
    }
}

/// `migrate-encryption`.
pub fn migrate_encryption(args: &MigrateEncryption, format: Format) -> Result<()> {
    let dir = args.data.there()?;
    let old = args.keys.encryption()?;
    let mut new = Options::new(args.to.encryption()?);
    new.key_size = args.key_size;
    new.compression = args.compression.into();
    let mut bar: Option<(&str, Bar)> = None;
    let done = codexstore::migrate_encryption(dir, &old, &new, &mut |progress| {
        if bar.as_ref().is_none_or(|(step, _)| *step != progress.step) {
            let make = match progress.step {
                "remove" => Bar::of_entries,
                _ => Bar::of_bytes,
            };
            bar = Some((progress.step, make(progress.step)));
        }
        if let Some((_, bar)) = &bar {
            bar.at(progress.done, progress.total);
        }
    })?;
    drop(bar);
    match format {
        Format::Json => output::json(&json!({
            "keys": done.keys,
            "revision": done.revision,
            "logs": done.logs,
            "resumed": done.resumed,
        })),
        Format::Table => output::line(&format!(
            "{}: {} keys at revision {} and {} log files are under the new keys{}",
            dir.display(),
            done.keys,
            done.revision,
            done.logs,
            if done.resumed {
                "; an earlier run had got as far, and was finished"
            } else {
                ""
            }
        )),
    }
}

/// `passphrase`.
#[derive(Debug, Args)]
pub struct ChangePassphrase {
    /// Which store
    #[command(flatten)]
    pub data: Data,
    /// File with the passphrase; asked for on the terminal otherwise
    #[arg(long, value_name = "FILE", env = "CODEXSTORE_PASSPHRASE_FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Change it, to one asked for on the terminal
    #[arg(long)]
    pub change: bool,
    /// Change it, to the one in this file
    #[arg(long, value_name = "FILE", env = "CODEXSTORE_NEW_PASSPHRASE_FILE")]
    pub new_passphrase_file: Option<PathBuf>,
    /// Iterations of PBKDF2-HMAC-SHA256 for the new one: 100,000 to 10,000,000
    #[arg(long, value_name = "N", default_value_t = Passphrase::ITERATIONS)]
    pub iterations: u32,
}

/// `passphrase`.
pub fn passphrase(args: &ChangePassphrase, format: Format) -> Result<()> {
    let dir = args.data.there()?;
    let old = Encryption::Passphrase(read(args.passphrase_file.as_deref(), "Passphrase: ")?);
    if !args.change && args.new_passphrase_file.is_none() {
        let files = codexstore::check_keys(dir, &old)?;
        return match format {
            Format::Json => output::json(&json!({"files": files, "changed": false})),
            Format::Table => output::line(&format!(
                "{}: the passphrase opens all {files} files",
                dir.display()
            )),
        };
    }
    let new = match &args.new_passphrase_file {
        Some(file) => Passphrase::load(file)?,
        None => ask_twice()?,
    };
    let new = Encryption::Passphrase(new.with_iterations(args.iterations)?);
    let bar = Bar::of_bytes("rewrap");
    let done = codexstore::rewrap(dir, &old, &new, &mut |done, of| bar.at(done, of))?;
    drop(bar);
    match format {
        Format::Json => output::json(&json!({
            "files": done.files,
            "slots": done.slots,
            "changed": true,
        })),
        Format::Table => output::line(&format!(
            "{}: the new passphrase opens all {} files, and the old one none",
            dir.display(),
            done.files
        )),
    }
}

/// From the file, or from the terminal, never from an argument.
pub(super) fn read(file: Option<&Path>, prompt: &str) -> Result<Passphrase> {
    match file {
        Some(file) => Ok(Passphrase::load(file)?),
        None => Ok(Passphrase::new(ask(prompt)?.as_bytes())?),
    }
}

pub(super) fn ask_twice() -> Result<Passphrase> {
    let first = ask("New passphrase: ")?;
    if *first != *ask("The same again: ")? {
        return Err(Coded::invalid("the two passphrases differ; nothing was changed").into());
    }
    Ok(Passphrase::new(first.as_bytes())?)
}

/// Asks on the terminal, without showing what is typed.
fn ask(prompt: &str) -> Result<Zeroizing<String>> {
    let typed = rpassword::prompt_password(prompt);
    let typed = typed.context("no terminal to ask for the passphrase: name a file")?;
    Ok(Zeroizing::new(typed))
}
