//! Who does not use the key that the user made current.

use codexstore_crds::CodexStore;
use serde_json::Value;

use super::super::played::{Cluster, LOOKS};
use super::tests::{MINE, own, write};
use crate::controller::fixtures::claim_store;
use crate::controller::scripted::{STORE, look_again, operator, with};
use crate::metrics::StoreLabels;

async fn start(pods: &[&str]) -> Cluster {
    let store: CodexStore = own(claim_store("1Gi"));
    let api = with(&store).await;
    write(&api, "k1", &["k1"]);
    Cluster::of(api, &store, MINE, pods).await
}

fn in_use(cluster: &Cluster) -> Value {
    let mut store = cluster.api.get(STORE).unwrap();
    let all = store["status"]["conditions"].as_array_mut().unwrap();
    let found = all.iter_mut().find(|c| c["type"] == "KeyInUse");
    found.map(Value::take).unwrap_or_default()
}

/// Looks until this is said, with this value.
async fn until(cluster: &Cluster, value: &str, said: &str) -> Value {
    for _ in 0..LOOKS {
        cluster.look().await;
        let found = in_use(cluster);
        let message = found["message"].as_str().unwrap_or_default();
        if found["status"] == value && message.ends_with(said) {
            return found;
        }
    }
    panic!("{value} {said}: {}", in_use(cluster));
}

/// By when members should use the key, as an operator that has just started shows it.
async fn deadline(cluster: &Cluster) -> i64 {
    let operator = operator(&cluster.api);
    let pods: Vec<_> = cluster.members.iter().map(|m| m.pod.clone()).collect();
    look_again(&operator, &cluster.api, &pods).await.unwrap();
    let labels = StoreLabels {
        namespace: "shop".to_owned(),
        store: "orders".to_owned(),
    };
    operator
        .metrics
        .key_rotation_deadline
        .get_or_create(&labels)
        .get()
}

#[tokio::test]
async fn members_that_do_not_use_a_key_that_was_made_current_are_named_until_they_do() {
    let cluster = Box::pin(start(&["web-0", "web-1"])).await;
    until(&cluster, "True", "have loaded key k1, and need no other").await;
    assert!(!cluster.told("WaitingForMembers"));
    assert_eq!(deadline(&cluster).await, 0);
    cluster.members[1].with(|inside| inside.stuck = true);
    write(&cluster.api, "k2", &["k1", "k2"]);
    let waits = until(&cluster, "False", "wrapped their data keys with it: web-1").await;
    assert_eq!(waits["reason"], "WaitingForMembers");
    assert!(cluster.told("WaitingForMembers"));
    let since: k8s_openapi::jiff::Timestamp = waits["lastTransitionTime"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(deadline(&cluster).await, since.as_second() + 3600);
    // One that does not answer is waited for, too; and what is known stays while the Secret is not good.
    cluster.members[1].with(|inside| inside.frozen = true);
    let frozen = until(&cluster, "False", ")").await;
    assert!(
        frozen["message"].as_str().unwrap().contains("web-1 ("),
        "{frozen}"
    );
    assert_eq!(frozen["lastTransitionTime"], waits["lastTransitionTime"]);
    let secret = cluster.api.remove(MINE).unwrap();
    for _ in 0..2 {
        cluster.look().await;
    }
    assert_eq!(
        in_use(&cluster)["lastTransitionTime"],
        waits["lastTransitionTime"]
    );
    cluster.api.put(MINE, &secret);
    cluster.members[1].with(|inside| (inside.frozen, inside.stuck) = (false, false));
    until(&cluster, "True", "have loaded key k2, and need no other").await;
    assert_eq!(deadline(&cluster).await, 0);
    // Without another key, one that does not answer has a condition of its own.
    cluster.members[0].with(|inside| inside.frozen = true);
    for _ in 0..2 {
        cluster.look().await;
        assert_eq!(in_use(&cluster)["status"], "True");
    }
}
