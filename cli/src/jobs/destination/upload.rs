//! A file on its way to a destination.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use object_store::buffered::BufWriter;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::bucket;
use super::dir::{sync_dir, told};

/// A file that is being written. It is there once [`Upload::finish`] succeeds; one that is dropped is not.
pub enum Upload {
    /// Under a name of its own until it is whole.
    File {
        /// What is written to.
        file: File,
        /// Its name for now.
        partial: PathBuf,
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
                written.with_context(|| format!("write {}", partial.display()))
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
                let stored = make_durable(file, &partial, &path).await;
                if stored.is_err() {
                    let _ = std::fs::remove_file(&partial);
                }
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
            Upload::File { partial, .. } => {
                let _ = std::fs::remove_file(partial);
            }
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
    // A link, since a rename would take the place of a file of that name.
    std::fs::hard_link(partial, path)?;
    std::fs::remove_file(partial)?;
    sync_dir(path.parent().unwrap_or(path))
}

/// A new file with this name, in place of what an earlier try left.
pub fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map(File::from_std)
}
