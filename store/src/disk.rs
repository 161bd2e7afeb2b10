//! The narrow seam to the disk: one directory of files.
//!
//! The store assumes of an implementation what POSIX and Linux file systems give:
//! - what was written to a file is durable only after [`DiskFile::sync`] returned without error,
//!   and then also the length that it needs;
//! - a name that was made, renamed or removed is durable only after [`Disk::sync_dir`];
//! - a rename replaces its target atomically;
//! - after a failed sync nothing is known about what was written since the last good one.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use crate::error::{Code, Error, Result};

/// Name of the file that is locked while a store is open.
pub(crate) const LOCK: &str = "LOCK";

/// A directory of a store's files. Names have no slash in them.
pub trait Disk: Send + Sync {
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a file that does not exist, for its owner alone.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// True if there is a file of that name.
    fn exists(&self, name: &str) -> io::Result<bool> {
        match self.open(name) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
    /// Renames a file, replacing what has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes that can still be written on the file system; `u64::MAX` if unknown.
    fn free(&self) -> io::Result<u64>;
    /// Takes from directory and files every permission but their owner's.
    fn tighten(&self) -> io::Result<()>;
    /// Lets another owner in. The store calls it last.
    fn unlock(&self) {}
}

/// One open file.
#[allow(clippy::len_without_is_empty)] // a size, not a collection's
pub trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `buf`; running over the end is an error.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data`, beyond the end too.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Cuts the file to `len` bytes. Never longer than it is; durable with the next sync.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system, locked for as long as this lives.
pub(crate) struct OsDisk {
    path: PathBuf,
    dir: File,
    lock: Mutex<Option<File>>,
}

impl OsDisk {
    /// The same, but of a directory that exists.
    pub fn open_there(path: &Path) -> Result<OsDisk> {
        if path.is_dir() {
            return OsDisk::open(path);
        }
        Err(Error::new(
            Code::NotFound,
            format!("{}: no such directory", path.display()),
        ))
    }

    /// Any directory, made if need be, and not locked: for backups.
    pub fn unlocked(path: &Path) -> Result<OsDisk> {
        let doing = |what: &str| format!("{what} {}", path.display());
        if !path.exists() {
            make_dir(path).map_err(|e| Error::io(doing("make directory"), e))?;
        }
        Ok(OsDisk {
            path: path.to_path_buf(),
            dir: File::open(path).map_err(|e| Error::io(doing("open directory"), e))?,
            lock: Mutex::new(None),
        })
    }

    /// Makes the directory if need be and locks it. Changes nothing in a directory that exists,
    /// except that it makes the file `LOCK` if it is missing.
    pub fn open(path: &Path) -> Result<OsDisk> {
        let doing = |what: &str| format!("{what} {}", path.display());
        if !path.exists() {
            make_dir(path).map_err(|e| Error::io(doing("make directory"), e))?;
        }
        let dir = File::open(path).map_err(|e| Error::io(doing("open directory"), e))?;
        let kind = rustix::fs::fstatfs(&dir)
            .map_err(|e| Error::io(doing("look at the file system of"), e.into()))?;
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // differs by platform
        if let Some(name) = refused_filesystem(kind.f_type as i64) {
            return Err(Error::new(
                Code::Unsupported,
                format!(
                    "{} is on {name}, where a lock may not be seen by another machine and two \
                     writers would destroy the store; use a volume with a local file system",
                    path.display()
                ),
            ));
        }
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(|e| Error::io(doing("open LOCK in"), e))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| {
            if e == rustix::io::Errno::WOULDBLOCK {
                Error::new(
                    Code::Locked,
                    format!("{} is open in another process or handle", path.display()),
                )
            } else {
                Error::io(doing("lock"), e.into())
            }
        })?;
        Ok(OsDisk {
            path: path.to_path_buf(),
            dir,
            lock: Mutex::new(Some(lock)),
        })
    }
}

/// Makes a directory for its owner alone, durably, with every level that is missing.
fn make_dir(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|level| !level.as_os_str().is_empty() && !level.exists())
        .collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for level in missing {
        match level.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all()?,
            _ => File::open(".")?.sync_all()?,
        }
    }
    Ok(())
}

/// File systems whose `flock` is not coherent between all that can mount them.
fn refused_filesystem(magic: i64) -> Option<&'static str> {
    Some(match magic & 0xffff_ffff {
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "SMB",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x5346_414f => "AFS",
        0x7375_7245 => "Coda",
        _ => return None,
    })
}

impl Disk for OsDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?
            .map(|file| Ok(file?.file_name()))
            .filter_map(|name: io::Result<OsString>| {
                name.map(|name| name.into_string().ok()).transpose()
            })
            .collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path.join(name))?;
        Ok(Arc::new(OsFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Arc::new(OsFile(file)))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        // By path, as everything else: a directory that was moved away is not ours any more.
        self.path.join(name).try_exists()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let state = rustix::fs::fstatvfs(&self.dir)?;
        Ok(state.f_bavail.saturating_mul(state.f_frsize))
    }

    fn unlock(&self) {
        if let Some(lock) = self.lock.lock().take() {
            // In so many words: a child that another thread is just starting holds a copy.
            let _closed_below = rustix::fs::flock(&lock, FlockOperation::Unlock);
        }
    }

    fn tighten(&self) -> io::Result<()> {
        restrict(&self.path, 0o700)?;
        for file in fs::read_dir(&self.path)? {
            let file = file?;
            if file.file_type()?.is_file() {
                restrict(&file.path(), 0o600)?;
            }
        }
        Ok(())
    }
}

/// Sets the mode where it differs.
fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

struct OsFile(File);

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Reads a whole file, refusing one of more than `limit` bytes.
pub(crate) fn read_all(disk: &dyn Disk, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let len = file.len()?;
    if len > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{len} bytes long, more than {limit}"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}
