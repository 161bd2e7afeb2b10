//! The JSON bodies of lists, batches, changes and history.

mod archive;
mod backup;
mod changes;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::encoding::{base64, unbase64};
use crate::time::parse_duration;
use crate::{Error, Result};

pub use archive::{ArchivePosition, PieceTold};
pub use backup::{ArchiveRestored, BackupTold, RestoreTold, RewrapTold};
pub use changes::{HistoryQuery, WatchQuery};

/// One key of a [`List`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The key, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key in base64, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The value in base64, if values were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Revision that wrote the value.
    pub revision: u64,
    /// Revision that created the key.
    pub created_revision: u64,
    /// How often the key was written since it was created.
    pub version: u64,
    /// When the value expires, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// A change, as a watch tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// Its revision.
    pub revision: u64,
    /// When it was committed, RFC 3339 in UTC.
    pub time: String,
    /// Who did it, if they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// What it did to watched keys, each once.
    pub operations: Vec<ChangedOp>,
}

/// What a change did to one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangedOp {
    /// `set`, `delete`, or `expire`.
    pub op: String,
    /// The key, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key in base64, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The value in base64, if it was set and values were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// If it was set: the revision that created the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_revision: Option<u64>,
    /// If it was set: how often the key was written since it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// If it was set: when the value expires, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// A page of a key's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// What became of the key, oldest first.
    pub items: Vec<KeyVersion>,
    /// The revision to go on from; absent when there is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// What became of a key at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyVersion {
    /// The revision.
    pub revision: u64,
    /// When it was committed, RFC 3339 in UTC.
    pub time: String,
    /// Who did it, if they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// `set`, `delete`, or `expire`.
    pub op: String,
    /// The value in base64, if it was set and values were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// If it was set: the revision that created the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_revision: Option<u64>,
    /// If it was set: how often the key was written since it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// If it was set: when the value expires, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

impl Item {
    /// The key's bytes.
    pub fn key_bytes(&self) -> Result<Vec<u8>> {
        key_bytes(self.key.as_deref(), self.key_base64.as_deref())
    }

    /// The value's bytes, if values were asked for.
    pub fn value_bytes(&self) -> Result<Option<Vec<u8>>> {
        match &self.value {
            None => Ok(None),
            Some(text) => unbase64(text)
                .map(Some)
                .ok_or_else(|| invalid("value is not base64")),
        }
    }
}

/// Answer of `GET /v1/keys`: keys in ascending order of their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct List {
    /// The keys of this page.
    pub items: Vec<Item>,
    /// Pass it as `cursor` to go on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The revision that the page shows.
    pub revision: u64,
}

/// What `GET /v1/keys` is asked for. All parts are optional and all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Keys that begin with this.
    pub prefix: Option<Vec<u8>>,
    /// Keys that match this glob: `*`, `?`, `[a-z]`, `\` escapes.
    pub glob: Option<Vec<u8>>,
    /// Keys from this one on.
    pub from: Option<Vec<u8>>,
    /// Keys before this one.
    pub to: Option<Vec<u8>>,
    /// At most so many keys in a page; the sidecar's default is 1,000.
    pub limit: Option<u32>,
    /// The cursor of the page before.
    pub cursor: Option<String>,
    /// Whether to send values too.
    pub values: bool,
}

/// Answer of `DELETE /v1/keys?prefix=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    /// How many keys were deleted.
    pub deleted: u64,
    /// The store's revision after it.
    pub revision: u64,
}

/// Body of `POST /v1/batch`: all of it happens as one revision, or nothing does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batch {
    /// What to do, in order; for one key the last operation counts. At most 10,000.
    #[serde(deserialize_with = "bounded")]
    pub operations: Vec<Operation>,
    /// What must hold before any of it. At most 10,000.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded"
    )]
    pub preconditions: Vec<Precondition>,
}

/// Most operations, and most preconditions, of a [`Batch`].
pub const MAX_OPERATIONS: usize = 10_000;

/// Reads a list that ends early when it is too long: a small body may hold very many elements,
/// and each takes more memory than its text.
fn bounded<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Bounded<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a list of at most {MAX_OPERATIONS}")
        }

        fn visit_seq<A>(self, mut list: A) -> Result<Vec<T>, A::Error>
        where
            A: serde::de::SeqAccess<'de>,
        {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                if items.len() == MAX_OPERATIONS {
                    return Err(serde::de::Error::invalid_length(MAX_OPERATIONS + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    deserializer.deserialize_seq(Bounded(std::marker::PhantomData))
}

/// What an [`Operation`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Write a value.
    Set,
    /// Remove a key; no error if it is not there.
    Delete,
}

/// One operation of a [`Batch`]: `{"op":"set","key":"a","text":"1"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// What to do.
    pub op: Op,
    /// The key. Exactly one of `key` and `keyBase64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The value in base64. For `set`, exactly one of `value` and `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Only for `set`: the value expires after this time (`30s`, `5m`, `1h30m`, `500ms`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

impl Operation {
    /// Writes a value.
    pub fn set(key: &[u8], value: &[u8]) -> Operation {
        let (key, key_base64) = key_fields(key);
        let (value, text) = match std::str::from_utf8(value) {
            Ok(text) => (None, Some(text.to_string())),
            Err(_) => (Some(base64(value)), None),
        };
        Operation {
            op: Op::Set,
            key,
            key_base64,
            value,
            text,
            ttl: None,
        }
    }

    /// Removes a key.
    pub fn delete(key: &[u8]) -> Operation {
        let (key, key_base64) = key_fields(key);
        Operation {
            op: Op::Delete,
            key,
            key_base64,
            value: None,
            text: None,
            ttl: None,
        }
    }

    /// Makes a written value expire.
    #[must_use]
    pub fn ttl(mut self, ttl: std::time::Duration) -> Operation {
        self.ttl = Some(format!("{}ms", ttl.as_millis()));
        self
    }

    /// The key's bytes.
    pub fn key_bytes(&self) -> Result<Vec<u8>> {
        key_bytes(self.key.as_deref(), self.key_base64.as_deref())
    }

    /// The value's bytes; an error unless there is exactly one value.
    pub fn value_bytes(self) -> Result<Vec<u8>> {
        match (self.value, self.text) {
            (Some(value), None) => unbase64(&value).ok_or_else(|| {
                invalid("value is not base64; use text for a value that is plain text")
            }),
            (None, Some(text)) => Ok(text.into_bytes()),
            _ => Err(invalid("a set wants exactly one of value and text")),
        }
    }

    /// The time to live; an error if it is malformed or zero.
    pub fn ttl_duration(&self) -> Result<Option<std::time::Duration>> {
        match &self.ttl {
            None => Ok(None),
            Some(text) => parse_ttl(text).map(Some),
        }
    }
}

/// What must hold before a [`Batch`]: `{"key":"a","absent":true}`. Exactly one condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Precondition {
    /// The key. Exactly one of `key` and `keyBase64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// `true`: the key does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<bool>,
    /// `true`: the key exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// The key exists and this revision wrote its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// A [`Precondition`]'s condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// This revision wrote the value.
    Revision(u64),
}

impl Precondition {
    /// The condition for a key.
    pub fn new(key: &[u8], condition: Condition) -> Precondition {
        let (key, key_base64) = key_fields(key);
        let mut made = Precondition {
            key,
            key_base64,
            ..Precondition::default()
        };
        match condition {
            Condition::Absent => made.absent = Some(true),
            Condition::Present => made.present = Some(true),
            Condition::Revision(revision) => made.revision = Some(revision),
        }
        made
    }

    /// The key's bytes.
    pub fn key_bytes(&self) -> Result<Vec<u8>> {
        key_bytes(self.key.as_deref(), self.key_base64.as_deref())
    }

    /// The condition; an error unless there is exactly one.
    pub fn condition(&self) -> Result<Condition> {
        match (self.absent, self.present, self.revision) {
            (Some(true), None, None) => Ok(Condition::Absent),
            (None, Some(true), None) => Ok(Condition::Present),
            (None, None, Some(revision)) => Ok(Condition::Revision(revision)),
            _ => Err(invalid(
                "a precondition wants exactly one of \"absent\":true, \"present\":true and \"revision\":N",
            )),
        }
    }
}

/// Answer of `POST /v1/batch`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Committed {
    /// The revision that the batch became; the present one if it changed nothing.
    pub revision: u64,
    /// Keys that were not there before and are now.
    #[serde(default)]
    pub created: u64,
    /// Keys that were there and were set.
    #[serde(default)]
    pub updated: u64,
    /// Keys that were there and are not any more.
    #[serde(default)]
    pub deleted: u64,
}

/// Parses a time to live: more than zero, see [`parse_duration`].
pub fn parse_ttl(text: &str) -> Result<std::time::Duration> {
    parse_duration(text)
        .filter(|ttl| !ttl.is_zero())
        .ok_or_else(|| invalid("ttl is a duration above zero such as 500ms, 30s, 5m, 1h30m or 7d"))
}

fn invalid(message: &str) -> Error {
    Error::new("invalid-argument", message)
}

/// A key as JSON members: text if it is UTF-8, else base64.
pub fn key_fields(key: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(key) {
        Ok(text) => (Some(text.to_string()), None),
        Err(_) => (None, Some(base64(key))),
    }
}

fn key_bytes(key: Option<&str>, key_base64: Option<&str>) -> Result<Vec<u8>> {
    match (key, key_base64) {
        (Some(key), None) => Ok(key.as_bytes().to_vec()),
        (None, Some(key)) => unbase64(key).ok_or_else(|| invalid("keyBase64 is not base64")),
        _ => Err(invalid("exactly one of key and keyBase64 is wanted")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reads_as_documented() {
        let batch: Batch = serde_json::from_str(
            r#"{"operations":[{"op":"set","key":"a","text":"1","ttl":"30s"},
                {"op":"set","keyBase64":"/w==","value":"AAE="},{"op":"delete","key":"b"}],
                "preconditions":[{"key":"a","absent":true},{"key":"b","revision":7}]}"#,
        )
        .unwrap();
        let [a, ff, b] = <[Operation; 3]>::try_from(batch.operations).unwrap();
        assert_eq!(a.ttl_duration().unwrap().unwrap().as_secs(), 30);
        assert_eq!(a.value_bytes().unwrap(), b"1");
        assert_eq!(ff.key_bytes().unwrap(), [0xff]);
        assert_eq!(ff.value_bytes().unwrap(), [0, 1]);
        assert_eq!(b.op, Op::Delete);
        let conditions: Vec<_> = batch
            .preconditions
            .iter()
            .map(|p| p.condition().unwrap())
            .collect();
        assert_eq!(conditions, [Condition::Absent, Condition::Revision(7)]);
    }

    #[test]
    fn a_misspelt_member_is_refused_rather_than_ignored() {
        let bad = r#"{"operations":[],"precondition":[]}"#;
        assert!(serde_json::from_str::<Batch>(bad).is_err());
        let bad = r#"{"op":"set","key":"a","text":"1","tll":"30s"}"#;
        assert!(serde_json::from_str::<Operation>(bad).is_err());
    }

    #[test]
    fn a_batch_of_too_many_operations_is_refused_while_it_is_read() {
        let one = r#"{"op":"delete","key":"a"}"#;
        let batch = |n| format!(r#"{{"operations":[{}]}}"#, vec![one; n].join(","));
        assert!(serde_json::from_str::<Batch>(&batch(MAX_OPERATIONS)).is_ok());
        let error = serde_json::from_str::<Batch>(&batch(MAX_OPERATIONS + 1)).unwrap_err();
        assert!(error.to_string().contains("at most 10000"), "{error}");
    }

    #[test]
    fn contradictions_are_refused() {
        let two_values = Operation {
            value: Some("AAE=".into()),
            ..Operation::set(b"a", b"1")
        };
        assert!(two_values.value_bytes().is_err());
        let no_key = Operation {
            key: None,
            ..Operation::delete(b"a")
        };
        assert!(no_key.key_bytes().is_err());
        let mut both = Precondition::new(b"a", Condition::Absent);
        both.present = Some(true);
        assert!(both.condition().is_err());
        let not_absent = Precondition {
            absent: Some(false),
            ..Precondition::new(b"a", Condition::Absent)
        };
        assert!(not_absent.condition().is_err());
        assert!(parse_ttl("0s").is_err());
    }

    #[test]
    fn keys_and_values_that_are_not_text_go_both_ways() {
        let operation = Operation::set(&[0xff, 0], &[0xfe]);
        let json = serde_json::to_string(&operation).unwrap();
        let back: Operation = serde_json::from_str(&json).unwrap();
        assert_eq!(back.key_bytes().unwrap(), [0xff, 0]);
        assert_eq!(back.value_bytes().unwrap(), [0xfe]);
    }
}
