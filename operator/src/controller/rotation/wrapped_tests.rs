//! What each key wraps, over the members that say it.

use std::collections::BTreeMap;

use codexstore_api::status::NeededKey;
use codexstore_crds::rotation::Mode;
use serde_json::{Value, json};

use super::played::{Cluster, LOOKS};
use crate::controller::scripted::STORE;

/// What the status says: whether a key is the first one, its files, and their bytes.
async fn shown(cluster: &Cluster) -> Vec<(bool, Value, Value)> {
    cluster.look().await;
    let mut status = cluster.api.get(STORE).unwrap()["status"].take();
    let keys = status["encryptionKeys"].as_array_mut().unwrap();
    let of = |key: &mut Value| {
        let first = key["id"] == cluster.first;
        (first, key["files"].take(), key["bytes"].take())
    };
    keys.iter_mut().map(of).collect()
}

fn says(cluster: &Cluster, member: usize, keys: &[(&str, u64, u64)]) {
    let of = |(id, files, bytes): &(&str, u64, u64)| {
        let (files, bytes) = (*files, *bytes);
        ((*id).to_owned(), NeededKey { files, bytes })
    };
    let keys: BTreeMap<_, _> = keys.iter().map(of).collect();
    cluster.members[member].with(|inside| inside.status.needed_keys = Some(keys));
}

#[tokio::test]
async fn what_a_key_wraps_is_summed_over_the_members_that_say_it() {
    let pods = ["web-0", "web-1", "web-2"];
    let cluster = Box::pin(Cluster::start(Mode::Rewrap, &pods)).await;
    let first = cluster.first.clone();
    assert_eq!(
        shown(&cluster).await,
        [(true, Value::Null, Value::Null)],
        "members of an earlier version say nothing, which is not none"
    );
    says(&cluster, 0, &[(&first, 2, 100)]);
    says(&cluster, 1, &[(&first, 3, 50), ("of-somewhere-else", 9, 9)]);
    assert_eq!(shown(&cluster).await, [(true, json!(5), json!(150))]);
    // A key that is to become the current one wraps nothing yet.
    cluster.ask("now", &json!({}));
    let mut both = Vec::new();
    for _ in 0..LOOKS {
        if both.len() < 2 {
            both = shown(&cluster).await;
        }
    }
    both.sort_by_key(|(first, ..)| *first);
    let wanted = [(false, json!(0), json!(0)), (true, json!(5), json!(150))];
    assert_eq!(both, wanted);
    // More than any disk has is no overflow.
    says(&cluster, 1, &[(&first, u64::MAX, u64::MAX)]);
    let most = shown(&cluster).await;
    let most = most.iter().find(|(first, ..)| *first).unwrap();
    assert_eq!((&most.1, &most.2), (&json!(i64::MAX), &json!(i64::MAX)));
}
