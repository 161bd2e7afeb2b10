//! Two processes that both think that the store is theirs.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{History, STRATEGIES, counted, random, rounds};
use crate::sidecar::{Place, Written, load};

const PATIENCE: Duration = Duration::from_secs(20);

/// A worker is stopped under load, its lock is taken away (`LOCK` is removed, as a broken mount would), and another opens the
/// store. When the first goes on, it may report what it had already made durable, and that the second has found; nothing else.
#[test]
fn an_owner_that_was_overtaken_acknowledges_nothing() {
    for strategy in STRATEGIES {
        overtaken(strategy);
    }
}

fn overtaken(strategy: &'static str) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data");
    let mut history = History::new(&dir, strategy);
    let mut random = random(3);
    let count = rounds(50);
    let (mut late, mut refused) = (0, 0);
    for round in 0..count {
        let mut first = history.worker(0, &[]);
        assert!(first.until("ack", random.usize(1..40)), "{:?}", first.lines);
        first.stop();
        let known = first.lines.len();
        history.hear(&first.lines);
        std::fs::remove_file(dir.join("LOCK")).unwrap();
        let mut second = history.worker(0, &[]);
        assert!(second.until("open", 1), "round {round}: {:?}", second.lines);
        let mut found = History::new(&dir, strategy);
        found.hear(&second.lines);
        second.until("ack", random.usize(1..20));
        first.signal(Signal::CONT);
        // It ends by itself, as each of its writers is told.
        while first.until("", 1) {}
        for line in &first.lines[known..] {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["ack", writer, word] => {
                    let (n, _) = word.split_once(':').unwrap();
                    let writer: usize = writer.parse().unwrap();
                    assert!(
                        n.parse::<u64>().unwrap() <= found.acks[writer].n,
                        "round {round}: {line}"
                    );
                    late += 1;
                }
                ["end", "fenced" | "outcome-unknown" | "poisoned"] => refused += 1,
                _ => panic!("round {round}: {line}"),
            }
        }
        second.until("ack", random.usize(1..20));
        second.child.kill().unwrap();
        history.learn(second);
    }
    history.finish();
    assert!(refused > count, "{refused}");
    counted(&format!(
        "owners overtaken: {count} ({strategy}), their writes refused: {refused}, reported late and there: {late}"
    ));
}

/// Two sidecars on one volume: the second waits, and takes over what the first had acknowledged.
#[test]
fn a_second_sidecar_waits_for_the_first() {
    let place = Place::new();
    let count = rounds(10);
    let mut writers = vec![Written::new(0), Written::new(1)];
    let mut first = place.start("0.sock", &[]);
    assert!(first.ready(PATIENCE));
    for round in 0..count {
        let second = place.start(&format!("{}.sock", round + 1), &[]);
        assert!(
            !load(&first, &mut writers, Duration::from_millis(40)),
            "round {round}: a write was refused"
        );
        // It tries to open the store soon after it listens.
        let began = Instant::now();
        let answer = loop {
            let mut connection = second.connection_within(PATIENCE);
            let answer = connection.put("stolen", b"1").unwrap();
            if !answer.is("starting") || began.elapsed() > PATIENCE {
                break answer;
            }
        };
        assert!(
            !answer.done() && answer.is("locked"),
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        // Killed while both of its writers write.
        let killed = std::thread::scope(|scope| {
            let pid = Pid::from_child(&first.child);
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(10));
                kill_process(pid, Signal::KILL).unwrap();
            });
            load(&first, &mut writers, PATIENCE)
        });
        assert!(killed);
        assert!(
            second.ready(PATIENCE),
            "round {round}: the second does not take over"
        );
        let mut connection = second.connection();
        assert_eq!(connection.get("stolen"), None);
        for written in &mut writers {
            written.check(&mut connection);
            // Known from here on, as it is there or is written again.
            if let Some(n) = written.unknown.take() {
                written.next = n;
            }
        }
        first = second;
    }
    counted(&format!(
        "sidecars that took over from a killed one: {count}"
    ));
}
