//! What was acknowledged is there, whatever happens to the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use codexstore_api::client::{Client, Put};

use crate::harness::{Place, runtime};

const WRITERS: usize = 8;

/// What all writers share.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// Writes that were acknowledged.
    done: AtomicU64,
}

/// Writes numbers to a key of its own until told to stop; the last acknowledged one is the
/// answer, and the one after it may or may not be there.
async fn write(client: Client, key: Vec<u8>, from: u64, load: Arc<Load>) -> u64 {
    let mut last = from;
    while !load.stop.load(Ordering::Relaxed) {
        match client
            .set(&key, (last + 1).to_string(), &Put::default())
            .await
        {
            Ok(_) => {
                last += 1;
                load.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => break,
        }
    }
    last
}

#[test]
fn every_acknowledged_write_is_there_after_kill_9_under_load() {
    let place = Place::new();
    let mut acknowledged = vec![0; WRITERS];
    for round in 0..6 {
        let mut s = place.ready(&[]);
        runtime().block_on(async {
            for (n, last) in acknowledged.iter_mut().enumerate() {
                let found = s.client().get(format!("w{n}").as_bytes()).await.unwrap();
                let found = found.map_or(0, |f| String::from_utf8_lossy(&f.value).parse().unwrap());
                // At most the write that was on its way.
                assert!(
                    found == *last || found == *last + 1,
                    "w{n}: {found} after {last}"
                );
                *last = found;
            }
            let load = Arc::new(Load::default());
            let client = s.client();
            let writers: Vec<_> = acknowledged
                .iter()
                .enumerate()
                .map(|(n, from)| {
                    let key = format!("w{n}").into_bytes();
                    tokio::spawn(write(client.clone(), key, *from, Arc::clone(&load)))
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(150 + 70 * round)).await;
            // However slow the disk is, there is something to be lost.
            let deadline = Instant::now() + Duration::from_secs(30);
            while load.done.load(Ordering::Relaxed) < 20 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            s.kill();
            load.stop.store(true, Ordering::Relaxed);
            for (writer, last) in writers.into_iter().zip(&mut acknowledged) {
                let now = writer.await.unwrap();
                assert!(now >= *last);
                *last = now;
            }
        });
    }
    assert!(
        acknowledged.iter().sum::<u64>() > 100,
        "too little load: {acknowledged:?}"
    );
    let s = place.ready(&[]);
    for (n, last) in acknowledged.iter().enumerate() {
        let found: u64 = s.get(&format!("/v1/keys/w{n}")).text().parse().unwrap();
        assert!(found == *last || found == *last + 1);
    }
}

#[test]
fn the_client_reconnects_when_the_sidecar_restarts() {
    let place = Place::new();
    let mut s = place.ready(&[]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let client = Client::unix(place.socket()).patience(Duration::from_secs(20));
        client.set(b"k", "1", &Put::default()).await.unwrap();
        s.kill();
        let command = place.command(&[]);
        let (restarted, read) = std::thread::scope(|scope| {
            let starting = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                place.spawn(command)
            });
            // Sent while nobody listens.
            let read = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(client.get(b"k"))
            });
            (starting.join().unwrap(), read)
        });
        assert_eq!(&read.unwrap().unwrap().value[..], b"1");
        client.set(b"k", "2", &Put::default()).await.unwrap();
        drop(restarted);
    });
}

#[test]
fn a_write_whose_connection_breaks_is_of_unknown_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
        }
    });
    runtime().block_on(async {
        let client = Client::unix(&path).patience(Duration::ZERO);
        let error = client.set(b"k", "v", &Put::default()).await.unwrap_err();
        assert!(error.is("outcome-unknown"), "{error}");
        let error = client.get(b"k").await.unwrap_err();
        assert!(error.is("unreachable"), "{error}");
        assert_eq!(error.exit_code(), codexstore_api::codes::EXIT_UNREACHABLE);
    });
    server.join().unwrap();
}

#[test]
fn a_slow_request_is_logged_without_its_key_and_the_metrics_tell_of_syncs() {
    let place = Place::new();
    let s = place.ready(&["--slow-request", "1ms"]);
    s.until("a write is so slow", |s| {
        let large = b"canary-value".repeat(500_000);
        assert!(s.put("canary-key", &large).status < 300);
        s.log().contains("a request was slow")
    });
    let log = s.log();
    let line = log
        .lines()
        .find(|line| line.contains("a request was slow"))
        .unwrap();
    assert!(
        line.contains("\"protocol\":\"Http\"") && line.contains("millis"),
        "{line}"
    );
    assert!(!log.contains("canary"), "{log}");
    let value = |name: &str| -> f64 {
        let metrics = String::from_utf8(s.get("/metrics").body).unwrap();
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    // The committer counts a sync behind its answer.
    s.until("a sync is counted", |_| {
        value("codexstore_syncs_total ") >= 1.0
    });
    assert!(value("codexstore_sync_seconds_total ") > 0.0);
    assert!(value("codexstore_sync_duration_seconds_bucket{le=\"+Inf\"} ") >= 1.0);
    assert!(value("codexstore_image_bytes ") >= 0.0);
    assert!(value("codexstore_data_key_messages ") >= 1.0);
    assert!(value("codexstore_data_key_messages_limit ") > 1e6);
}
