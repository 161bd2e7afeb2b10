//! What others added to the sidecar, when the webhook is called again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // also in helpers: a failed one fails its test

mod common;

use codexstore_crds::inject;
use common::{accepts, config, container, plain, store};

/// As the API server's own admission leaves the pod between two calls.
fn limit_range(pod: &k8s_openapi::api::core::v1::Pod) -> k8s_openapi::api::core::v1::Pod {
    let mut pod = serde_json::to_value(pod).unwrap();
    let resources = &mut pod["spec"]["initContainers"][0]["resources"];
    resources["limits"]["cpu"] = "500m".into();
    resources["limits"]["ephemeral-storage"] = "1Gi".into();
    resources["requests"]["ephemeral-storage"] = "1Gi".into();
    serde_json::from_value(pod).unwrap()
}

#[test]
fn limits_that_a_limit_range_set_are_kept_when_called_again() {
    let between = limit_range(&accepts(&store("{}"), &plain()));
    assert_eq!(accepts(&store("{}"), &between), between);
}

#[test]
fn limits_of_an_older_spec_or_version_are_not_kept() {
    let between = limit_range(&accepts(&store("{}"), &plain()));
    let changed = store("{durability: Interval}");
    assert_eq!(
        accepts(&changed, &between),
        accepts(&changed, &plain()),
        "another spec"
    );
    let mut cfg = config();
    cfg.operator_version = "2.0.0".to_owned();
    assert_eq!(
        inject(&between, &store("{}"), &cfg, "seed").unwrap(),
        inject(&plain(), &store("{}"), &cfg, "seed").unwrap(),
        "another version"
    );
    let own = store("{resources: {limits: {cpu: 2}}}");
    let between = limit_range(&accepts(&own, &plain()));
    let limits = container(&accepts(&own, &between), "codexstore")
        .resources
        .clone()
        .unwrap()
        .limits
        .unwrap();
    assert_eq!(limits["cpu"].0, "2", "what the store sets stands");
    assert_eq!(limits["ephemeral-storage"].0, "1Gi");
}

#[test]
fn the_api_servers_spelling_of_an_amount_is_no_change() {
    let store = store(
        "{resources: {requests: {cpu: 1000m}, limits: {memory: 1024Mi}}, volume: {ephemeral: {sizeLimit: 2048Mi}}}",
    );
    let mut read = serde_json::to_value(accepts(&store, &plain())).unwrap();
    let sidecar = &mut read["spec"]["initContainers"][0];
    sidecar["resources"]["requests"]["cpu"] = "1".into();
    sidecar["resources"]["limits"]["memory"] = "1Gi".into();
    let volumes = read["spec"]["volumes"].as_array_mut().unwrap();
    let data = volumes.iter_mut().find(|v| v["name"] == "codexstore-data");
    data.unwrap()["emptyDir"]["sizeLimit"] = "2Gi".into();
    let read = serde_json::from_value(read).unwrap();
    assert_eq!(accepts(&store, &read), read);
}
