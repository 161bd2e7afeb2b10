//! Making a store of a backup.
//!
//! The store goes on where the backup was made, but in a new lineage and far above every revision
//! that may have been given out behind it, so that an old etag or precondition matches nothing.
//!
//! A store is there as a whole or not at all. First a mark is made, durably: a directory with it
//! does not open. Then come the files: a ledger's history, a log that begins with the first new
//! revision, the image, and a claim of an epoch above the backup's. When all of them are durable and
//! were read back, the mark goes. What a crash or an error leaves is a directory without a store,
//! or one with the mark, in which the restore can be run again.

use std::io::Read;
use std::path::Path;

use super::info::BackupInfo;
use super::make::make;
use super::read::Backup;
use crate::disk::{Disk, OsDisk};
use crate::env::Env;
use crate::error::{Code, Error, Result};
use crate::format::Lineage;
use crate::layout::{self, Name};
use crate::options::Options;

/// A store that was made of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// What it was made of. The store has the same id and content.
    pub backup: BackupInfo,
    /// Its own line of history.
    pub lineage: Lineage,
    /// The revision that its first batch will get.
    pub next_revision: u64,
}

/// Makes a store of a backup in `dir`, which is made if it does not exist and must hold nothing of
/// a store; what is not a store's is left alone. `options` are those that it will be opened with:
/// the backup's key must be in the keyring, and new files are wrapped with the current one.
///
/// `invalid-argument` if there is a store already, or if the strategy is not that of the store that
/// was backed up: [`crate::convert`] changes it afterwards; `locked` if someone else is at work there;
/// `corrupt` or a kind of Encryption if the backup does not verify. After an error there is no
/// store, and the restore can be run again; only if the very last sync failed, there is all of it.
pub fn restore(dir: &Path, from: impl Read, options: &Options) -> Result<Restored> {
    restore_on(&OsDisk::open(dir)?, &Env::system(), from, options)
}

/// The same on a disk and in an environment of the caller's: for simulations.
pub fn restore_on(
    disk: &dyn Disk,
    env: &Env,
    from: impl Read,
    options: &Options,
) -> Result<Restored> {
    options.validate()?;
    let options = Options {
        encryption: options.encryption.for_store(),
        ..options.clone()
    };
    let restored = run(disk, env, from, &options);
    disk.unlock();
    restored
}

fn run(disk: &dyn Disk, env: &Env, from: impl Read, options: &Options) -> Result<Restored> {
    let unfinished = look(disk)?;
    // Nothing is modified for a backup that is none, or has another key.
    let backup = Backup::begin(from, &options.encryption)
        .map_err(|error| error.context("read the backup"))?;
    disk.tighten()
        .map_err(|e| Error::io("restrict the permissions of the store's files", e))?;
    if unfinished {
        clear(disk)?;
    } else {
        disk.create(layout::RESTORING)
            .map_err(|e| Error::io(format!("create {}", layout::RESTORING), e))?;
    }
    sync_dir(disk)?;
    let restored = make(disk, env, backup, options);
    if restored.is_err() {
        // The mark stays: who wanted this data shall not find an empty store instead. The space is
        // given back, if that is possible.
        let _best = clear(disk);
    }
    let restored = restored?;
    layout::remove_if_there(disk, layout::RESTORING)?;
    sync_dir(disk)?;
    Ok(restored)
}

fn sync_dir(disk: &dyn Disk) -> Result<()> {
    disk.sync_dir()
        .map_err(|e| Error::io("sync the directory of the restored store", e))
}

fn list(disk: &dyn Disk) -> Result<Vec<String>> {
    disk.list()
        .map_err(|e| Error::io("list the directory to restore into", e))
}

/// True if an unfinished restore is there; an error if a store is.
fn look(disk: &dyn Disk) -> Result<bool> {
    let names = list(disk)?;
    if names.iter().any(|name| name == layout::RESTORING) {
        return Ok(true);
    }
    match names.iter().find(|name| layout::parse(name) != Name::Other) {
        Some(name) => Err(Error::new(
            Code::InvalidArgument,
            format!(
                "the directory holds a store already ({name}); a backup is restored into an empty \
                 one"
            ),
        )),
        None => Ok(false),
    }
}

/// Removes what an unfinished restore has made, except the mark.
fn clear(disk: &dyn Disk) -> Result<()> {
    for name in list(disk)? {
        if !matches!(layout::parse(&name), Name::Other | Name::Restoring) {
            layout::remove_if_there(disk, &name)?;
        }
    }
    Ok(())
}
