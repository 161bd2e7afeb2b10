//! How spans are sent: over OTLP/gRPC, in batches, from a thread of its own that is there only with a collector.
//!
//! The SDK's own batch processor is not used: it does not tell how many spans it dropped, wants the attributes of a span
//! made where the request is served, and waits without a bound for an export that hangs. Its exporter is: it knows the
//! protocol, the standard's headers, and what is worth another try.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::SpanExporter as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout_at};

use super::span::Span;
use super::tracer::{BATCH, Counts, Tracer};
use crate::settings::{Identity, Tracing};

/// How long spans wait for others to be sent with.
const PAUSE: Duration = Duration::from_secs(1);

/// Most time for a batch, all tries together.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Stack of the thread: it encodes.
const STACK: usize = 512 << 10;

/// The thread that sends.
pub struct Exporting {
    stop: watch::Sender<Option<Instant>>,
    done: oneshot::Receiver<()>,
}

impl Exporting {
    /// Has what waits sent, until that moment at most, and ends it.
    pub async fn stop(self, until: Instant) {
        let _ = self.stop.send(Some(until));
        let _ = timeout_at(until.into(), self.done).await;
    }
}

/// Starts the thread, and begins to trace.
pub fn start(tracing: &Tracing, identity: &Identity) -> Result<(Tracer, Exporting)> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // It looks up the collector's name.
        .max_blocking_threads(1)
        .thread_keep_alive(Duration::from_secs(5))
        .thread_stack_size(STACK)
        .build()
        .context("start the runtime that sends spans")?;
    let exporter = {
        let _entered = runtime.enter();
        let mut exporter = Otlp::builder()
            .with_tonic()
            .with_endpoint(&tracing.endpoint)
            .with_timeout(TIMEOUT)
            .build()
            .context("--otlp-endpoint")?;
        exporter.set_resource(&resource(identity));
        exporter
    };
    let (tracer, waiting, full_batch) = Tracer::new(tracing.per_million);
    let (stop, stopping) = watch::channel(None);
    let (ended, done) = oneshot::channel();
    let sending = Sending {
        exporter,
        waiting,
        full_batch,
        stopping,
        counts: tracer.counts().clone(),
        scope: InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
        away: false,
    };
    std::thread::Builder::new()
        .name("spans".into())
        .stack_size(STACK)
        .spawn(move || run(runtime, sending, ended))
        .context("start the thread that sends spans")?;
    Ok((tracer, Exporting { stop, done }))
}

fn run(runtime: Runtime, sending: Sending, ended: oneshot::Sender<()>) {
    runtime.block_on(sending.run());
    let _ = ended.send(());
    // A name that nobody resolves must not hold up the end.
    runtime.shutdown_background();
}

/// Who sends the spans.
fn resource(identity: &Identity) -> Resource {
    let known = [
        ("k8s.namespace.name", &identity.namespace),
        ("k8s.pod.name", &identity.pod),
        ("k8s.pod.uid", &identity.pod_uid),
        ("service.instance.id", &identity.pod_uid),
        ("codexstore.store.name", &identity.store),
    ];
    let known = known.into_iter().filter(|(_, value)| !value.is_empty());
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attribute(KeyValue::new("service.name", "codexstore"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(known.map(|(name, value)| KeyValue::new(name, value.clone())))
        .build()
}

/// What the thread has.
struct Sending {
    exporter: Otlp,
    waiting: Receiver<Span>,
    full_batch: Arc<Notify>,
    /// Until when there is time, once it is to stop.
    stopping: watch::Receiver<Option<Instant>>,
    counts: Counts,
    scope: InstrumentationScope,
    /// The collector did not take the latest batch.
    away: bool,
}

impl Sending {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.gather(&mut batch).await {
            self.send(&mut batch).await;
        }
        loop {
            self.take(&mut batch);
            if batch.is_empty() {
                return;
            }
            self.send(&mut batch).await;
        }
    }

    /// Waits for spans, then a while for more; false when it is to stop.
    async fn gather(&mut self, batch: &mut Vec<Span>) -> bool {
        let come = tokio::select! {
            biased;
            _ = self.stopping.wait_for(Option::is_some) => return false,
            come = self.waiting.recv_many(batch, BATCH) => come,
        };
        if come < BATCH {
            tokio::select! {
                biased;
                _ = self.stopping.wait_for(Option::is_some) => return false,
                () = self.full_batch.notified() => {}
                () = sleep(PAUSE) => {}
            }
            self.take(batch);
        }
        true
    }

    /// Fills the batch with what is there.
    fn take(&mut self, batch: &mut Vec<Span>) {
        while batch.len() < BATCH
            && let Ok(span) = self.waiting.try_recv()
        {
            batch.push(span);
        }
    }

    async fn send(&mut self, batch: &mut Vec<Span>) {
        if batch.is_empty() {
            return;
        }
        let data: Vec<_> = batch
            .drain(..)
            .flat_map(|span| span.data(&self.scope))
            .collect();
        let count = data.len() as u64;
        let sent = tokio::select! {
            biased;
            () = given_up(&mut self.stopping, self.away) => Err("there was no more time".to_owned()),
            sent = self.exporter.export(data) => sent.map_err(|error| error.to_string()),
        };
        match sent {
            Ok(()) => {
                self.counts.sent.inc_by(count);
                if self.away {
                    tracing::info!("the collector takes spans again");
                }
                self.away = false;
            }
            Err(error) => {
                self.counts.not_sent.inc_by(count);
                if !self.away {
                    tracing::warn!(
                        error,
                        "the collector does not take spans; they are dropped and counted until it does"
                    );
                }
                self.away = true;
            }
        }
    }
}

/// When it is to stop and has no more time for that; at once if the collector is away anyway.
async fn given_up(stopping: &mut watch::Receiver<Option<Instant>>, away: bool) {
    let until = stopping.wait_for(Option::is_some).await;
    let until = until.map_or(None, |until| *until);
    if let Some(until) = until.filter(|_| !away) {
        sleep_until(until.into()).await;
    }
}
