//! Histories of threads that use one store at the same time, over crashes: is there an order that explains them?
//!
//! `PROOF_SCALE` multiplies their number, `PROOF_SEED` draws others. What the threads do follows from the seed; when they do it
//! is up to the machine.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)] // tests

mod record;

use codexstore_proof::history::{Op, Ret};
use record::{Events, Plan, Recorded, is_explained, record, unexplained};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn histories_with_crashes_are_linearizable() {
    let count = 200 * number("PROOF_SCALE", 1);
    let seed = number("PROOF_SEED", 1);
    let (mut calls, mut unknown, mut slowest) = (0, 0, 0);
    for n in 0..count {
        let history = record(seed << 32 ^ n, &Plan::default());
        calls += history.calls();
        unknown += history.unanswered();
        let start = std::time::Instant::now();
        if !is_explained(&history) {
            let part = unexplained(&history).unwrap_or(history);
            panic!("seed {seed}, history {n}: {part}");
        }
        slowest = slowest.max(start.elapsed().as_millis());
    }
    assert!(unknown > count / 4, "the crashes hit nothing: {unknown}");
    println!(
        "histories checked: {count}, calls: {calls}, of unknown outcome: {unknown}, slowest check: {slowest} ms"
    );
}

/// A disk whose syncs do nothing: acknowledged writes are lost, or the next open fails.
#[test]
fn a_disk_that_lies_is_found_out() {
    let found = (0..30).filter(|n| {
        let history = record(77 << 32 ^ n, &Plan { lies: true });
        !history.opens || !is_explained(&history)
    });
    let found = found.count();
    println!("histories on a disk that lies: 30, found out: {found}");
    assert!(found > 20, "{found}");
}

/// A correct history with one answer changed is not correct.
#[test]
fn a_wrong_answer_is_found_out() {
    let (mut tried, mut found) = (0, 0);
    for n in 0..40 {
        let mut history = record(99 << 32 ^ n, &Plan::default());
        // The last read in the last life, which runs alone: nothing can excuse it.
        let last = history
            .events
            .iter_mut()
            .rev()
            .find_map(|event| match event {
                Events::Return(_, Ret::Value(value)) => Some(value),
                _ => None,
            });
        let Some(value) = last else { continue };
        // No write had it.
        *value = Some(1);
        tried += 1;
        found += usize::from(!is_explained(&history));
    }
    println!("histories with a wrong answer: {tried}, found out: {found}");
    assert_eq!(tried, found);
}

/// The model's own rules, by hand: what a crash decides, and what time does.
#[test]
fn the_checker_knows_crashes_and_time() {
    use Events::{Invoke, Return};
    let write = |value, ttl| Op::Write {
        expect: None,
        changes: vec![(0, Some((value, ttl)))],
    };
    let done = |created, revision| Ret::Done {
        created,
        updated: 1 - created,
        deleted: 0,
        revision,
    };
    let history = |events| Recorded {
        events,
        opens: true,
    };
    let lost_then_back = |first: Option<u64>, second: Option<u64>| {
        history(vec![
            Invoke(0, write(5, None)),
            Return(0, Ret::Unknown),
            Invoke(1, Op::Get(0)),
            Return(1, Ret::Value(first)),
            Invoke(1, Op::Get(0)),
            Return(1, Ret::Value(second)),
        ])
    };
    assert!(is_explained(&lost_then_back(None, None)));
    assert!(is_explained(&lost_then_back(Some(5), Some(5))));
    // Lost, and then it happens after all; there, and then it is lost.
    assert!(!is_explained(&lost_then_back(None, Some(5))));
    assert!(!is_explained(&lost_then_back(Some(5), None)));
    let expiry = |wait, value| {
        history(vec![
            Invoke(0, write(5, Some(10))),
            Return(0, done(1, 1)),
            Invoke(0, Op::Wait(wait)),
            Return(0, Ret::Waited),
            Invoke(1, Op::Get(0)),
            Return(1, Ret::Value(value)),
        ])
    };
    assert!(is_explained(&expiry(9, Some(5))) && is_explained(&expiry(10, None)));
    assert!(!is_explained(&expiry(9, None)) && !is_explained(&expiry(10, Some(5))));
    // Answered writes stand in the order of their revisions, even when nobody reads.
    let order = |first, second| {
        history(vec![
            Invoke(0, write(5, None)),
            Return(0, done(1, first)),
            Invoke(0, write(6, None)),
            Return(0, done(0, second)),
        ])
    };
    assert!(is_explained(&order(1, 2)) && !is_explained(&order(2, 1)));
}
