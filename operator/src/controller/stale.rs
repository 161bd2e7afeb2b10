//! Looks that are told of the past, twice of the same, or of what is not theirs.

use std::sync::Arc;

use codexstore_crds::store::ReclaimPolicy;
use codexstore_crds::{CodexStore, desired};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use serde_json::json;

use super::fake_api::FakeApi;
use super::fixtures::{claim_store, pod_of};
use super::reconcile::{Found, reconcile};
use super::scripted::{CLAIM, KEYRING, SECRETS, STORE, look, look_again, operator, with};

fn cached(api: &FakeApi) -> CodexStore {
    serde_json::from_value(api.get(STORE).unwrap()).unwrap()
}

fn message(api: &FakeApi, pod: &str) -> String {
    let store = api.get(STORE).unwrap();
    let all = store["status"]["members"].as_array().unwrap();
    let found = all.iter().find(|m| m["pod"] == pod).unwrap();
    assert_eq!(found["ready"], false);
    found["message"].as_str().unwrap().to_owned()
}

/// The one event of this reason about a pod.
fn told(api: &FakeApi, reason: &str, pod: &Pod) -> String {
    let all = api.whole_events();
    let mut found = all.iter().filter(|e| {
        e["reason"] == reason
            && e["regarding"]["kind"] == "Pod"
            && e["regarding"]["apiVersion"] == "v1"
            && e["regarding"]["namespace"] == "shop"
            && e["regarding"]["name"] == pod.name_any()
            && e["regarding"]["uid"] == pod.uid().unwrap()
    });
    let note = found.next().unwrap()["note"].as_str().unwrap().to_owned();
    assert_eq!(found.next(), None);
    note
}

#[tokio::test]
async fn a_recreated_pod_that_waits_for_a_deleted_keyring_is_told_so_itself() {
    let api = with(&claim_store("1Gi")).await;
    let operator = operator(&api);
    let mut pod = pod_of(&claim_store("1Gi"), "web-0");
    look_again(&operator, &api, std::slice::from_ref(&pod))
        .await
        .unwrap();
    api.remove(KEYRING);
    // The same operator, which remembers a good keyring; the pod of that name is another one.
    pod.metadata.uid = Some("another-pod-uid".into());
    for _ in 0..2 {
        look_again(&operator, &api, std::slice::from_ref(&pod))
            .await
            .unwrap();
    }
    let note = told(&api, "SecretMissing", &pod);
    for said in [note, message(&api, "web-0")] {
        assert!(said.contains("Secret cxs-orders-keyring is gone"), "{said}");
        assert!(said.contains("put the Secret back"), "{said}");
    }
    assert!(message(&api, "web-0").starts_with("SecretMissing: "));
}

#[tokio::test]
async fn a_claim_of_another_store_is_told_on_the_pod_and_left_alone() {
    let api = with(&claim_store("1Gi")).await;
    let mut theirs = desired::member_claim(&claim_store("1Gi"), "web-0", false).unwrap();
    let labels = theirs.metadata.labels.as_mut().unwrap();
    labels.insert("codexstore.dev/store".into(), "other".into());
    api.put(CLAIM, &theirs);
    let before = api.get(CLAIM).unwrap();
    let pod = pod_of(&claim_store("1Gi"), "web-0");
    let store = cached(&api);
    reconcile(
        &operator(&api),
        &store,
        Found {
            pods: &[Arc::new(pod.clone())],
            ..Found::default()
        },
    )
    .await
    .unwrap();
    let note = told(&api, "ForeignObject", &pod);
    assert!(
        note.contains("PersistentVolumeClaim cxs-orders-web-0"),
        "{note}"
    );
    assert!(message(&api, "web-0").starts_with("ForeignObject: PersistentVolumeClaim"));
    assert_eq!(api.get(CLAIM).unwrap(), before);
}

#[tokio::test]
async fn a_second_look_at_the_same_writes_nothing() {
    let foreign = json!({"metadata": {"name": "cxs-orders-web-0"}});
    for (what, spoil) in [
        ("all is well", None),
        ("no keyring", Some(KEYRING)),
        ("a foreign claim", Some(CLAIM)),
    ] {
        let api = with(&claim_store("1Gi")).await;
        let operator = operator(&api);
        let pods = [pod_of(&claim_store("1Gi"), "web-0")];
        look_again(&operator, &api, &pods).await.unwrap();
        match spoil {
            Some(CLAIM) => api.put(CLAIM, &foreign),
            Some(path) => drop(api.remove(path)),
            None => {}
        }
        let operator = super::scripted::operator(&api);
        look_again(&operator, &api, &pods).await.unwrap();
        let before = api.writes();
        for _ in 0..2 {
            look_again(&operator, &api, &pods).await.unwrap();
        }
        assert_eq!(api.writes() - before, 0, "{what}: {:?}", api.calls());
    }
}

#[tokio::test]
async fn a_cached_store_that_was_recreated_since_gives_nothing_to_a_dead_owner() {
    let mut old = claim_store("1Gi");
    old.spec.volume.claim.as_mut().unwrap().reclaim_policy = ReclaimPolicy::Delete;
    let api = with(&old).await;
    // Deleted with its claims orphaned, and created again to keep them.
    let mut new = claim_store("1Gi");
    new.metadata.uid = Some("another-uid".into());
    api.put(STORE, &new);
    let claim = desired::member_claim(&new, "web-0", false).unwrap();
    api.put(CLAIM, &claim);
    look(&api, &[]).await.unwrap();
    let before = |path: &str| api.get(path).unwrap();
    let server = format!("{SECRETS}/cxs-orders-server");
    let was = [before(CLAIM), before(&server), before(STORE)];
    let claim: PersistentVolumeClaim = serde_json::from_value(before(CLAIM)).unwrap();
    let pods = ["web-0", "web-1"].map(|name| Arc::new(pod_of(&old, name)));
    reconcile(
        &operator(&api),
        &old,
        Found {
            pods: &pods,
            claims: &[Arc::new(claim)],
            ..Found::default()
        },
    )
    .await
    .unwrap();
    assert_eq!([before(CLAIM), before(&server), before(STORE)], was);
    assert!(api.get(&CLAIM.replace("web-0", "web-1")).is_none());
}

#[tokio::test]
async fn a_cached_policy_that_was_changed_since_does_not_have_claims_collected() {
    let mut old = claim_store("1Gi");
    old.spec.volume.claim.as_mut().unwrap().reclaim_policy = ReclaimPolicy::Delete;
    let mut now = claim_store("1Gi");
    now.metadata.generation = Some(2);
    let api = with(&now).await;
    api.put(CLAIM, &desired::member_claim(&now, "web-0", false).unwrap());
    let claim: PersistentVolumeClaim = serde_json::from_value(api.get(CLAIM).unwrap()).unwrap();
    reconcile(
        &operator(&api),
        &old,
        Found {
            claims: &[Arc::new(claim)],
            ..Found::default()
        },
    )
    .await
    .unwrap();
    let owners = &api.get(CLAIM).unwrap()["metadata"]["ownerReferences"];
    assert!(owners.is_null(), "{owners}");
}

#[tokio::test]
async fn a_cached_pod_that_is_gone_or_older_destroys_nothing() {
    let spec = claim_store("1Gi");
    let api = with(&spec).await;
    let pod = pod_of(&spec, "web-0");
    look(&api, std::slice::from_ref(&pod)).await.unwrap();
    let was = (api.get(CLAIM), api.get(KEYRING));
    // No pod is in the cluster any more, whatever the cache says; and then the cache says so too.
    look(&api, std::slice::from_ref(&pod)).await.unwrap();
    look(&api, &[]).await.unwrap();
    assert_eq!((api.get(CLAIM), api.get(KEYRING)), was);
    assert!(!api.calls().iter().any(|(verb, _)| verb == "DELETE"));
}
