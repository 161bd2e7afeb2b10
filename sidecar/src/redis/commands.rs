//! What the commands do, a file for each family.

pub mod counters;
pub mod expiry;
pub mod keys;
pub mod strings;

use std::time::Duration;

use codexstore::{Entry, SetOptions, Txn};

use super::reply::Reply;
use crate::engine::Look;

/// The arguments do not fit together.
pub const SYNTAX: Reply = Reply::error("ERR syntax error");

/// An argument, or a value, is no integer.
pub const NOT_INTEGER: Reply = Reply::error("ERR value is not an integer or out of range");

/// Until when a key that is set is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// For ever.
    Always,
    /// As long as it was to be before.
    AsBefore,
    /// Milliseconds since 1970.
    At(u64),
}

/// Sets a key. One whose time is over already is deleted.
pub fn put(txn: &mut Txn<'_>, key: &[u8], value: &[u8], until: Until) -> codexstore::Result<()> {
    let ttl = match until {
        Until::Always | Until::AsBefore => None,
        Until::At(at) => match at.checked_sub(txn.now_ms()) {
            None | Some(0) => {
                txn.delete(key)?;
                return Ok(());
            }
            Some(left) => Some(Duration::from_millis(left)),
        },
    };
    let keep_ttl = until == Until::AsBefore;
    txn.set_with(key, value, SetOptions { ttl, keep_ttl })
}

impl Look for Txn<'_> {
    fn entry(&self, key: &[u8]) -> codexstore::Result<Option<Entry>> {
        self.get(key)
    }

    fn now_ms(&self) -> u64 {
        Txn::now_ms(self)
    }

    fn live(&self) -> u64 {
        self.len()
    }
}

/// True if an argument is that word, in whatever case.
pub fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}
