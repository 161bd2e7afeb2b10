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
use crate::archive::Until;
use crate::disk::{Disk, OsDisk};
use crate::env::Env;
use crate::error::{Code, Error, Result};
use crate::format::{Digest, Lineage};
use crate::layout::{self, Name};
use crate::options::{Options, Retention, Strategy};

/// A store that was made of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// What it was made of. The store has the same id and content.
    pub backup: BackupInfo,
    /// Its own line of history.
    pub lineage: Lineage,
    /// What it is opened with.
    pub strategy: Strategy,
    /// The revision that its first batch will get.
    pub next_revision: u64,
    /// SHA-256 of all bytes that came: of the backup, and of the pieces behind it.
    pub sha256: Digest,
    /// What was taken of pieces of an archive: see [`crate::archive::restore`]. None of a backup alone.
    pub archive: Option<ArchiveRestored>,
}

/// What a restore took of pieces of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveRestored {
    /// Pieces that came.
    pub pieces: u64,
    /// Batches that were taken of them.
    pub batches: u64,
    /// The last revision that was restored: the backup's, if no batch was taken.
    pub revision: u64,
    /// When its batch was committed: milliseconds since 1970. None if no batch was taken.
    pub last_ms: Option<u64>,
}

impl ArchiveRestored {
    pub(super) fn new(revision: u64) -> ArchiveRestored {
        ArchiveRestored {
            pieces: 0,
            batches: 0,
            revision,
            last_ms: None,
        }
    }
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

/// As [`restore`], or with `until` as [`crate::archive::restore`], but with the strategy of the store that was backed up, whatever
/// that of `options` is: [`Restored::strategy`] says it.
///
/// A ledger that has entries and has kept no history shows what it is at the end only, and is an `invalid-argument` here: restore
/// it anew with [`Options::strategy`].
pub fn restore_as_it_was(
    dir: &Path,
    from: impl Read,
    until: Option<Until>,
    options: &Options,
) -> Result<Restored> {
    let options = Options {
        strategy: Strategy::Snapshot,
        retention: Retention::default(),
        anchor: None,
        convert: true,
        ..options.clone()
    };
    restore_all(&OsDisk::open(dir)?, &Env::system(), from, until, &options)
}

/// The same on a disk and in an environment of the caller's: for simulations.
pub fn restore_on(
    disk: &dyn Disk,
    env: &Env,
    from: impl Read,
    options: &Options,
) -> Result<Restored> {
    restore_all(disk, env, from, None, options)
}

/// The same, with pieces of an archive behind the backup, if `until` says how far.
pub(crate) fn restore_all(
    disk: &dyn Disk,
    env: &Env,
    from: impl Read,
    until: Option<Until>,
    options: &Options,
) -> Result<Restored> {
    options.validate()?;
    let options = Options {
        encryption: options.encryption.for_store(),
        ..options.clone()
    };
    let restored = run(disk, env, from, until, &options);
    disk.unlock();
    restored
}

fn run(
    disk: &dyn Disk,
    env: &Env,
    from: impl Read,
    until: Option<Until>,
    options: &Options,
) -> Result<Restored> {
    let unfinished = look(disk)?;
    // Nothing is modified for a backup that is none, or has another key.
    let backup = match until {
        None => Backup::begin(from, &options.encryption),
        Some(until) => Backup::first(from, &options.encryption)
            .and_then(|backup| check_until(&backup, until).map(|()| backup)),
    };
    let backup = backup.map_err(|error| error.context("read the backup"))?;
    disk.tighten()
        .map_err(|e| Error::io("restrict the permissions of the store's files", e))?;
    if unfinished {
        clear(disk)?;
    } else {
        disk.create(layout::RESTORING)
            .map_err(|e| Error::io(format!("create {}", layout::RESTORING), e))?;
    }
    sync_dir(disk)?;
    let restored = make(disk, env, backup, until, options);
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

/// An error if the backup is beyond what is wanted.
fn check_until<R: Read>(backup: &Backup<R>, until: Until) -> Result<()> {
    let header = backup.stream.header();
    let what = match until {
        Until::Revision(revision) if revision < header.first_revision => format!(
            "it shows revision {}, beyond {revision}",
            header.first_revision
        ),
        Until::Time(ms) if ms < header.created_ms => format!(
            "it was made at {} ms since 1970, after {ms}",
            header.created_ms
        ),
        _ => return Ok(()),
    };
    let what = format!("{what}: take an earlier backup, with the pieces behind it");
    Err(Error::new(Code::InvalidArgument, what))
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
