//! Watching: ordered, gapless, resumable, bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::disk::SimDisk;
use super::ledger::open;
use super::sim::Sim;
use super::workload::quick;
use crate::{Batch, ChangeOp, Code, Durability, Store, Watch};

const LONG: Duration = Duration::from_secs(20);

/// The revisions that a watcher gets up to `last`, which must come.
fn revisions(watch: &mut Watch, last: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        seen.push(watch.next(LONG).unwrap().expect("in time").revision);
    }
    seen
}

#[test]
fn a_watcher_gets_every_change_in_order_while_writers_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), super::options()).unwrap();
    let mut watch = store.watch(None, "").unwrap();
    assert!(watch.next(Duration::from_millis(10)).unwrap().is_none());
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..250_u32 {
                    store.set(&[thread], &n.to_le_bytes()).unwrap();
                }
            });
        }
        assert_eq!(revisions(&mut watch, 1000), (1..=1000).collect::<Vec<_>>());
    });
    // Again from the files, and from the middle.
    let mut again = store.watch(Some(1), "").unwrap();
    assert_eq!(revisions(&mut again, 1000).len(), 1000);
    let mut middle = store.watch(Some(500), "").unwrap();
    assert_eq!(revisions(&mut middle, 1000)[0], 500);
    assert_eq!(middle.resume_at(), 1001);
}

#[test]
fn a_change_shows_what_it_did_to_watched_keys_and_who_did_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), super::options()).unwrap();
    store.set(b"app/a", b"1").unwrap();
    let mut watch = store.watch(None, "app/").unwrap();
    store.set(b"other", b"1").unwrap();
    store
        .commit(
            Batch::new()
                .delete("app/a")
                .set("app/b", "2")
                .set("x", "3")
                .actor("ada"),
        )
        .unwrap();
    let change = watch.next(LONG).unwrap().unwrap();
    assert_eq!((change.revision, change.actor.as_deref()), (3, Some("ada")));
    assert_eq!(change.ops.len(), 2);
    assert!(matches!(&change.ops[0], ChangeOp::Delete(key) if &key[..] == b"app/a"));
    assert!(matches!(&change.ops[1], ChangeOp::Set(entry) if entry.value() == b"2"));
    let long = Batch::new().set("a", "1").actor("x".repeat(257));
    assert!(store.commit(long).unwrap_err().is(Code::InvalidArgument));
}

#[test]
fn an_expiry_is_told() {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, quick(), 1).unwrap();
    let mut watch = Watch::new(sim.engine.shared.clone(), None, "".into()).unwrap();
    let ttl = crate::SetOptions {
        ttl: Some(Duration::from_secs(1)),
        keep_ttl: false,
    };
    sim.run(Batch::new().set_with("a", "1", ttl)).unwrap();
    sim.clock.advance(2000);
    sim.engine.tick();
    watch.poll().unwrap().unwrap();
    let change = watch.poll().unwrap().unwrap();
    assert!(matches!(&change.ops[0], ChangeOp::Expire(key) if &key[..] == b"a"));
    assert!(watch.poll().unwrap().is_none());
}

#[test]
fn a_watcher_resumes_after_folds_and_restarts_and_past_that_it_is_told_so() {
    let disk = SimDisk::default();
    let mut options = quick();
    options.max_disk = 16 << 20;
    options.keep_log = 1 << 20;
    let mut folds = 0;
    for seed in 0..4 {
        let mut sim = Sim::open(&disk, options.clone(), seed).unwrap();
        for _ in 0..60 {
            sim.run(Batch::new().set("a", vec![7; 20_000])).unwrap();
        }
        // Long enough for what need not be kept to go.
        for _ in 0..20 {
            sim.clock.advance(1000);
            sim.engine.tick();
        }
        folds += sim.engine.gauges.folds;
        sim.engine.close().unwrap();
    }
    assert!(folds >= 2, "{folds}");
    let store = open(&disk, options);
    let first = store.status().first_revision;
    // At least the last mebibyte of changes, and not everything.
    assert!((2..=188).contains(&first), "{first}");
    let mut watch = store.watch(Some(first), "").unwrap();
    assert_eq!(
        revisions(&mut watch, 240),
        (first..=240).collect::<Vec<_>>()
    );
    let gone = store.watch(Some(first - 1), "").err().unwrap();
    assert!(gone.is(Code::PastGone), "{gone:?}");
    assert!(gone.to_string().contains("revision 240"), "{gone}");
    let future = store.watch(Some(242), "").err().unwrap();
    assert!(future.is(Code::InvalidArgument), "{future:?}");
    store.set(b"a", b"1").unwrap();
    assert_eq!(watch.next(LONG).unwrap().unwrap().revision, 241);
}

#[test]
fn the_past_is_given_up_where_space_is_needed_and_a_slow_watcher_is_told() {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, quick(), 1).unwrap();
    let mut watch = Watch::new(sim.engine.shared.clone(), None, "".into()).unwrap();
    sim.run(Batch::new().set("a", "1")).unwrap();
    assert_eq!(watch.poll().unwrap().unwrap().revision, 1);
    for n in 0..500_u32 {
        sim.run(Batch::new().set(vec![1, n.to_le_bytes()[0] % 8], vec![7; 20_000]))
            .unwrap();
        let peak = disk.take_peak();
        assert!(peak <= 1 << 20, "{peak} bytes");
    }
    let error = watch.poll().unwrap_err();
    assert!(error.is(Code::PastGone), "{error:?}");
    // The latest are in memory.
    let mut late = Watch::new(sim.engine.shared.clone(), Some(480), "".into()).unwrap();
    let mut count = 0;
    while late.poll().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 22);
}

#[test]
fn a_watcher_that_is_slower_than_memory_reads_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), super::options()).unwrap();
    let mut watch = store.watch(None, "").unwrap();
    for n in 0..30_u8 {
        // Past what is kept in memory, again and again, and one that never is.
        let size = if n == 20 { 5 << 20 } else { 1 << 20 };
        store.set(&[n], &vec![n; size]).unwrap();
        if n % 7 == 6 {
            let change = watch.next(LONG).unwrap().unwrap();
            assert_eq!(change.revision, u64::from(n / 7) + 1);
        }
    }
    assert_eq!(revisions(&mut watch, 30), (5..=30).collect::<Vec<_>>());
}

#[test]
fn with_an_interval_a_watcher_sees_what_is_on_disk_only() {
    let disk = SimDisk::default();
    let mut options = quick();
    options.durability = Durability::INTERVAL;
    let mut sim = Sim::open(&disk, options, 1).unwrap();
    let mut watch = Watch::new(sim.engine.shared.clone(), None, "".into()).unwrap();
    sim.run(Batch::new().set("a", "1")).unwrap();
    assert!(watch.poll().unwrap().is_none());
    sim.clock.advance(200);
    sim.engine.tick();
    assert_eq!(watch.poll().unwrap().unwrap().revision, 1);
}

#[test]
fn a_waker_is_called_and_a_close_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), super::options()).unwrap();
    let mut watch = store.watch(None, "").unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let own = calls.clone();
    watch.wake_with(move || {
        own.fetch_add(1, Ordering::SeqCst);
    });
    store.set(b"a", b"1").unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    store.close().unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert_eq!(watch.next(LONG).unwrap().unwrap().revision, 1);
    assert!(watch.next(LONG).unwrap_err().is(Code::Closed));
}

/// What a store went through, and a watcher that follows it through folds, kills and restarts.
fn follow(options: &crate::Options, seed: u64) {
    let mut rng = super::disk::Rng(seed);
    let disk = SimDisk::default();
    // Of each revision: the key, and its new value.
    let mut truth: Vec<(u8, Option<u8>)> = Vec::new();
    let mut next = 1;
    for open in 0..5 {
        let mut sim = Sim::open(&disk, options.clone(), seed * 100 + open).unwrap();
        let mut watch = match Watch::new(sim.engine.shared.clone(), Some(next), "".into()) {
            Ok(watch) => watch,
            Err(error) if error.is(Code::PastGone) => {
                // It fell too far behind, as a snapshot store may say: it starts again.
                assert_eq!(options.strategy, crate::Strategy::Snapshot);
                next = truth.len() as u64 + 1;
                Watch::new(sim.engine.shared.clone(), Some(next), "".into()).unwrap()
            }
            Err(error) => panic!("seed {seed}: {error:?}"),
        };
        for _ in 0..40 {
            let group: Vec<Batch> = (0..=rng.below(3))
                .map(|_| {
                    let key = u8::try_from(rng.below(5)).unwrap();
                    let value = u8::try_from(rng.below(250)).unwrap();
                    let there = truth.iter().rev().find(|(k, _)| *k == key);
                    if value < 50 && there.is_some_and(|(_, value)| value.is_some()) {
                        truth.push((key, None));
                        return Batch::new().delete(vec![key]);
                    }
                    truth.push((key, Some(value)));
                    Batch::new().set(vec![key], vec![value; 1 + 40 * usize::from(value)])
                })
                .collect();
            assert!(sim.group(group).iter().all(Result::is_ok));
            for _ in 0..rng.below(6) {
                let change = match watch.poll() {
                    Ok(Some(change)) => change,
                    Ok(None) => break,
                    Err(error) => panic!("seed {seed}, revision {next}: {error:?}"),
                };
                assert_eq!(change.revision, next, "seed {seed}");
                let (key, value) = truth[usize::try_from(next).unwrap() - 1];
                assert_eq!(change.ops.len(), 1);
                assert_eq!(change.ops[0].key(), [key]);
                match (&change.ops[0], value) {
                    (ChangeOp::Set(entry), Some(value)) => assert_eq!(entry.value()[0], value),
                    (ChangeOp::Delete(_), None) => {}
                    other => panic!("seed {seed}, revision {next}: {other:?}"),
                }
                next += 1;
            }
        }
        if open % 2 == 0 {
            sim.engine.close().unwrap();
        }
    }
}

#[test]
fn whatever_happens_a_watcher_sees_each_revision_once_and_in_order() {
    for seed in 1..12 {
        let mut options = quick();
        options.max_disk = 4 << 20;
        follow(&options, seed);
        options.strategy = crate::Strategy::Ledger;
        options.max_disk = 64 << 20;
        follow(&options, seed);
    }
}
