//! Clock and randomness, injected so that a simulation replays from a seed.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::crypto::{OsRandom, Random};

/// A source of time.
pub trait Clock: Send + Sync {
    /// Wall-clock time: milliseconds since 1970; 0 if before. Read once, when a store is opened.
    fn wall_ms(&self) -> u64;
    /// Time since some fixed point; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// What a store takes from the world besides its disk.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Keys, nonces and ids.
    pub random: Arc<dyn Random>,
}

impl Env {
    /// The operating system's clock and randomness.
    pub fn system() -> Env {
        Env {
            clock: Arc::new(SystemClock::default()),
            random: Arc::new(OsRandom),
        }
    }
}
