//! fjall, with a sync for each set.

use std::path::Path;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::peer::{Peer, Session, touch};

/// An open database.
pub struct Fjall {
    db: Database,
    entries: Keyspace,
}

impl Fjall {
    /// Opens or makes one, with a cache that holds everything.
    pub fn open(dir: &Path) -> Result<Fjall> {
        let db = Database::builder(dir).cache_size(1 << 30).open()?;
        let entries = db.keyspace("kv", KeyspaceCreateOptions::default)?;
        Ok(Fjall { db, entries })
    }
}

impl Peer for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(self))
    }
}

impl Session for &Fjall {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.entries.insert(key, value)?;
        self.db.persist(PersistMode::SyncData)?;
        Ok(())
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<(usize, u8)>> {
        Ok(self.entries.get(key)?.map(|value| touch(&value)))
    }

    fn scan(&mut self) -> Result<(u64, u64)> {
        let (mut entries, mut bytes) = (0, 0);
        for item in self.entries.iter() {
            let (key, value) = item.into_inner()?;
            entries += 1;
            bytes += (key.len() + value.len()) as u64;
        }
        Ok((entries, bytes))
    }

    fn batch(&mut self, items: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in items {
            batch.insert(&self.entries, key, value);
        }
        batch.commit()?;
        Ok(())
    }
}
