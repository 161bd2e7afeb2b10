//! The keys of a store that runs: moved to another one, and what still needs the one of before.

use std::net::SocketAddr;

use codexstore_api::bodies::RewrapTold;
use codexstore_api::{Client, Error};

use crate::admin::{Ca, TLS13, ca, connect, identity, install, start};
use crate::harness::{KEY_ID, Place, Sidecar, runtime};
use crate::restore::{backup, client, restore};

const OLD: &[u8] = &[7; 32];
const NEW: &[u8] = &[9; 32];

fn rewrap(address: SocketAddr, ca: &Ca, role: &'static str) -> Result<RewrapTold, Error> {
    runtime().block_on(async {
        let client: Client = connect(address, ca, Some(identity(ca, role)), TLS13)
            .await
            .unwrap();
        client.rewrap("u-1").await
    })
}

fn needed(s: &Sidecar) -> Vec<String> {
    s.status().needed_key_ids.unwrap()
}

/// How many files the one key wraps that is needed, and whether something is in them.
fn wrapped(s: &Sidecar) -> (u64, bool) {
    let status = s.status();
    let keys = status.needed_keys.unwrap();
    let ids: Vec<_> = keys.keys().cloned().collect();
    assert_eq!(status.needed_key_ids, Some(ids));
    assert_eq!(keys.len(), 1);
    let all = keys.values().next().unwrap();
    (all.files, all.bytes >= 12_288)
}

#[test]
fn a_rewrap_makes_the_key_of_before_superfluous() {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    let (mut s, address) = start(&place);
    s.put("k", b"value");
    assert_eq!(needed(&s), [KEY_ID]);
    assert_eq!(wrapped(&s), (1, true));
    place.keyring("new", &[(KEY_ID, OLD), ("new", NEW)]);
    s.until("both are loaded", |s| s.status().loaded_key_ids.len() == 2);
    assert_eq!(needed(&s), [KEY_ID], "nothing was written with the new one");

    assert!(rewrap(address, &ca, "backup").unwrap_err().is("denied"));
    let done = rewrap(address, &ca, "operator").unwrap();
    assert!(done.files > 0 && done.slots > 0, "{done:?}");
    assert_eq!(
        (needed(&s), s.status().key_id),
        (vec!["new".to_owned()], "new".to_owned())
    );
    assert_eq!(wrapped(&s), (done.files, true));
    assert_eq!(
        rewrap(address, &ca, "operator").unwrap().slots,
        0,
        "done is done"
    );

    place.keyring("new", &[("new", NEW)]);
    s.until("the old one is gone", |s| {
        s.status().loaded_key_ids == ["new"]
    });
    assert_eq!(s.put("k2", b"value").status, 201);
    assert!(s.terminate().success());
    let s = place.ready(&[]);
    assert_eq!(s.get("/v1/keys/k").text(), "value");
}

#[test]
fn what_a_restore_set_aside_needs_the_key_that_it_was_written_with() {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    let (mut s, address) = start(&place);
    s.put("k", b"value");
    place.keyring("new", &[(KEY_ID, OLD), ("new", NEW)]);
    s.until("both are loaded", |s| s.status().loaded_key_ids.len() == 2);
    runtime().block_on(async {
        let bytes = backup(address, &ca).await;
        let client = client(address, &ca, "restore").await;
        restore(&client, &bytes, false).await.unwrap();
    });
    rewrap(address, &ca, "operator").unwrap();
    let aside_needs = |s: &Sidecar| s.status().set_aside_key_ids;
    let old = Some(vec![KEY_ID.to_owned()]);
    assert_eq!(
        (needed(&s), aside_needs(&s)),
        (vec!["new".to_owned()], old.clone())
    );

    let aside = std::fs::read_dir(place.dir.path()).unwrap();
    let mut aside = aside.map(|entry| entry.unwrap().path());
    let aside = aside.find(|path| path.to_string_lossy().contains("data.before-"));
    let aside = aside.unwrap();
    let files = std::fs::read_dir(&aside).unwrap();
    let mut files = files.map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.metadata().unwrap().len() > 12_288);
    let file = file.unwrap();
    let good = std::fs::read(&file).unwrap();
    assert!(s.terminate().success());
    let mut damaged = good.clone();
    damaged[..12_288].fill(1);
    std::fs::write(&file, damaged).unwrap();
    let (mut s, _) = start(&place);
    assert_eq!(aside_needs(&s), None, "it may need any key");
    assert!(s.log().contains("does not say which keys"), "{}", s.log());
    assert!(s.terminate().success());
    std::fs::write(&file, good).unwrap();
    let (mut s, _) = start(&place);
    assert_eq!(aside_needs(&s), old);
    assert!(s.terminate().success());
    std::fs::remove_dir_all(&aside).unwrap();
    let (s, _) = start(&place);
    assert_eq!(aside_needs(&s), Some(Vec::new()));
}
