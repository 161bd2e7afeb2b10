//! Backups as streams of the admin listener.

use std::time::{Duration, Instant};

use codexstore::{Encryption, Key, KeyId, Keyring, backup};
use codexstore_api::bodies::BackupTold;
use codexstore_api::encoding::hex;
use codexstore_api::status::State;
use codexstore_api::{Client, Error};

use crate::admin::{TLS13, ca, connect, identity, install, spawn, start};
use crate::harness::{KEY_ID, Place, runtime};

/// Bytes that do not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Reads a whole backup, `pause` after each part.
async fn read(client: &Client, pause: Duration) -> Result<(Vec<u8>, BackupTold), Error> {
    let mut backup = client.backup().await?;
    assert_eq!(backup.pod_uid(), "u-1");
    let mut bytes = Vec::new();
    while let Some(part) = backup.chunk().await? {
        bytes.extend_from_slice(&part);
        tokio::time::sleep(pause).await;
    }
    Ok((bytes, backup.told().unwrap().clone()))
}

/// The same once the place for it is free: whoever had it lets go of it a little behind its end.
async fn read_in_turn(client: &Client, pause: Duration) -> (Vec<u8>, BackupTold) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match read(client, pause).await {
            Err(busy) if busy.is("overloaded") && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done.unwrap(),
        }
    }
}

#[test]
fn a_backup_is_read_while_writes_go_on_and_opens_to_what_was_acknowledged() {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    let (s, address) = start(&place);
    for n in 0..200 {
        let value = noise(100_000 + n);
        s.put(&format!("k-{n:03}"), &value);
    }
    let before = s.status().revision;
    runtime().block_on(async {
        let role = |role: &'static str| connect(address, &ca, Some(identity(&ca, role)), TLS13);
        for other in ["operator", "restore"] {
            let refused = role(other).await.unwrap().backup().await.err().unwrap();
            assert!(refused.is("denied"), "{refused}");
        }
        let first = role("backup").await.unwrap();
        let mut held = first.backup().await.unwrap();
        assert!(held.chunk().await.unwrap().is_some());
        let second = role("backup").await.unwrap();
        assert!(second.backup().await.err().unwrap().is("overloaded"));
        // One that is left ends by itself, and the next has its place.
        drop((held, first));
        let client = role("backup").await.unwrap();
        let (bytes, told) = read_in_turn(&client, Duration::from_millis(5)).await;
        s.put("k-later", b"not in it");
        assert_eq!((told.revision, told.entries), (before, 200));
        assert_eq!(told.key_id.as_deref(), Some(KEY_ID));
        assert_eq!(told.bytes, bytes.len() as u64);
        let key = Key::new(&[7; 32]).unwrap();
        let keyring = Keyring::single(KeyId::new(KEY_ID).unwrap(), key);
        let info = backup::verify(&bytes[..], &Encryption::Keyring(keyring)).unwrap();
        assert_eq!(hex(&info.envelope.sha256), told.sha256);
        assert_eq!(hex(&info.contents.root), told.root);
        let again = read_in_turn(&client, Duration::ZERO).await.1;
        assert_eq!((again.revision, again.entries), (before + 1, 201));
    });
}

#[test]
fn a_backup_of_a_store_that_is_not_open_is_refused_with_the_reason() {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    place.keyring("other", &[(KEY_ID, &[7; 32])]);
    let (s, address) = spawn(&place);
    s.until("it has tried", |s| s.status().state == State::KeyError);
    runtime().block_on(async {
        let client = connect(address, &ca, Some(identity(&ca, "backup")), TLS13);
        let refused = client.await.unwrap().backup().await.err().unwrap();
        assert!(refused.is("invalid-keyring"), "{refused}");
    });
}

#[test]
fn a_backup_that_fails_midway_says_why_behind_what_was_sent() {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    let (mut s, address) = start(&place);
    let value = noise(1 << 20);
    for n in 0..24 {
        s.put(&format!("k-{n}"), &value);
    }
    let error = runtime().block_on(async {
        let client = connect(address, &ca, Some(identity(&ca, "backup")), TLS13);
        let client = client.await.unwrap();
        let mut backup = client.backup().await.unwrap();
        assert!(backup.chunk().await.unwrap().is_some());
        // The store closes while the stream stands still: this blocks whoever would read it.
        s.signal(rustix::process::Signal::TERM);
        s.until("it has stopped", |s| s.log().contains("stopped"));
        loop {
            match backup.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it was whole"),
                Err(error) => break error,
            }
        }
    });
    assert!(error.is("closed") || error.is("unreachable"), "{error}");
    assert!(s.terminate().success());
}
