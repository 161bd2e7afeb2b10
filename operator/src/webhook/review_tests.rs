use std::time::Duration;

use codexstore_crds::{CodexStoreSpec, desired};
use serde_json::{Value, json};

use super::*;
use crate::controller::fake_api::FakeApi;
use crate::controller::fixtures::{claim_store, store};

const STORE: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexstores/orders";
const RECORD: &str = "/api/v1/namespaces/shop/configmaps/cxs-orders-keyring";

fn reviewer(api: &FakeApi) -> Reviewer {
    Reviewer {
        lookup: Lookup::new(api.client.clone(), Duration::from_millis(500)),
        inject: Arc::new(InjectConfig {
            sidecar_image: "sidecar:1".into(),
            image_pull_policy: None,
            operator_version: "1.0".into(),
        }),
        namespaces: None,
        metrics: Arc::default(),
    }
}

/// The store `shop/orders` with its keyring on record.
async fn cluster() -> FakeApi {
    let api = FakeApi::start().await;
    api.put(STORE, &store());
    let ids = ["20260101-abcd".to_owned()];
    api.put(
        RECORD,
        &desired::keyring_record(&store(), "uid", &ids, "2026-01-01T00:00:00Z"),
    );
    api
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-", "labels": {"codexstore.dev/store": "orders"}},
        "spec": {"containers": [{"name": "app", "image": "app:1", "fieldOfTheFuture": {"x": 1}}],
                 "initContainers": [{"name": "mine", "image": "app:1", "fieldOfTheFuture": 2}]},
    })
}

fn review(object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "review-uid", "operation": "CREATE", "namespace": "shop", "name": "", "dryRun": true,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {}, "object": object, "oldObject": null,
        },
    })
}

async fn ask(reviewer: &Reviewer, endpoint: Endpoint, review: &Value) -> Value {
    let body = serde_json::to_vec(review).unwrap();
    let answer = reviewer.answer(endpoint, &body).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    // The API server takes no answer without these.
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "review-uid");
    answer["response"].clone()
}

async fn mutated(reviewer: &Reviewer, object: &Value) -> Value {
    let response = ask(reviewer, Endpoint::Mutate, &review(object)).await;
    assert_eq!(response["allowed"], true, "{response}");
    let mut object = object.clone();
    if let Some(patch) = response.get("patch").filter(|p| !p.is_null()) {
        assert_eq!(response["patchType"], "JSONPatch");
        let bytes: k8s_openapi::ByteString = serde_json::from_value(patch.clone()).unwrap();
        let bytes = bytes.0;
        let patch: json_patch::Patch = serde_json::from_slice(&bytes).unwrap();
        json_patch::patch(&mut object, &patch).unwrap();
    }
    object
}

fn refusal(response: &Value) -> String {
    assert_eq!(response["allowed"], false, "{response}");
    response["status"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_labelled_pod_gets_its_sidecar_and_a_second_call_changes_nothing() {
    let api = cluster().await;
    let reviewer = reviewer(&api);
    let once = mutated(&reviewer, &pod()).await;
    let inits = once["spec"]["initContainers"].as_array().unwrap();
    assert_eq!(inits[0]["name"], "codexstore");
    assert_eq!(inits[1]["name"], "mine");
    assert_eq!(mutated(&reviewer, &once).await, once);
    let checked = ask(&reviewer, Endpoint::Validate, &review(&once)).await;
    assert_eq!(checked["allowed"], true, "{checked}");
}

#[tokio::test]
async fn fields_that_this_version_does_not_know_stay_where_they_are() {
    let api = cluster().await;
    let after = mutated(&reviewer(&api), &pod()).await;
    assert_eq!(
        after["spec"]["containers"][0]["fieldOfTheFuture"],
        json!({"x": 1})
    );
    assert_eq!(after["spec"]["initContainers"][1]["fieldOfTheFuture"], 2);
    assert!(
        after["spec"]["initContainers"][0]
            .get("fieldOfTheFuture")
            .is_none()
    );
}

#[tokio::test]
async fn a_review_changes_nothing_in_the_cluster() {
    let api = cluster().await;
    mutated(&reviewer(&api), &pod()).await;
    assert!(
        api.calls().iter().all(|(verb, _)| verb == "GET"),
        "{:?}",
        api.calls()
    );
}

#[tokio::test]
async fn a_label_that_names_no_store_is_refused_with_what_to_do() {
    let api = FakeApi::start().await;
    for endpoint in [Endpoint::Mutate, Endpoint::Validate] {
        let message = refusal(&ask(&reviewer(&api), endpoint, &review(&pod())).await);
        assert!(
            message.contains("orders") && message.contains("CodexStore"),
            "{message}"
        );
    }
    let mut odd = pod();
    odd["metadata"]["labels"]["codexstore.dev/store"] = json!("../../nodes/x");
    refusal(&ask(&reviewer(&api), Endpoint::Mutate, &review(&odd)).await);
    assert_eq!(api.count("GET", "nodes"), 0, "a label became a path");
}

#[tokio::test]
async fn a_store_that_is_being_deleted_takes_no_new_pods() {
    let api = cluster().await;
    let mut deleting = store();
    deleting.metadata.deletion_timestamp = Some(
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()),
    );
    api.put(STORE, &deleting);
    refusal(&ask(&reviewer(&api), Endpoint::Mutate, &review(&pod())).await);
}

#[tokio::test]
async fn a_pod_waits_for_the_keyring_for_a_while_and_no_longer() {
    let api = cluster().await;
    let record = api.remove(RECORD).unwrap();
    let message = refusal(&ask(&reviewer(&api), Endpoint::Mutate, &review(&pod())).await);
    assert!(
        message.contains("keyring") && message.contains("try again"),
        "{message}"
    );
    let late = api.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        late.put(RECORD, &record);
    });
    // However busy the machine is meanwhile.
    let mut patient = reviewer(&api);
    patient.lookup = Lookup::new(api.client.clone(), Duration::from_mins(1));
    mutated(&patient, &pod()).await;
}

#[tokio::test]
async fn a_pod_with_data_on_a_volume_of_its_own_waits_until_that_is_on_record() {
    let api = cluster().await;
    let mut own = store();
    own.spec.volume.ephemeral = None;
    own.spec.volume.pod_volume = Some("work".to_owned());
    api.put(STORE, &own);
    let mut pod = pod();
    pod["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
    let message = refusal(&ask(&reviewer(&api), Endpoint::Mutate, &review(&pod)).await);
    assert!(message.contains("keyring"), "{message}");
    let mut record = api.get(RECORD).unwrap();
    record["data"]["podVolume"] = json!("true");
    api.put(RECORD, &record);
    mutated(&reviewer(&api), &pod).await;
}

#[tokio::test]
async fn an_unencrypted_store_needs_no_keyring() {
    let api = FakeApi::start().await;
    let mut plain = store();
    plain.spec = CodexStoreSpec {
        encryption: serde_json::from_value(json!({"none": {}})).unwrap(),
        ..CodexStoreSpec::default()
    };
    api.put(STORE, &plain);
    mutated(&reviewer(&api), &pod()).await;
}

#[tokio::test]
async fn a_record_that_the_operator_did_not_make_is_not_believed() {
    let api = cluster().await;
    api.put(RECORD, &json!({"metadata": {"name": "cxs-orders-keyring"}}));
    let message = refusal(&ask(&reviewer(&api), Endpoint::Mutate, &review(&pod())).await);
    assert!(message.contains("cxs-orders-keyring"), "{message}");
}

#[tokio::test]
async fn a_namespace_outside_of_the_operators_is_refused_and_says_so() {
    let api = cluster().await;
    let mut limited = reviewer(&api);
    limited.namespaces = Some(Arc::from(["other".to_owned()]));
    let message = refusal(&ask(&limited, Endpoint::Mutate, &review(&pod())).await);
    assert!(message.contains("operator.namespaces"), "{message}");
}

#[tokio::test]
async fn a_pod_whose_sidecar_was_taken_out_again_is_refused() {
    let api = cluster().await;
    let message = refusal(&ask(&reviewer(&api), Endpoint::Validate, &review(&pod())).await);
    assert!(message.contains("sidecar"), "{message}");
}

#[tokio::test]
async fn a_pod_whose_sidecar_was_changed_afterwards_is_refused() {
    let api = cluster().await;
    let reviewer = reviewer(&api);
    let mut changed = mutated(&reviewer, &pod()).await;
    changed["spec"]["initContainers"][0]["image"] = json!("evil:1");
    let message = refusal(&ask(&reviewer, Endpoint::Validate, &review(&changed)).await);
    assert!(
        message.contains("image of container codexstore"),
        "{message}"
    );
}

#[tokio::test]
async fn a_claim_of_another_store_or_of_nobody_is_not_mounted() {
    const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/cxs-orders-web-0";
    let api = cluster().await;
    api.put(STORE, &claim_store("1Gi"));
    let reviewer = reviewer(&api);
    let mut named = pod();
    named["metadata"]["name"] = json!("web-0");
    let injected = mutated(&reviewer, &named).await;
    let mut claim = desired::member_claim(&claim_store("1Gi"), "web-0", false).unwrap();
    api.put(CLAIM, &claim);
    mutated(&reviewer, &named).await;
    let labels = claim.metadata.labels.as_mut().unwrap();
    labels.insert(names::STORE_LABEL.to_owned(), "invoices".to_owned());
    api.put(CLAIM, &claim);
    for (endpoint, pod) in [(Endpoint::Mutate, &named), (Endpoint::Validate, &injected)] {
        let message = refusal(&ask(&reviewer, endpoint, &review(pod)).await);
        for words in [
            "CodexStore orders",
            "belongs to CodexStore invoices",
            "cxs-orders-web-0",
        ] {
            assert!(message.contains(words), "{message}");
        }
    }
    claim.metadata.labels = None;
    api.put(CLAIM, &claim);
    let message = refusal(&ask(&reviewer, Endpoint::Mutate, &review(&named)).await);
    assert!(message.contains("not made by"), "{message}");
}

#[tokio::test]
async fn an_ephemeral_container_cannot_mount_the_data_even_without_the_label() {
    let api = cluster().await;
    let reviewer = reviewer(&api);
    let mut old = mutated(&reviewer, &pod()).await;
    old["metadata"]["labels"] = json!({});
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "shell"}]);
    let update = |new: &Value| {
        let mut review = review(new);
        review["request"]["operation"] = json!("UPDATE");
        review["request"]["subResource"] = json!("ephemeralcontainers");
        review["request"]["oldObject"] = old.clone();
        review
    };
    let allowed = ask(&reviewer, Endpoint::Validate, &update(&new)).await;
    assert_eq!(allowed["allowed"], true, "{allowed}");
    new["spec"]["ephemeralContainers"][0]["volumeMounts"] =
        json!([{"name": "codexstore-keyring", "mountPath": "/keys"}]);
    refusal(&ask(&reviewer, Endpoint::Validate, &update(&new)).await);
}

#[tokio::test]
async fn what_is_not_a_review_is_a_bad_request_that_says_why() {
    let api = FakeApi::start().await;
    let reviewer = reviewer(&api);
    let mut old_version = review(&pod());
    old_version["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut no_request = review(&pod());
    no_request.as_object_mut().unwrap().remove("request");
    let mut not_a_pod = review(&pod());
    not_a_pod["request"]["object"] = json!({"spec": "nonsense"});
    for bad in [json!(null), json!({}), old_version, no_request, not_a_pod] {
        let body = serde_json::to_vec(&bad).unwrap();
        assert!(
            reviewer.answer(Endpoint::Mutate, &body).await.is_err(),
            "{bad} was answered"
        );
    }
    assert!(
        reviewer
            .answer(Endpoint::Mutate, b"\xff\x00")
            .await
            .is_err()
    );
}
