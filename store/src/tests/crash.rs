//! What a power loss, and what damage leaves, in single cases; [`super::explore`] sweeps.

use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Fault, Files, Keep, SimDisk};
use super::sim::{Model, Sim};
use super::states;
use super::syncs::SyncKind;
use super::workload::{quick, run};
use crate::format::Lineage;
use crate::layout;
use crate::task::Running;
use crate::{Batch, Code, Durability, Finding};

#[test]
fn with_an_interval_a_power_loss_leaves_a_prefix_and_a_new_lineage() {
    let mut options = quick();
    options.durability = Durability::INTERVAL;
    let mut lost = 0;
    for call in 1..60 {
        let disk = SimDisk::default();
        disk.arm(call, Fault::PowerLoss);
        let Ok(mut sim) = Sim::open(&disk, options.clone(), 1) else {
            continue;
        };
        let lineage = sim.engine.seat.lineage;
        let mut states = vec![Model::new()];
        // Groups acknowledged more than an interval ago.
        let mut safe = 0;
        for n in 0..100_usize {
            let mut model = states.last().unwrap().clone();
            model.insert(vec![1, u8::try_from(n % 7).unwrap()], vec![0; 3000]);
            model.insert(b"n".to_vec(), n.to_string().into_bytes());
            let batch = Batch::new()
                .set(vec![1, u8::try_from(n % 7).unwrap()], vec![0; 3000])
                .set("n", n.to_string());
            if sim.run(batch).is_err() {
                break;
            }
            states.push(model);
            sim.clock.advance(10);
            if n >= 11 {
                safe = n - 11;
            }
            if disk.is_off() {
                break;
            }
        }
        let given_out = sim.revision();
        drop(sim);
        for keep in [Keep::Nothing, Keep::Everything, Keep::Some(call)] {
            let sim = Sim::open(&disk.power_loss(keep), options.clone(), 2).unwrap();
            let at = states
                .iter()
                .rposition(|state| *state == sim.content())
                .unwrap_or_else(|| panic!("call {call}: not a prefix"));
            assert!(at >= safe, "call {call}: lost more than the interval");
            lost += states.len() - 1 - at;
            assert_ne!(sim.engine.seat.lineage, lineage, "old ETags must not match");
            assert!(sim.engine.next > given_out + (1 << 31), "nor old revisions");
        }
    }
    assert!(lost > 0, "the test loses something");
}

#[test]
fn a_clean_close_keeps_the_lineage_with_an_interval_too() {
    let mut options = quick();
    options.durability = Durability::INTERVAL;
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, options.clone(), 1).unwrap();
    let lineage: Lineage = sim.engine.seat.lineage;
    sim.run(Batch::new().set("a", "1")).unwrap();
    sim.engine.close().unwrap();
    let sim = Sim::open(&disk, options, 2).unwrap();
    assert_eq!((sim.engine.seat.lineage, sim.engine.next), (lineage, 2));
}

#[test]
fn a_failed_open_does_not_forget_that_the_last_owner_acknowledged_early() {
    let mut interval = quick();
    interval.durability = Durability::INTERVAL;
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, interval, 1).unwrap();
    let lineage = sim.engine.seat.lineage;
    sim.run(Batch::new().set("a", "never written")).unwrap();
    drop(sim);
    for call in 1.. {
        let disk = disk.restart();
        disk.arm(call, Fault::ErrorOnce);
        let failed = Sim::open(&disk, quick(), 2).is_err();
        if disk.calls() < call {
            assert!(call > 10, "an open calls the disk");
            break;
        }
        disk.disarm();
        let sim = Sim::open(&disk, quick(), 3).unwrap();
        let found = sim.engine.seat.lineage;
        assert_ne!(found, lineage, "call {call}, failed: {failed}");
    }
}

/// A store of two journals and an image, closed.
fn closed() -> (SimDisk, Model) {
    let disk = SimDisk::default();
    let trace = run(&disk, &quick(), 4);
    trace.sim.unwrap().engine.close().unwrap();
    (disk, trace.states.last().unwrap().clone())
}

#[test]
fn a_missing_file_is_an_integrity_error_never_an_empty_store() {
    use crate::Disk;
    let (disk, content) = closed();
    let undamaged = disk.restart();
    let sim = Sim::open(&undamaged, quick(), 1).unwrap();
    assert!(sim.content() == content);
    // What an open removes was of no value: a spare, and what a fold had not yet removed.
    // What is kept for watchers is not needed either.
    let older: Vec<&String> = sim.engine.older.iter().map(|file| &file.name).collect();
    let past: Vec<&String> = sim.engine.ended().map(|file| &file.name).collect();
    let kept = undamaged.list().unwrap();
    let names = disk.list().unwrap();
    let needed = names
        .iter()
        .filter(|name| kept.contains(name) && (!past.contains(name) || older.contains(name)));
    let mut checked = 0;
    for name in needed {
        let disk = disk.restart();
        disk.remove(name).unwrap();
        let error = Sim::open(&disk, quick(), 1).err();
        let error = error.unwrap_or_else(|| panic!("{name} was missing, and nobody noticed"));
        assert!(error.is(Code::Corrupt), "{name}: {error:?}");
        checked += 1;
    }
    assert!(checked >= 3, "{names:?}");
}

#[track_caller]
fn refused(disk: &SimDisk, why: &str) {
    let error = Sim::open(disk, quick(), 1).err().expect("it is refused");
    assert!(error.is(Code::Corrupt), "{error:?}");
    assert!(error.message().contains(why), "{error:?}");
}

/// The name of the only image.
fn image_of(disk: &SimDisk) -> String {
    use crate::Disk;
    let mut names = disk.list().unwrap().into_iter();
    names.find(|name| name.starts_with("image-")).unwrap()
}

#[test]
fn an_image_that_is_not_whole_or_not_the_one_it_is_named_is_refused() {
    use crate::Disk;
    let (disk, _) = closed();
    let image = image_of(&disk);
    let revision: u64 = image.trim_start_matches("image-").parse().unwrap();
    for named in [revision - 1, revision + 1] {
        let renamed = disk.restart();
        renamed.rename(&image, &layout::image(named)).unwrap();
        refused(&renamed, "not the one it is named");
    }
    let cut = disk.restart();
    cut.edit(&image, |bytes| bytes.truncate(bytes.len() - 512));
    refused(&cut, "its closing frame");
}

#[test]
fn an_image_of_a_twin_with_other_content_is_refused() {
    use crate::Disk;
    let twin = |value: u8| {
        let disk = SimDisk::default();
        let mut sim = Sim::open(&disk, quick(), 1).unwrap();
        sim.run(Batch::new().set("a", vec![value; 100])).unwrap();
        // The log goes on in the same journal behind it.
        disk.create(layout::SUSPECT).unwrap();
        sim.engine.rewrite().unwrap();
        disk
    };
    let (disk, other) = (twin(1), twin(2));
    let (image, content) = (image_of(&disk), other.content(&image_of(&other)));
    disk.edit(&image, |bytes| *bytes = content);
    refused(&disk, "not the chain that the image names");
}

#[test]
fn a_journal_that_was_handed_over_to_cannot_go_missing() {
    use crate::Disk;
    let disk = SimDisk::default();
    let mut options = quick();
    options.max_disk = 1 << 30;
    let mut sim = Sim::open(&disk, options.clone(), 1).unwrap();
    for n in 0..30_u32 {
        let batch = Batch::new().set(n.to_string(), vec![1; 50_000]);
        sim.run(batch).unwrap();
    }
    assert_eq!((sim.engine.gauges.folds, sim.engine.older.len()), (0, 1));
    let last = sim.engine.journal.as_ref().unwrap().name.clone();
    sim.engine.close().unwrap();
    disk.remove(&last).unwrap();
    let error = Sim::open(&disk, options, 2).err().unwrap();
    assert!(error.is(Code::Corrupt), "{error:?}");
}

/// Whether a journal that was handed over to is missed when it is gone after a power loss.
fn missed(broken: Option<SyncKind>) -> bool {
    use crate::Disk;
    let disk = SimDisk::default();
    if let Some(kind) = broken {
        disk.break_sync(kind);
    }
    let mut sim = Sim::open(&disk, quick(), 1).unwrap();
    let first = sim.engine.number;
    while sim.engine.older.is_empty() {
        let batch = Batch::new().set("a", vec![1; 20_000]);
        sim.run(batch).unwrap();
    }
    assert!(sim.engine.gauges.folds == 0 && sim.engine.number > first);
    let last = sim.engine.journal.as_ref().unwrap().name.clone();
    let disk = disk.power_loss(Keep::Nothing);
    disk.remove(&last).unwrap();
    match Sim::open(&disk, quick(), 2) {
        Ok(_) => false,
        Err(error) => error.is(Code::Corrupt),
    }
}

#[test]
fn the_hand_over_is_durable_before_the_next_journal_is_written() {
    assert!(missed(None));
    assert!(!missed(Some(SyncKind::HandOver)), "the test sees the sync");
}

/// Without a past, the old image is all there is of what it holds: it stays until the new one is in place.
#[test]
fn a_power_loss_in_a_fold_finds_the_old_image_or_the_new_one() {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, quick(), 1).unwrap();
    let begins = |sim: &Sim| sim.engine.shared.feed.durable().log.first_revision();
    let folding = |sim: &Sim| matches!(sim.engine.running, Some(Running::Image { .. }));
    for n in 0_u32.. {
        if sim.engine.gauges.folds > 0 && begins(&sim) > 1 && folding(&sim) {
            break;
        }
        let key = format!("{}", n % 10);
        let value = vec![n.to_le_bytes()[0]; 20_000];
        sim.run(Batch::new().set(key, value)).unwrap();
    }
    let seen: Arc<Mutex<Vec<Files>>> = Arc::default();
    let log = seen.clone();
    disk.watch(move |files| log.lock().push(files.clone()));
    let (model, folds) = (sim.content(), sim.engine.gauges.folds);
    while sim.engine.gauges.folds == folds {
        sim.engine.tick();
    }
    let seen = std::mem::take(&mut *seen.lock());
    assert!(
        seen.len() > 3,
        "created, written, named, the old one removed"
    );
    for (at, files) in seen.iter().enumerate() {
        for keep in [
            Keep::Nothing,
            Keep::Everything,
            Keep::Some(1),
            Keep::Some(2),
        ] {
            let left = disk.with_files(states::after(files, keep));
            let sim = Sim::open(&left, quick(), 2)
                .unwrap_or_else(|e| panic!("change {at}, {keep:?}: {e:?}"));
            assert!(sim.content() == model, "change {at}, {keep:?}");
        }
    }
}

/// Whether a store that was closed well is known to be so after a power loss.
fn closed_well(broken: Option<SyncKind>) -> bool {
    let mut options = quick();
    options.durability = Durability::INTERVAL;
    let disk = SimDisk::default();
    if let Some(kind) = broken {
        disk.break_sync(kind);
    }
    let mut sim = Sim::open(&disk, options.clone(), 1).unwrap();
    let lineage = sim.engine.seat.lineage;
    sim.run(Batch::new().set("a", "1")).unwrap();
    sim.engine.close().unwrap();
    let sim = Sim::open(&disk.power_loss(Keep::Nothing), options, 2).unwrap();
    assert!(sim.content().contains_key(&b"a"[..]));
    sim.engine.seat.lineage == lineage
}

#[test]
fn a_close_is_durable_when_it_has_returned() {
    assert!(closed_well(None));
    assert!(
        !closed_well(Some(SyncKind::Close)),
        "the test sees the sync"
    );
}

#[test]
fn a_flipped_bit_is_an_integrity_error_or_harmless() {
    use crate::Disk;
    let (disk, content) = closed();
    let mut refused = 0;
    for name in disk.list().unwrap() {
        let bytes = disk.content(&name);
        let ends = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        for at in (0..=ends).step_by(997) {
            let disk = disk.restart();
            disk.edit(&name, |bytes| bytes[at] ^= 0x10);
            match Sim::open(&disk, quick(), 1) {
                Err(error) => {
                    let known = [Code::Corrupt, Code::UnsupportedVersion, Code::KeyMissing];
                    assert!(
                        known.contains(&error.as_code()),
                        "{name} at {at}: {error:?}"
                    );
                    refused += 1;
                }
                Ok(sim) => assert!(sim.content() == content, "{name} at {at}"),
            }
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn a_torn_last_frame_is_dropped_at_every_cut() {
    use crate::Disk;
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, quick(), 1).unwrap();
    sim.run(Batch::new().set("a", vec![1; 700])).unwrap();
    let name = disk
        .list()
        .unwrap()
        .into_iter()
        .find(|n| n.starts_with("journal-"))
        .unwrap();
    let before = disk.content(&name);
    sim.run(Batch::new().set("a", vec![2; 1200])).unwrap();
    drop(sim);
    let after = disk.content(&name);
    let start = before.iter().zip(&after).position(|(a, b)| a != b).unwrap();
    let end = after.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for cut in (start..end).step_by(37).chain([start, end - 1]) {
        let disk = disk.restart();
        disk.edit(&name, |bytes| bytes[cut..].fill(0));
        let sim = Sim::open(&disk, quick(), 2).unwrap();
        assert_eq!(sim.content()[&b"a"[..]], vec![1; 700], "cut at {cut}");
        let findings = &sim.engine.shared.findings;
        if cut > start {
            assert!(
                matches!(&findings[..], [Finding::TornTail { file, offset, .. }]
                    if *file == name && *offset == start as u64),
                "cut at {cut}: {findings:?}"
            );
        } else {
            assert!(findings.is_empty(), "{findings:?}");
        }
        let sim = Sim::open(&disk, quick(), 3).unwrap();
        assert_eq!(sim.content()[&b"a"[..]], vec![1; 700], "and stays dropped");
        assert!(sim.engine.shared.findings.is_empty(), "told once");
    }
}

#[test]
fn a_damaged_key_slot_is_told() {
    use crate::Disk;
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, super::options(), 1).unwrap();
    sim.run(Batch::new().set("a", "1")).unwrap();
    drop(sim);
    let names = disk.list().unwrap();
    let name = names.iter().find(|n| n.starts_with("journal-")).unwrap();
    disk.edit(name, |bytes| bytes[8192 + 100] ^= 1);
    let sim = Sim::open(&disk, super::options(), 2).unwrap();
    let told = [Finding::DamagedKeySlot { file: name.clone() }];
    assert_eq!(sim.engine.shared.findings, told);
    assert!(told[0].to_string().contains(name));
}

#[test]
fn an_owner_that_was_overtaken_acknowledges_nothing() {
    let disk = SimDisk::default();
    let mut first = Sim::open(&disk, quick(), 1).unwrap();
    first.run(Batch::new().set("a", "1")).unwrap();
    let mut second = Sim::open(&disk, quick(), 2).unwrap();
    let error = first.run(Batch::new().set("a", "lost")).unwrap_err();
    assert!(error.is(Code::OutcomeUnknown), "{error:?}");
    assert!(
        first
            .run(Batch::new().set("a", "lost"))
            .unwrap_err()
            .is(Code::Fenced)
    );
    second.run(Batch::new().set("b", "2")).unwrap();
    drop((first, second));
    let third = Sim::open(&disk, quick(), 3).unwrap();
    assert_eq!(third.content()[&b"a"[..]], b"1");
    assert_eq!(third.content()[&b"b"[..]], b"2");
}
