//! Where backups are kept: a directory, or a bucket.
//!
//! What is written appears whole or not at all, and never in place of something else.

mod dir;
mod upload;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use codexstore_crds::backup as crd;
use codexstore_crds::jobs::{ARCHIVE, CA_FILE, DESTINATION_DIR};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::buffered::BufWriter;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::fs::File;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use super::bucket::{self, Access};
use dir::{Partial, files, is_there, make_dirs, sync_dir, told};
pub use upload::Upload;

/// Bytes of one part of an upload. S3 takes 10,000 parts: enough for 64 GiB, the longest backup.
const PART: usize = 8 << 20;
/// Parts that are on their way at once.
const PARTS: usize = 2;
/// Directories that are listed at once.
const LISTS: usize = 8;

/// Marks, as the context of an error, what is wrong with the destination, and so with none of the members.
#[derive(Debug)]
pub struct AtDestination;

impl fmt::Display for AtDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the destination")
    }
}

/// A place that keeps backups.
#[derive(Debug)]
pub enum Destination {
    /// A directory.
    Dir(PathBuf),
    /// A bucket, and what the names of its objects start with.
    Bucket {
        /// The bucket.
        store: Arc<dyn ObjectStore>,
        /// Empty, or with `/` at its end.
        prefix: String,
    },
}

impl Destination {
    /// The destination that a store names, from within one of its Jobs.
    pub fn of(destination: &crd::Destination) -> Result<Destination> {
        if destination.claim.is_some() {
            return Ok(Destination::Dir(PathBuf::from(DESTINATION_DIR)));
        }
        let read = || std::fs::read(CA_FILE);
        let ca = destination.ca_ref().map(|_| read()).transpose();
        let access = Access {
            ca: ca.context("read the certificates of the destination's server")?,
            ..Access::default()
        };
        Destination::bucket(destination, &access)
    }

    /// The bucket that a store names, from anywhere.
    pub fn bucket(destination: &crd::Destination, access: &Access) -> Result<Destination> {
        Ok(Destination::Bucket {
            store: bucket::of(destination, access)?,
            prefix: destination.prefix(),
        })
    }

    /// Begins a new file, for its owner alone.
    pub fn create(&self, path: &str) -> Result<Upload> {
        match self {
            Destination::Dir(root) => {
                let path = root.join(path);
                let begin = || format!("create {}", path.display());
                let dir = path.parent().unwrap_or(root).to_owned();
                make_dirs(root, &dir)
                    .map_err(told)
                    .with_context(|| format!("make {}", dir.display()))?;
                let (file, partial) = Partial::beside(&path).map_err(told).with_context(begin)?;
                Ok(Upload::File {
                    file: File::from_std(file),
                    partial,
                    path,
                })
            }
            Destination::Bucket { store, prefix } => {
                let path = at(prefix, path);
                let writer = BufWriter::with_capacity(Arc::clone(store), path, PART)
                    .with_max_concurrency(PARTS);
                Ok(Upload::Object(Box::new(writer)))
            }
        }
    }

    /// Writes a small file at once, which must not be there.
    pub async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        ensure!(
            self.put_new(path, Bytes::from(bytes)).await?,
            "write {path}: it is there already"
        );
        Ok(())
    }

    /// Writes a file that may be there already, and says whether it was not.
    pub async fn put_new(&self, path: &str, bytes: Bytes) -> Result<bool> {
        match self {
            Destination::Dir(_) => {
                let mut upload = self.create(path)?;
                if let Err(error) = upload.write(bytes).await {
                    upload.abandon().await;
                    return Err(error);
                }
                match upload.finish().await {
                    Err(error) if is_there(&error) => Ok(false),
                    done => done.map(|()| true),
                }
            }
            Destination::Bucket { store, prefix } => {
                let at = at(prefix, path);
                let payload = PutPayload::from_bytes(bytes);
                match store.put_opts(&at, payload, PutMode::Create.into()).await {
                    Ok(_) => Ok(true),
                    Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
                    Err(error) => Err(bucket::told(error)).with_context(|| format!("write {at}")),
                }
            }
        }
    }

    /// Deletes a file. One that is not there is deleted.
    pub async fn delete(&self, path: &str) -> Result<()> {
        match self {
            Destination::Dir(root) => match std::fs::remove_file(root.join(path)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done.with_context(|| format!("delete {}", root.join(path).display())),
            },
            Destination::Bucket { store, prefix } => {
                let at = at(prefix, path);
                match store.delete(&at).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(bucket::told(error)).with_context(|| format!("delete {at}")),
                }
            }
        }
    }

    /// Visits the paths of all files below a directory, however deep: none if that is not there. What cannot be read is an error.
    pub async fn walk(&self, directory: &str, mut visit: impl FnMut(&str)) -> Result<()> {
        match self {
            Destination::Dir(root) => {
                let list = || format!("list {}", root.join(directory).display());
                let (paths, mut found) = mpsc::channel::<Vec<String>>(2);
                let (root, below) = (root.clone(), directory.to_owned());
                let walk = tokio::task::spawn_blocking(move || dir::send(&root, &below, &paths));
                while let Some(some) = found.recv().await {
                    for path in &some {
                        visit(path);
                    }
                }
                walk.await.with_context(list)?.with_context(list)
            }
            Destination::Bucket { store, prefix } => {
                let at = at(prefix, directory);
                let mut found = store.list(Some(&at));
                while let Some(object) = found.next().await {
                    let object = object.map_err(bucket::told);
                    let object = object.with_context(|| format!("list {at}"))?;
                    if let Some(path) = object.location.as_ref().strip_prefix(prefix.as_str()) {
                        visit(path);
                    }
                }
                Ok(())
            }
        }
    }

    /// Paths of the files in the directories below one, without its archive: none if that is not there. What cannot be read is an
    /// error.
    pub async fn list(&self, directory: &str) -> Result<Vec<String>> {
        match self {
            Destination::Dir(root) => {
                let list = || format!("list {}", root.join(directory).display());
                // A destination that is not mounted is not an empty one.
                std::fs::read_dir(root).with_context(list)?;
                files(root, directory).with_context(list)
            }
            Destination::Bucket { store, prefix } => {
                let at = at(prefix, directory);
                let list = || format!("list {at}");
                // One by one: an archive has very many files, which nobody wants here.
                let below = store.list_with_delimiter(Some(&at)).await;
                let below = below
                    .map_err(bucket::told)
                    .with_context(list)?
                    .common_prefixes;
                let below = below.into_iter().filter(|one| !is_archive(one.as_ref()));
                let found: Vec<Vec<_>> = futures::stream::iter(below)
                    .map(|one| async move { store.list(Some(&one)).try_collect::<Vec<_>>().await })
                    .buffered(LISTS)
                    .try_collect()
                    .await
                    .map_err(bucket::told)
                    .with_context(list)?;
                let paths = found
                    .iter()
                    .flatten()
                    .map(|object| object.location.as_ref());
                let own = paths.filter_map(|path| path.strip_prefix(prefix.as_str()));
                Ok(own.map(str::to_owned).collect())
            }
        }
    }

    /// Opens a file.
    pub async fn read(&self, path: &str) -> Result<Pin<Box<dyn AsyncRead + Send>>> {
        match self {
            Destination::Dir(root) => {
                let path = root.join(path);
                let file = File::open(&path).await;
                Ok(Box::pin(
                    file.with_context(|| format!("open {}", path.display()))?,
                ))
            }
            Destination::Bucket { store, prefix } => {
                let at = at(prefix, path);
                let found = store.get(&at).await.map_err(bucket::told);
                let found = found.with_context(|| format!("read {at}"))?;
                let stream = found.into_stream().map_err(io::Error::other);
                Ok(Box::pin(tokio_util::io::StreamReader::new(stream)))
            }
        }
    }

    /// Deletes a directory with all that is in it, and says how many files that were. One that is not there is deleted.
    pub async fn delete_all(&self, directory: &str) -> Result<u64> {
        match self {
            Destination::Dir(root) => {
                let dir = root.join(directory);
                let delete = || format!("delete {}", dir.display());
                let entries = match std::fs::read_dir(&dir) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                    entries => entries.with_context(delete)?,
                };
                let count = entries.count() as u64;
                std::fs::remove_dir_all(&dir).with_context(delete)?;
                sync_dir(dir.parent().unwrap_or(root)).with_context(delete)?;
                Ok(count)
            }
            Destination::Bucket { store, prefix } => {
                // With the slash: `now` must not delete `now-2`.
                let at = at(prefix, directory);
                let found = store
                    .list(Some(&at))
                    .map_ok(|object| object.location)
                    .boxed();
                let deleted = store.delete_stream(found).try_collect::<Vec<_>>().await;
                let deleted = deleted.map_err(bucket::told);
                let deleted = deleted.with_context(|| format!("delete {at}"))?;
                Ok(deleted.len() as u64)
            }
        }
    }
}

/// The name of an object.
fn at(prefix: &str, path: &str) -> object_store::path::Path {
    object_store::path::Path::from(format!("{prefix}{path}"))
}

/// Whether a directory is the archive beside a store's backups.
fn is_archive(directory: &str) -> bool {
    directory.rsplit('/').next() == Some(ARCHIVE)
}

#[cfg(test)]
mod tests;
