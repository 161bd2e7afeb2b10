//! Objects for tests.

use codexstore_crds::store::Claim;
use codexstore_crds::{CodexStore, CodexStoreSpec, Quantity, names, spec_hash};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

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
    Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("shop".into()),
            uid: Some(format!("{name}-uid")),
            labels: Some([(names::STORE_LABEL.to_owned(), "orders".to_owned())].into()),
            annotations: Some(
                [
                    (names::SPEC_HASH_ANNOTATION.to_owned(), spec_hash(&store())),
                    (names::INJECTED_BY_ANNOTATION.to_owned(), "1.0".to_owned()),
                ]
                .into(),
            ),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}
