//! Entity tags: optimistic writes and cached reads.

use std::sync::atomic::{AtomicU32, Ordering};

use codexstore_api::client::{Client, Put};

use crate::harness::{Place, runtime};

#[test]
fn writes_happen_only_under_their_conditions() {
    let place = Place::new();
    let s = place.ready(&[]);
    let put = |condition: &str, value: &[u8]| s.request("PUT", "/v1/keys/k", condition, value);
    put("If-Match: *\r\n", b"0").refused(412, "precondition-failed");
    assert_eq!(put("If-None-Match: *\r\n", b"1").status, 201);
    put("If-None-Match: *\r\n", b"2").refused(412, "precondition-failed");
    let tag = s.get("/v1/keys/k").header("etag").unwrap().to_string();
    assert_eq!(
        put(&format!("If-Match: \"other\", {tag}\r\n"), b"3").status,
        204
    );
    put(&format!("If-Match: {tag}\r\n"), b"4").refused(412, "precondition-failed");
    put("If-Match: unquoted\r\n", b"4").refused(400, "invalid-argument");
    assert_eq!(s.get("/v1/keys/k").text(), "3");
    let delete = |condition: &str| s.request("DELETE", "/v1/keys/k", condition, b"");
    delete(&format!("If-Match: {tag}\r\n")).refused(412, "precondition-failed");
    let tag = s.get("/v1/keys/k").header("etag").unwrap().to_string();
    assert_eq!(delete(&format!("If-Match: {tag}\r\n")).status, 204);
}

#[test]
fn a_cached_value_is_not_sent_again() {
    let place = Place::new();
    let s = place.ready(&[]);
    s.put("k", b"value");
    let tag = s.get("/v1/keys/k").header("etag").unwrap().to_string();
    let get = |condition: &str| s.request("GET", "/v1/keys/k", condition, b"");
    let cached = get(&format!("If-None-Match: W/{tag}\r\n"));
    assert_eq!((cached.status, cached.body.len()), (304, 0));
    assert_eq!(cached.header("etag"), Some(tag.as_str()));
    assert_eq!(get("If-None-Match: \"x\"\r\n").text(), "value");
    assert_eq!(get(&format!("If-Match: {tag}\r\n")).text(), "value");
    get("If-Match: \"x\"\r\n").refused(412, "precondition-failed");
}

#[test]
fn of_many_writers_with_the_same_tag_exactly_one_wins() {
    let place = Place::new();
    let s = place.ready(&[]);
    s.put("k", b"0");
    let won = AtomicU32::new(0);
    runtime().block_on(async {
        let client: Client = s.client();
        for round in 0..20 {
            let tag = client.get(b"k").await.unwrap().unwrap().etag;
            let tries = (0..8).map(|n| {
                let client = client.clone();
                let put = Put {
                    if_match: Some(tag.clone()),
                    ..Put::default()
                };
                let value = format!("{round}-{n}");
                tokio::spawn(async move { client.set(b"k", value, &put).await })
            });
            for one in tries.collect::<Vec<_>>() {
                match one.await.unwrap() {
                    Ok(_) => won.fetch_add(1, Ordering::Relaxed),
                    Err(error) => {
                        assert!(error.is("precondition-failed"), "{error}");
                        0
                    }
                };
            }
        }
    });
    assert_eq!(won.into_inner(), 20);
}
