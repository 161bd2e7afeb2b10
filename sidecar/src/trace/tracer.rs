//! Which requests have a span, and the queue that spans wait in.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Parent;
use super::span::{About, Span, Waited};
use crate::metrics::{Labels, Operation};

/// Spans that may wait. Beyond them a span is dropped and counted; a request never waits.
pub const QUEUE: usize = 2048;

/// Spans that are sent at once.
pub const BATCH: usize = 512;

/// What became of spans.
#[derive(Debug, Clone)]
pub struct Counts {
    /// The collector took them.
    pub sent: Counter,
    /// All others, by reason.
    pub dropped: Family<Labels, Counter>,
    /// They found the queue full.
    pub queue_full: Counter,
    /// The collector did not take them, or was away.
    pub not_sent: Counter,
}

impl Default for Counts {
    fn default() -> Counts {
        let dropped = Family::<Labels, Counter>::default();
        let of = |reason| dropped.get_or_create_owned(&vec![("reason", reason)]);
        Counts {
            sent: Counter::default(),
            queue_full: of("queue_full"),
            not_sent: of("not_sent"),
            dropped,
        }
    }
}

/// A request's span that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub span: SpanId,
    /// The app's span that it is part of.
    pub parent: Option<SpanId>,
}

/// Begins and ends spans.
pub struct Tracer {
    queue: Sender<Span>,
    full_batch: Arc<Notify>,
    counts: Counts,
    /// Requests without a parent that have a span: so many of 2^63.
    share: u128,
    ids: RandomIdGenerator,
}

impl Tracer {
    /// A tracer that keeps so many of a million requests without a parent, what it puts spans in, and what tells that there
    /// are enough for a batch.
    pub fn new(per_million: u32) -> (Tracer, Receiver<Span>, Arc<Notify>) {
        let (queue, waiting) = channel(QUEUE);
        let full_batch = Arc::new(Notify::new());
        let tracer = Tracer {
            queue,
            full_batch: Arc::clone(&full_batch),
            counts: Counts::default(),
            share: (u128::from(per_million) << 63) / 1_000_000,
            ids: RandomIdGenerator::default(),
        };
        (tracer, waiting, full_batch)
    }

    /// What became of spans so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Begins the span of a request, if it is to have one: as its parent says, else as chance does.
    pub fn begin(&self, parent: Option<Parent>) -> Option<Begun> {
        let Some(parent) = parent else {
            return self.root();
        };
        parent.sampled.then(|| Begun {
            trace: parent.trace,
            span: self.ids.new_span_id(),
            parent: Some(parent.span),
        })
    }

    /// Begins the span of a request without a parent, if chance wants it.
    pub fn root(&self) -> Option<Begun> {
        if self.share == 0 {
            return None;
        }
        // The last bits of the id decide, as in OpenTelemetry's own samplers.
        let trace = self.ids.new_trace_id();
        let id = u128::from_be_bytes(trace.to_bytes());
        let chance = (id & u128::from(u64::MAX)) >> 1;
        (chance < self.share).then(|| Begun {
            trace,
            span: self.ids.new_span_id(),
            parent: None,
        })
    }

    /// Ends a span now that has taken so long.
    pub fn end(
        &self,
        begun: Begun,
        took: Duration,
        operation: Operation,
        about: About,
        commit: Option<Waited>,
    ) {
        let now = SystemTime::now();
        let span = Span {
            begun,
            start: now.checked_sub(took).unwrap_or(now),
            took,
            operation,
            about,
            commit: commit.map(|waited| (waited, self.ids.new_span_id())),
        };
        let count = span.count();
        if self.queue.try_send(span).is_err() {
            self.counts.queue_full.inc_by(count);
        } else if self.queue.capacity() == QUEUE - BATCH {
            // Only then, and not for each: waking another thread costs more than a span.
            self.full_batch.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(sampled: bool) -> Parent {
        Parent {
            trace: TraceId::from(7),
            span: SpanId::from(8),
            sampled,
        }
    }

    #[test]
    fn a_request_with_a_parent_has_a_span_as_the_parent_says_whatever_the_ratio_is() {
        for per_million in [0, 500_000, 1_000_000] {
            let (tracer, ..) = Tracer::new(per_million);
            let begun = tracer.begin(Some(parent(true))).unwrap();
            assert_eq!(begun.trace, TraceId::from(7));
            assert_eq!(begun.parent, Some(SpanId::from(8)));
            assert!(begun.span != SpanId::INVALID && begun.span != SpanId::from(8));
            assert_eq!(tracer.begin(Some(parent(false))), None, "{per_million}");
        }
    }

    #[test]
    fn of_requests_without_a_parent_as_many_have_one_as_was_asked_for() {
        for (per_million, least, most) in [
            (0, 0, 0),
            (1_000, 20, 220),
            (250_000, 24_000, 26_000),
            (1_000_000, 100_000, 100_000),
        ] {
            let (tracer, ..) = Tracer::new(per_million);
            let begun: Vec<_> = (0..100_000).filter_map(|_| tracer.begin(None)).collect();
            let count = begun.len();
            assert!((least..=most).contains(&count), "{per_million}: {count}");
            assert!(begun.iter().all(|b| b.parent.is_none()));
            let own: std::collections::HashSet<_> = begun.iter().map(|b| b.trace).collect();
            assert_eq!(own.len(), count, "each begins a trace of its own");
        }
    }

    #[test]
    fn spans_beyond_the_queue_are_counted_and_dropped_and_a_full_batch_is_told() {
        let (tracer, mut waiting, full_batch) = Tracer::new(0);
        let about = About::Redis {
            command: Some("get"),
            error: None,
        };
        let told = || {
            let mut told = std::pin::pin!(full_batch.notified());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            std::future::Future::poll(told.as_mut(), &mut cx).is_ready()
        };
        for n in 0..QUEUE + 10 {
            assert_eq!(told(), n == BATCH, "{n}");
            let begun = tracer.begin(Some(parent(true))).unwrap();
            tracer.end(begun, Duration::ZERO, Operation::Get, about, None);
        }
        assert_eq!(tracer.counts().queue_full.get(), 10);
        let mut all = Vec::new();
        while let Ok(span) = waiting.try_recv() {
            all.push(span);
        }
        assert_eq!(all.len(), QUEUE);
    }
}
