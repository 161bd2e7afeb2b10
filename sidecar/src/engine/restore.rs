//! Restores: a backup becomes the store of this pod, in the place of what was there or where nothing was.
//!
//! The backup is written and verified beside the store that is served; only then is that closed and set aside, and the
//! restored one opened. An error before that has changed nothing.

use std::io::Read;
use std::sync::mpsc::Sender;
use std::sync::{Arc, mpsc};

use codexstore::archive::{self, Until};
use codexstore::backup::{self, ArchiveRestored, BackupInfo};
use codexstore::format::Digest;
use codexstore::{
    Code, Encryption, Error, Keyring, Options, Passphrase, Replacement, Result, Store,
};
use tracing::info;

use crate::settings::{Keys, Settings};

/// What the owner of the store is told.
pub enum Order {
    /// Put the restored store into its place and open it. The answer: where the one before is now.
    Replace(mpsc::SyncSender<Result<Option<String>>>),
    /// There is nothing to wait for: open the store, also where there is none yet.
    OpenEmpty(mpsc::SyncSender<Result<()>>),
    /// End.
    Stop,
}

/// A store that was restored.
#[derive(Debug)]
pub struct Done {
    /// What it was made of.
    pub backup: BackupInfo,
    /// Its own line of history.
    pub lineage: String,
    /// The revision that its first batch gets.
    pub next_revision: u64,
    /// SHA-256 of all bytes that came.
    pub sha256: Digest,
    /// What was taken of pieces of the archive.
    pub archive: Option<ArchiveRestored>,
    /// Name of the directory, beside the store's, with what was there before.
    pub set_aside: Option<String>,
}

/// Restores, and tells the owner.
pub struct Restorer {
    settings: Arc<Settings>,
    orders: Sender<Order>,
}

impl Restorer {
    /// Orders go to the owner of the store with these settings.
    pub fn new(settings: Arc<Settings>, orders: Sender<Order>) -> Restorer {
        Restorer { settings, orders }
    }

    /// Makes a store of the backup, and of the pieces of the archive behind it where `until` says how far, and serves it. What was served stays beside it. It may take long, and blocks.
    ///
    /// `precondition-failed` if there is a store though it is to be restored `if_empty` only; `disk-full` if there is no room for both; the errors of [`backup::restore`]; those of opening what was restored.
    pub fn restore(&self, from: impl Read, if_empty: bool, until: Option<Until>) -> Result<Done> {
        let settings = &self.settings;
        if if_empty {
            self.check_empty()?;
        }
        let replacement = Replacement::of(&settings.data_dir);
        let staging = replacement.prepare()?;
        let options = settings.options(encryption(settings)?);
        let options = within(options, &replacement)?;
        let restored = match until {
            None => backup::restore(&staging, from, &options)?,
            Some(until) => archive::restore(&staging, from, until, &options)?,
        };
        replacement.commit()?;
        let set_aside = self.ask(Order::Replace)?;
        info!(
            revision = restored.backup.envelope.revision,
            entries = restored.backup.contents.entries,
            archived_until = restored.archive.map(|taken| taken.revision),
            set_aside,
            "a backup was restored"
        );
        Ok(Done {
            lineage: restored.lineage.to_string(),
            next_revision: restored.next_revision,
            backup: restored.backup,
            sha256: restored.sha256,
            archive: restored.archive,
            set_aside,
        })
    }

    /// Has a store that waits for a restore opened without one. Blocks until it is open.
    pub fn open_empty(&self) -> Result<()> {
        self.check_empty()?;
        self.ask(Order::OpenEmpty)
    }

    fn check_empty(&self) -> Result<()> {
        if Store::exists(&self.settings.data_dir)? {
            let what = "there is a store already: nothing waits for a restore";
            return Err(Error::new(Code::PreconditionFailed, what));
        }
        Ok(())
    }

    fn ask<T>(&self, order: impl FnOnce(mpsc::SyncSender<Result<T>>) -> Order) -> Result<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        let stopping = || Error::new(Code::Closed, "the sidecar is stopping");
        self.orders.send(order(answer)).map_err(|_| stopping())?;
        answered.recv().map_err(|_| stopping())?
    }
}

/// The keys of a store with these settings, as its files are now.
pub fn encryption(settings: &Settings) -> Result<Encryption> {
    match &settings.keys {
        Keys::None => Ok(Encryption::None),
        Keys::Dir(dir) => Keyring::load(dir).map(Encryption::Keyring),
        Keys::Passphrase(file) => Passphrase::load(file).map(Encryption::Passphrase),
    }
}

/// The options with the disk budget that is left beside the store and what was set aside.
fn within(mut options: Options, replacement: &Replacement) -> Result<Options> {
    let aside: u64 = replacement.set_aside()?.iter().map(|a| a.bytes).sum();
    let taken = aside + replacement.bytes()?;
    let left = options.max_disk.saturating_sub(taken);
    if left < Options::MIN_DISK {
        return Err(Error::new(
            Code::DiskFull,
            format!(
                "of the disk budget of {} bytes, {taken} are taken by the store and what was set aside ({aside}): a restore \
                 keeps what is there and needs room beside it",
                options.max_disk
            ),
        ));
    }
    options.max_disk = left;
    Ok(options)
}
