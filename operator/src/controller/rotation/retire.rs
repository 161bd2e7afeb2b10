//! The deletion of keys that nothing needs any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use codexstore_crds::archive::Record;
use codexstore_crds::rotation::Retire;
use codexstore_crds::status::KeyStatus;
use codexstore_crds::{CodexBackup, CodexRestore};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Resource as _, ResourceExt as _};

use super::super::Error;
use super::super::kept::{self, Kept};
use super::super::key_needs::Places;
use super::super::{archive, claims, members};
use super::{Look, few, retired, write};

/// Deletes a key of the keyring, if the spec allows that and nothing needs one. True if something changed. What is needed after all says
/// by what.
pub async fn one(look: &Look<'_>, keys: &mut [KeyStatus]) -> Result<bool, Error> {
    let policy = look.store.spec.encryption.rotation();
    let unneeded = |key: &KeyStatus| key.state == "Retiring" && key.needed_by.is_empty();
    if policy.retire != Retire::Unneeded || !keys.iter().any(unneeded) {
        return Ok(false);
    }
    // A cache that lags behind must not cost data: all is read live.
    let live = Live::read(look).await?;
    for key in keys.iter_mut().filter(|key| unneeded(key)) {
        key.needed_by = few(live.needing(look, &key.id));
        if key.needed_by.is_empty() && delete(look, key).await? {
            retired::sort(keys);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes one. True if something changed.
async fn delete(look: &Look<'_>, key: &mut KeyStatus) -> Result<bool, Error> {
    let id = key.id.clone();
    let Some((secret, now)) = write::live(look).await? else {
        return Ok(false);
    };
    if now.current == id || !now.ids.contains(&id) {
        return Ok(false);
    }
    // Off the record first: a key that is on it and not in the Secret is one that was lost.
    let left: Vec<_> = now
        .ids
        .iter()
        .filter(|there| **there != id)
        .cloned()
        .collect();
    match write::record(look, &left).await? {
        Some(true) => {}
        Some(false) => return Ok(true),
        None => return Ok(false),
    }
    if write::change(look, &secret, BTreeMap::from([(&*id, None)])).await? {
        *key = retired::of(key, &Time(Timestamp::now()));
        let note = format!("key {id} is deleted: nothing needs it any more");
        let about = look.store.object_ref(&());
        look.shared.events.normal(&about, "KeyRetired", &note).await;
    }
    Ok(true)
}

/// Where keys may be needed, by what the API server has now. Members were asked just now; pods that were not count as pods that need every
/// key.
pub(super) struct Live {
    claims: Vec<Arc<PersistentVolumeClaim>>,
    backups: Vec<Arc<CodexBackup>>,
    kept: Kept,
    restores: Vec<Arc<CodexRestore>>,
    strangers: Vec<Pod>,
    archive: Option<Record>,
}

impl Live {
    pub(super) async fn read(look: &Look<'_>) -> Result<Self, Error> {
        let store = look.store.name_any();
        let namespace = look.store.namespace().unwrap_or_default();
        let client = || look.shared.client.clone();
        let all = ListParams::default();
        let claims = Api::<PersistentVolumeClaim>::namespaced(client(), &namespace);
        let claims = claims.list(&all).await?.items.into_iter();
        let backups = Api::<CodexBackup>::namespaced(client(), &namespace);
        let backups = backups.list(&all).await?.items.into_iter();
        // Behind them: a backup that goes meanwhile is in that list, or was written down before.
        let kept = kept::live(&look.shared.client, look.store).await?;
        let restores = Api::<CodexRestore>::namespaced(client(), &namespace);
        let restores = restores.list(&all).await?.items.into_iter();
        let pods = Api::<Pod>::namespaced(client(), &namespace);
        let pods = pods.list(&all).await?.items.into_iter();
        let stranger = |pod: &Pod| {
            let known = look.places.members.iter().any(|m| m.pod.uid() == pod.uid());
            !known && members::is_of(pod, &store) && !members::finished(pod)
        };
        let of_store = |backup: &CodexBackup| backup.spec.store_ref.name == store;
        Ok(Self {
            claims: claims
                .filter(|c| claims::is_of(c, &store))
                .map(Arc::new)
                .collect(),
            backups: backups.filter(of_store).map(Arc::new).collect(),
            kept,
            restores: restores
                .filter(|r| r.concerns(&store))
                .map(Arc::new)
                .collect(),
            strangers: pods
                .filter(|p| stranger(p) && members::has_started(p))
                .collect(),
            archive: archive::live(look.shared, look.store).await?,
        })
    }

    /// What needs the key of this id, in words.
    pub(super) fn needing(&self, look: &Look<'_>, id: &str) -> Vec<String> {
        let places = Places {
            claims: &self.claims,
            backups: &self.backups,
            kept: &self.kept,
            restores: &self.restores,
            archive: self.archive.as_ref(),
            ..look.places
        };
        let stranger = |pod: &Pod| format!("pod {} (it was not asked)", pod.name_any());
        let mut found: Vec<_> = self.strangers.iter().map(stranger).collect();
        found.extend(places.needing(id));
        found
    }
}

#[cfg(test)]
#[path = "retire_tests.rs"]
mod tests;
