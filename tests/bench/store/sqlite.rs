//! SQLite in its fastest durable mode, WAL with `synchronous=FULL`, used in two ways: one connection
//! behind a mutex, which then needs no locks on files, or a connection for each thread.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension, params};

use crate::peer::{Peer, Session, touch};

/// A database file.
pub struct Sqlite {
    path: PathBuf,
    /// The one connection, if it is shared.
    shared: Option<Mutex<Connection>>,
}

fn connect(path: &Path, exclusive: bool) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_mins(1))?;
    if exclusive {
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "cache_size", -2_000_000)?;
    db.pragma_update(None, "mmap_size", 4_i64 << 30)?;
    db.execute_batch("CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")?;
    Ok(db)
}

impl Sqlite {
    /// One connection behind a mutex.
    pub fn shared(dir: &Path) -> Result<Sqlite> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("db");
        Ok(Sqlite {
            shared: Some(Mutex::new(connect(&path, true)?)),
            path,
        })
    }

    /// A connection for each thread.
    pub fn many(dir: &Path) -> Result<Sqlite> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("db");
        connect(&path, false)?;
        Ok(Sqlite { path, shared: None })
    }
}

impl Peer for Sqlite {
    fn name(&self) -> &'static str {
        if self.shared.is_some() {
            "SQLite, one connection"
        } else {
            "SQLite, a connection a thread"
        }
    }

    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(match &self.shared {
            Some(shared) => Box::new(Locked(shared)),
            None => Box::new(Own(connect(&self.path, false)?)),
        })
    }
}

struct Own(Connection);

impl Session for Own {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        set(&self.0, key, value)
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<(usize, u8)>> {
        get(&self.0, key)
    }

    fn scan(&mut self) -> Result<(u64, u64)> {
        scan(&self.0)
    }

    fn batch(&mut self, items: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<()> {
        batch(&self.0, items)
    }
}

struct Locked<'a>(&'a Mutex<Connection>);

impl Locked<'_> {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session for Locked<'_> {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        set(&self.lock(), key, value)
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<(usize, u8)>> {
        get(&self.lock(), key)
    }

    fn scan(&mut self) -> Result<(u64, u64)> {
        scan(&self.lock())
    }

    fn batch(&mut self, items: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<()> {
        batch(&self.lock(), items)
    }
}

const SET: &str = "INSERT INTO kv (k, v) VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = ?2";

fn set(db: &Connection, key: &[u8], value: &[u8]) -> Result<()> {
    db.prepare_cached(SET)?.execute(params![key, value])?;
    Ok(())
}

fn get(db: &Connection, key: &[u8]) -> Result<Option<(usize, u8)>> {
    Ok(db
        .prepare_cached("SELECT v FROM kv WHERE k = ?1")?
        .query_row([key], |row| Ok(touch(row.get_ref(0)?.as_blob()?)))
        .optional()?)
}

fn scan(db: &Connection) -> Result<(u64, u64)> {
    let mut all = db.prepare_cached("SELECT k, v FROM kv ORDER BY k")?;
    let mut rows = all.query([])?;
    let (mut entries, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        entries += 1;
        bytes += row.get_ref(0)?.as_blob()?.len() as u64;
        bytes += row.get_ref(1)?.as_blob()?.len() as u64;
    }
    Ok((entries, bytes))
}

fn batch(db: &Connection, items: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<()> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    {
        let mut insert = db.prepare_cached(SET)?;
        for (key, value) in items {
            insert.execute(params![key.as_slice(), value])?;
        }
    }
    db.execute_batch("COMMIT")?;
    Ok(())
}
