//! Entries put into a new store, as they are but for their revisions.

use std::path::Path;

use crate::entry::Entry;
use crate::error::Result;
use crate::options::Options;
use crate::store::Store;
use crate::txn::Txn;

/// Bytes of keys and values in one batch.
const BATCH: usize = 4 << 20;

/// Entries in one batch.
const MANY: usize = 4096;

/// Makes a store in `dir` of these entries, and closes it.
pub(crate) fn settle(
    dir: &Path,
    options: Options,
    entries: impl Iterator<Item = Entry>,
) -> Result<()> {
    let store = Store::open(dir, options)?;
    let mut batch = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        bytes += entry.key().len() + entry.value().len();
        batch.push(entry);
        if bytes >= BATCH || batch.len() >= MANY {
            put(&store, std::mem::take(&mut batch))?;
            bytes = 0;
        }
    }
    put(&store, batch)?;
    store.close()
}

fn put(store: &Store, entries: Vec<Entry>) -> Result<()> {
    store.run(move |txn: &mut Txn<'_>| {
        for entry in &entries {
            txn.set(entry.key(), entry.value())?;
            if let Some(at) = entry.expires_at() {
                txn.expire_at(entry.key(), Some(at))?;
            }
        }
        Ok(())
    })
}
