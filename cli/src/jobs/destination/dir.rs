//! A directory that keeps backups, as a claim is mounted.

use std::io;
use std::path::Path;

use codexstore_crds::jobs::ARCHIVE;
use rustix::fs::Mode;

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

/// All files below a directory within `root`.
pub fn walk(root: &Path, directory: &str, visit: &mut impl FnMut(&str)) -> io::Result<()> {
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
            visit(&path);
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
    std::fs::File::open(dir)?.sync_all()
}
