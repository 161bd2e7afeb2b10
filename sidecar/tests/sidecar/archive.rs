//! Pieces of the archive over the admin listener, and restores with them.

use std::net::SocketAddr;
use std::path::Path;

use codexstore::{Encryption, Key, KeyId, Keyring, archive};
use codexstore_api::Error;
use codexstore_api::archive::Until;
use codexstore_api::bodies::{ArchivePosition, BackupTold, RestoreTold};
use codexstore_api::client::{ArchiveAfter, Archived, Piece};
use codexstore_api::encoding::hex;
use sha2::{Digest as _, Sha256};

use crate::admin::{Ca, ca, install, spawn_with, start};
use crate::harness::{KEY_ID, Place, Sidecar, runtime};
use crate::restore::{client, send_with};

/// What is answered to whoever has everything up to a revision.
async fn ask(address: SocketAddr, ca: &Ca, lineage: &str, after: u64) -> Archived {
    let client = client(address, ca, "backup").await;
    let revision = after;
    let after = ArchiveAfter { lineage, revision };
    client.archive("u-1", Some(&after)).await.unwrap()
}

async fn position(address: SocketAddr, ca: &Ca) -> ArchivePosition {
    let client = client(address, ca, "backup").await;
    match client.archive("u-1", None).await.unwrap() {
        Archived::UpToDate(position) => position,
        other => panic!("{other:?}"),
    }
}

/// All pieces behind a revision.
async fn pieces(address: SocketAddr, ca: &Ca, lineage: &str, mut after: u64) -> Vec<Piece> {
    let mut all = Vec::new();
    loop {
        match ask(address, ca, lineage, after).await {
            Archived::Piece(piece) => {
                after = piece.told.to;
                all.push(piece);
            }
            Archived::UpToDate(_) => return all,
            other => panic!("{other:?}"),
        }
    }
}

async fn backup(address: SocketAddr, ca: &Ca) -> (Vec<u8>, BackupTold) {
    let mut backup = client(address, ca, "backup").await.backup().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = backup.chunk().await.unwrap() {
        bytes.extend_from_slice(&part);
    }
    (bytes, backup.told().unwrap().clone())
}

fn row<'a>(backup: &[u8], pieces: impl IntoIterator<Item = &'a Piece>) -> Vec<u8> {
    let mut bytes = backup.to_vec();
    for piece in pieces {
        bytes.extend_from_slice(&piece.bytes);
    }
    bytes
}

async fn restore(
    address: SocketAddr,
    ca: &Ca,
    bytes: &[u8],
    until: Until,
) -> Result<RestoreTold, Error> {
    let client = client(address, ca, "restore").await;
    send_with(&client, bytes, false, false, Some(until)).await
}

fn place() -> (Place, Ca) {
    let (place, ca) = (Place::new(), ca());
    install(&place, &ca, &ca);
    (place, ca)
}

fn ready(s: &Sidecar) {
    s.until("it is ready", |s| s.get("/readyz").status == 200);
}

#[test]
fn a_piece_holds_what_was_acknowledged_and_only_the_role_backup_gets_it() {
    for strategy in ["snapshot", "ledger"] {
        let (place, ca) = place();
        let (s, address) = spawn_with(&place, &["--strategy", strategy]);
        ready(&s);
        s.put("a", b"1");
        runtime().block_on(async {
            let here = position(address, &ca).await;
            assert_eq!((here.revision, here.first, here.epoch), (1, 0, 1));
            let lineage = &here.lineage;
            assert_eq!(*lineage, s.status().lineage);
            for other in ["operator", "restore"] {
                let client = client(address, &ca, other).await;
                let refused = client.archive("u-1", None).await.unwrap_err();
                assert!(refused.is("denied"), "{refused}");
            }
            let client = client(address, &ca, "backup").await;
            let other = client.archive("u-2", None).await.unwrap_err();
            assert!(other.is("invalid-argument"), "{other}");
            let Archived::Piece(piece) = ask(address, &ca, lineage, 0).await else {
                panic!("there is something");
            };
            let told = &piece.told;
            assert_eq!(
                (told.from, told.to, told.batches, told.more),
                (0, 1, 1, false)
            );
            assert_eq!((&told.store, &told.lineage), (&here.store, lineage));
            assert_eq!(told.key_id.as_deref(), Some(KEY_ID));
            assert_eq!(told.sha256, hex(&Sha256::digest(&piece.bytes)));
            let key = Key::new(&[7; 32]).unwrap();
            let keyring = Keyring::single(KeyId::new(KEY_ID).unwrap(), key);
            let keyring = Encryption::Keyring(keyring);
            let info = archive::verify(&piece.bytes[..], &keyring).unwrap();
            assert_eq!(info.envelope.last_ms, told.last_ms);
            assert_eq!(info.contents.first_ms, told.first_ms);
            assert_eq!(
                ask(address, &ca, lineage, 1).await,
                Archived::UpToDate(here.clone())
            );
            assert_eq!(
                ask(address, &ca, lineage, 2).await,
                Archived::Behind(here.clone())
            );
            let other = "0123456789abcdef";
            assert_eq!(
                ask(address, &ca, other, 1).await,
                Archived::LineageChanged(here)
            );
        });
        let metrics = s.get("/metrics").text();
        for line in [
            "codexstore_archived_revision 1",
            r#"operation="archive",outcome="ok"} 3"#,
            r#"operation="archive",outcome="refused"} 5"#,
        ] {
            assert!(metrics.contains(line), "{line} not in:\n{metrics}");
        }
    }
}

/// Values of what is restored, and the revision that each was written at.
fn expect(s: &Sidecar, key: &str, value: Option<&str>) {
    let found = s.get(&format!("/v1/keys/{key}"));
    match value {
        Some(value) => assert_eq!(found.text(), value),
        None => assert_eq!(found.status, 404),
    }
}

#[test]
fn a_restore_goes_beyond_its_backup_to_a_revision_a_time_or_the_end() {
    for strategy in ["snapshot", "ledger"] {
        let (place, ca) = place();
        let flags = ["--strategy", strategy];
        let (mut s, address) = spawn_with(&place, &flags);
        ready(&s);
        s.put("key", b"before");
        let (base, told, first) = runtime().block_on(async {
            let (base, told) = backup(address, &ca).await;
            for n in 2..=6 {
                s.put("key", format!("{n}").as_bytes());
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            let first = pieces(address, &ca, &told.lineage, 1).await;
            (base, told, first)
        });
        // The same history goes on with another owner, which a crash brought.
        s.kill();
        drop(s);
        let (s, address) = spawn_with(&place, &flags);
        ready(&s);
        s.put("key", b"7");
        s.put("last", b"8");
        let check = |told: &RestoreTold, revision: u64, key: &str, last: Option<&str>| {
            ready(&s);
            let taken = told.archive.unwrap();
            assert_eq!((told.revision, taken.revision), (1, revision));
            assert_eq!(taken.batches, revision - 1);
            assert!(told.next_revision > 8 + (1 << 32), "{told:?}");
            assert!(told.set_aside.is_some());
            expect(&s, "key", Some(key));
            expect(&s, "last", last);
        };
        runtime().block_on(async {
            let second = pieces(address, &ca, &told.lineage, 6).await;
            assert_eq!(second[0].told.epoch, first[0].told.epoch + 1);
            let both: Vec<&Piece> = first.iter().chain(&second).collect();
            let bytes = row(&base, both.iter().copied());
            let again = |until| restore(address, &ca, &bytes, until);

            let done = again(Until::Revision(4)).await.unwrap();
            assert_eq!(done.sha256, hex(&Sha256::digest(&bytes)));
            check(&done, 4, "4", None);
            if strategy == "ledger" {
                let history = s.get("/v1/keys/key/history").text();
                assert_eq!(history.matches("\"revision\"").count(), 4, "{history}");
            }
            // Whoever archived the old history is told that it has ended.
            let ended = ask(address, &ca, &told.lineage, 8).await;
            assert!(matches!(ended, Archived::LineageChanged(_)), "{ended:?}");
            // And a new one begins without a gap behind what was restored.
            let here = position(address, &ca).await;
            assert_eq!(
                (here.revision, here.lineage.clone()),
                (4, done.lineage.clone())
            );
            s.put("new", b"history");
            let new = pieces(address, &ca, &here.lineage, 4).await;
            assert_eq!((new.len(), new[0].told.batches), (1, 1));

            let done = again(Until::Time(first[0].told.last_ms)).await.unwrap();
            check(&done, 6, "6", None);
            let done = again(Until::End).await.unwrap();
            check(&done, 8, "7", Some("8"));

            // What cannot be had as a whole changes nothing.
            let lineage = s.status().lineage;
            let mut flipped = bytes.clone();
            let at = bytes.len() - 600;
            flipped[at] ^= 1;
            let gap = row(&base, &second);
            let foreign = row(&base, &new);
            for (bytes, until, code) in [
                (&flipped, Until::Revision(2), "corrupt"),
                (&gap, Until::End, "invalid-argument"),
                (&foreign, Until::End, "invalid-argument"),
                (&bytes, Until::Revision(9), "invalid-argument"),
                (&bytes, Until::Revision(0), "invalid-argument"),
                (&bytes, Until::Time(1000), "invalid-argument"),
            ] {
                let error = restore(address, &ca, bytes, until).await.unwrap_err();
                assert!(error.is(code), "{until:?}: {error}");
            }
            // Without word of pieces nothing may follow a backup.
            let client = client(address, &ca, "restore").await;
            let plain = crate::restore::restore(&client, &bytes, false).await;
            assert!(plain.unwrap_err().is("corrupt"));
            assert_eq!(s.status().lineage, lineage);
            check(&done, 8, "7", Some("8"));
        });
    }
}

#[test]
fn a_member_that_lost_its_volume_loses_nothing_that_was_archived() {
    let (place, ca) = place();
    let (mut s, address) = start(&place);
    for n in 0..50 {
        s.put(&format!("k-{n}"), b"before");
    }
    let (base, told) = runtime().block_on(backup(address, &ca));
    for n in 50..120 {
        s.put(&format!("k-{n}"), b"after");
    }
    let all = runtime().block_on(pieces(address, &ca, &told.lineage, told.revision));
    s.kill();
    drop(s);
    remove(&place.path("data"));
    let (s, address) = spawn_with(&place, &["--await-restore"]);
    s.until("it waits", |s| {
        s.get("/readyz").text().contains("AwaitingRestore")
    });
    let done = runtime().block_on(async {
        let client = client(address, &ca, "backup").await;
        let none = client.archive("u-1", None).await.unwrap_err();
        assert!(none.is("closed"), "{none}");
        restore(address, &ca, &row(&base, &all), Until::End)
            .await
            .unwrap()
    });
    ready(&s);
    assert_eq!(done.archive.unwrap().revision, 120);
    assert_eq!(s.status().keys, 120);
    expect(&s, "k-119", Some("after"));
}

fn remove(dir: &Path) {
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn much_is_archived_in_pieces_that_take_little_memory() {
    let (place, ca) = place();
    let (s, address) = spawn_with(&place, &["--strategy", "ledger"]);
    ready(&s);
    for n in 0..20_u8 {
        s.put(
            &format!("k-{n}"),
            &crate::backup::noise((4 << 20) + usize::from(n)),
        );
    }
    let before = s.memory();
    runtime().block_on(async {
        let lineage = position(address, &ca).await.lineage;
        let all = pieces(address, &ca, &lineage, 0).await;
        assert!(all.len() > 5, "{}", all.len());
        assert!(all.iter().rev().skip(1).all(|piece| piece.told.more));
    });
    let grown = s.memory().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
}
