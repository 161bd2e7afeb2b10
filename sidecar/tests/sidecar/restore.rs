//! Restores over the admin listener.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use codexstore_api::archive::Until;
use codexstore_api::bodies::RestoreTold;
use codexstore_api::client::RestoreInto;
use codexstore_api::status::State;
use codexstore_api::{Client, Error};
use tokio::sync::mpsc;

use crate::admin::{Ca, TLS13, ca, connect, identity, install, spawn, spawn_with};
use crate::harness::{KEY_ID, Place, Sidecar, not_run, runtime};

fn place() -> (Place, Ca) {
    let (place, ca) = (Place::new(), ca());
    install(&place, &ca, &ca);
    (place, ca)
}

pub async fn client(address: SocketAddr, ca: &Ca, role: &'static str) -> Client {
    let client = connect(address, ca, Some(identity(ca, role)), TLS13).await;
    client.unwrap().timeout(Duration::from_secs(20))
}

/// All bytes of a backup.
pub async fn backup(address: SocketAddr, ca: &Ca) -> Vec<u8> {
    let mut backup = client(address, ca, "backup").await.backup().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = backup.chunk().await.unwrap() {
        bytes.extend_from_slice(&part);
    }
    bytes
}

pub async fn restore(client: &Client, bytes: &[u8], cut: bool) -> Result<RestoreTold, Error> {
    send(client, bytes, cut, false).await
}

async fn send(
    client: &Client,
    bytes: &[u8],
    cut: bool,
    if_empty: bool,
) -> Result<RestoreTold, Error> {
    send_with(client, bytes, cut, if_empty, None).await
}

/// Sends parts to be restored; `cut` ends them with an error.
pub async fn send_with(
    client: &Client,
    bytes: &[u8],
    cut: bool,
    if_empty: bool,
    pieces: Option<Until>,
) -> Result<RestoreTold, Error> {
    let (parts, body) = mpsc::channel(1);
    let bytes = Bytes::copy_from_slice(bytes);
    let sender = tokio::spawn(async move {
        for at in (0..bytes.len()).step_by(4096) {
            let part = bytes.slice(at..bytes.len().min(at + 4096));
            if parts.send(Ok(part)).await.is_err() {
                return;
            }
        }
        if cut {
            let _ = parts.send(Err(io::ErrorKind::Other.into())).await;
        }
    });
    let into = RestoreInto {
        pieces,
        ..into("u-1", if_empty)
    };
    let told = client.restore(&into, body).await;
    sender.abort();
    told
}

fn into(pod_uid: &str, if_empty: bool) -> RestoreInto<'_> {
    RestoreInto {
        pod_uid,
        if_empty,
        pieces: None,
        longest: Duration::from_secs(20),
    }
}

fn beside(place: &Place) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.dir.path()).unwrap();
    let mut paths: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("/data."))
        .collect();
    paths.sort();
    paths
}

fn ready(s: &Sidecar) {
    s.until("it is ready", |s| s.get("/readyz").status == 200);
}

#[test]
fn a_backup_takes_the_place_of_what_was_there_which_is_set_aside() {
    let (place, ca) = place();
    let (mut s, address) = spawn(&place);
    ready(&s);
    for n in 0..300 {
        s.put(&format!("k-{n:03}"), format!("value {n}").as_bytes());
    }
    let etag = s.get("/v1/keys/k-000").header("etag").unwrap().to_owned();
    let told = runtime().block_on(async {
        let bytes = backup(address, &ca).await;
        s.put("k-000", b"changed");
        s.put("later", b"not in it");
        for other in ["operator", "backup"] {
            let client = client(address, &ca, other).await;
            let refused = restore(&client, &bytes, false).await.unwrap_err();
            assert!(refused.is("denied"), "{refused}");
            assert!(client.restore_none(&into("u-1", true)).await.is_err());
        }
        let client = client(address, &ca, "restore").await;
        let none = client.restore_none(&into("u-1", true)).await.unwrap_err();
        assert!(none.is("precondition-failed"), "{none}");
        let other = client.restore_none(&into("u-2", true)).await.unwrap_err();
        assert!(other.is("invalid-argument"), "{other}");
        let there = send(&client, &bytes, false, true).await.unwrap_err();
        assert!(there.is("precondition-failed"), "{there}");
        restore(&client, &bytes, false).await.unwrap()
    });
    assert_eq!((told.revision, told.entries), (300, 300));
    assert!(told.next_revision > 302, "{told:?}");
    ready(&s);
    assert_eq!(s.get("/v1/keys/k-000").text(), "value 0");
    assert_eq!(s.get("/v1/keys/later").status, 404);
    assert_ne!(
        s.get("/v1/keys/k-000").header("etag").unwrap(),
        etag,
        "another line of history"
    );
    let aside = beside(&place);
    assert_eq!(aside.len(), 1, "{aside:?}");
    let name = aside[0].file_name().unwrap().to_str().unwrap();
    assert_eq!(told.set_aside.as_deref(), Some(name));
    assert!(name.starts_with("data.before-"));
    let set_aside = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_codexstore-sidecar"));
        command.arg("set-aside").args(args);
        command.arg("--data-dir").arg(place.path("data"));
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), text)
    };
    assert!(set_aside(&[]).1.starts_with(name), "{:?}", set_aside(&[]));
    assert!(
        !set_aside(&["--remove", "data"]).0,
        "the store itself is not"
    );
    // It is there after a restart, and what was set aside is a store.
    s.put("after", b"the restore");
    assert!(s.terminate().success());
    std::fs::rename(place.path("data"), place.path("restored")).unwrap();
    std::fs::rename(&aside[0], place.path("data")).unwrap();
    let mut old = place.ready(&[]);
    assert_eq!(old.get("/v1/keys/k-000").text(), "changed");
    assert_eq!(old.get("/v1/keys/later").text(), "not in it");
    assert!(old.terminate().success());
    std::fs::rename(place.path("data"), place.path("old")).unwrap();
    std::fs::rename(place.path("restored"), place.path("data")).unwrap();
    let s = place.ready(&[]);
    assert_eq!(s.get("/v1/keys/after").text(), "the restore");
    assert_eq!(s.get("/v1/keys/k-299").text(), "value 299");
    std::fs::rename(place.path("old"), &aside[0]).unwrap();
    assert!(set_aside(&["--remove", name]).0);
    assert_eq!(set_aside(&[]), (true, String::new()));
}

#[test]
fn what_is_no_whole_backup_changes_nothing() {
    let (place, ca) = place();
    let (mut s, address) = spawn(&place);
    ready(&s);
    for n in 0..200 {
        s.put(&format!("k-{n}"), &[n; 5000]);
    }
    runtime().block_on(async {
        let bytes = backup(address, &ca).await;
        s.put("later", b"stays");
        let mut flipped = bytes.clone();
        // Behind the header and the two slots of its key.
        let middle = 12_288 + (flipped.len() - 12_288) / 2;
        flipped[middle] ^= 1;
        let half = &bytes[..middle];
        for (what, bytes, cut) in [
            ("flipped", &flipped[..], false),
            ("a part that ends", half, false),
            ("a part that breaks off", half, true),
            ("nothing", &[], false),
            ("other bytes", &[7; 10_000], false),
        ] {
            let deadline = Instant::now() + Duration::from_secs(10);
            let error = loop {
                let client = client(address, &ca, "restore").await;
                let error = restore(&client, bytes, cut).await.unwrap_err();
                // One that broke off lets go of its place a little behind that.
                if !error.is("overloaded") || Instant::now() > deadline {
                    break error;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            assert!(
                error.is("corrupt") || (cut && error.is("outcome-unknown")),
                "{what}: {error}"
            );
            assert_eq!(s.get("/v1/keys/later").text(), "stays", "{what}");
        }
        // One at a time.
        let (parts, body) = mpsc::channel(1);
        let first = client(address, &ca, "restore").await;
        let _held = tokio::spawn(async move {
            let told = first.restore(&into("u-1", false), body).await;
            assert!(told.is_err());
        });
        parts
            .send(Ok(Bytes::copy_from_slice(&bytes[..5000])))
            .await
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while beside(&place).is_empty() {
            assert!(Instant::now() < deadline, "it does not begin");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let second = client(address, &ca, "restore").await;
        let busy = restore(&second, &bytes, false).await.unwrap_err();
        assert!(busy.is("overloaded"), "{busy}");
        // The process dies in the middle of it.
        s.kill();
    });
    assert!(!beside(&place).is_empty(), "the test came too late");
    let (s, address) = spawn(&place);
    ready(&s);
    assert_eq!(s.get("/v1/keys/later").text(), "stays");
    runtime().block_on(async {
        let bytes = backup(address, &ca).await;
        let client = client(address, &ca, "restore").await;
        restore(&client, &bytes, false).await.unwrap();
    });
    assert_eq!(beside(&place).len(), 1, "only what was set aside");
}

#[test]
fn a_volume_without_a_store_waits_for_its_backup_or_for_word_that_there_is_none() {
    let (place, ca) = place();
    let (mut s, address) = spawn(&place);
    ready(&s);
    s.put("k", b"v");
    let bytes = runtime().block_on(backup(address, &ca));
    assert!(s.terminate().success());
    drop(s);
    std::fs::remove_dir_all(place.path("data")).unwrap();

    let waiting = || {
        let (s, address) = spawn_with(&place, &["--await-restore"]);
        s.until("it waits", |s| s.status().state == State::AwaitingRestore);
        let refused = s.get("/readyz");
        assert_eq!(refused.status, 503);
        assert!(
            refused.text().contains("AwaitingRestore"),
            "{}",
            refused.text()
        );
        assert_eq!(s.put("k", b"too early").status, 503);
        assert!(!place.path("data").exists());
        (s, address)
    };
    let (mut s, address) = waiting();
    runtime().block_on(async {
        let none = client(address, &ca, "backup").await.backup().await;
        assert!(
            none.err().unwrap().is("closed"),
            "there is nothing to back up"
        );
        let client = client(address, &ca, "restore").await;
        let told = send(&client, &bytes, false, true).await.unwrap();
        assert_eq!((told.entries, told.set_aside), (1, None));
    });
    ready(&s);
    assert_eq!(s.get("/v1/keys/k").text(), "v");
    assert!(s.terminate().success());
    drop(s);
    // What is there is opened, and nobody is waited for.
    let (mut s, _) = spawn_with(&place, &["--await-restore"]);
    ready(&s);
    assert!(s.terminate().success());
    drop(s);

    std::fs::remove_dir_all(place.path("data")).unwrap();
    let (s, address) = waiting();
    runtime().block_on(async {
        let client = client(address, &ca, "restore").await;
        client.restore_none(&into("u-1", true)).await.unwrap();
    });
    ready(&s);
    assert_eq!(s.status().keys, 0);
    assert_eq!(s.put("k", b"new").status, 201);
}

#[test]
fn a_restore_that_does_not_fit_beside_what_is_there_is_refused() {
    let (place, ca) = place();
    let (s, address) = spawn_with(&place, &["--max-disk", "1Mi"]);
    ready(&s);
    s.put("k", b"v");
    runtime().block_on(async {
        let bytes = backup(address, &ca).await;
        let client = client(address, &ca, "restore").await;
        let full = restore(&client, &bytes, false).await.unwrap_err();
        assert!(full.is("disk-full"), "{full}");
    });
    assert_eq!(s.get("/v1/keys/k").text(), "v");
}

/// A small file system of its own.
struct Volume(tempfile::TempDir);

impl Volume {
    fn mount(size: &str) -> Option<Volume> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(dir.path())
            .status();
        mounted
            .is_ok_and(|done| done.success())
            .then_some(Volume(dir))
    }

    /// Takes all but so many bytes.
    fn leave(&self, bytes: u64) -> PathBuf {
        let free = rustix::fs::statvfs(self.0.path()).unwrap();
        let free = free.f_bavail * free.f_frsize;
        let ballast = self.0.path().join("ballast");
        let taken = usize::try_from(free.saturating_sub(bytes)).unwrap();
        std::fs::write(&ballast, vec![1; taken]).unwrap();
        ballast
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn a_volume_that_is_full_keeps_its_store_and_takes_the_restore_once_there_is_room() {
    let volume = rustix::process::geteuid()
        .is_root()
        .then(|| Volume::mount("48m"))
        .flatten();
    let Some(volume) = volume else {
        return not_run("a full volume: a file system cannot be mounted here");
    };
    // The budget, which is larger, does not say it: the volume does.
    let dir = tempfile::tempdir_in(volume.0.path()).unwrap();
    let (place, ca) = (Place { dir }, ca());
    place.keyring(KEY_ID, &[(KEY_ID, &[7; 32])]);
    install(&place, &ca, &ca);
    let (s, address) = spawn_with(&place, &[]);
    ready(&s);
    let value = |n: u8| {
        let mut state = u64::from(n) + 1;
        let byte = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(byte)
            .take(1 << 20)
            .collect::<Vec<u8>>()
    };
    for n in 0..4 {
        assert_eq!(s.put(&format!("k{n}"), &value(n)).status, 201);
    }
    runtime().block_on(async {
        let bytes = backup(address, &ca).await;
        assert_eq!(s.put("later", b"v").status, 201);
        let client = client(address, &ca, "restore").await;
        let names = || {
            let entries = std::fs::read_dir(place.dir.path()).unwrap();
            entries
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.starts_with("data"))
                .collect::<Vec<_>>()
        };
        for left in [2 << 20, 512 << 10, 0] {
            let ballast = volume.leave(left);
            let full = restore(&client, &bytes, false).await.unwrap_err();
            assert!(full.is("disk-full"), "{left}: {full}");
            // It gives back what it took, and what there was goes on.
            let again = rustix::fs::statvfs(volume.0.path()).unwrap();
            let again = again.f_bavail * again.f_frsize;
            assert!(again + (128 << 10) >= left, "{left}: {again} are left");
            assert!(
                names().iter().all(|n| !n.contains("before")),
                "{:?}",
                names()
            );
            assert!(s.get("/v1/keys/k3").body == value(3));
            assert_eq!(s.get("/v1/keys/later").text(), "v");
            std::fs::remove_file(ballast).unwrap();
            let put = s.put("later", b"v").status;
            assert!(put == 204, "{left}: {put}");
        }
        let told = restore(&client, &bytes, false).await.unwrap();
        assert_eq!(told.entries, 4);
        assert!(told.set_aside.is_some());
    });
    ready(&s);
    assert!(s.get("/v1/keys/k0").body == value(0));
    assert_eq!(s.get("/v1/keys/later").status, 404);
}
