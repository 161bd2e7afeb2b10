//! A directory with a store, its keyring, and what can be done to both.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use codexstore::{Encryption, Keyring, Options, Store};

use crate::support::{Ran, codexctl, run};

/// A place for stores.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// With a keyring of one key, and no store yet.
    pub fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(place.keyring()).unwrap();
        fs::write(place.keyring().join("current"), "2026-11").unwrap();
        fs::write(place.keyring().join("2026-11"), [7; 32]).unwrap();
        place
    }

    /// With a store of a few keys that was closed.
    pub fn with_store() -> Self {
        let place = Self::new();
        place.fill("data", 20);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub fn keyring(&self) -> PathBuf {
        self.path("keyring")
    }

    pub fn options(&self) -> Options {
        Options::new(Encryption::Keyring(Keyring::load(&self.keyring()).unwrap()))
    }

    pub fn open(&self, name: &str) -> Store {
        Store::open(&self.path(name), self.options()).unwrap()
    }

    /// Sets keys `k/0` and on, each in a batch of its own, and closes.
    pub fn fill(&self, name: &str, count: u32) {
        let store = self.open(name);
        for n in 0..count {
            store
                .set(
                    format!("k/{n}").as_bytes(),
                    format!("secret {n}").as_bytes(),
                )
                .unwrap();
        }
        store.close().unwrap();
    }

    /// Runs codexctl here.
    pub fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Ran {
        run(codexctl().current_dir(self.dir.path()).args(args))
    }
}

/// Every file of a directory with its bytes.
pub fn snapshot(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

/// The first file whose name begins so.
pub fn file(dir: &Path, begins: &str) -> PathBuf {
    let names = snapshot(dir).into_keys();
    let name = names.into_iter().find(|name| name.starts_with(begins));
    dir.join(name.unwrap_or_else(|| panic!("no {begins} in {}", dir.display())))
}

/// Flips a bit.
pub fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 4;
    fs::write(file, bytes).unwrap();
}
