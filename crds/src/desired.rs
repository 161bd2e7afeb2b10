//! The objects that the operator makes for a store, as pure functions of it.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{
        ConfigMap, KeyToPath, PersistentVolumeClaim, PersistentVolumeClaimSpec, Secret,
        VolumeResourceRequirements,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;

use crate::{
    names,
    store::{CodexStore, ReclaimPolicy},
};

/// Name of the component that an object belongs to: label `app.kubernetes.io/component`.
pub mod component {
    /// Keyring Secret and its record.
    pub const KEYRING: &str = "keyring";
    /// Certificates.
    pub const CERTIFICATES: &str = "certificates";
    /// Claims of members.
    pub const MEMBER: &str = "member";
}

/// The store's name.
pub fn store_name(store: &CodexStore) -> &str {
    store.metadata.name.as_deref().unwrap_or_default()
}

/// Name of the Secret with the store's keyring: the operator's, or the one that the user brings.
pub fn keyring_name(store: &CodexStore) -> String {
    match store.spec.encryption.own_secret() {
        Some(own) => own.to_owned(),
        None => names::keyring_secret(store_name(store)),
    }
}

/// What of that Secret is mounted: all of it, or the passphrase alone, under a name that is always the same.
pub fn keyring_items(store: &CodexStore) -> Option<Vec<KeyToPath>> {
    let entry = store.spec.encryption.passphrase_entry()?;
    Some(vec![KeyToPath {
        key: entry.to_owned(),
        path: names::PASSPHRASE_NAME.to_owned(),
        mode: None,
    }])
}

/// All Secrets of a store: none of them is for a container of the user's.
pub fn secrets(store: &CodexStore) -> Vec<String> {
    let own = store.spec.encryption.own_secret().map(str::to_owned);
    names::secrets(store_name(store))
        .into_iter()
        .chain(own)
        .collect()
}

/// Labels of everything that is made for a store.
pub fn labels(store: &CodexStore, component: &str) -> BTreeMap<String, String> {
    let name = store_name(store);
    [
        ("app.kubernetes.io/name", "codexstore"),
        ("app.kubernetes.io/instance", name),
        ("app.kubernetes.io/component", component),
        ("app.kubernetes.io/managed-by", "codexstore-operator"),
        (names::STORE_LABEL, name),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

/// Reference by which garbage collection deletes an object after its store. `None` for a store without UID.
pub fn owner_reference(store: &CodexStore) -> Option<OwnerReference> {
    store.controller_owner_ref(&())
}

/// Whether an object was made for this store: by its labels, and by its controller if it has one.
pub fn is_ours(meta: &ObjectMeta, store: &CodexStore) -> bool {
    let label = |name: &str| {
        meta.labels
            .as_ref()
            .and_then(|l| l.get(name))
            .map(String::as_str)
    };
    let labelled = label(names::STORE_LABEL) == Some(store_name(store))
        && label("app.kubernetes.io/managed-by") == Some("codexstore-operator");
    let controller = meta
        .owner_references
        .iter()
        .flatten()
        .find(|o| o.controller == Some(true));
    labelled && controller.is_none_or(|o| Some(&o.uid) == store.metadata.uid.as_ref())
}

fn metadata(store: &CodexStore, name: String, component: &str, owned: bool) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: store.metadata.namespace.clone(),
        labels: Some(labels(store, component)),
        owner_references: owned.then(|| owner_reference(store).into_iter().collect()),
        ..ObjectMeta::default()
    }
}

/// The keyring with its first key. It has no owner: garbage collection must not destroy keys. To be created,
/// never applied: an existing one is never overwritten.
pub fn keyring_secret(store: &CodexStore, key_id: &str, key: &[u8]) -> Secret {
    let name = store_name(store);
    let mut metadata = metadata(
        store,
        names::keyring_secret(name),
        component::KEYRING,
        false,
    );
    metadata
        .labels
        .get_or_insert_default()
        .insert(names::KEYRING_LABEL.to_owned(), name.to_owned());
    let data = BTreeMap::from([
        (
            names::KEYRING_CURRENT.to_owned(),
            ByteString(key_id.as_bytes().to_vec()),
        ),
        (key_id.to_owned(), ByteString(key.to_vec())),
    ]);
    Secret {
        metadata,
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// The record that a keyring was made. It has no owner either: while it exists and the Secret does not, no
/// new key is made, also not for a CodexStore that was deleted and created again.
pub fn keyring_record(
    store: &CodexStore,
    secret_uid: &str,
    key_ids: &[String],
    created_at: &str,
) -> ConfigMap {
    let name = names::keyring_record(store_name(store));
    let mut data = vec![
        ("secretName", keyring_name(store)),
        ("secretUid", secret_uid.to_owned()),
        ("keyIds", key_ids.join(",")),
        ("createdAt", created_at.to_owned()),
    ];
    if store.spec.volume.pod_volume.is_some() {
        data.push((names::RECORD_POD_VOLUME, "true".to_owned()));
    }
    ConfigMap {
        metadata: metadata(store, name, component::KEYRING, false),
        data: Some(data.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ..ConfigMap::default()
    }
}

/// The keyring as it was sealed for the escrow. It has no owner: where the Secret is lost, this is a way back to its keys.
pub fn escrow(store: &CodexStore, sealed_from: &str, data: BTreeMap<String, String>) -> ConfigMap {
    let name = names::escrow(store_name(store));
    let mut metadata = metadata(store, name, component::KEYRING, false);
    metadata.annotations = Some(BTreeMap::from([(
        names::SEALED_FROM_ANNOTATION.to_owned(),
        sealed_from.to_owned(),
    )]));
    ConfigMap {
        metadata,
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// What files of backups need that stay without their CodexBackup. It has no owner: they outlive the CodexStore. To be created, never
/// applied.
pub fn kept_backups(store: &CodexStore, data: BTreeMap<String, String>) -> ConfigMap {
    let name = names::kept_backups(store_name(store));
    ConfigMap {
        metadata: metadata(store, name, component::KEYRING, false),
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// A certificate and its key, with the authority's certificates, under one of [`names`]'s names.
pub fn tls_secret(store: &CodexStore, name: String, crt: &str, key: &str, ca: &str) -> Secret {
    let data = [("tls.crt", crt), ("tls.key", key), ("ca.crt", ca)];
    Secret {
        metadata: metadata(store, name, component::CERTIFICATES, true),
        data: Some(
            data.into_iter()
                .map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec())))
                .collect(),
        ),
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    }
}

/// The claim of the member in `pod`; `None` unless the store's volume is `claim`. `single_pod` asks for
/// `ReadWriteOncePod`, which only CSI drivers know; without it `ReadWriteOnce`. The CodexStore owns it only where
/// `reclaimPolicy: Delete` says so.
pub fn member_claim(
    store: &CodexStore,
    pod: &str,
    single_pod: bool,
) -> Option<PersistentVolumeClaim> {
    let claim = store.spec.volume.claim.as_ref()?;
    let name = names::member_claim(store_name(store), pod);
    let owned = claim.reclaim_policy == ReclaimPolicy::Delete;
    let mut metadata = metadata(store, name, component::MEMBER, owned);
    metadata.annotations = Some(BTreeMap::from([(
        names::POD_ANNOTATION.to_owned(),
        pod.to_owned(),
    )]));
    let mode = if single_pod {
        "ReadWriteOncePod"
    } else {
        "ReadWriteOnce"
    };
    Some(PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![mode.to_owned()]),
            storage_class_name: claim.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([(
                    "storage".to_owned(),
                    claim.size.to_k8s(),
                )])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(spec: &str) -> CodexStore {
        let mut store = CodexStore::new("orders", serde_yaml::from_str(spec).unwrap());
        store.metadata.namespace = Some("shop".to_owned());
        store.metadata.uid = Some("uid".to_owned());
        store
    }

    #[test]
    fn keyring_and_record_have_no_owner_so_that_nothing_collects_them() {
        let secret = keyring_secret(&store("{}"), "20260101-abcd", &[7; 32]);
        let record = keyring_record(
            &store("{}"),
            "secret-uid",
            &["20260101-abcd".to_owned()],
            "now",
        );
        for meta in [&secret.metadata, &record.metadata] {
            assert_eq!(meta.name.as_deref(), Some("cxs-orders-keyring"));
            assert_eq!(meta.namespace.as_deref(), Some("shop"));
            assert_eq!(meta.owner_references, None);
            assert!(is_ours(meta, &store("{}")));
        }
        assert_eq!(
            secret.metadata.labels.unwrap()[names::KEYRING_LABEL],
            "orders"
        );
        let data = secret.data.unwrap();
        assert_eq!(data["current"].0, b"20260101-abcd");
        assert_eq!(data["20260101-abcd"].0, [7; 32]);
        assert!(
            !format!("{:?}", record.data).contains("\\u{7}"),
            "no key in the record"
        );
    }

    #[test]
    fn the_record_says_that_data_may_be_on_volumes_of_the_users() {
        let of = |spec: &str| keyring_record(&store(spec), "uid", &[], "now").data;
        let says = |spec: &str| of(spec).unwrap().remove("podVolume");
        assert_eq!(says("{volume: {podVolume: work}}").as_deref(), Some("true"));
        assert_eq!(says("{volume: {claim: {size: 1Gi}}}"), None);
        assert_eq!(says("{}"), None);
    }

    #[test]
    fn certificates_go_with_their_store() {
        let secret = tls_secret(
            &store("{}"),
            names::server_secret("orders"),
            "crt",
            "key",
            "ca",
        );
        let owners = secret.metadata.owner_references.unwrap();
        assert_eq!(
            (owners[0].uid.as_str(), owners[0].controller),
            ("uid", Some(true))
        );
        assert_eq!(secret.data.unwrap().len(), 3);
    }

    #[test]
    fn a_claim_is_owned_only_where_the_policy_says_delete() {
        assert_eq!(member_claim(&store("{}"), "web-0", true), None);
        let claim = |spec: &str| member_claim(&store(spec), "web-0", false).unwrap();
        let kept = claim("{volume: {claim: {size: 2Gi, storageClassName: fast}}}");
        assert_eq!(kept.metadata.name.as_deref(), Some("cxs-orders-web-0"));
        assert_eq!(kept.metadata.owner_references, None);
        assert_eq!(
            kept.metadata.annotations.unwrap()[names::POD_ANNOTATION],
            "web-0"
        );
        let spec = kept.spec.unwrap();
        assert_eq!(spec.storage_class_name.as_deref(), Some("fast"));
        assert_eq!(spec.access_modes.unwrap(), ["ReadWriteOnce"]);
        assert_eq!(
            spec.resources.unwrap().requests.unwrap()["storage"].0,
            "2Gi"
        );
        let deleted = claim("{volume: {claim: {size: 2Gi, reclaimPolicy: Delete}}}");
        assert_eq!(deleted.metadata.owner_references.unwrap()[0].uid, "uid");
    }

    #[test]
    fn what_another_made_is_not_ours() {
        let ours = keyring_secret(&store("{}"), "id", &[]).metadata;
        let unlabelled = ObjectMeta {
            labels: None,
            ..ours.clone()
        };
        assert!(!is_ours(&unlabelled, &store("{}")));
        let mut other = store("{}");
        other.metadata.name = Some("invoices".to_owned());
        assert!(!is_ours(&ours, &other));
        let owned = tls_secret(&store("{}"), "n".to_owned(), "", "", "").metadata;
        let mut recreated = store("{}");
        recreated.metadata.uid = Some("another".to_owned());
        assert!(
            !is_ours(&owned, &recreated),
            "a store of the same name is not the same store"
        );
    }
}
