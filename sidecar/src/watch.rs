//! Noticing that mounted files changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a directory's files look like from outside. The kubelet replaces a mounted Secret by
/// pointing its `..data` link elsewhere; in a plain directory names, sizes and times tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fingerprint {
    /// Where `..data` points.
    Link(PathBuf),
    /// Name, inode, size, seconds and nanoseconds of each file, sorted.
    Files(Vec<(std::ffi::OsString, u64, u64, i64, i64)>),
}

impl Fingerprint {
    /// The directory's fingerprint; `None` if it cannot be read.
    pub fn of(dir: &Path) -> Option<Fingerprint> {
        if let Ok(target) = std::fs::read_link(dir.join("..data")) {
            return Some(Fingerprint::Link(target));
        }
        let mut files = Vec::new();
        for file in std::fs::read_dir(dir).ok()? {
            let file = file.ok()?;
            let meta = std::fs::metadata(file.path()).ok()?;
            files.push((
                file.file_name(),
                meta.ino(),
                meta.size(),
                meta.mtime(),
                meta.mtime_nsec(),
            ));
        }
        files.sort();
        Some(Fingerprint::Files(files))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_link_or_file_changes_the_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let plain = Fingerprint::of(dir.path());
        std::fs::write(dir.path().join("a"), "1").unwrap();
        let one = Fingerprint::of(dir.path());
        assert_ne!(plain, one);
        std::fs::write(dir.path().join("a"), "22").unwrap();
        assert_ne!(one, Fingerprint::of(dir.path()));
        std::os::unix::fs::symlink("..1", dir.path().join("..data")).unwrap();
        let first = Fingerprint::of(dir.path());
        std::fs::remove_file(dir.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..2", dir.path().join("..data")).unwrap();
        assert_ne!(first, Fingerprint::of(dir.path()));
        assert_eq!(Fingerprint::of(Path::new("/nonexistent")), None);
    }
}
