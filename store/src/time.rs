//! The store's time: the wall clock at open, then monotonic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::env::Clock;

/// Time that expiry and the log go by: milliseconds since 1970. It never goes back, not even below
/// a time in the log, and a large jump between two opens is not believed until someone says so.
pub(crate) struct StoreTime {
    clock: Arc<dyn Clock>,
    origin: Duration,
    /// Store time at the origin.
    base: AtomicU64,
    /// How much the wall clock was ahead where that was not believed; 0: nothing.
    jump: AtomicU64,
    /// The last that [`StoreTime::next_ms`] gave.
    given: AtomicU64,
}

impl StoreTime {
    /// Starts from the wall clock and the last time in the log, if there is a log.
    pub fn start(clock: Arc<dyn Clock>, last_ms: Option<u64>, max_jump: Duration) -> StoreTime {
        let wall = clock.wall_ms();
        let ahead = last_ms.map_or(0, |last| wall.saturating_sub(last));
        let jumped = u128::from(ahead) > max_jump.as_millis();
        let base = match last_ms {
            Some(last) if jumped => last,
            Some(last) => wall.max(last),
            None => wall,
        };
        StoreTime {
            origin: clock.monotonic(),
            clock,
            base: AtomicU64::new(base),
            jump: AtomicU64::new(if jumped { ahead } else { 0 }),
            given: AtomicU64::new(0),
        }
    }

    /// Now.
    pub fn now_ms(&self) -> u64 {
        let elapsed = self
            .clock
            .monotonic()
            .saturating_sub(self.origin)
            .as_millis();
        self.base
            .load(Ordering::Relaxed)
            .saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// Now, but never the same twice: what is named after it has an order.
    pub fn next_ms(&self) -> u64 {
        let now = self.now_ms();
        let next = |given: u64| now.max(given.saturating_add(1));
        let given = self
            .given
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |g| Some(next(g)));
        next(given.unwrap_or_else(|given| given))
    }

    /// The jump that is not believed.
    pub fn jump_ms(&self) -> Option<u64> {
        Some(self.jump.load(Ordering::Relaxed)).filter(|jump| *jump != 0)
    }

    /// Believes it.
    pub fn accept(&self) {
        let jump = self.jump.swap(0, Ordering::Relaxed);
        // Saturates: a sum that wrapped would make time go back.
        let base = self.base.load(Ordering::Relaxed).saturating_add(jump);
        self.base.fetch_max(base, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A clock that stands until it is moved.
    #[derive(Default)]
    pub struct ManualClock {
        pub wall: AtomicU64,
        pub mono: AtomicU64,
    }

    impl ManualClock {
        pub fn at(wall: u64) -> Arc<ManualClock> {
            Arc::new(ManualClock {
                wall: AtomicU64::new(wall),
                mono: AtomicU64::new(0),
            })
        }

        pub fn advance(&self, ms: u64) {
            self.wall.fetch_add(ms, Ordering::Relaxed);
            self.mono.fetch_add(ms, Ordering::Relaxed);
        }
    }

    impl Clock for ManualClock {
        fn wall_ms(&self) -> u64 {
            self.wall.load(Ordering::Relaxed)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.mono.load(Ordering::Relaxed))
        }
    }

    const JUMP: Duration = Duration::from_secs(1);

    #[test]
    fn time_never_starts_below_the_log_and_ignores_the_wall_afterwards() {
        let clock = ManualClock::at(50);
        let time = StoreTime::start(clock.clone(), Some(100), JUMP);
        assert_eq!(time.now_ms(), 100);
        clock.wall.store(0, Ordering::Relaxed);
        clock.mono.store(7, Ordering::Relaxed);
        assert_eq!(time.now_ms(), 107);
    }

    #[test]
    fn a_jump_is_believed_only_when_accepted() {
        let clock = ManualClock::at(5000);
        let time = StoreTime::start(clock.clone(), Some(100), JUMP);
        assert_eq!((time.now_ms(), time.jump_ms()), (100, Some(4900)));
        time.accept();
        assert_eq!((time.now_ms(), time.jump_ms()), (5000, None));
        let time = StoreTime::start(ManualClock::at(1100), Some(100), JUMP);
        assert_eq!((time.now_ms(), time.jump_ms()), (1100, None));
    }

    #[test]
    fn extreme_clocks_do_not_overflow() {
        let clock = ManualClock::at(u64::MAX);
        let time = StoreTime::start(clock.clone(), None, JUMP);
        clock.mono.store(1000, Ordering::Relaxed);
        assert_eq!(time.now_ms(), u64::MAX);
        let time = StoreTime::start(ManualClock::at(0), Some(u64::MAX), JUMP);
        time.accept();
        assert_eq!(time.now_ms(), u64::MAX);
    }
}
