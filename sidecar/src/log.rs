//! The log: JSON lines (or text) on stderr, never a key of the store or a value.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::flags::LogFormat;

/// Reads a filter: a level, and levels of single targets, as in `info,hyper=debug`.
pub fn parse_filter(filter: &str) -> Result<Targets> {
    Ok(filter.parse()?)
}

/// What the filter lets through of other crates' targets: warnings and errors at most. Their details
/// repeat what clients send, such as a path that h2 finds malformed, and with it a key.
fn capped(filter: &Targets) -> Targets {
    let ours = |target: &str| target.starts_with(OURS);
    let cap = |level: LevelFilter| level.min(LevelFilter::WARN);
    let default = filter.default_level().unwrap_or(LevelFilter::OFF);
    let named = filter.iter().map(|(target, level)| {
        let level = if ours(target) { level } else { cap(level) };
        (target.to_string(), level)
    });
    // The more specific target wins, so what the filter says of ours comes after this.
    Targets::new()
        .with_target(OURS, default)
        .with_targets(named)
        .with_default(cap(default))
}

/// How the targets of this project's crates begin.
const OURS: &str = "codexstore";

/// Starts logging.
pub fn start(filter: &str, format: LogFormat) -> Result<()> {
    let registry = tracing_subscriber::registry().with(capped(&parse_filter(filter)?));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            registry.with(lines).init();
        }
        LogFormat::Text => registry.with(lines).init(),
    }
    Ok(())
}

/// Lets one line a second through, so that what clients cause cannot fill the log.
pub struct Throttle {
    last: Mutex<Option<Instant>>,
    held_back: AtomicU64,
}

impl Throttle {
    /// A throttle that has let nothing through yet.
    pub const fn new() -> Throttle {
        Throttle {
            last: Mutex::new(None),
            held_back: AtomicU64::new(0),
        }
    }

    /// Whether to log now, and how many lines were held back since the last one.
    pub fn pass(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *last = Some(Instant::now());
        Some(self.held_back.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_crates_are_heard_from_warnings_on_whatever_is_asked_for() {
        use tracing::Level;
        let enabled = |filter: &str, target: &str, level| {
            capped(&parse_filter(filter).unwrap()).would_enable(target, &level)
        };
        for filter in ["debug", "trace", "debug,h2=trace", "h2=debug"] {
            assert!(!enabled(filter, "h2::server", Level::DEBUG), "{filter}");
        }
        assert!(enabled("debug", "h2::server", Level::WARN));
        assert!(!enabled("error", "h2::server", Level::WARN));
        assert!(enabled("debug", "codexstore_sidecar::http", Level::DEBUG));
        assert!(enabled(
            "info,codexstore_sidecar=debug",
            "codexstore_sidecar",
            Level::DEBUG
        ));
        assert!(!enabled("info", "codexstore_sidecar", Level::DEBUG));
    }

    #[test]
    fn a_throttle_lets_one_line_a_second_through_and_counts_the_others() {
        let throttle = Throttle::new();
        assert_eq!(throttle.pass(), Some(0));
        assert_eq!(throttle.pass(), None);
        assert_eq!(throttle.pass(), None);
        std::thread::sleep(Duration::from_millis(1010));
        assert_eq!(throttle.pass(), Some(2));
    }
}
