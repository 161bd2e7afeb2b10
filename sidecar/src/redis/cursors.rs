//! Where scans stand. A cursor of Redis is a number, and where a scan of this store goes on is a key: so
//! the keys are kept here, as many as there is room for, and the numbers are given out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use codexstore::{OsRandom, Random};

/// Most scans whose place is kept: each takes two keys of 1,024 bytes at most.
const SCANS: usize = 1024;

/// Bits of a cursor that count the steps of a scan.
const STEP: u32 = 16;

/// A cursor stays below 2^53, since to some clients every number is a float.
const NUMBERS: u64 = (1 << (53 - STEP)) - 1;

/// The places of all scans, which all connections share.
#[derive(Default)]
pub struct Cursors {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    scans: HashMap<u64, Place>,
    clock: u64,
}

/// One scan. Its last step can be asked for again: the answer may have been lost.
struct Place {
    step: u64,
    before: Bytes,
    at: Bytes,
    used: u64,
}

impl Cursors {
    /// The key behind which a scan goes on; `None` if the cursor is not known, or not any more.
    pub fn find(&self, cursor: u64) -> Option<Bytes> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        let place = state.scans.get_mut(&(cursor >> STEP))?;
        place.used = now;
        let step = cursor & ((1 << STEP) - 1);
        if step == place.step {
            Some(place.at.clone())
        } else if next(step) == place.step && !place.before.is_empty() {
            Some(place.before.clone())
        } else {
            None
        }
    }

    /// The cursor with which a scan goes on behind `key`. `cursor` is the one that it came with; 0: it
    /// has begun.
    pub fn keep(&self, cursor: u64, key: Bytes) -> codexstore::Result<u64> {
        let step = cursor & ((1 << STEP) - 1);
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        if let Some(place) = state.scans.get_mut(&(cursor >> STEP)) {
            if step == place.step {
                place.before = std::mem::replace(&mut place.at, key);
                place.step = next(step);
            } else {
                place.at = key;
            }
            place.used = now;
            return Ok((cursor >> STEP) << STEP | place.step);
        }
        if state.scans.len() >= SCANS {
            let oldest = state.scans.iter().min_by_key(|(_, place)| place.used);
            if let Some(oldest) = oldest.map(|(number, _)| *number) {
                state.scans.remove(&oldest);
            }
        }
        let number = loop {
            let mut bytes = [0; 8];
            OsRandom.fill(&mut bytes)?;
            // Not zero, which is where a scan begins, and not one that was given out before a restart.
            let number = u64::from_le_bytes(bytes) & NUMBERS;
            if number != 0 && !state.scans.contains_key(&number) {
                break number;
            }
        };
        let place = Place {
            step: 0,
            before: Bytes::new(),
            at: key,
            used: now,
        };
        state.scans.insert(number, place);
        Ok(number << STEP)
    }

    /// Forgets a scan that has come to its end.
    pub fn end(&self, cursor: u64) {
        self.lock().scans.remove(&(cursor >> STEP));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn next(step: u64) -> u64 {
    (step + 1) & ((1 << STEP) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn a_scan_goes_on_where_it_was_and_its_last_step_can_be_asked_for_again() {
        let cursors = Cursors::default();
        let first = cursors.keep(0, key("a")).unwrap();
        assert!(first > 0 && first < 1 << 53);
        assert_eq!(cursors.find(first), Some(key("a")));
        let second = cursors.keep(first, key("b")).unwrap();
        assert_eq!(cursors.find(second), Some(key("b")));
        assert_eq!(cursors.find(first), Some(key("a")));
        assert_eq!(cursors.keep(first, key("b")).unwrap(), second);
        let third = cursors.keep(second, key("c")).unwrap();
        assert_eq!(cursors.find(first), None);
        cursors.end(third);
        assert_eq!(cursors.find(third), None);
        assert_eq!(cursors.find(0), None);
    }

    #[test]
    fn the_scan_that_nobody_asked_about_for_longest_gives_way() {
        let cursors = Cursors::default();
        let all: Vec<u64> = (0..SCANS)
            .map(|n| cursors.keep(0, key(&n.to_string())).unwrap())
            .collect();
        assert!(cursors.find(all[0]).is_some());
        cursors.keep(0, key("one more")).unwrap();
        assert_eq!(cursors.find(all[1]), None);
        assert!(cursors.find(all[0]).is_some() && cursors.find(all[2]).is_some());
    }
}
