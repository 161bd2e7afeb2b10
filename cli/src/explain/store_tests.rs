use codexstore_crds::{CodexStoreSpec, CodexStoreStatus, status::ConditionChange};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time};

use super::*;

fn store() -> CodexStore {
    let mut store = CodexStore::new("orders", CodexStoreSpec::default());
    store.status = Some(CodexStoreStatus::default());
    store
}

fn judge(store: &CodexStore, pods: &[Pod], events: &[Event]) -> StoreReport {
    explain("shop", store, pods, &Webhook::Absent, events)
}

fn set(store: &mut CodexStore, type_: &str, status: bool, reason: &str, message: &str) {
    let change = ConditionChange {
        type_,
        status: Some(status),
        reason,
        message,
        generation: Some(1),
    };
    let now = Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
    store.status.as_mut().unwrap().set_condition(&change, &now);
}

#[test]
fn a_store_that_no_operator_has_seen_says_so() {
    let mut store = store();
    store.status = None;
    let report = judge(&store, &[], &[]);
    assert_eq!(report.findings[0].reason, "NotReconciled");
    assert!(report.text().contains("not reconciled"));
}

#[test]
fn bad_conditions_are_shown_worst_first_and_good_ones_are_not() {
    let mut store = store();
    set(
        &mut store,
        condition::READY,
        false,
        "WaitingForMembers",
        "0/1",
    );
    set(
        &mut store,
        condition::KEYS_READY,
        false,
        "SecretMissing",
        "put it back",
    );
    set(
        &mut store,
        condition::PROGRESSING,
        false,
        "Idle",
        "nothing to do",
    );
    let report = judge(&store, &[], &[]);
    let reasons: Vec<_> = report.findings.iter().map(|f| f.reason.as_str()).collect();
    assert_eq!(reasons, ["SecretMissing", "WaitingForMembers", "NoMembers"]);
}

#[test]
fn a_labelled_pod_without_sidecar_is_named() {
    let mut pod = Pod::default();
    pod.metadata.name = Some("web-1".into());
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(names::STORE_LABEL.into(), "orders".into());
    let report = judge(&store(), &[pod], &[]);
    let found = report
        .findings
        .iter()
        .find(|f| f.reason == "NotInjected")
        .unwrap();
    assert!(found.message.contains("web-1"), "{found:?}");
    assert!(report.text().contains("POD"), "{}", report.text());
}

#[test]
fn a_refusal_is_found_in_the_events_of_what_makes_pods() {
    let event = |reason: &str, message: &str| Event {
        reason: Some(reason.into()),
        message: Some(message.into()),
        involved_object: ObjectReference {
            kind: Some("ReplicaSet".into()),
            name: Some("web-5d9".into()),
            ..ObjectReference::default()
        },
        ..Event::default()
    };
    let ours =
        "admission webhook \"inject.codexstore.dev\" denied the request: no CodexStore orders";
    let events = [
        event("FailedCreate", "quota exceeded"),
        event("FailedCreate", ours),
    ];
    assert!(
        refused(&events, "orders")
            .unwrap()
            .message
            .contains("ReplicaSet web-5d9")
    );
    // Asked about a pod's name, which begins with its maker's.
    assert!(refused(&events, "web-5d9-abcde").is_some());
    assert!(refused(&events, "other").is_none());
    assert!(refused(&events[..1], "orders").is_none());
}
