//! History, and reads at a revision, which a ledger has.

use codexstore_api::bodies::History;
use codexstore_api::grpc::{DeleteRequest, GetRequest, StatusRequest};
use codexstore_api::status::State;
use tonic::Code;

use crate::grpc::{client, get, refused, set};
use crate::harness::{Place, Sidecar, runtime};

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

/// The anchor that gRPC tells; empty: none.
fn told_by_grpc(s: &Sidecar) -> String {
    runtime().block_on(async {
        let status = client(s).await.status(StatusRequest {}).await.unwrap();
        status.into_inner().anchor
    })
}

#[test]
fn a_ledger_tells_its_anchor_and_is_not_opened_where_it_was_rolled_back() {
    let place = Place::new();
    let ledger = ["--strategy", "ledger"];
    let mut s = place.ready(&ledger);
    s.put("k", b"one");
    let first = s.status().anchor.unwrap();
    assert_eq!(told_by_grpc(&s), first);
    let document: serde_json::Value = serde_json::from_slice(&s.get("/openapi.json").body).unwrap();
    let described = &document["components"]["schemas"]["Status"]["properties"]["anchor"];
    assert!(described.is_object(), "{document}");
    assert!(s.terminate().success());
    let copy = place.contents();

    let with = |anchor: &str| ["--strategy", "ledger", "--anchor", anchor].map(str::to_owned);
    let of_first = with(&first);
    let mut s = place.ready(&of_first.each_ref().map(String::as_str));
    s.put("k", b"two");
    let second = s.status().anchor.unwrap();
    assert_ne!(first, second);
    assert_eq!(second.split(':').nth(2), Some("2"));
    assert!(s.terminate().success());

    std::fs::remove_dir_all(place.path("data")).unwrap();
    std::fs::create_dir(place.path("data")).unwrap();
    for (name, bytes) in copy {
        std::fs::write(place.path("data").join(name), bytes).unwrap();
    }
    let of_second = with(&second);
    let mut s = place.start(&of_second.each_ref().map(String::as_str));
    s.until("it is refused, and told why", |s| {
        let status = s.status();
        let told = status.message.unwrap_or_default();
        status.state == State::IntegrityError && told.contains("revisions 2 to 2 are lost")
    });
    assert_eq!(s.status().anchor, None);
    assert_eq!(told_by_grpc(&s), "");
    assert_eq!(s.get("/readyz").status, 503);
    assert_eq!(s.get("/v1/keys/k").status, 503);
    assert!(s.terminate().success());
    let s = place.ready(&of_first.each_ref().map(String::as_str));
    assert_eq!(s.get("/v1/keys/k").body, b"one");
}

#[test]
fn grpc_reads_what_a_key_was_then_too() {
    let place = Place::new();
    let s = place.ready(&["--strategy", "ledger"]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        let one = kv.set(set("k", "one")).await.unwrap().into_inner().revision;
        kv.set(set("other", "x")).await.unwrap();
        let two = kv.set(set("k", "two")).await.unwrap().into_inner().revision;
        let delete = DeleteRequest {
            key: "k".into(),
            ..DeleteRequest::default()
        };
        let gone = kv.delete(delete).await.unwrap().into_inner().revision;
        let mut at = async |revision| {
            let then = GetRequest {
                revision: Some(revision),
                ..get("k")
            };
            kv.get(then).await.map(|found| found.into_inner().entry)
        };
        for (revision, value, written) in
            [(one, "one", one), (two - 1, "one", one), (two, "two", two)]
        {
            let entry = at(revision).await.unwrap().unwrap();
            assert_eq!(entry.value, value, "{revision}");
            assert_eq!((entry.revision, entry.created_revision), (written, one));
        }
        for revision in [one - 1, gone] {
            let status = at(revision).await.unwrap_err();
            refused(&status, Code::NotFound, "not-found");
        }
        let later = at(1_000_000).await.unwrap_err();
        refused(&later, Code::InvalidArgument, "invalid-argument");
    });
}

#[test]
fn a_store_that_keeps_the_present_says_so() {
    let place = Place::new();
    let s = place.ready(&[]);
    assert_eq!(s.status().anchor, None);
    assert_eq!(told_by_grpc(&s), "");
    s.put("k", b"v");
    let then = GetRequest {
        revision: Some(1),
        ..get("k")
    };
    runtime().block_on(async {
        let status = client(&s).await.get(then).await.unwrap_err();
        refused(&status, Code::Unimplemented, "unsupported");
    });
    s.get("/v1/keys/k/history").refused(501, "unsupported");
    s.get("/v1/keys/k?revision=1").refused(501, "unsupported");
    let out = place.command(&["--keep-revisions", "10"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("--strategy ledger"));
}
