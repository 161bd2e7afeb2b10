//! The real operator with many stores that are backed up each minute: what it asks of the API server, and how much memory it takes.
//!
//! `make test` has 20 stores that keep 3 backups, and minutes of 15 s; with `CODEXSTORE_SCALE=full` there are 100 stores that keep 7, and
//! minutes are whole.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // also in helpers: a failed one fails its test

mod api;
mod world;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use api::Api;

/// The bars that the project sets itself: calls for one run and for each member in it, and memory.
const CALLS: f64 = 30.0;
const CALLS_OF_A_MEMBER: f64 = 5.0;
const MEMORY: u64 = 100 << 20;

/// So many runs are counted.
const RUNS: usize = 3;

struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Operator {
    fn start(address: &str, minute: Duration) -> Operator {
        let config = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scale-kubeconfig");
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        });
        std::fs::write(&config, text.to_string()).unwrap();
        let poll = format!("{}s", minute.as_secs());
        let child = Command::new(env!("CARGO_BIN_EXE_codexstore-operator"))
            .args(["run", "--sidecar-image", "sidecar:1", "--no-webhook"])
            .args(["--no-leader-election", "--http-addr", "127.0.0.1:0"])
            .args(["--keyring-poll", &poll, "--log-level", "warn"])
            .env("KUBECONFIG", config)
            .stdout(Stdio::inherit())
            .spawn()
            .unwrap();
        Operator(child)
    }

    /// The most memory that it has ever had.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_are_backed_up_each_minute_cost_few_calls_and_little_memory() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let full = std::env::var("CODEXSTORE_SCALE").is_ok_and(|s| s == "full");
    let (stores, minute, kept) = if full { (100, 60, 7) } else { (20, 15, 3) };
    let minute = Duration::from_secs(minute);
    // One of them with three members.
    let members = |n: usize| if n == 0 { 3 } else { 1 };
    let name = |n: usize| format!("s{n:03}");
    let api = Api::default();
    let (address, made) = api.start().await;
    tokio::spawn(world::run_jobs(api.clone(), made));
    for n in 0..stores {
        world::store(&api, &name(n), kept);
    }
    let operator = Operator::start(&address, minute);
    let all = async |is: fn(&Api, &str) -> bool| {
        let wait = async {
            while !(0..stores).all(|n| is(&api, &name(n))) {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(2), wait).await;
        waited.expect("not every store is made, or not every member is seen");
    };
    all(world::is_made).await;
    for n in 0..stores {
        world::members(&api, &name(n), members(n)).await;
    }
    all(world::is_ready).await;

    // Until each run also deletes one, they need not wait for each other.
    let mut run = 0;
    let mut start = |pause: Duration| {
        let at = run;
        run += 1;
        for n in 0..stores {
            let run = world::scheduled(api.clone(), name(n), members(n), at);
            let part = pause * u32::try_from(n).unwrap() / u32::try_from(stores).unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(part).await;
                run.await;
            });
        }
        tokio::time::sleep(pause)
    };
    for _ in 0..=kept {
        start(Duration::from_secs(8)).await;
    }
    start(minute).await;
    api.take_calls();
    for _ in 0..RUNS {
        start(minute).await;
    }
    let calls = api.take_calls();

    let done = u32::try_from(stores * RUNS).unwrap();
    let total: usize = calls.values().sum();
    let a_run = |calls: usize| f64::from(u32::try_from(calls).unwrap()) / f64::from(done);
    for (what, count) in &calls {
        println!("{:6.2} {what}", a_run(*count));
    }
    let memory = operator.memory();
    println!("calls of the operator for a run: {:.1}", a_run(total));
    println!(
        "memory of the operator with {stores} stores: {} MiB",
        memory >> 20
    );

    // It did what it should.
    tokio::time::sleep(Duration::from_secs(10)).await;
    for n in 0..stores {
        let (left, verified) = world::backups(&api, &name(n));
        assert!(
            (kept..=kept + 1).contains(&left) && verified >= kept - 1,
            "{} has {left} backups, {verified} of them verified",
            name(n)
        );
    }
    assert!(
        a_run(total) <= CALLS + CALLS_OF_A_MEMBER,
        "{:.1} calls for a run",
        a_run(total)
    );
    assert!(memory < MEMORY, "{} MiB of memory", memory >> 20);
}
