//! Putting one store in the place of another, which is set aside and not deleted.
//!
//! Three directories beside the store's own, which is called `data` here:
//!
//! ```text
//! data.restoring      a store that is being made
//! data.restored       it is whole: it takes the place, now or at the next start
//! data.before-MS      what was in the place before, since that time (milliseconds since 1970)
//! ```
//!
//! The rename to `data.restored` decides. Each step behind it can be done again, so a crash in between loses nothing: no
//! start finds the place empty and takes that for a store without entries.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::OsDisk;
use crate::error::{Error, Result};

/// The place of a store, and what may take it.
#[derive(Debug, Clone)]
pub struct Replacement {
    place: PathBuf,
}

/// A store that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Its directory.
    pub path: PathBuf,
    /// Bytes that it takes.
    pub bytes: u64,
}

impl SetAside {
    /// Deletes it for good.
    pub fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.path)
            .map_err(|e| Error::io(format!("remove {}", self.path.display()), e))
    }
}

impl Replacement {
    /// Of the store in this directory, which need not exist; its parent must.
    pub fn of(place: &Path) -> Replacement {
        Replacement {
            place: place.to_path_buf(),
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.place.file_name().unwrap_or_default().to_os_string();
        name.push(suffix);
        self.place.with_file_name(name)
    }

    /// Where the new store is made. What an earlier try left there is removed.
    pub fn prepare(&self) -> Result<PathBuf> {
        let path = self.beside(".restoring");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(
                format!("remove {}, which was left", path.display()),
                error,
            )),
            _ => Ok(path),
        }
    }

    /// Decides that the store which was made takes the place.
    pub fn commit(&self) -> Result<()> {
        self.rename(&self.beside(".restoring"), &self.beside(".restored"))
    }

    /// Puts the store that was decided on into its place; nothing if there is none. Returns where the one before it is
    /// now, if there was one. `locked` while that is open, here or elsewhere.
    pub fn finish(&self) -> Result<Option<PathBuf>> {
        let new = self.beside(".restored");
        if !exists(&new)? {
            return Ok(None);
        }
        let mut before = None;
        if exists(&self.place)? {
            // Held until it is renamed.
            let _locked = OsDisk::open(&self.place)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let ms = now.unwrap_or_default().as_millis();
            let aside = self.beside(&format!(".before-{ms}"));
            self.rename(&self.place, &aside)?;
            before = Some(aside);
        }
        self.rename(&new, &self.place)?;
        Ok(before)
    }

    /// What was set aside, oldest first.
    pub fn set_aside(&self) -> Result<Vec<SetAside>> {
        let parent = self.place.parent().unwrap_or(Path::new("."));
        let start = self.beside(".before-");
        let start = start.file_name().unwrap_or_default().to_string_lossy();
        let list = || -> io::Result<Vec<SetAside>> {
            let mut found = Vec::new();
            for entry in fs::read_dir(parent)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(&*start) {
                    found.push(SetAside {
                        bytes: size(&entry.path())?,
                        path: entry.path(),
                    });
                }
            }
            found.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(found)
        };
        list().map_err(|e| Error::io(format!("list {}", parent.display()), e))
    }

    /// Bytes that the store in the place takes; 0 if there is none.
    pub fn bytes(&self) -> Result<u64> {
        size(&self.place).map_err(|e| Error::io(format!("list {}", self.place.display()), e))
    }

    /// Renames, durably.
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let parent = self.place.parent().unwrap_or(Path::new("."));
        fs::rename(from, to)
            .and_then(|()| File::open(parent)?.sync_all())
            .map_err(|e| Error::io(format!("rename {} to {}", from.display(), to.display()), e))
    }
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists()
        .map_err(|e| Error::io(format!("look for {}", path.display()), e))
}

/// Bytes of the files in a directory; 0 if there is none.
fn size(dir: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        match entry?.metadata() {
            Ok(metadata) => bytes += metadata.len(),
            // Removed by its store meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::{Encryption, Options, Store};

    fn options() -> Options {
        Options {
            max_disk: 64 << 20,
            ..Options::new(Encryption::None)
        }
    }

    /// A store with one entry, closed.
    fn make(dir: &Path, value: &[u8]) {
        let store = Store::open(dir, options()).unwrap();
        store.set(b"k", value).unwrap();
        store.close().unwrap();
    }

    fn value(dir: &Path) -> Vec<u8> {
        let store = Store::open(dir, options()).unwrap();
        store.get(b"k").unwrap().unwrap().value().to_vec()
    }

    #[test]
    fn a_store_takes_the_place_of_another_from_wherever_it_was_cut() {
        for cut in 0..3 {
            let parent = tempfile::tempdir().unwrap();
            let place = parent.path().join("data");
            let replacement = Replacement::of(&place);
            make(&place, b"old");
            make(&replacement.prepare().unwrap(), b"new");
            assert_eq!(replacement.finish().unwrap(), None, "not decided yet");
            replacement.commit().unwrap();
            let before = match cut {
                0 => replacement.finish().unwrap().unwrap(),
                1 => {
                    // The crash came between the two renames.
                    let aside = replacement.beside(".before-1");
                    fs::rename(&place, &aside).unwrap();
                    assert!(!place.exists());
                    assert_eq!(replacement.finish().unwrap(), None);
                    aside
                }
                _ => {
                    let open = Store::open(&place, options()).unwrap();
                    let refused = replacement.finish().unwrap_err();
                    assert!(refused.is(Code::Locked), "{refused}");
                    open.close().unwrap();
                    replacement.finish().unwrap().unwrap()
                }
            };
            assert_eq!(value(&place), b"new");
            assert_eq!(value(&before), b"old");
            assert_eq!(replacement.finish().unwrap(), None, "there is none left");
            let aside = replacement.set_aside().unwrap();
            assert_eq!(aside.len(), 1);
            assert_eq!(aside[0].path, before);
            assert!(aside[0].bytes > 0 && replacement.bytes().unwrap() > 0);
            aside[0].remove().unwrap();
            assert_eq!(replacement.set_aside().unwrap(), []);
        }
    }

    #[test]
    fn what_an_unfinished_try_left_is_made_anew_and_an_empty_place_is_taken() {
        let parent = tempfile::tempdir().unwrap();
        let replacement = Replacement::of(&parent.path().join("data"));
        make(&replacement.prepare().unwrap(), b"half");
        let staging = replacement.prepare().unwrap();
        assert!(!staging.exists());
        assert_eq!(replacement.bytes().unwrap(), 0);
        make(&staging, b"new");
        replacement.commit().unwrap();
        assert_eq!(replacement.finish().unwrap(), None);
        assert_eq!(value(&parent.path().join("data")), b"new");
        assert_eq!(replacement.set_aside().unwrap(), []);
    }

    #[test]
    fn what_is_no_directory_is_told_and_not_removed() {
        let parent = tempfile::tempdir().unwrap();
        let place = parent.path().join("data");
        let replacement = Replacement::of(&place);
        let left = replacement.beside(".restoring");
        for path in [&place, &left] {
            fs::write(path, b"a file").unwrap();
        }
        let error = replacement.prepare().unwrap_err();
        assert!(error.is(Code::Io), "{error}");
        assert!(error.message().contains("which was left"), "{error}");
        let error = replacement.bytes().unwrap_err();
        assert!(error.message().starts_with("list "), "{error}");
        assert!(place.exists() && left.exists());
    }
}
