//! The keyring as it is inside: JSON, so that it can be used without any program of ours.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::Error;

/// Version of the content.
const VERSION: u32 = 1;
/// Most keys, and longest id, as the store has it.
const MAX_KEYS: usize = 1024;
const MAX_ID: usize = 64;
/// Longest name of a store with its namespace.
const MAX_STORE: usize = 253 + 1 + 253;

/// A keyring: all keys of a store, and which of them is current.
///
/// ```json
/// {
///   "codexstoreKeyring": 1,
///   "store": "shop/orders",
///   "current": "20261129-0d4f",
///   "keys": {
///     "20261129-0d4f": "base64 of 16, 24 or 32 bytes"
///   }
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Namespace and name of the store.
    pub store: String,
    /// Id of the current key.
    pub current: String,
    by_id: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.by_id.keys().collect();
        write!(f, "Keys({}, current {}, {ids:?})", self.store, self.current)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plain {
    codexstore_keyring: u32,
    store: String,
    current: String,
    keys: BTreeMap<String, Zeroized>,
}

/// Text that is wiped when it is dropped.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Zeroized(Zeroizing<String>);

impl From<String> for Zeroized {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl Keys {
    /// A keyring without keys.
    pub fn new(store: impl Into<String>, current: impl Into<String>) -> Self {
        Self {
            store: store.into(),
            current: current.into(),
            by_id: BTreeMap::new(),
        }
    }

    /// Adds a key.
    pub fn insert(&mut self, id: impl Into<String>, key: &[u8]) {
        self.by_id.insert(id.into(), Zeroizing::new(key.to_vec()));
    }

    /// Ids and keys, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.by_id
            .iter()
            .map(|(id, key)| (id.as_str(), key.as_slice()))
    }

    /// Whether a store can use it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'/');
        let store = &self.store;
        if store.is_empty() || store.len() > MAX_STORE || !store.bytes().all(plain) {
            return Err(Error::Keyring("the name of its store is none"));
        }
        if self.by_id.len() > MAX_KEYS {
            return Err(Error::Keyring("it has too many keys"));
        }
        if !self.by_id.keys().all(|id| is_id(id)) {
            return Err(Error::Keyring("the id of a key is none"));
        }
        if !self
            .by_id
            .values()
            .all(|key| matches!(key.len(), 16 | 24 | 32))
        {
            return Err(Error::Keyring("a key has not 16, 24 or 32 bytes"));
        }
        if !self.by_id.contains_key(&self.current) {
            return Err(Error::Keyring("its current key is not in it"));
        }
        Ok(())
    }

    /// Written by hand, so that no copy of a key stays in memory. Nothing in it needs an escape: it was checked.
    pub(crate) fn to_json(&self) -> Zeroizing<String> {
        let room = 256 + self.store.len() + self.by_id.len() * (MAX_ID + 64);
        let mut text = Zeroizing::new(String::with_capacity(room));
        let mut add = |parts: &[&str]| parts.iter().for_each(|part| text.push_str(part));
        let version = VERSION.to_string();
        add(&["{\n  \"codexstoreKeyring\": ", &version]);
        add(&[",\n  \"store\": \"", &self.store]);
        add(&[
            "\",\n  \"current\": \"",
            &self.current,
            "\",\n  \"keys\": {",
        ]);
        for (n, (id, key)) in self.iter().enumerate() {
            let before = if n == 0 { "\n    \"" } else { ",\n    \"" };
            let key = Zeroizing::new(STANDARD.encode(key));
            add(&[before, id, "\": \"", &key, "\""]);
        }
        add(&["\n  }\n}\n"]);
        text
    }

    /// Reads what `age` printed.
    pub fn from_json(text: &[u8]) -> Result<Self, Error> {
        let plain: Plain = serde_json::from_slice(text)
            .map_err(|_| Error::Keyring("it is not the JSON of one"))?;
        if plain.codexstore_keyring != VERSION {
            return Err(Error::Keyring("a newer codexctl is needed for it"));
        }
        let mut keys = Self::new(plain.store, plain.current);
        for (id, text) in plain.keys {
            let key = STANDARD.decode(text.0.as_bytes()).map(Zeroizing::new);
            let key = key.map_err(|_| Error::Keyring("a key is not base64"))?;
            keys.by_id.insert(id, key);
        }
        keys.check()?;
        Ok(keys)
    }
}

/// Whether a key can have this id: what it can have in a store, and so what is a file's name and nothing else.
pub fn is_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=MAX_ID).contains(&id.len())
        && !id.starts_with('.')
        && id != "current"
        && id.bytes().all(allowed)
}
