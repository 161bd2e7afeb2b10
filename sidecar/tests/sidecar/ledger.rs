//! History over HTTP, which a ledger has.

use codexstore_api::bodies::History;

use crate::harness::{Place, Sidecar};

fn history(s: &Sidecar, query: &str) -> History {
    let answer = s.get(&format!("/v1/keys/a%2Fk/history{query}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn a_ledger_tells_what_became_of_a_key_and_what_it_was_then() {
    let place = Place::new();
    let ledger = ["--strategy", "ledger"];
    let mut s = place.ready(&ledger);
    assert_eq!(s.status().strategy, "ledger");
    let mut revisions = Vec::new();
    for value in ["one", "two", "three"] {
        let answer = s.request(
            "PUT",
            "/v1/keys/a%2Fk",
            "Codexstore-Actor: alice\r\n",
            value.as_bytes(),
        );
        revisions.push(
            answer
                .header("codexstore-revision")
                .unwrap()
                .parse::<u64>()
                .unwrap(),
        );
        s.put("other", b"x");
    }
    assert_eq!(
        s.request("DELETE", "/v1/keys/a%2Fk", "Codexstore-Actor: bob\r\n", b"")
            .status,
        204
    );
    assert!(s.terminate().success());
    let s = place.ready(&ledger);

    let all = history(&s, "?values=true");
    let seen: Vec<_> = all
        .items
        .iter()
        .map(|v| {
            (
                v.op.as_str(),
                v.actor.as_deref().unwrap(),
                v.value.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("set", "alice", Some("b25l")),
            ("set", "alice", Some("dHdv")),
            ("set", "alice", Some("dGhyZWU=")),
            ("delete", "bob", None),
        ]
    );
    assert_eq!(all.items[1].version, Some(2));
    assert_eq!(all.items[1].created_revision, Some(revisions[0]));
    assert!(all.next.is_none() && all.items.iter().all(|v| !v.time.is_empty()));
    let page = history(&s, "?limit=2");
    assert_eq!(page.items.len(), 2);
    assert!(page.items.iter().all(|v| v.value.is_none()));
    let rest = history(&s, &format!("?from={}", page.next.unwrap()));
    assert_eq!(rest.items.len(), 2);

    let at = |revision: u64| s.get(&format!("/v1/keys/a%2Fk?revision={revision}"));
    assert_eq!(at(revisions[0]).body, b"one");
    assert_eq!(at(revisions[1] + 1).body, b"two");
    let etag = at(revisions[2]).header("etag").unwrap().to_owned();
    assert!(etag.contains(&format!("-{}\"", revisions[2])), "{etag}");
    at(revisions[0] - 1).refused(404, "not-found");
    at(s.status().revision).refused(404, "not-found");
    at(1_000_000).refused(400, "invalid-argument");
    s.get("/v1/keys/a%2Fk?revision=x")
        .refused(400, "invalid-argument");
    s.get("/v1/keys/a%2Fk/history?limit=0")
        .refused(400, "invalid-argument");
    s.request(
        "PUT",
        "/v1/keys/k",
        &format!("Codexstore-Actor: {}\r\n", "x".repeat(257)),
        b"v",
    )
    .refused(400, "invalid-argument");
}

#[test]
fn a_store_that_keeps_the_present_says_so() {
    let place = Place::new();
    let s = place.ready(&[]);
    s.put("k", b"v");
    s.get("/v1/keys/k/history").refused(501, "unsupported");
    s.get("/v1/keys/k?revision=1").refused(501, "unsupported");
    let out = place.command(&["--keep-revisions", "10"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("--strategy ledger"));
}
