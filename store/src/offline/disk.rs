//! The directory of a store for reading alone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use crate::disk::{Disk, DiskFile, LOCK};
use crate::error::{Code, Error, Result};

/// A directory that is read and never written. What recovery does to make durable what it found is
/// checked to change nothing, and not done; everything else is refused.
pub(crate) struct ReadOnly {
    path: PathBuf,
    /// Held with a shared lock; none if there is no such file, or another has it.
    _lock: Option<File>,
    live: bool,
}

impl ReadOnly {
    /// Looks at a directory; nobody opens the store while this lives. A store that is open already
    /// is [`ReadOnly::live`].
    pub fn look(path: &Path) -> Result<ReadOnly> {
        let doing = |what: &str| format!("{what} {}", path.display());
        fs::read_dir(path).map_err(|e| Error::io(doing("open directory"), e))?;
        let mut live = false;
        let lock = match File::open(path.join(LOCK)) {
            Ok(lock) => match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
                Ok(()) => Some(lock),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    live = true;
                    None
                }
                Err(e) => return Err(Error::io(doing("lock"), e.into())),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(doing("open LOCK in"), e)),
        };
        Ok(ReadOnly {
            path: path.to_path_buf(),
            _lock: lock,
            live,
        })
    }

    /// Takes a directory whose store nobody has open.
    pub fn hold(path: &Path) -> Result<ReadOnly> {
        let disk = ReadOnly::look(path)?;
        if disk.live {
            return Err(Error::new(
                Code::Locked,
                format!(
                    "{} is open in another process: stop that first",
                    path.display()
                ),
            ));
        }
        Ok(disk)
    }

    /// True if somebody has the store open.
    pub fn live(&self) -> bool {
        self.live
    }
}

fn refused() -> io::Error {
    io::Error::from(io::ErrorKind::ReadOnlyFilesystem)
}

impl Disk for ReadOnly {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.path)? {
            if let Ok(name) = file?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, _: &str) -> io::Result<Arc<dyn DiskFile>> {
        Err(refused())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).open(self.path.join(name))?;
        Ok(Arc::new(ReadOnlyFile(file)))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(refused())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(refused())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Err(refused())
    }

    fn free(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn tighten(&self) -> io::Result<()> {
        Err(refused())
    }
}

struct ReadOnlyFile(File);

impl DiskFile for ReadOnlyFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    /// Recovery writes what it has read once more, to be sure that it is on disk. Anything else
    /// would be a change.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut there = vec![0; data.len()];
        self.0.read_exact_at(&mut there, offset)?;
        if there == data {
            Ok(())
        } else {
            Err(refused())
        }
    }

    /// Recovery gives back space that was filled ahead; here it stays.
    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_be_changed_through_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), b"abc").unwrap();
        let disk = ReadOnly::hold(dir.path()).unwrap();
        assert!(disk.create("g").is_err() && disk.remove("f").is_err());
        assert!(disk.rename("f", "g").is_err() && disk.sync_dir().is_err());
        assert!(disk.tighten().is_err());
        let file = disk.open("f").unwrap();
        file.write_at(1, b"bc").unwrap();
        file.truncate(1).unwrap();
        assert!(file.write_at(1, b"bd").is_err());
        assert!(file.write_at(2, b"cd").is_err());
        assert_eq!(disk.list().unwrap(), ["f"]);
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"abc");
    }

    #[test]
    fn a_store_that_is_open_is_live_and_one_that_is_looked_at_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let options = || crate::Options::new(crate::Encryption::None);
        let store = crate::Store::open(dir.path(), options()).unwrap();
        assert!(ReadOnly::look(dir.path()).unwrap().live());
        assert!(ReadOnly::hold(dir.path()).is_err_and(|e| e.is(Code::Locked)));
        store.close().unwrap();
        let held = ReadOnly::hold(dir.path()).unwrap();
        let also = ReadOnly::hold(dir.path()).unwrap();
        let error = crate::Store::open(dir.path(), options()).err().unwrap();
        assert!(error.is(Code::Locked), "{error}");
        drop((held, also));
        crate::Store::open(dir.path(), options()).unwrap();
    }
}
