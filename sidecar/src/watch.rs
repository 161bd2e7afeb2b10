//! Noticing that mounted files changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// First pause before files that were refused are tried again; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// Longest pause.
const LAST_PAUSE: Duration = Duration::from_mins(1);

/// Content that was refused, and when it is tried again: what was wrong need not be in the files.
#[derive(Debug, Default)]
pub struct Refused {
    next: Option<Instant>,
    pause: Duration,
    reason: String,
}

impl Refused {
    /// True if something was refused and its pause is over.
    pub fn is_due(&self) -> bool {
        self.next.is_some_and(|at| Instant::now() >= at)
    }

    /// Notes a refusal. True if its reason is a new one, worth a line in the log.
    pub fn again(&mut self, reason: &str) -> bool {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
        self.next = Some(Instant::now() + self.pause);
        let new = self.reason != reason;
        reason.clone_into(&mut self.reason);
        new
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
