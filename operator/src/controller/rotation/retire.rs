//! The deletion of a key that nothing needs any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use codexstore_crds::rotation::Retire;
use codexstore_crds::status::KeyStatus;
use codexstore_crds::{CodexBackup, CodexRestore, names};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams};
use kube::{Resource as _, ResourceExt as _};

use super::super::Error;
use super::super::archive;
use super::super::kept;
use super::super::key_needs::Places;
use super::super::members;
use super::{Look, write};

/// Deletes a key of the keyring, if the spec allows that and nothing needs one. True if something changed.
pub async fn one(look: &Look<'_>, keys: &[KeyStatus]) -> Result<bool, Error> {
    let policy = look.store.spec.encryption.rotation();
    let unneeded = keys
        .iter()
        .find(|key| key.state == "Retiring" && key.needed_by.is_empty());
    let (Retire::Unneeded, Some(key)) = (policy.retire, unneeded) else {
        return Ok(false);
    };
    // A cache that lags behind must not cost data: all is read live.
    if !still_unneeded(look, &key.id).await? {
        return Ok(false);
    }
    let Some((secret, now)) = write::live(look).await? else {
        return Ok(false);
    };
    if now.current == key.id || !now.ids.contains(&key.id) {
        return Ok(false);
    }
    // Off the record first: a key that is on it and not in the Secret is one that was lost.
    let left: Vec<_> = now
        .ids
        .iter()
        .filter(|id| **id != key.id)
        .cloned()
        .collect();
    match write::record(look, &left).await? {
        Some(true) => {}
        Some(false) => return Ok(true),
        None => return Ok(false),
    }
    if write::change(look, &secret, BTreeMap::from([(key.id.as_str(), None)])).await? {
        let note = format!("key {} is deleted: nothing needs it any more", key.id);
        let about = look.store.object_ref(&());
        look.shared.events.normal(&about, "KeyRetired", &note).await;
    }
    Ok(true)
}

/// The same question, of what the API server has now. Members were asked just now; pods that were made meanwhile count as
/// not asked.
pub(super) async fn still_unneeded(look: &Look<'_>, id: &str) -> Result<bool, Error> {
    let store = look.store.name_any();
    let namespace = look.store.namespace().unwrap_or_default();
    let client = || look.shared.client.clone();
    let all = ListParams::default();
    let claims = Api::<PersistentVolumeClaim>::namespaced(client(), &namespace);
    let prefix = names::member_claim_prefix(&store);
    // By name too: labels can be taken off.
    let ours = |claim: &PersistentVolumeClaim| {
        claim.labels().get(names::STORE_LABEL) == Some(&store)
            || claim.name_any().starts_with(&prefix)
    };
    let claims: Vec<_> = claims.list(&all).await?.items;
    let claims: Vec<_> = claims.into_iter().filter(ours).map(Arc::new).collect();
    let backups = Api::<CodexBackup>::namespaced(client(), &namespace);
    let backups = backups.list(&all).await?.items.into_iter();
    let backups: Vec<_> = backups
        .filter(|backup| backup.spec.store_ref.name == store)
        .map(Arc::new)
        .collect();
    // Behind them: one that goes while this is read is in the list, or written down by now.
    let kept = kept::live(&look.shared.client, look.store).await?;
    let restores = Api::<CodexRestore>::namespaced(client(), &namespace);
    let restores = restores.list(&all).await?.items.into_iter();
    let restores: Vec<_> = restores
        .filter(|restore| restore.concerns(&store))
        .map(Arc::new)
        .collect();
    let pods = Api::<Pod>::namespaced(client(), &namespace);
    let labelled = ListParams::default().labels(&format!("{}={store}", names::STORE_LABEL));
    let strangers = pods.list(&labelled).await?.items.into_iter().any(|pod| {
        let known = look.places.members.iter().any(|m| m.pod.uid() == pod.uid());
        !known && !members::finished(&pod) && members::has_started(&pod)
    });
    let record = archive::live(look.shared, look.store).await?;
    let places = Places {
        claims: &claims,
        backups: &backups,
        kept: &kept,
        restores: &restores,
        archive: record.as_ref(),
        ..look.places
    };
    Ok(!strangers && places.needing(id).is_empty())
}
