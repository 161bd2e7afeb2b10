//! What a migration finds changed under it, and errors while what it left is finished.

use std::collections::BTreeSet;

use super::*;
use crate::format::{self, FileSpec, FrameKind, Header, record};
use crate::layout::parse;

/// Bytes before the first frame.
const PREFIX: usize = 3 * format::PAGE;

/// Puts other entries into the newest image, or the one that is being written; all else in it is as it was.
fn forge(disk: &SimDisk) {
    let names: Vec<String> = disk.files().names.into_keys().collect();
    let images = names.iter().filter(|name| name.starts_with("image-"));
    // One that is being written sorts behind the others.
    let Some(name) = images.max() else {
        return;
    };
    disk.edit(name, |bytes| {
        let prefix = bytes.get(..PREFIX);
        let opened = prefix.map(|prefix| format::open(prefix, &Encryption::None));
        if let Some(Ok(opened)) = opened {
            *bytes = forged(&opened.header);
        }
    });
}

/// An image with this header, and another entry.
fn forged(header: &Header) -> Vec<u8> {
    let spec = FileSpec {
        kind: header.kind,
        store: header.store,
        lineage: header.lineage,
        file: header.file,
        epoch: header.epoch,
        first_revision: header.first_revision,
        link: header.link,
        compression: header.compression,
        key_size: KeySize::Aes256,
        created_ms: header.created_ms,
    };
    let random = env(1).random;
    let mut made = format::create(&spec, &Encryption::None, &*random).unwrap();
    let entry = record::EntryRef {
        key: b"forged",
        value: b"value",
        created: 1,
        modified: 1,
        version: 1,
        expires_at: None,
    };
    let mut payload = Vec::new();
    record::put_entry(&mut payload, &entry).unwrap();
    let mut bytes = made.prefix;
    let sealed = made
        .sealer
        .seal(FrameKind::Entries, &payload, &*random, &mut bytes);
    sealed.unwrap();
    made.sealer.close(&*random, &mut bytes).unwrap();
    bytes
}

#[test]
fn an_image_that_is_not_what_was_written_is_noticed_before_the_old_log_goes() {
    let plain = || under(Encryption::None, Strategy::Snapshot);
    let (old, new) = (plain(), plain());
    let (base, _) = prepared(&old);
    let mut logs = base.list().unwrap();
    logs.retain(|name| matches!(parse(name), Name::Log(..)));
    let whole = base.restart();
    migrate(&whole, &old, &new).unwrap();
    let mut noticed = BTreeSet::new();
    for call in 1..=whole.calls() {
        let disk = base.restart();
        let changed = disk.clone();
        disk.pause_at(call, move || forge(&changed));
        let Err(error) = migrate(&disk, &old, &new) else {
            continue;
        };
        for what in [
            "does not read back as it was written",
            "does not hold what the old one did",
        ] {
            if error.message().contains(what) {
                assert!(error.is(Code::Internal), "{call}: {error:?}");
                let left = disk.list().unwrap();
                assert!(
                    logs.iter().all(|log| left.contains(log)),
                    "{call}: {left:?}"
                );
                noticed.insert(what);
            }
        }
    }
    assert_eq!(noticed.len(), 2, "{noticed:?}");
}

#[test]
fn an_error_while_an_open_finishes_a_migration_leaves_what_the_next_one_finishes() {
    let (old, new) = pairs(Strategy::Snapshot).remove(0);
    let (base, content) = prepared(&old);
    // Cut when what was replaced is gone, and no log file of the new store has got its name.
    let unnamed = |disk: &SimDisk| {
        let names = disk.list().unwrap();
        let next = |name: &&String| matches!(parse(name), Name::Next(..));
        names.iter().filter(next).count()
    };
    let whole = base.restart();
    migrate(&whole, &old, &new).unwrap();
    let cut = (1..whole.changes()).rev().map(|call| {
        let disk = base.restart();
        disk.arm(call, Fault::PowerLoss);
        assert!(migrate(&disk, &old, &new).is_err());
        disk.restart()
    });
    let most = cut.take(20).max_by_key(unnamed).unwrap();
    assert!(unnamed(&most) > 1);
    let first = most.restart();
    drop(Sim::open(&first, new.clone(), 1).unwrap());
    let mut said = BTreeSet::new();
    for call in 1..=first.calls() {
        let disk = most.restart();
        disk.arm(call, Fault::ErrorOnce);
        if let Err(error) = Sim::open(&disk, new.clone(), 1) {
            for what in ["rename journal-", "sync the directory:"] {
                if error.message().contains(what) {
                    said.insert(what);
                }
            }
        }
        let store = open(&disk.restart(), &new).unwrap();
        assert_eq!(all(&store), content, "call {call}");
    }
    assert_eq!(said.len(), 2, "{said:?}");
}

#[test]
fn a_migration_of_which_another_owner_takes_the_store_leaves_it_alone() {
    let (old, new) = pairs(Strategy::Snapshot).remove(0);
    let (base, content) = prepared(&old);
    let whole = base.restart();
    migrate(&whole, &old, &new).unwrap();
    let mut fenced = 0;
    for call in (1..=whole.calls()).step_by(5) {
        let disk = base.restart();
        let (other, options) = (disk.clone(), old.clone());
        disk.pause_at(call, move || drop(Sim::open(&other, options, 5)));
        if let Err(error) = migrate(&disk, &old, &new) {
            fenced += u64::from(error.is(Code::Fenced));
        }
        check(&disk.restart(), &old, &new, &content);
    }
    assert!(fenced > 0);
}

#[test]
fn a_claim_without_a_store_is_taken_over_and_is_not_nothing() {
    let (old, new) = pairs(Strategy::Snapshot).remove(0);
    let disk = SimDisk::default();
    let nothing = migrate(&disk, &old, &new).unwrap_err();
    assert!(nothing.is(Code::NotFound), "{nothing:?}");
    crate::layout::claim(&disk, 1).unwrap();
    let done = migrate(&disk, &old, &new);
    assert!(!done.is_err_and(|error| error.is(Code::NotFound)));
}
