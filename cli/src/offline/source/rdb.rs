//! A snapshot of Redis (`dump.rdb`).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context, Result};
use rdb::{RdbDecoder, RdbValue, filter::Simple};
use serde_json::Value;

use super::{Record, Records};
use crate::{failure::Coded, offline::args::Collections};

/// The keys of one database. Strings are taken as they are.
pub fn read(path: &Path, database: u32, collections: Collections) -> Result<Records> {
    let refuse = |what: String| Coded::invalid(format!("{}: {what}", path.display()));
    if path == Path::new("-") {
        return Err(Coded::invalid("a Redis snapshot is read from a file, not from stdin").into());
    }
    check_sum(path).context("read the snapshot")?;
    let file = File::open(path).map_err(|e| refuse(e.to_string()))?;
    let decoder = RdbDecoder::new(BufReader::with_capacity(256 << 10, file), Simple::new())
        .map_err(|_| {
            refuse("not a Redis snapshot, or of a version that is not known".to_owned())
        })?;
    let mut items = Items {
        decoder: Box::new(decoder.map(|item| item.map_err(|e| e.to_string()))),
        current: 0,
        wanted: database,
        stated: 0,
        seen: 0,
        number: 0,
        ended: false,
        collections,
    };
    Ok(Box::new(std::iter::from_fn(move || items.next())))
}

/// The CRC-64 at the end of the file, which the decoder does not check. All zero: Redis was told to write none.
fn check_sum(path: &Path) -> Result<()> {
    const REDIS: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_REDIS);
    let refuse = |e: std::io::Error| Coded::invalid(format!("{}: {e}", path.display()));
    let mut file = BufReader::with_capacity(256 << 10, File::open(path).map_err(refuse)?);
    let len = file.get_ref().metadata().map_err(refuse)?.len();
    let body = len
        .checked_sub(8)
        .ok_or_else(|| Coded::invalid(format!("{}: not a Redis snapshot", path.display())))?;
    let mut digest = REDIS.digest();
    let mut left = body;
    let mut chunk = vec![0; 64 << 10];
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        let part = chunk.get_mut(..take).unwrap_or_default();
        file.read_exact(part).map_err(refuse)?;
        digest.update(part);
        left -= take as u64;
    }
    let mut stated = [0; 8];
    file.read_exact(&mut stated).map_err(refuse)?;
    let stated = u64::from_le_bytes(stated);
    if stated != 0 && stated != digest.finalize() {
        return Err(Coded::invalid(format!(
            "{}: its checksum does not match: it is damaged, cut or no Redis snapshot",
            path.display()
        ))
        .into());
    }
    Ok(())
}

struct Items {
    decoder: Box<dyn Iterator<Item = Result<RdbValue, String>>>,
    current: u32,
    wanted: u32,
    /// How many keys the file says that the database has, and how many came.
    stated: u64,
    seen: u64,
    number: u64,
    ended: bool,
    collections: Collections,
}

impl Items {
    fn next(&mut self) -> Option<(u64, Result<Record, String>)> {
        while !self.ended {
            let item = match self.decoder.next() {
                Some(Ok(item)) => item,
                Some(Err(_)) => {
                    self.ended = true;
                    return Some((self.number + 1, Err("cannot be read: damaged?".to_owned())));
                }
                None => {
                    self.ended = true;
                    return self.missing();
                }
            };
            let (key, value, expires_at, what) = match item {
                RdbValue::SelectDb(database) => {
                    self.current = database;
                    continue;
                }
                RdbValue::ResizeDb { db_size, .. } => {
                    if self.current == self.wanted {
                        self.stated = u64::from(db_size);
                    }
                    continue;
                }
                RdbValue::AuxField { .. } | RdbValue::Checksum(_) => continue,
                RdbValue::String { key, value, expiry } => (key, Ok(value), expiry, "string"),
                RdbValue::Hash {
                    key,
                    values,
                    expiry,
                } => (key, Err(hash(values)), expiry, "hash"),
                RdbValue::Set {
                    key,
                    members,
                    expiry,
                } => (key, Err(list(members)), expiry, "set"),
                RdbValue::List {
                    key,
                    values,
                    expiry,
                } => (key, Err(list(values)), expiry, "list"),
                RdbValue::SortedSet {
                    key,
                    values,
                    expiry,
                } => (key, Err(sorted(values)), expiry, "sorted set"),
            };
            if self.current != self.wanted {
                continue;
            }
            self.seen += 1;
            self.number += 1;
            let value = match (value, self.collections) {
                (Ok(value), _) => value,
                (Err(Some(json)), Collections::Json) => json.to_string().into_bytes(),
                (Err(None), Collections::Json) => {
                    let what = format!("a {what} that has no JSON: not UTF-8, or not a number");
                    return Some((self.number, Err(what)));
                }
                (Err(_), Collections::Skip) => continue,
                (Err(_), Collections::Fail) => {
                    let what = format!(
                        "a {what}: only strings are imported; --collections json makes JSON of it, skip leaves it out"
                    );
                    return Some((self.number, Err(what)));
                }
            };
            let record = Record {
                key,
                value,
                expires_at,
            };
            return Some((self.number, Ok(record)));
        }
        None
    }

    /// The decoder leaves out streams and the values of modules without a word.
    fn missing(&self) -> Option<(u64, Result<Record, String>)> {
        let missing = self.stated.saturating_sub(self.seen);
        if missing == 0 || self.collections == Collections::Skip {
            return None;
        }
        let what = format!(
            "{missing} more keys are streams or of modules, which are not imported; --collections skip leaves them out"
        );
        Some((self.number + 1, Err(what)))
    }
}

fn text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok()
}

fn hash(values: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Option<Value> {
    let fields: Option<BTreeMap<String, String>> = values
        .into_iter()
        .map(|(name, value)| Some((text(name)?, text(value)?)))
        .collect();
    serde_json::to_value(fields?).ok()
}

fn list(values: Vec<Vec<u8>>) -> Option<Value> {
    let values: Option<Vec<String>> = values.into_iter().map(text).collect();
    serde_json::to_value(values?).ok()
}

fn sorted(values: Vec<(f64, Vec<u8>)>) -> Option<Value> {
    let pairs: Option<Vec<Value>> = values
        .into_iter()
        .map(|(score, member)| {
            let score = serde_json::Number::from_f64(score)?;
            Some(serde_json::json!([text(member)?, score]))
        })
        .collect();
    pairs.map(Value::Array)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot of database 0 that says it has `stated` keys, and of database 3.
    fn snapshot(stated: u8) -> Vec<u8> {
        let mut bytes = b"REDIS0011".to_vec();
        bytes.extend([0xfe, 0, 0xfb, stated, 1]);
        // A string, one that expires, a list of two, a set.
        bytes.extend(b"\x00\x01a\x011");
        bytes.push(0xfc);
        bytes.extend(4_102_444_800_000_u64.to_le_bytes());
        bytes.extend(b"\x00\x01b\x02\xff\x00");
        bytes.extend(b"\x01\x01l\x02\x01x\x01y");
        bytes.extend(b"\x02\x01s\x01\x01m");
        bytes.extend([0xfe, 3, 0xfb, 1, 0]);
        bytes.extend(b"\x00\x01c\x012");
        bytes.push(0xff);
        let sum = crc::Crc::<u64>::new(&crc::CRC_64_REDIS).checksum(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    fn all(bytes: &[u8], database: u32, how: Collections) -> Result<Vec<Result<Record, String>>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let records = read(file.path(), database, how)?;
        Ok(records.map(|(_, record)| record).collect())
    }

    #[test]
    fn strings_come_as_they_are_and_the_rest_as_asked() {
        let found = all(&snapshot(4), 0, Collections::Json).unwrap();
        let values: Vec<_> = found.iter().map(|r| r.as_ref().unwrap()).collect();
        assert_eq!(values.len(), 4);
        assert_eq!(
            (&values[1].value[..], values[1].expires_at),
            (&[0xff, 0][..], Some(4_102_444_800_000))
        );
        assert_eq!(
            (values[2].value.as_slice(), values[2].expires_at),
            (&br#"["x","y"]"#[..], None)
        );
        assert_eq!(values[3].value, br#"["m"]"#);

        assert_eq!(all(&snapshot(4), 0, Collections::Skip).unwrap().len(), 2);
        let found = all(&snapshot(4), 0, Collections::Fail).unwrap();
        assert!(
            found[2]
                .as_ref()
                .unwrap_err()
                .contains("a list: only strings")
        );
        assert_eq!(all(&snapshot(4), 3, Collections::Fail).unwrap().len(), 1);
        assert_eq!(all(&snapshot(4), 9, Collections::Fail).unwrap().len(), 0);
    }

    #[test]
    fn keys_that_the_decoder_leaves_out_are_missed() {
        let found = all(&snapshot(6), 0, Collections::Json).unwrap();
        let error = found.last().unwrap().as_ref().unwrap_err();
        assert!(error.contains("2 more keys are streams"), "{error}");
        assert_eq!(all(&snapshot(6), 0, Collections::Skip).unwrap().len(), 2);
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let good = snapshot(4);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(all(&bad, 0, Collections::Json).is_err(), "byte {at}");
            assert!(
                all(&good[..at], 0, Collections::Json).is_err(),
                "cut at {at}"
            );
        }
    }
}
