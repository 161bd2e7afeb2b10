//! How long syncs of the log took, as the store counts them.

use std::fmt;
use std::time::Duration;

use codexstore::{SYNC_BOUNDS, Stats};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

use super::Labels;

/// A histogram of the store's own counts.
#[derive(Debug)]
pub struct Syncs {
    seconds: f64,
    count: u64,
    /// Upper bounds in seconds, and how many kept to each and to none before it.
    buckets: Vec<(f64, u64)>,
}

impl Syncs {
    /// The syncs that a store has counted.
    pub fn of(stats: &Stats) -> Syncs {
        let bounds = SYNC_BOUNDS.iter().map(Duration::as_secs_f64);
        let mut buckets: Vec<_> = bounds.zip(stats.sync_times).collect();
        let within: u64 = stats.sync_times.iter().sum();
        buckets.push((f64::INFINITY, stats.syncs.saturating_sub(within)));
        Syncs {
            seconds: Duration::from_nanos(stats.sync_nanos).as_secs_f64(),
            count: stats.syncs,
            buckets,
        }
    }
}

impl EncodeMetric for Syncs {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_histogram::<Labels>(self.seconds, self.count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
