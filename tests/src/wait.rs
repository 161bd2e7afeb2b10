//! Waiting for a condition, with a deadline and what was seen last.

use std::time::{Duration, Instant};

/// Long enough for a pod to start on a busy machine of two cores.
pub const LONG: Duration = Duration::from_mins(2);
/// Long enough for a controller to notice a change.
pub const SHORT: Duration = Duration::from_mins(1);

const PERIOD: Duration = Duration::from_millis(250);

/// Asks until the answer is Ok, and returns it. An Err says what was seen instead.
///
/// # Panics
/// At the deadline, with `what` and what was seen last.
#[track_caller]
pub fn until<T, E: std::fmt::Display>(
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(seen) if start.elapsed() > deadline => {
                panic!(
                    "{what}: not within {} s; seen last: {seen}",
                    deadline.as_secs()
                )
            }
            Err(_) => std::thread::sleep(PERIOD),
        }
    }
}

/// Asks again and again for `length`: the answer must stay Ok. For what must not happen.
///
/// # Panics
/// At the first Err.
#[track_caller]
pub fn stays<E: std::fmt::Display>(
    what: &str,
    length: Duration,
    mut ask: impl FnMut() -> Result<(), E>,
) {
    let start = Instant::now();
    while start.elapsed() < length {
        if let Err(seen) = ask() {
            panic!(
                "{what}: no longer after {} ms: {seen}",
                start.elapsed().as_millis()
            );
        }
        std::thread::sleep(PERIOD);
    }
}
