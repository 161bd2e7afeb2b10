//! Whose object is it? Nothing is changed, read as a key, or deleted before this was asked.

use codexstore_crds::{CodexStore, desired, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// The operator made it for this store.
    Ours,
    /// The operator made it for a store of this name that was deleted since; garbage collection may be about to delete it.
    Former,
    /// Somebody else's: it is never touched. The text says why.
    Foreign(String),
}

/// Whose object this is, by its labels and its controller.
pub fn ownership(meta: &ObjectMeta, store: &CodexStore) -> Ownership {
    let label = |name: &str| meta.labels.as_ref()?.get(name).map(String::as_str);
    for (name, wanted) in [
        (names::STORE_LABEL, desired::store_name(store)),
        ("app.kubernetes.io/managed-by", names::FIELD_MANAGER),
    ] {
        if label(name) != Some(wanted) {
            return Ownership::Foreign(format!("it has no label {name}={wanted}"));
        }
    }
    controller(meta, store)
}

/// Whose Secret this is that has the name of the store's keyring: one label is enough, so that a Secret that a user put back
/// by hand is found.
pub fn keyring_ownership(meta: &ObjectMeta, store: &CodexStore) -> Ownership {
    let name = desired::store_name(store);
    let labelled = meta
        .labels
        .as_ref()
        .and_then(|l| l.get(names::KEYRING_LABEL))
        .is_some_and(|l| l == name);
    if labelled {
        return controller(meta, store);
    }
    Ownership::Foreign(format!("it has no label {}={name}", names::KEYRING_LABEL))
}

fn controller(meta: &ObjectMeta, store: &CodexStore) -> Ownership {
    let Some(owner) = meta
        .owner_references
        .iter()
        .flatten()
        .find(|o| o.controller == Some(true))
    else {
        return Ownership::Ours;
    };
    let group = owner.api_version.split_once('/').map(|(group, _)| group);
    if owner.kind != "CodexStore" || group != Some(names::GROUP) || owner.name != store.name_any() {
        Ownership::Foreign(format!("it belongs to {} {}", owner.kind, owner.name))
    } else if store.metadata.uid.as_ref() == Some(&owner.uid) {
        Ownership::Ours
    } else {
        Ownership::Former
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::store;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn owned(kind: &str, name: &str, uid: &str) -> ObjectMeta {
        ObjectMeta {
            labels: Some(desired::labels(&store(), "x")),
            owner_references: Some(vec![OwnerReference {
                api_version: "codexstore.dev/v1alpha1".into(),
                kind: kind.into(),
                name: name.into(),
                uid: uid.into(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn what_carries_our_labels_and_no_other_controller_is_ours() {
        assert_eq!(
            ownership(&owned("CodexStore", "orders", "store-uid"), &store()),
            Ownership::Ours
        );
        let mut meta = owned("CodexStore", "orders", "store-uid");
        meta.owner_references = None;
        assert_eq!(ownership(&meta, &store()), Ownership::Ours);
    }

    #[test]
    fn what_a_deleted_store_of_this_name_owned_is_told_apart() {
        let meta = owned("CodexStore", "orders", "an-older-uid");
        assert_eq!(ownership(&meta, &store()), Ownership::Former);
    }

    #[test]
    fn anything_else_is_foreign() {
        let foreign =
            |meta: &ObjectMeta| matches!(ownership(meta, &store()), Ownership::Foreign(_));
        assert!(foreign(&ObjectMeta::default()));
        assert!(foreign(&owned("CodexStore", "other", "store-uid")));
        assert!(foreign(&owned("Deployment", "orders", "store-uid")));
        let mut other_store = owned("CodexStore", "orders", "store-uid");
        let labels = other_store.labels.as_mut().unwrap();
        labels.insert(names::STORE_LABEL.into(), "other".into());
        assert!(foreign(&other_store));
        let mut by_hand = owned("CodexStore", "orders", "store-uid");
        by_hand
            .labels
            .as_mut()
            .unwrap()
            .remove("app.kubernetes.io/managed-by");
        assert!(foreign(&by_hand));
    }

    #[test]
    fn a_keyring_needs_only_the_keyring_label() {
        let mut meta = ObjectMeta::default();
        assert!(matches!(
            keyring_ownership(&meta, &store()),
            Ownership::Foreign(_)
        ));
        meta.labels = Some([(names::KEYRING_LABEL.to_owned(), "other".to_owned())].into());
        assert!(matches!(
            keyring_ownership(&meta, &store()),
            Ownership::Foreign(_)
        ));
        meta.labels = Some([(names::KEYRING_LABEL.to_owned(), "orders".to_owned())].into());
        assert_eq!(keyring_ownership(&meta, &store()), Ownership::Ours);
    }
}
