//! Re-encryptions of a running store: what they keep, and what a crash or an error leaves at each call.

mod ends;

use std::collections::BTreeSet;
use std::io::ErrorKind::NotFound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use super::Stop;
use super::disk::{Fault, Keep, SimDisk};
use super::keyring;
use super::rewrap::both;
use super::rotation::Step;
use super::scale::scale;
use super::sim::{Model, Sim};
use super::workload::quick;
use crate::format::{FileId, open_without_key};
use crate::layout::{self, Name};
use crate::log::LogCursor;
use crate::{Batch, Code, Disk, Encryption, Options, Reencrypted, Result, Store, Strategy};

fn options(strategy: Strategy) -> Options {
    let mut options = quick();
    options.max_disk = 8 << 20;
    options.encryption = Encryption::Keyring(Step::Added.keyring());
    options.strategy = strategy;
    options
}

/// Asks for one.
pub fn ask(sim: &Sim) -> Receiver<Result<Reencrypted>> {
    let (answer, waiter) = channel();
    sim.engine.shared.reencryptions.lock().push(answer);
    waiter
}

/// A closed store of several owners, which has folded; one of them was killed.
fn prepared(options: &Options) -> (SimDisk, Model) {
    let disk = SimDisk::default();
    let (mut folds, mut content) = (0, Model::new());
    for owner in 0..3_u8 {
        let mut sim = Sim::open(&disk, options.clone(), u64::from(owner)).unwrap();
        for n in 0..20_u8 {
            let (key, value) = (vec![b'k', n % 5], vec![owner ^ n; 24_000]);
            content.insert(key.clone(), value.clone());
            sim.run(Batch::new().set(key, value)).unwrap();
        }
        folds += sim.engine.gauges.folds;
        if owner != 1 {
            sim.engine.close().unwrap();
        }
    }
    assert!(folds > 0);
    (disk.power_loss(Keep::Everything), content)
}

/// What a run with a re-encryption promised.
struct Run {
    /// What was acknowledged last.
    content: Model,
    /// The same with the write that nobody answered.
    unknown: Option<Model>,
    answer: Option<Result<Reencrypted>>,
    sim: Option<Sim>,
    /// Calls of the disk that changed it before it was asked for.
    before: u64,
    /// What the keyring held at the end.
    step: Step,
}

/// Opens the store, makes another key current, asks for a re-encryption, and writes until it is answered, and a little more,
/// without the old key once it may go.
fn run(disk: &SimDisk, options: &Options, content: &Model) -> Run {
    let mut run = Run {
        content: content.clone(),
        unknown: None,
        answer: None,
        sim: None,
        before: 0,
        step: Step::Added,
    };
    let Ok(mut sim) = Sim::open(disk, options.clone(), 11) else {
        return run;
    };
    run.before = disk.changes();
    let shared = sim.engine.shared.clone();
    let load = |step: Step| shared.reload_keyring(step.keyring());
    load(Step::Promoted).unwrap();
    run.step = Step::Promoted;
    let waiter = ask(&sim);
    let mut more = 3;
    for n in 0..2000_u32 {
        let (key, value) = (
            vec![b'w', n.to_le_bytes()[0] % 3],
            n.to_le_bytes().repeat(200),
        );
        let mut next = run.content.clone();
        next.insert(key.clone(), value.clone());
        if sim.run(Batch::new().set(key, value).actor("ada")).is_err() {
            run.unknown = Some(next);
            break;
        }
        run.content = next;
        match waiter.try_recv() {
            Ok(answer) => run.answer = Some(answer),
            Err(TryRecvError::Empty) => continue,
            Err(TryRecvError::Disconnected) => {}
        }
        if matches!(run.answer, Some(Ok(_))) && load(Step::Retired).is_ok() {
            run.step = Step::Retired;
        }
        more -= 1;
        if more == 0 {
            break;
        }
    }
    run.sim = Some(sim);
    run
}

/// The files that hold data, by what nobody chooses: their ids.
fn files(disk: &SimDisk) -> BTreeSet<FileId> {
    let names = disk.list().unwrap();
    let data = names.iter().filter(|name| {
        matches!(
            layout::parse(name),
            Name::Image(_) | Name::Log(..) | Name::Next(..)
        )
    });
    data.filter_map(|name| {
        let bytes = disk.content(name);
        let open = open_without_key(bytes.get(..12_288)?).ok()?;
        Some(open.header.file)
    })
    .collect()
}

/// All revisions that the log holds, without a gap.
pub fn logged(sim: &Sim) -> Vec<u64> {
    let shared = sim.engine.shared.clone();
    let durable = shared.feed.durable();
    let mut cursor = LogCursor::new(shared, durable.log.first_revision().max(1));
    let mut revisions = Vec::new();
    while let Some(change) = cursor.next().unwrap() {
        revisions.push(change.revision);
    }
    assert_eq!(revisions.last(), Some(&durable.revision));
    assert!(revisions.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    revisions
}

/// What was left opens with the keyring of that moment and holds all that was promised, and nothing else is in the
/// directory. True if the switch was made.
fn check(disk: &SimDisk, options: &Options, run: &Run, old: &BTreeSet<FileId>) -> bool {
    let options = &run.step.of(options);
    let mut sim = Sim::open(disk, options.clone(), 21).unwrap();
    let found = sim.content();
    assert!(
        found == run.content || Some(&found) == run.unknown.as_ref(),
        "what was acknowledged is there"
    );
    let first = logged(&sim)[0];
    if options.strategy == Strategy::Ledger {
        assert_eq!(first, 1, "history is whole");
    }
    let names = disk.list().unwrap();
    assert!(
        !names.iter().any(|name| name.strip_suffix(".tmp").is_some()),
        "{names:?}"
    );
    let there = files(disk);
    let switched = there.is_disjoint(old);
    assert!(
        switched || there.iter().filter(|file| old.contains(file)).count() > 1,
        "the one or the other"
    );
    sim.run(Batch::new().set("after", "all")).unwrap();
    drop(sim);
    let sim = Sim::open(&disk.power_loss(Keep::Nothing), options.clone(), 22).unwrap();
    assert_eq!(sim.content().get(&b"after"[..]), Some(&b"all".to_vec()));
    assert_eq!(logged(&sim)[0], first);
    switched
}

fn both_strategies() -> [Options; 2] {
    [Strategy::Snapshot, Strategy::Ledger].map(options)
}

#[test]
fn every_file_is_under_another_data_key_and_the_rest_is_as_it_was() {
    for options in both_strategies() {
        let (disk, content) = prepared(&options);
        let old = files(&disk);
        let mut before = Sim::open(&disk.restart(), options.clone(), 11).unwrap();
        let history = logged(&before);
        before.engine.close().unwrap();
        // Nothing of the past is let go for lack of space.
        let mut roomy = options.clone();
        roomy.max_disk = 64 << 20;
        let mut run = run(&disk, &roomy, &content);
        let done = run.answer.take().unwrap().unwrap();
        assert!(done.files > 2 && done.bytes > 100_000, "{done:?}");
        let mut sim = run.sim.take().unwrap();
        assert!(sim.content() == run.content);
        assert!(logged(&sim).starts_with(&history), "watchers lose nothing");
        assert!(sim.engine.shared.reencrypting.lock().is_none());
        assert!(files(&disk).is_disjoint(&old));
        // It folds, and is opened, as any.
        sim.engine.close().unwrap();
        let disk = disk.restart();
        let mut sim = Sim::open(&disk, options.clone(), 12).unwrap();
        assert!(sim.content() == run.content);
        let folds = sim.engine.gauges.folds;
        for n in 0..60_u8 {
            sim.run(Batch::new().set(vec![b'z', n % 5], vec![n; 24_000]))
                .unwrap();
        }
        assert!(sim.engine.gauges.folds > folds);
        let content = sim.content();
        sim.engine.close().unwrap();
        let sim = Sim::open(&disk.restart(), options.clone(), 13).unwrap();
        assert!(sim.content() == content);
        assert!(sim.engine.shared.findings.is_empty());
        logged(&sim);
    }
}

/// Loses power at every `step`th change from when it is asked for.
fn sweep(options: &Options, step: u64, broken: Option<&'static str>) -> (u64, u64) {
    let (base, content) = prepared(options);
    if let Some(part) = broken {
        base.break_sync(part);
    }
    let old = files(&base);
    let whole = base.restart();
    let undisturbed = run(&whole, options, &content);
    undisturbed.answer.unwrap().unwrap();
    assert_eq!(undisturbed.step, Step::Retired);
    let (mut states, mut switched) = (0, 0);
    let step = usize::try_from(step).unwrap();
    for call in (undisturbed.before..=whole.changes()).step_by(step) {
        let disk = base.restart();
        disk.arm(call, Fault::PowerLoss);
        let run = run(&disk, options, &content);
        for keep in [Keep::Nothing, Keep::Everything, Keep::Some(call)] {
            states += 1;
            switched += u64::from(check(&disk.power_loss(keep), options, &run, &old));
        }
    }
    println!("crash states of a re-encryption checked: {states}, behind the switch: {switched}");
    (states, switched)
}

#[test]
fn a_power_loss_at_any_call_loses_nothing_of_a_snapshot_store() {
    let (states, switched) = sweep(&options(Strategy::Snapshot), scale(4, 1, 1), None);
    assert!(switched > 3 && switched < states);
}

#[test]
fn a_power_loss_at_any_call_loses_nothing_of_a_ledger() {
    let (states, switched) = sweep(&options(Strategy::Ledger), scale(4, 1, 1), None);
    assert!(switched > 3 && switched < states);
}

#[test]
fn the_sweep_notices_each_sync_that_is_left_out() {
    let options = options(Strategy::Ledger);
    for part in ["ledger-", "image-", "."] {
        let swept = catch_unwind(AssertUnwindSafe(|| sweep(&options, 1, Some(part))));
        assert!(
            swept.is_err(),
            "syncs of {part} could be left out unnoticed"
        );
    }
}

#[test]
fn an_error_at_any_call_loses_nothing() {
    let (mut tried, mut failed) = (0, 0);
    let whole_step = usize::try_from(scale(41, 7, 1)).unwrap();
    for options in both_strategies() {
        let (base, content) = prepared(&options);
        let old = files(&base);
        let whole = base.restart();
        let undisturbed = run(&whole, &options, &content);
        undisturbed.answer.unwrap().unwrap();
        for fault in [Fault::ErrorOnce, Fault::ErrorForEver] {
            for call in (1..=whole.calls()).step_by(whole_step) {
                let disk = base.restart();
                disk.arm(call, fault);
                let run = run(&disk, &options, &content);
                tried += 1;
                failed += u64::from(!matches!(run.answer, Some(Ok(_))));
                disk.disarm();
                check(&disk.restart(), &options, &run, &old);
                check(&disk.power_loss(Keep::Some(call)), &options, &run, &old);
            }
        }
    }
    assert!(failed > tried / 4, "{failed} of {tried}");
}

#[test]
fn what_does_not_fit_is_refused_and_what_a_write_needs_is_given_back() {
    let mut options = options(Strategy::Ledger);
    let (disk, content) = prepared(&options);
    let used = disk.used() as u64;
    options.max_disk = used + (1300 << 10);
    let refused = run(&disk.restart(), &options, &content);
    let error = refused.answer.unwrap().unwrap_err();
    assert!(error.is(Code::DiskFull), "{error}");
    assert!(error.to_string().contains("bytes of"), "{error}");

    // It fits, but not beside what is written then.
    let mut given_up = 0;
    for more in (600_u64..4000).step_by(100) {
        options.max_disk = used + (more << 10);
        let disk = disk.restart();
        let mut sim = Sim::open(&disk, options.clone(), 5).unwrap();
        let waiter = ask(&sim);
        let mut refused = None;
        for n in 0..150_u8 {
            let batch = Batch::new().set(vec![b'f', n], vec![n; 16_000]);
            if let Err(error) = sim.run(batch) {
                assert!(error.is(Code::DiskFull), "{error}");
                refused = Some(n);
                break;
            }
        }
        let answer = waiter.try_recv();
        if let Ok(Err(error)) = &answer {
            assert!(error.is(Code::DiskFull), "{error}");
            given_up += u64::from(error.to_string().contains("given up"));
        }
        assert!(
            refused.is_none() || sim.engine.reencryption.is_none(),
            "a write was refused for the sake of a re-encryption"
        );
        assert!(disk.take_peak() as u64 <= options.max_disk + 4096);
        if matches!(answer, Ok(Err(_))) {
            let names = disk.list().unwrap();
            assert!(
                !names.iter().any(|name| name.strip_suffix(".tmp").is_some()),
                "{names:?}"
            );
        }
        let content = sim.content();
        sim.engine.close().unwrap();
        let sim = Sim::open(&disk.restart(), options.clone(), 6).unwrap();
        assert!(sim.content() == content);
    }
    assert!(given_up > 0);
}

#[test]
fn a_full_file_system_leaves_the_store_as_it_was() {
    let mut refused = 0;
    for options in both_strategies() {
        let (base, content) = prepared(&options);
        let whole = base.restart();
        run(&whole, &options, &content).answer.unwrap().unwrap();
        let (used, peak) = (base.used(), whole.take_peak());
        for part in 1..10 {
            let disk = base.restart();
            disk.set_capacity(used + (peak - used) * part / 10);
            let run = run(&disk, &options, &content);
            let Some(mut sim) = run.sim else { continue };
            assert!(sim.engine.shared.poison().is_none());
            if let Some(Err(error)) = &run.answer {
                assert!(error.is(Code::DiskFull), "{error}");
                refused += 1;
                let names = disk.list().unwrap();
                assert!(
                    !names.iter().any(|name| name.strip_suffix(".tmp").is_some()),
                    "{names:?}"
                );
            }
            let content = sim.content();
            sim.engine.close().unwrap();
            let sim = Sim::open(&disk.restart(), options.clone(), 6).unwrap();
            assert!(sim.content() == content);
        }
    }
    assert!(refused > 2, "{refused}");
}

#[test]
fn a_log_file_that_does_not_verify_ends_it_and_nothing_else() {
    let options = options(Strategy::Ledger);
    let (disk, content) = prepared(&options);
    let mut names = disk.list().unwrap();
    names.retain(|name| matches!(layout::parse(name), Name::Log(..)));
    names.sort();
    disk.edit(&names[0], |bytes| bytes[20_000] ^= 1);
    let mut run = run(&disk, &options, &content);
    let error = run.answer.take().unwrap().unwrap_err();
    assert!(error.is(Code::Corrupt), "{error}");
    let sim = run.sim.take().unwrap();
    assert!(sim.engine.shared.poison().is_none() && sim.content() == run.content);
    let names = disk.list().unwrap();
    assert!(
        !names.iter().any(|name| name.strip_suffix(".tmp").is_some()),
        "{names:?}"
    );
}

#[test]
fn a_running_store_is_sealed_anew_while_it_is_written_and_watched() {
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(strategy);
        options.encryption = Encryption::Keyring(both(["old", "new"]));
        options.max_disk = 1 << 30;
        options.keep_log = 128 << 20;
        let store = Store::open(dir.path(), options.clone()).unwrap();
        for n in 0..300_u32 {
            store
                .set(&(n % 40 + 1).to_le_bytes(), &vec![7; 40_000])
                .unwrap();
        }
        let ids = || -> BTreeSet<FileId> {
            // Who writes has files deleted meanwhile.
            let files = std::fs::read_dir(dir.path()).unwrap();
            let read = files.map(|file| std::fs::read(file.unwrap().path()));
            let there = read.filter(|bytes| !matches!(bytes, Err(e) if e.kind() == NotFound));
            let prefixes =
                there.filter_map(|bytes| bytes.unwrap().get(..12_288).map(<[u8]>::to_vec));
            let opened = prefixes.filter_map(|prefix| open_without_key(&prefix).ok());
            opened.map(|open| open.header.file).collect()
        };
        let old = ids();
        let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let wrote = std::thread::scope(|scope| {
            // What fails below would wait for the writer and the watchers for ever.
            let (stopped, ended) = (Stop(&stop), Stop(&over));
            let writer = scope.spawn(|| {
                let mut n = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    store.set(b"n", &n.to_le_bytes()).unwrap();
                    store
                        .set(&(n % 50 + 100).to_le_bytes(), &vec![8; 9_000])
                        .unwrap();
                    n += 1;
                }
                n
            });
            // One that reads files all the way, and one that is up to date.
            let watchers = [1, store.status().revision].map(|from| {
                let mut watch = store.watch(Some(from), "").unwrap();
                let over = &over;
                scope.spawn(move || {
                    let mut expected = from;
                    loop {
                        let ending = over.load(Ordering::Relaxed);
                        while let Some(change) = watch.next(Duration::from_millis(20)).unwrap() {
                            assert_eq!(change.revision, expected);
                            expected += 1;
                            if expected < 200 {
                                std::thread::sleep(Duration::from_millis(1));
                            }
                        }
                        if ending {
                            return expected;
                        }
                    }
                })
            });
            store.reload_keyring(both(["new", "old"])).unwrap();
            let done = store.reencrypt().unwrap();
            assert!(done.files > 2 && done.bytes > 1 << 20, "{done:?}");
            let between = ids();
            assert!(between.is_disjoint(&old));
            assert_eq!(store.status().needed_keys.len(), 1);
            store.reload_keyring(keyring("new", 2)).unwrap();
            // Again, and one that is asked for behind it.
            store.reencrypt().unwrap();
            store.reencrypt().unwrap();
            assert!(ids().is_disjoint(&between));
            assert_eq!(store.reencrypting(), None);
            std::thread::sleep(Duration::from_millis(50));
            drop(stopped);
            let wrote = writer.join().unwrap();
            // Only now: the last writes may take the disk longer than a watcher waits for them.
            drop(ended);
            for watcher in watchers {
                let seen = watcher.join().unwrap();
                assert_eq!(seen, store.status().revision + 1);
            }
            wrote
        });
        assert!(wrote > 0);
        let revision = store.status().revision;
        let closed = store.clone();
        store.close().unwrap();
        assert!(closed.reencrypt().unwrap_err().is(Code::Closed));
        options.encryption = Encryption::Keyring(keyring("new", 2));
        let store = Store::open(dir.path(), options).unwrap();
        assert_eq!(store.status().revision, revision);
        let last = store.get(b"n").unwrap().unwrap();
        assert_eq!(last.value(), (wrote - 1).to_le_bytes());
        if strategy == Strategy::Ledger {
            let changes = store.changes(1, revision).unwrap();
            let changes: Vec<_> = changes.map(Result::unwrap).collect();
            assert_eq!(changes.len() as u64, revision);
        }
    }
}

#[test]
fn a_store_without_encryption_has_nothing_to_be_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options::new(Encryption::None)).unwrap();
    let error = store.reencrypt().unwrap_err();
    assert!(error.is(Code::EncryptionMismatch), "{error}");
    assert_eq!(store.reencrypting(), None);
}

#[test]
fn an_image_that_holds_too_much_memory_is_given_up_and_no_write() {
    let mut options = options(Strategy::Snapshot);
    let (disk, _) = prepared(&options);
    options.max_disk = 64 << 20;
    let mut given_up = 0;
    for tight in (0..40_u64).map(|n| n * 1_500) {
        let disk = disk.restart();
        let mut sim = Sim::open(&disk, options.clone(), 31).unwrap();
        let memory = sim.engine.memory_used();
        drop(sim);
        options.max_memory = memory + 5_000 + tight;
        sim = Sim::open(&disk, options.clone(), 32).unwrap();
        let waiter = ask(&sim);
        for n in 0..60_u8 {
            // The same keys again: what is replaced is held by the image alone.
            sim.run(Batch::new().set(vec![b'k', n % 5], vec![n; 24_000]))
                .unwrap();
        }
        if let Ok(Err(error)) = waiter.try_recv() {
            assert!(error.is(Code::MemoryFull), "{error}");
            given_up += 1;
        }
        options.max_memory = Options::new(Encryption::None).max_memory;
    }
    assert!(given_up > 0);
}
