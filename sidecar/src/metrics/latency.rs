//! How long requests took, with a trace of one for each bucket where there can be any.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use opentelemetry::trace::TraceId;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::MetricConstructor;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Latency buckets in seconds: a read takes microseconds, a durable write a disk's sync.
const BUCKETS: [f64; 14] = [
    0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5,
    2.5, 10.0,
];

/// How long requests took.
#[derive(Debug, Clone)]
pub enum Latency {
    /// Of a protocol whose requests belong to no trace: it counts with one lock less.
    Plain(Histogram),
    /// With the trace of a request of each bucket.
    Traced(HistogramWithExemplars<Vec<(&'static str, String)>>),
}

impl Latency {
    /// Counts one that took so long, of a trace or of none.
    pub fn observe(&self, seconds: f64, trace: Option<&TraceId>) {
        match self {
            Latency::Plain(histogram) => histogram.observe(seconds),
            Latency::Traced(histogram) => {
                let of = |trace: &TraceId| vec![("trace_id", trace.to_string())];
                histogram.observe(seconds, trace.map(of), trace.map(|_| SystemTime::now()));
            }
        }
    }
}

/// Makes them: traced ones while it is true.
#[derive(Debug, Clone)]
pub struct NewLatency(pub Arc<AtomicBool>);

impl MetricConstructor<Latency> for NewLatency {
    fn new_metric(&self) -> Latency {
        if self.0.load(Ordering::Relaxed) {
            Latency::Traced(HistogramWithExemplars::new(BUCKETS.into_iter()))
        } else {
            Latency::Plain(Histogram::new(BUCKETS))
        }
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Latency::Plain(histogram) => histogram.encode(encoder),
            Latency::Traced(histogram) => histogram.encode(encoder),
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
