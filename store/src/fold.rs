//! Folding: a new image takes the place of the old one, and the journals behind it become the past.
//!
//! The order is what makes a crash harmless at every point: the next journal is prepared, zeros
//! and directory entry synced; the log switches to it between two groups, at revision R; image R
//! is written under a temporary name, synced, renamed, and its directory entry synced; only then
//! what is older is deleted. Writers go on all the while, in the journal and in a spare one that
//! was prepared before the image was begun.
//!
//! A switch ends the present journal with a frame of its own, the hand-over: empty, synced, and
//! written only when its successor is durable. So whoever finds it in the last journal knows that
//! the successor is missing, and the file `epoch` need not name each journal, only an owner's
//! first.

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::image::WriteImage;
use crate::journal::Journal;
use crate::layout;
use crate::past::removing;
use crate::reencrypt;
use crate::space::{Claim, REOPEN};
use crate::task::{Done, Running, Work};

/// Journals smaller than this are not worth a fold.
const WORTH: u64 = 4 << 20;

/// Most journals before a fold, however small they are: each open begins one.
const MOST: usize = 16;

impl Engine {
    /// Bytes of frames that the image does not hold.
    pub(crate) fn since_image(&self) -> u64 {
        let older: u64 = self.older.iter().map(|journal| journal.used).sum();
        let present = self.journal.as_ref().map_or(0, Journal::used);
        older + present - self.covered.min(present)
    }

    fn fold_due(&self) -> bool {
        let live = self.index.image_bytes();
        let worth = live.max(WORTH).min(self.seat.space / 8);
        let since = self.since_image();
        let due = (since >= worth && since > 0)
            || self.older.len() >= MOST
            || (self.journals_press() && since > 0);
        due && self.image_may_fit() && !self.image_is_promised()
    }

    /// Takes in what the background did, and gives it more.
    pub(crate) fn maintain(&mut self) {
        if self.running.is_some()
            && let Some(result) = self.background.poll()
        {
            // A failure has poisoned the store.
            let _handled = self.take_in(result);
        }
        if self.running.is_some() || self.shared.poison().is_some() || self.journal.is_none() {
            return;
        }
        if self.spare.is_none() {
            self.prepare(0, Claim::Anyone);
        }
        if self.running.is_none()
            && let Err(error) = self.fold_if_due()
        {
            self.poison(&error);
            return;
        }
        if self.running.is_none() {
            self.rewrap_if_asked();
        }
        if self.running.is_none() {
            self.reencrypt_on();
        }
        if self.running.is_none() {
            self.trim();
        }
    }

    /// Switches, prepares the next spare, and only then starts the image: while that is written,
    /// no journal can be prepared, and writers would wait for the rest of it.
    fn fold_if_due(&mut self) -> Result<()> {
        if std::mem::take(&mut self.switched) {
            return self.start_image();
        }
        if !self.fold_due() {
            return Ok(());
        }
        if self.spare.is_none() || !self.fold_fits() {
            return self.start_fold();
        }
        self.switch()?;
        self.prepare(0, Claim::Anyone);
        if self.running.is_none() {
            return self.start_image();
        }
        self.switched = true;
        Ok(())
    }

    /// Switches journals if a spare is there, and starts an image of what readers see, if it fits.
    /// Without a spare the log goes on in the middle of the present journal.
    pub(crate) fn start_fold(&mut self) -> Result<()> {
        if self.image_is_promised() {
            self.yield_reencryption(Code::DiskFull)?;
        }
        if self.running.is_some() || !self.image_may_fit() || !self.fold_fits() {
            return Ok(());
        }
        self.settle()?;
        if self.spare.is_some() {
            self.switch()?;
        }
        self.start_image()
    }

    fn start_image(&mut self) -> Result<()> {
        if !self.image_may_fit() || !self.fold_fits() {
            return Ok(());
        }
        self.switched = false;
        self.settle()?;
        let Some(journal) = &self.journal else {
            return Err(Error::new(Code::Closed, "the store is closed"));
        };
        let view = self.shared.view.load_full();
        let live = view.index.image_bytes();
        let (link, covered) = (journal.link(), journal.used() - self.covered);
        let garbage = self.old_image(view.revision).into_iter().collect();
        let task = WriteImage::new(view, link, garbage);
        let limit = self.disk_limit();
        let gone = self.make_way(task.estimate().saturating_add(REOPEN), limit);
        self.running = Some(Running::Image {
            estimate: task.estimate(),
            live,
            older: self.older.len(),
            covered,
        });
        let task = removing(gone, Work::Image(Box::new(task)));
        self.background.start(task);
        Ok(())
    }

    /// Rewrites all live data into new files, as after a failed sync, and waits for it.
    pub(crate) fn rewrite(&mut self) -> Result<()> {
        let view = Arc::clone(&self.shared.view.load());
        let Some(journal) = &self.journal else {
            return Err(Error::new(Code::Closed, "the store is closed"));
        };
        // Taken from the end: the mark goes last, when everything it warns of is gone.
        let mut garbage = vec![layout::SUSPECT.to_owned()];
        garbage.extend(self.old_image(view.revision));
        let task = WriteImage::new(view, journal.link(), garbage);
        let limit = self.disk_limit();
        let gone = self.make_way(task.estimate().saturating_add(REOPEN), limit);
        let mut task = removing(gone, Work::Image(Box::new(task)));
        let done = task.run(&self.seat, || false)?;
        let live = self.index.image_bytes();
        let older = self.older.len();
        self.running = Some(Running::Image {
            estimate: 0,
            live,
            older,
            covered: 0,
        });
        self.take_in(Ok(done))
    }

    /// The name of the image that one of `revision` makes superfluous.
    fn old_image(&self, revision: u64) -> Option<String> {
        let old = self.image.as_ref().map(|image| image.name.clone());
        old.filter(|name| *name != layout::image(revision))
    }

    /// Goes on in the spare. The frames of the present journal are all synced.
    pub(crate) fn switch(&mut self) -> Result<()> {
        let (Some(spare), Some(journal)) = (self.spare.take(), self.journal.take()) else {
            return Err(Error::internal("switch without a spare journal"));
        };
        let used = journal.used() - self.covered;
        let begun = Journal::begin(&self.seat, spare, journal.link(), self.unlogged)
            .and_then(|next| Ok((next, journal.hand_over(&self.seat, used)?)));
        let (next, ended) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                self.poison(&error);
                return Err(self.shared.poison().cloned().unwrap_or(error));
            }
        };
        self.older.push(ended);
        self.covered = 0;
        self.journal = Some(next);
        self.report_log();
        Ok(())
    }

    /// Waits for the background and takes in what it did. What was acknowledged before it was
    /// written is written first: the wait may be longer than the interval.
    pub(crate) fn wait(&mut self) -> Result<()> {
        self.settle()?;
        let result = self.background.wait();
        self.take_in(result)
    }

    /// Writes what was acknowledged before it was written: an image must not be ahead of the log.
    fn settle(&mut self) -> Result<()> {
        if self.flush_due.is_some()
            && let Err(error) = self.flush()
        {
            self.poison(&error);
            return Err(self.shared.poison().cloned().unwrap_or(error));
        }
        Ok(())
    }

    fn take_in(&mut self, result: Result<Done>) -> Result<()> {
        let Some(running) = self.running.take() else {
            return Err(Error::internal("a result of no task"));
        };
        self.removed();
        match (result, running) {
            (Ok(Done::Spare(spare)), _) => {
                self.shortage.prepared();
                self.spare = Some(spare);
            }
            (
                Ok(Done::Image(image)),
                Running::Image {
                    live,
                    older,
                    covered,
                    ..
                },
            ) => {
                self.shortage.clear();
                self.past
                    .extend(self.older.drain(..older.min(self.older.len())));
                // The journal may have been switched meanwhile: then the oldest one is meant.
                match self.older.first_mut() {
                    Some(oldest) => oldest.used = oldest.used.saturating_sub(covered),
                    None => self.covered += covered,
                }
                self.image = Some(image);
                self.image_live = live;
                self.retained = 0;
                self.gauges.folds += 1;
                self.report_keys();
            }
            (Ok(Done::Removed), Running::Removal) => self.shortage.clear(),
            (Ok(Done::Rewrapped(new)), Running::Rewrap) => self.rewrapped(&new),
            (Ok(Done::Sliced(shadow)), Running::Reencrypt) => self.sliced(shadow),
            (Ok(Done::Settled), Running::Settle) => self.settled(),
            (Err(error), Running::Reencrypt) if reencrypt::is_harmless(&error) => {
                self.slice_failed(error);
            }
            (Ok(_), _) => {
                return Err(Error::internal("a result of another task"));
            }
            // What was not done may be tried again, but for the end of a re-encryption and a rewrap: someone waits for them, and
            // what they have begun is half there.
            (Err(error), running)
                if error.is(Code::DiskFull)
                    && !matches!(running, Running::Settle | Running::Rewrap) =>
            {
                if matches!(running, Running::Image { .. }) {
                    self.retained = 0;
                }
                self.note_shortage(running);
            }
            (Err(error), _) => {
                self.poison(&error);
                return Err(self.shared.poison().cloned().unwrap_or(error));
            }
        }
        Ok(())
    }
}
