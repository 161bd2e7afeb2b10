//! Many threads on a real directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::{Stop, options};
use crate::{Batch, Code, Store, Txn};

/// Tries until it holds, and not for ever.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn concurrent_programs_are_serial_and_readers_see_them_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let increment = |store: &Store| {
        store.run(|txn: &mut Txn<'_>| {
            let old = txn.get(b"n")?.map_or(0, |entry| {
                u64::from_le_bytes(entry.value().try_into().unwrap())
            });
            txn.set(b"n", &(old + 1).to_le_bytes())?;
            txn.set(b"twice", &(2 * (old + 1)).to_le_bytes())?;
            Ok(old + 1)
        })
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // What fails below would wait for the readers for ever.
        let _stopped = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let page = store.scan(&crate::Scan::all()).unwrap();
                    let number = |at: usize| {
                        let entry: &crate::Entry = &page.items[at];
                        u64::from_le_bytes(entry.value().try_into().unwrap())
                    };
                    if page.items.len() == 2 {
                        assert_eq!(2 * number(0), number(1), "a batch is seen whole");
                        assert!(number(0) >= last, "time does not go back");
                        last = number(0);
                    }
                }
            });
        }
        let writers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mine = increment(&store).unwrap();
                        let seen = store.get(b"n").unwrap().unwrap();
                        let seen = u64::from_le_bytes(seen.value().try_into().unwrap());
                        assert!(seen >= mine, "what was answered is read");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
    });
    // The numbers are brought up to date behind an answer, and before the next one.
    store.run(|_: &mut Txn<'_>| Ok(())).unwrap();
    let status = store.status();
    assert_eq!(status.commits, 400);
    assert!(status.groups < 400, "concurrent commits share a sync");
    store.close().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(
        store.get(b"n").unwrap().unwrap().value(),
        400_u64.to_le_bytes()
    );
}

#[test]
fn a_full_queue_refuses_and_every_answer_is_given_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.max_queue = 4;
    let store = Store::open(dir.path(), options).unwrap();
    let (answers, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for n in 0..1000_u32 {
        let (answers, refused) = (answers.clone(), refused.clone());
        store.submit(Batch::new().set(n.to_string(), "x"), move |result| {
            answers.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = result {
                assert!(error.is(Code::Overloaded), "{error:?}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let other = store.clone();
    store.close().unwrap();
    assert_eq!(answers.load(Ordering::Relaxed), 1000);
    let refused = refused.load(Ordering::Relaxed);
    assert!(refused > 0 && other.len() == 1000 - refused);
    other.submit(Batch::new().set("late", "x"), move |result| {
        assert!(result.unwrap_err().is(Code::Closed));
        answers.fetch_add(1, Ordering::Relaxed);
    });
}

#[test]
fn writes_go_on_during_folds_and_all_survive() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.max_disk = 64 << 20;
    let store = Store::open(dir.path(), options.clone()).unwrap();
    thread::scope(|scope| {
        for writer in 0..4_u8 {
            let store = &store;
            scope.spawn(move || {
                let mut value = vec![0; 20_000];
                for n in 0..200_u32 {
                    let mut rng = super::disk::Rng(u64::from(n) << 8 | u64::from(writer));
                    value.fill_with(|| rng.next().to_le_bytes()[0]);
                    store
                        .set(&[writer, (n % 50).to_le_bytes()[0]], &value)
                        .unwrap();
                }
            });
        }
    });
    // One that was under way is taken in when it is done.
    until("a fold", || store.status().folds > 0);
    assert!(store.status().disk_bytes <= 64 << 20);
    let before: Vec<_> = store.scan(&crate::Scan::all()).unwrap().items;
    store.close().unwrap();
    let store = Store::open(dir.path(), options).unwrap();
    let after = store.scan(&crate::Scan::all()).unwrap().items;
    assert_eq!(before.len(), 200);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.unpack(), after.unpack());
    }
}

#[test]
fn the_last_handle_may_be_dropped_in_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let (hand, handle) = std::sync::mpsc::channel::<Store>();
    store.submit(Batch::new().set("a", "1"), move |result| {
        result.unwrap();
        // By now this is the only handle.
        drop(handle.recv().unwrap());
        send.send(()).unwrap();
    });
    hand.send(store).unwrap();
    let patience = std::time::Duration::from_secs(20);
    receive.recv_timeout(patience).expect("the answer returns");
    let deadline = std::time::Instant::now() + patience;
    let store = loop {
        match Store::open(dir.path(), options()) {
            Ok(store) => break store,
            Err(error) => assert!(error.is(Code::Locked), "{error:?}"),
        }
        assert!(std::time::Instant::now() < deadline, "still locked");
        thread::yield_now();
    };
    assert!(store.has(b"a").unwrap());
}

#[test]
fn a_compare_and_set_counts_with_its_size_while_it_waits() {
    use crate::Program;
    let batch = Batch::new()
        .expect("key", crate::Expect::Absent)
        .set("key", vec![0; 1000]);
    assert_eq!(batch.size_hint(), 1003);
}

#[test]
fn an_interval_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.durability = crate::Durability::Interval(std::time::Duration::MAX);
    let error = Store::open(dir.path(), options).err().unwrap();
    assert!(error.is(Code::InvalidArgument), "{error:?}");
}

#[test]
fn a_lone_caller_runs_its_own_program_and_nobody_passes_whoever_waits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let me = thread::current().id();
    // Until it is alone: the committer takes in what the open had prepared beside it.
    until("it runs here", || {
        let alone = store.run(|_: &mut Txn<'_>| Ok(thread::current().id()));
        alone.unwrap() == me
    });
    // One program holds the committer up, a second waits behind it: a caller comes third.
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    store.submit(
        move |_: &mut Txn<'_>| {
            tell.send(()).unwrap();
            gate.recv().unwrap();
            Ok(())
        },
        |result| result.unwrap(),
    );
    told.recv().unwrap();
    store.submit(Batch::new().set("n", "second"), |result| {
        result.unwrap();
    });
    thread::scope(|scope| {
        let third = scope.spawn(|| {
            store.run(|txn: &mut Txn<'_>| {
                let before = txn.get(b"n")?.map(|entry| entry.value().to_vec());
                Ok((before, thread::current().id()))
            })
        });
        // It waits behind the second. What fails here would wait for it for ever.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while store.status().queued < 2 && std::time::Instant::now() < deadline {
            thread::sleep(std::time::Duration::from_millis(1));
        }
        go.send(()).unwrap();
        let own = third.thread().id();
        let (before, ran) = third.join().unwrap().unwrap();
        assert_eq!(before.as_deref(), Some(&b"second"[..]));
        assert_ne!(ran, own, "it ran in the committer");
    });
}

/// Submits a batch that sets `key` to `len` bytes, and says which thread answered.
fn answered_by(store: &Store, key: &'static str, len: usize) -> thread::ThreadId {
    let (tell, told) = std::sync::mpsc::channel();
    store.submit(Batch::new().set(key, vec![7; len]), move |result| {
        result.unwrap();
        tell.send(thread::current().id()).unwrap();
    });
    let patience = std::time::Duration::from_secs(20);
    told.recv_timeout(patience).expect("it is answered")
}

#[test]
fn what_waits_for_the_disk_is_left_to_the_committer_and_what_does_not_is_done_at_once() {
    let me = thread::current().id();
    let dir = tempfile::tempdir().unwrap();
    let always = Store::open(dir.path(), options()).unwrap();
    for _ in 0..50 {
        // However quick syncs are: others may come one by one, and share the next.
        assert_ne!(answered_by(&always, "a", 1), me, "it waits for a sync");
    }

    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.durability = crate::Durability::Interval(std::time::Duration::from_secs(3));
    options.max_disk = 64 << 20;
    let store = Store::open(dir.path(), options).unwrap();
    // But for the moment in which the committer takes in what the open had prepared.
    until("it is done here", || answered_by(&store, "small", 1) == me);
    let large = answered_by(&store, "large", 2 << 20);
    assert_ne!(large, me, "a frame is written, and room made for it");
    assert!(store.has(b"small").unwrap() && store.has(b"large").unwrap());
    // It is answered before the committer has done what is due, and lets go.
    until("it is done here", || answered_by(&store, "small", 1) == me);
}

/// A store whose callers run what they submit themselves, if they may.
fn with_interval(dir: &std::path::Path) -> Store {
    let mut options = options();
    options.durability = crate::Durability::Interval(std::time::Duration::from_secs(3));
    Store::open(dir, options).unwrap()
}

#[test]
fn what_may_take_long_is_left_to_the_committer_however_small_it_is() {
    use crate::Program;
    struct Long(bool);
    impl Program for Long {
        type Output = thread::ThreadId;
        fn run(self, _: &mut Txn<'_>) -> crate::Result<thread::ThreadId> {
            Ok(thread::current().id())
        }
        fn is_brief(&self) -> bool {
            !self.0
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = with_interval(dir.path());
    let ran_by = |long: &[bool]| {
        let (tell, told) = std::sync::mpsc::channel();
        store.submit_all(long.iter().map(|long| {
            let tell = tell.clone();
            (Long(*long), move |ran| tell.send(ran).unwrap())
        }));
        drop(tell);
        let ran: crate::Result<Vec<_>> = told.iter().collect();
        ran.unwrap()
    };
    let me = thread::current().id();
    // But for the moment in which the committer takes in what the open had prepared.
    until("they run here", || ran_by(&[false, false]) == [me, me]);
    assert!(
        !ran_by(&[false, true, false]).contains(&me),
        "they are one group"
    );
    let many = |count: u32| (0..count).fold(Batch::new(), |b, n| b.delete(n.to_string()));
    assert!(many(100).is_brief() && !many(10_000).is_brief());
}

#[test]
fn a_panic_while_a_caller_leads_poisons_the_store_and_spares_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_interval(dir.path());
    let me = thread::current().id();
    // Until this thread leads: the committer takes in what the open had prepared.
    until("it panics here", || {
        store.submit(Batch::new().set("a", "1"), move |_| {
            assert_ne!(thread::current().id(), me, "on purpose");
        });
        store.status().poisoned.is_some()
    });
    let error = store.set(b"b", b"2").unwrap_err();
    assert!(error.is(Code::Poisoned), "{error:?}");
    let (tell, told) = std::sync::mpsc::channel();
    store.submit(Batch::new().set("c", "3"), move |result| {
        tell.send(result.unwrap_err().is(Code::Poisoned)).unwrap();
    });
    assert!(told.recv().unwrap());
    assert!(store.close().is_err());
    // It is as good as new when it is opened again.
    let store = with_interval(dir.path());
    store.set(b"b", b"2").unwrap();
}

#[test]
fn programs_that_come_together_are_one_group_and_run_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let before = store.status().groups;
    let (tell, told) = std::sync::mpsc::channel();
    store.submit_all((0..100_u32).map(|n| {
        let tell = tell.clone();
        let program = move |txn: &mut Txn<'_>| {
            let last = txn.get(b"n")?.map(|entry| entry.value().to_vec());
            txn.set(b"n", &n.to_le_bytes())?;
            Ok(last)
        };
        (program, move |last| tell.send((n, last)).unwrap())
    }));
    for n in 0..100_u32 {
        let (which, last) = told.recv().unwrap();
        let expected = n.checked_sub(1).map(|n| n.to_le_bytes().to_vec());
        assert_eq!((which, last.unwrap()), (n, expected));
    }
    // Numbers are brought up to date behind the answers.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while store.status().groups == before {
        assert!(std::time::Instant::now() < deadline);
    }
    assert_eq!(store.status().groups, before + 1);
}

#[test]
fn what_a_leader_leaves_to_be_done_later_is_done_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.durability = crate::Durability::Interval(std::time::Duration::from_millis(20));
    let store = Store::open(dir.path(), options).unwrap();
    let ttl = crate::SetOptions {
        ttl: Some(std::time::Duration::from_millis(30)),
        keep_ttl: false,
    };
    store.set_with(b"brief", b"x", ttl).unwrap();
    // Nobody writes any more: the committer wakes by itself, syncs, and removes what expired.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while store.status().expired == 0 || store.status().syncs < 2 {
        assert!(std::time::Instant::now() < deadline, "{:?}", store.status());
        thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_program_that_panics_in_a_leader_is_an_error_and_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let failed = store.run(|_: &mut Txn<'_>| -> crate::Result<()> { panic!("on purpose") });
    assert!(failed.unwrap_err().is(Code::Internal));
    store.set(b"a", b"1").unwrap();
    assert!(store.has(b"a").unwrap());
}
