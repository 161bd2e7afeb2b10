//! A restore takes a backup and the pieces that follow it, as far as is wanted, or nothing at all.

use super::super::disk::SimDisk;
use super::super::sim::Sim;
use super::{
    backup_of, history, open, piece, pieces, quick, quick_ledger, restored, row, set, state,
};
use crate::archive::{self, Piece, Until};
use crate::backup::{HEAD, hand_over};
use crate::{Batch, Code, Disk, Encryption, Options, SetOptions, Store, Strategy};

/// A store, a backup of its revision 4, and three pieces up to revision 13, with the state at each revision.
struct Case {
    sim: Sim,
    backup: Vec<u8>,
    pieces: Vec<Piece>,
    states: Vec<Vec<String>>,
    options: Options,
}

fn case(options: Options) -> Case {
    let mut sim = open(options.clone());
    let mut states = vec![state(&sim)];
    let mut write = |sim: &mut Sim, n: u8| {
        let ttl = std::time::Duration::from_hours(1);
        let ttl = SetOptions {
            ttl: n.is_multiple_of(3).then_some(ttl),
            keep_ttl: false,
        };
        let batch = Batch::new()
            .set_with(format!("key-{}", n % 4), vec![n], ttl)
            .delete(format!("key-{}", (n + 2) % 4))
            .actor("ada");
        sim.run(batch).unwrap();
        states.push(state(sim));
        sim.clock.advance(10);
    };
    let (mut backup, mut pieces) = (Vec::new(), Vec::new());
    for n in 1..=13 {
        write(&mut sim, n);
        match n {
            4 => backup = backup_of(&sim).0,
            7 => pieces.push(piece(&sim, 4)),
            10 => pieces.push(piece(&sim, 7)),
            13 => pieces.push(piece(&sim, 10)),
            _ => {}
        }
    }
    Case {
        sim,
        backup,
        pieces,
        states,
        options,
    }
}

impl Case {
    fn row(&self, pieces: &[usize]) -> Vec<u8> {
        row(&self.backup, pieces.iter().map(|at| &self.pieces[*at]))
    }

    /// Restores these pieces and compares with what the store was at `revision`.
    fn check(&self, pieces: &[usize], until: Until, revision: u64) {
        let bytes = self.row(pieces);
        let (told, copy) = restored(&self.sim, &bytes, until, &self.options).unwrap();
        let at = usize::try_from(revision).unwrap();
        assert_eq!(state(&copy), self.states[at], "{pieces:?} {until:?}");
        assert_eq!(copy.revision(), revision);
        let taken = told.archive.unwrap();
        assert_eq!(
            (taken.pieces, taken.revision),
            (pieces.len() as u64, revision)
        );
        assert_eq!(taken.batches, revision - 4);
        assert_eq!(taken.last_ms.is_some(), revision > 4);
        let sum: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&bytes).into();
        assert_eq!(told.sha256, sum);
        // Whatever was given out behind it, old etags match nothing.
        assert!(told.next_revision > 13 + (1 << 32) || pieces.len() < 3);
        assert!(told.next_revision > revision + (1 << 32));
        if self.options.strategy == Strategy::Ledger {
            let mut all = history(&self.sim);
            all.truncate(at);
            assert_eq!(history(&copy), all);
        }
    }

    fn refused(&self, bytes: &[u8], until: Until, code: Code, says: &str) {
        let disk = SimDisk::default();
        let env = self.sim.engine.seat.env.clone();
        let error = archive::restore_with(&disk, &env, bytes, until, &self.options).unwrap_err();
        assert!(error.is(code), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
        let names = disk.list().unwrap();
        assert!(names.is_empty() || names == ["restoring"], "{names:?}");
    }
}

#[test]
fn each_revision_and_each_time_behind_a_backup_can_be_had() {
    for options in [quick(), quick_ledger()] {
        let case = case(options);
        for revision in 4..=13 {
            case.check(&[0, 1, 2], Until::Revision(revision), revision);
        }
        case.check(&[0, 1, 2], Until::End, 13);
        case.check(&[0, 1], Until::End, 10);
        case.check(&[], Until::End, 4);
        case.check(&[], Until::Revision(4), 4);
        case.check(&[0], Until::Revision(7), 7);
        let start = case.pieces[0].info.contents.first_ms;
        for (ms, revision) in [(0, 5), (9, 5), (10, 6), (45, 9), (80, 13), (10_000, 13)] {
            case.check(&[0, 1, 2], Until::Time(start + ms), revision);
        }
    }
}

#[test]
fn what_overlaps_is_skipped_and_a_gap_is_refused() {
    for options in [quick(), quick_ledger()] {
        let mut case = case(options);
        // Of the same history, cut otherwise; wholly before the backup, across it, and across two others.
        case.pieces
            .extend([0, 2, 8].map(|after| piece(&case.sim, after)));
        case.check(&[3], Until::End, 13);
        case.check(&[4], Until::Revision(9), 9);
        case.check(&[0, 1, 5], Until::End, 13);
        case.check(&[0, 0, 1, 0, 5, 2, 3], Until::End, 13);
        let says = "a gap: it holds what is behind revision 7, and what came before it ends at 4";
        case.refused(&case.row(&[1]), Until::End, Code::InvalidArgument, says);
        for wrong in [&[0, 2][..], &[2, 1, 0]] {
            let bytes = case.row(wrong);
            case.refused(&bytes, Until::End, Code::InvalidArgument, "a gap");
        }
        // What is not wanted may be missing.
        case.check(&[0, 2], Until::Revision(7), 7);
        let says = "the pieces end at revision 10, before 11";
        let bytes = case.row(&[0, 1]);
        case.refused(&bytes, Until::Revision(11), Code::InvalidArgument, says);
        let bytes = case.row(&[]);
        case.refused(
            &bytes,
            Until::Revision(3),
            Code::InvalidArgument,
            "earlier backup",
        );
        let early = case.pieces[0].info.contents.first_ms - 100;
        case.refused(
            &bytes,
            Until::Time(early),
            Code::InvalidArgument,
            "earlier backup",
        );
    }
}

#[test]
fn pieces_of_another_history_are_refused_and_of_another_owner_are_not() {
    for options in [quick(), quick_ledger()] {
        let mut case = case(options.clone());
        // The same store, in another lineage.
        let disk = SimDisk::default();
        let env = case.sim.engine.seat.env.clone();
        crate::backup::restore_on(&disk, &env, &case.backup[..], &options).unwrap();
        let mut copy = Sim::open(&disk, options.clone(), 3).unwrap();
        set(&mut copy, "key", 1);
        case.pieces.push(piece(&copy, 4));
        // Another store.
        let other = SimDisk::default();
        let mut other = Sim::open(&other, options.clone(), 99).unwrap();
        for n in 0..9 {
            set(&mut other, "key", n);
        }
        case.pieces.push(piece(&other, 4));
        for foreign in [3, 4] {
            for row in [&[foreign][..], &[0, foreign], &[0, 1, 2, foreign]] {
                let bytes = case.row(row);
                case.refused(&bytes, Until::End, Code::InvalidArgument, "lineage");
                case.refused(&bytes, Until::Revision(5), Code::InvalidArgument, "lineage");
            }
        }
        // A later owner of the same history goes on with it.
        let disk = SimDisk::default();
        let mut old = Sim::open(&disk, options.clone(), 1).unwrap();
        set(&mut old, "a", 1);
        let base = backup_of(&old).0;
        set(&mut old, "a", 2);
        let first = piece(&old, 1);
        drop(old);
        let mut new = Sim::open(&disk, options.clone(), 2).unwrap();
        set(&mut new, "a", 3);
        let second = piece(&new, 2);
        let epochs = [&first, &second].map(|piece| piece.info.envelope.epoch);
        assert_eq!(epochs, [1, 2]);
        let bytes = row(&base, [&first, &second]);
        let (told, copy) = restored(&new, &bytes, Until::End, &options).unwrap();
        assert_eq!(told.archive.unwrap().revision, 3);
        assert_eq!(copy.content()[&b"a"[..]], [3]);
    }
}

#[test]
fn what_does_not_verify_refuses_all_of_it() {
    let case = case(quick());
    let whole = case.row(&[0, 1, 2]);
    let begin = case.backup.len();
    let ends: Vec<usize> = case
        .pieces
        .iter()
        .scan(begin, |at, piece| {
            *at += piece.bytes.len();
            Some(*at)
        })
        .collect();
    // A cut between two files is no damage: it is told by the revision that was wanted.
    for cut in (begin..whole.len())
        .step_by(509)
        .chain([begin, ends[0], ends[1]])
    {
        let code = if cut == begin || ends.contains(&cut) {
            Code::InvalidArgument
        } else {
            Code::Corrupt
        };
        case.refused(&whole[..cut], Until::Revision(13), code, "");
    }
    for at in (begin..whole.len()).step_by(1021).chain([whole.len() - 1]) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        // Also in what is not wanted.
        let until = [Until::End, Until::Revision(5)][at % 2];
        // A byte of the second key slot, in which nothing stands, is found as well.
        case.refused(&bytes, until, Code::Corrupt, "piece");
    }
    let mut longer = whole.clone();
    longer.extend(b"more");
    case.refused(&longer, Until::End, Code::Corrupt, "piece 4");
    // Without being told that pieces come, nothing may follow a backup.
    let disk = SimDisk::default();
    let env = case.sim.engine.seat.env.clone();
    let error = crate::backup::restore_on(&disk, &env, &whole[..], &case.options).unwrap_err();
    assert!(error.is(Code::Corrupt), "{error:?}");
}

#[test]
fn pieces_without_their_key_restore_nothing() {
    let with = |byte| Options {
        encryption: Encryption::Keyring(super::super::keyring("test-key", byte)),
        ..quick()
    };
    let case = case(with(7));
    let mut other = open(with(8));
    set(&mut other, "a", 1);
    let bytes = row(&case.backup, [&piece(&other, 0)]);
    case.refused(&bytes, Until::End, Code::WrongKey, "piece 1");
}

#[test]
fn a_backup_and_its_pieces_are_handed_over_each_by_itself() {
    let with = |id, byte| Options {
        encryption: Encryption::Keyring(super::super::keyring(id, byte)),
        ..quick_ledger()
    };
    let (ours, theirs) = (with("ours", 7), with("theirs", 9));
    let case = case(ours.clone());
    let handed = |bytes: &[u8]| {
        let head = hand_over(&bytes[..HEAD], &ours.encryption, &theirs.encryption).unwrap();
        [&head, &bytes[HEAD..]].concat()
    };
    let mut bytes = handed(&case.backup);
    for piece in &case.pieces {
        let piece = handed(&piece.bytes);
        archive::verify(&piece[..], &theirs.encryption).unwrap();
        archive::verify(&piece[..], &ours.encryption).unwrap_err();
        bytes.extend(piece);
    }
    let (_, copy) = restored(&case.sim, &bytes, Until::End, &theirs).unwrap();
    assert_eq!(state(&copy), case.states[13]);
    assert_eq!(history(&copy), history(&case.sim));
}

/// What was restored is a store as any: it goes on, folds, is archived, backed up, and restored again.
#[test]
fn a_store_that_was_restored_goes_on() {
    for options in [quick(), quick_ledger()] {
        let case = case(options.clone());
        let (told, mut copy) = restored(
            &case.sim,
            &case.row(&[0, 1, 2]),
            Until::Revision(11),
            &options,
        )
        .unwrap();
        assert_eq!(
            told.next_revision,
            14 + (1 << 32),
            "above all that was given out"
        );
        let base = backup_of(&copy).0;
        for n in 0..200_u32 {
            let batch = Batch::new().set(format!("more-{}", n % 9), vec![1; 30_000]);
            copy.run(batch).unwrap();
        }
        assert!(copy.engine.gauges.folds > 0 || options.strategy == Strategy::Ledger);
        let more = pieces(&copy, 11);
        let revision = copy.revision();
        let (told, again) = restored(&copy, &row(&base, &more), Until::End, &options).unwrap();
        assert_eq!(told.archive.unwrap().revision, revision);
        assert_eq!(state(&again), state(&copy));
    }
}

#[test]
fn a_row_of_files_is_restored_on_a_real_disk_with_little_memory() {
    let (data, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = super::super::options();
    let store = Store::open(data.path(), options.clone()).unwrap();
    store.set(b"first", b"1").unwrap();
    let mut bytes = Vec::new();
    let backup = store.backup(&mut bytes).unwrap().envelope;
    for n in 0..40_u32 {
        store.set(&n.to_be_bytes(), &vec![9; 400_000]).unwrap();
    }
    let (mut after, mut count) = (backup.revision, 0);
    while let archive::Archived::Piece(piece) = store.archive(backup.lineage, after).unwrap() {
        after = piece.info.envelope.to;
        bytes.extend(&piece.bytes);
        count += 1;
    }
    assert!(count > 1, "{count}");
    assert_eq!(store.archive_position().revision, after);
    let told = archive::restore(new.path(), &bytes[..], Until::End, &options).unwrap();
    assert_eq!(told.archive.unwrap().pieces, count);
    let copy = Store::open(new.path(), options).unwrap();
    assert_eq!(copy.content().unwrap(), store.content().unwrap());
}
