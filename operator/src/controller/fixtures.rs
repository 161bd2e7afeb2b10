//! Objects for tests.
#![expect(clippy::missing_panics_doc, reason = "only tests call this")]

use codexstore_crds::rotation::RotationPolicy;
use codexstore_crds::store::{Claim, Keys, Managed};
use codexstore_crds::{CodexStore, CodexStoreSpec, InjectConfig, Quantity, inject, names};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::keyring::Facts;

/// The store `shop/orders`.
pub fn store() -> CodexStore {
    let mut store = CodexStore::new("orders", CodexStoreSpec::default());
    store.metadata.namespace = Some("shop".into());
    store.metadata.uid = Some("store-uid".into());
    store.metadata.generation = Some(1);
    store
}

/// The same with a volume for each member.
pub fn claim_store(size: &str) -> CodexStore {
    let mut store = store();
    store.spec.volume.ephemeral = None;
    store.spec.volume.claim = Some(Claim {
        size: Quantity::parse(size).unwrap(),
        storage_class_name: None,
        reclaim_policy: codexstore_crds::store::ReclaimPolicy::Retain,
    });
    store
}

/// A pod of it, injected by operator 1.0 under the spec of [`store`].
pub fn pod(name: &str) -> Pod {
    pod_of(&store(), name)
}

/// A pod of `store`, injected by operator 1.0.
pub fn pod_of(store: &CodexStore, name: &str) -> Pod {
    let plain = Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("shop".into()),
            uid: Some(format!("{name}-uid")),
            labels: Some([(names::STORE_LABEL.to_owned(), "orders".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "app".into(),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        ..Pod::default()
    };
    let config = InjectConfig {
        sidecar_image: "sidecar:1".into(),
        image_pull_policy: None,
        operator_version: "1.0".into(),
    };
    inject(&plain, store, &config, "seed").unwrap()
}

/// The store with keys that are rotated so.
pub fn rotating(mut store: CodexStore, policy: RotationPolicy) -> CodexStore {
    store.spec.encryption.keys = Some(Keys {
        managed: Some(Managed {
            rotation: Some(policy),
            ..Managed::default()
        }),
        ..Keys::default()
    });
    store
}

/// So many seconds after the beginning of 1970.
pub fn at(second: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
}

/// A good keyring with these keys.
pub fn facts(current: &str, ids: &[&str]) -> Facts {
    Facts {
        secret_uid: "uid".to_owned(),
        version: "1".to_owned(),
        current: current.to_owned(),
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        lost: Vec::new(),
        pod_volumes: false,
    }
}
