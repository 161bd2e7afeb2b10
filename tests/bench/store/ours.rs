//! Ourselves: encrypted, checksummed, compressed with the defaults.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use codexstore::{Batch, Durability, Encryption, Key, KeyId, Keyring, Options, Scan, Store};

use crate::peer::{Peer, Session, touch};

/// The defaults, with a key.
pub fn options() -> Result<Options> {
    let keyring = Keyring::single(KeyId::new("bench")?, Key::new(&[7; 32])?);
    Ok(Options::new(Encryption::Keyring(keyring)))
}

/// An open store.
pub struct Ours(pub Store);

impl Ours {
    /// Opens one with the defaults.
    pub fn open(dir: &Path) -> Result<Ours> {
        Ok(Ours(Store::open(dir, options()?)?))
    }

    /// Opens one that answers before the sync.
    pub fn interval(dir: &Path) -> Result<Ours> {
        let mut options = options()?;
        options.durability = Durability::INTERVAL;
        Ok(Ours(Store::open(dir, options)?))
    }
}

impl Peer for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(&self.0))
    }
}

impl Session for &Store {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        Store::set(self, key, value)?;
        Ok(())
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<(usize, u8)>> {
        Ok(Store::get(self, key)?.map(|entry| touch(entry.value())))
    }

    fn scan(&mut self) -> Result<(u64, u64)> {
        let (mut entries, mut bytes) = (0, 0);
        self.visit(&Scan::all(), |entry| {
            entries += 1;
            bytes += (entry.key.len() + entry.value.len()) as u64;
            ControlFlow::Continue(())
        })?;
        Ok((entries, bytes))
    }

    fn batch(&mut self, items: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<()> {
        let mut batch = Batch::new();
        for (key, value) in items {
            batch = batch.set(key.to_vec(), value);
        }
        self.commit(batch)?;
        Ok(())
    }
}
