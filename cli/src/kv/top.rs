//! `top`: what a store does, from its metrics and its status.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use codexstore_api::client::Client;
use codexstore_api::status::{State, Status};
use serde::Serialize;

use super::args::Top;
use super::{call, client};
use crate::args::Socket;
use crate::output::{self, Format, Table, size};

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// `top`.
pub async fn top(args: &Top, format: Format) -> Result<()> {
    let client = client(&args.socket);
    let mut before = look(&client, &args.socket).await?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        left -= 1;
        tokio::time::sleep(args.interval).await;
        let now = look(&client, &args.socket).await?;
        let status = call(&args.socket, client.status().await)?;
        let seen = Seen::between(&before, &now);
        match format {
            Format::Table => {
                let clear = std::io::stdout().is_terminal() && args.count != Some(1);
                let clear = if clear { CLEAR } else { "" };
                output::raw(format!("{clear}{}\n", seen.text(&status)).as_bytes())?;
            }
            // One object a line, as `watch` has it.
            Format::Json => {
                let shown = Shown::of(&status, &seen);
                output::line(&serde_json::to_string(&shown).context("make JSON")?)?;
            }
        }
        before = now;
    }
    Ok(())
}

/// The metrics at one moment.
#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    samples: BTreeMap<String, f64>,
}

async fn look(client: &Client, socket: &Socket) -> Result<Look> {
    let text = call(socket, client.metrics().await)?;
    Ok(Look {
        at: Instant::now(),
        samples: samples(&text),
    })
}

/// The lines of the text form, by name and labels as they stand there.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| {
        // Behind it may stand the trace of one that it counts.
        let line = line.split_once(" # ").map_or(line, |(line, _)| line);
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    pairs.collect()
}

/// What was done between two looks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    seconds: f64,
    /// Operations that were done at all, the busiest first.
    operations: Vec<Done>,
    commits_per_second: f64,
    syncs_per_second: f64,
    /// Commits that one sync served.
    group_size: Option<f64>,
    /// Mean time of a sync.
    sync_seconds: Option<f64>,
    connections: f64,
    queued: f64,
    /// When a backup was last sent whole: seconds since 1970; none since the sidecar's start.
    backup_sent_at: Option<f64>,
}

/// What is shown as JSON: what the store is, in the words of `status`, and what was done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    store: &'a str,
    pod: &'a str,
    state: State,
    revision: u64,
    keys: u64,
    memory_bytes: u64,
    max_memory: u64,
    disk_bytes: u64,
    max_disk: u64,
    /// The current key; empty without encryption.
    key_id: &'a str,
    #[serde(flatten)]
    seen: &'a Seen,
}

impl<'a> Shown<'a> {
    fn of(status: &'a Status, seen: &'a Seen) -> Shown<'a> {
        Shown {
            store: &status.store,
            pod: &status.pod,
            state: status.state,
            revision: status.revision,
            keys: status.keys,
            memory_bytes: status.memory_bytes,
            max_memory: status.max_memory,
            disk_bytes: status.disk_bytes,
            max_disk: status.max_disk,
            key_id: &status.key_id,
            seen,
        }
    }
}

/// One operation of one protocol.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    protocol: String,
    operation: String,
    per_second: f64,
    /// Of them, refused and failed ones.
    failed_per_second: f64,
    /// Half of them took at most this; none where that is beyond the last bucket.
    p50_seconds: Option<f64>,
    /// 99 of 100 took at most this.
    p99_seconds: Option<f64>,
}

impl Seen {
    fn between(before: &Look, now: &Look) -> Seen {
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
        let grown = |name: &str| {
            let now = now.samples.get(name).copied().unwrap_or_default();
            // Less than before: it was restarted, and counts from zero.
            let before = before.samples.get(name).copied().filter(|b| *b <= now);
            now - before.unwrap_or_default()
        };
        let value = |name: &str| now.samples.get(name).copied().unwrap_or_default();
        let mut operations: BTreeMap<(&str, &str), Done> = BTreeMap::new();
        for name in now.samples.keys() {
            let Some(labels) = name.strip_prefix("codexstore_requests_total{") else {
                continue;
            };
            let (Some(protocol), Some(operation), Some(outcome)) = (
                label(labels, "protocol"),
                label(labels, "operation"),
                label(labels, "outcome"),
            ) else {
                continue;
            };
            let count = grown(name);
            if count == 0.0 {
                continue;
            }
            let entry = operations
                .entry((protocol, operation))
                .or_insert_with(|| Done {
                    protocol: protocol.to_owned(),
                    operation: operation.to_owned(),
                    ..Done::default()
                });
            entry.per_second += count / seconds;
            if outcome == "refused" || outcome == "failed" {
                entry.failed_per_second += count / seconds;
            }
        }
        for ((protocol, operation), entry) in &mut operations {
            let buckets = buckets(&now.samples, protocol, operation, &grown);
            entry.p50_seconds = quantile(&buckets, 0.5);
            entry.p99_seconds = quantile(&buckets, 0.99);
        }
        let mut operations: Vec<_> = operations.into_values().collect();
        operations.sort_by(|a, b| b.per_second.total_cmp(&a.per_second));
        let (commits, syncs) = (
            grown("codexstore_commits_total"),
            grown("codexstore_syncs_total"),
        );
        let per_sync = |total: f64| (syncs > 0.0).then(|| total / syncs);
        Seen {
            seconds,
            operations,
            commits_per_second: commits / seconds,
            syncs_per_second: syncs / seconds,
            group_size: per_sync(commits),
            sync_seconds: per_sync(grown("codexstore_sync_seconds_total")),
            connections: value("codexstore_connections"),
            queued: value("codexstore_queued"),
            backup_sent_at: now
                .samples
                .get("codexstore_backup_sent_timestamp_seconds")
                .copied(),
        }
    }

    fn text(&self, status: &Status) -> String {
        let mut head = Table::bare();
        let mut row = |name: &str, value: String| {
            head.row(vec![name.to_owned(), value]);
        };
        let who = [status.store.as_str(), status.pod.as_str()].join(" ");
        row("Store", format!("{} {}", who.trim(), status.state));
        let budget = |used: u64, max: u64| format!("{} of {}", size(used), size(max));
        row("Memory", budget(status.memory_bytes, status.max_memory));
        row("Disk", budget(status.disk_bytes, status.max_disk));
        row(
            "Keys",
            format!("{}, revision {}", status.keys, status.revision),
        );
        if !status.key_id.is_empty() {
            row("Key", status.key_id.clone());
        }
        let sync = self.sync_seconds.map(time).unwrap_or_default();
        row(
            "Commits",
            format!(
                "{:.0}/s, {:.1} a sync; {:.0} syncs/s {sync}",
                self.commits_per_second,
                self.group_size.unwrap_or_default(),
                self.syncs_per_second
            ),
        );
        row(
            "Connections",
            format!("{:.0}, {:.0} writes wait", self.connections, self.queued),
        );
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0.0, |now| now.as_secs_f64());
        let sent = self.backup_sent_at.map(|at| age(now - at));
        row(
            "Backup",
            sent.unwrap_or_else(|| "none since the sidecar's start".to_owned()),
        );
        let mut table = Table::new(&[
            "PROTOCOL",
            "OPERATION",
            "PER-SECOND",
            "FAILED",
            "P50",
            "P99",
        ]);
        for operation in &self.operations {
            let at_most = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), time);
            table.row(vec![
                operation.protocol.clone(),
                operation.operation.clone(),
                format!("{:.1}", operation.per_second),
                format!("{:.1}", operation.failed_per_second),
                at_most(operation.p50_seconds),
                at_most(operation.p99_seconds),
            ]);
        }
        format!("{}\n{}", head.render(), table.render())
    }
}

/// A label's value.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

/// Upper bounds in seconds, and how many requests were at most so long.
fn buckets(
    samples: &BTreeMap<String, f64>,
    protocol: &str,
    operation: &str,
    grown: &impl Fn(&str) -> f64,
) -> Vec<(f64, f64)> {
    let mut buckets: Vec<_> = samples
        .keys()
        .filter_map(|name| {
            let labels = name.strip_prefix("codexstore_request_duration_seconds_bucket{")?;
            let own = label(labels, "protocol") == Some(protocol)
                && label(labels, "operation") == Some(operation);
            let bound = label(labels, "le").filter(|_| own)?;
            let bound: f64 = bound.trim_start_matches('+').parse().ok()?;
            Some((bound, grown(name)))
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets
}

/// The bound of the bucket in which a share of them has been reached; none where nothing was counted.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count)?;
    let found = buckets.iter().find(|(_, count)| *count >= total * share);
    found.filter(|_| total > 0.0).map(|(bound, _)| *bound)
}

/// How long ago something was.
fn age(seconds: f64) -> String {
    let (unit, name) = match seconds {
        ..120.0 => (1.0, 's'),
        ..7_200.0 => (60.0, 'm'),
        ..172_800.0 => (3_600.0, 'h'),
        _ => (86_400.0, 'd'),
    };
    format!("{:.0}{name} ago", (seconds / unit).max(0.0).floor())
}

/// A time as people read it.
fn time(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time < Duration::from_millis(1) => format!("{:.0}µs", seconds * 1e6),
        Ok(time) if time < Duration::from_secs(1) => format!("{:.1}ms", seconds * 1e3),
        Ok(_) => format!("{seconds:.1}s"),
        // The last bucket has no bound.
        Err(_) => "over 10s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, text: &str) -> Look {
        let now = Instant::now();
        Look {
            at: now.checked_add(Duration::from_secs(seconds)).unwrap(),
            samples: samples(text),
        }
    }

    const BEFORE: &str = "\
# TYPE codexstore_requests counter
codexstore_requests_total{protocol=\"http\",operation=\"put\",outcome=\"ok\"} 100
codexstore_requests_total{protocol=\"http\",operation=\"put\",outcome=\"failed\"} 7
codexstore_requests_total{protocol=\"redis\",operation=\"get\",outcome=\"ok\"} 50
codexstore_request_duration_seconds_bucket{le=\"0.001\",protocol=\"http\",operation=\"put\"} 80
codexstore_request_duration_seconds_bucket{le=\"0.01\",protocol=\"http\",operation=\"put\"} 100
codexstore_request_duration_seconds_bucket{le=\"+Inf\",protocol=\"http\",operation=\"put\"} 107
codexstore_commits_total 100
codexstore_syncs_total 100
codexstore_sync_seconds_total 1.0
";
    const NOW: &str = "\
codexstore_requests_total{protocol=\"http\",operation=\"put\",outcome=\"ok\"} 300
codexstore_requests_total{protocol=\"http\",operation=\"put\",outcome=\"failed\"} 17
codexstore_requests_total{protocol=\"redis\",operation=\"get\",outcome=\"ok\"} 50
codexstore_request_duration_seconds_bucket{le=\"0.001\",protocol=\"http\",operation=\"put\"} 260
codexstore_request_duration_seconds_bucket{le=\"0.01\",protocol=\"http\",operation=\"put\"} 300
codexstore_request_duration_seconds_bucket{le=\"+Inf\",protocol=\"http\",operation=\"put\"} 317
codexstore_commits_total 300
codexstore_syncs_total 150
codexstore_sync_seconds_total 1.1
";

    #[test]
    fn rates_and_quantiles_are_of_the_time_between_two_looks() {
        let seen = Seen::between(&at(0, BEFORE), &at(10, NOW));
        let put = &seen.operations[0];
        assert_eq!(seen.operations.len(), 1, "what nobody did is not shown");
        assert!((put.per_second - 21.0).abs() < 0.1, "{put:?}");
        assert!((put.failed_per_second - 1.0).abs() < 0.1, "{put:?}");
        assert_eq!(put.p50_seconds, Some(0.001));
        assert_eq!(put.p99_seconds, Some(f64::INFINITY));
        assert_eq!(seen.group_size, Some(4.0));
        assert!((seen.sync_seconds.unwrap() - 0.002).abs() < 1e-9);
        let text = seen.text(&Status::default());
        assert!(text.contains("21.0") && text.contains("over 10s"), "{text}");
    }

    #[test]
    fn the_trace_behind_a_sample_is_no_part_of_its_value() {
        let line = "codexstore_commits_total 7 # {trace_id=\"4bf9\"} 0.002 1700000000.0";
        assert_eq!(samples(line).get("codexstore_commits_total"), Some(&7.0));
    }

    #[test]
    fn an_age_has_one_unit() {
        let ages = [-1.0, 0.4, 119.9, 120.0, 7_199.0, 7_200.0, 172_800.0];
        let said = ages.map(age).join(", ");
        assert_eq!(
            said,
            "0s ago, 0s ago, 119s ago, 2m ago, 119m ago, 2h ago, 2d ago"
        );
    }

    #[test]
    fn a_restart_counts_from_zero() {
        let seen = Seen::between(&at(0, NOW), &at(10, BEFORE));
        let put = seen.operations.iter().find(|o| o.operation == "put");
        assert!((put.unwrap().per_second - 10.7).abs() < 0.1, "{seen:?}");
        assert_eq!(Seen::between(&at(0, NOW), &at(1, NOW)).operations, []);
    }
}
