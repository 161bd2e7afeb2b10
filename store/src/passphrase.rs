//! Keys from a passphrase: PBKDF2-HMAC-SHA256 (RFC 8018).
//!
//! A derivation takes a good part of a second on purpose, so it is done once for each salt and
//! kept. A store has one salt: an open finds it in the key slots, new files use the same derived
//! key, and only a new store draws one. What the derivation needs stands in each slot, so a file
//! opens by itself.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::crypto::Random;
use crate::error::{Code, Error, Result};
use crate::keyring::{Key, KeyId, KeySize, Wrapping, read_small};

/// Length of a salt: 128 bits (NIST SP 800-132, 5.1).
pub(crate) const SALT: usize = 16;

/// Most derivations that one open does: a store needs one, or two while its passphrase changes. A
/// directory of forged files must not keep it busy for ever.
const MAX_DERIVED: usize = 8;

/// How a key is derived from a passphrase with PBKDF2-HMAC-SHA256. It stands in the key slot and
/// is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Derivation {
    /// The iteration count.
    pub iterations: u32,
    /// Random, once per store and passphrase.
    pub salt: [u8; SALT],
}

impl Derivation {
    /// True if the count is within the limits.
    pub(crate) fn is_sound(&self) -> bool {
        (Passphrase::MIN_ITERATIONS..=Passphrase::MAX_ITERATIONS).contains(&self.iterations)
    }

    /// The id of the derived key: `passphrase-` and half of the salt as 16 hex digits. A changed
    /// passphrase has another salt, so that its key has another id.
    fn key_id(&self) -> Result<KeyId> {
        let (half, _) = self.salt.split_at(SALT / 2);
        let number = half.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        KeyId::new(format!("passphrase-{number:016x}"))
    }
}

/// A passphrase from which the key-encryption key is derived: 256 bits, whatever the size of the
/// frames' keys. Overwritten when the last clone is dropped, never shown. Clones share what was
/// derived.
#[derive(Clone)]
pub struct Passphrase(Arc<Inner>);

struct Inner {
    secret: Zeroizing<Vec<u8>>,
    iterations: u32,
    derived: Mutex<Derived>,
}

#[derive(Clone, Default)]
struct Derived {
    keys: Vec<(Derivation, Key)>,
    /// What new files use.
    current: Option<Derivation>,
    /// Only a salt with the count asked for is gone on with.
    strict: bool,
}

impl Passphrase {
    /// Shortest passphrase, in bytes.
    pub const MIN: usize = 12;
    /// Longest passphrase, in bytes.
    pub const MAX: usize = 1024;
    /// Iterations for a new salt: what OWASP's password storage cheat sheet asks of
    /// PBKDF2-HMAC-SHA256.
    pub const ITERATIONS: u32 = 600_000;
    /// Fewest iterations that are accepted, here and in a file.
    pub const MIN_ITERATIONS: u32 = 100_000;
    /// Most iterations that are accepted, here and in a file: some seconds, so that a forged file
    /// cannot make an open take for ever.
    pub const MAX_ITERATIONS: u32 = 10_000_000;

    /// Takes a passphrase of 12 to 1,024 bytes, as they are: text is not normalised. Fails with
    /// `invalid-keyring`.
    pub fn new(secret: &[u8]) -> Result<Passphrase> {
        if !(Self::MIN..=Self::MAX).contains(&secret.len()) {
            return Err(Error::new(
                Code::InvalidKeyring,
                format!(
                    "a passphrase has {} to {} bytes, not {}",
                    Self::MIN,
                    Self::MAX,
                    secret.len()
                ),
            ));
        }
        Ok(Passphrase::made(
            secret,
            Self::ITERATIONS,
            Derived::default(),
        ))
    }

    /// Reads a passphrase from a file. One newline at its end (`\n` or `\r\n`) does not count.
    pub fn load(path: &Path) -> Result<Passphrase> {
        let bytes = read_small(path, Self::MAX + 3).map_err(|source| {
            Error::new(
                Code::InvalidKeyring,
                format!("read the passphrase in {}: {source}", path.display()),
            )
            .with_source(source)
        })?;
        let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let secret = match secret.strip_suffix(b"\r") {
            Some(rest) if secret.len() < bytes.len() => rest,
            _ => secret,
        };
        Passphrase::new(secret)
            .map_err(|e| e.context(format!("the passphrase in {}", path.display())))
    }

    /// With another iteration count for new salts: 100,000 to 10,000,000, by default 600,000.
    pub fn with_iterations(self, iterations: u32) -> Result<Passphrase> {
        let derivation = Derivation {
            iterations,
            ..Derivation::default()
        };
        if !derivation.is_sound() {
            return Err(Error::new(
                Code::InvalidKeyring,
                format!(
                    "{iterations} iterations; a passphrase needs {} to {}",
                    Self::MIN_ITERATIONS,
                    Self::MAX_ITERATIONS
                ),
            ));
        }
        Ok(Passphrase::made(
            &self.0.secret,
            iterations,
            Derived::default(),
        ))
    }

    /// Whether it is the same passphrase, whatever its count; takes as long where it is not.
    pub fn is_same(&self, other: &Passphrase) -> bool {
        self.0.secret.ct_eq(&other.0.secret).into()
    }

    /// Iterations for a new salt.
    pub fn iterations(&self) -> u32 {
        self.0.iterations
    }

    /// A key of this size that is derived with this salt and the iterations of new salts: for a keyring that can be made again from a
    /// passphrase and what is written down. A store that is opened with the passphrase itself draws its own salt, and has other keys.
    pub fn keyring_key(&self, salt: &[u8; SALT], size: KeySize) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(vec![0; size.bytes()]);
        let (secret, iterations) = (&self.0.secret, self.0.iterations);
        pbkdf2::pbkdf2_hmac::<Sha256>(secret, salt, iterations, bytes.as_mut_slice());
        bytes
    }

    fn made(secret: &[u8], iterations: u32, derived: Derived) -> Passphrase {
        Passphrase(Arc::new(Inner {
            secret: Zeroizing::new(secret.to_vec()),
            iterations,
            derived: Mutex::new(derived),
        }))
    }

    /// The same passphrase for another store, with what was derived but without a salt for new
    /// files.
    pub(crate) fn for_store(&self) -> Passphrase {
        self.again(false)
    }

    /// The same for a rewrap, which goes on with a store's salt only if its count is the one asked
    /// for.
    pub(crate) fn for_rewrap(&self) -> Passphrase {
        self.again(true)
    }

    fn again(&self, strict: bool) -> Passphrase {
        let derived = Derived {
            keys: self.0.derived.lock().keys.clone(),
            current: None,
            strict,
        };
        Passphrase::made(&self.0.secret, self.0.iterations, derived)
    }

    /// The ids of the keys that were derived and are in use.
    pub(crate) fn key_ids(&self) -> Vec<KeyId> {
        let derived = self.0.derived.lock();
        let current = derived.current.iter();
        current.filter_map(|d| d.key_id().ok()).collect()
    }

    /// New files use this salt, unless there is one already.
    pub(crate) fn adopt(&self, derivation: &Derivation) {
        let mut derived = self.0.derived.lock();
        if !derived.strict || derivation.iterations == self.0.iterations {
            derived.current.get_or_insert(*derivation);
        }
    }

    /// The key of a derivation.
    pub(crate) fn derive(&self, derivation: &Derivation) -> Result<Key> {
        let mut derived = self.0.derived.lock();
        self.derive_in(&mut derived, derivation)
    }

    fn derive_in(&self, derived: &mut Derived, derivation: &Derivation) -> Result<Key> {
        let known = derived.keys.iter().find(|(of, _)| of == derivation);
        if let Some((_, key)) = known {
            return Ok(key.clone());
        }
        if derived.keys.len() >= MAX_DERIVED {
            return Err(Error::corrupt(format!(
                "key slots with more than {MAX_DERIVED} salts: a store has one"
            )));
        }
        let mut bytes = Zeroizing::new([0; 32]);
        let iterations = derivation.iterations;
        pbkdf2::pbkdf2_hmac::<Sha256>(
            &self.0.secret,
            &derivation.salt,
            iterations,
            bytes.as_mut_slice(),
        );
        let key = Key::new(bytes.as_slice())?;
        derived.keys.push((*derivation, key.clone()));
        Ok(key)
    }

    /// What wraps a new file.
    pub(crate) fn wrapping(&self, random: &dyn Random) -> Result<Wrapping> {
        let mut derived = self.0.derived.lock();
        let derivation = if let Some(derivation) = derived.current {
            derivation
        } else {
            let mut salt = [0; SALT];
            random.fill(&mut salt)?;
            let iterations = self.0.iterations;
            *derived.current.insert(Derivation { iterations, salt })
        };
        Ok(Wrapping {
            id: derivation.key_id()?,
            derivation: Some(derivation),
            key: self.derive_in(&mut derived, &derivation)?,
        })
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_of_a_file_does_not_count_and_all_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        let loaded = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Passphrase::load(&path).unwrap().0.secret.to_vec()
        };
        let plain = b"correct horse battery";
        for end in ["", "\n", "\r\n"] {
            assert_eq!(loaded(&[plain, end.as_bytes()].concat()), plain, "{end:?}");
        }
        assert_eq!(loaded(b"correct horse\r"), b"correct horse\r");
        assert_eq!(loaded(b"correct horse\n\n"), b"correct horse\n");
    }

    /// RFC 7914, section 11: PBKDF2-HMAC-SHA-256 of 64 bytes. The second has a count that is high
    /// enough to be told from another one.
    #[test]
    fn the_derivation_agrees_with_the_published_test_vectors() {
        let hex = |text: &str| -> Vec<u8> {
            let digits = |at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
            (0..text.len() / 2).map(digits).collect()
        };
        let check = |secret: &[u8], salt: &[u8], iterations, first: &str, last: &str| {
            let mut out = [0; 64];
            pbkdf2::pbkdf2_hmac::<Sha256>(secret, salt, iterations, &mut out);
            assert!(out.starts_with(&hex(first)) && out.ends_with(&hex(last)));
        };
        check(
            b"passwd",
            b"salt",
            1,
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc",
            "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
        );
        check(
            b"Password",
            b"NaCl",
            80_000,
            "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56",
            "a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d",
        );
    }

    fn passphrase() -> Passphrase {
        Passphrase::new(b"correct horse battery")
            .unwrap()
            .with_iterations(Passphrase::MIN_ITERATIONS)
            .unwrap()
    }

    #[test]
    fn a_passphrase_is_the_same_whatever_its_count() {
        let other = Passphrase::new(b"correct horse battery").unwrap();
        assert!(passphrase().is_same(&other));
        for text in [&b"correct horse batterz"[..], b"correct horse battery2"] {
            assert!(!passphrase().is_same(&Passphrase::new(text).unwrap()));
        }
    }

    #[test]
    fn a_key_is_derived_once_and_another_salt_count_or_passphrase_makes_another() {
        let passphrase = passphrase();
        let derivation = Derivation {
            iterations: 100_000,
            salt: [1; SALT],
        };
        let key = passphrase.derive(&derivation).unwrap();
        assert_eq!(key.size().bits(), 256);
        let mut seen = vec![key.expose().to_vec()];
        for other in [
            Derivation {
                salt: [2; SALT],
                ..derivation
            },
            Derivation {
                iterations: 100_001,
                ..derivation
            },
        ] {
            seen.push(passphrase.derive(&other).unwrap().expose().to_vec());
        }
        let another = Passphrase::new(b"correct horse batterz").unwrap();
        seen.push(another.derive(&derivation).unwrap().expose().to_vec());
        for (at, key) in seen.iter().enumerate() {
            assert!(!seen[..at].contains(key), "{at}");
        }
        assert_eq!(passphrase.0.derived.lock().keys.len(), 3);
        // Kept, also for another store, which has its own salt all the same.
        let started = std::time::Instant::now();
        for _ in 0..1000 {
            let kept = passphrase.for_store().derive(&derivation).unwrap();
            assert_eq!(kept.expose(), seen[0]);
        }
        assert!(started.elapsed().as_secs() < 5);
        passphrase.adopt(&derivation);
        assert!(passphrase.for_store().key_ids().is_empty());
        assert_eq!(
            passphrase.key_ids()[0].as_str(),
            "passphrase-0101010101010101"
        );
    }

    #[test]
    fn forged_salts_do_not_keep_an_open_busy_for_ever() {
        let passphrase = passphrase();
        let results: Vec<bool> = (0..12)
            .map(|n| {
                let derivation = Derivation {
                    iterations: 100_000,
                    salt: [n; SALT],
                };
                passphrase.derive(&derivation).is_ok()
            })
            .collect();
        assert_eq!(results.iter().filter(|ok| **ok).count(), MAX_DERIVED);
    }

    #[test]
    fn a_file_may_end_with_one_newline_and_the_limits_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        let load = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            Passphrase::load(&path)
        };
        for content in [
            &b"correct horse battery"[..],
            b"correct horse battery\n",
            b"correct horse battery\r\n",
        ] {
            assert_eq!(
                load(content).unwrap().0.secret.as_slice(),
                b"correct horse battery"
            );
        }
        let two = load(b"correct horse battery\n\n").unwrap();
        assert!(two.0.secret.ends_with(b"y\n"), "only one is taken");
        for (content, said) in [
            (&b"too short\n"[..], "12 to 1024 bytes, not 9"),
            (b"", "not 0"),
            (&[b'x'; 5000], "12 to 1024"),
        ] {
            let error = load(content).unwrap_err();
            assert_eq!(error.code(), "invalid-keyring");
            assert!(error.to_string().contains(said), "{error}");
            assert!(!format!("{error:?}").contains("too short"));
        }
        assert!(load(&[b'x'; 1024]).is_ok());
        let error = Passphrase::load(Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.code(), "invalid-keyring");
        for iterations in [0, 99_999, 10_000_001] {
            let error = passphrase().with_iterations(iterations).unwrap_err();
            assert!(error.to_string().contains("100000 to 10000000"), "{error}");
        }
    }

    #[test]
    fn debug_shows_nothing_of_it() {
        let shown = format!("{:?}", crate::Encryption::Passphrase(passphrase()));
        assert!(
            shown.contains("redacted") && !shown.contains("horse"),
            "{shown}"
        );
    }

    #[test]
    fn a_key_for_a_keyring_is_as_long_as_asked_for_and_another_salt_makes_another() {
        let key = |salt, size| passphrase().keyring_key(&[salt; SALT], size).to_vec();
        for size in KeySize::ALL {
            assert_eq!(key(1, size).len(), size.bytes());
            assert_ne!(key(1, size), key(2, size));
        }
    }
}
