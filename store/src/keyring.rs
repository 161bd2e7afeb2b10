//! Key-encryption keys and where they come from.
//!
//! A keyring is a set of keys by name, one of them current. It is loaded from a directory, as
//! Kubernetes mounts a Secret: the file `current` holds the name of the current key, and every
//! other file is a key, named by its id, 16, 24 or 32 raw bytes long. New files are wrapped with
//! the current key; the others open what was written before.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::Random;
use crate::error::{Code, Error, Result};
use crate::format::KeySlot;
use crate::passphrase::{Derivation, Passphrase};

/// Name of the file, and of the entry in the Secret, that names the current key.
const CURRENT: &str = "current";

/// Most keys that a keyring may hold: a mistaken mount of a large directory ends early.
const MAX_KEYS: usize = 1024;

/// Name of a key: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with `.`, and not `current`.
/// These are also valid names in a Secret and valid file names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// Longest id, in bytes.
    pub const MAX: usize = 64;

    /// Checks and takes a name.
    pub fn new(id: impl Into<String>) -> Result<KeyId> {
        let id = id.into();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if id.is_empty()
            || id.len() > Self::MAX
            || id.starts_with('.')
            || id == CURRENT
            || !id.bytes().all(allowed)
        {
            // The text is not repeated: someone may have put a key where its name belongs.
            return Err(Error::new(
                Code::InvalidKeyring,
                "a key id is 1 to 64 of A-Z a-z 0-9 . _ -, does not begin with a dot and is not \"current\"",
            ));
        }
        Ok(KeyId(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Size of an AES key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KeySize {
    /// AES-128.
    Aes128,
    /// AES-192.
    Aes192,
    /// AES-256, the default.
    #[default]
    Aes256,
}

impl KeySize {
    /// All sizes.
    pub const ALL: [KeySize; 3] = [KeySize::Aes128, KeySize::Aes192, KeySize::Aes256];

    /// 128, 192 or 256.
    pub const fn bits(self) -> u16 {
        match self {
            KeySize::Aes128 => 128,
            KeySize::Aes192 => 192,
            KeySize::Aes256 => 256,
        }
    }

    /// 16, 24 or 32.
    pub const fn bytes(self) -> usize {
        match self {
            KeySize::Aes128 => 16,
            KeySize::Aes192 => 24,
            KeySize::Aes256 => 32,
        }
    }

    /// The size with this many bits, if there is one.
    pub const fn from_bits(bits: u16) -> Option<KeySize> {
        match bits {
            128 => Some(KeySize::Aes128),
            192 => Some(KeySize::Aes192),
            256 => Some(KeySize::Aes256),
            _ => None,
        }
    }
}

/// A key-encryption key: 16, 24 or 32 bytes, overwritten when dropped, never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key {
    bytes: [u8; 32],
    len: usize,
}

impl Key {
    /// Takes raw key bytes; the length decides between AES-128, AES-192 and AES-256.
    pub fn new(bytes: &[u8]) -> Result<Key> {
        let mut key = Key {
            bytes: [0; 32],
            len: bytes.len(),
        };
        match (bytes.len(), key.bytes.get_mut(..bytes.len())) {
            (16 | 24 | 32, Some(space)) => space.copy_from_slice(bytes),
            (len, _) => {
                return Err(Error::new(
                    Code::InvalidKeyring,
                    format!(
                        "a key is 16, 24 or 32 raw bytes, not {len} (not base64, no newline at its end)"
                    ),
                ));
            }
        }
        Ok(key)
    }

    /// The key's size.
    pub fn size(&self) -> KeySize {
        match self.len {
            16 => KeySize::Aes128,
            24 => KeySize::Aes192,
            _ => KeySize::Aes256,
        }
    }

    pub(crate) fn expose(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bits, redacted)", self.size().bits())
    }
}

/// The keys of a store by id, one of them current.
#[derive(Debug, Clone)]
pub struct Keyring {
    current: KeyId,
    keys: BTreeMap<KeyId, Key>,
}

impl Keyring {
    /// A keyring from its parts; `current` must be among the keys.
    pub fn new(current: KeyId, keys: BTreeMap<KeyId, Key>) -> Result<Keyring> {
        if !keys.contains_key(&current) {
            return Err(Error::new(
                Code::InvalidKeyring,
                format!("the keyring names {current} as current but does not hold it"),
            ));
        }
        Ok(Keyring { current, keys })
    }

    /// A keyring of one key.
    pub fn single(id: KeyId, key: Key) -> Keyring {
        Keyring {
            current: id.clone(),
            keys: BTreeMap::from([(id, key)]),
        }
    }

    /// Loads a directory as Kubernetes mounts a Secret. Names that begin with a dot (`..data` and
    /// the timestamped directory it points to) are not keys. Any other file that is not a key is
    /// an error, so that a slip shows at once rather than at the next rotation.
    pub fn load(dir: &Path) -> Result<Keyring> {
        let at = |what: &str| format!("{what} keyring {}", dir.display());
        let unreadable = |source: std::io::Error| {
            Error::new(Code::InvalidKeyring, format!("{}: {source}", at("read")))
                .with_source(source)
        };
        // A Secret's new content appears by one rename of `..data`. Reading through that link
        // resolved once keeps an update in the middle from mixing two contents.
        let root = fs::canonicalize(dir.join("..data")).unwrap_or_else(|_| dir.to_path_buf());
        let mut current = None;
        let mut keys = BTreeMap::new();
        for file in fs::read_dir(&root).map_err(unreadable)? {
            let name = file.map_err(unreadable)?.file_name();
            let Some(name) = name.to_str() else {
                return Err(Error::new(
                    Code::InvalidKeyring,
                    format!("{}: a file name that is not UTF-8", at("read")),
                ));
            };
            if name.starts_with('.') {
                continue;
            }
            if name == CURRENT {
                let text = read_small(&root.join(name), KeyId::MAX + 2).map_err(unreadable)?;
                let id = std::str::from_utf8(&text).unwrap_or_default().trim();
                current = Some(KeyId::new(id).map_err(|e| e.context(at("the file current of")))?);
                continue;
            }
            if keys.len() >= MAX_KEYS {
                return Err(Error::new(
                    Code::InvalidKeyring,
                    format!("{}: more than {MAX_KEYS} keys", at("read")),
                ));
            }
            let id = KeyId::new(name).map_err(|e| e.context(at("a file name of")))?;
            let bytes = read_small(&root.join(name), 33).map_err(unreadable)?;
            let key =
                Key::new(&bytes).map_err(|e| e.context(format!("key {id} of {}", at("the"))))?;
            keys.insert(id, key);
        }
        let current = current.ok_or_else(|| {
            Error::new(
                Code::InvalidKeyring,
                format!("{}: no file named current", at("read")),
            )
        })?;
        Keyring::new(current, keys).map_err(|e| e.context(at("read")))
    }

    /// The id of the key that wraps new files.
    pub fn current(&self) -> &KeyId {
        &self.current
    }

    /// The key of that id, if it is held.
    pub fn get(&self, id: &KeyId) -> Option<&Key> {
        self.keys.get(id)
    }

    /// The ids of all keys, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.keys.keys()
    }

    /// The first id under which both keyrings hold a key, but not the same one.
    pub(crate) fn conflict(&self, other: &Keyring) -> Option<&KeyId> {
        let differs = |(id, key): &(&KeyId, &Key)| {
            other
                .get(id)
                .is_some_and(|other| !bool::from(other.expose().ct_eq(key.expose())))
        };
        self.keys.iter().find(differs).map(|(id, _)| id)
    }

    /// The key that wraps new files.
    pub fn current_key(&self) -> Result<&Key> {
        self.keys
            .get(&self.current)
            .ok_or_else(|| Error::internal("a keyring without its current key"))
    }
}

/// Reads at most `limit` bytes of a file into memory that is overwritten when dropped.
pub(crate) fn read_small(path: &Path, limit: usize) -> std::io::Result<Zeroizing<Vec<u8>>> {
    use std::io::Read;
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit));
    fs::File::open(path)?
        .take(limit as u64)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How a store protects its files.
#[derive(Debug, Clone)]
pub enum Encryption {
    /// Not at all, in so many words: anyone who can read the disk can read the data. The files
    /// are still checksummed and chained.
    None,
    /// Data keys are wrapped by the keyring's current key.
    Keyring(Keyring),
    /// Data keys are wrapped by a 256-bit key that is derived from a passphrase.
    Passphrase(Passphrase),
}

/// What wraps the data key of a new file.
pub(crate) struct Wrapping {
    pub id: KeyId,
    pub derivation: Option<Derivation>,
    pub key: Key,
}

impl Encryption {
    /// What was given, for messages.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Encryption::None => "no key",
            Encryption::Keyring(_) => "a keyring",
            Encryption::Passphrase(_) => "a passphrase",
        }
    }

    /// The same for another store: what was learnt of one store's salt is forgotten.
    pub(crate) fn for_store(&self) -> Encryption {
        match self {
            Encryption::Passphrase(passphrase) => Encryption::Passphrase(passphrase.for_store()),
            other => other.clone(),
        }
    }

    /// The same for a rewrap: another iteration count than asked for is not kept.
    pub(crate) fn for_rewrap(&self) -> Encryption {
        match self {
            Encryption::Passphrase(passphrase) => Encryption::Passphrase(passphrase.for_rewrap()),
            other => other.clone(),
        }
    }

    /// The ids of the keys that are at hand.
    pub(crate) fn key_ids(&self) -> Vec<KeyId> {
        match self {
            Encryption::None => Vec::new(),
            Encryption::Keyring(keyring) => keyring.ids().cloned().collect(),
            Encryption::Passphrase(passphrase) => passphrase.key_ids(),
        }
    }

    /// What wraps the data key of a new file; none without encryption.
    pub(crate) fn wrapping(&self, random: &dyn Random) -> Result<Option<Wrapping>> {
        Ok(match self {
            Encryption::None => None,
            Encryption::Keyring(keyring) => Some(Wrapping {
                id: keyring.current().clone(),
                derivation: None,
                key: keyring.current_key()?.clone(),
            }),
            Encryption::Passphrase(passphrase) => Some(passphrase.wrapping(random)?),
        })
    }

    /// The key that a slot names.
    pub(crate) fn unwrapping(&self, slot: &KeySlot) -> Result<Key> {
        let mismatch = |has: &str| {
            let given = self.what();
            Err(Error::new(
                Code::EncryptionMismatch,
                format!("the file's key is wrapped by {has}, but {given} was given"),
            ))
        };
        match (self, &slot.derivation) {
            (Encryption::Keyring(keyring), None) => {
                keyring.get(&slot.key_id).cloned().ok_or_else(|| {
                    let held: Vec<&str> = keyring.ids().map(KeyId::as_str).collect();
                    Error::new(
                        Code::KeyMissing,
                        format!(
                            "the keyring lacks key {}; it holds {}",
                            slot.key_id,
                            held.join(", ")
                        ),
                    )
                })
            }
            (Encryption::Passphrase(passphrase), Some(derivation)) => passphrase.derive(derivation),
            (_, None) => mismatch("a key of a keyring"),
            (_, Some(_)) => mismatch("a passphrase"),
        }
    }

    /// Takes note of a slot whose key was opened: a store's new files use the same salt.
    pub(crate) fn adopt(&self, slot: &KeySlot) {
        if let (Encryption::Passphrase(passphrase), Some(derivation)) = (self, &slot.derivation) {
            passphrase.adopt(derivation);
        }
    }

    /// True if a slot that this opens is wrapped as a new file's would be.
    pub(crate) fn wraps_like(&self, slot: &KeySlot) -> bool {
        match (self, &slot.derivation) {
            (Encryption::Keyring(keyring), None) => slot.key_id == *keyring.current(),
            (Encryption::Passphrase(passphrase), Some(derivation)) => {
                derivation.iterations == passphrase.iterations()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn a_key_has_one_of_three_sizes() {
        for (bits, bytes) in [(128, 16), (192, 24), (256, 32)] {
            let size = KeySize::from_bits(bits).unwrap();
            assert_eq!(size.bytes(), bytes);
            assert_eq!(Key::new(&vec![1; bytes]).unwrap().size(), size);
        }
        for bits in [0, 16, 64, 127, 129, 512] {
            assert_eq!(KeySize::from_bits(bits), None);
        }
    }

    #[track_caller]
    fn check_refused(files: &[(&str, &[u8])], message: &str) {
        let error = Keyring::load(dir(files).path()).unwrap_err();
        assert_eq!(error.code(), "invalid-keyring");
        assert!(error.to_string().contains(message), "{error}");
    }

    const SECRET: &[u8] = b"0123456789abcdefSECRETsecretXYZ!";

    #[test]
    fn a_keyring_may_have_1024_keys_in_whatever_order_they_are_listed() {
        use std::os::unix::ffi::OsStrExt;
        let mount = dir(&[("current", b"k0")]);
        for n in 0..MAX_KEYS {
            fs::write(mount.path().join(format!("k{n}")), SECRET).unwrap();
        }
        assert_eq!(Keyring::load(mount.path()).unwrap().ids().count(), MAX_KEYS);
        fs::write(mount.path().join("one-more"), SECRET).unwrap();
        let error = Keyring::load(mount.path()).unwrap_err();
        assert!(error.to_string().contains("more than 1024 keys"), "{error}");
        fs::remove_file(mount.path().join("one-more")).unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"\xff");
        fs::write(mount.path().join(odd), SECRET).unwrap();
        let error = Keyring::load(mount.path()).unwrap_err();
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }

    #[test]
    fn a_secret_as_kubernetes_mounts_it_is_loaded_with_all_sizes() {
        let mount = tempfile::tempdir().unwrap();
        let data = mount.path().join("..2026_11_23");
        fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink("..2026_11_23", mount.path().join("..data")).unwrap();
        let files = [
            ("current", &b"k24\n"[..]),
            ("k16", &SECRET[..16]),
            ("k24", &SECRET[..24]),
            ("k32", SECRET),
        ];
        for (name, content) in files {
            fs::write(data.join(name), content).unwrap();
            std::os::unix::fs::symlink(format!("..data/{name}"), mount.path().join(name)).unwrap();
        }
        let ring = Keyring::load(mount.path()).unwrap();
        assert_eq!(ring.current().as_str(), "k24");
        assert_eq!(
            ring.ids().map(KeyId::as_str).collect::<Vec<_>>(),
            ["k16", "k24", "k32"]
        );
        assert_eq!(ring.current_key().unwrap().size(), KeySize::Aes192);
        assert_eq!(
            ring.get(&KeyId::new("k32").unwrap()).unwrap().expose(),
            SECRET
        );
    }

    #[test]
    fn a_plain_directory_is_loaded_and_dot_files_are_no_keys() {
        let dir = dir(&[("current", b"a"), ("a", SECRET), (".hidden", b"x")]);
        let ring = Keyring::load(dir.path()).unwrap();
        assert_eq!(ring.ids().count(), 1);
    }

    #[test]
    fn what_is_wrong_with_a_keyring_is_said_and_no_key_is_shown() {
        check_refused(&[("a", SECRET)], "no file named current");
        check_refused(&[("current", b"b"), ("a", SECRET)], "names b as current");
        check_refused(&[("current", b""), ("a", SECRET)], "a key id is");
        check_refused(&[("current", b"a"), ("a", &SECRET[..31])], "not 31");
        check_refused(&[("current", b"a"), ("a", b"")], "not 0");
        check_refused(
            &[("current", b"a"), ("a", SECRET), ("b c", SECRET)],
            "a key id is",
        );
        // A key by mistake where its name belongs, or with a newline.
        check_refused(&[("current", SECRET), ("a", SECRET)], "a key id is");
        let longer = [SECRET, b"\n"].concat();
        check_refused(&[("current", b"a"), ("a", &longer)], "not 33");
        let missing = Keyring::load(Path::new("/nowhere/keyring")).unwrap_err();
        assert_eq!(missing.code(), "invalid-keyring");
        for files in [
            &[("current", SECRET), ("a", SECRET)][..],
            &[("current", b"a"), ("a", &longer)],
            &[("current", b"b"), ("a", SECRET)],
        ] {
            let error = Keyring::load(dir(files).path()).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(
                !shown.contains("SECRET") && !shown.contains("0123456789"),
                "{shown}"
            );
        }
    }

    #[test]
    fn debug_shows_no_key_bytes() {
        let ring = Keyring::single(KeyId::new("a").unwrap(), Key::new(SECRET).unwrap());
        let shown = format!("{:?} {:?}", ring, Encryption::Keyring(ring.clone()));
        assert!(shown.contains("redacted") && shown.contains("256 bits"));
        assert!(
            !shown.contains("SECRET") && !shown.contains("48, 49"),
            "{shown}"
        );
    }

    #[test]
    fn key_ids_are_names_of_secret_entries() {
        for good in ["a", "20260801-ab12", "A.b_c-9", &"x".repeat(64)] {
            assert!(KeyId::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".a",
            "..",
            "current",
            "a b",
            "a/b",
            "ä",
            "a\n",
            &"x".repeat(65),
        ] {
            assert!(KeyId::new(bad).is_err(), "{bad}");
        }
    }
}
