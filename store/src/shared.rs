//! What handles, readers and the committer share.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::error::{Code, Error, Result};
use crate::feed::Feed;
use crate::held::Holds;
use crate::index::View;
use crate::keyring::{Encryption, KeyId, Keyring};
use crate::log::Parked;
use crate::reencrypt::{Reencrypted, Reencrypting};
use crate::rewrap::Rewrapped;
use crate::seat::Seat;
use crate::stats::{Finding, SYNC_BOUNDS, Wrapped};

/// Who waits for something that the committer has not begun.
pub(crate) type Waiters<T> = Mutex<Vec<Sender<Result<T>>>>;

/// Answers all of them.
pub(crate) fn answer<T: Clone>(waiters: Vec<Sender<Result<T>>>, answer: &Result<T>) {
    for waiter in waiters {
        // Whoever asked may not wait any more.
        let _gone = waiter.send(answer.clone());
    }
}

/// The part of a store that readers use without waiting for anyone.
pub(crate) struct Shared {
    pub seat: Arc<Seat>,
    pub view: ArcSwap<View>,
    /// The first revision that this owner gives out.
    pub first_revision: u64,
    /// Points in time that are held for backups.
    pub holds: Arc<Holds>,
    pub gauges: Mutex<Gauges>,
    pub keys: Mutex<FileKeys>,
    /// Who waits for a rewrap that has not begun.
    pub rewraps: Waiters<Rewrapped>,
    /// Who waits for a re-encryption that has not begun.
    pub reencryptions: Waiters<Reencrypted>,
    /// How far the one is that is under way.
    pub reencrypting: Mutex<Option<Reencrypting>>,
    /// For those who follow the log.
    pub feed: Feed,
    /// Where whoever archives the log has come to.
    pub archive: Mutex<Option<Parked>>,
    /// No batch lies between these two revisions: what the image showed at open, and where the log began then.
    pub before_log: (u64, u64),
    /// What the open found.
    pub findings: Vec<Finding>,
    poison: OnceLock<Error>,
}

/// The keys that wrap the files there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileKeys {
    /// Of the journal that is written to.
    pub current: Option<KeyId>,
    /// Of all files that the store needs now, and how many each wraps.
    pub needed: BTreeMap<KeyId, Wrapped>,
}

/// Numbers that the committer keeps up to date.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gauges {
    pub disk_bytes: u64,
    pub memory_bytes: u64,
    pub journal_bytes: u64,
    pub commits: u64,
    pub groups: u64,
    pub syncs: u64,
    pub sync_nanos: u64,
    pub sync_times: [u64; SYNC_BOUNDS.len()],
    pub image_bytes: u64,
    pub folds: u64,
    pub expired: u64,
    /// Frames of the present journal.
    pub messages: u64,
    /// Its number.
    pub log_number: u64,
}

impl Gauges {
    /// Counts a sync of the log that took so long.
    pub fn synced(&mut self, took: Duration) {
        self.syncs += 1;
        self.sync_nanos += u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let mut counts = SYNC_BOUNDS.iter().zip(&mut self.sync_times);
        if let Some((_, count)) = counts.find(|(bound, _)| took <= **bound) {
            *count += 1;
        }
    }
}

impl Shared {
    /// Shared state that shows `view`.
    pub fn new(seat: Arc<Seat>, view: View, first_revision: u64, findings: Vec<Finding>) -> Shared {
        Shared {
            first_revision,
            findings,
            seat,
            view: ArcSwap::from_pointee(view),
            holds: Arc::default(),
            gauges: Mutex::default(),
            keys: Mutex::default(),
            rewraps: Mutex::default(),
            reencryptions: Mutex::default(),
            reencrypting: Mutex::default(),
            feed: Feed::default(),
            archive: Mutex::default(),
            before_log: (0, 0),
            poison: OnceLock::new(),
        }
    }

    /// See [`crate::Store::reload_keyring`].
    pub fn reload_keyring(&self, keyring: Keyring) -> Result<()> {
        let mut encryption = self.seat.encryption.lock();
        let Encryption::Keyring(loaded) = &*encryption else {
            return Err(Error::new(
                Code::EncryptionMismatch,
                "the store's keys are not of a keyring: one is of no use to it",
            ));
        };
        if let Some(id) = loaded.conflict(&keyring) {
            return Err(Error::new(
                Code::WrongKey,
                format!("key {id} is not the key that is loaded under this id"),
            ));
        }
        let keys = self.keys.lock();
        if let Some(missing) = keys.needed.keys().find(|id| keyring.get(id).is_none()) {
            return Err(Error::new(
                Code::KeyMissing,
                format!("the keyring lacks key {missing}, which files of the store need"),
            ));
        }
        drop(keys);
        *encryption = Encryption::Keyring(keyring);
        Ok(())
    }

    /// Nobody waits for a rewrap or a re-encryption that does not come: see [`crate::Store::rewrap`].
    pub fn give_up_rewraps(&self) {
        self.rewraps.lock().clear();
        self.reencryptions.lock().clear();
        *self.reencrypting.lock() = None;
    }

    /// Why writes are refused, if they are.
    pub fn poison(&self) -> Option<&Error> {
        self.poison.get()
    }

    /// Refuses writes from now on. The first cause stays.
    pub fn set_poison(&self, cause: &Error) {
        let code = match cause.as_code() {
            Code::Fenced => Code::Fenced,
            _ => Code::Poisoned,
        };
        let error = Error::new(
            code,
            format!("writes are refused until the store is opened again, since: {cause}"),
        )
        .with_source(cause.clone());
        // Another thread's cause may have come first, and is as good.
        let _first = self.poison.set(error);
        self.feed.end();
        self.give_up_rewraps();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_counts_by_the_first_bound_that_it_kept_to() {
        let mut gauges = Gauges::default();
        let last = SYNC_BOUNDS.len() - 1;
        for (took, at) in [
            (Duration::ZERO, 0),
            (Duration::from_micros(50), 0),
            (Duration::from_micros(51), 1),
            (Duration::from_millis(2_500), last),
        ] {
            let before = gauges.sync_times;
            gauges.synced(took);
            let grown = (0..=last).find(|n| gauges.sync_times[*n] > before[*n]);
            assert_eq!(grown, Some(at), "{took:?}");
        }
        gauges.synced(Duration::from_secs(3));
        assert_eq!((gauges.syncs, gauges.sync_times.iter().sum()), (5, 4_u64));
        assert!(SYNC_BOUNDS.is_sorted());
    }
}
