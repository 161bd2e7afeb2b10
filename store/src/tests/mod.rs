//! Tests of the whole engine, on real and on simulated disks.

mod anchors;
mod archive;
mod backup;
mod basic;
mod clocks;
mod content;
mod crash;
mod disk;
mod entropy;
mod explore;
mod faults;
mod full;
mod history;
mod interval;
mod keys;
mod ledger;
mod migrate;
mod model;
mod needed;
mod owners;
mod reencrypt;
mod rewrap;
mod rotation;
mod scale;
mod sim;
mod space;
mod starts;
mod states;
mod syncs;
mod threads;
mod untouched;
mod watch;
mod workload;

pub(crate) use keys::passphrase;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Encryption, Key, KeyId, Keyring, Options};

/// Stops who looks at it, when dropped.
pub(crate) struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A keyring of one key.
pub(crate) fn keyring(id: &str, byte: u8) -> Keyring {
    Keyring::single(KeyId::new(id).unwrap(), Key::new(&[byte; 32]).unwrap())
}

/// Options of an encrypted store.
pub(crate) fn options() -> Options {
    Options::new(Encryption::Keyring(keyring("test-key", 7)))
}
