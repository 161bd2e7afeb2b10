//! Where a store lives on a laptop: one directory with keyring, data, lock and socket.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::failure::Coded;

/// Longest path of a Unix socket: 108 bytes with the zero at its end (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// The directory of a store. While it exists, no other `codexctl dev` has the directory.
pub struct Place {
    dir: PathBuf,
    socket: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes the directory, if there is none, for this user alone, and takes it.
    pub fn take(dir: &Path) -> Result<Self> {
        let made = !dir.exists();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("make {}", dir.display()))?;
        let dir = dir
            .canonicalize()
            .with_context(|| format!("find {}", dir.display()))?;
        if made {
            // Keys and data do not belong in a repository.
            fs::write(dir.join(".gitignore"), "*\n")
                .with_context(|| format!("write {}/.gitignore", dir.display()))?;
        }
        let path = dir.join("dev.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Coded::conflict(format!(
                    "another `codexctl dev` runs in {}: stop it, or choose another --dir",
                    dir.display()
                ))
                .into());
            }
            Err(e) => return Err(e).with_context(|| format!("lock {}", path.display())),
        }
        let socket = socket_path(&dir)?;
        Ok(Self {
            dir,
            socket,
            _lock: lock,
        })
    }

    /// The store's files.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The keyring.
    pub fn keyring(&self) -> PathBuf {
        self.dir.join("keyring")
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Where the sidecar puts the socket of the Redis protocol: beside the other, with a shorter name.
pub fn redis_socket(socket: &Path) -> PathBuf {
    socket.with_file_name("redis.sock")
}

/// In the directory, or, where that path is too long for a socket, in a short one of this user's.
fn socket_path(dir: &Path) -> Result<PathBuf> {
    let socket = dir.join("codexstore.sock");
    if socket.as_os_str().as_bytes().len() <= MAX_SOCKET_PATH {
        return Ok(socket);
    }
    let mut hash = DefaultHasher::new();
    dir.hash(&mut hash);
    let base =
        std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let short = base.join(format!("codexstore-{:016x}", hash.finish()));
    own_dir(&short).with_context(|| format!("make {} for the socket", short.display()))?;
    let socket = short.join("codexstore.sock");
    if socket.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
        bail!(Coded::invalid(format!(
            "{} is too long for a socket: choose a shorter --dir",
            socket.display()
        )));
    }
    Ok(socket)
}

/// Makes a directory that is this user's alone; one of somebody else's is refused.
fn own_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let found = fs::symlink_metadata(path)?;
    let ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if !ours {
        return Err(io::Error::other(
            "it is there already and belongs to somebody else",
        ));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_for_its_user_alone_and_out_of_git() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::take(&root.path().join("a/b")).unwrap();
        let mode = fs::metadata(&place.dir).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700);
        assert_eq!(fs::read(place.dir.join(".gitignore")).unwrap(), b"*\n");
    }

    #[test]
    fn a_directory_that_was_there_keeps_its_mode() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Place::take(root.path()).unwrap();
        assert_eq!(fs::metadata(root.path()).unwrap().mode() & 0o777, 0o755);
        assert!(!root.path().join(".gitignore").exists());
    }

    #[test]
    fn a_directory_is_taken_by_one_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = Place::take(root.path()).unwrap();
        let error = Place::take(root.path()).err().unwrap().to_string();
        assert!(error.contains("another `codexctl dev`"), "{error}");
        drop(first);
        Place::take(root.path()).unwrap();
    }

    #[test]
    fn a_long_directory_gets_a_short_socket() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::take(&root.path().join("x".repeat(120))).unwrap();
        assert!(place.socket().as_os_str().len() <= MAX_SOCKET_PATH);
        let parent = place.socket().parent().unwrap();
        assert_eq!(fs::metadata(parent).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir(parent).unwrap();
    }
}
