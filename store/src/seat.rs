//! Where an owner sits: the disk, the world, and who it is. Everything that makes files has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::disk::Disk;
use crate::env::Env;
use crate::error::{Code, Error, Result};
use crate::format::{self, FileId, FileKind, FileSpec, Lineage, Link, NewFile, StoreId};
use crate::keyring::Encryption;
use crate::layout::{self, Name};
use crate::options::Options;
use crate::time::StoreTime;

/// An owner's seat.
pub(crate) struct Seat {
    pub disk: Arc<dyn Disk>,
    pub env: Env,
    pub options: Options,
    pub time: StoreTime,
    pub store: StoreId,
    pub lineage: Lineage,
    pub epoch: u64,
    /// Bytes that the store may take, as far as was known at open.
    pub space: u64,
    /// Replaced when the keyring is loaded again.
    pub encryption: Mutex<Encryption>,
    /// Data keys wrapped by this owner: messages under key-encryption keys.
    pub wraps: AtomicU64,
}

impl Seat {
    /// The beginning of a new file, with a fresh data key.
    pub fn create(&self, kind: FileKind, first_revision: u64, link: Link) -> Result<NewFile> {
        // Backups are sorted by it: of two in one millisecond, the later one counts as newer.
        let created_ms = match kind {
            FileKind::Backup => self.time.next_ms(),
            _ => self.time.now_ms(),
        };
        self.create_at(kind, first_revision, link, created_ms)
    }

    /// The same with a time of its own.
    pub fn create_at(
        &self,
        kind: FileKind,
        first_revision: u64,
        link: Link,
        created_ms: u64,
    ) -> Result<NewFile> {
        let spec = FileSpec {
            kind,
            store: self.store,
            lineage: self.lineage,
            file: FileId::random(&*self.env.random)?,
            epoch: self.epoch,
            first_revision,
            link,
            compression: self.options.compression,
            key_size: self.options.key_size,
            created_ms,
        };
        let made = format::create(&spec, &self.encryption.lock(), &*self.env.random)?;
        self.count_wraps(u64::from(made.key_id.is_some()));
        Ok(made)
    }

    /// Counts data keys that were wrapped.
    pub fn count_wraps(&self, wraps: u64) {
        self.wraps.fetch_add(wraps, Ordering::Relaxed);
    }

    /// An error if another owner has taken over. Two looks at names, however many files there are.
    ///
    /// A successor claims the number above ours, and no number above that is claimed before it.
    /// That name goes again only when ours has gone before: claims are removed from the lowest on.
    /// So in this order, one of the two looks shows every successor.
    pub fn check_epoch(&self) -> Result<()> {
        let there = |number| {
            let found = self.disk.exists(&layout::epoch(number));
            found.map_err(|e| Error::io("look for another owner", e))
        };
        if !there(self.epoch.saturating_add(1))? && there(self.epoch)? {
            return Ok(());
        }
        check_epoch(&*self.disk, self.epoch)
    }
}

/// Lists the directory: an error if the claims in it do not make `ours` the owner.
pub(crate) fn check_epoch(disk: &dyn Disk, ours: u64) -> Result<()> {
    let names = disk
        .list()
        .map_err(|e| Error::io("look for another owner", e))?;
    let highest = names
        .iter()
        .filter_map(|name| match layout::parse(name) {
            Name::Epoch(number) => Some(number),
            _ => None,
        })
        .max();
    match highest {
        Some(found) if found == ours => Ok(()),
        Some(found) if found > ours => Err(Error::new(
            Code::Fenced,
            format!("another owner opened the store: its epoch is {found}, ours {ours}"),
        )),
        _ => Err(Error::new(
            Code::Io,
            format!("{}: the file is gone", layout::epoch(ours)),
        )),
    }
}
