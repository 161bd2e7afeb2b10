//! The past: log files that the image holds already, and how long they are kept.
//!
//! A snapshot store keeps some of its log so that watchers can resume, and gives it up first where
//! space is needed. A ledger keeps all of it, unless a [`crate::Retention`] says otherwise. Files
//! go oldest first.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::Engine;
use crate::error::Code;
use crate::journal::LogFile;
use crate::options::{Retention, Strategy};
use crate::recovery::SKIP;
use crate::task::{Running, Task, Work};

/// Most files that a snapshot store keeps, however small they are.
const MOST: usize = 64;

/// Most files that are removed at once, while nothing else is done in the background.
const AT_ONCE: usize = 16;

/// Time between two looks at what may go.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// Log files that the image holds, oldest first.
pub(crate) struct Past {
    files: VecDeque<LogFile>,
    bytes: u64,
    /// Files that are being removed: they need their keys until that is durable.
    pub leaving: Vec<LogFile>,
    trim_at: Duration,
}

impl Past {
    pub fn new(files: Vec<LogFile>) -> Past {
        Past {
            bytes: files.iter().map(|file| file.len).sum(),
            files: files.into(),
            leaving: Vec::new(),
            trim_at: Duration::ZERO,
        }
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut LogFile> {
        self.files.iter_mut()
    }

    /// The image holds these too.
    pub fn extend(&mut self, files: impl Iterator<Item = LogFile>) {
        for file in files {
            self.bytes += file.len;
            self.files.push_back(file);
        }
    }

    /// Lets all go: their names.
    pub fn take(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(name) = self.pop() {
            names.push(name);
        }
        names
    }

    /// Lets the oldest file go: its name.
    fn pop(&mut self) -> Option<String> {
        let file = self.files.pop_front()?;
        let name = file.name.clone();
        self.bytes -= file.len;
        self.leaving.push(file);
        Some(name)
    }
}

impl Engine {
    /// Bytes on disk of the past that can be had by asking for it.
    pub(crate) fn spare_past(&self) -> u64 {
        match self.seat.options.strategy {
            // Being sealed anew: that is given up before.
            _ if self.reencryption.is_some() => 0,
            Strategy::Snapshot => self.past.bytes(),
            Strategy::Ledger => 0,
        }
    }

    /// Starts to remove what need not be kept any longer.
    pub(crate) fn trim(&mut self) {
        let now = self.seat.env.clock.monotonic();
        // What is being sealed anew stays until that is done, or given up.
        if self.reencryption.is_some() {
            self.past.trim_at = now + TRIM_EVERY;
        }
        if now < self.past.trim_at {
            return;
        }
        let mut gone = Vec::new();
        while gone.len() < AT_ONCE && self.may_forget() {
            gone.extend(self.past.pop());
        }
        if gone.len() < AT_ONCE {
            self.past.trim_at = now + TRIM_EVERY;
        }
        if gone.is_empty() {
            return;
        }
        self.report_log();
        self.running = Some(Running::Removal);
        self.background.start(removing(gone, Work::Nothing));
    }

    /// The same at once, because space is needed. True if there was something.
    pub(crate) fn trim_now(&mut self) -> bool {
        self.past.trim_at = Duration::ZERO;
        self.trim();
        self.running.is_some()
    }

    /// When the oldest segment is outlived, if that depends on its age.
    pub(crate) fn trim_due(&self) -> Option<Duration> {
        let age = self.seat.options.retention.age?;
        let (_, time_ms) = self.behind_oldest()?;
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let wait = time_ms
            .saturating_add(age)
            .saturating_sub(self.seat.time.now_ms());
        let now = self.seat.env.clock.monotonic();
        // A far deadline is looked at again long before it comes.
        Some((now + Duration::from_millis(wait.min(3_600_000))).max(self.past.trim_at))
    }

    /// True if the oldest file need not be kept.
    fn may_forget(&self) -> bool {
        let options = &self.seat.options;
        let Some(oldest) = self.past.files.front() else {
            return false;
        };
        match options.strategy {
            Strategy::Snapshot => {
                let keep = options.keep_log.min(self.seat.space / 8);
                self.past.bytes - oldest.len >= keep || self.past.files.len() > MOST
            }
            Strategy::Ledger => self
                .behind_oldest()
                .is_some_and(|(_, time_ms)| self.outlived(options.retention, time_ms)),
        }
    }

    /// First revision and time of the file behind the oldest one.
    fn behind_oldest(&self) -> Option<(u64, u64)> {
        self.past.files.front()?;
        let next = self.past.files.get(1).or(self.older.first());
        match (next, &self.journal) {
            (Some(next), _) => Some((next.first_revision, next.created_ms)),
            (None, Some(journal)) => Some((journal.first_revision, journal.created_ms)),
            (None, None) => None,
        }
    }

    /// True if the oldest file, which ended at that time, is outlived.
    fn outlived(&self, retention: Retention, ended_ms: u64) -> bool {
        let now = self.seat.time.now_ms();
        let old = retention.age.map(|age| {
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            ended_ms.saturating_add(age) <= now
        });
        let many = retention
            .revisions
            .map(|wanted| self.kept_behind_oldest() >= wanted);
        match (old, many) {
            (None, None) => false,
            (old, many) => old != Some(false) && many != Some(false),
        }
    }

    /// Revisions in all files but the oldest. What an open skipped was never given out.
    fn kept_behind_oldest(&self) -> u64 {
        let present = self.journal.iter().map(|journal| journal.first_revision);
        let firsts = self.ended().skip(1).map(|file| file.first_revision);
        let mut kept = 0;
        let mut last = None;
        for first in firsts.chain(present).chain([self.latest + 1]) {
            kept += last.map_or(0, |last| first.saturating_sub(last) % SKIP);
            last = Some(first);
        }
        kept
    }

    /// Takes as much of a snapshot store's past as must go for `need` more bytes to fit.
    pub(crate) fn make_way(&mut self, need: u64, limit: u64) -> Vec<String> {
        let mut gone = Vec::new();
        let taken = self.disk_used().saturating_add(self.reencryption_image());
        if taken.saturating_add(need) > limit {
            gone = self.give_up_reencryption(Code::DiskFull);
        }
        if self.seat.options.strategy == Strategy::Ledger || self.reencryption.is_some() {
            return gone;
        }
        while self.disk_used().saturating_add(need) > limit
            && let Some(name) = self.past.pop()
        {
            gone.push(name);
        }
        if !gone.is_empty() {
            self.report_log();
        }
        gone
    }

    /// The removals of the task that ended are durable, or its failure has poisoned the store.
    pub(crate) fn removed(&mut self) {
        if !self.past.leaving.is_empty() {
            self.past.leaving.clear();
            // It may have a file open that is gone, whose space would not be given back.
            self.shared.archive.lock().take();
            self.report_keys();
        }
    }

    /// All log files that are not written to any more, oldest first.
    pub(crate) fn ended(&self) -> impl Iterator<Item = &LogFile> {
        self.past.files.iter().chain(&self.older)
    }
}

/// A task that first removes files, oldest first.
pub(crate) fn removing(mut names: Vec<String>, work: Work) -> Task {
    names.reverse();
    Task {
        remove: names,
        work,
    }
}
