//! The state machine: commits, journals, folds, expiry.
//!
//! An [`Engine`] has no threads and no clock of its own: it does what it is told to in
//! [`Engine::execute`], [`Engine::tick`] and [`Engine::close`], and hands longer work to a
//! [`Background`]. In a store these are called by the committer's thread and the background is
//! another thread; in a simulation one thread does everything in an order drawn from a seed.
//!
//! What a write goes through: its program runs on a working copy of the index ([`Index`] clones in
//! constant time); [`crate::space`] admits what it wrote or undoes it; the group's batches become
//! one frame, written and synced; the epoch is read again; the working copy is published to
//! readers; everyone is answered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::feed::Log;
use crate::image::Image;
use crate::index::{Index, View};
use crate::journal::{Journal, LogFile, Spare};
use crate::layout;
use crate::options::Durability;
use crate::past::Past;
use crate::reencrypt::Reencryption;
use crate::rewrap::Rewrapped;
use crate::seat::Seat;
use crate::shared::{FileKeys, Gauges, Shared};
use crate::stats::Wrapped;
use crate::task::{Background, Done, Running};
use crate::txn::{Encoded, Moment, Txn, Workspace};

/// Payload bytes at which a group is written even if more is waiting.
const GROUP: usize = 1 << 20;

/// Expired entries removed in one batch.
const SWEEP: usize = 4096;

/// A sync that is waited for where it is called: two hand-overs between threads cost a good part of
/// this on an idle machine, and a disk behind a network takes longer.
const SWIFT: Duration = Duration::from_micros(250);

/// What a sync is taken to need before there was one, so that the first ones show.
const UNKNOWN: Duration = Duration::from_millis(1);

/// Time between two removals of expired entries; reads do not see those anyway.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A waiting program with whoever waits for it.
pub(crate) trait Job: Send {
    /// Runs the program and keeps its answer. True if it succeeded, and may be committed.
    fn run(&mut self, txn: &mut Txn<'_>) -> bool;
    /// Replaces the answer.
    fn refuse(&mut self, error: Error);
    /// Gives the answer.
    fn answer(self: Box<Self>);
}

/// One store's writing side.
pub(crate) struct Engine {
    pub(crate) seat: Arc<Seat>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) background: Box<dyn Background>,
    pub(crate) running: Option<Running>,
    /// Working copy: the published view and what was run since.
    pub(crate) index: Index,
    /// The latest revision in the working copy.
    pub(crate) latest: u64,
    /// The revision that the next batch gets.
    pub(crate) next: u64,
    /// The first revision that is not in a frame yet.
    pub(crate) unlogged: u64,
    /// Batches that are not in a frame yet.
    pub(crate) payload: Vec<u8>,
    pub(crate) batch: Vec<u8>,
    pub(crate) work: Workspace,
    /// Gone once closed.
    pub(crate) journal: Option<Journal>,
    pub(crate) spare: Option<Spare>,
    /// Log files that the image does not hold, oldest first.
    pub(crate) older: Vec<LogFile>,
    /// Log files that it holds, oldest first.
    pub(crate) past: Past,
    pub(crate) image: Option<Image>,
    /// Payload bytes of the entries in the image.
    pub(crate) image_live: u64,
    /// Bytes of the present journal's frames that the image holds.
    pub(crate) covered: u64,
    /// Memory of entries that were replaced while a fold holds them.
    pub(crate) retained: u64,
    /// The next file's number.
    pub(crate) number: u64,
    pub(crate) gauges: Gauges,
    pub(crate) shortage: crate::space::Shortage,
    /// The log was switched for a fold that waits for the next spare.
    pub(crate) switched: bool,
    pub(crate) flush_due: Option<Duration>,
    /// What a sync usually takes, of late.
    usual_sync: Duration,
    /// The re-encryption that is under way.
    pub(crate) reencryption: Option<Reencryption>,
    /// Who waits for the rewrap that is running.
    pub(crate) rewrap_waiters: Vec<Sender<Result<Rewrapped>>>,
    sweep_at: Duration,
}

/// A program's answer and whether it wrote.
struct Ran {
    job: Box<dyn Job>,
    wrote: bool,
}

impl Engine {
    /// An engine that goes on from a recovered state with a journal that was just begun.
    pub fn new(
        shared: Arc<Shared>,
        background: Box<dyn Background>,
        recovered: crate::recovery::Recovered,
        journal: Journal,
    ) -> Engine {
        let view = shared.view.load_full();
        let mut engine = Engine {
            seat: shared.seat.clone(),
            background,
            running: None,
            index: view.index.clone(),
            latest: view.revision,
            next: recovered.next_revision,
            unlogged: recovered.next_revision,
            payload: Vec::new(),
            batch: Vec::new(),
            work: Workspace::default(),
            number: journal.number + 1,
            journal: Some(journal),
            spare: None,
            older: recovered.older,
            past: Past::new(recovered.past),
            image_live: view.index.image_bytes(),
            image: recovered.image,
            covered: 0,
            retained: 0,
            gauges: Gauges::default(),
            shortage: crate::space::Shortage::default(),
            switched: false,
            flush_due: None,
            usual_sync: UNKNOWN,
            reencryption: None,
            rewrap_waiters: Vec::new(),
            sweep_at: Duration::ZERO,
            shared,
        };
        engine.report();
        engine.shared.feed.begin(engine.latest);
        engine.report_log();
        engine
    }

    /// Runs programs in order, commits what they wrote in as few frames as possible, and answers
    /// each.
    pub fn execute(&mut self, jobs: impl IntoIterator<Item = Box<dyn Job>>) {
        self.shortage.forget_free();
        let mut group = Vec::new();
        for mut job in jobs {
            let wrote = self.run(&mut *job);
            group.push(Ran { job, wrote });
            if self.payload.len() >= GROUP {
                self.commit(&mut group);
            }
        }
        self.commit(&mut group);
        self.report();
    }

    /// True if a caller that has more to do than to wait may run programs that write about `bytes`:
    /// no room must be made for them in the log or in a budget, and what is on disk before it is
    /// answered will take the disk no longer than a hand-over to another thread and back does.
    ///
    /// `gathered`: they are all that came together. One of many that come one by one must not sync for itself.
    pub fn is_swift(&mut self, bytes: usize, gathered: bool) -> bool {
        let payload = self.payload.len() + bytes;
        let synced = self.seat.options.durability == Durability::Always;
        payload < GROUP
            && (!synced || (gathered && self.usual_sync < SWIFT))
            && self.has_room(payload)
    }

    /// Does what is due: takes in finished background work and starts more, removes what expired,
    /// writes what was acknowledged before it was written.
    pub fn tick(&mut self) {
        if self.shared.poison().is_some() || self.journal.is_none() {
            return;
        }
        let now = self.seat.env.clock.monotonic();
        if self.flush_due.is_some_and(|due| due <= now)
            && let Err(error) = self.flush()
        {
            self.poison(&error);
            return;
        }
        self.shared.holds.expire(now);
        self.sweep(now);
        self.maintain();
        self.report();
    }

    /// When [`Engine::tick`] is due next, by the monotonic clock.
    pub fn due(&self) -> Option<Duration> {
        if self.shared.poison().is_some() {
            return None;
        }
        let now = self.seat.env.clock.monotonic();
        let expiry = self.index.next_expiry().map(|at| {
            let wait = at.saturating_sub(self.seat.time.now_ms());
            // A far deadline is looked at again long before it comes.
            (now + Duration::from_millis(wait.min(3_600_000))).max(self.sweep_at)
        });
        let trim = self.trim_due();
        expiry.into_iter().chain(self.flush_due).chain(trim).min()
    }

    /// Writes what is left, and a closing frame. The background work is given up.
    pub fn close(&mut self) -> Result<()> {
        self.background.stop();
        self.shared.give_up_rewraps();
        self.rewrap_waiters.clear();
        self.reencryption = None;
        if let Some(error) = self.shared.poison() {
            return Err(error.clone());
        }
        let closed = self.flush().and_then(|()| match self.journal.take() {
            Some(journal) => journal.close(&self.seat),
            None => Ok(()),
        });
        // It was never begun, and the next open would only read it in vain.
        let spare = match self.background.poll() {
            Some(Ok(Done::Spare(spare))) => Some(spare),
            _ => self.spare.take(),
        };
        if let Some(spare) = spare {
            let _harmless = self.seat.disk.remove(&spare.name);
        }
        self.shared.feed.end();
        closed.inspect_err(|error| self.poison(error))
    }

    /// Runs one program on the working copy. True if it wrote, and that was admitted.
    fn run(&mut self, job: &mut dyn Job) -> bool {
        if let Some(error) = self.shared.poison() {
            job.refuse(error.clone());
            return false;
        }
        let before = self.before();
        let at = self.moment();
        let mut txn = Txn::new(
            &mut self.index,
            &mut self.work,
            at,
            self.seat.options.max_value,
        );
        self.batch.clear();
        let encoded = match catch_unwind(AssertUnwindSafe(|| job.run(&mut txn))) {
            Ok(true) => txn.encode(false, &mut self.batch),
            Ok(false) => {
                self.work.undo(&mut self.index);
                return false;
            }
            Err(_) => Err(Error::internal("the program panicked")),
        };
        let admitted = match encoded {
            Ok(Encoded::Nothing) => {
                self.work.undo(&mut self.index);
                return false;
            }
            Ok(encoded) => self.admit(before, encoded == Encoded::Sets),
            Err(error) => Err(error),
        };
        if let Err(error) = admitted {
            self.work.undo(&mut self.index);
            job.refuse(error);
            return false;
        }
        self.accept();
        true
    }

    /// Takes the batch into the group.
    fn accept(&mut self) {
        let replaced = self.work.finish();
        self.shared.holds.replaced(replaced);
        if matches!(self.running, Some(Running::Image { .. })) || self.image_is_promised() {
            self.retained += replaced;
        }
        if self.payload.is_empty() {
            std::mem::swap(&mut self.payload, &mut self.batch);
        } else {
            self.payload.extend_from_slice(&self.batch);
        }
        self.latest = self.next;
        self.next += 1;
        self.gauges.commits += 1;
    }

    fn moment(&self) -> Moment {
        Moment {
            latest: self.latest,
            next: self.next,
            now_ms: self.seat.time.now_ms(),
        }
    }

    /// Makes a group as durable as promised, shows it to readers, and answers it.
    fn commit(&mut self, group: &mut Vec<Ran>) {
        let wrote = group.iter().any(|ran| ran.wrote);
        let failed = match self.seat.options.durability {
            _ if !wrote => self.shared.poison().cloned(),
            Durability::Always => self.flush().err().inspect(|error| self.poison(error)),
            // A later program of the group may have poisoned the store: the payload is gone then.
            Durability::Interval(every) => {
                let poison = self.shared.poison().cloned();
                if poison.is_none() {
                    let now = self.seat.env.clock.monotonic();
                    self.flush_due.get_or_insert(now.saturating_add(every));
                }
                poison
            }
        };
        if let Some(error) = failed {
            let unknown = Error::new(
                Code::OutcomeUnknown,
                format!("the change may or may not be on disk: {error}"),
            )
            .with_source(error);
            for ran in group.drain(..) {
                let mut job = ran.job;
                match self.shared.poison() {
                    Some(poisoned) if !ran.wrote => job.refuse(poisoned.clone()),
                    _ => job.refuse(unknown.clone()),
                }
                job.answer();
            }
            return;
        }
        let early = self.seat.options.durability != Durability::Always;
        if wrote && early && self.shared.poison().is_none() {
            self.publish();
        }
        for ran in group.drain(..) {
            ran.job.answer();
        }
        if self.payload.len() >= GROUP
            && let Err(error) = self.flush()
        {
            self.poison(&error);
        }
    }

    /// Shows to readers what was accepted, without the batch of a program that is running.
    fn publish(&mut self) {
        let view = View {
            index: self.work.without(&self.index),
            revision: self.latest,
        };
        self.shared.view.store(Arc::new(view));
    }

    /// Writes the batches that are waiting as one frame, syncs it, checks that the store is still
    /// ours, and shows them to readers, and then to watchers.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.flush_due = None;
        // First: a group whose payload a failure threw away must not pass for written.
        if let Some(error) = self.shared.poison() {
            return Err(error.clone());
        }
        if self.payload.is_empty() {
            return Ok(());
        }
        let journal = self
            .journal
            .as_mut()
            .ok_or_else(|| Error::new(Code::Closed, "the store is closed"))?;
        let offset = journal.seal(&self.seat, &self.payload)?;
        journal.write(offset)?;
        let before = self.seat.env.clock.monotonic();
        journal.sync()?;
        let took = self.seat.env.clock.monotonic().saturating_sub(before);
        self.usual_sync = self.usual_sync.saturating_mul(7).saturating_add(took) / 8;
        self.seat.check_epoch()?;
        let end = journal.end();
        self.publish();
        self.shared
            .feed
            .logged((self.unlogged, self.latest), end, &self.payload);
        self.payload.clear();
        self.payload.shrink_to(GROUP);
        self.batch.shrink_to(GROUP);
        self.unlogged = self.next;
        self.gauges.groups += 1;
        self.gauges.synced(took);
        Ok(())
    }

    /// Removes entries whose time is over, as a batch of its own.
    fn sweep(&mut self, now: Duration) {
        if now < self.sweep_at {
            return;
        }
        let at = self.moment();
        let gone: Vec<_> = self.index.expired(at.now_ms).take(SWEEP).cloned().collect();
        if gone.is_empty() {
            return;
        }
        // More of them are taken at once, without waiting.
        self.sweep_at = if gone.len() < SWEEP {
            now + SWEEP_EVERY
        } else {
            now
        };
        let before = self.before();
        let mut txn = Txn::new(
            &mut self.index,
            &mut self.work,
            at,
            self.seat.options.max_value,
        );
        for entry in &gone {
            txn.expire(entry);
        }
        self.batch.clear();
        let done = txn
            .encode(true, &mut self.batch)
            .and_then(|_| self.admit(before, false));
        if done.is_err() {
            // No room for it now: readers do not see the entries anyway.
            self.work.undo(&mut self.index);
            self.sweep_at = now + SWEEP_EVERY;
            return;
        }
        self.accept();
        self.gauges.expired += gone.len() as u64;
        if let Err(error) = self.flush() {
            self.poison(&error);
        }
    }

    /// Refuses writes from now on, goes back to what readers see, and leaves a mark for the next
    /// open: what the page cache shows may not be on disk.
    pub(crate) fn poison(&mut self, cause: &Error) {
        if self.shared.poison().is_none() && !cause.is(Code::Fenced) {
            // Nothing can be done if this fails too; it need not be durable, for a crash of the
            // machine empties the page cache.
            let _mark = self.seat.disk.create(layout::SUSPECT);
        }
        self.shared.set_poison(cause);
        self.rewrap_waiters.clear();
        self.reencryption = None;
        let view = self.shared.view.load();
        self.index = view.index.clone();
        self.latest = view.revision;
        self.payload.clear();
        self.work = Workspace::default();
    }

    /// Brings the numbers that others see up to date.
    fn report(&mut self) {
        // What a re-encryption will take is counted ahead where space is given out, and not here.
        let (promised, there) = self.reencryption_bytes();
        self.gauges.disk_bytes = self.disk_used() - (promised - there);
        self.gauges.memory_bytes = self.memory_used();
        self.gauges.journal_bytes = self.since_image();
        self.gauges.image_bytes = self.image.as_ref().map_or(0, |image| image.len);
        self.gauges.messages = self.journal.as_ref().map_or(0, Journal::messages);
        self.gauges.log_number = self.journal.as_ref().map_or(0, |journal| journal.number);
        *self.shared.gauges.lock() = self.gauges;
    }

    /// Brings what others see of the log's files up to date.
    pub(crate) fn report_log(&self) {
        let Some(journal) = &self.journal else { return };
        let log = Log {
            ended: self.ended().cloned().collect(),
            present: Some(journal.describe()),
        };
        self.shared.feed.files(log, journal.end());
        self.report_keys();
    }

    /// Brings the key ids that others see up to date, and what each key wraps.
    pub(crate) fn report_keys(&self) {
        let current = self
            .journal
            .as_ref()
            .and_then(|journal| journal.key_id.clone());
        let image = self.image.iter();
        let image = image.map(|image| (image.key_id.as_ref(), image.len));
        let ended = self.ended().chain(&self.past.leaving);
        let ended = ended.map(|file| (file.key_id.as_ref(), file.len));
        let present = self.journal.iter();
        let present = present.map(|journal| (journal.key_id.as_ref(), journal.size));
        let mut needed = Wrapped::by_key(image.chain(ended).chain(present));
        for (id, sealed) in self.reencryption.iter().flat_map(Reencryption::keys) {
            needed.entry(id.clone()).or_default().add(*sealed);
        }
        *self.shared.keys.lock() = FileKeys { current, needed };
    }
}
