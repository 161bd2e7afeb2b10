//! Batches: all or nothing.

use codexstore_api::bodies::{Batch, Condition, Operation, Precondition};

use crate::harness::{Place, runtime};

#[test]
fn a_batch_is_one_revision_or_nothing() {
    let place = Place::new();
    let s = place.ready(&[]);
    let post = |body: &str| s.request("POST", "/v1/batch", "", body.as_bytes());
    let done = post(
        r#"{"operations":[{"op":"set","key":"a","text":"1"},{"op":"set","key":"b","value":"AAE="},{"op":"delete","key":"none"}],"preconditions":[{"key":"a","absent":true}]}"#,
    );
    assert_eq!(
        done.text(),
        r#"{"revision":1,"created":2,"updated":0,"deleted":0}"#
    );
    assert_eq!(s.get("/v1/keys/b").body, [0, 1]);
    assert_eq!(s.get("/v1/keys/a").header("codexstore-revision"), Some("1"));
    for failing in [
        r#"{"key":"a","absent":true}"#,
        r#"{"key":"x","present":true}"#,
        r#"{"key":"a","revision":9}"#,
    ] {
        post(&format!(
            r#"{{"operations":[{{"op":"set","key":"a","text":"2"}}],"preconditions":[{failing}]}}"#
        ))
        .refused(412, "precondition-failed");
    }
    assert_eq!(s.get("/v1/keys/a").text(), "1");
    let last = post(
        r#"{"operations":[{"op":"delete","key":"a"},{"op":"set","key":"a","text":"last"}],"preconditions":[{"key":"a","revision":1}]}"#,
    );
    assert_eq!(last.status, 200, "{last:?}");
    assert_eq!(s.get("/v1/keys/a").text(), "last");
}

#[test]
fn a_batch_that_is_not_one_is_refused_and_changes_nothing() {
    let place = Place::new();
    let s = place.ready(&["--max-value", "1Ki"]);
    let post = |body: &str| s.request("POST", "/v1/batch", "", body.as_bytes());
    for bad in [
        "",
        "[]",
        "{",
        "{}",
        r#"{"operations":[{"op":"incr","key":"a"}]}"#,
        r#"{"operations":[{"op":"set","key":"a"}]}"#,
        r#"{"operations":[{"op":"set","key":"a","text":"1"},{"op":"set","key":"b","value":"?"}]}"#,
        r#"{"operations":[{"op":"set","key":"a","text":"1","ttl":"0s"}]}"#,
        r#"{"operations":[],"conditions":[]}"#,
    ] {
        post(bad).refused(400, "invalid-argument");
    }
    post(r#"{"operations":[{"op":"set","key":"a","text":"1"},{"op":"delete","key":""}]}"#)
        .refused(400, "invalid-key");
    let large = "x".repeat(1025);
    post(&format!(
        r#"{{"operations":[{{"op":"set","key":"a","text":"{large}"}}]}}"#
    ))
    .refused(413, "too-large");
    let deep = "[".repeat(100_000);
    post(&deep).refused(400, "invalid-argument");
    assert_eq!(s.status().revision, 0);
}

#[test]
fn the_client_sends_batches_of_any_bytes() {
    let place = Place::new();
    let s = place.ready(&[]);
    runtime().block_on(async {
        let client = s.client();
        let batch = Batch {
            operations: vec![
                Operation::set(&[0xff], &[0xfe, 0]).ttl(std::time::Duration::from_mins(1)),
                Operation::set("ü".as_bytes(), b"text"),
            ],
            preconditions: vec![Precondition::new(&[0xff], Condition::Absent)],
        };
        assert_eq!(client.batch(&batch).await.unwrap().created, 2);
        let found = client.get(&[0xff]).await.unwrap().unwrap();
        assert_eq!(&found.value[..], [0xfe, 0]);
        assert!(found.expires_at.is_some());
        let again = client.batch(&batch).await.unwrap_err();
        assert!(again.is("precondition-failed"), "{again}");
        assert_eq!(again.exit_code(), codexstore_api::codes::EXIT_CONCURRENCY);
    });
}
