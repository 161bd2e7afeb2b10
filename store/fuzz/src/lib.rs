//! What the fuzz targets do with their bytes. Each may fail with an error, and must not panic, loop, or answer wrongly.
//!
//! Checksums would stop almost every mutated file at its first page, so the targets put right what guards the bytes that they are
//! about: whoever damages a file may do the same.

mod files;
mod model;

pub use files::{frame, header, image, ledger, piece};
pub use model::model;

use codexstore::{Key, KeyId, Keyring};

/// A keyring's directory: the first bytes say how long the parts are.
pub fn keyring(data: &[u8]) {
    let [a, b, rest @ ..] = data else { return };
    let (current, rest) = rest.split_at((*a as usize % 70).min(rest.len()));
    let (key, other) = rest.split_at((*b as usize % 40).min(rest.len()));
    let dir = tempfile::tempdir().expect("a directory");
    let write =
        |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("a file");
    write("current", current);
    write("k1", key);
    if let Ok(name) = std::str::from_utf8(current)
        && KeyId::new(name.trim_end()).is_ok()
    {
        write(name.trim_end(), other);
    }
    if let Ok(ring) = Keyring::load(dir.path()) {
        assert!(ring.get(ring.current()).is_some());
        assert!(ring.ids().all(|id| KeyId::new(id.as_str()).is_ok()));
        assert!([16, 24, 32].contains(&other.len()) || ring.current().as_str() == "k1");
    }
    let _ = Key::new(other);
    let _ = std::str::from_utf8(other).map(KeyId::new);
}
