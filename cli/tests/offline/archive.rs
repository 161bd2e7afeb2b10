//! `restore --archive` and `archive verify`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use codexstore::{
    Store, Strategy,
    archive::{Archived, Piece},
    backup::BackupOptions,
    format::Lineage,
};
use codexstore_api::archive::{PieceName, PiecePath};

use super::place::{Place, flip};

/// Where a piece is stored below `archive`.
fn store_piece(place: &Place, piece: &Piece) -> PathBuf {
    let envelope = &piece.info.envelope;
    let path = PiecePath {
        lineage: envelope.lineage.to_string(),
        epoch: envelope.epoch,
        name: PieceName {
            from: envelope.from,
            to: envelope.to,
            last_ms: envelope.last_ms,
            key_id: envelope.key_id.as_ref().map(ToString::to_string),
        },
    };
    let path = place.path("archive").join(path.to_string());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &piece.bytes).unwrap();
    path
}

/// What there is behind a revision.
fn next(store: &Store, after: u64) -> Piece {
    match store.archive(Lineage(store.lineage()), after).unwrap() {
        Archived::Piece(piece) => *piece,
        other => panic!("{other:?}"),
    }
}

/// A store of 20 revisions, its backup, and three pieces of 5 revisions each behind it, each by an owner of its own.
fn archived(place: &Place, strategy: Strategy) -> (String, Vec<PathBuf>, Vec<u64>) {
    let mut options = place.options();
    options.strategy = strategy;
    let open = || Store::open(&place.data(), options.clone()).unwrap();
    let store = open();
    for n in 0..20_u32 {
        store.set(format!("k/{n}").as_bytes(), b"before").unwrap();
    }
    let backups = place.path("backups");
    let backup = store.backup_to(&backups, &BackupOptions::default());
    let backup = backup.unwrap().0.to_str().unwrap().to_owned();
    store.close().unwrap();
    let (mut pieces, mut times) = (Vec::new(), Vec::new());
    for round in 0..3_u64 {
        let store = open();
        for n in 0..5_u64 {
            let value = format!("{}", 21 + round * 5 + n);
            store.set(b"k/0", value.as_bytes()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        let piece = next(&store, 20 + round * 5);
        times.push(piece.info.envelope.last_ms);
        pieces.push(store_piece(place, &piece));
        store.close().unwrap();
    }
    (backup, pieces, times)
}

fn value(place: &Place, dir: &str, strategy: Strategy) -> String {
    let mut options = place.options();
    options.strategy = strategy;
    let store = Store::open(&place.path(dir), options).unwrap();
    let value = store.get(b"k/0").unwrap().unwrap();
    let text = String::from_utf8(value.value().to_vec()).unwrap();
    store.close().unwrap();
    text
}

#[test]
fn a_store_is_restored_with_what_was_archived_since_its_backup() {
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let place = Place::new();
        let (backup, _, times) = archived(&place, strategy);
        let restore = |dir: &str, more: &[&str]| {
            let base = ["restore", &backup, "--into", dir, "--keyring", "keyring"];
            let archive = ["--archive", "archive"];
            let args = base.into_iter().chain(archive).chain(more.iter().copied());
            place.run(args)
        };
        let told = restore("all", &["-o", "json"]).json();
        assert_eq!(
            (&told["revision"], &told["restoredRevision"]),
            (&20.into(), &35.into())
        );
        assert_eq!((&told["pieces"], &told["batches"]), (&3.into(), &15.into()));
        assert_eq!(value(&place, "all", strategy), "35");

        let told = restore("revision", &["--until-revision", "28", "-o", "json"]).json();
        assert_eq!(
            (&told["restoredRevision"], &told["pieces"]),
            (&28.into(), &2.into())
        );
        assert_eq!(value(&place, "revision", strategy), "28");

        // Each revision has a millisecond of its own.
        let at = codexstore_api::time::rfc3339(times[0]).unwrap();
        let text = restore("time", &["--until-time", &at]).ok();
        assert!(text.contains("Restored revision"), "{text}");
        assert_eq!(value(&place, "time", strategy), "25");
        if strategy == Strategy::Ledger {
            let mut options = place.options();
            options.strategy = strategy;
            let store = Store::open(&place.path("time"), options).unwrap();
            assert_eq!(store.history(b"k/0", 0, 99).unwrap().len(), 6);
        }
        let complaint = restore("beyond", &["--until-revision", "36"]).fails(3);
        assert!(complaint.contains("ends at revision 35"), "{complaint}");
        restore("early", &["--until-revision", "19"]).fails(2);
        restore("both", &["--until-revision", "30", "--until-time", &at]).fails_with_usage();
        let noon = restore("noon", &["--until-time", "noon"]);
        assert_eq!(noon.code, Some(2), "{noon:?}");
        for dir in ["beyond", "both", "noon"] {
            assert!(!place.path(dir).exists(), "{dir} was made");
        }
    }
}

#[test]
fn what_is_missing_or_damaged_or_foreign_restores_nothing() {
    let place = Place::new();
    let (backup, pieces, _) = archived(&place, Strategy::Snapshot);
    let restore = |dir: &str, more: &[&str]| {
        let base = ["restore", &backup, "--into", dir, "--keyring", "keyring"];
        let more = ["--archive", "archive"].iter().chain(more);
        place.run(base.into_iter().chain(more.copied()))
    };
    let away = place.path("away");
    fs::rename(&pieces[1], &away).unwrap();
    let complaint = restore("gap", &[]).fails(3);
    assert!(
        complaint.contains("has a gap") && complaint.contains("25"),
        "{complaint}"
    );
    restore("before", &["--until-revision", "25"]).ok();
    assert_eq!(value(&place, "before", Strategy::Snapshot), "25");
    fs::rename(&away, &pieces[1]).unwrap();
    flip(&pieces[1], 12_300);
    let complaint = restore("flipped", &[]).fails(7);
    assert!(
        complaint.contains("piece 2 behind the backup"),
        "{complaint}"
    );
    let complaint = place
        .run([
            "restore",
            &backup,
            "--into",
            "x",
            "--keyring",
            "keyring",
            "--archive",
            "nothing",
        ])
        .fails(3);
    assert!(complaint.contains("not a directory"), "{complaint}");

    let other = Place::new();
    let (foreign, _, _) = archived(&other, Strategy::Snapshot);
    let archive = place.path("archive");
    let archive = archive.to_str().unwrap();
    let complaint = other
        .run([
            "restore",
            &foreign,
            "--into",
            "new",
            "--keyring",
            "keyring",
            "--archive",
            archive,
        ])
        .fails(3);
    assert!(complaint.contains("another member's"), "{complaint}");
}

#[test]
fn pieces_are_verified_with_their_key_and_without() {
    let place = Place::new();
    let (_, pieces, _) = archived(&place, Strategy::Ledger);
    let verify = |more: &[&str]| {
        let args = ["archive", "verify", "archive"].iter().chain(more);
        place.run(args.copied())
    };
    let told = verify(&["--keyring", "keyring", "-o", "json"]).json();
    let all = told["pieces"].as_array().unwrap();
    assert_eq!((all.len(), &told["opened"]), (3, &true.into()));
    assert_eq!(
        (&all[1]["from"], &all[1]["to"], &all[1]["batches"]),
        (&25.into(), &30.into(), &5.into())
    );
    assert_eq!(all[1]["keyId"], "2026-11");
    assert!(told["gaps"].as_array().unwrap().is_empty());
    let text = verify(&[]).ok();
    assert!(text.contains("forgery") && text.contains("whole"), "{text}");
    let one = pieces[0].to_str().unwrap();
    place
        .run(["archive", "verify", one, "--keyring", "keyring"])
        .ok();
    let told = place.run(["archive", "verify", one, "--unencrypted"]);
    assert_eq!(told.code, Some(6), "{told:?}");
    place.run(["archive", "verify", "nothing"]).fails(3);
    place.run(["archive", "verify", "keyring"]).fails(3);

    let away = place.path("away");
    fs::rename(&pieces[1], &away).unwrap();
    let text = verify(&["--keyring", "keyring"]).ok();
    assert!(text.contains("behind revision 25 up to 30"), "{text}");
    // Under another's name.
    let name = |path: &Path| path.file_name().unwrap().to_owned();
    let misnamed = pieces[2].with_file_name(name(&pieces[1]));
    fs::rename(&pieces[2], &misnamed).unwrap();
    assert_eq!(verify(&[]).code, Some(7));
    fs::rename(&misnamed, &pieces[2]).unwrap();
    // Under another key's: whoever asks which keys are needed reads names.
    let said = name(&pieces[2]).into_string().unwrap();
    let misnamed = pieces[2].with_file_name(said.replace("2026-11", "2026-12"));
    assert_ne!(misnamed, pieces[2]);
    fs::rename(&pieces[2], &misnamed).unwrap();
    assert_eq!(verify(&[]).code, Some(7));
    fs::rename(&misnamed, &pieces[2]).unwrap();
    flip(&pieces[2], 12_300);
    for keys in [&["--keyring", "keyring"][..], &[]] {
        let told = verify(keys);
        let text = String::from_utf8(told.out).unwrap();
        assert_eq!(told.code, Some(7), "{text}");
        assert!(text.contains("frame 1 at offset 12288"), "{text}");
    }
}
