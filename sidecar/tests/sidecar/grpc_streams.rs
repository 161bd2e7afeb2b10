//! Streams of gRPC: lists, watches and histories.

use std::time::{Duration, Instant};

use bytes::Bytes;
use codexstore_api::grpc::change::operation::Operation as Did;
use codexstore_api::grpc::operation::{self, Operation as Op};
use codexstore_api::grpc::{
    BatchRequest, DeletePrefixRequest, DeleteRequest, HistoryRequest, ListRequest, Operation,
    SetRequest, WatchRequest,
};
use tonic::Code;
use tonic_types::StatusExt;

use crate::grpc::{client, get, refused, set};
use crate::harness::{Place, Sidecar, runtime};

#[test]
fn a_list_streams_pages_in_order_up_to_its_limit() {
    let place = Place::new();
    let s = place.ready(&[]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        for chunk in (0..2_500).collect::<Vec<u32>>().chunks(500) {
            let operations = chunk.iter().map(|n| Operation {
                operation: Some(Op::Set(operation::Set {
                    key: format!("k/{n:04}").into(),
                    value: vec![b'v'; 200].into(),
                    ttl_ms: None,
                })),
            });
            let request = BatchRequest {
                operations: operations.collect(),
                preconditions: vec![],
                ..BatchRequest::default()
            };
            kv.batch(request).await.unwrap();
        }
        kv.set(set("other", "v")).await.unwrap();
        let mut list = async |request| {
            let mut pages = kv.list(request).await.unwrap().into_inner();
            let (mut entries, mut count) = (Vec::new(), 0);
            while let Some(page) = pages.message().await.unwrap() {
                entries.extend(page.entries);
                count += 1;
            }
            (entries, count)
        };
        let all = ListRequest {
            prefix: "k/".into(),
            ..ListRequest::default()
        };
        let (entries, pages) = list(all.clone()).await;
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
        let wanted: Vec<_> = (0..2_500)
            .map(|n| Bytes::from(format!("k/{n:04}")))
            .collect();
        assert_eq!(keys, wanted);
        assert!(
            pages > 2 && entries.iter().all(|entry| entry.value.len() == 200),
            "{pages}"
        );
        let (entries, _) = list(ListRequest {
            limit: 1_500,
            keys_only: true,
            ..all.clone()
        })
        .await;
        assert_eq!(entries.len(), 1_500);
        assert!(
            entries
                .iter()
                .all(|entry| entry.value.is_empty() && entry.revision > 0)
        );
        let (entries, _) = list(ListRequest {
            from: "k/2490".into(),
            r#match: "*5".into(),
            ..all
        })
        .await;
        assert_eq!(entries.len(), 1);

        let remove = |prefix: &'static str, all| DeletePrefixRequest {
            prefix: prefix.into(),
            all,
        };
        refused(
            &kv.delete_prefix(remove("", false)).await.unwrap_err(),
            Code::InvalidArgument,
            "invalid-argument",
        );
        assert_eq!(
            kv.delete_prefix(remove("k/", false))
                .await
                .unwrap()
                .into_inner()
                .deleted,
            2_500
        );
        assert_eq!(
            kv.delete_prefix(remove("", true))
                .await
                .unwrap()
                .into_inner()
                .deleted,
            1
        );
    });
}

#[test]
fn a_client_that_leaves_a_list_or_takes_it_slowly_holds_up_nobody() {
    let place = Place::new();
    let s = place.ready(&["--io-timeout", "1s"]);
    let turned_away = |s: &Sidecar| {
        let metrics = s.get("/metrics").text();
        metrics.contains(r#"codexstore_rejected_total{reason="slow_reader"} 1"#)
    };
    runtime().block_on(async {
        let mut kv = client(&s).await;
        for n in 0..64 {
            kv.set(set(&format!("k/{n:02}"), vec![b'v'; 200 << 10]))
                .await
                .unwrap();
        }
        let all = ListRequest {
            prefix: "k/".into(),
            ..ListRequest::default()
        };
        // More of them than there are places to compute pages.
        for _ in 0..16 {
            let mut pages = kv.list(all.clone()).await.unwrap().into_inner();
            assert!(pages.message().await.unwrap().is_some());
        }
        let mut other = client(&s).await;
        let mut slow = other.list(all).await.unwrap().into_inner();
        assert!(slow.message().await.unwrap().is_some());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !turned_away(&s) {
            assert!(Instant::now() < deadline, "it is never ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        kv.set(set("x", "v")).await.unwrap();
        // Its connection was ended, as a slow reader's is.
        let mut left = 0;
        while let Ok(Some(_)) = slow.message().await {
            left += 1;
        }
        assert!(left < 63, "{left}");
        assert!(other.get(get("x")).await.is_err());
    });
    assert!(turned_away(&s), "{}", s.get("/metrics").text());
}

#[test]
fn a_watch_goes_on_where_an_earlier_one_was() {
    let place = Place::new();
    let s = place.ready(&[]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        let watch = WatchRequest {
            prefix: "a/".into(),
            ..WatchRequest::default()
        };
        let mut changes = kv.watch(watch.clone()).await.unwrap().into_inner();
        let begin = changes.message().await.unwrap().unwrap();
        assert!(begin.change.is_none() && begin.lineage.len() == 16);
        kv.set(set("b", "unseen")).await.unwrap();
        let named = SetRequest {
            actor: "alice".into(),
            ..set("a/1", "one")
        };
        kv.set(named).await.unwrap();
        let first = changes.message().await.unwrap().unwrap();
        let change = first.change.unwrap();
        assert_eq!(change.actor, "alice");
        let [op] = &change.operations[..] else {
            panic!("{change:?}")
        };
        let Some(Did::Set(entry)) = &op.operation else {
            panic!("{op:?}")
        };
        assert!(entry.key == "a/1" && entry.value == "one");
        drop(changes);

        kv.delete(DeleteRequest {
            key: "a/1".into(),
            ..DeleteRequest::default()
        })
        .await
        .unwrap();
        let resumed = WatchRequest {
            from: first.resume_from,
            lineage: first.lineage.clone(),
            ..watch.clone()
        };
        let mut changes = kv.watch(resumed).await.unwrap().into_inner();
        assert!(changes.message().await.unwrap().unwrap().change.is_none());
        let second = changes.message().await.unwrap().unwrap().change.unwrap();
        assert_eq!(
            second.operations[0].operation,
            Some(Did::Delete("a/1".into()))
        );

        let other = WatchRequest {
            lineage: "0123456789abcdef".into(),
            ..watch.clone()
        };
        let gone = kv.watch(other).await.unwrap_err();
        refused(&gone, Code::OutOfRange, "past-gone");
        let metadata = gone
            .get_error_details()
            .error_info()
            .unwrap()
            .metadata
            .clone();
        assert_eq!(metadata["revision"], second.revision.to_string());
        let ahead = WatchRequest {
            from: 1000,
            ..watch
        };
        refused(
            &kv.watch(ahead).await.unwrap_err(),
            Code::InvalidArgument,
            "invalid-argument",
        );
        let history = HistoryRequest {
            key: "a/1".into(),
            ..HistoryRequest::default()
        };
        let mut versions = kv.history(history).await.unwrap().into_inner();
        refused(
            &versions.message().await.unwrap_err(),
            Code::Unimplemented,
            "unsupported",
        );
    });
}

#[test]
fn a_ledger_streams_what_became_of_a_key() {
    let place = Place::new();
    let s = place.ready(&["--strategy", "ledger"]);
    runtime().block_on(async {
        let mut kv = client(&s).await;
        for n in 0..250 {
            kv.set(set("k", format!("{n}"))).await.unwrap();
        }
        let bob = DeleteRequest {
            key: "k".into(),
            actor: "bob".into(),
            ..DeleteRequest::default()
        };
        kv.delete(bob).await.unwrap();
        let mut all = async |limit| {
            let request = HistoryRequest {
                key: "k".into(),
                from: 0,
                limit,
            };
            let mut versions = kv.history(request).await.unwrap().into_inner();
            let mut found = Vec::new();
            while let Some(version) = versions.message().await.unwrap() {
                found.push(version);
            }
            found
        };
        let found = all(0).await;
        assert_eq!(found.len(), 251);
        for (n, version) in found[..250].iter().enumerate() {
            let entry = version.entry.as_ref().unwrap();
            assert!(entry.value == format!("{n}") && entry.version == n as u64 + 1);
            assert!(entry.revision == version.revision && version.time_ms > 0);
        }
        assert!(found[250].entry.is_none() && !found[250].expired && found[250].actor == "bob");
        assert_eq!(all(130).await.len(), 130);
    });
}
