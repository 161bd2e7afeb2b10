//! One request and its trace.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::HeaderMap;
use opentelemetry::trace::TraceId;

use super::span::{About, Waited};
use super::tracer::{Begun, Tracer};
use super::{Parent, parent};
use crate::metrics::Operation;

tokio::task_local! {
    /// When the committer was asked something for the request that is being worked on, and how long it took.
    static COMMIT: Cell<Option<(Instant, Duration)>>;
}

/// A request, as far as its trace is concerned.
pub struct Traced<'a> {
    parent: Option<Parent>,
    span: Option<(&'a Tracer, Begun)>,
    started: Instant,
    commit: Option<(Instant, Duration)>,
}

impl<'a> Traced<'a> {
    /// A request with this header that came then.
    pub fn begin(tracer: Option<&'a Tracer>, headers: &HeaderMap, started: Instant) -> Traced<'a> {
        let parent = parent(headers);
        let begun = |tracer: &'a Tracer| Some((tracer, tracer.begin(parent)?));
        Traced {
            parent,
            span: tracer.and_then(begun),
            started,
            commit: None,
        }
    }

    /// Goes on with its work, and notes when it waits for the committer.
    pub fn poll<F: Future>(&mut self, work: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.span.is_none() {
            return work.poll(cx);
        }
        COMMIT.sync_scope(Cell::new(self.commit), || {
            let done = work.poll(cx);
            self.commit = COMMIT.with(Cell::get);
            done
        })
    }

    /// Ends its span, if it has one. Returns the trace that the request can be found by.
    pub fn end(
        self,
        took: Duration,
        operation: Operation,
        about: impl FnOnce() -> About,
    ) -> Option<TraceId> {
        // Probes would be most of all there is.
        let probe = operation == Operation::Health && self.parent.is_none();
        if let Some((tracer, begun)) = self.span.filter(|_| !probe) {
            let commit = self.commit.map(|(since, took)| Waited {
                after: since.saturating_duration_since(self.started),
                took,
            });
            tracer.end(begun, took, operation, about(), commit);
            return Some(begun.trace);
        }
        let kept = self.parent.filter(|parent| parent.sampled);
        kept.map(|parent| parent.trace)
    }
}

/// Has the committer decide something: noted for the span of the request whose work this is part of.
pub async fn committing<F: Future>(decided: F) -> F::Output {
    let since = COMMIT.try_with(|_| Instant::now()).ok();
    let decision = decided.await;
    if let Some(since) = since {
        let _ = COMMIT.try_with(|commit| commit.set(Some((since, since.elapsed()))));
    }
    decision
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use super::*;
    use crate::trace::span::Span;

    const ABOUT: About = About::Redis {
        command: None,
        error: None,
    };

    fn headers(flags: &str) -> HeaderMap {
        let value = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        let name = http::HeaderName::from_static("traceparent");
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    async fn work() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        committing(tokio::time::sleep(Duration::from_millis(20))).await;
    }

    async fn run(to: Option<&Tracer>, headers: &HeaderMap, what: Operation) -> Option<TraceId> {
        let started = Instant::now();
        let mut request = Traced::begin(to, headers, started);
        let mut work = pin!(work());
        poll_fn(|cx| request.poll(work.as_mut(), cx)).await;
        request.end(started.elapsed(), what, || ABOUT)
    }

    #[tokio::test]
    async fn a_span_tells_how_long_its_request_waited_for_the_committer() {
        let (tracer, mut waiting, _) = Tracer::new(0);
        let trace = run(Some(&tracer), &headers("01"), Operation::Put).await;
        let span: Span = waiting.try_recv().unwrap();
        assert_eq!(trace, Some(span.begun.trace));
        let (waited, id) = span.commit.unwrap();
        assert_ne!(id, span.begun.span);
        assert!(waited.after >= Duration::from_millis(5), "{waited:?}");
        assert!(waited.took >= Duration::from_millis(20), "{waited:?}");
        assert!(waited.after + waited.took <= span.took, "{span:?}");
    }

    #[tokio::test]
    async fn without_a_collector_or_a_sampled_parent_there_is_no_span() {
        let trace = run(None, &headers("01"), Operation::Put).await;
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace.unwrap().to_string(), id, "for exemplars all the same");
        assert_eq!(run(None, &headers("00"), Operation::Put).await, None);
        let (tracer, mut waiting, _) = Tracer::new(0);
        for headers in [headers("00"), HeaderMap::new()] {
            assert_eq!(run(Some(&tracer), &headers, Operation::Put).await, None);
        }
        assert!(waiting.try_recv().is_err());
    }

    #[tokio::test]
    async fn probes_have_a_span_only_if_their_caller_traces_them() {
        let (tracer, mut waiting, _) = Tracer::new(1_000_000);
        let none = HeaderMap::new();
        assert_eq!(run(Some(&tracer), &none, Operation::Health).await, None);
        assert!(waiting.try_recv().is_err());
        assert!(run(Some(&tracer), &none, Operation::Get).await.is_some());
        let probe = run(Some(&tracer), &headers("01"), Operation::Health).await;
        assert!(probe.is_some());
        assert!(waiting.try_recv().is_ok() && waiting.try_recv().is_ok());
    }
}
