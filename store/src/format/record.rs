//! What a payload says: batches in logs, entries in images and backups.
//!
//! ```text
//! batch   revision  time  actor (blob)  number of operations  operation...
//! set     1 or 2    key (blob)  value (blob)  created  version  expiry (2 only)
//! delete  3         key (blob)
//! expire  4         key (blob)
//! entry   a set, then its modified revision
//! ```
//!
//! Numbers are varints, a blob is its length and its bytes. A payload is a row of batches or of
//! entries up to its end. An operation holds the key's whole new state, so replay computes nothing.

use super::wire::{Fields, put_blob, put_varint};
use crate::error::{Code, Error, Result};

/// Longest key, in bytes. The shortest has one.
pub const MAX_KEY: usize = 1024;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 64 << 20;
/// Longest actor label, in bytes.
pub const MAX_ACTOR: usize = 256;
/// Most bytes that an operation or entry takes besides its key and value.
pub const MAX_OVERHEAD: usize = 64;

const SET: u8 = 1;
const SET_EXPIRING: u8 = 2;
const DELETE: u8 = 3;
const EXPIRE: u8 = 4;

/// One operation of a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// The key's whole new state; its modified revision is the batch's.
    Set {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// Revision that created the key.
        created: u64,
        /// How often it was set since its creation, that included: from 1.
        version: u64,
        /// When it expires: milliseconds since 1970.
        expires_at: Option<u64>,
    },
    /// A caller removed the key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// The key's time was over.
    Expire {
        /// The key.
        key: &'a [u8],
    },
}

impl<'a> Op<'a> {
    /// The key.
    pub const fn key(&self) -> &'a [u8] {
        match *self {
            Op::Set { key, .. } | Op::Delete { key } | Op::Expire { key } => key,
        }
    }

    /// The entry that it leaves in a batch of `revision`; none for a removal.
    pub const fn entry(&self, revision: u64) -> Option<EntryRef<'a>> {
        match *self {
            Op::Set {
                key,
                value,
                created,
                version,
                expires_at,
            } => Some(EntryRef {
                key,
                value,
                created,
                modified: revision,
                version,
                expires_at,
            }),
            Op::Delete { .. } | Op::Expire { .. } => None,
        }
    }
}

/// One committed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Its revision, from 1; rises within a payload.
    pub revision: u64,
    /// The store's time: milliseconds since 1970.
    pub time_ms: u64,
    /// Who did it, if they said.
    pub actor: Option<&'a str>,
    /// What it did, in order.
    pub ops: Vec<Op<'a>>,
}

/// One live entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Revision that created the key.
    pub created: u64,
    /// Revision that last set it.
    pub modified: u64,
    /// How often it was set since its creation, that included: from 1.
    pub version: u64,
    /// When it expires: milliseconds since 1970.
    pub expires_at: Option<u64>,
}

impl<'a> EntryRef<'a> {
    /// The set that leaves it, in the batch of its modified revision.
    pub const fn as_op(&self) -> Op<'a> {
        let EntryRef {
            key,
            value,
            created,
            version,
            expires_at,
            ..
        } = *self;
        Op::Set {
            key,
            value,
            created,
            version,
            expires_at,
        }
    }
}

/// Lengths only: a value, or a key that is one, does not belong in a log.
impl std::fmt::Debug for Op<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Op::Set {
                key,
                value,
                created,
                version,
                expires_at,
            } => write!(
                f,
                "Set(key of {}, value of {}, created {created}, version {version}, expires {expires_at:?})",
                key.len(),
                value.len()
            ),
            Op::Delete { key } => write!(f, "Delete(key of {})", key.len()),
            Op::Expire { key } => write!(f, "Expire(key of {})", key.len()),
        }
    }
}

impl std::fmt::Debug for EntryRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Entry(key of {}, value of {}, created {}, modified {}, version {}, expires {:?})",
            self.key.len(),
            self.value.len(),
            self.created,
            self.modified,
            self.version,
            self.expires_at
        )
    }
}

/// Appends one batch to a payload. After an error the payload is as it was.
pub fn put_batch<'a>(
    out: &mut Vec<u8>,
    revision: u64,
    time_ms: u64,
    actor: Option<&str>,
    ops: impl ExactSizeIterator<Item = Op<'a>>,
) -> Result<()> {
    let before = out.len();
    let actor = actor.unwrap_or_default();
    if actor.len() > MAX_ACTOR {
        return Err(Error::new(
            Code::InvalidArgument,
            format!(
                "an actor label of {} bytes; at most {MAX_ACTOR}",
                actor.len()
            ),
        ));
    }
    put_varint(out, revision);
    put_varint(out, time_ms);
    put_blob(out, actor.as_bytes());
    put_varint(out, ops.len() as u64);
    for op in ops {
        if let Err(error) = put_op(out, &op) {
            out.truncate(before);
            return Err(error);
        }
    }
    Ok(())
}

/// Appends one entry to a payload.
pub fn put_entry(out: &mut Vec<u8>, entry: &EntryRef<'_>) -> Result<()> {
    put_op(out, &entry.as_op())?;
    put_varint(out, entry.modified);
    Ok(())
}

/// Checks the length of a key: 1 to [`MAX_KEY`] bytes.
pub fn check_key(key: &[u8]) -> Result<()> {
    match key.len() {
        1..=MAX_KEY => Ok(()),
        0 => Err(Error::new(Code::InvalidKey, "a key is empty")),
        len => Err(Error::new(
            Code::InvalidKey,
            format!("a key of {len} bytes; at most {MAX_KEY}"),
        )),
    }
}

fn put_op(out: &mut Vec<u8>, op: &Op<'_>) -> Result<()> {
    match *op {
        Op::Set {
            key,
            value,
            created,
            version,
            expires_at,
        } => {
            check_key(key)?;
            if value.len() > MAX_VALUE {
                return Err(Error::new(
                    Code::TooLarge,
                    format!("a value of {} bytes; at most {MAX_VALUE}", value.len()),
                ));
            }
            // What cannot be read back must never be written.
            if created == 0 || version == 0 {
                return Err(Error::internal(
                    "log an entry without created revision or version",
                ));
            }
            out.push(if expires_at.is_some() {
                SET_EXPIRING
            } else {
                SET
            });
            put_blob(out, key);
            put_blob(out, value);
            put_varint(out, created);
            put_varint(out, version);
            if let Some(expires_at) = expires_at {
                put_varint(out, expires_at);
            }
        }
        Op::Delete { key } => {
            check_key(key)?;
            out.push(DELETE);
            put_blob(out, key);
        }
        Op::Expire { key } => {
            check_key(key)?;
            out.push(EXPIRE);
            put_blob(out, key);
        }
    }
    Ok(())
}

/// Reads the batches of a payload, one after the other; ends after the first error.
pub fn batches(payload: &[u8]) -> impl Iterator<Item = Result<Batch<'_>>> {
    let mut last = 0;
    rows(payload, "batch", move |fields| {
        let batch = take_batch(fields).filter(|batch| batch.revision > last)?;
        last = batch.revision;
        Some(batch)
    })
}

/// Reads the first batch of a payload that is not empty, and how many bytes it takes.
pub fn first_batch(payload: &[u8]) -> Result<(Batch<'_>, usize)> {
    let mut fields = Fields::new(payload);
    let batch = take_batch(&mut fields)
        .ok_or_else(|| Error::corrupt("a batch of a payload is malformed"))?;
    Ok((batch, payload.len() - fields.len()))
}

/// Reads the entries of a payload, one after the other; ends after the first error.
pub fn entries(payload: &[u8]) -> impl Iterator<Item = Result<EntryRef<'_>>> {
    rows(payload, "entry", |fields| {
        let mut entry = take_op(fields)?.entry(0)?;
        entry.modified = fields.varint().filter(|at| *at >= entry.created)?;
        Some(entry)
    })
}

fn rows<'a, T>(
    payload: &'a [u8],
    what: &'static str,
    mut take: impl FnMut(&mut Fields<'a>) -> Option<T>,
) -> impl Iterator<Item = Result<T>> {
    let mut fields = Fields::new(payload);
    let mut number = 0_u64;
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || fields.is_empty() {
            return None;
        }
        number += 1;
        let row = take(&mut fields);
        failed = row.is_none();
        Some(
            row.ok_or_else(|| Error::corrupt(format!("{what} {number} of a payload is malformed"))),
        )
    })
}

fn take_batch<'a>(fields: &mut Fields<'a>) -> Option<Batch<'a>> {
    let revision = fields.varint()?;
    let time_ms = fields.varint()?;
    let actor = std::str::from_utf8(fields.blob(MAX_ACTOR)?).ok()?;
    let count = fields.varint()?;
    // Not reserved by the count, which may promise more than there is.
    let mut ops = Vec::new();
    for _ in 0..count {
        let op = take_op(fields)?;
        if matches!(op, Op::Set { created, .. } if created > revision) {
            return None;
        }
        ops.push(op);
    }
    let actor = (!actor.is_empty()).then_some(actor);
    Some(Batch {
        revision,
        time_ms,
        actor,
        ops,
    })
}

fn take_op<'a>(fields: &mut Fields<'a>) -> Option<Op<'a>> {
    let tag = fields.u8()?;
    let key = fields.blob(MAX_KEY).filter(|key| !key.is_empty())?;
    Some(match tag {
        SET | SET_EXPIRING => Op::Set {
            key,
            value: fields.blob(MAX_VALUE)?,
            created: fields.varint().filter(|created| *created > 0)?,
            version: fields.varint().filter(|version| *version > 0)?,
            expires_at: if tag == SET_EXPIRING {
                Some(fields.varint()?)
            } else {
                None
            },
        },
        DELETE => Op::Delete { key },
        EXPIRE => Op::Expire { key },
        _ => return None,
    })
}
