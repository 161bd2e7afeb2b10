//! A ledger against its anchors: cut at every frame and byte, rolled back to every copy, forked from
//! every copy.

use super::disk::SimDisk;
use super::scale::{say, scale};
use super::sim::Sim;
use super::workload::quick;
use crate::{Anchor, Batch, Code, Disk, Error, Options, Strategy};

fn ledger() -> Options {
    let mut options = quick();
    options.strategy = Strategy::Ledger;
    options.max_disk = 4 << 20;
    options
}

fn anchor(sim: &Sim) -> Anchor {
    let durable = sim.engine.shared.feed.durable();
    Anchor {
        store: sim.engine.seat.store,
        epoch: sim.engine.seat.epoch,
        revision: durable.revision,
        link: durable.link,
    }
}

/// A ledger of some owners and segments, with a copy and an anchor behind each write.
fn history(writes: u8) -> Vec<(SimDisk, Anchor)> {
    let disk = SimDisk::default();
    let mut points = Vec::new();
    for owner in 0..3 {
        let mut sim = Sim::open(&disk, ledger(), owner).unwrap();
        for n in 0..writes / 3 {
            let value = vec![n; 300 + usize::from(n % 4) * 5_000];
            sim.run(Batch::new().set(vec![n % 7], value)).unwrap();
            points.push((disk.restart(), anchor(&sim)));
        }
        if owner == 1 {
            sim.engine.close().unwrap();
        }
    }
    points
}

fn open(disk: &SimDisk, anchor: Anchor) -> Result<(), Error> {
    let mut options = ledger();
    options.anchor = Some(anchor);
    Sim::open(&disk.restart(), options, 77).map(drop)
}

#[test]
fn every_rollback_and_every_fork_is_refused_and_says_what_is_lost() {
    let points = history(u8::try_from(scale(18, 75, 180)).unwrap());
    let mut refused = 0;
    for (at, (copy, _)) in points.iter().enumerate() {
        let fork = copy.restart();
        let mut sim = Sim::open(&fork, ledger(), 50).unwrap();
        for n in 0..=points.len() - at {
            let value = vec![1; 50 + n];
            sim.run(Batch::new().set("other", value)).unwrap();
        }
        let reached = sim.revision();
        drop(sim);
        for (later, (_, anchor)) in points.iter().enumerate() {
            if later <= at {
                open(copy, *anchor).unwrap();
                open(&fork, *anchor).unwrap();
                continue;
            }
            let error = open(copy, *anchor).unwrap_err();
            let (from, to) = (points[at].1.revision + 1, anchor.revision);
            let lost = format!("revisions {from} to {to} are lost");
            assert!(error.is(Code::Corrupt), "{error:?}");
            assert!(error.to_string().contains(&lost), "{error}");
            let error = open(&fork, *anchor).unwrap_err();
            assert!(error.is(Code::Corrupt) && reached >= to, "{error:?}");
            assert!(error.to_string().contains("another way"), "{error}");
            refused += 2;
        }
    }
    say(&format!(
        "ledgers rolled back or forked, refused: {refused}"
    ));
}

#[test]
fn a_ledger_cut_at_any_byte_is_refused_against_its_anchor() {
    let points = history(30);
    let (disk, last) = points.last().unwrap();
    let names = disk.list().unwrap();
    // The segment that is written to: behind it there may be a spare.
    let end_of = |name: &String| disk.content(name).iter().rposition(|byte| *byte != 0);
    let used = names.iter().filter(|name| name.starts_with("ledger-"));
    let mut used = used.filter_map(|name| Some((name, end_of(name)?)));
    let (name, end) = used.next_back().unwrap();
    let step = usize::try_from(scale(509, 13, 1)).unwrap();
    let mut refused = 0;
    for cut in (0..=end).step_by(step) {
        for zeros in [false, true] {
            let copy = disk.restart();
            copy.edit(name, |bytes| {
                if zeros {
                    bytes[cut..].fill(0);
                } else {
                    bytes.truncate(cut);
                }
            });
            let error = open(&copy, *last).unwrap_err();
            assert!(error.is(Code::Corrupt), "cut at {cut}: {error:?}");
            refused += 1;
        }
    }
    say(&format!("ledgers cut, refused: {refused}"));
}

/// A copy that is opened again draws another file; one whose random bytes come again does not, and
/// then the chain alone tells the two.
#[test]
fn a_fork_in_a_file_of_the_same_id_is_told_by_its_chain() {
    let fork = |value: u8| {
        let disk = SimDisk::default();
        let mut sim = Sim::open(&disk, ledger(), 1).unwrap();
        for key in 0..3 {
            sim.run(Batch::new().set(vec![key], vec![value; 9]))
                .unwrap();
        }
        let anchor = anchor(&sim);
        drop(sim);
        (disk, anchor)
    };
    let ((one, anchor), (two, other)) = (fork(1), fork(2));
    assert_eq!(anchor.link.file, other.link.file);
    assert_eq!(anchor.link.sequence, other.link.sequence);
    open(&one, anchor).unwrap();
    let error = open(&two, anchor).unwrap_err();
    assert!(error.is(Code::Corrupt), "{error:?}");
}

/// The same of two files of a store: the later one names the earlier one's chain.
#[test]
fn a_log_file_in_the_place_of_one_with_the_same_id_is_told_by_its_chain() {
    let fork = |value: u8| {
        let disk = SimDisk::default();
        for owner in 1..3 {
            let mut sim = Sim::open(&disk, ledger(), owner).unwrap();
            for key in 0..3 {
                sim.run(Batch::new().set(vec![key], vec![value; 9]))
                    .unwrap();
            }
        }
        disk
    };
    let (one, two) = (fork(1), fork(2));
    let names = one.list().unwrap();
    let mut logs = names.iter().filter(|name| name.starts_with("ledger-"));
    let first = logs.next().unwrap();
    assert!(two.list().unwrap().contains(first) && logs.next().is_some());
    assert_ne!(one.content(first), two.content(first));
    Sim::open(&two.restart(), ledger(), 9).unwrap();
    let other = one.content(first);
    two.edit(first, |bytes| *bytes = other);
    let error = Sim::open(&two, ledger(), 9).map(drop).unwrap_err();
    assert!(error.is(Code::Corrupt), "{error:?}");
    assert!(error.to_string().contains("not the chain"), "{error}");
}
