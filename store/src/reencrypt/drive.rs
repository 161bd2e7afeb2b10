//! The committer's side: slices of work to the background, and the switch.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;

use super::shadow::{NewLog, is_harmless};
use super::{Reencrypted, Reencrypting, Settle, Shadow};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::format::FRAMES_AT;
use crate::image::Image;
use crate::journal::{Journal, LogFile};
use crate::keyring::{Encryption, KeyId};
use crate::layout;
use crate::options::Strategy;
use crate::past::{Past, removing};
use crate::shared::answer;
use crate::stats::Wrapped;
use crate::task::{Running, Work};

/// Bytes that the shadow may miss for the switch to be made: some milliseconds of its work.
const LITTLE: u64 = 1 << 20;

/// How often more may be missing than before: where writers are as fast as the shadow, they wait for longer.
const PATIENCE: u32 = 8;

/// A re-encryption that is under way.
pub(crate) struct Reencryption {
    waiters: Vec<Sender<Result<Reencrypted>>>,
    stage: Stage,
    /// An image is being written, or is: no fold begins.
    image: bool,
    /// Bytes that the entries in it take.
    live: u64,
    /// Slices since the image was there.
    rounds: u32,
    /// Bytes of the shadow's log files, and of its image.
    written: u64,
    image_written: u64,
    keys: BTreeMap<KeyId, Wrapped>,
    done: Reencrypted,
}

enum Stage {
    /// With the background.
    Away,
    Home(Box<Shadow>),
    /// The shadow is the log; what it replaced takes so many bytes until it is gone.
    Settling(u64),
    /// Key slots are written, for the sake of a keyring that was loaded meanwhile.
    Rewrapping,
}

impl Reencryption {
    /// The switch is not made.
    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Away | Stage::Home(_))
    }

    /// The keys that wrap files which are of no log, or not of the present one, and what each wraps.
    pub fn keys(&self) -> &BTreeMap<KeyId, Wrapped> {
        &self.keys
    }

    /// True while it holds the entries that an image is made of.
    pub fn holds(&self) -> bool {
        self.image && self.is_open()
    }
}

impl Engine {
    /// Begins a re-encryption if someone waits for one, and goes on with the one that there is. The background
    /// is idle.
    pub(crate) fn reencrypt_on(&mut self) {
        if self.reencryption.is_none() {
            self.begin_reencryption();
        }
        let Some(reencryption) = &mut self.reencryption else {
            return;
        };
        match std::mem::replace(&mut reencryption.stage, Stage::Away) {
            Stage::Home(shadow) => {
                if let Err(error) = self.slice(shadow) {
                    self.poison(&error);
                }
            }
            other => reencryption.stage = other,
        }
    }

    fn begin_reencryption(&mut self) {
        let waiters = std::mem::take(&mut *self.shared.reencryptions.lock());
        if waiters.is_empty() {
            return;
        }
        let log = self.shared.feed.durable();
        self.reencryption = Some(Reencryption {
            waiters,
            stage: Stage::Home(Box::new(Shadow::new(log))),
            image: false,
            live: 0,
            rounds: 0,
            written: 0,
            image_written: 0,
            keys: BTreeMap::new(),
            done: Reencrypted::default(),
        });
        let (need, limit) = (self.needed(0, true), self.disk_limit());
        if need <= limit {
            self.tell_reencryption();
            return;
        }
        let past = match self.seat.options.strategy {
            Strategy::Snapshot => self.past.take(),
            Strategy::Ledger => Vec::new(),
        };
        if past.is_empty() {
            let error = Error::new(
                Code::DiskFull,
                format!(
                    "a re-encryption needs {need} bytes of {limit}, for as much log again and an image: make the \
                     budget or the volume larger"
                ),
            );
            self.end_reencryption(&Err(error));
            return;
        }
        // What is kept for watchers goes first. Then it is looked at again.
        if let Some(reencryption) = self.reencryption.take() {
            self.shared
                .reencryptions
                .lock()
                .extend(reencryption.waiters);
        }
        self.report_log();
        self.running = Some(Running::Removal);
        self.background.start(removing(past, Work::Nothing));
    }

    /// The next slice, or the switch.
    fn slice(&mut self, mut shadow: Box<Shadow>) -> Result<()> {
        let Some(journal) = &self.journal else {
            return Err(Error::new(Code::Closed, "the store is closed"));
        };
        let missing = shadow.missing(&journal.describe(), journal.end().0);
        let little = missing.is_some_and(|missing| missing <= self.little());
        if little && shadow.has_image() {
            if self.spare.is_none() {
                // Without a journal that is prepared, the log cannot go on behind the shadow.
                self.no_space(shadow, "the log to go on");
                return Ok(());
            }
            return self.switch_logs(shadow);
        }
        let number = self.number;
        let holds = self.reencryption.as_ref().is_some_and(Reencryption::holds);
        // The image waits for what is missing until then, and commits do not.
        if missing.is_some() && !holds && !self.switched {
            if !self.begin_reencryption_image(&mut shadow)? {
                self.no_space(shadow, "the image");
                return Ok(());
            }
        } else {
            shadow.go_on(self.shared.feed.durable(), number);
        }
        if shadow.has_image()
            && let Some(reencryption) = &mut self.reencryption
        {
            reencryption.rounds = (reencryption.rounds + 1).min(PATIENCE);
        }
        self.running = Some(Running::Reencrypt);
        let work = Work::Reencrypt(Some(shadow));
        self.background.start(removing(Vec::new(), work));
        Ok(())
    }

    /// How much may be missing.
    fn little(&self) -> u64 {
        let rounds = self.reencryption.as_ref().map_or(0, |r| r.rounds);
        LITTLE << rounds
    }

    /// False if there is no space for it: it is not waited for, which would take the processor's time and no end.
    fn begin_reencryption_image(&mut self, shadow: &mut Shadow) -> Result<bool> {
        self.flush()?;
        let log = self.shared.feed.durable();
        shadow.go_on(log, self.number);
        if !self.image_may_fit() || !self.fold_fits() {
            return Ok(false);
        }
        let view = self.shared.view.load_full();
        self.retained = 0;
        if let Some(reencryption) = &mut self.reencryption {
            reencryption.image = true;
            reencryption.live = view.index.image_bytes();
        }
        shadow.want_image(view);
        Ok(true)
    }

    fn no_space(&mut self, shadow: Box<Shadow>, what: &str) {
        self.keep(shadow);
        let error = format!("the re-encryption was given up: there is no space for {what}");
        self.abandon_reencryption(Error::new(Code::DiskFull, error));
    }

    fn keep(&mut self, shadow: Box<Shadow>) {
        if let Some(reencryption) = &mut self.reencryption {
            reencryption.written = shadow.written();
            reencryption.image_written = shadow.image_written();
            reencryption.keys = shadow.keys();
            reencryption.stage = Stage::Home(shadow);
        }
        // What it has written is not free any more.
        self.shortage.forget_free();
        self.tell_reencryption();
    }

    /// A slice is done.
    pub(crate) fn sliced(&mut self, shadow: Box<Shadow>) {
        self.number = self.number.max(shadow.number);
        self.keep(shadow);
        self.report_keys();
        // From now on no keyring is loaded that lacks them; one may have been while they were in nobody's list.
        let Some(keys) = self.reencryption.as_ref().map(Reencryption::keys) else {
            return;
        };
        let encryption = self.seat.encryption.lock();
        let missing = match &*encryption {
            Encryption::Keyring(keyring) => keys.keys().find(|id| keyring.get(id).is_none()),
            _ => None,
        };
        let missing = missing.cloned();
        drop(encryption);
        if let Some(id) = missing {
            let error =
                format!("key {id}, which wraps what was sealed anew, was taken away meanwhile");
            self.abandon_reencryption(Error::new(Code::KeyMissing, error));
        }
    }

    /// Ends it with this error, and has its files removed.
    fn abandon_reencryption(&mut self, error: Error) {
        let names = self.take_reencryption(error);
        self.running = Some(Running::Removal);
        self.background.start(removing(names, Work::Nothing));
    }

    /// A slice failed in a way that leaves the store as it is; its files are gone.
    pub(crate) fn slice_failed(&mut self, error: Error) {
        self.shortage.forget_free();
        self.end_reencryption(&Err(error));
    }

    /// Puts the shadow in the place of the log, between two groups.
    fn switch_logs(&mut self, mut shadow: Box<Shadow>) -> Result<()> {
        self.flush()?;
        shadow.go_on(self.shared.feed.durable(), self.number);
        match shadow.catch_up(&self.seat) {
            Err(error) if is_harmless(&error) => {
                self.slice_failed(error);
                return Ok(());
            }
            result => result?,
        }
        let mut new = shadow.finish()?;
        // An owner that was overtaken gives no file another name.
        self.seat.check_epoch()?;
        // Numbers order names: for salvage, which has nothing better.
        if let Some(spare) = &mut self.spare
            && spare.number < new.number
        {
            let name = layout::log(self.seat.options.strategy.log(), new.number);
            let renamed = self.seat.disk.rename(&spare.name, &name);
            renamed.map_err(|e| Error::io(format!("rename {}", spare.name), e))?;
            (spare.name, spare.number) = (name, new.number);
            new.number += 1;
        }
        self.number = self.number.max(new.number);
        // From here on nothing is taken back: an error does not say whether the image has its name.
        let image = loop {
            if let Some(image) = new.image.task.step(&self.seat)? {
                break image;
            }
        };
        self.adopt(new, image)
    }

    /// Goes on in the new log, and has the old one removed.
    fn adopt(&mut self, new: NewLog, image: Image) -> Result<()> {
        let Some(old) = self.journal.take() else {
            return Err(Error::new(Code::Closed, "the store is closed"));
        };
        let replaced: Vec<LogFile> = self.ended().cloned().chain([old.describe()]).collect();
        let old_image = self.image.take();
        let files = replaced.iter().map(|file| (file.key_id.as_ref(), file.len));
        let images = old_image.iter();
        let images = images.map(|image| (image.key_id.as_ref(), image.len));
        let keys = Wrapped::by_key(files.chain(images));
        let bytes: u64 = replaced.iter().map(|file| file.len).sum();
        let old_image = old_image.filter(|old| old.name != image.name);
        let bytes = bytes + old_image.as_ref().map_or(0, |image| image.len);
        let mut gone: Vec<String> = replaced.into_iter().map(|file| file.name).collect();
        gone.extend(old_image.map(|image| image.name));

        let files = new.sealed.iter().chain([&new.last]);
        let names: Vec<String> = files.map(|file| file.name.clone()).collect();
        let held = new
            .sealed
            .iter()
            .position(|file| file.file == new.image.file);
        let mut sealed = new.sealed;
        let mut older = sealed.split_off(held.unwrap_or(sealed.len()));
        let covered = new.image.covered;
        match older.first_mut() {
            Some(first) => first.used = first.used.saturating_sub(covered),
            None => self.covered = covered,
        }
        if held.is_some() {
            self.covered = 0;
        }
        let log_bytes: u64 = sealed.iter().chain(&older).map(|file| file.len).sum();
        let journal = Journal::adopt(&self.seat, new.last, new.out, old.number);
        if let Some(reencryption) = &mut self.reencryption {
            reencryption.stage = Stage::Settling(bytes);
            reencryption.keys = keys;
            reencryption.done = Reencrypted {
                files: names.len() as u64 + 1,
                bytes: log_bytes + journal.used() + FRAMES_AT + image.len,
            };
            self.image_live = reencryption.live;
        }
        self.past = Past::new(sealed);
        self.older = older;
        self.image = Some(image);
        self.retained = 0;
        self.journal = Some(journal);
        self.switch()?;
        self.running = Some(Running::Settle);
        self.background
            .start(removing(gone, Work::Settle(Settle::new(names))));
        Ok(())
    }

    /// What was replaced is gone, and the files have their names.
    pub(crate) fn settled(&mut self) {
        for file in self.past.iter_mut().chain(&mut self.older) {
            if let Some(name) = layout::final_name(&file.name) {
                file.name = name.to_owned();
            }
        }
        if let Some(reencryption) = &mut self.reencryption {
            reencryption.stage = Stage::Rewrapping;
            reencryption.keys.clear();
        }
        self.shortage.clear();
        // It may have a file open that is gone, whose space would not be given back.
        self.shared.archive.lock().take();
        self.report_log();
        self.start_rewrap();
    }

    /// The key slots are as they should be: it is done, if that was the last thing.
    pub(crate) fn reencrypted(&mut self) {
        let last = |reencryption: &&Reencryption| matches!(reencryption.stage, Stage::Rewrapping);
        if let Some(done) = self.reencryption.as_ref().filter(last).map(|r| r.done) {
            self.end_reencryption(&Ok(done));
        }
    }

    fn end_reencryption(&mut self, end: &Result<Reencrypted>) {
        if let Some(reencryption) = self.reencryption.take() {
            if reencryption.holds() && !matches!(self.running, Some(Running::Image { .. })) {
                self.retained = 0;
            }
            *self.shared.reencrypting.lock() = None;
            self.report_keys();
            answer(reencryption.waiters, end);
        }
    }

    /// Gives up a re-encryption whose shadow is here, because a write needs what it takes: its files, which are to be
    /// removed.
    pub(crate) fn give_up_reencryption(&mut self, why: Code) -> Vec<String> {
        let what = if why == Code::MemoryFull {
            "memory"
        } else {
            "disk space"
        };
        let error = Error::new(
            why,
            format!("the re-encryption was given up: a write needed the {what} that it took"),
        );
        self.take_reencryption(error)
    }

    fn take_reencryption(&mut self, error: Error) -> Vec<String> {
        let Some(Stage::Home(shadow)) = self.reencryption.as_ref().map(|r| &r.stage) else {
            return Vec::new();
        };
        let names = shadow.names();
        self.end_reencryption(&Err(error));
        self.shortage.clear();
        names
    }

    /// The same, wherever the shadow is, and with its files removed; behind the switch, it waits for what that
    /// frees. False if there is none.
    pub(crate) fn yield_reencryption(&mut self, why: Code) -> Result<bool> {
        let Some(reencryption) = &self.reencryption else {
            return Ok(false);
        };
        if !reencryption.is_open() {
            // What it replaced is about to go.
            let going = self.running.is_some();
            if going {
                self.wait()?;
            }
            return Ok(going);
        }
        if self.running.is_some() {
            self.wait()?;
        }
        let names = self.give_up_reencryption(why);
        if !names.is_empty() && self.running.is_none() {
            self.running = Some(Running::Removal);
            self.background.start(removing(names, Work::Nothing));
            self.wait()?;
        }
        Ok(true)
    }

    /// True while no image may be written but that of the re-encryption.
    pub(crate) fn image_is_promised(&self) -> bool {
        self.reencryption.as_ref().is_some_and(Reencryption::holds)
    }

    /// True if there is one to give up.
    pub(crate) fn may_give_up(&self) -> bool {
        self.reencryption
            .as_ref()
            .is_some_and(|r| matches!(r.stage, Stage::Home(_)))
    }

    /// Bytes that a re-encryption takes beside the log and images: all of them, and those that are there.
    pub(crate) fn reencryption_bytes(&self) -> (u64, u64) {
        let Some(reencryption) = &self.reencryption else {
            return (0, 0);
        };
        match reencryption.stage {
            Stage::Settling(bytes) => (bytes, bytes),
            Stage::Rewrapping => (0, 0),
            Stage::Away | Stage::Home(_) => {
                let ended: u64 = self.ended().map(|file| file.len).sum();
                let present = self.journal.as_ref().map_or(0, |journal| journal.end().0);
                let all = ended + present;
                (all, reencryption.written.min(all))
            }
        }
    }

    /// Bytes of its image that are there, and in no list of files yet.
    pub(crate) fn reencryption_image(&self) -> u64 {
        let open = self.reencryption.as_ref().filter(|r| r.is_open());
        open.map_or(0, |r| r.image_written)
    }

    /// Says how far it is.
    fn tell_reencryption(&self) {
        let Some(reencryption) = &self.reencryption else {
            return;
        };
        let Stage::Home(shadow) = &reencryption.stage else {
            return;
        };
        let (log, _) = self.reencryption_bytes();
        let done = shadow.done();
        let total = log + self.image.as_ref().map_or(0, |image| image.len);
        let total = total.max(done);
        *self.shared.reencrypting.lock() = Some(Reencrypting { done, total });
    }
}
