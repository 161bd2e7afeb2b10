//! Counters, in the names and units of Prometheus. Labels are few and fixed: no key ever is one.

mod gauges;
mod labels;
mod latency;
mod syncs;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use codexstore_api::codes;
use http::StatusCode;
use opentelemetry::trace::TraceId;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::engine::Health;
use crate::log::Throttle;
use crate::trace::About;
use crate::trace::tracer::{Begun, Counts};

use gauges::{gauges, reencryption};
use labels::{OUTCOMES, outcome};
pub use labels::{Operation, Outcome, Protocol, Turned};
use latency::{Latency, NewLatency};
use syncs::Syncs;

/// Requests that were answered together and are not counted yet.
#[derive(Default)]
pub struct Tally {
    counts: [[u32; OUTCOMES.len()]; Operation::ALL.len()],
    any: bool,
    /// Those of them that have a span.
    pub spans: Vec<(Begun, Operation, About)>,
}

impl Tally {
    /// One more.
    pub fn add(&mut self, operation: Operation, outcome: Outcome) {
        let of = self.counts.get_mut(operation as usize);
        if let Some(count) = of.and_then(|of| of.get_mut(outcome as usize)) {
            *count += 1;
            self.any = true;
        }
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        !self.any
    }
}

/// Names and values of labels.
pub type Labels = Vec<(&'static str, &'static str)>;

/// One operation's counters, looked up once.
struct PerOperation {
    outcomes: [Counter; 4],
    latency: Latency,
}

/// All counters.
pub struct Metrics {
    registry: Registry,
    http: Vec<PerOperation>,
    grpc: Vec<PerOperation>,
    redis: Vec<PerOperation>,
    admin: [Option<[Counter; OUTCOMES.len()]>; Operation::ALL.len()],
    turned: Vec<Counter>,
    errors: Family<Labels, Counter>,
    connections: Arc<AtomicI64>,
    accepted: AtomicU64,
    /// When a backup was last sent whole: seconds since 1970.
    backed_up: AtomicU64,
    /// The last revision that whoever archives has said to have, behind the line of history that it is of.
    archived: Mutex<Option<(u64, u64)>>,
    slow: Duration,
}

/// Slow requests in the log.
static SLOW: Throttle = Throttle::new();

impl Metrics {
    /// All at zero. Requests that take at least `slow` are logged.
    pub fn new(slow: Duration) -> Metrics {
        let mut registry = Registry::with_prefix("codexstore");
        let requests = Family::<Labels, Counter>::default();
        let traced = Arc::new(AtomicBool::new(true));
        let latency = Family::new_with_constructor(NewLatency(Arc::clone(&traced)));
        let turned = Family::<Labels, Counter>::default();
        registry.register("requests", "Requests answered", requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a request's header to its answer",
            Unit::Seconds,
            latency.clone(),
        );
        registry.register(
            "rejected",
            "Connections and requests turned away",
            turned.clone(),
        );
        let errors = Family::<Labels, Counter>::default();
        registry.register(
            "errors",
            "Errors that were answered, by their code",
            errors.clone(),
        );
        let each = |protocol: Protocol| -> Vec<PerOperation> {
            let protocol = protocol.as_str();
            let one = |operation: &Operation| {
                let labels = vec![("protocol", protocol), ("operation", operation.as_str())];
                let with = |outcome| {
                    let mut labels = labels.clone();
                    labels.push(("outcome", outcome));
                    requests.get_or_create_owned(&labels)
                };
                PerOperation {
                    outcomes: OUTCOMES.map(with),
                    latency: latency.get_or_create_owned(&labels),
                }
            };
            let all = Operation::ALL.iter().take(Operation::OF_SOCKET);
            all.map(one).collect()
        };
        let (http, grpc) = (each(Protocol::Http), each(Protocol::Grpc));
        traced.store(false, Ordering::Relaxed);
        let redis = each(Protocol::Redis);
        let admin = Operation::ALL.map(|operation| {
            let of = |outcome| {
                let labels = [
                    ("protocol", Protocol::Admin.as_str()),
                    ("operation", operation.as_str()),
                    ("outcome", outcome),
                ];
                requests.get_or_create_owned(&labels.to_vec())
            };
            operation.is_of_admin().then(|| OUTCOMES.map(of))
        });
        Metrics {
            http,
            grpc,
            redis,
            admin,
            turned: Turned::ALL
                .iter()
                .map(|(_, reason)| turned.get_or_create_owned(&vec![("reason", *reason)]))
                .collect(),
            errors,
            connections: Arc::default(),
            accepted: AtomicU64::new(0),
            backed_up: AtomicU64::new(0),
            archived: Mutex::default(),
            slow,
            registry,
        }
    }
}

impl Metrics {
    /// Tells what becomes of spans, too.
    pub fn tell_spans(&mut self, counts: &Counts) {
        let sent = "Spans that the collector took";
        let dropped = "Spans that were dropped";
        self.registry
            .register("spans_sent", sent, counts.sent.clone());
        self.registry
            .register("spans_dropped", dropped, counts.dropped.clone());
    }

    /// Counts an answered request of a trace, or of none.
    pub fn done(
        &self,
        protocol: Protocol,
        operation: Operation,
        status: StatusCode,
        took: Duration,
        trace: Option<&TraceId>,
    ) {
        self.count(protocol, operation, outcome(status), took, trace);
    }

    /// Counts an answered request of a trace, or of none.
    pub fn count(
        &self,
        protocol: Protocol,
        operation: Operation,
        outcome: Outcome,
        took: Duration,
        trace: Option<&TraceId>,
    ) {
        let operations = match protocol {
            Protocol::Admin => {
                let counters = self.admin.get(operation as usize);
                let counters = counters.and_then(Option::as_ref);
                if let Some(counter) = counters.and_then(|all| all.get(outcome as usize)) {
                    counter.inc();
                }
                return;
            }
            Protocol::Http => &self.http,
            Protocol::Grpc => &self.grpc,
            Protocol::Redis => &self.redis,
        };
        self.slow(protocol, operation, took, trace);
        if let Some(counters) = operations.get(operation as usize) {
            if let Some(counter) = counters.outcomes.get(outcome as usize) {
                counter.inc();
            }
            counters.latency.observe(took.as_secs_f64(), trace);
        }
    }

    /// Logs a request that took long: what it was, and never of which key.
    fn slow(
        &self,
        protocol: Protocol,
        operation: Operation,
        took: Duration,
        trace: Option<&TraceId>,
    ) {
        if took < self.slow {
            return;
        }
        if let Some(held_back) = SLOW.pass() {
            tracing::warn!(
                protocol = ?protocol,
                operation = operation.as_str(),
                millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                trace_id = trace.map(tracing::field::display),
                held_back,
                "a request was slow"
            );
        }
    }

    /// Counts requests of the Redis protocol that were answered together, and empties the tally.
    pub fn add(&self, tally: &mut Tally, took: Duration) {
        if took >= self.slow {
            let slow = self.redis.iter().zip(Operation::ALL).zip(&tally.counts);
            let slow = slow.filter(|(_, counts)| counts.iter().any(|count| *count > 0));
            for ((_, operation), _) in slow {
                self.slow(Protocol::Redis, operation, took, None);
            }
        }
        let took = took.as_secs_f64();
        for (counters, counts) in self.redis.iter().zip(&mut tally.counts) {
            for (counter, count) in counters.outcomes.iter().zip(counts) {
                if *count > 0 {
                    counter.inc_by(u64::from(*count));
                    (0..*count).for_each(|_| counters.latency.observe(took, None));
                    *count = 0;
                }
            }
        }
        tally.any = false;
    }

    /// Commands of the Redis protocol that were answered.
    pub fn answered(&self) -> u64 {
        let outcomes = self.redis.iter().flat_map(|counters| &counters.outcomes);
        outcomes.map(Counter::get).sum()
    }

    /// Notes that a backup was sent whole just now.
    pub fn backed_up(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.backed_up
            .store(now.map_or(0, |now| now.as_secs()), Ordering::Relaxed);
    }

    /// Notes up to which revision of a line of history everything is archived. Of one line it is the highest that was said:
    /// who asks for a piece once more has not lost what follows.
    pub fn archived(&self, lineage: u64, revision: u64) {
        let mut archived = self.archived.lock().unwrap_or_else(PoisonError::into_inner);
        let known = archived.filter(|(of, _)| *of == lineage);
        let known = known.map_or(0, |(_, known)| known);
        *archived = Some((lineage, known.max(revision)));
    }

    /// Counts what was turned away.
    pub fn turned(&self, why: Turned) {
        if let Some(counter) = self.turned.get(why as usize) {
            counter.inc();
        }
    }

    /// Counts an error that was answered, by its code; of a code that is in no table, or of none, as `other`. That a key
    /// is not there is no error.
    pub fn error(&self, protocol: Protocol, code: Option<&str>) {
        let known = |code: &str| codes::TABLE.iter().find(|row| row.code == code);
        let code = code.and_then(known).map_or("other", |row| row.code);
        if code != "not-found" {
            let labels = vec![("protocol", protocol.as_str()), ("code", code)];
            self.errors.get_or_create_owned(&labels).inc();
        }
    }

    /// Counts a connection until the guard is dropped.
    pub fn connection(&self) -> ConnectionGuard {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionGuard(Arc::clone(&self.connections))
    }

    /// Everything as text, with the store's numbers of this moment.
    pub fn encode(&self, health: &Health) -> Result<String, fmt::Error> {
        let mut now = Registry::with_prefix("codexstore");
        let stats = &health.stats;
        for (name, help, value) in gauges(health) {
            now.register(name, help, ConstGauge::new(value));
        }
        let open = self.connections.load(Ordering::Relaxed);
        now.register("connections", "Open connections", ConstGauge::new(open));
        let backed_up = self.backed_up.load(Ordering::Relaxed);
        if backed_up > 0 {
            now.register(
                "backup_sent_timestamp_seconds",
                "When a backup was last sent whole by this process",
                ConstGauge::new(backed_up),
            );
        }
        if let Some(told) = &health.reencryption {
            for (name, help, value) in reencryption(told) {
                now.register(name, help, ConstGauge::new(value));
            }
        }
        let archived = *self.archived.lock().unwrap_or_else(PoisonError::into_inner);
        // Behind a restore, revisions of before say nothing.
        if let Some((_, archived)) = archived.filter(|(of, _)| *of == stats.lineage) {
            now.register(
                "archived_revision",
                "Last revision that is archived, as whoever archives has said to this process",
                ConstGauge::new(archived),
            );
        }
        let counters: [(&str, &str, u64); 7] = [
            (
                "connections_accepted",
                "Connections accepted",
                self.accepted.load(Ordering::Relaxed),
            ),
            (
                "commits",
                "Batches committed since the store was opened",
                stats.commits,
            ),
            (
                "groups",
                "Groups of batches written since then, one frame each",
                stats.groups,
            ),
            ("syncs", "Syncs of the log since then", stats.syncs),
            ("folds", "Images written since then", stats.folds),
            (
                "key_wraps",
                "Data keys wrapped by keys of the keyring since then",
                stats.key_wraps,
            ),
            ("expired", "Keys expired since then", stats.expired),
        ];
        for (name, help, value) in counters {
            now.register(name, help, ConstCounter::new(value));
        }
        now.register(
            "sync_seconds",
            "Time in syncs of the log since then",
            ConstCounter::new(Duration::from_nanos(stats.sync_nanos).as_secs_f64()),
        );
        now.register_with_unit(
            "sync_duration",
            "Time of one sync of the log",
            Unit::Seconds,
            Syncs::of(stats),
        );
        let mut text = String::with_capacity(16 << 10);
        prometheus_client::encoding::text::encode_registry(&mut text, &self.registry)?;
        encode(&mut text, &now)?;
        Ok(text)
    }
}

/// An open connection, for the gauge.
pub struct ConnectionGuard(Arc<AtomicI64>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_appear_with_their_labels() {
        let metrics = Metrics::new(Duration::from_secs(1));
        let trace = TraceId::from_hex("4bf92f3577b34da6a3ce929d0e0e4736").ok();
        metrics.done(
            Protocol::Http,
            Operation::Put,
            StatusCode::CREATED,
            Duration::from_millis(2),
            trace.as_ref(),
        );
        metrics.done(
            Protocol::Http,
            Operation::Get,
            StatusCode::NOT_FOUND,
            Duration::ZERO,
            None,
        );
        let mut tally = Tally::default();
        tally.add(Operation::Get, Outcome::Ok);
        tally.add(Operation::Get, Outcome::Ok);
        assert!(!tally.is_empty());
        metrics.add(&mut tally, Duration::ZERO);
        assert!(tally.is_empty());
        metrics.count(
            Protocol::Redis,
            Operation::Put,
            Outcome::Failed,
            Duration::ZERO,
            None,
        );
        assert_eq!(metrics.answered(), 3);
        metrics.done(
            Protocol::Admin,
            Operation::Backup,
            StatusCode::OK,
            Duration::ZERO,
            None,
        );
        let none = metrics.encode(&Health::default()).unwrap();
        assert!(!none.contains("archived_revision"));
        metrics.archived(0, 0);
        metrics.turned(Turned::Malformed);
        metrics.error(Protocol::Grpc, Some("denied"));
        metrics.error(Protocol::Grpc, Some("not-found"));
        for unknown in [None, Some("made-up")] {
            metrics.error(Protocol::Redis, unknown);
        }
        let _open = metrics.connection();
        let text = metrics.encode(&Health::default()).unwrap();
        for line in [
            r#"codexstore_requests_total{protocol="http",operation="put",outcome="ok"} 1"#,
            r#"codexstore_requests_total{protocol="http",operation="get",outcome="not_found"} 1"#,
            r#"codexstore_request_duration_seconds_count{protocol="http",operation="put"} 1"#,
            r#"codexstore_requests_total{protocol="redis",operation="get",outcome="ok"} 2"#,
            r#"codexstore_request_duration_seconds_count{protocol="redis",operation="get"} 2"#,
            r#"codexstore_requests_total{protocol="redis",operation="put",outcome="failed"} 1"#,
            r#"codexstore_requests_total{protocol="admin",operation="backup",outcome="ok"} 1"#,
            r#"codexstore_rejected_total{reason="malformed"} 1"#,
            r#"codexstore_errors_total{protocol="grpc",code="denied"} 1"#,
            r#"codexstore_errors_total{protocol="redis",code="other"} 2"#,
            // The trace of one that took so long.
            r#"le="0.0025",protocol="http",operation="put"} 1 # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.002 "#,
            "codexstore_connections 1",
            "codexstore_archived_revision 0",
            "codexstore_ready 0",
            "codexstore_sync_seconds_total 0",
            "codexstore_data_key_messages_limit 0",
        ] {
            assert!(text.contains(line), "{line} not in:\n{text}");
        }
        // Each protocol has what it offers, and no more.
        assert!(!text.contains("not-found") && !text.contains("made-up"));
        assert!(!text.contains(r#"protocol="http",operation="backup""#));
        assert!(!text.contains(r#"protocol="admin",operation="put""#));
        assert_eq!(text.matches("# EOF").count(), 1);
    }

    #[test]
    fn a_sync_is_in_the_bucket_of_its_time_and_the_last_one_has_all() {
        let mut health = Health::default();
        let stats = &mut health.stats;
        (stats.syncs, stats.sync_nanos, stats.image_bytes) = (5, 4_000_000_000, 77);
        (stats.sync_times[0], stats.sync_times[4]) = (3, 1);
        let metrics = Metrics::new(Duration::from_secs(1));
        let text = metrics.encode(&health).unwrap();
        for line in [
            "# TYPE codexstore_sync_duration_seconds histogram",
            r#"codexstore_sync_duration_seconds_bucket{le="0.0005"} 3"#,
            r#"codexstore_sync_duration_seconds_bucket{le="0.001"} 4"#,
            r#"codexstore_sync_duration_seconds_bucket{le="2.5"} 4"#,
            r#"codexstore_sync_duration_seconds_bucket{le="+Inf"} 5"#,
            "codexstore_sync_duration_seconds_count 5",
            "codexstore_sync_duration_seconds_sum 4.0",
            "codexstore_image_bytes 77",
        ] {
            assert!(text.contains(line), "{line} not in:\n{text}");
        }
    }

    #[test]
    fn what_is_archived_is_of_one_line_of_history_and_goes_forward_in_it() {
        let metrics = Metrics::new(Duration::from_secs(1));
        let told = |lineage| {
            let mut health = Health::default();
            health.stats.lineage = lineage;
            let text = metrics.encode(&health).unwrap();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("codexstore_archived_revision "));
            line.map(|number| number.parse::<u64>().unwrap())
        };
        assert_eq!(told(1), None);
        metrics.archived(1, 70);
        assert_eq!(told(1), Some(70));
        metrics.archived(1, 50);
        assert_eq!(told(1), Some(70), "a piece was asked for once more");
        assert_eq!(told(2), None, "the store was restored");
        metrics.archived(2, 40);
        assert_eq!(told(2), Some(40));
        // Where nothing is open, there is nothing to compare it with.
        assert_eq!(told(0), None);
    }

    #[test]
    fn operations_and_reasons_are_numbered_as_their_tables() {
        for (n, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, n);
        }
        for (n, (turned, _)) in Turned::ALL.iter().enumerate() {
            assert_eq!(*turned as usize, n);
        }
    }
}
