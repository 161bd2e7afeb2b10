//! The past: log files that the image holds already, and how long they are kept.
//!
//! A snapshot store keeps some of its log so that watchers can resume, and gives it up first where
//! space is needed. A ledger keeps all of it, unless a [`crate::Retention`] says otherwise. Files
//! go oldest first.

use crate::engine::Engine;
use crate::journal::LogFile;
use crate::options::{Retention, Strategy};
use crate::task::{Running, Task, Work};

/// Most files that a snapshot store keeps, however small they are.
const MOST: usize = 64;

impl Engine {
    /// Bytes on disk of the past.
    pub(crate) fn past_bytes(&self) -> u64 {
        self.past.iter().map(|file| file.len).sum()
    }

    /// Bytes on disk of the past that can be had by asking for it.
    pub(crate) fn spare_past(&self) -> u64 {
        match self.seat.options.strategy {
            Strategy::Snapshot => self.past_bytes(),
            Strategy::Ledger => 0,
        }
    }

    /// Starts to remove what need not be kept any longer.
    pub(crate) fn trim(&mut self) {
        let mut gone = Vec::new();
        while self.may_forget() {
            gone.extend(self.past.pop_front().map(|file| file.name));
        }
        if gone.is_empty() {
            return;
        }
        self.report_log();
        self.running = Some(Running::Removal);
        self.background.start(self.removing(gone, Work::Nothing));
    }

    /// True if the oldest file need not be kept.
    fn may_forget(&self) -> bool {
        let options = &self.seat.options;
        let Some(oldest) = self.past.front() else {
            return false;
        };
        match options.strategy {
            Strategy::Snapshot => {
                let keep = options.keep_log.min(self.seat.space / 8);
                self.past_bytes() - oldest.len >= keep || self.past.len() > MOST
            }
            Strategy::Ledger => {
                let next = self.past.get(1).or(self.older.first());
                let next = next.map(|file| (file.first_revision, file.created_ms));
                next.is_some_and(|next| self.outlived(options.retention, next))
            }
        }
    }

    /// True if a file that is followed by one of that first revision and time is outlived.
    fn outlived(&self, retention: Retention, (revision, time_ms): (u64, u64)) -> bool {
        let now = self.seat.time.now_ms();
        let old = retention.age.map(|age| {
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            time_ms.saturating_add(age) <= now
        });
        let many = retention
            .revisions
            .map(|kept| revision.saturating_add(kept) <= self.latest.saturating_add(1));
        match (old, many) {
            (None, None) => false,
            (old, many) => old != Some(false) && many != Some(false),
        }
    }

    /// Takes as much of a snapshot store's past as must go for `need` more bytes to fit.
    pub(crate) fn make_way(&mut self, need: u64, limit: u64) -> Vec<String> {
        let mut gone = Vec::new();
        if self.seat.options.strategy == Strategy::Ledger {
            return gone;
        }
        while !self.past.is_empty() && self.disk_used().saturating_add(need) > limit {
            gone.extend(self.past.pop_front().map(|file| file.name));
        }
        if !gone.is_empty() {
            self.report_log();
        }
        gone
    }

    /// A task that first removes files, oldest first.
    pub(crate) fn removing(&self, mut names: Vec<String>, work: Work) -> Task {
        names.reverse();
        Task {
            remove: names,
            // A ledger with a gap in it would not open: what a crash leaves has lost its oldest
            // files, and no others.
            in_order: self.seat.options.strategy == Strategy::Ledger,
            work,
        }
    }

    /// All log files that are not written to any more, oldest first.
    pub(crate) fn ended(&self) -> impl Iterator<Item = &LogFile> {
        self.past.iter().chain(&self.older)
    }
}
