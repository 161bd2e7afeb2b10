//! Directories as destinations; buckets are tested in `bucket`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

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
        // Two that write the same, of which one is dropped and the other is first.
        drop(destination.create("shop/orders/now/c.backup").unwrap());
        let mut two = ["c", "c"].map(|name| {
            let path = format!("shop/orders/now/{name}.backup");
            destination.create(&path).unwrap()
        });
        for (upload, text) in two.iter_mut().zip(["one", "two"]) {
            upload.write(Bytes::from(text)).await.unwrap();
        }
        let [one, two] = two;
        two.finish().await.unwrap();
        assert!(is_there(&one.finish().await.unwrap_err()));
        let stored = std::fs::read_to_string(dir.join("c.backup")).unwrap();
        assert_eq!(stored, "two");
        let left = std::fs::read_dir(&dir).unwrap().count();
        assert_eq!(left, 2, "a and c");
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
        let ci = std::env::var("CI");
        assert_ne!(ci.as_deref(), Ok("true"), "NOT RUN with CI=true");
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
