//! A store under other keys: every file is encrypted anew, with fresh data keys.
//!
//! A rewrap changes who can unwrap the data keys; this changes the data keys themselves, as one
//! wants after a key was seen by someone, and also the cipher, and whether there is one.
//!
//! The order, and what a crash leaves:
//! 1. The store is claimed as by any owner, and read with the old keys.
//! 2. Log files are sealed anew, in order, under names that end in `.tmp`; an empty one comes last,
//!    in which the log goes on. All are read back. *The old keys open the store, and remove these.*
//! 3. An image of everything is written as `image-R.tmp` and read back.
//! 4. It is renamed to `image-R`, durably. This is the switch: *from here on the new keys open the
//!    store, and finish what is left*: see [`crate::succession`].
//! 5. All is read once more with the new keys. Then what was replaced is removed, durably, and the
//!    log files get their names.
//!
//! So at each point one of the two opens the store, and running the migration again with both
//! finishes it.

pub(crate) mod reseal;

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use crate::backup::Root;
use crate::disk::{Disk, OsDisk};
use crate::env::Env;
use crate::error::{Code, Error, Kind, Result};
use crate::format::{Digest, Lineage, Link};
use crate::image::{WriteImage, estimate};
use crate::keyring::Encryption;
use crate::layout::{self, remove_if_there};
use crate::open::take_over;
use crate::options::Options;
use crate::recovery::Recovered;
use crate::seat::Seat;
use crate::survey::Survey;
use crate::time::StoreTime;
use reseal::{Resealed, begin_log, open_file, reseal, verify_image};

/// How far a migration is. Each step goes from 0 to its total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done: `log`, `image`, `verify` or `remove`.
    pub step: &'static str,
    /// Bytes done, as far as is known; for `remove`: files.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// What a migration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// Keys in the store, those included whose time is over and which are not yet removed.
    pub keys: u64,
    /// The latest revision.
    pub revision: u64,
    /// Log files that were sealed anew.
    pub logs: u64,
    /// An earlier run had got past the switch: this one only finished it.
    pub resumed: bool,
}

/// Encrypts the store in `dir`, which is not open, anew: from what `old` opens to
/// [`Options::encryption`], key size and compression of `new`, both ways also from and to none. All
/// entries, revisions, the lineage and the log stay; a ledger's chain hashes change, so take a new
/// anchor. Needs as much space again as the store takes.
///
/// After a crash or an error, either `old` or `new` opens the store, and the same call finishes it.
/// Fails with `not-found` if there is no store, `locked` if it is open, a kind of Encryption if
/// neither opens it; then nothing is modified. `progress` is called now and then.
pub fn migrate_encryption(
    dir: &Path,
    old: &Encryption,
    new: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Migrated> {
    let disk = Arc::new(OsDisk::open_there(dir)?);
    migrate_on(disk, Env::system(), old, new, progress)
}

/// The same on a disk and in an environment of the caller's.
pub(crate) fn migrate_on(
    disk: Arc<dyn Disk>,
    env: Env,
    old: &Encryption,
    new: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Migrated> {
    new.validate()?;
    let old = old.for_store();
    let mut options = new.clone();
    options.encryption = options.encryption.for_store();
    let survey = match Survey::take(&*disk, &old) {
        Err(error) if error.kind() == Kind::Encryption => {
            let Ok(survey) = Survey::take(&*disk, &options.encryption) else {
                return Err(error);
            };
            options.strategy = survey.strategy().unwrap_or(options.strategy);
            return finish(&*disk, &env, &options, progress, |_| Ok(()));
        }
        result => result?,
    };
    if survey.epoch.is_none() && survey.claims.is_empty() {
        return Err(layout::no_store());
    }
    options.strategy = survey.strategy().unwrap_or(options.strategy);
    drop(survey);
    let (survey, epoch) = take_over(&*disk, &env, &old, false, |_| Ok(()))?;
    let used = survey.bytes();
    let fresh = || Lineage::random(&*env.random);
    let mut recovered = survey.recover(&*disk, fresh)?;
    recovered.settle(&*disk, epoch.epoch)?;
    let time = StoreTime::start(env.clock.clone(), recovered.last_ms, options.max_clock_jump);
    let seat = Seat {
        space: options
            .max_disk
            .min(used.saturating_add(disk.free().unwrap_or(u64::MAX))),
        store: epoch.store,
        lineage: recovered.lineage,
        epoch: epoch.epoch,
        encryption: Mutex::new(options.encryption.clone()),
        wraps: AtomicU64::new(0),
        disk,
        env,
        options,
        time,
    };
    let number = recovered.number.max(epoch.journal.saturating_add(1));
    let mut made = Vec::new();
    let whole = write_log(&seat, &old, &recovered, number, &mut made, progress)
        .and_then(|link| write_image(&seat, &recovered, link, progress))
        .inspect_err(|error| give_up(&seat, &recovered, &made, error))?;
    let content = whole.place(&seat)?;
    let logs = made.len() as u64;
    let check = |found: &Recovered| {
        let place = |of: &Recovered| (of.view.revision, of.next_revision, of.lineage);
        let found_logs = (found.past.len() + found.older.len()) as u64;
        let found_all = (Some(Root::of(&found.view.index)?), place(found), found_logs);
        if found_all == (content, place(&recovered), logs) {
            return Ok(());
        }
        Err(Error::internal(
            "the migrated store does not hold what the old one did; the old files are still there",
        ))
    };
    let (disk, env, options) = (&*seat.disk, &seat.env, &seat.options);
    let done = finish(disk, env, options, progress, check)?;
    Ok(Migrated {
        logs: logs - 1,
        resumed: false,
        ..done
    })
}

/// Seals the log anew and says where it goes on.
fn write_log(
    seat: &Seat,
    old: &Encryption,
    recovered: &Recovered,
    mut number: u64,
    made: &mut Vec<String>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Link> {
    let files: Vec<_> = recovered.past.iter().chain(&recovered.older).collect();
    let total = files.iter().map(|file| file.len).sum();
    let mut done = 0;
    let mut tell = |bytes| {
        done += bytes;
        let step = "log";
        progress(Progress { step, done, total });
    };
    let mut sealed: Vec<Resealed> = Vec::new();
    let mut opened = Vec::new();
    for file in &files {
        opened.push(open_file(&*seat.disk, &file.name, old)?);
    }
    // Where each ends is what the next one names.
    let ends: Vec<Link> = opened
        .iter()
        .skip(1)
        .map(|file| file.open.header.link)
        .chain([recovered.link])
        .collect();
    let mut link = Link::default();
    for (file, end) in opened.into_iter().zip(ends) {
        let name = layout::log(file.open.header.kind, number);
        made.push(layout::temporary(&name));
        let new = reseal(seat, file, end, link, &layout::temporary(&name), &mut tell)?;
        link = new.link;
        sealed.push(new);
        number = next_number(number)?;
    }
    let name = layout::temporary(&layout::log(seat.options.strategy.log(), number));
    made.push(name.clone());
    let goes_on = begin_log(seat, recovered.next_revision, link, &name)?;
    sync_names(&*seat.disk)?;
    for new in &sealed {
        new.verify(seat)?;
    }
    Ok(goes_on)
}

fn next_number(number: u64) -> Result<u64> {
    let next = number.checked_add(1);
    next.ok_or_else(|| Error::corrupt("log files: no higher number is left"))
}

/// Writes the image under its temporary name, and reads it back.
fn write_image(
    seat: &Seat,
    recovered: &Recovered,
    link: Link,
    progress: &mut dyn FnMut(Progress),
) -> Result<Whole> {
    let view = Arc::new(recovered.view.clone());
    let total = estimate(view.index.image_bytes());
    let name = layout::image(view.revision);
    let mut task = WriteImage::new(view, link, Vec::new()).summed();
    while !task.is_whole() {
        // Not placed: it is not whole.
        task.step(seat)?;
        let done = if task.is_whole() {
            total
        } else {
            task.written()
        };
        let step = "image";
        progress(Progress { step, done, total });
    }
    let temporary = layout::temporary(&name);
    let new = seat.encryption.lock().clone();
    verify_image(&*seat.disk, &temporary, &new, task.end())?;
    let content = task.root();
    Ok(Whole(task, content))
}

/// An image that is whole and has yet to get its name, and the root of what is in it.
struct Whole(WriteImage, Option<Digest>);

impl Whole {
    /// The switch. What the store holds from then on.
    fn place(mut self, seat: &Seat) -> Result<Option<Digest>> {
        while self.0.step(seat)?.is_none() {}
        Ok(self.1)
    }
}

/// Removes what was written before the switch, as the next open would: a full disk gets its space
/// back. Not where another owner may be at work, or the disk fails.
fn give_up(seat: &Seat, recovered: &Recovered, made: &[String], error: &Error) {
    if error.is(Code::Fenced) || seat.check_epoch().is_err() {
        return;
    }
    let image = layout::temporary(&layout::image(recovered.view.revision));
    for name in made.iter().chain([&image]) {
        let _harmless = remove_if_there(&*seat.disk, name);
    }
}

/// After the switch: takes the store over with the new keys, reads everything, and removes what
/// was replaced.
fn finish(
    disk: &dyn Disk,
    env: &Env,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
    check: impl FnOnce(&Recovered) -> Result<()>,
) -> Result<Migrated> {
    let (survey, epoch) = take_over(disk, env, &options.encryption, false, |_| Ok(()))?;
    let fresh = || Lineage::random(&*env.random);
    let mut recovered = survey.recover_telling(disk, fresh, &mut |done, total| {
        let step = "verify";
        progress(Progress { step, done, total });
    })?;
    check(&recovered)?;
    recovered.settle_telling(disk, epoch.epoch, &mut |done, total| {
        let step = "remove";
        progress(Progress { step, done, total });
    })?;
    // Everything that it warned of was written anew.
    remove_if_there(disk, layout::SUSPECT)?;
    sync_names(disk)?;
    Ok(Migrated {
        keys: recovered.view.index.from(Bound::Unbounded).count() as u64,
        revision: recovered.view.revision,
        logs: (recovered.past.len() + recovered.older.len()).saturating_sub(1) as u64,
        resumed: true,
    })
}

fn sync_names(disk: &dyn Disk) -> Result<()> {
    let synced = disk.sync_dir();
    synced.map_err(|e| Error::io("sync the directory", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_number_has_none_behind_it() {
        assert_eq!(next_number(u64::MAX - 1).unwrap(), u64::MAX);
        let error = next_number(u64::MAX).unwrap_err();
        assert!(error.is(Code::Corrupt), "{error:?}");
    }
}
