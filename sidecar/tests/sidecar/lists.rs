//! Lists, and deletion by prefix.

use codexstore_api::bodies::{List, ListQuery};

use crate::harness::{Place, Sidecar, Stop, runtime};

fn fill(s: &Sidecar, keys: impl Iterator<Item = String>) {
    let operations: Vec<String> = keys
        .map(|key| format!(r#"{{"op":"set","key":"{key}","text":"v-{key}"}}"#))
        .collect();
    let body = format!(r#"{{"operations":[{}]}}"#, operations.join(","));
    assert_eq!(
        s.request("POST", "/v1/batch", "", body.as_bytes()).status,
        200
    );
}

fn list(s: &Sidecar, query: &str) -> List {
    let answer = s.get(&format!("/v1/keys{query}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

#[track_caller]
fn check(s: &Sidecar, query: &str, wanted: &[&str]) {
    let found: Vec<String> = list(s, query)
        .items
        .into_iter()
        .map(|item| item.key.unwrap())
        .collect();
    assert_eq!(found, wanted, "{query}");
}

#[test]
fn keys_are_listed_by_prefix_range_and_pattern() {
    let place = Place::new();
    let s = place.ready(&[]);
    check(&s, "", &[]);
    fill(
        &s,
        ["a/1", "a/2", "b/1", "b/2", "c d"]
            .map(String::from)
            .into_iter(),
    );
    check(&s, "", &["a/1", "a/2", "b/1", "b/2", "c d"]);
    check(&s, "?prefix=a/", &["a/1", "a/2"]);
    check(&s, "?prefix=a%2F", &["a/1", "a/2"]);
    check(&s, "?prefix=c+d", &["c d"]);
    check(&s, "?from=a/2&to=b/2", &["a/2", "b/1"]);
    check(&s, "?match=*/1", &["a/1", "b/1"]);
    check(&s, "?match=[ab]/[%5E1]&prefix=b", &["b/2"]);
    check(&s, "?match=?/2&from=b", &["b/2"]);
    let with = list(&s, "?prefix=a/1&values=true");
    assert_eq!(with.items[0].value_bytes().unwrap().unwrap(), b"v-a/1");
    assert_eq!(
        (
            with.items[0].revision,
            with.items[0].created_revision,
            with.revision
        ),
        (1, 1, 1)
    );
    assert!(list(&s, "?prefix=a/1").items[0].value.is_none());
    for bad in [
        "?limit=0",
        "?limit=10001",
        "?limit=x",
        "?cursor=%21",
        "?prefx=a",
        "?values=2",
    ] {
        s.get(&format!("/v1/keys{bad}"))
            .refused(400, "invalid-argument");
    }
}

#[test]
fn a_cursor_goes_on_where_the_page_ended_until_all_is_seen() {
    let place = Place::new();
    let s = place.ready(&[]);
    fill(&s, (0..2500).map(|n| format!("k{n:05}")));
    let default = list(&s, "");
    assert_eq!(default.items.len(), 1000);
    let mut seen = Vec::new();
    runtime().block_on(async {
        let client = s.client();
        let mut query = ListQuery {
            limit: Some(333),
            ..ListQuery::default()
        };
        loop {
            let page = client.list(&query).await.unwrap();
            assert!(page.items.len() <= 333);
            seen.extend(page.items.into_iter().map(|item| item.key.unwrap()));
            match page.cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => break,
            }
        }
    });
    assert_eq!(
        seen,
        (0..2500).map(|n| format!("k{n:05}")).collect::<Vec<_>>()
    );
}

#[test]
fn a_page_of_large_values_ends_early_and_stays_bounded() {
    let place = Place::new();
    let s = place.ready(&[]);
    for n in 0..12 {
        assert_eq!(s.put(&format!("big{n:02}"), &vec![n; 1 << 20]).status, 201);
    }
    let mut query = "?values=true&limit=10000".to_string();
    let (mut pages, mut seen) = (0, 0);
    loop {
        let answer = s.get(&format!("/v1/keys{query}"));
        assert!(answer.body.len() < 16 << 20, "{}", answer.body.len());
        let page: List = serde_json::from_slice(&answer.body).unwrap();
        pages += 1;
        seen += page.items.len();
        match page.cursor {
            Some(cursor) => query = format!("?values=true&limit=10000&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, 12);
    assert!(pages > 1);
}

#[test]
fn keys_that_are_not_text_are_listed_in_base64() {
    let place = Place::new();
    let s = place.ready(&[]);
    s.put("%ff%00", b"x");
    let page = list(&s, "");
    assert_eq!(page.items[0].key, None);
    assert_eq!(page.items[0].key_bytes().unwrap(), [0xff, 0]);
}

#[test]
fn a_prefix_is_deleted_and_everything_only_when_that_is_said() {
    let place = Place::new();
    let s = place.ready(&[]);
    fill(&s, ["a1", "a2", "b1"].map(String::from).into_iter());
    s.request("DELETE", "/v1/keys", "", b"")
        .refused(400, "invalid-argument");
    s.request("DELETE", "/v1/keys?prefix=", "", b"")
        .refused(400, "invalid-argument");
    s.request("DELETE", "/v1/keys?prefix=&all=false", "", b"")
        .refused(400, "invalid-argument");
    let gone = s.request("DELETE", "/v1/keys?prefix=a", "", b"");
    assert_eq!(
        (gone.status, gone.text().as_str()),
        (200, r#"{"deleted":2,"revision":2}"#)
    );
    check(&s, "", &["b1"]);
    let all = runtime().block_on(async { s.client().delete_prefix(b"", true).await.unwrap() });
    assert_eq!(all.deleted, 1);
    check(&s, "", &[]);
}

#[test]
fn a_page_shows_one_point_in_time() {
    let place = Place::new();
    let s = place.ready(&["--no-encryption"]);
    fill(&s, (0..9_000).map(|n| format!("k{n:05}")));
    let pair = |n: u32| {
        let body = format!(
            r#"{{"operations":[{{"op":"set","key":"a","text":"{n}"}},{{"op":"set","key":"z","text":"{n}"}}]}}"#
        );
        assert_eq!(
            s.request("POST", "/v1/batch", "", body.as_bytes()).status,
            200
        );
    };
    pair(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // What fails below would wait for the writer for ever.
        let _stopped = Stop(&done);
        scope.spawn(|| {
            for n in 1.. {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                pair(n);
            }
        });
        for _ in 0..30 {
            let page = list(&s, "?limit=10000&values=true");
            let (first, last) = (page.items.first().unwrap(), page.items.last().unwrap());
            assert_eq!((page.items.len(), page.cursor.is_none()), (9_002, true));
            assert_eq!(first.value, last.value);
        }
    });
}
