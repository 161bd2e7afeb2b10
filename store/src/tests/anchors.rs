//! A ledger against its anchors: cut at every frame and byte, rolled back to every copy, forked from
//! every copy.

use std::collections::BTreeSet;

use super::disk::SimDisk;
use super::scale::{say, scale};
use super::sim::Sim;
use super::workload::quick;
use crate::format::FRAMES_AT;
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

/// A ledger behind one of its writes.
struct Point {
    disk: SimDisk,
    anchor: Anchor,
    /// The segment that is written to, and where the next frame belongs in it.
    segment: String,
    next: usize,
}

impl Point {
    fn new(disk: &SimDisk, sim: &Sim) -> Point {
        let journal = sim.engine.journal.as_ref().unwrap();
        Point {
            disk: disk.restart(),
            anchor: anchor(sim),
            segment: journal.name.clone(),
            next: usize::try_from(journal.end().0).unwrap(),
        }
    }

    /// Where its last frame ends but for zeros, which an empty place has too.
    fn end(&self) -> usize {
        let bytes = self.disk.content(&self.segment);
        1 + bytes.iter().rposition(|byte| *byte != 0).unwrap()
    }
}

/// A ledger of some owners and segments, behind each write.
fn history(writes: u8) -> Vec<Point> {
    let disk = SimDisk::default();
    let mut points = Vec::new();
    for owner in 0..3 {
        let mut sim = Sim::open(&disk, ledger(), owner).unwrap();
        for n in 0..writes / 3 {
            let value = vec![n; 300 + usize::from(n % 4) * 5_000];
            sim.run(Batch::new().set(vec![n % 7], value)).unwrap();
            points.push(Point::new(&disk, &sim));
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
    for (at, Point { disk: copy, .. }) in points.iter().enumerate() {
        let fork = copy.restart();
        let mut sim = Sim::open(&fork, ledger(), 50).unwrap();
        for n in 0..=points.len() - at {
            let value = vec![1; 50 + n];
            sim.run(Batch::new().set("other", value)).unwrap();
        }
        let reached = sim.revision();
        drop(sim);
        for (later, Point { anchor, .. }) in points.iter().enumerate() {
            if later <= at {
                open(copy, *anchor).unwrap();
                open(&fork, *anchor).unwrap();
                continue;
            }
            let error = open(copy, *anchor).unwrap_err();
            let (from, to) = (points[at].anchor.revision + 1, anchor.revision);
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

/// A cut in a file: the rest of it is gone, or zeros.
fn cut(disk: &SimDisk, name: &str, at: usize, zeros: bool) -> SimDisk {
    let copy = disk.restart();
    copy.edit(name, |bytes| {
        if zeros {
            bytes[at..].fill(0);
        } else {
            bytes.truncate(at);
        }
    });
    copy
}

/// Around the end of each frame in a segment.
fn frame_ends(points: &[Point], segment: &str) -> BTreeSet<usize> {
    let there = points.iter().filter(|point| point.segment == segment);
    let ends = there.flat_map(|point| [point.end(), point.next]);
    let frames = usize::try_from(FRAMES_AT).unwrap();
    ends.chain([frames])
        .flat_map(|end| [end - 1, end, end + 1])
        .collect()
}

#[test]
fn a_ledger_cut_at_any_byte_is_refused_against_its_anchor_and_says_what_is_lost() {
    let points = history(30);
    let last = points.last().unwrap();
    let first = points.iter().position(|p| p.segment == last.segment);
    let first = first.unwrap();
    let step = usize::try_from(scale(509, 13, 1)).unwrap();
    let end = last.end();
    let mut cuts = frame_ends(&points, &last.segment);
    cuts.extend((0..end).step_by(step));
    let (mut refused, mut told) = (0, 0);
    for at in cuts.into_iter().filter(|at| *at < end) {
        for zeros in [false, true] {
            let error = open(&cut(&last.disk, &last.segment, at, zeros), last.anchor).unwrap_err();
            assert!(error.is(Code::Corrupt), "cut at {at}: {error:?}");
            refused += 1;
            if (at as u64) < FRAMES_AT {
                // Without its header nobody knows that it was the last one, and what it held.
                continue;
            }
            // The frames that are whole; one without the zeros at its end may be or not.
            let there = points[first..].iter();
            let whole = there.clone().filter(|point| point.next <= at).count();
            let most = there.filter(|point| point.end() <= at).count();
            let fewest = if zeros { most } else { whole };
            let message = error.to_string();
            let says = |whole: usize| {
                let kept = points[first + whole - 1].anchor.revision;
                let to = last.anchor.revision;
                message.contains(&format!("revisions {} to {to} are lost", kept + 1))
            };
            assert!((fewest..=most).any(says), "cut at {at}: {message}");
            told += 1;
        }
    }
    say(&format!(
        "ledgers cut, refused: {refused}, with the revisions that are lost: {told}"
    ));
}

#[test]
fn a_ledger_cut_in_an_earlier_segment_is_refused_and_names_it() {
    let points = history(30);
    let last = points.last().unwrap();
    let mut earlier: Vec<&str> = points.iter().map(|p| &p.segment[..]).collect();
    earlier.dedup();
    earlier.pop();
    assert!(earlier.len() >= 2, "{earlier:?}");
    let mut refused = 0;
    for segment in earlier {
        let written = points.iter().rfind(|p| p.segment == segment).unwrap();
        let cuts = frame_ends(&points, segment).into_iter();
        for at in cuts.filter(|at| *at < written.end()) {
            for zeros in [false, true] {
                let error = open(&cut(&last.disk, segment, at, zeros), last.anchor).unwrap_err();
                assert!(error.is(Code::Corrupt), "{segment} cut at {at}: {error:?}");
                let message = error.to_string();
                // Without its header it is missing.
                let named = message.contains(segment) || (at as u64) < FRAMES_AT;
                assert!(named, "cut at {at}: {message}");
                refused += 1;
            }
        }
    }
    say(&format!("ledgers cut in the middle, refused: {refused}"));
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
