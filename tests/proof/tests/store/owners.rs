//! Two processes that both think that the store is theirs.

use rustix::process::Signal;

use crate::harness::{History, counted, random, rounds};

/// A worker is stopped under load, its lock is taken away (`LOCK` is removed, as a broken mount would), and another opens the
/// store. When the first goes on, it may report what it had already made durable, and that the second has found; nothing else.
#[test]
fn an_owner_that_was_overtaken_acknowledges_nothing() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data");
    let mut history = History::new(&dir);
    let mut random = random(3);
    let count = rounds(100);
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
        let mut found = History::new(&dir);
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
        "owners overtaken: {count}, their writes refused: {refused}, reported late and there: {late}"
    ));
}
