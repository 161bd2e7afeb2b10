//! Keys and values of changes and versions, and what is asked for.

use super::{ChangedOp, KeyVersion, invalid, key_bytes};
use crate::Result;
use crate::encoding::unbase64;

/// What `GET /v1/watch` is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchQuery {
    /// Keys that begin with this; empty: all.
    pub prefix: Vec<u8>,
    /// From this revision on. Without it and without `after`: what comes next.
    pub from: Option<u64>,
    /// Behind the event of this id; `from` is not looked at then.
    pub after: Option<String>,
    /// Whether to send values too.
    pub values: bool,
}

/// What `GET /v1/keys/{key}/history` is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// From this revision on; by default from the oldest that is kept.
    pub from: Option<u64>,
    /// At most so many versions in a page; the sidecar's default is 100.
    pub limit: Option<u32>,
    /// Whether to send values too.
    pub values: bool,
}

impl ChangedOp {
    /// The key's bytes.
    pub fn key_bytes(&self) -> Result<Vec<u8>> {
        key_bytes(self.key.as_deref(), self.key_base64.as_deref())
    }

    /// The value's bytes, if it was set and values were asked for.
    pub fn value_bytes(&self) -> Result<Option<Vec<u8>>> {
        value_bytes(self.value.as_deref())
    }
}

impl KeyVersion {
    /// The value's bytes, if it was set and values were asked for.
    pub fn value_bytes(&self) -> Result<Option<Vec<u8>>> {
        value_bytes(self.value.as_deref())
    }
}

fn value_bytes(text: Option<&str>) -> Result<Option<Vec<u8>>> {
    let bytes = text.map(|text| unbase64(text).ok_or_else(|| invalid("value is not base64")));
    bytes.transpose()
}
