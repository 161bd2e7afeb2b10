//! Making a store of a backup.
//!
//! The store goes on where the backup was made, but in a new lineage and far above every revision
//! that may have been given out behind it, so that an old etag or precondition matches nothing.
//!
//! A store is there as a whole or not at all. First a mark is made, durably: a directory with it
//! does not open. Then come the files: an empty log that begins with the first new revision, the
//! image, and a claim of an epoch above the backup's. When all of them are durable, and the image
//! was read back, the mark goes. What a crash or an error leaves is a directory without a store, or
//! one with the mark, in which the restore can be run again.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::info::{BackupInfo, Root};
use super::read::{Backup, Piece};
use crate::disk::{Disk, DiskFile, OsDisk};
use crate::env::Env;
use crate::error::{Code, Error, Result};
use crate::format::{
    self, Digest, FRAMES_AT, FileId, FileKind, FileSpec, FrameKind, Lineage, Link, NewFile, Reader,
    Step,
};
use crate::image::SYNC_EVERY;
use crate::layout::{self, Epoch, Name};
use crate::options::Options;
use crate::recovery::{FileSource, SKIP};
use crate::time::StoreTime;

/// Number of the first log file.
const FIRST: u64 = 1;

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
/// `invalid-argument` if there is a store already; `locked` if someone else is at work there;
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

/// Makes the files of a store.
struct Maker<'a> {
    disk: &'a dyn Disk,
    env: &'a Env,
    options: &'a Options,
    claim: Epoch,
    created_ms: u64,
    /// Bytes written so far.
    used: u64,
}

/// Makes all files, and reads back what matters.
fn make<R: Read>(
    disk: &dyn Disk,
    env: &Env,
    mut backup: Backup<R>,
    options: &Options,
) -> Result<Restored> {
    let header = backup.stream.header().clone();
    let last_ms = Some(header.created_ms);
    let time = StoreTime::start(env.clock.clone(), last_ms, options.max_clock_jump);
    let higher = header.epoch.checked_add(1);
    let mut maker = Maker {
        disk,
        env,
        options,
        claim: Epoch {
            epoch: higher.ok_or_else(|| Error::corrupt("epoch: no higher one is left"))?,
            store: header.store,
            lineage: Lineage::random(&*env.random)?,
            journal: FIRST,
            interval: false,
        },
        created_ms: time.now_ms(),
        used: 0,
    };
    // How many were given out behind the backup is not known.
    let next_revision = header.link.sequence.saturating_add(SKIP);
    let link = maker.log(next_revision)?;
    let name = layout::image(header.first_revision);
    maker.image(&name, header.first_revision, link, &mut backup)?;
    let backup = backup
        .finish()
        .map_err(|error| error.context("read the backup"))?;
    if maker.read_back(&name)? != backup.contents.root {
        return Err(Error::corrupt(format!(
            "{name}: what was written there reads back otherwise"
        )));
    }
    // Puts its own name in place, and syncs the directory with all of them.
    maker.claim.publish(disk)?;
    Ok(Restored {
        lineage: maker.claim.lineage,
        next_revision,
        backup,
    })
}

impl Maker<'_> {
    /// The beginning of a new file.
    fn create(&self, kind: FileKind, first_revision: u64, link: Link) -> Result<NewFile> {
        let spec = FileSpec {
            kind,
            store: self.claim.store,
            lineage: self.claim.lineage,
            file: FileId::random(&*self.env.random)?,
            epoch: self.claim.epoch,
            first_revision,
            link,
            compression: self.options.compression,
            key_size: self.options.key_size,
            created_ms: self.created_ms,
        };
        format::create(&spec, &self.options.encryption, &*self.env.random)
    }

    /// Writes within the disk budget.
    fn write(&mut self, file: &dyn DiskFile, name: &str, at: u64, bytes: &[u8]) -> Result<()> {
        self.used += bytes.len() as u64;
        if self.used > self.options.max_disk {
            return Err(Error::new(
                Code::DiskFull,
                format!(
                    "the restored store takes more than its disk budget of {} bytes",
                    self.options.max_disk
                ),
            ));
        }
        file.write_at(at, bytes)
            .map_err(|e| Error::io(format!("write {name}"), e))
    }

    /// An empty log that was closed in order; the place where it begins.
    fn log(&mut self, next_revision: u64) -> Result<Link> {
        let name = layout::log(FileKind::Journal, FIRST);
        let made = self.create(FileKind::Journal, next_revision, Link::default())?;
        let file = make_file(self.disk, &name)?;
        let begins = made.sealer.link();
        let mut bytes = made.prefix;
        made.sealer.close(&*self.env.random, &mut bytes)?;
        self.write(&*file, &name, 0, &bytes)?;
        sync(&*file, &name)?;
        Ok(begins)
    }

    /// The image, of the backup's entries.
    fn image<R: Read>(
        &mut self,
        name: &str,
        revision: u64,
        link: Link,
        backup: &mut Backup<R>,
    ) -> Result<()> {
        let random = &*self.env.random;
        let temporary = layout::temporary(name);
        let made = self.create(FileKind::Image, revision, link)?;
        let mut sealer = made.sealer;
        let file = make_file(self.disk, &temporary)?;
        self.write(&*file, &temporary, 0, &made.prefix)?;
        let (mut frame, mut synced) = (Vec::new(), 0);
        while let Some(piece) = backup
            .step()
            .map_err(|error| error.context("read the backup"))?
        {
            match piece {
                Piece::Entries(payload) => {
                    frame.clear();
                    let placed = sealer.seal(FrameKind::Entries, payload, random, &mut frame)?;
                    self.write(&*file, &temporary, placed.offset, &frame)?;
                    if placed.offset - synced >= SYNC_EVERY {
                        sync(&*file, &temporary)?;
                        synced = placed.offset;
                    }
                }
                Piece::Batches => {
                    return Err(Error::new(
                        Code::Unsupported,
                        "the backup holds history, which this version does not restore",
                    ));
                }
                Piece::Summary => {}
            }
        }
        frame.clear();
        let (end, _) = sealer.close(random, &mut frame)?;
        self.write(&*file, &temporary, end.offset, &frame)?;
        sync(&*file, &temporary)?;
        self.disk
            .rename(&temporary, name)
            .map_err(|e| Error::io(format!("rename {temporary}"), e))
    }

    /// The root of the entries in the image.
    fn read_back(&self, name: &str) -> Result<Digest> {
        let io = |e| Error::io(format!("read {name} back"), e);
        let file = self.disk.open(name).map_err(io)?;
        let mut prefix = vec![0; usize::try_from(FRAMES_AT).unwrap_or_default()];
        file.read_at(0, &mut prefix).map_err(io)?;
        let open = format::open(&prefix, &self.options.encryption).map_err(|e| e.context(name))?;
        let mut reader = Reader::new(open, FileSource { file });
        let mut root = Root::new();
        loop {
            match reader.step().map_err(|e| e.context(name))? {
                Step::Frame(frame) => root.add(frame.payload),
                Step::End(_) => return Ok(root.finish()),
            }
        }
    }
}

fn make_file(disk: &dyn Disk, name: &str) -> Result<Arc<dyn DiskFile>> {
    disk.create(name)
        .map_err(|e| Error::io(format!("create {name}"), e))
}

fn sync(file: &dyn DiskFile, name: &str) -> Result<()> {
    file.sync()
        .map_err(|e| Error::io(format!("sync {name}"), e))
}
