//! A directory that keeps backups, as a claim is mounted.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use codexstore_crds::jobs::ARCHIVE;
use rustix::fs::Mode;
use tokio::sync::mpsc;

/// Paths that are passed on at once.
const SOME: usize = 256;

/// The name of a file until it is whole, which no other writer gives one. With this it goes.
#[derive(Debug)]
pub struct Partial(PathBuf);

impl Partial {
    /// A new file in the directory of `path`, for its owner alone.
    pub fn beside(path: &Path) -> io::Result<(File, Partial)> {
        let number = getrandom::u64().map_err(io::Error::other)?;
        let partial = Partial(path.with_file_name(format!("{number:016x}.partial")));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&partial.0)?;
        Ok((file, partial))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An error of the directory; what to do about it where that is clear.
pub fn told(error: io::Error) -> anyhow::Error {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    let error = anyhow::Error::from(error);
    if full {
        return error.context("the destination is full: let its claim grow, or keep fewer backups");
    }
    error
}

/// Whether a file was not written since there is one of its name.
pub fn is_there(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
}

/// Sends the paths of all files below a directory within `root`, as long as somebody takes them.
pub fn send(root: &Path, directory: &str, to: &mpsc::Sender<Vec<String>>) -> io::Result<()> {
    // A destination that is not mounted is not an empty one.
    std::fs::read_dir(root)?;
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut some = Vec::new();
    walk(root, directory, &mut |path| {
        some.push(path);
        if some.len() < SOME {
            return Ok(());
        }
        to.blocking_send(std::mem::take(&mut some)).map_err(gone)
    })?;
    to.blocking_send(some).map_err(gone)
}

/// All files below a directory within `root`.
fn walk(
    root: &Path,
    directory: &str,
    visit: &mut impl FnMut(String) -> io::Result<()>,
) -> io::Result<()> {
    let entries = match std::fs::read_dir(root.join(directory)) {
        // Deleted meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            walk(root, &path, visit)?;
        } else {
            visit(path)?;
        }
    }
    Ok(())
}

/// The files in the directories below one within `root`, but not in its archive.
pub fn files(root: &Path, directory: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let names = |directory: &str| -> io::Result<Vec<String>> {
        match std::fs::read_dir(root.join(directory)) {
            // Deleted meanwhile, or a file.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(Vec::new())
            }
            entries => entries?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect(),
        }
    };
    for one in names(directory)? {
        if one == ARCHIVE {
            continue;
        }
        let one = format!("{directory}/{one}");
        found.extend(names(&one)?.into_iter().map(|file| format!("{one}/{file}")));
    }
    Ok(found)
}

/// Makes `dir` below `root`, for its owner alone; the names are durable.
pub fn make_dirs(root: &Path, dir: &Path) -> io::Result<()> {
    if dir == root || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(root);
    make_dirs(root, parent)?;
    match rustix::fs::mkdir(dir, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => sync_dir(parent),
        Err(error) => Err(error.into()),
    }
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
