//! `make bench`: the sidecar against Redis in the same run, as ratios.
//!
//! Each case alternates rounds of ours and the peer and compares the medians, since these rates follow
//! the disk of the moment. The results go to `target/bench/results.json`, a list of
//! `{name, unit, ours, peer, peer_value, ratio}`.

#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation
)]
#![allow(clippy::cast_sign_loss)]

mod load;
mod peers;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const KEYS: usize = 100_000;
const VALUE: usize = 100;
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let program = match env::var_os("CODEXSTORE_SIDECAR") {
        Some(path) => PathBuf::from(path),
        None => target.join("release/codexstore-sidecar"),
    };
    ensure!(
        program.exists(),
        "{} is not there: build it with `cargo build --release -p codexstore-sidecar`, or name \
         one in CODEXSTORE_SIDECAR",
        program.display()
    );
    fs::create_dir_all(target.join("bench"))?;
    // Beside the build, so that both write to the same real filesystem, and short enough for a socket.
    let dir = tempfile::Builder::new()
        .prefix("b")
        .tempdir_in(target.join("bench"))?;
    let ours = peers::sidecar(&program, &dir.path().join("ours"))?;
    let idle = ours.resident()?;
    let redis = peers::redis(&dir.path().join("redis"))?;
    let mut results = vec![
        bar(
            "sidecar ready after start",
            "ms",
            ours.ready_after.as_secs_f64() * 1e3,
            300.0,
        ),
        bar(
            "sidecar idle memory (RSS)",
            "MiB",
            idle as f64 / f64::from(1 << 20),
            8.0,
        ),
    ];
    for (connections, total) in [(1, 4_000), (8, 20_000), (32, 60_000)] {
        results.push(compare(
            &format!("durable set, {connections} connections"),
            || put(&ours.socket, connections, total),
            || peers::redis_benchmark(&redis, "set", connections, total, KEYS, VALUE),
        )?);
    }
    fill(&ours.socket)?;
    for (connections, total) in [(1, 30_000), (32, 300_000)] {
        results.push(compare(
            &format!("get, {connections} connections"),
            || get(&ours.socket, connections, total),
            || peers::redis_benchmark(&redis, "get", connections, total, KEYS, VALUE),
        )?);
    }
    let path = target.join("bench/results.json");
    fs::write(&path, serde_json::to_vec_pretty(&results)?).context("writing the results")?;
    println!("\nwritten: target/bench/results.json");
    Ok(())
}

/// Alternates rounds of both sides; the ratio is that of the medians.
fn compare(
    name: &str,
    mut ours: impl FnMut() -> Result<f64>,
    mut peer: impl FnMut() -> Result<f64>,
) -> Result<Value> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        left.push(ours().with_context(|| format!("{name}: ours"))?);
        right.push(peer().with_context(|| format!("{name}: Redis"))?);
    }
    let (ours, peer) = (median(left), median(right));
    println!(
        "{name:32} {ours:>10.0}/s   Redis {peer:>10.0}/s   ratio {:.2}",
        ours / peer
    );
    Ok(json!({
        "name": name, "unit": "operations/s", "ours": ours, "peer": "Redis, appendfsync always",
        "peer_value": peer, "ratio": ours / peer,
    }))
}

/// A figure against the bar that the project sets itself: a ratio under one is within it.
fn bar(name: &str, unit: &str, ours: f64, limit: f64) -> Value {
    println!(
        "{name:32} {ours:>10.1} {unit}   bar {limit:>10.0} {unit}   ratio {:.2}",
        ours / limit
    );
    json!({
        "name": name, "unit": unit, "ours": ours, "peer": "bar", "peer_value": limit,
        "ratio": ours / limit,
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Spreads request numbers over the keys without a generator's state (a Weyl sequence).
fn key(number: usize) -> usize {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS
}

fn put(socket: &Path, connections: usize, total: usize) -> Result<f64> {
    let value = "x".repeat(VALUE);
    let outcome = load::run(socket, connections, total, "20", |number, buffer| {
        write_put(buffer, key(number), &value);
    })?;
    report(&outcome);
    Ok(outcome.rate)
}

/// Sets every key once, so that each get finds a value.
fn fill(socket: &Path) -> Result<()> {
    let value = "x".repeat(VALUE);
    load::run(socket, 32, KEYS, "20", |number, buffer| {
        write_put(buffer, number, &value);
    })?;
    Ok(())
}

fn write_put(buffer: &mut Vec<u8>, key: usize, value: &str) {
    let head = format!(
        "PUT /v1/keys/key:{key:012} HTTP/1.1\r\nhost: b\r\ncontent-length: {VALUE}\r\n\r\n"
    );
    buffer.extend_from_slice(head.as_bytes());
    buffer.extend_from_slice(value.as_bytes());
}

fn get(socket: &Path, connections: usize, total: usize) -> Result<f64> {
    let outcome = load::run(socket, connections, total, "200", |number, buffer| {
        let key = key(number);
        let head = format!("GET /v1/keys/key:{key:012} HTTP/1.1\r\nhost: b\r\n\r\n");
        buffer.extend_from_slice(head.as_bytes());
    })?;
    report(&outcome);
    Ok(outcome.rate)
}

fn report(outcome: &load::Outcome) {
    println!(
        "    {:>10.0}/s   p50 {:>8.1?}   p99 {:>8.1?}",
        outcome.rate, outcome.p50, outcome.p99
    );
}
