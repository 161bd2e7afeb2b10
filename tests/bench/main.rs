//! `make bench`, over sockets: the sidecar against Redis in the same run, as ratios.
//!
//! Each case alternates rounds of ours and the peer and compares the medians, since these rates follow
//! the disk of the moment. The results go to `target/bench/results.json`, a list of
//! `{name, unit, ours, peer, peer_value, ratio, ...}`, beside those of the library.

#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation
)]
#![allow(clippy::cast_sign_loss)]

#[path = "store/bars.rs"]
mod bars;
mod crowd;
mod daprd;
#[path = "store/data.rs"]
#[allow(dead_code)]
mod data;
mod go;
mod load;
mod redis;
mod results;
mod server;
mod streams;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use crate::redis::{Load, Measured};
use crate::results::{Row, median};
use crate::server::Server;

const KEYS: usize = 100_000;
const VALUE: usize = 100;
const ROUNDS: usize = 5;

/// How long a sidecar has been idle when its memory is looked at.
const IDLE: Duration = Duration::from_mins(1);

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
    let written = target.join("bench/results.json");
    if env::var("BENCH_ONLY").is_ok_and(|only| only == "streams") {
        return results::write(&written, &streams::rows(&program, dir.path())?);
    }
    let ours = sidecar(&program, &dir.path().join("ours"))?;
    std::thread::sleep(IDLE);
    let (idle, all) = (ours.anonymous()?, ours.resident()?);
    let redis = redis::always(&dir.path().join("redis"))?;
    let ready = ours.ready_after.as_secs_f64() * 1e3;
    let mut results = vec![
        limit("sidecar.ready", "ms", ready, 300.0),
        limit("sidecar.memory.idle", "MiB", mib(idle), 8.0),
        limit("sidecar.memory.idle.with-files", "MiB", mib(all), 8.0),
    ];
    for (connections, total) in [(1, 4_000), (8, 20_000), (32, 60_000)] {
        results.push(compare(
            &format!("http.set.always.c{connections}"),
            || put(&ours.socket, connections, total),
            || redis::benchmark(&redis, "set", connections, total, KEYS, VALUE),
        )?);
    }
    fill(&ours.socket)?;
    for (connections, total) in [(1, 30_000), (32, 300_000)] {
        results.push(compare(
            &format!("http.get.c{connections}"),
            || get(&ours.socket, connections, total),
            || redis::benchmark(&redis, "get", connections, total, KEYS, VALUE),
        )?);
    }
    results.extend(daprd::rows(&ours, dir.path())?);
    protocol(&program, dir.path(), &ours, &redis, &mut results)?;
    let many = ["--max-connections", "11000"];
    let crowded = start(&program, &dir.path().join("crowd"), &many)?;
    results.extend(crowd::rows(&crowded)?);
    drop((ours, redis, crowded));
    results.extend(streams::rows(&program, dir.path())?);
    results::write(&written, &results)?;
    println!("\nwritten: target/bench/results.json");
    Ok(())
}

/// The Redis protocol, by redis-benchmark against both: the same load, from the same program.
fn protocol(
    program: &Path,
    dir: &Path,
    ours: &Server,
    redis: &Server,
    results: &mut Vec<Row>,
) -> Result<()> {
    let load = |test, connections, pipeline, total| Load {
        test,
        connections,
        pipeline,
        total,
    };
    let always = "Redis, appendfsync always";
    for (connections, total) in [(1, 4_000), (8, 20_000), (32, 60_000)] {
        let name = format!("redis.set.always.c{connections}");
        results.extend(beside(
            &name,
            ours,
            redis,
            always,
            load("set", connections, 1, total),
        )?);
    }
    let name = "redis.set.always.p16.c32";
    results.extend(beside(
        name,
        ours,
        redis,
        always,
        load("set", 32, 16, 200_000),
    )?);
    for (connections, total) in [(1, 30_000), (8, 150_000), (32, 300_000)] {
        let name = format!("redis.get.c{connections}");
        results.extend(beside(
            &name,
            ours,
            redis,
            always,
            load("get", connections, 1, total),
        )?);
    }
    let name = "redis.get.p16.c32";
    results.extend(beside(
        name,
        ours,
        redis,
        always,
        load("get", 32, 16, 1_000_000),
    )?);

    let socket = ours.socket.with_file_name("redis.sock");
    let incr = load("incr", 32, 1, 60_000);
    let count = |keys| Ok(redis::measure(&socket, incr, keys, VALUE)?.rate);
    let (name, peer) = ("redis.incr.one-key.c32", "ours, 32 keys");
    results.push(compare_with(name, peer, || count(1), || count(32))?);

    let ours = start(
        program,
        &dir.join("interval"),
        &["--durability", "interval"],
    )?;
    let redis = redis::start(
        &dir.join("everysec"),
        &[
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
        ],
    )?;
    let everysec = "Redis, appendfsync everysec";
    let name = "redis.set.interval.c32";
    results.extend(beside(
        name,
        &ours,
        &redis,
        everysec,
        load("set", 32, 1, 200_000),
    )?);
    Ok(())
}

/// Alternates rounds of the sidecar and of Redis: the median of the rates, and for gets of the processor
/// time that each request takes.
fn beside(name: &str, ours: &Server, redis: &Server, peer: &str, load: Load) -> Result<Vec<Row>> {
    let socket = ours.socket.with_file_name("redis.sock");
    let run = |server: &Server, socket: &Path| -> Result<(Measured, f64)> {
        let before = server.ticks()?;
        let seen = redis::measure(socket, load, KEYS, VALUE)?;
        Ok((seen, (server.ticks()? - before) as f64))
    };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        left.push(run(ours, &socket).with_context(|| format!("{name}: ours"))?);
        right.push(run(redis, &redis.socket).with_context(|| format!("{name}: Redis"))?);
    }
    let of = |side: &[(Measured, f64)], what: fn(&(Measured, f64)) -> f64| {
        median(side.iter().map(what).collect())
    };
    println!(
        "    p99 {:.3} ms, Redis {:.3} ms",
        of(&left, |(seen, _)| seen.p99),
        of(&right, |(seen, _)| seen.p99)
    );
    let rate = |side| of(side, |(seen, _)| seen.rate);
    let mut rows = vec![row(name, "operations/s", rate(&left), peer, rate(&right))];
    if load.test == "get" {
        let cost = |side| of(side, |(_, ticks)| *ticks) / load.total as f64 * 1e6;
        let name = format!("{name}.cpu");
        // A tick is a hundredth of a second.
        let (ours, theirs) = (cost(&left) / 100.0, cost(&right) / 100.0);
        rows.push(row(&name, "µs of processor", ours, peer, theirs));
    }
    Ok(rows)
}

/// The sidecar with its defaults: encryption, checksums and compression on, durability `always`.
fn sidecar(program: &Path, dir: &Path) -> Result<Server> {
    start(program, dir, &[])
}

/// The sidecar with other settings.
fn start(program: &Path, dir: &Path, settings: &[&str]) -> Result<Server> {
    let (command, socket) = command(program, dir, settings)?;
    Server::start(command, socket, |socket| ready(program, socket))
}

/// What starts a sidecar, and its socket.
fn command(program: &Path, dir: &Path, settings: &[&str]) -> Result<(Command, PathBuf)> {
    let keyring = dir.join("keyring");
    fs::create_dir_all(&keyring)?;
    fs::write(keyring.join("current"), "bench")?;
    fs::write(keyring.join("bench"), [7u8; 32])?;
    let socket = dir.join("codexstore.sock");
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--keyring-dir")
        .arg(&keyring)
        .arg("--socket")
        .arg(&socket)
        .args([
            "--log-level",
            "warn",
            "--max-disk",
            "8Gi",
            "--max-memory",
            "4Gi",
        ])
        .args(settings)
        .env_remove("CODEXSTORE_SOCKET")
        .env_remove("CODEXSTORE_REDIS_SOCKET");
    Ok((command, socket))
}

/// Whether the sidecar of a socket serves its store.
fn ready(program: &Path, socket: &Path) -> bool {
    Command::new(program)
        .args(["ping", "--ready", "--socket"])
        .arg(socket)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Alternates rounds of ours and of Redis; the ratio is that of the medians.
fn compare(
    name: &str,
    ours: impl FnMut() -> Result<f64>,
    redis: impl FnMut() -> Result<f64>,
) -> Result<Row> {
    compare_with(name, "Redis, appendfsync always", ours, redis)
}

/// Alternates rounds of both sides; the ratio is that of the medians.
fn compare_with(
    name: &str,
    peer: &str,
    mut ours: impl FnMut() -> Result<f64>,
    mut theirs: impl FnMut() -> Result<f64>,
) -> Result<Row> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        left.push(ours().with_context(|| format!("{name}: ours"))?);
        right.push(theirs().with_context(|| format!("{name}: {peer}"))?);
    }
    Ok(row(name, "operations/s", median(left), peer, median(right)))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A figure against a fixed one.
fn limit(name: &str, unit: &'static str, ours: f64, limit: f64) -> Row {
    row(name, unit, ours, "bar", limit)
}

fn row(name: &str, unit: &'static str, ours: f64, peer: &str, peer_value: f64) -> Row {
    let row = Row {
        name: name.to_owned(),
        unit,
        ours,
        peer: peer.to_owned(),
        peer_value,
        bar: bars::bar(name, peer),
        note: String::new(),
    };
    println!("{}", row.line());
    row
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
