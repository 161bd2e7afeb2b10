//! A process that uses the library directly: `store-worker DIR STRATEGY SEED HOG ACK…`, with one `ACK` (`n:revision`) for each writer.
//!
//! It opens the store in `DIR`, checks it against the acknowledgements, and writes until it is ended. On stdout, a line at a
//! time, each a single write: `open n:revision …` with what it found, then `ack WRITER n:revision`, and at last `end CODE` from
//! a writer whose write failed, or `failed CODE TEXT`, or `wrong TEXT` if the store holds what it must not. `HOG` is MiB of
//! memory to take in each 10 ms.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use codexstore::{Store, Strategy};
use codexstore_proof::work::{self, Ack};

fn say(line: &str) {
    // One write, so that a line is there whole or not at all. A closed pipe: nobody wants to know.
    let _ = std::io::stdout()
        .lock()
        .write_all(format!("{line}\n").as_bytes());
}

fn words(acks: &[Ack]) -> String {
    let words: Vec<String> = acks
        .iter()
        .map(|ack| format!("{}:{}", ack.n, ack.revision))
        .collect();
    words.join(" ")
}

fn parse(word: &str) -> Option<Ack> {
    let (n, revision) = word.split_once(':')?;
    Some(Ack {
        n: n.parse().ok()?,
        revision: revision.parse().ok()?,
    })
}

fn hog(mib: usize) {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; mib << 20]);
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, strategy, seed, mib, acks @ ..] = args.as_slice() else {
        eprintln!("usage: store-worker DIR snapshot|ledger SEED HOG ACK...");
        return ExitCode::from(2);
    };
    let acks: Option<Vec<Ack>> = acks.iter().map(|word| parse(word)).collect();
    let (Ok(seed), Ok(mib), Some(acks)) = (seed.parse(), mib.parse(), acks) else {
        eprintln!("usage: store-worker DIR snapshot|ledger SEED HOG ACK...");
        return ExitCode::from(2);
    };
    let strategy = match strategy.as_str() {
        "ledger" => Strategy::Ledger,
        _ => Strategy::Snapshot,
    };
    let store = match Store::open(Path::new(dir), work::options(strategy, seed)) {
        Ok(store) => store,
        Err(error) => {
            say(&format!("failed {} {error}", error.code()));
            return ExitCode::FAILURE;
        }
    };
    let found = match work::check(&store, &acks) {
        Ok(found) => found,
        Err(what) => {
            say(&format!("wrong {what}"));
            return ExitCode::FAILURE;
        }
    };
    say(&format!("open {}", words(&found)));
    if mib > 0 {
        std::thread::spawn(move || hog(mib));
    }
    std::thread::scope(|scope| {
        for (writer, from) in (0_u64..).zip(&found) {
            let store = &store;
            scope.spawn(move || {
                for n in from.n + 1.. {
                    match store.commit(work::batch(writer, n)) {
                        Ok(done) => say(&format!("ack {writer} {n}:{}", done.revision)),
                        Err(error) => return say(&format!("end {}", error.code())),
                    }
                }
            });
        }
    });
    ExitCode::SUCCESS
}
