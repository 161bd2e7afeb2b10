//! Backups in a directory, of which the last few are kept.
//!
//! A backup is written under a temporary name and takes its own when it is whole and durable. So
//! what has the right name is complete, unless a disk erred. Names sort by store, time, revision.
//!
//! Rotation needs no lock. It looks at the directory and removes what has enough good ones above
//! it; whoever does the same meanwhile sees the same or more, so that the last ones are never
//! among what either removes, and a file that is gone already is as good as removed. What is not
//! recognised, by name and header, as a backup of this very store is not touched.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::info::BackupInfo;
use super::read::verify_chain;
use super::write::{self, BackupOptions};
use crate::disk::{Disk, DiskFile, OsDisk};
use crate::error::{Error, Result};
use crate::format::{self, FileId, FileKind, Header, SECTOR, StoreId};
use crate::image::SYNC_EVERY;
use crate::layout;
use crate::shared::Shared;

const SUFFIX: &str = ".backup";
const TMP: &str = ".backup-tmp";

/// After this time, in milliseconds, whoever wrote a temporary file is dead: twice the longest
/// deadline.
const ABANDONED_MS: u64 = 24 * 3_600_000;

/// Times that a directory is listed where others keep removing files from it.
const LOOKS: usize = 100;

/// A file in a directory that is a backup, as its name, its header and its last frame say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalBackup {
    /// Where it is.
    pub path: PathBuf,
    /// The store that it was made of.
    pub store: StoreId,
    /// The revision that it shows.
    pub revision: u64,
    /// When it was made: milliseconds since 1970.
    pub created_ms: u64,
    /// Its length.
    pub bytes: u64,
    /// It ends with a closing frame. Only [`super::verify`] proves the rest.
    pub complete: bool,
}

/// The backups in a directory, of all stores, in the order of their names: for each store, the
/// newest last.
pub fn list(dir: &Path) -> Result<Vec<LocalBackup>> {
    let found = find(&OsDisk::unlocked(dir)?)?;
    Ok(found
        .into_iter()
        .map(|found| LocalBackup {
            path: dir.join(found.name),
            store: found.header.store,
            revision: found.header.first_revision,
            created_ms: found.header.created_ms,
            bytes: found.bytes,
            complete: found.complete,
        })
        .collect())
}

/// Removes the backups of a store but the last `keep` complete ones, and says which. Nothing is
/// removed before the chain of the newest one was verified. What looks damaged is not counted, and
/// goes only when it is older than all that are kept.
pub fn rotate(dir: &Path, store: StoreId, keep: NonZeroUsize) -> Result<Vec<PathBuf>> {
    let gone = rotate_on(&OsDisk::unlocked(dir)?, store, keep, None)?;
    Ok(gone.into_iter().map(|name| dir.join(name)).collect())
}

/// Writes a backup into a directory, and rotates. Returns its name.
pub(crate) fn write_to(
    shared: &Arc<Shared>,
    disk: &dyn Disk,
    options: &BackupOptions,
) -> Result<(String, BackupInfo)> {
    let seat = &shared.seat;
    let token = FileId::random(&*seat.env.random)?;
    let started = seat.time.now_ms();
    let temporary = format!(
        "{}-{}-{}{TMP}",
        stem(seat.store),
        time(started),
        short(token.0)
    );
    let written = write_file(shared, disk, &temporary, options);
    let (name, info) = match written {
        Ok(written) => written,
        Err(error) => {
            // The cause is what the caller hears of.
            let _gone = layout::remove_if_there(disk, &temporary);
            return Err(error);
        }
    };
    disk.sync_dir()
        .map_err(|e| Error::io(format!("sync the directory of {name}"), e))?;
    if let Some(keep) = options.keep {
        rotate_on(disk, seat.store, keep, Some(&name))?;
    }
    sweep(disk, seat.store, started)?;
    Ok((name, info))
}

/// Writes a backup under a temporary name, and renames it when it is durable.
fn write_file(
    shared: &Arc<Shared>,
    disk: &dyn Disk,
    temporary: &str,
    options: &BackupOptions,
) -> Result<(String, BackupInfo)> {
    let io = |what: &'static str| move |e| Error::io(format!("{what} {temporary}"), e);
    let file = disk.create(temporary).map_err(io("create"))?;
    let mut out = FileWriter {
        file: file.clone(),
        at: 0,
        synced: 0,
    };
    let info = write::write(shared, options, &mut out)?;
    file.sync().map_err(io("sync"))?;
    let envelope = &info.envelope;
    let name = format!(
        "{}-{}-{:020}-{}{SUFFIX}",
        stem(envelope.store),
        time(envelope.created_ms),
        envelope.revision,
        short(envelope.file.0)
    );
    disk.rename(temporary, &name).map_err(io("rename"))?;
    Ok((name, info))
}

/// Writes a file from its beginning, and syncs it now and then, so that the sync at the end and
/// the store's own do not wait for a long queue of writes.
struct FileWriter {
    file: Arc<dyn DiskFile>,
    at: u64,
    synced: u64,
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(self.at, bytes)?;
        self.at += bytes.len() as u64;
        if self.at - self.synced >= SYNC_EVERY {
            self.file.sync()?;
            self.synced = self.at;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// [`rotate`] on any disk. The one named `own` was just written: it is good, and stays whatever
/// the clocks say.
pub(crate) fn rotate_on(
    disk: &dyn Disk,
    store: StoreId,
    keep: NonZeroUsize,
    own: Option<&str>,
) -> Result<Vec<String>> {
    let mut ours = find(disk)?;
    ours.retain(|found| found.header.store == store);
    let mut proven = own.is_some();
    let (mut good, mut gone) = (0, Vec::new());
    for found in ours.into_iter().rev() {
        let own = own == Some(&found.name[..]);
        if good >= keep.get() {
            if !own {
                layout::remove_if_there(disk, &found.name)?;
                gone.push(found.name);
            }
        } else if found.complete && (proven || own || proves(disk, &found.name)) {
            proven = true;
            good += 1;
        }
    }
    Ok(gone)
}

/// True if a file's whole chain verifies.
fn proves(disk: &dyn Disk, name: &str) -> bool {
    disk.open(name).is_ok_and(|file| {
        let whole = FileReader { file, at: 0 };
        verify_chain(whole).is_ok()
    })
}

/// Removes what writers that are dead have left: files of this store under a temporary name that
/// were begun long before `now_ms`.
fn sweep(disk: &dyn Disk, store: StoreId, now_ms: u64) -> Result<()> {
    let prefix = format!("{}-", stem(store));
    let long_ago = time(now_ms.saturating_sub(ABANDONED_MS));
    for name in names(disk)? {
        let begun = name
            .strip_suffix(TMP)
            .and_then(|name| name.strip_prefix(&prefix))
            .and_then(|rest| rest.split_once('-'));
        if begun.is_some_and(|(begun, _)| begun.len() == long_ago.len() && begun < &long_ago[..]) {
            layout::remove_if_there(disk, &name)?;
        }
    }
    Ok(())
}

fn names(disk: &dyn Disk) -> Result<Vec<String>> {
    disk.list().map_err(|e| Error::io("list the backups", e))
}

/// A backup in a directory.
struct Found {
    name: String,
    header: Header,
    bytes: u64,
    complete: bool,
}

/// All backups in a directory, in the order of their names. Where a rotation removes files between
/// the list of names and the look at each, newer ones have come: the directory is listed again.
fn find(disk: &dyn Disk) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for _ in 0..LOOKS {
        let mut names = names(disk)?;
        names.retain(|name| name.starts_with("codexstore-") && name.ends_with(SUFFIX));
        names.sort();
        let mut gone = false;
        found.clear();
        for name in names {
            match disk.open(&name) {
                Ok(file) => found.extend(look(&*file, name)),
                Err(error) => gone |= error.kind() == io::ErrorKind::NotFound,
            }
        }
        if !gone {
            break;
        }
    }
    Ok(found)
}

/// What a file is, if it can be read and is a backup.
fn look(file: &dyn DiskFile, name: String) -> Option<Found> {
    let bytes = file.len().ok()?;
    let mut page = vec![0; format::PAGE];
    file.read_at(0, &mut page).ok()?;
    let header = Header::decode(&page).ok()?;
    let mut last = vec![0; SECTOR];
    file.read_at(bytes.checked_sub(SECTOR as u64)?, &mut last)
        .ok()?;
    let mine = header.kind == FileKind::Backup && name.starts_with(&stem(header.store));
    mine.then(|| Found {
        name,
        header,
        bytes,
        complete: bytes.is_multiple_of(SECTOR as u64) && format::closes(&last),
    })
}

/// Reads a file from its beginning.
struct FileReader {
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl io::Read for FileReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.file.len()?.saturating_sub(self.at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let part = into.get_mut(..len).unwrap_or_default();
        self.file.read_at(self.at, part)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// How the names of a store's backups begin.
fn stem(store: StoreId) -> String {
    format!("codexstore-{}", short(store.0))
}

/// The first half of an id's first half, in hex.
fn short(id: [u8; 16]) -> String {
    let [a, b, c, d, ..] = id;
    format!("{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// A time in UTC as it sorts: `20261125T001234567Z`. What is beyond the calendar is its end.
fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    format!(
        "{}{:03}Z",
        at.strftime("%Y%m%dT%H%M%S"),
        at.subsec_millisecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_time_whatever_the_time_is() {
        let times = [0, 999, 1000, 1_700_000_000_000, 4_000_000_000_000, u64::MAX];
        let names = times.map(time);
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(names[3], "20231114T221320000Z");
        assert!(names.iter().all(|name| name.len() == names[0].len()));
    }
}
