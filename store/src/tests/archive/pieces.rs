//! What a piece holds, and what is told where there is none.

use super::super::disk::{Keep, SimDisk};
use super::super::reencrypt::ask;
use super::super::sim::Sim;
use super::super::{options, workload};
use super::{
    backup_of, history, lineage, next, open, piece, pieces, position, quick, quick_ledger, row,
    set, state,
};
use crate::archive::{self, Archived, Until, verify, verify_chain};
use crate::format::{Cipher, Lineage};
use crate::{Batch, Code, Durability, Encryption, KeySize, Kind, Options, Retention, Strategy};

#[test]
fn a_piece_holds_what_was_committed_behind_a_revision() {
    let ledger = Options {
        strategy: Strategy::Ledger,
        ..options()
    };
    for options in [options(), ledger] {
        let mut sim = open(options.clone());
        for n in 0..9 {
            set(&mut sim, &format!("key-{}", n % 4), n);
        }
        let made = piece(&sim, 2);
        let (envelope, contents) = (&made.info.envelope, &made.info.contents);
        assert_eq!((envelope.from, envelope.to, made.more), (2, 9, false));
        assert_eq!(contents.batches, 7);
        let start = sim.engine.seat.time.now_ms() - 90;
        assert_eq!(
            (contents.first_ms, envelope.last_ms),
            (start + 20, start + 80)
        );
        assert_eq!((envelope.lineage, envelope.epoch), (lineage(&sim), 1));
        assert_eq!(envelope.store, sim.engine.seat.store);
        assert_eq!(envelope.cipher, Cipher::AesGcm(KeySize::Aes256));
        assert_eq!(envelope.key_id.as_ref().unwrap().as_str(), "test-key");
        assert_eq!(envelope.bytes, made.bytes.len() as u64);
        let encryption = &options.encryption;
        assert_eq!(verify(&made.bytes[..], encryption).unwrap(), made.info);
        assert_eq!(&verify_chain(&made.bytes[..]).unwrap(), envelope);
        // Asked again it is another file with the same in it.
        let again = piece(&sim, 2);
        assert_ne!(again.info.envelope.file, envelope.file);
        assert_eq!(again.info.contents, made.info.contents);
        // A later one goes on behind it.
        set(&mut sim, "new", 1);
        let later = piece(&sim, 9);
        assert_eq!((later.info.envelope.from, later.info.envelope.to), (9, 10));
    }
}

#[test]
fn what_cannot_follow_is_told_from_what_does_not_follow_yet() {
    let mut sim = open(quick());
    assert_eq!(next(&sim, 0), Archived::UpToDate(position(&sim)));
    for n in 0..5 {
        set(&mut sim, "key", n);
    }
    let here = position(&sim);
    assert_eq!((here.revision, here.first, here.epoch), (5, 0, 1));
    assert_eq!(next(&sim, 5), Archived::UpToDate(here.clone()));
    assert_eq!(next(&sim, 6), Archived::Behind(here.clone()));
    assert_eq!(next(&sim, u64::MAX), Archived::Behind(here.clone()));
    let other = Lineage(lineage(&sim).0 ^ 1);
    let told = archive::next(&sim.engine.shared, other, 2).unwrap();
    assert_eq!(told, Archived::OtherLineage(here));
}

/// The batches in a piece's frames are what the log holds, and not more than about 8 MiB of them.
#[test]
fn much_is_told_in_several_pieces_each_of_which_is_small() {
    let mut options = quick();
    options.max_disk = 1 << 30;
    options.max_value = 64 << 20;
    let mut sim = open(options);
    for n in 0..30_u8 {
        sim.run(Batch::new().set(format!("key-{n}"), vec![n; 1 << 20]))
            .unwrap();
    }
    sim.run(Batch::new().set("large", vec![1; 20 << 20]))
        .unwrap();
    set(&mut sim, "small", 1);
    let all = pieces(&sim, 0);
    let mut reached = 0;
    for (at, piece) in all.iter().enumerate() {
        let envelope = &piece.info.envelope;
        assert_eq!(envelope.from, reached);
        reached = envelope.to;
        assert_eq!(piece.more, at + 1 < all.len());
        let large = (envelope.from..envelope.to).contains(&30);
        let most = if large {
            29 << 20
        } else {
            (9 << 20) + (64 << 10)
        };
        assert!(envelope.bytes < most, "{envelope:?}");
    }
    assert_eq!((reached, all.len()), (32, 5));
    let batches: u64 = all.iter().map(|piece| piece.info.contents.batches).sum();
    assert_eq!(batches, 32);
}

/// Where nothing was written behind a restore, the archive begins without a gap, though the next revision is far above.
#[test]
fn a_restored_store_is_archived_from_what_the_backup_shows() {
    for options in [quick(), quick_ledger()] {
        let mut sim = open(options.clone());
        for n in 0..5 {
            set(&mut sim, "key", n);
        }
        let disk = SimDisk::default();
        let env = sim.engine.seat.env.clone();
        let (bytes, _) = backup_of(&sim);
        crate::backup::restore_on(&disk, &env, &bytes[..], &options).unwrap();
        let copy = Sim::open(&disk, options.clone(), 2).unwrap();
        assert_eq!(next(&copy, 5), Archived::UpToDate(position(&copy)));
        let (base, info) = backup_of(&copy);
        assert_eq!(info.envelope.revision, 5);
        drop(copy);
        let mut copy = Sim::open(&disk, options.clone(), 3).unwrap();
        for n in 0..3 {
            set(&mut copy, "key", 10 + n);
        }
        drop(copy);
        // The next owner knows it too, as long as the log begins there.
        let copy = Sim::open(&disk, options.clone(), 4).unwrap();
        let first = 6 + (1 << 32);
        let made = piece(&copy, 5);
        assert_eq!(
            (made.info.envelope.from, made.info.envelope.to),
            (5, first + 2)
        );
        assert_eq!(made.info.contents.batches, 3);
        if options.strategy == Strategy::Snapshot {
            assert_eq!(position(&copy).first, 5);
            assert!(matches!(next(&copy, 4), Archived::PastGone(_)));
        }
        let row = row(&base, [&made]);
        let (told, again) = super::restored(&copy, &row, Until::End, &options).unwrap();
        assert_eq!(told.archive.unwrap().revision, first + 2);
        assert_eq!(state(&again), state(&copy));
    }
}

#[test]
fn what_is_no_longer_kept_is_told_and_where_it_begins_now() {
    let mut ledger = quick_ledger();
    ledger.max_disk = 4 << 20;
    ledger.retention = Retention {
        age: None,
        revisions: Some(10),
    };
    for options in [workload::quick(), ledger] {
        let mut sim = open(options);
        for n in 0..400_u32 {
            let key = format!("key-{}", n % 5);
            sim.run(Batch::new().set(key, vec![1; 20_000])).unwrap();
        }
        let Archived::PastGone(told) = next(&sim, 0) else {
            panic!("nothing has gone");
        };
        assert_eq!(told, position(&sim));
        assert!(told.first > 0 && told.first < 400, "{told:?}");
        assert!(matches!(next(&sim, told.first - 1), Archived::PastGone(_)));
        let rest = pieces(&sim, told.first);
        assert_eq!(rest.last().unwrap().info.envelope.to, 400);
    }
}

#[test]
fn with_an_interval_only_what_is_durable_is_archived() {
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let options = Options {
            durability: Durability::INTERVAL,
            strategy,
            ..quick()
        };
        let disk = SimDisk::default();
        let mut sim = Sim::open(&disk, options.clone(), 1).unwrap();
        sim.group_only(vec![Batch::new().set("a", "1")]);
        sim.clock.advance(1000);
        sim.engine.tick();
        sim.group_only(vec![Batch::new().set("a", "2")]);
        assert_eq!(sim.revision(), 2, "readers see it");
        let made = piece(&sim, 0);
        assert_eq!(made.info.envelope.to, 1);
        assert_eq!(next(&sim, 1), Archived::UpToDate(position(&sim)));
        let before = lineage(&sim);
        drop(sim);
        // It is lost, and what is written now is another line of history.
        let disk = disk.power_loss(Keep::Nothing);
        let mut sim = Sim::open(&disk, options, 2).unwrap();
        assert_eq!(sim.revision(), 1);
        set(&mut sim, "a", 3);
        sim.clock.advance(1000);
        sim.engine.tick();
        let told = archive::next(&sim.engine.shared, before, 1).unwrap();
        assert_eq!(told, Archived::OtherLineage(position(&sim)));
    }
}

/// A re-encryption makes a log of other files with the same in them: the archive goes on in them, and for the next owner too.
#[test]
fn the_archive_goes_on_across_a_reencryption_and_a_new_owner() {
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let options = Options {
            strategy,
            max_disk: 64 << 20,
            ..options()
        };
        let disk = SimDisk::default();
        let mut sim = Sim::open(&disk, options.clone(), 1).unwrap();
        for n in 0..4 {
            set(&mut sim, "key", n);
        }
        let (base, info) = backup_of(&sim);
        let mut after = info.envelope.revision;
        let mut made = Vec::new();
        let mut archive = |sim: &mut Sim, n: u8| {
            set(sim, &format!("key-{}", n % 9), n);
            let piece = piece(sim, after);
            assert_eq!(piece.info.envelope.from, after);
            after = piece.info.envelope.to;
            made.push(piece);
        };
        archive(&mut sim, 0);
        let waiter = ask(&sim);
        let mut asked = 0;
        loop {
            // Behind the switch, while what was replaced is removed, and behind that.
            if let Ok(done) = waiter.try_recv() {
                done.unwrap();
                break;
            }
            archive(&mut sim, asked);
            asked += 1;
            assert!(asked < 200);
        }
        assert!(asked > 5, "{asked}");
        archive(&mut sim, asked);
        assert_eq!(position(&sim).first, 0);
        drop(sim);
        let mut sim = Sim::open(&disk, options.clone(), 2).unwrap();
        archive(&mut sim, asked);
        assert_eq!(position(&sim).first, 0, "the log begins with revision 1");
        assert_eq!(history(&sim).len() as u64, sim.revision());
        let all: u64 = pieces(&sim, 0)
            .iter()
            .map(|piece| piece.info.contents.batches)
            .sum();
        assert_eq!(all, sim.revision());
        let row = row(&base, &made);
        let (told, copy) = super::restored(&sim, &row, Until::End, &options).unwrap();
        assert_eq!(told.archive.unwrap().revision, sim.revision());
        assert_eq!(state(&copy), state(&sim));
    }
}

#[test]
fn what_is_parked_of_the_archive_holds_no_file_that_was_replaced() {
    let mut sim = open(Options {
        max_disk: 64 << 20,
        ..options()
    });
    set(&mut sim, "key", 1);
    piece(&sim, 0);
    assert!(sim.engine.shared.archive.lock().is_some());
    let waiter = ask(&sim);
    while waiter.try_recv().is_err() {
        sim.engine.tick();
    }
    assert!(sim.engine.shared.archive.lock().is_none());
}

#[test]
fn an_owner_that_was_overtaken_makes_no_piece() {
    let disk = SimDisk::default();
    let mut old = Sim::open(&disk, quick(), 1).unwrap();
    set(&mut old, "a", 1);
    let new = Sim::open(&disk, quick(), 2).unwrap();
    let error = archive::next(&old.engine.shared, lineage(&old), 0).unwrap_err();
    assert!(error.is(Code::Fenced), "{error:?}");
    let made = piece(&new, 0);
    assert_eq!((made.info.envelope.epoch, made.info.envelope.to), (2, 1));
    assert_eq!(lineage(&new), lineage(&old), "it is the same history");
}

#[test]
fn who_goes_on_where_the_last_piece_ended_reads_the_log_from_there() {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, quick_ledger(), 1).unwrap();
    for n in 0..50 {
        sim.run(Batch::new().set(format!("key-{n}"), vec![1; 40_000]))
            .unwrap();
    }
    let mut after = piece(&sim, 0).info.envelope.to;
    let (mut gone_on, mut from_anew) = (0, 0);
    for n in 0..20 {
        set(&mut sim, "key", n);
        let calls = disk.calls();
        let made = piece(&sim, after);
        assert_eq!(made.info.contents.batches, 1);
        gone_on += disk.calls() - calls;
        // From the beginning of the log it takes more.
        let calls = disk.calls();
        assert_eq!(piece(&sim, after).info.contents.batches, 1);
        from_anew += disk.calls() - calls;
        after = made.info.envelope.to;
    }
    assert!(2 * gone_on < from_anew, "{gone_on}, and {from_anew}");
    assert_eq!(history(&sim).len(), 70);
}

#[test]
fn a_piece_needs_its_key_and_other_files_are_none() {
    let mut sim = open(options());
    set(&mut sim, "key", 1);
    let made = piece(&sim, 0);
    let other = |id, byte| Encryption::Keyring(super::super::keyring(id, byte));
    for (encryption, code) in [
        (other("other", 7), Code::KeyMissing),
        (other("test-key", 8), Code::WrongKey),
        (Encryption::None, Code::EncryptionMismatch),
    ] {
        let error = verify(&made.bytes[..], &encryption).unwrap_err();
        assert!(
            error.is(code) && error.kind() == Kind::Encryption,
            "{error:?}"
        );
    }
    let (backup, _) = backup_of(&sim);
    for error in [
        verify(&backup[..], &options().encryption).unwrap_err(),
        verify_chain(&backup[..]).unwrap_err(),
        crate::backup::verify(&made.bytes[..], &options().encryption).unwrap_err(),
        crate::backup::verify_chain(&made.bytes[..]).unwrap_err(),
    ] {
        assert!(error.is(Code::Corrupt), "{error:?}");
    }
}

/// A piece of the first version, kept in `tests/golden/`. To make it anew: remove it, and run this with
/// `CODEXSTORE_WRITE_GOLDEN=1`.
#[test]
fn the_golden_piece_is_read_for_ever() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/v1-archive-aes256"
    );
    if std::env::var_os("CODEXSTORE_WRITE_GOLDEN").is_some() && !std::path::Path::new(path).exists()
    {
        let mut sim = open(options());
        set(&mut sim, "before", 0);
        let batch = Batch::new().set("greeting", "hello").actor("ada");
        sim.run(batch).unwrap();
        sim.clock.advance(10);
        let value = "a longer value, which compresses; ".repeat(40);
        let batch = Batch::new().delete("before").set("greeting", value);
        sim.run(batch).unwrap();
        std::fs::write(path, piece(&sim, 1).bytes).unwrap();
    }
    let bytes = std::fs::read(path).unwrap();
    let info = verify(&bytes[..], &options().encryption).unwrap();
    assert_eq!(verify_chain(&bytes[..]).unwrap(), info.envelope);
    let envelope = &info.envelope;
    assert_eq!((envelope.from, envelope.to, envelope.epoch), (1, 3, 1));
    let first_ms = 1_700_000_000_010;
    assert_eq!(
        (info.contents.first_ms, envelope.last_ms),
        (first_ms, first_ms + 10)
    );
    assert_eq!(info.contents.batches, 2);
}
