//! A file on its way to a destination.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use object_store::buffered::BufWriter;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::bucket;
use super::dir::{Partial, sync_dir, told};

/// A file that is being written. It is there once [`Upload::finish`] succeeds; one that is dropped is not.
pub enum Upload {
    /// Under a name of its own until it is whole.
    File {
        /// What is written to.
        file: File,
        /// Its name for now.
        partial: Partial,
        /// Its name in the end.
        path: PathBuf,
    },
    /// An object, sent in parts when it is large.
    Object(Box<BufWriter>),
}

impl Upload {
    /// Writes the next bytes.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        match self {
            Upload::File { file, partial, .. } => {
                let written = file.write_all(&bytes).await.map_err(told);
                written.with_context(|| format!("write {}", partial.path().display()))
            }
            Upload::Object(writer) => {
                let written = writer.put(bytes).await.map_err(bucket::told);
                written.context("write to the bucket")
            }
        }
    }

    /// Makes it durable, and gives it its name. If that fails, nothing is left of it.
    pub async fn finish(self) -> Result<()> {
        match self {
            Upload::File {
                file,
                partial,
                path,
            } => {
                let stored = make_durable(file, partial.path(), &path).await;
                stored
                    .map_err(told)
                    .with_context(|| format!("store {}", path.display()))
            }
            Upload::Object(mut writer) => {
                let ended = writer.shutdown().await.map_err(bucket::told);
                ended.context("end the upload")
            }
        }
    }

    /// Gives it up, as far as the destination can still be reached.
    pub async fn abandon(self) {
        match self {
            Upload::File { .. } => {}
            Upload::Object(mut writer) => {
                let _ = writer.abort().await;
            }
        }
    }
}

/// Makes a file durable under its name, and takes the one that it had until now.
async fn make_durable(mut file: File, partial: &Path, path: &Path) -> io::Result<()> {
    file.flush().await?;
    file.sync_all().await?;
    drop(file);
    take_name(partial, path, sync_dir)
}

/// Gives a file its name in place of the one that it had. If that fails it has none, or that which it had.
fn take_name(
    partial: &Path,
    path: &Path,
    sync: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    // A link, since a rename would take the place of a file of that name.
    std::fs::hard_link(partial, path)?;
    let taken = std::fs::remove_file(partial);
    let taken = taken.and_then(|()| sync(path.parent().unwrap_or(path)));
    if taken.is_err() {
        let _ = std::fs::remove_file(path);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_durable_has_no_name_and_what_had_the_name_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let (partial, path) = (dir.path().join("p.partial"), dir.path().join("a"));
        let full = |_: &Path| Err(io::Error::from(io::ErrorKind::StorageFull));
        std::fs::write(&partial, "new").unwrap();
        let error = take_name(&partial, &path, full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(!path.exists());
        std::fs::write(&path, "old").unwrap();
        std::fs::write(&partial, "new").unwrap();
        let error = take_name(&partial, &path, full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        std::fs::remove_file(&path).unwrap();
        take_name(&partial, &path, sync_dir).unwrap();
        assert!(!partial.exists());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }
}
