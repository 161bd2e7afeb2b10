//! redb: one-phase commits, which are its fastest durable ones, and a cache that holds everything.

use std::path::Path;

use anyhow::Result;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::peer::{Peer, Session, touch};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("kv");

/// An open database.
pub struct Redb(Database);

impl Redb {
    /// Opens or makes one.
    pub fn open(dir: &Path) -> Result<Redb> {
        std::fs::create_dir_all(dir)?;
        let db = Database::builder()
            .set_cache_size(2 << 30)
            .create(dir.join("db"))?;
        let write = db.begin_write()?;
        write.open_table(TABLE)?;
        write.commit()?;
        Ok(Redb(db))
    }
}

impl Peer for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(&self.0))
    }
}

impl Session for &Database {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let write = self.begin_write()?;
        write.open_table(TABLE)?.insert(key, value)?;
        write.commit()?;
        Ok(())
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<(usize, u8)>> {
        let table = self.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key)?.map(|value| touch(value.value())))
    }

    fn scan(&mut self) -> Result<(u64, u64)> {
        let table = self.begin_read()?.open_table(TABLE)?;
        let (mut entries, mut bytes) = (0, 0);
        for item in table.iter()? {
            let (key, value) = item?;
            entries += 1;
            bytes += (key.value().len() + value.value().len()) as u64;
        }
        Ok((entries, bytes))
    }

    fn batch(&mut self, items: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<()> {
        let write = self.begin_write()?;
        {
            let mut table = write.open_table(TABLE)?;
            for (key, value) in items {
                table.insert(key.as_slice(), value.as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

/// redb as [`Redb`], with one read transaction kept for all gets and scans of a session: faster,
/// but blind to what is written meanwhile.
pub struct Snapshot<'a>(pub &'a Redb);

impl Peer for Snapshot<'_> {
    fn name(&self) -> &'static str {
        "redb, one snapshot for all gets"
    }

    fn session(&self) -> Result<Box<dyn Session + '_>> {
        let table = self.0.0.begin_read()?.open_table(TABLE)?;
        Ok(Box::new(Held(&self.0.0, table)))
    }
}

struct Held<'a>(
    &'a Database,
    redb::ReadOnlyTable<&'static [u8], &'static [u8]>,
);

impl Session for Held<'_> {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.0.set(key, value)
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<(usize, u8)>> {
        Ok(self.1.get(key)?.map(|value| touch(value.value())))
    }

    fn scan(&mut self) -> Result<(u64, u64)> {
        self.0.scan()
    }

    fn batch(&mut self, items: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<()> {
        self.0.batch(items)
    }
}
