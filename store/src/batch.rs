//! Batches: several operations and preconditions, all or nothing.

use std::time::Duration;

use bytes::Bytes;

use crate::error::{Code, Error, Result};
use crate::txn::{Program, Txn};

/// Operations and preconditions that take about a millisecond; a batch of more is none for a caller that has more to do.
const MANY: usize = 1024;

/// What must hold for a key when a batch is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key is not there.
    Absent,
    /// The key is there.
    Present,
    /// The key is there and was last set by this revision.
    Revision(u64),
}

/// How a key is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetOptions {
    /// Time from now until the key expires; `None`: it does not.
    pub ttl: Option<Duration>,
    /// Leave an existing expiry as it is, where `ttl` is `None`.
    pub keep_ttl: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum BatchOp {
    Set {
        key: Bytes,
        value: Bytes,
        options: SetOptions,
    },
    Delete {
        key: Bytes,
    },
}

/// Operations that are committed together, in order, or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(crate) conditions: Vec<(Bytes, Expect)>,
    pub(crate) ops: Vec<BatchOp>,
    pub(crate) actor: Option<String>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds a precondition. All are checked before the first operation.
    #[must_use]
    pub fn expect(mut self, key: impl Into<Bytes>, expect: Expect) -> Batch {
        self.conditions.push((key.into(), expect));
        self
    }

    /// Adds a set without expiry.
    #[must_use]
    pub fn set(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Batch {
        self.set_with(key, value, SetOptions::default())
    }

    /// Adds a set.
    #[must_use]
    pub fn set_with(
        mut self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: SetOptions,
    ) -> Batch {
        self.ops.push(BatchOp::Set {
            key: key.into(),
            value: value.into(),
            options,
        });
        self
    }

    /// Adds a deletion; deleting what is not there is not an error.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Batch {
        self.ops.push(BatchOp::Delete { key: key.into() });
        self
    }

    /// Says who commits it: a label of at most 256 bytes that stands in the log and that history and
    /// watchers show. The store does not check whether it is true.
    #[must_use]
    pub fn actor(mut self, label: impl Into<String>) -> Batch {
        self.actor = Some(label.into());
        self
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// True without operations.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// What a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The batch's revision; the store's latest one if the batch changed nothing.
    pub revision: u64,
    /// Keys that were not there before and are now.
    pub created: u64,
    /// Keys that were there and were set.
    pub updated: u64,
    /// Keys that were there and are not any more.
    pub deleted: u64,
}

impl Program for Batch {
    type Output = Committed;

    fn run(self, txn: &mut Txn<'_>) -> Result<Committed> {
        for (key, expect) in &self.conditions {
            check(txn, key, *expect)?;
        }
        if let Some(label) = self.actor {
            txn.set_actor(label)?;
        }
        for op in self.ops {
            match op {
                BatchOp::Set {
                    key,
                    value,
                    options,
                } => txn.set_with(&key, &value, options)?,
                BatchOp::Delete { key } => {
                    txn.delete(&key)?;
                }
            }
        }
        Ok(txn.outcome())
    }

    fn size_hint(&self) -> usize {
        self.ops
            .iter()
            .map(|op| match op {
                BatchOp::Set { key, value, .. } => key.len() + value.len(),
                BatchOp::Delete { key } => key.len(),
            })
            .sum()
    }

    fn is_brief(&self) -> bool {
        self.ops.len() + self.conditions.len() <= MANY
    }
}

/// Checks one precondition. The message names what was found, not the key: it may be private.
fn check(txn: &Txn<'_>, key: &[u8], expect: Expect) -> Result<()> {
    let found = txn.get(key)?.map(|entry| entry.modified());
    let holds = match (expect, found) {
        (Expect::Absent, None) | (Expect::Present, Some(_)) => true,
        (Expect::Revision(wanted), Some(found)) => wanted == found,
        _ => false,
    };
    if holds {
        return Ok(());
    }
    let wanted = match expect {
        Expect::Absent => "absent".to_owned(),
        Expect::Present => "present".to_owned(),
        Expect::Revision(revision) => format!("at revision {revision}"),
    };
    let found = found.map_or("absent".to_owned(), |at| format!("at revision {at}"));
    Err(Error::new(
        Code::PreconditionFailed,
        format!("the key was expected to be {wanted} but is {found}"),
    ))
}
