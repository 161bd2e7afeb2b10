//! Whole looks at a store, against the API server of [`super::fake_api`].

use std::sync::Arc;
use std::time::Duration;

use codexstore_crds::{CodexBackup, CodexKeyRotation, CodexStore, desired};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use serde_json::{Value, json};

use super::events::Events;
use super::fake_api::{FakeApi, Fault};
use super::fixtures::{claim_store, pod_of, store};
use super::keyring::Facts;
use super::members::Poller;
use super::reconcile::{Done, Found, reconcile};
use super::{Error, Shared};
use crate::metrics::Metrics;

pub const STORE: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexstores/orders";
pub const SECRETS: &str = "/api/v1/namespaces/shop/secrets";
pub const KEYRING: &str = "/api/v1/namespaces/shop/secrets/cxs-orders-keyring";
pub const RECORD: &str = "/api/v1/namespaces/shop/configmaps/cxs-orders-keyring";
pub const ROTATION: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexkeyrotations/now";
pub const ROTATIONS: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexkeyrotations";
pub const BACKUPS: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexbackups";
pub const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/cxs-orders-web-0";

/// An operator that has just started: it remembers nothing.
pub fn operator(api: &FakeApi) -> Shared {
    Shared::new(
        api.client.clone(),
        Arc::new(Metrics::default()),
        Events::new(api.client.clone(), "test".into()),
        // Nobody waits for that: members that are frozen drop their connections.
        Poller::new(4, Duration::from_mins(1)),
        Duration::from_mins(1),
        "1.0".into(),
        codexstore_crds::jobs::JobConfig::default(),
    )
}

pub async fn with(store: &CodexStore) -> FakeApi {
    let api = FakeApi::start().await;
    api.put(STORE, store);
    api
}

/// One look by an operator that has just started.
pub async fn look(api: &FakeApi, pods: &[Pod]) -> Result<Done, Error> {
    look_again(&operator(api), api, pods).await
}

pub async fn look_again(operator: &Shared, api: &FakeApi, pods: &[Pod]) -> Result<Done, Error> {
    let store: CodexStore = serde_json::from_value(api.get(STORE).unwrap()).unwrap();
    let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
    let claims: Vec<Arc<PersistentVolumeClaim>> = api
        .get(CLAIM)
        .into_iter()
        .map(|c| serde_json::from_value(c).unwrap())
        .filter(|c: &PersistentVolumeClaim| c.metadata.labels.is_some())
        .map(Arc::new)
        .collect();
    let rotations: Vec<Arc<CodexKeyRotation>> = api.all(ROTATIONS);
    let backups: Vec<Arc<CodexBackup>> = api.all(BACKUPS);
    reconcile(
        operator,
        &store,
        Found {
            pods: &pods,
            claims: &claims,
            backups: &backups,
            rotations: &rotations,
            ..Found::default()
        },
    )
    .await
}

pub fn condition(api: &FakeApi, type_: &str) -> (String, String) {
    let store = api.get(STORE).unwrap();
    let all = store["status"]["conditions"].as_array().unwrap();
    let found = all.iter().find(|c| c["type"] == type_).unwrap();
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("status"), text("reason"))
}

pub fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

/// What is known of the keyring as it is now.
pub fn facts(api: &FakeApi) -> Facts {
    let secret: Secret = serde_json::from_value(api.get(KEYRING).unwrap()).unwrap();
    super::keyring::facts(&secret).unwrap()
}

/// A rotation of the store, as a user asks for it.
pub fn rotation(name: &str, spec: &Value) -> Value {
    let mut all = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexKeyRotation",
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": {"storeRef": {"name": "orders"}}});
    json_patch::merge(&mut all["spec"], spec);
    all
}

fn recreate(api: &FakeApi) {
    api.remove(STORE);
    let mut store = store();
    store.metadata.uid = Some("another-uid".into());
    api.put(STORE, &store);
}

#[tokio::test]
async fn a_keyring_is_made_once_and_then_only_read() {
    let api = with(&store()).await;
    for _ in 0..3 {
        assert_eq!(look(&api, &[]).await.unwrap().outcome, "steady");
    }
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
    let (secret, record) = (api.get(KEYRING).unwrap(), api.get(RECORD).unwrap());
    assert_eq!(record["data"]["secretUid"], secret["metadata"]["uid"]);
    assert_eq!(
        api.get(STORE).unwrap()["status"]["keyring"]["secretUid"],
        secret["metadata"]["uid"]
    );
    for verb in ["PUT", "PATCH", "DELETE"] {
        assert_eq!(
            api.count(verb, "secrets/cxs-orders-keyring"),
            0,
            "the keyring was changed by {verb}"
        );
    }
    // The keyring, the authority, and two certificates.
    assert_eq!(api.count("POST", SECRETS), 4);
    assert!(secret["metadata"].get("ownerReferences").is_none());
    assert!(record["metadata"].get("ownerReferences").is_none());
}

#[tokio::test]
async fn nothing_is_listed_or_watched_that_holds_secrets() {
    let api = with(&claim_store("1Gi")).await;
    look(&api, &[pod_of(&claim_store("1Gi"), "web-0")])
        .await
        .unwrap();
    assert!(
        !api.calls()
            .iter()
            .any(|(verb, path)| verb == "GET" && path == SECRETS)
    );
}

#[tokio::test]
async fn an_unchanged_status_is_not_written_again() {
    let api = with(&store()).await;
    let operator = operator(&api);
    for _ in 0..3 {
        look_again(&operator, &api, &[]).await.unwrap();
    }
    assert_eq!(api.count("PATCH", "/status"), 1);
}

#[tokio::test]
async fn a_deleted_keyring_is_reported_and_never_made_anew() {
    let api = with(&store()).await;
    look(&api, &[]).await.unwrap();
    let secret = api.remove(KEYRING).unwrap();
    let posts = api.count("POST", SECRETS);
    // Not while the store lives, and not for one of the same name that comes after it.
    look(&api, &[pod_of(&store(), "web-0")]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "SecretMissing"));
    recreate(&api);
    look(&api, &[pod_of(&store(), "web-0")]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "SecretMissing"));
    // Pods of the new one are let in, to wait for the Secret.
    assert!(api.get(STORE).unwrap()["status"]["keyring"]["secretUid"].is_string());
    assert_eq!(api.count("POST", SECRETS), posts);
    assert!(api.get(KEYRING).is_none());
    let told = |object: &str| {
        api.events()
            .contains(&("SecretMissing".to_owned(), object.to_owned()))
    };
    assert!(told("orders") && told("web-0"), "{:?}", api.events());
    // Put back by the user, with another UID.
    let mut secret: Secret = serde_json::from_value(secret).unwrap();
    secret.metadata.uid = Some("restored".into());
    api.put(KEYRING, &secret);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
    assert_eq!(api.get(RECORD).unwrap()["data"]["secretUid"], "restored");
}

#[tokio::test]
async fn a_claim_that_outlived_everything_else_forbids_a_new_key() {
    let api = with(&claim_store("1Gi")).await;
    let claim = desired::member_claim(&claim_store("1Gi"), "web-0", false).unwrap();
    api.put(CLAIM, &claim);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "SecretMissing"));
    assert!(api.get(KEYRING).is_none());
    // The user says that the data is worthless.
    api.remove(CLAIM);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
}

fn on_the_pods_volume() -> CodexStore {
    let mut store = store();
    store.spec.volume.ephemeral = None;
    store.spec.volume.pod_volume = Some("data".into());
    store
}

#[tokio::test]
async fn a_status_that_knows_a_keyring_forbids_a_new_key_until_the_store_is_deleted_too() {
    let api = with(&on_the_pods_volume()).await;
    let before: CodexStore = serde_json::from_value(api.get(STORE).unwrap()).unwrap();
    look(&api, &[]).await.unwrap();
    // Scaled to 0, then all that carries the label is deleted: the data is on a volume that nothing of ours names.
    api.remove(KEYRING);
    api.remove(RECORD);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "SecretMissing"));
    let said = api.get(STORE).unwrap()["status"].to_string();
    assert!(said.contains("and the CodexStore, create"), "{said}");
    // A cache that is older than the status changes nothing.
    reconcile(&operator(&api), &before, Found::default())
        .await
        .unwrap();
    assert!(api.get(KEYRING).is_none(), "a key was made a second time");
    // The user says that the data is worthless.
    recreate(&api);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
}

#[tokio::test]
async fn a_pod_that_ran_forbids_a_new_key_also_when_the_cache_lacks_it() {
    let api = with(&on_the_pods_volume()).await;
    let mut pod = pod_of(&store(), "web-0");
    pod.status = serde_json::from_value(json!({
        "phase": "Succeeded",
        "initContainerStatuses": [{"name": "codexstore", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0}}}],
    }))
    .unwrap();
    api.put("/api/v1/namespaces/shop/pods/web-0", &pod);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "SecretMissing"));
    assert!(api.get(KEYRING).is_none());
}

#[tokio::test]
async fn a_pod_that_ended_holds_data_if_it_had_it_on_a_volume_of_the_users() {
    let plain = serde_json::to_value(pod_of(&store(), "web-0")).unwrap();
    let claim = serde_json::to_value(pod_of(&claim_store("1Gi"), "web-0")).unwrap();
    let users = plain.to_string().replace("codexstore-data", "data");
    for (mut pod, wanted) in [
        (plain, pair("True", "KeyringReady")),
        (claim, pair("True", "KeyringReady")),
        (
            serde_json::from_str(&users).unwrap(),
            pair("False", "SecretMissing"),
        ),
    ] {
        // The store is on no volume of the user's any more.
        let api = with(&store()).await;
        pod["status"] = json!({"phase": "Succeeded",
            "initContainerStatuses": [{"name": "codexstore", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0}}}]});
        api.put("/api/v1/namespaces/shop/pods/web-0", &pod);
        look(&api, &[]).await.unwrap();
        assert_eq!(condition(&api, "KeysReady"), wanted);
    }
}

#[tokio::test]
async fn what_holds_data_forbids_a_new_key_without_its_labels_too() {
    let ran = json!({"initContainerStatuses": [{"name": "codexstore", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {}}}]});
    let unlabelled = |mut object: Value| {
        object["metadata"]["labels"] = Value::Null;
        object
    };
    let mut pod = serde_json::to_value(pod_of(&store(), "web-0")).unwrap();
    pod["status"] = ran;
    let claim = desired::member_claim(&claim_store("1Gi"), "web-0", false);
    let backup = |status: &Value| {
        json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": {"name": "b", "namespace": "shop"},
            "spec": {"storeRef": {"name": "orders"}}, "status": status})
    };
    let member = json!({"pod": "web-0", "stored": true, "keyId": "k1"});
    let pods = "/api/v1/namespaces/shop/pods/web-0".to_owned();
    let backups = format!("{BACKUPS}/b");
    let kept = json!({"phase": "PartiallyFailed", "members": [member]});
    let going = json!({"phase": "Running", "directory": "shop/orders/b"});
    for (path, object, said) in [
        (&pods, unlabelled(pod), "pod web-0"),
        (
            &CLAIM.to_owned(),
            unlabelled(json!(claim)),
            "PersistentVolumeClaim cxs-orders-web-0",
        ),
        (&backups, backup(&kept), "cxb/b"),
        (&backups, backup(&going), "cxb/b"),
    ] {
        let api = with(&store()).await;
        api.put(path, &object);
        look(&api, &[]).await.unwrap();
        assert_eq!(
            condition(&api, "KeysReady"),
            pair("False", "SecretMissing"),
            "{said}"
        );
        let status = api.get(STORE).unwrap()["status"].to_string();
        assert!(status.contains(&format!("({said})")), "{status}");
        assert!(api.get(KEYRING).is_none(), "{said}");
        api.remove(path);
        look(&api, &[]).await.unwrap();
        assert_eq!(
            condition(&api, "KeysReady"),
            pair("True", "KeyringReady"),
            "{said}"
        );
    }
    // One that was asked for together with the store, one that failed, and one without encryption.
    let plain = json!({"pod": "web-0", "stored": true});
    for status in [
        json!({"phase": "Pending"}),
        json!({"phase": "Failed", "directory": "shop/orders/b", "members": [{"pod": "web-0", "stored": false}]}),
        json!({"phase": "Succeeded", "directory": "shop/orders/b", "members": [plain]}),
    ] {
        let api = with(&store()).await;
        api.put(&backups, &backup(&status));
        look(&api, &[]).await.unwrap();
        assert_eq!(
            condition(&api, "KeysReady"),
            pair("True", "KeyringReady"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn no_key_is_made_for_a_store_that_is_gone_or_another_by_now() {
    let api = with(&store()).await;
    let cached: CodexStore = serde_json::from_value(api.get(STORE).unwrap()).unwrap();
    recreate(&api);
    reconcile(&operator(&api), &cached, Found::default())
        .await
        .unwrap();
    api.remove(STORE);
    reconcile(&operator(&api), &cached, Found::default())
        .await
        .unwrap();
    assert!(api.get(KEYRING).is_none());
}

#[tokio::test]
async fn a_recreated_store_finds_its_keyring_and_its_volumes() {
    let api = with(&claim_store("1Gi")).await;
    let pod = pod_of(&claim_store("1Gi"), "web-0");
    look(&api, std::slice::from_ref(&pod)).await.unwrap();
    let before = (api.get(KEYRING).unwrap(), api.get(CLAIM).unwrap());
    assert_eq!(before.1["spec"]["resources"]["requests"]["storage"], "1Gi");
    api.remove(STORE);
    let mut again = claim_store("1Gi");
    again.metadata.uid = Some("another-uid".into());
    api.put(STORE, &again);
    look(&api, &[pod]).await.unwrap();
    assert_eq!((api.get(KEYRING).unwrap(), api.get(CLAIM).unwrap()), before);
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
    let server = api.get(&format!("{SECRETS}/cxs-orders-server")).unwrap();
    assert_eq!(
        server["metadata"]["ownerReferences"][0]["uid"],
        "another-uid"
    );
}

#[tokio::test]
async fn foreign_objects_of_our_names_are_left_exactly_as_they_are() {
    for path in [
        KEYRING,
        RECORD,
        CLAIM,
        &format!("{SECRETS}/cxs-orders-ca"),
        &format!("{SECRETS}/cxs-orders-server"),
    ] {
        let api = with(&claim_store("1Gi")).await;
        let name = path.rsplit('/').next().unwrap();
        api.put(
            path,
            &json!({"metadata": {"name": name}, "data": {"theirs": "eA=="}}),
        );
        let before = api.get(path).unwrap();
        for _ in 0..2 {
            look(&api, &[pod_of(&claim_store("1Gi"), "web-0")])
                .await
                .unwrap();
        }
        assert_eq!(api.get(path).unwrap(), before, "{path} was touched");
        assert_eq!(
            condition(&api, "Degraded"),
            pair("True", "ForeignObject"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_malformed_keyring_is_reported_and_heals() {
    let api = with(&store()).await;
    look(&api, &[]).await.unwrap();
    let good: Secret = serde_json::from_value(api.get(KEYRING).unwrap()).unwrap();
    let mut bad = good.clone();
    for value in bad.data.as_mut().unwrap().values_mut() {
        *value = ByteString(b"canary".to_vec());
    }
    api.put(KEYRING, &bad);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "KeyMalformed"));
    let said = api.get(STORE).unwrap()["status"].to_string();
    assert!(!said.contains("canary"));
    api.put(KEYRING, &good);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
}

#[tokio::test]
async fn a_labelled_pod_without_sidecar_is_reported() {
    let api = with(&store()).await;
    let mut bare = pod_of(&store(), "web-0");
    bare.spec = None;
    look(&api, &[bare]).await.unwrap();
    assert!(
        api.events()
            .contains(&("InjectionMissing".to_owned(), "web-0".to_owned()))
    );
    assert_eq!(api.get(STORE).unwrap()["status"]["ready"], "0/0");
}

/// What matters of the cluster at the end, without what differs from run to run.
fn essence(api: &FakeApi) -> Value {
    let status = &api.get(STORE).unwrap()["status"];
    let record = api.get(RECORD).unwrap();
    let secret = api.get(KEYRING).unwrap();
    assert_eq!(
        record["data"]["secretUid"], secret["metadata"]["uid"],
        "record and keyring differ"
    );
    assert_eq!(status["keyId"], record["data"]["keyIds"]);
    let reasons: Vec<_> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["reason"])
        .collect();
    json!({
        "reasons": reasons, "ready": status["ready"], "claim": api.get(CLAIM).unwrap()["spec"],
        "keys": secret["data"].as_object().unwrap().len(),
    })
}

#[tokio::test]
async fn dying_before_or_after_any_call_ends_in_the_same_state() {
    let spec = claim_store("1Gi");
    let pods = [pod_of(&spec, "web-0")];
    let api = with(&spec).await;
    look(&api, &pods).await.unwrap();
    let calls = api.calls().len();
    look(&api, &pods).await.unwrap();
    let wanted = essence(&api);
    assert!(calls >= 10, "the script has only {calls} calls");

    let mut states = 0;
    for call in 0..calls {
        for fault in [Fault::Before, Fault::After] {
            let api = with(&spec).await;
            api.fail(call, fault);
            let first = look(&api, &pods).await;
            // Events are a courtesy: a lost one is not an error. Everything else is.
            let (verb, path) = api.calls()[call].clone();
            assert!(
                first.is_err() || path.contains("/events"),
                "a failed {verb} {path} went unnoticed"
            );
            for _ in 0..2 {
                look(&api, &pods).await.unwrap();
            }
            assert_eq!(
                essence(&api),
                wanted,
                "after {fault:?} of call {call}, {verb} {path}"
            );
            let made = api.count("POST", SECRETS);
            assert!(
                made <= 5,
                "{made} Secrets were asked for after {fault:?} of {verb} {path}"
            );
            states += 1;
        }
    }
    println!("{states} crash points of a first look converge");
}
