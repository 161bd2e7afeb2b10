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
use tokio::task::JoinSet;

/// The bars that the project sets itself: calls for one run of one store, calls more for each member that there is, and memory.
const CALLS: usize = 30;
const CALLS_OF_A_MEMBER: usize = 5;
const MEMORY: u64 = 100 << 20;
/// Until what follows from one run has happened.
const SETTLES: Duration = Duration::from_mins(2);

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

/// Waits until this is so; or says of each store where it is not.
async fn until(what: &str, stores: usize, is: impl Fn(usize) -> Result<(), String>) {
    let wrong = || (0..stores).filter_map(|n| is(n).err()).collect::<Vec<_>>();
    let wait = async {
        while !wrong().is_empty() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let waited = tokio::time::timeout(SETTLES, wait).await;
    assert!(waited.is_ok(), "{what}: {}", wrong().join("; "));
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
    let is_so = |is: fn(&Api, &str) -> bool| {
        let (api, name) = (&api, &name);
        move |n| is(api, &name(n)).then_some(()).ok_or_else(|| name(n))
    };
    until("it is made", stores, is_so(world::is_made)).await;
    for n in 0..stores {
        world::members(&api, &name(n), members(n)).await;
    }
    until("members are seen", stores, is_so(world::is_ready)).await;

    // One run of each store, one after the other over this time: when all have ended.
    let mut run = 0;
    let mut start = |over: Duration| {
        let at = run;
        run += 1;
        let mut runs = JoinSet::new();
        for n in 0..stores {
            let run = world::scheduled(api.clone(), name(n), members(n), at);
            let part = over * u32::try_from(n).unwrap() / u32::try_from(stores).unwrap();
            runs.spawn(async move {
                tokio::time::sleep(part).await;
                run.await;
            });
        }
        runs
    };
    // What a run is followed by: it is verified, and what is too old is deleted.
    let kept_after = |runs: usize| {
        let (api, name) = (&api, &name);
        move |n: usize| {
            let (left, verified) = world::backups(api, &name(n));
            let wanted = kept.min(runs);
            let good = (wanted..=wanted + 1).contains(&left) && verified + 1 >= wanted;
            good.then_some(()).ok_or_else(|| {
                format!(
                    "{} has {left} backups, {verified} of them verified",
                    name(n)
                )
            })
        }
    };
    // Until each run also deletes one, they need not keep to minutes.
    let first = kept + 2;
    for done in 1..=first {
        start(Duration::from_secs(4)).join_all().await;
        until("a run is over", stores, kept_after(done)).await;
    }
    api.take_calls();
    let mut runs = Vec::new();
    let mut minutes = tokio::time::interval(minute);
    for _ in 0..RUNS {
        minutes.tick().await;
        runs.push(start(minute));
    }
    minutes.tick().await;
    for started in runs {
        started.join_all().await;
    }
    until("it did what it should", stores, kept_after(first + RUNS)).await;
    let calls = api.take_calls();

    let done = stores * RUNS;
    let there: usize = (0..stores).map(members).sum();
    let total: usize = calls.values().sum();
    let count = |n: usize| f64::from(u32::try_from(n).unwrap());
    let a_run = |calls: usize| count(calls) / count(done);
    for (what, count) in &calls {
        println!("{:6.2} {what}", a_run(*count));
    }
    let memory = operator.memory();
    println!("calls of the operator for a run: {:.1}", a_run(total));
    println!(
        "memory of the operator with {stores} stores: {} MiB",
        memory >> 20
    );

    let most = CALLS * done + CALLS_OF_A_MEMBER * there;
    assert!(
        total <= most,
        "{total} calls for {done} runs of stores with {there} members: more than {most}"
    );
    assert!(memory < MEMORY, "{} MiB of memory", memory >> 20);
}
