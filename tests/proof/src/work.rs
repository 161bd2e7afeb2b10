//! The load of a worker, and what must be found after any end of it.
//!
//! Each writer commits batches 1, 2, 3 …, one at a time. Batch `n` sets [`parts`] keys of its own and the writer's head, and deletes
//! the keys of batch `n - KEPT`, so that the store folds and stays small. Everything follows from writer and number, so a reader
//! who knows only the head can tell each byte that must be there:
//!
//! - the head is the last acknowledged number, or one more: the batch that was on its way, whole or not at all;
//! - the head's version is that number: each batch was applied exactly once;
//! - the keys of the last `KEPT` batches are there with their content, at version 1, all at their batch's revision; no other key is.

use codexstore::{
    Batch, Compression, Durability, Encryption, Entry, Key, KeyId, Keyring, Options, Result, Scan,
    Store, Strategy,
};

/// Batches whose keys are kept.
pub const KEPT: u64 = 24;

/// The options of all workers: encrypted, with a compression by `seed`.
pub fn options(strategy: Strategy, seed: u64) -> Options {
    let keyring = Keyring::single(KeyId::new("proof").unwrap(), Key::new(&[9; 32]).unwrap());
    let mut options = Options::new(Encryption::Keyring(keyring));
    options.strategy = strategy;
    options.durability = Durability::Always;
    options.compression = match seed % 4 {
        0 => Compression::None,
        1 => Compression::Zstd,
        2 => Compression::Gzip,
        _ => Compression::Snappy,
    };
    options
}

/// How many keys batch `n` has.
pub fn parts(n: u64) -> u64 {
    1 + n % 3
}

/// The key of a writer's head.
pub fn head(writer: u64) -> String {
    format!("head/{writer}")
}

fn key(writer: u64, n: u64, part: u64) -> String {
    format!("w{writer}/{n:012}/{part}")
}

/// Content that follows from its place: 16 bytes to 20 KiB, half of it compressible.
fn value(writer: u64, n: u64, part: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(writer << 48 ^ n << 8 ^ part);
    let len = match random.u32(..100) {
        0..80 => random.usize(16..600),
        80..98 => random.usize(600..4000),
        _ => random.usize(4000..20_000),
    };
    let mut value = vec![0; len];
    random.fill(&mut value[..len / 2]);
    value
}

/// Batch `n` of a writer.
pub fn batch(writer: u64, n: u64) -> Batch {
    let mut batch = Batch::new().set(head(writer), n.to_string());
    for part in 0..parts(n) {
        batch = batch.set(key(writer, n, part), value(writer, n, part));
    }
    if let Some(old) = n.checked_sub(KEPT).filter(|old| *old > 0) {
        for part in 0..parts(old) {
            batch = batch.delete(key(writer, old, part));
        }
    }
    batch
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ack {
    /// The batch; 0: none yet.
    pub n: u64,
    /// Its revision.
    pub revision: u64,
}

/// Checks a store against what was acknowledged by each writer; what is there now, which holds for the next check.
///
/// # Errors
/// With what is wrong, in words.
pub fn check(store: &Store, acks: &[Ack]) -> std::result::Result<Vec<Ack>, String> {
    let mut found = Vec::new();
    let mut keys = 0;
    for (writer, ack) in (0_u64..).zip(acks) {
        let entry = get(store, &head(writer))?;
        let n: u64 = match &entry {
            None => 0,
            Some(entry) => std::str::from_utf8(entry.value())
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or("a head is not a number")?,
        };
        let revision = entry.as_ref().map_or(0, Entry::modified);
        if n != ack.n && n != ack.n + 1 {
            return Err(format!(
                "writer {writer}: {n} is there, {} was acknowledged",
                ack.n
            ));
        }
        if n == ack.n && revision != ack.revision {
            return Err(format!(
                "writer {writer}: batch {n} was acknowledged at revision {} and is there at {revision}",
                ack.revision
            ));
        }
        if let Some(entry) = &entry {
            keys += 1;
            if entry.version() != n {
                return Err(format!(
                    "writer {writer}: {n} batches, the head was set {} times",
                    entry.version()
                ));
            }
        }
        keys += check_parts(store, writer, n, revision)?;
        found.push(Ack { n, revision });
    }
    if store.len() != keys {
        return Err(format!("{} keys, expected {keys}", store.len()));
    }
    Ok(found)
}

/// Checks the batches up to `n`; how many keys they have.
fn check_parts(
    store: &Store,
    writer: u64,
    n: u64,
    revision: u64,
) -> std::result::Result<u64, String> {
    let mut keys = 0;
    let mut after = 0;
    for m in n.saturating_sub(KEPT) + 1..=n {
        let mut at = None;
        for part in 0..parts(m) {
            let entry = get(store, &key(writer, m, part))?.ok_or(format!(
                "writer {writer}: part {part} of batch {m} of {n} is gone"
            ))?;
            if entry.value() != value(writer, m, part) || entry.version() != 1 {
                return Err(format!(
                    "writer {writer}: part {part} of batch {m} is wrong"
                ));
            }
            if *at.get_or_insert(entry.modified()) != entry.modified() {
                return Err(format!("writer {writer}: batch {m} is at two revisions"));
            }
            keys += 1;
        }
        let at = at.unwrap_or_default();
        if at <= after || (m == n && at != revision) {
            return Err(format!(
                "writer {writer}: batch {m} is at revision {at}, after {after}"
            ));
        }
        after = at;
    }
    Ok(keys)
}

fn get(store: &Store, key: &str) -> std::result::Result<Option<Entry>, String> {
    store.get(key.as_bytes()).map_err(|e| format!("get: {e}"))
}

/// Pages through everything, so that scan and get agree.
///
/// # Errors
/// As the store's.
pub fn count(store: &Store) -> Result<u64> {
    let mut scan = Scan::all();
    let mut count = 0;
    loop {
        let page = store.scan(&scan)?;
        count += page.items.len() as u64;
        match page.cursor {
            Some(cursor) => scan.cursor = Some(cursor),
            None => return Ok(count),
        }
    }
}
