//! Opening a store on any disk: from the survey of its files to a running engine.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use crate::disk::Disk;
use crate::engine::Engine;
use crate::env::Env;
use crate::error::{Code, Error, Result};
use crate::format::{Lineage, StoreId};
use crate::image::estimate;
use crate::journal::{Journal, Prepare, Spare};
use crate::keyring::Encryption;
use crate::layout::{self, Epoch, remove_if_there};
use crate::options::{Durability, Options};
use crate::seat::{Seat, check_epoch};
use crate::shared::Shared;
use crate::survey::Survey;
use crate::task::Background;
use crate::time::StoreTime;

/// Smallest first journal, where there is no space for a usual one.
const SMALL: u64 = 64 << 10;

/// Opens the store on `disk`. Tells how many bytes of how many are read. The background
/// is made once the seat is known.
pub(crate) fn open<B, T>(
    disk: Arc<dyn Disk>,
    env: Env,
    mut options: Options,
    tell: &mut dyn FnMut(u64, u64),
    background: B,
) -> Result<(Engine, T)>
where
    B: FnOnce(Arc<Seat>) -> Result<(Box<dyn Background>, T)>,
{
    options.validate()?;
    options.encryption = options.encryption.for_store();
    let interval = matches!(options.durability, Durability::Interval(_));
    let (survey, epoch) = take_over(&*disk, &env, &options.encryption, interval, |survey| {
        if let Some(anchor) = &options.anchor {
            anchor.check_store(survey.epoch.map(|epoch| epoch.store))?;
        }
        if options.convert {
            return Ok(());
        }
        survey.check_strategy(options.strategy)
    })?;
    let fresh = || Lineage::random(&*env.random);
    let used = survey.bytes();
    let mut recovered = match survey.recover_telling(&*disk, fresh, tell) {
        // An owner that was just fenced may have written its last frame under our eyes. What is
        // damage indeed is so at a second look too.
        Err(error) if error.is(Code::Corrupt) => {
            Survey::take(&*disk, &options.encryption)?.recover(&*disk, fresh)?
        }
        result => result?,
    };
    if let Some(anchor) = &options.anchor {
        let files: Vec<_> = recovered.past.iter().chain(&recovered.older).collect();
        let latest = recovered.view.revision;
        anchor.check(&*disk, epoch.store, &files, Some(latest))?;
    }
    let time = StoreTime::start(env.clock.clone(), recovered.last_ms, options.max_clock_jump);
    recovered.settle(&*disk, epoch.epoch)?;
    let free = disk.free().unwrap_or(u64::MAX);
    let seat = Arc::new(Seat {
        space: options.max_disk.min(used.saturating_add(free)),
        store: epoch.store,
        lineage: recovered.lineage,
        epoch: epoch.epoch,
        encryption: Mutex::new(options.encryption.clone()),
        wraps: AtomicU64::new(0),
        disk,
        env,
        options,
        time,
    });
    let logs = recovered.past.iter().chain(&recovered.older);
    let there: u64 = logs.map(|file| file.len).sum();
    let there = there + recovered.image.as_ref().map_or(0, |image| image.len);
    let left = seat
        .space
        .saturating_sub(there)
        .saturating_sub(estimate(recovered.view.index.image_bytes()));
    let spare = first_journal(&seat, recovered.number, left)?;
    let journal = Journal::begin(&seat, spare, recovered.link, recovered.next_revision)?;
    // From now on, a store without this journal has lost it.
    seat.check_epoch()?;
    let epoch = Epoch {
        journal: journal.number,
        lineage: seat.lineage,
        interval,
        ..epoch
    };
    epoch.publish(&*seat.disk)?;
    let mut shared = Shared::new(
        seat.clone(),
        recovered.view.clone(),
        recovered.next_revision,
        recovered.findings.clone(),
    );
    if let (true, Some(oldest)) = (recovered.past.is_empty(), recovered.older.first()) {
        shared.before_log = (recovered.floor, oldest.first_revision);
    }
    let shared = Arc::new(shared);
    let suspect = recovered.suspect;
    let (background, extra) = background(seat)?;
    let mut engine = Engine::new(shared, background, recovered, journal);
    if suspect {
        engine.rewrite()?;
    }
    engine.maintain();
    Ok((engine, extra))
}

/// Claims the store, so that no earlier owner answers any more, and then reads what is there.
/// Nothing is modified before all keys are checked, and `check` has passed.
pub(crate) fn take_over(
    disk: &dyn Disk,
    env: &Env,
    encryption: &Encryption,
    interval: bool,
    check: impl FnOnce(&Survey) -> Result<()>,
) -> Result<(Survey, Epoch)> {
    let survey = Survey::take(disk, encryption)?;
    check(&survey)?;
    let number = survey
        .highest_claim()
        .checked_add(1)
        .ok_or_else(|| Error::corrupt("epoch: no higher one is left"))?;
    disk.tighten()
        .map_err(|e| Error::io("restrict the permissions of the store's files", e))?;
    with_room(&survey.unbegun, disk, || layout::claim(disk, number))?;
    // Again: what an owner did until the claim fenced it counts.
    let mut survey = Survey::take(disk, encryption)?;
    check_epoch(disk, number)?;
    let epoch = match survey.epoch {
        Some(last) => Epoch {
            epoch: number,
            // Until the first journal is there, a failed open must not make the next one forget
            // that the last owner acknowledged before it synced.
            interval: last.interval || interval,
            ..last
        },
        None => Epoch {
            epoch: number,
            store: StoreId::random(&*env.random)?,
            lineage: Lineage::random(&*env.random)?,
            journal: 0,
            interval,
        },
    };
    let claims = std::mem::take(&mut survey.claims);
    with_room(&survey.unbegun, disk, || epoch.publish(disk))?;
    // What they said is in this one; tries to open that fail must not leave one each. From the
    // lowest on: see `Seat::check_epoch`.
    for old in claims.range(..number) {
        remove_if_there(disk, &layout::epoch(*old))?;
    }
    Ok((survey, epoch))
}

/// Does what needs a little space. On a full disk, journals that were never begun make it.
fn with_room(unbegun: &[String], disk: &dyn Disk, act: impl Fn() -> Result<()>) -> Result<()> {
    match act() {
        Err(error) if error.is(Code::DiskFull) && !unbegun.is_empty() => {
            for name in unbegun {
                remove_if_there(disk, name)?;
            }
            act()
        }
        result => result,
    }
}

/// Makes the first journal of this owner, a small one if there is no space for a usual one beside
/// what is there and the next image.
fn first_journal(seat: &Seat, number: u64, left: u64) -> Result<Spare> {
    let usual = Engine::first_size(seat.space);
    let size = if usual <= left { usual } else { SMALL };
    let make = |size| {
        let mut task = Prepare::new(seat.options.strategy.log(), number, size);
        loop {
            if let Some(spare) = task.step(&*seat.disk)? {
                return Ok(spare);
            }
        }
    };
    match make(size) {
        Err(error) if Error::is(&error, Code::DiskFull) && size > SMALL => make(SMALL),
        result => result,
    }
}
