//! Where backups are kept: a directory, or a bucket.
//!
//! What is written appears whole or not at all, and never in place of something else.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use codexstore_crds::backup as crd;
use codexstore_crds::jobs::{ARCHIVE, CA_FILE, DESTINATION_DIR};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::buffered::BufWriter;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use rustix::fs::Mode;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncWriteExt as _};

use super::bucket;

/// Bytes of one part of an upload. S3 takes 10,000 parts: enough for 64 GiB, the longest backup.
const PART: usize = 8 << 20;
/// Parts that are on their way at once.
const PARTS: usize = 2;
/// Directories that are listed at once.
const LISTS: usize = 8;

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
        Ok(Destination::Bucket {
            store: bucket::of(destination, Path::new(CA_FILE))?,
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
                let partial = path.with_extension("partial");
                let file = open(&partial).map_err(told).with_context(begin)?;
                Ok(Upload::File {
                    file,
                    partial,
                    path,
                })
            }
            Destination::Bucket { store, prefix } => {
                let path = object_store::path::Path::from(format!("{prefix}{path}"));
                let writer = BufWriter::with_capacity(Arc::clone(store), path, PART)
                    .with_max_concurrency(PARTS);
                Ok(Upload::Object(Box::new(writer)))
            }
        }
    }

    /// Writes a small file at once, which must not be there.
    pub async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        let Destination::Bucket { store, prefix } = self else {
            let mut upload = self.create(path)?;
            upload.write(Bytes::from(bytes)).await?;
            return upload.finish().await;
        };
        let at = object_store::path::Path::from(format!("{prefix}{path}"));
        let put = store.put_opts(&at, PutPayload::from(bytes), PutMode::Create.into());
        let put = put.await.map(drop).map_err(bucket::told);
        put.with_context(|| format!("write {at}"))
    }

    /// Writes a file that may be there already, and says whether it was not.
    pub async fn put_new(&self, path: &str, bytes: Bytes) -> Result<bool> {
        match self {
            Destination::Dir(_) => {
                let mut upload = self.create(path)?;
                upload.write(bytes).await?;
                match upload.finish().await {
                    Err(error) if is_there(&error) => Ok(false),
                    done => done.map(|()| true),
                }
            }
            Destination::Bucket { store, prefix } => {
                let at = object_store::path::Path::from(format!("{prefix}{path}"));
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
                let at = object_store::path::Path::from(format!("{prefix}{path}"));
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
                // A destination that is not mounted is not an empty one.
                std::fs::read_dir(root).with_context(list)?;
                walk(root, directory, &mut visit).with_context(list)
            }
            Destination::Bucket { store, prefix } => {
                let at = object_store::path::Path::from(format!("{prefix}{directory}"));
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
                let at = object_store::path::Path::from(format!("{prefix}{directory}"));
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
                let at = object_store::path::Path::from(format!("{prefix}{path}"));
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
                let at = object_store::path::Path::from(format!("{prefix}{directory}"));
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

/// An error of the directory; what to do about it where that is clear.
fn told(error: io::Error) -> anyhow::Error {
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

/// Whether a directory is the archive beside a store's backups.
fn is_archive(directory: &str) -> bool {
    directory.rsplit('/').next() == Some(ARCHIVE)
}

/// Whether a file was not written since there is one of its name.
fn is_there(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
}

/// All files below a directory within `root`.
fn walk(root: &Path, directory: &str, visit: &mut impl FnMut(&str)) -> io::Result<()> {
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
fn files(root: &Path, directory: &str) -> io::Result<Vec<String>> {
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
fn make_dirs(root: &Path, dir: &Path) -> io::Result<()> {
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

/// A new file with this name, in place of what an earlier try left.
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map(File::from_std)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(future)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_appears_whole_for_its_owner_alone_and_never_in_place_of_another() {
        let root = tempfile::tempdir().unwrap();
        let destination = Destination::Dir(root.path().to_owned());
        block_on(async {
            let mut upload = destination.create("shop/orders/now/a.backup").unwrap();
            upload.write(Bytes::from_static(b"first")).await.unwrap();
            let dir = root.path().join("shop/orders/now");
            assert!(!dir.join("a.backup").exists());
            upload.finish().await.unwrap();
            assert_eq!((mode(&dir), mode(&dir.join("a.backup"))), (0o700, 0o600));
            let mut again = destination.create("shop/orders/now/a.backup").unwrap();
            again.write(Bytes::from_static(b"second")).await.unwrap();
            assert!(again.finish().await.is_err());
            let lost = destination.create("shop/orders/now/b.backup").unwrap();
            lost.abandon().await;
            let mut text = String::new();
            let mut file = destination.read("shop/orders/now/a.backup").await.unwrap();
            file.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "first");
            assert!(destination.read("shop/orders/now/b.backup").await.is_err());
            destination
                .put("shop/orders/now-2/x", b"other".to_vec())
                .await
                .unwrap();
            assert!(destination.delete_all("shop/orders/now").await.unwrap() > 0);
            assert_eq!(destination.delete_all("shop/orders/now").await.unwrap(), 0);
            assert!(root.path().join("shop/orders/now-2/x").exists());
        });
    }

    /// A small file system of its own, on a file: ext4 as on claims, or none where that cannot be mounted.
    struct Volume(tempfile::TempDir);

    impl Volume {
        fn mount() -> Option<Volume> {
            let dir = tempfile::tempdir().unwrap();
            let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
            std::fs::create_dir(&mount).unwrap();
            let file = std::fs::File::create(&image).unwrap();
            file.set_len(8 << 20).unwrap();
            let run = |program: &str, args: &[&str], paths: &[&Path]| {
                let done = std::process::Command::new(program)
                    .args(args)
                    .args(paths)
                    .output();
                done.is_ok_and(|done| done.status.success())
            };
            let made = run("mkfs.ext4", &["-q", "-m", "0"], &[&image])
                && run("mount", &["-o", "loop"], &[&image, &mount]);
            made.then_some(Volume(dir))
        }

        fn root(&self) -> PathBuf {
            self.0.path().join("mount")
        }
    }

    impl Drop for Volume {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount")
                .arg("-l")
                .arg(self.root())
                .status();
        }
    }

    async fn send(destination: &Destination, path: &str, parts: usize) -> Result<()> {
        let mut upload = destination.create(path)?;
        for _ in 0..parts {
            if let Err(error) = upload.write(Bytes::from(vec![7; 256 << 10])).await {
                upload.abandon().await;
                return Err(error);
            }
        }
        upload.finish().await
    }

    #[test]
    fn a_full_destination_says_so_keeps_nothing_partial_and_heals() {
        let Some(volume) = Volume::mount() else {
            println!("*** NOT RUN: a full destination: a file system cannot be mounted here");
            return;
        };
        let destination = Destination::Dir(volume.root());
        block_on(async {
            send(&destination, "shop/orders/monday/a.backup", 8)
                .await
                .unwrap();
            // Sizes that end while it is written, and while it is made durable.
            for (n, parts) in [100, 24, 23, 22, 21].into_iter().enumerate() {
                let path = format!("shop/orders/b{n}/a.backup");
                let sent = send(&destination, &path, parts).await;
                if let Err(error) = &sent {
                    let error = format!("{error:#}");
                    assert!(
                        error.contains("the destination is full"),
                        "{parts}: {error}"
                    );
                }
                assert!(n > 0 || sent.is_err(), "it is never full");
                let files = destination.list("shop/orders").await.unwrap();
                let there = files.contains(&path);
                assert_eq!(there, sent.is_ok(), "{parts}: {files:?}");
                assert!(files.iter().all(|f| !f.ends_with(".partial")), "{files:?}");
                destination.delete(&path).await.unwrap();
            }
            // Not even a name fits any more.
            let ballast = volume.root().join("ballast");
            let mut size = 8 << 20;
            while size > 0 {
                let mut file = std::fs::OpenOptions::new();
                let mut file = file.create(true).append(true).open(&ballast).unwrap();
                if std::io::Write::write_all(&mut file, &vec![1; size]).is_err() {
                    size /= 2;
                }
            }
            let error = destination
                .put("shop/orders/new/members-1.json", vec![7; 5000])
                .await;
            let error = format!("{:#}", error.unwrap_err());
            assert!(error.contains("the destination is full"), "{error}");
            std::fs::remove_file(ballast).unwrap();
            // There is room again, and the first one is what it was.
            send(&destination, "shop/orders/tuesday/a.backup", 8)
                .await
                .unwrap();
            let mut bytes = Vec::new();
            let mut file = destination
                .read("shop/orders/monday/a.backup")
                .await
                .unwrap();
            file.read_to_end(&mut bytes).await.unwrap();
            assert!(bytes == vec![7; 8 * (256 << 10)]);
        });
    }

    #[tokio::test]
    async fn an_archive_is_walked_and_is_not_among_the_backups() {
        let root = tempfile::tempdir().unwrap();
        let destination = Destination::Dir(root.path().to_owned());
        let piece = "shop/orders/_archive/web-0/0f/1/a.k.piece";
        let put = async |path: &str, text: &'static str| {
            let bytes = Bytes::from_static(text.as_bytes());
            destination.put_new(path, bytes).await.unwrap()
        };
        assert!(put(piece, "first").await);
        assert!(!put(piece, "second").await, "it is there");
        assert!(put("shop/orders/now/x.json", "{}").await);
        let mut text = String::new();
        let mut file = destination.read(piece).await.unwrap();
        file.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "first");
        assert_eq!(
            destination.list("shop/orders").await.unwrap(),
            ["shop/orders/now/x.json"]
        );
        let walked = async |directory: &str| {
            let mut all = Vec::new();
            let visit = |path: &str| all.push(path.to_owned());
            destination.walk(directory, visit).await.unwrap();
            all
        };
        // Nothing else is left of the second one.
        assert_eq!(walked("shop/orders/_archive").await, [piece]);
        assert_eq!(walked("shop/other").await, [""; 0]);
        destination.delete(piece).await.unwrap();
        destination.delete(piece).await.unwrap();
        assert_eq!(walked("shop/orders/_archive").await, [""; 0]);
        let gone = Destination::Dir(root.path().join("not-mounted"));
        assert!(gone.walk("shop/orders", |_| ()).await.is_err());
    }
}
