//! How much the sweeps try, and who tells.
//!
//! `CODEXSTORE_TESTS` is `test` in `make test`, and `soak` in `make soak`. Without it, a part that
//! takes seconds.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number for each scale.
pub fn scale(quick: u64, test: u64, soak: u64) -> u64 {
    match std::env::var("CODEXSTORE_TESTS").as_deref() {
        Ok("soak") => soak,
        Ok("test") => test,
        _ => quick,
    }
}

/// Prints a counter past the test harness, which hides what passing tests print.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
}

/// Calls `each` with 0, 1, 2 … on every core, until it returns false. A panic goes on here.
pub fn on_all_cores(each: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| while each(next.fetch_add(1, Ordering::Relaxed)) {});
        }
    });
}
