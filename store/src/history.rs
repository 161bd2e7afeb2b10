//! History: what a ledger remembers. Each question reads the part of the log that it asks about.

use std::sync::Arc;

use crate::entry::Entry;
use crate::error::{Code, Error, Result};
use crate::log::{Change, ChangeOp, LogCursor, past_gone};
use crate::options::{Options, Strategy};
use crate::shared::Shared;
use crate::store::Store;
use crate::txn::check_key;

/// What became of a key at one revision.
#[derive(Debug, Clone)]
pub struct Version {
    /// The revision.
    pub revision: u64,
    /// The store's time then: milliseconds since 1970.
    pub time_ms: u64,
    /// Who did it, if they said.
    pub actor: Option<String>,
    /// The entry from then on; `None`: it was deleted, or expired.
    pub entry: Option<Entry>,
    /// True if its time was over, rather than that someone deleted it.
    pub expired: bool,
}

/// The changes between two revisions: see [`Store::changes`].
pub struct Changes {
    cursor: LogCursor,
    to: u64,
    done: bool,
}

impl Iterator for Changes {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Result<Change>> {
        if self.done || self.cursor.wants() > self.to {
            return None;
        }
        let next = self.cursor.next().transpose();
        let over = |change: &Change| change.revision > self.to;
        let next = next.filter(|next| !next.as_ref().is_ok_and(over));
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

impl Store {
    /// The changes from revision `from` to `to`, both included, in order. Only a ledger has them:
    /// `unsupported` otherwise. `past-gone` if retention has taken the first of them.
    pub fn changes(&self, from: u64, to: u64) -> Result<Changes> {
        let shared = self.shared();
        let durable = require_ledger(shared)?;
        if from == 0 || to < from {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("revisions {from} to {to} are no range: it begins at 1 or above"),
            ));
        }
        if from < durable.log.first_revision() {
            return Err(past_gone(from, &durable));
        }
        Ok(Changes {
            cursor: LogCursor::new(shared.clone(), from),
            to: to.min(durable.revision),
            done: from > durable.revision,
        })
    }

    /// What became of a key, from the oldest revision that is kept to the latest: at most `limit`
    /// versions from revision `from` on. To go on, ask from the last one's revision plus one. It
    /// reads the whole log from there, so its cost is that of the history and not of the key.
    pub fn history(&self, key: &[u8], from: u64, limit: usize) -> Result<Vec<Version>> {
        self.versions(key, from)?.take(limit).collect()
    }

    /// The same, one version after the other, up to what is the latest revision now.
    pub fn versions(
        &self,
        key: &[u8],
        from: u64,
    ) -> Result<impl Iterator<Item = Result<Version>> + use<>> {
        check_key(key)?;
        let durable = require_ledger(self.shared())?;
        let from = from.max(durable.log.first_revision()).max(1);
        let changes = if from > durable.revision {
            None
        } else {
            Some(self.changes(from, durable.revision)?)
        };
        let key = key.to_vec();
        let changes = changes.into_iter().flatten();
        Ok(
            changes
                .filter_map(move |change| change.map(|change| version(&key, change)).transpose()),
        )
    }

    /// The entry of a key as it was right after a revision, expired or not; `None` if it was not
    /// there. `past-gone` where the log does not reach back far enough to know. It reads the log
    /// up to that revision.
    pub fn get_at(&self, key: &[u8], revision: u64) -> Result<Option<Entry>> {
        check_key(key)?;
        let durable = require_ledger(self.shared())?;
        if revision > durable.revision {
            return Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "revision {revision} is not there yet: the store is at revision {}",
                    durable.revision
                ),
            ));
        }
        // An entry that is still there was so all the time since.
        if let Some(entry) = self.shared().view.load().index.get(key)
            && entry.modified() <= revision
        {
            return Ok(Some(entry));
        }
        let first = durable.log.first_revision().max(1);
        if revision + 1 < first {
            return Err(past_gone(revision, &durable));
        }
        if revision == 0 {
            return Ok(None);
        }
        let mut last = None;
        if revision >= first {
            for change in self.changes(first, revision)? {
                last = version(key, change?).or(last);
            }
        }
        match last {
            Some(version) => Ok(version.entry),
            None if first == 1 => Ok(None),
            None => self.before(key, revision, first),
        }
    }

    /// The entry of a key that the kept log does not name up to `revision`: it was not there if
    /// what comes next creates it; otherwise its value is gone.
    fn before(&self, key: &[u8], revision: u64, first: u64) -> Result<Option<Entry>> {
        // With an interval, what took the key away may not be in the log yet.
        let shown = self.shared().view.load().revision;
        let logged = self.shared().feed.wait(shown, Options::MAX_INTERVAL * 2);
        let durable = self.shared().feed.durable();
        if !logged {
            return Err(past_gone(revision, &durable));
        }
        if revision < durable.revision {
            for change in self.changes(revision + 1, durable.revision)? {
                let Some(next) = version(key, change?) else {
                    continue;
                };
                let created = next.entry.as_ref().map(Entry::created);
                if created.is_none_or(|created| created < first) {
                    return Err(past_gone(revision, &durable));
                }
                break;
            }
        }
        Ok(None)
    }
}

fn require_ledger(shared: &Arc<Shared>) -> Result<crate::feed::Durable> {
    if shared.seat.options.strategy == Strategy::Ledger {
        return Ok(shared.feed.durable());
    }
    Err(Error::new(
        Code::Unsupported,
        "this store keeps the present only: history needs the ledger strategy",
    ))
}

fn version(key: &[u8], change: Change) -> Option<Version> {
    let op = change.ops.into_iter().find(|op| op.key() == key)?;
    let expired = matches!(op, ChangeOp::Expire(_));
    let entry = match op {
        ChangeOp::Set(entry) => Some(entry),
        ChangeOp::Delete(_) | ChangeOp::Expire(_) => None,
    };
    Some(Version {
        revision: change.revision,
        time_ms: change.time_ms,
        actor: change.actor,
        entry,
        expired,
    })
}
