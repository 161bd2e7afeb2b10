use std::collections::BTreeMap;

use codexstore_crds::{
    CodexStoreSpec, CodexStoreStatus, InjectConfig, KeyringStatus, inject,
    store::{Claim, Compression, Volume},
};
use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateRunning, ContainerStatus, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::*;

fn store(spec: CodexStoreSpec) -> CodexStore {
    let mut store = CodexStore::new("orders", spec);
    store.metadata.namespace = Some("shop".into());
    store.metadata.uid = Some("store-uid".into());
    store.status = Some(CodexStoreStatus {
        keyring: Some(KeyringStatus::default()),
        ..CodexStoreStatus::default()
    });
    store
}

fn pod(label: Option<&str>) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some("web-1".into());
    pod.metadata.namespace = Some("shop".into());
    pod.metadata.uid = Some("pod-uid".into());
    pod.metadata.labels =
        label.map(|label| BTreeMap::from([(names::STORE_LABEL.to_owned(), label.to_owned())]));
    pod.spec = Some(PodSpec {
        containers: vec![Container {
            name: "app".into(),
            ..Container::default()
        }],
        ..PodSpec::default()
    });
    pod
}

fn injected(store: &CodexStore) -> Pod {
    let cfg = InjectConfig {
        sidecar_image: "sidecar:1".into(),
        image_pull_policy: None,
        operator_version: "0.1.0".into(),
    };
    inject(&pod(Some("orders")), store, &cfg, "seed").unwrap()
}

fn running(pod: &mut Pod, ready: bool) {
    let status = ContainerStatus {
        name: names::CONTAINER.into(),
        ready,
        state: Some(ContainerState {
            running: Some(ContainerStateRunning::default()),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    };
    pod.status = Some(PodStatus {
        init_container_statuses: Some(vec![status]),
        ..PodStatus::default()
    });
}

fn judge(pod: &Pod, store: Option<&CodexStore>, webhook: &Webhook) -> PodReport {
    explain(&Facts {
        namespace: "shop",
        pod,
        store,
        webhook,
        events: &[],
    })
}

fn installed() -> Webhook {
    Webhook::Present {
        since: None,
        selects: true,
    }
}

#[track_caller]
fn finds<'a>(report: &'a PodReport, reason: &str) -> &'a Finding {
    let found = report.findings.iter().find(|f| f.reason == reason);
    found.unwrap_or_else(|| panic!("no {reason} in {report:#?}"))
}

#[test]
fn a_pod_without_the_label_is_told_which_one() {
    let report = judge(&pod(None), None, &installed());
    assert!(!report.injected && report.store.is_none() && report.ready.is_none());
    assert!(
        finds(&report, "NotAsked")
            .message
            .contains(names::STORE_LABEL)
    );
}

#[test]
fn a_label_written_as_an_annotation_is_pointed_out() {
    let mut pod = pod(None);
    let annotations = BTreeMap::from([(names::STORE_LABEL.to_owned(), "orders".to_owned())]);
    pod.metadata.annotations = Some(annotations);
    finds(&judge(&pod, None, &installed()), "AnnotationNotLabel");
}

#[test]
fn a_labelled_pod_without_sidecar_is_told_why_the_webhook_missed_it() {
    let store = store(CodexStoreSpec::default());
    let time = |seconds| Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap());
    let mut pod = pod(Some("orders"));
    pod.metadata.creation_timestamp = Some(time(100));
    let reason = |webhook: &Webhook| {
        judge(&pod, Some(&store), webhook).findings[0]
            .reason
            .clone()
    };
    let present = |since, selects| Webhook::Present {
        since: Some(time(since)),
        selects,
    };
    assert_eq!(reason(&Webhook::Absent), "NoWebhook");
    assert_eq!(reason(&present(50, false)), "NamespaceExcluded");
    assert_eq!(reason(&present(150, true)), "OlderThanWebhook");
    assert_eq!(reason(&present(50, true)), "NotSeenByWebhook");
    assert_eq!(
        reason(&Webhook::Unknown("forbidden".into())),
        "NotSeenByWebhook"
    );
}

#[test]
fn a_pod_that_would_be_refused_is_told_with_the_webhooks_words() {
    let report = judge(&pod(Some("orders")), None, &installed());
    assert!(!report.injected);
    assert_eq!(finds(&report, "StoreNotFound").level, Level::Problem);
}

#[test]
fn a_generated_name_counts_as_the_webhook_sees_it() {
    let claim = Claim {
        size: codexstore_crds::Quantity::parse("1Gi").unwrap(),
        storage_class_name: None,
        reclaim_policy: codexstore_crds::store::ReclaimPolicy::Retain,
    };
    let volume = Volume {
        ephemeral: None,
        claim: Some(claim),
        pod_volume: None,
    };
    let store = store(CodexStoreSpec {
        volume,
        ..CodexStoreSpec::default()
    });
    let mut pod = pod(Some("orders"));
    pod.metadata.generate_name = Some("web-".into());
    finds(&judge(&pod, Some(&store), &Webhook::Absent), "NameRequired");
}

#[test]
fn a_healthy_pod_is_ready_and_up_to_date() {
    let store = store(CodexStoreSpec::default());
    let mut pod = injected(&store);
    running(&mut pod, true);
    let report = judge(&pod, Some(&store), &installed());
    assert_eq!(
        (report.injected, report.outdated, report.ready),
        (true, Some(false), Some(true))
    );
    assert!(
        report.findings.iter().all(|f| f.level == Level::Ok),
        "{report:#?}"
    );
    assert!(!report.text().contains("outdated"), "{}", report.text());
    assert!(report.worst().is_none());
}

#[test]
fn a_changed_spec_makes_a_pod_outdated_and_the_difference_is_named() {
    let old = store(CodexStoreSpec::default());
    let mut pod = injected(&old);
    running(&mut pod, true);
    let new = store(CodexStoreSpec {
        compression: Compression::None,
        ..CodexStoreSpec::default()
    });
    let report = judge(&pod, Some(&new), &installed());
    assert_eq!(report.outdated, Some(true));
    let found = finds(&report, "Outdated");
    assert!(
        found
            .message
            .contains("compression is zstd here and none in the spec"),
        "{found:?}"
    );
    assert!(
        found.action.as_ref().unwrap().contains("ephemeral"),
        "{found:?}"
    );
}

#[test]
fn an_older_operator_is_taken_from_the_status() {
    let mut store = store(CodexStoreSpec::default());
    let mut pod = injected(&store);
    running(&mut pod, true);
    store.status.as_mut().unwrap().members = vec![MemberStatus {
        pod: "web-1".into(),
        pod_uid: Some("pod-uid".into()),
        outdated: true,
        message: Some("outdated: it was injected by operator 0.0.9".into()),
        ..MemberStatus::default()
    }];
    let report = judge(&pod, Some(&store), &installed());
    assert!(
        finds(&report, "Outdated")
            .message
            .ends_with("it was injected by operator 0.0.9")
    );
    // A status about a pod of this name before this one says nothing.
    store.status.as_mut().unwrap().members[0].pod_uid = Some("before".into());
    assert_eq!(
        judge(&pod, Some(&store), &installed()).outdated,
        Some(false)
    );
}

#[test]
fn a_store_that_was_made_again_makes_its_pods_outdated() {
    let mut store = store(CodexStoreSpec::default());
    let pod = injected(&store);
    store.metadata.uid = Some("another".into());
    let report = judge(&pod, Some(&store), &installed());
    assert!(
        finds(&report, "Outdated")
            .message
            .contains("earlier CodexStore")
    );
}

#[test]
fn the_state_of_a_store_that_does_not_open_comes_with_what_to_do() {
    let mut store = store(CodexStoreSpec::default());
    let mut pod = injected(&store);
    running(&mut pod, false);
    let mut member = MemberStatus {
        pod: "web-1".into(),
        ..MemberStatus::default()
    };
    for (state, action) in [
        ("KeyError", "cxs-orders-keyring"),
        ("IntegrityError", "CodexRestore"),
        ("AwaitingRestore", "kubectl get cxr"),
        ("Locked", "still mounts it"),
        ("IoError", "volume"),
        ("ConfigError", "put the spec back"),
    ] {
        member.state = Some(state.to_owned());
        store.status.as_mut().unwrap().members = vec![member.clone()];
        let report = judge(&pod, Some(&store), &installed());
        assert_eq!(report.ready, Some(false));
        let found = finds(&report, state);
        assert!(found.action.as_ref().unwrap().contains(action), "{found:?}");
    }
}

#[test]
fn a_pod_whose_label_was_removed_still_has_its_store() {
    let store = store(CodexStoreSpec::default());
    let mut pod = injected(&store);
    pod.metadata.labels = None;
    let report = judge(&pod, Some(&store), &installed());
    assert_eq!(report.store.as_deref(), Some("orders"));
    finds(&report, "LabelRemoved");
}
