//! Logs that no crash leaves.

use super::*;
use crate::compress::Compression;
use crate::crypto::OsRandom;
use crate::disk::OsDisk;
use crate::error::Code;
use crate::format::{self, FileId, FileKind, FileSpec, FrameKind, StoreId};
use crate::keyring::{Encryption, KeySize};

#[test]
fn a_gap_in_revisions_is_damage_and_what_the_image_holds_is_skipped() {
    let mut state = Recovered {
        floor: 4,
        next_revision: 6,
        ..Recovered::empty(1)
    };
    let batch = |revision| record::Batch {
        revision,
        time_ms: 1,
        actor: None,
        ops: Vec::new(),
    };
    let mut scratch = Vec::new();
    let mut applied = |revision| apply(&mut state, &batch(revision), &mut scratch);
    for wrong in [7, 5, u64::MAX] {
        let error = applied(wrong).unwrap_err();
        assert_eq!(error.as_code(), Code::Corrupt, "{wrong}");
    }
    applied(4).unwrap();
    applied(6).unwrap();
    applied(7).unwrap();
    assert!(applied(7).is_err());
    assert_eq!((state.view.revision, state.next_revision), (7, 8));
}

/// A journal with a batch of each of these revisions, behind a place; and where it ends.
fn journal(
    disk: &OsDisk,
    number: u8,
    first_revision: u64,
    revisions: &[u64],
    link: Link,
) -> (Found, Link) {
    let spec = FileSpec {
        kind: FileKind::Journal,
        store: StoreId([1; 16]),
        lineage: Lineage(2),
        file: FileId([number; 16]),
        epoch: 1,
        first_revision,
        link,
        compression: Compression::None,
        key_size: KeySize::Aes256,
        created_ms: 0,
    };
    let mut made = format::create(&spec, &Encryption::None, &OsRandom).unwrap();
    let mut file = made.prefix.clone();
    for revision in revisions {
        let mut payload = Vec::new();
        // 0: the mark that another file follows.
        if *revision > 0 {
            record::put_batch(&mut payload, *revision, 1, None, std::iter::empty()).unwrap();
        }
        let (kind, random) = (FrameKind::Batches, &OsRandom);
        made.sealer.seal(kind, &payload, random, &mut file).unwrap();
    }
    let name = layout::log(FileKind::Journal, u64::from(number));
    let on_disk = disk.create(&name).unwrap();
    on_disk.write_at(0, &file).unwrap();
    let found = Found {
        number: u64::from(number),
        name,
        len: file.len() as u64,
        open: format::open(&made.prefix, &Encryption::None).unwrap(),
    };
    (found, made.sealer.link())
}

#[test]
fn a_log_that_does_not_fit_what_is_before_or_behind_it_is_damage() {
    type Change = fn(&mut Link);
    let (same, chain, beyond): (Change, Change, Change) = (
        |_| {},
        |link| link.chain = [1; 32],
        |link| link.sequence = 99,
    );
    // What the image and the second file name, and what revisions the second one begins with and holds.
    for (image, second, begins, holds, what) in [
        (same, same, 3, &[3][..], ""),
        (same, same, 7, &[7], ""),
        (same, same, 2, &[3], "begins with revision 2, not 3"),
        (same, same, 3, &[4], "revision 4 where 3 was expected"),
        (
            same,
            same,
            3,
            &[3, 0],
            "the log file that follows it is missing",
        ),
        (
            same,
            chain,
            3,
            &[3],
            "not the chain that the next log file names",
        ),
        (
            same,
            beyond,
            3,
            &[3],
            "before the place that the file behind it names",
        ),
        (chain, same, 3, &[3], "not the chain that the image names"),
        (
            beyond,
            same,
            3,
            &[3],
            "ends before the place that the image names",
        ),
        (
            beyond,
            beyond,
            3,
            &[3],
            "before the place that the file behind it names",
        ),
        // Without a second file.
        (same, same, 0, &[2], ""),
        (
            beyond,
            same,
            0,
            &[2],
            "before the place that the file behind it names",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        let (first, mut end) = journal(&disk, 1, 1, &[1, 2], Link::default());
        second(&mut end);
        let next = (begins > 0).then(|| journal(&disk, 2, begins, holds, end).0);
        // An image at revision 0, which names the beginning of the log.
        let header = &first.open.header;
        let mut start = Link {
            file: header.file,
            sequence: 0,
            chain: header.hash(),
        };
        image(&mut start);
        let mut state = Recovered::empty(1);
        let mut far = Far {
            read: 0,
            total: 0,
            tell: &mut |_, _| {},
        };
        let logs = [Some(first), next].into_iter().flatten().collect();
        let done = replay_chain(&mut state, &disk, logs, Some(start), &mut far);
        match done {
            Ok(clean) => {
                assert!(what.is_empty() && !clean, "{what}");
                assert_eq!(Some(&state.view.revision), holds.last());
            }
            Err(error) => {
                assert_eq!(error.as_code(), Code::Corrupt, "{error:?}");
                assert!(
                    !what.is_empty() && error.message().contains(what),
                    "{error:?}"
                );
            }
        }
    }
}

#[test]
fn a_listed_file_that_is_gone_is_another_owners_work() {
    let dir = tempfile::tempdir().unwrap();
    let disk = OsDisk::open(dir.path()).unwrap();
    assert!(reopen(&disk, "gone").err().unwrap().is(Code::Locked));
}
