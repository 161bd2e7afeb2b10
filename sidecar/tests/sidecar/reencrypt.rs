//! All files of a running store under fresh data keys, asked for over the admin listener.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use codexstore::format::{FileId, open_without_key};
use codexstore_api::Error;
use codexstore_api::status::{Reencryption, ReencryptionState};

use crate::admin::{Ca, TLS13, ca, connect, identity, install, spawn_with};
use crate::backup::noise;
use crate::harness::{KEY_ID, Place, Sidecar, Stop, runtime};
use crate::watch::Events;

const OLD: &[u8] = &[7; 32];
const NEW: &[u8] = &[9; 32];

fn ask(address: SocketAddr, ca: &Ca, role: &'static str, id: &str) -> Result<Reencryption, Error> {
    runtime().block_on(async {
        let client = connect(address, ca, Some(identity(ca, role)), TLS13).await;
        client.unwrap().reencrypt("u-1", id).await
    })
}

/// Ids of all files that hold data.
fn files(place: &Place) -> BTreeSet<FileId> {
    let contents = place.contents().into_iter();
    let prefixes = contents.filter_map(|(_, bytes)| bytes.get(..12_288).map(<[u8]>::to_vec));
    let opened = prefixes.filter_map(|prefix| open_without_key(&prefix).ok());
    opened.map(|open| open.header.file).collect()
}

fn told(s: &Sidecar) -> Option<Reencryption> {
    s.status().reencryption
}

fn is(s: &Sidecar, id: &str, state: ReencryptionState) -> bool {
    told(s).is_some_and(|told| told.id == id && told.state == state)
}

/// Requests of every kind on keys of its own, until it is stopped; how many keys it wrote. Each is answered as if nothing else went on.
fn writer(s: &Sidecar, name: u32, stop: &AtomicBool) -> u32 {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let answer = s.put(&format!("w{name}-{n}"), format!("{n}").as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
        let read = s.get(&format!("/v1/keys/w{name}-{n}"));
        assert_eq!(read.text(), format!("{n}"));
        let (large, other) = (format!("large{name}"), format!("other{name}"));
        let answer = s.put(&large, &noise(20_000));
        assert_eq!(answer.status, 201, "{}", answer.text());
        let batch = format!(
            r#"{{"operations":[{{"op":"set","key":"{other}","text":"{n}"}},{{"op":"delete","key":"{large}"}}],"preconditions":[{{"key":"{large}","present":true}}]}}"#
        );
        let answer = s.request("POST", "/v1/batch", "", batch.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let list = s.get(&format!("/v1/keys?prefix={other}"));
        assert!(list.text().contains(&other), "{}", list.text());
        let deleted = s.request("DELETE", &format!("/v1/keys/{other}"), "", b"");
        assert_eq!(deleted.status, 204, "{}", deleted.text());
        n += 1;
        assert_eq!(
            s.redis(format!("INCR count{name}\r\n")),
            format!(":{n}\r\n")
        );
    }
    n
}

/// What a watch of the first writer's keys tells until the last one: all of them, in order.
fn watcher(mut events: Events) -> u32 {
    let mut seen = 0;
    loop {
        let change = events.next().unwrap().change();
        let key = change.operations[0].key.clone().unwrap();
        if key == "w0-end" {
            return seen;
        }
        assert_eq!(key, format!("w0-{seen}"));
        seen += 1;
    }
}

fn under_load(strategy: &str) {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    let flags = ["--strategy", strategy];
    let (mut s, address) = spawn_with(&place, &flags);
    s.until("it is ready", |s| s.get("/readyz").status == 200);
    // What does not get shorter by compression.
    let value = |n: usize| noise(100_000 + n);
    for n in 0..200 {
        assert!(s.put(&format!("k{}", n % 120), &value(n % 120)).status < 300);
    }
    assert_eq!(told(&s), None);
    let old = files(&place);
    place.keyring("new", &[(KEY_ID, OLD), ("new", NEW)]);
    s.until("both are loaded", |s| s.status().loaded_key_ids.len() == 2);

    assert!(ask(address, &ca, "backup", "r-1").unwrap_err().is("denied"));
    let stop = AtomicBool::new(false);
    let mut refused = 0;
    let wrote = thread::scope(|scope| {
        // What fails below would wait for the writers for ever.
        let stopped = Stop(&stop);
        let events = Events::open(&s, "?prefix=w0-", "");
        let watcher = scope.spawn(move || watcher(events));
        let writers = [0, 1, 2].map(|name| {
            let (s, stop) = (&s, &stop);
            scope.spawn(move || writer(s, name, stop))
        });
        for id in ["r-1", "r-2"] {
            let begun = ask(address, &ca, "operator", id).unwrap();
            assert_eq!(
                (begun.id.as_str(), begun.state),
                (id, ReencryptionState::Running)
            );
            let others = (0..5).map(|_| ask(address, &ca, "operator", "another"));
            let too_many = others.take_while(|asked| match asked {
                Err(error) => error.is("overloaded"),
                Ok(_) => false,
            });
            let too_many = too_many.count();
            refused += too_many;
            if too_many < 5 {
                // This one was done before.
                s.until("the other one is done", |s| {
                    is(s, "another", ReencryptionState::Done)
                });
                continue;
            }
            s.until("it is done", |s| is(s, id, ReencryptionState::Done));
            let again = ask(address, &ca, "operator", id).unwrap();
            assert_eq!(again.state, ReencryptionState::Done, "done is done");
            assert!(again.done_bytes > 12_000 && again.done_bytes == again.total_bytes);
        }
        drop(stopped);
        let wrote = writers.map(|writer| writer.join().unwrap());
        assert_eq!(s.put("w0-end", b"").status, 201);
        assert_eq!(watcher.join().unwrap(), wrote[0]);
        wrote
    });
    assert!(refused > 1, "another one was refused {refused} times");
    println!("re-encryptions refused while one went on: {refused}, writes meanwhile: {wrote:?}");
    assert!(files(&place).is_disjoint(&old), "an old data key is there");
    assert_eq!(s.status().needed_key_ids.unwrap(), ["new"]);
    let metrics = s.get("/metrics").text();
    assert!(
        metrics.contains("codexstore_reencryption_running 0"),
        "{metrics}"
    );
    assert!(
        metrics.contains("codexstore_reencryption_done_bytes"),
        "{metrics}"
    );
    assert!(s.log().contains("all files are under fresh data keys"));

    // The old key is of no use to anything any more; and what was acknowledged is there.
    place.keyring("new", &[("new", NEW)]);
    s.until("the old one is gone", |s| {
        s.status().loaded_key_ids == ["new"]
    });
    assert!(s.terminate().success());
    let s = place.ready(&flags);
    assert_eq!(
        told(&s),
        None,
        "a sidecar that was started since is asked again"
    );
    for (name, wrote) in wrote.into_iter().enumerate() {
        assert!(wrote > 0);
        for n in 0..wrote {
            let read = s.get(&format!("/v1/keys/w{name}-{n}"));
            assert_eq!(read.text(), format!("{n}"), "w{name}-{n}");
        }
    }
    for n in [0, 7, 119] {
        assert!(s.get(&format!("/v1/keys/k{n}")).body == value(n));
    }
}

#[test]
fn a_snapshot_store_under_load_is_sealed_anew_and_no_request_fails() {
    under_load("snapshot");
}

#[test]
fn a_ledger_under_load_is_sealed_anew_and_no_request_fails() {
    under_load("ledger");
}

#[test]
fn what_cannot_be_done_is_told_and_can_be_asked_for_again() {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    let (s, address) = spawn_with(&place, &["--strategy", "ledger"]);
    s.until("it is ready", |s| s.get("/readyz").status == 200);
    for id in ["", "a/b", "a b", &"x".repeat(65)] {
        let error = ask(address, &ca, "operator", id).unwrap_err();
        assert!(error.is("invalid-argument"), "{error}");
    }
    // Until nothing more fits: what does not get shorter by compression.
    for n in 0.. {
        let answer = s.put(&format!("k{n}"), &noise((8 << 20) - n));
        if answer.status == 507 {
            break;
        }
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    assert_eq!(
        ask(address, &ca, "operator", "r-1").unwrap().state,
        ReencryptionState::Running
    );
    s.until("it ends", |s| !is(s, "r-1", ReencryptionState::Running));
    let failed = told(&s).unwrap();
    assert_eq!(failed.state, ReencryptionState::Failed, "{failed:?}");
    assert_eq!(failed.code.as_deref(), Some("disk-full"));
    assert!(failed.message.unwrap().contains("bytes of"));
    assert!(
        s.get("/metrics")
            .text()
            .contains("codexstore_reencryption_failed 1")
    );
    let again = ask(address, &ca, "operator", "r-1").unwrap();
    assert_eq!(again.state, ReencryptionState::Running, "it is tried again");
    s.until("it ends again", |s| is(s, "r-1", ReencryptionState::Failed));
    assert_eq!(s.get("/readyz").status, 200);
}

#[test]
fn a_store_without_encryption_refuses() {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    let (s, address) = spawn_with(&place, &["--no-encryption"]);
    s.until("it is ready", |s| s.get("/readyz").status == 200);
    let error = ask(address, &ca, "operator", "r-1").unwrap_err();
    assert!(error.is("encryption-mismatch"), "{error}");
    assert_eq!(told(&s), None);
}
