//! What a rotation changes in the cluster.

use std::collections::BTreeMap;

use codexstore_crds::backup::LocalRef;
use codexstore_crds::codex_key_rotation::{COMPLETED, phase};
use codexstore_crds::status::bounded;
use codexstore_crds::{
    CodexKeyRotation, CodexKeyRotationSpec, CodexKeyRotationStatus, desired, names,
};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::{Value, json};

use super::super::keyring::{Facts, conflict, facts as facts_of, patch_params, random_key};
use super::super::ownership::{Ownership, keyring_ownership};
use super::super::problem;
use super::super::reconcile::Memory;
use super::super::{Error, job_run};
use super::Look;

/// Who writes the status of rotations.
const MANAGER: &str = "codexstore-operator-rotation";
/// Rotations of a schedule that have ended and stay to be looked at.
const HISTORY: usize = 10;

fn secrets(look: &Look<'_>) -> Api<Secret> {
    let namespace = look.store.namespace().unwrap_or_default();
    Api::namespaced(look.shared.client.clone(), &namespace)
}

fn rotations(look: &Look<'_>) -> Api<CodexKeyRotation> {
    let namespace = look.store.namespace().unwrap_or_default();
    Api::namespaced(look.shared.client.clone(), &namespace)
}

/// The keyring as it is now, if it is ours and well-formed.
pub(super) async fn live(look: &Look<'_>) -> Result<Option<(Secret, Facts)>, Error> {
    let name = names::keyring_secret(&look.store.name_any());
    let Some(secret) = secrets(look).get_opt(&name).await? else {
        return Ok(None);
    };
    if matches!(
        keyring_ownership(&secret.metadata, look.store),
        Ownership::Foreign(_)
    ) {
        return Ok(None);
    }
    Ok(facts_of(&secret).ok().map(|facts| (secret, facts)))
}

/// Changes entries of the keyring, unless somebody changed it since it was read. What was known of it is forgotten.
pub(super) async fn change(
    look: &Look<'_>,
    secret: &Secret,
    entries: BTreeMap<&str, Option<ByteString>>,
) -> Result<bool, Error> {
    let patch = json!({
        "metadata": {"uid": secret.metadata.uid, "resourceVersion": secret.metadata.resource_version},
        "data": entries,
    });
    let name = secret.name_any();
    let patched = secrets(look)
        .patch(&name, &patch_params(), &Patch::Merge(patch))
        .await;
    look.shared.remember(look.store, Memory::forget_keyring);
    match patched {
        Ok(_) => Ok(true),
        Err(error) if conflict(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes down which keys there are, unless somebody changed the record meanwhile: false then, and none if there is no record.
pub(super) async fn record(look: &Look<'_>, ids: &[String]) -> Result<Option<bool>, Error> {
    let namespace = look.store.namespace().unwrap_or_default();
    let records = Api::<ConfigMap>::namespaced(look.shared.client.clone(), &namespace);
    let name = names::keyring_record(&look.store.name_any());
    let Some(record) = records.get_opt(&name).await? else {
        return Ok(None);
    };
    let patch = json!({
        "metadata": {"resourceVersion": record.resource_version()},
        "data": {"keyIds": ids.join(",")},
    });
    let patched = records
        .patch(&name, &patch_params(), &Patch::Merge(patch))
        .await;
    match patched {
        Ok(_) => Ok(Some(true)),
        Err(error) if conflict(&error) => Ok(Some(false)),
        Err(error) => Err(error.into()),
    }
}

/// Puts a new key into the keyring. False if it is there, or somebody was faster.
pub async fn add_key(look: &Look<'_>, known: &Facts, id: &str) -> Result<bool, Error> {
    let Some((secret, now)) = live(look).await? else {
        return Ok(false);
    };
    if now.ids.iter().any(|there| there == id) || now.current != known.current {
        look.shared.remember(look.store, Memory::forget_keyring);
        return Ok(false);
    }
    let key = ByteString(random_key(look.store)?);
    change(look, &secret, BTreeMap::from([(id, Some(key))])).await
}

/// Makes a key current that is in the keyring.
pub async fn promote(look: &Look<'_>, from: &str, to: &str) -> Result<bool, Error> {
    let Some((secret, now)) = live(look).await? else {
        return Ok(false);
    };
    if now.current != from || !now.ids.iter().any(|id| id == to) {
        look.shared.remember(look.store, Memory::forget_keyring);
        return Ok(false);
    }
    let current = ByteString(to.as_bytes().to_vec());
    let entries = BTreeMap::from([(names::KEYRING_CURRENT, Some(current))]);
    change(look, &secret, entries).await
}

/// Makes the rotation that was due then, in seconds since 1970, and deletes the oldest of those that ended.
pub async fn create(look: &Look<'_>, due: i64) -> Result<(), Error> {
    let store = look.store;
    let spec = CodexKeyRotationSpec {
        store_ref: LocalRef {
            name: store.name_any(),
        },
    };
    // By this name it is made once, whoever makes it.
    let mut rotation = CodexKeyRotation::new(&format!("{}-{}", store.name_any(), due / 60), spec);
    rotation.metadata.labels = Some(desired::labels(store, "key-rotation"));
    rotation.metadata.owner_references = desired::owner_reference(store).map(|owner| vec![owner]);
    let api = rotations(look);
    match api.create(&PostParams::default(), &rotation).await {
        Ok(_) => {}
        Err(error) if conflict(&error) => {}
        Err(error) => return Err(error.into()),
    }
    let scheduled = |r: &&std::sync::Arc<CodexKeyRotation>| {
        r.ended() && r.labels().contains_key(names::STORE_LABEL)
    };
    let mut ended: Vec<_> = look.rotations.iter().filter(scheduled).collect();
    ended.sort_by_key(|r| r.metadata.creation_timestamp.clone());
    let surplus = ended.len().saturating_sub(HISTORY);
    for rotation in ended.into_iter().take(surplus) {
        match api
            .delete(&rotation.name_any(), &DeleteParams::default())
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if answer.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes what becomes of one rotation.
pub struct Writer<'a> {
    look: &'a Look<'a>,
    rotation: &'a CodexKeyRotation,
}

impl<'a> Writer<'a> {
    /// Of this one.
    pub fn of(look: &'a Look<'a>, rotation: &'a CodexKeyRotation) -> Self {
        Self { look, rotation }
    }

    /// Writes all that is known.
    pub async fn tell(&self, status: &CodexKeyRotationStatus) -> Result<(), Error> {
        if self.rotation.status.as_ref() == Some(status) {
            return Ok(());
        }
        let name = self.rotation.name_any();
        let patch: Value = json!({
            "apiVersion": CodexKeyRotation::api_version(&()),
            "kind": CodexKeyRotation::kind(&()),
            "metadata": {"name": name, "uid": self.rotation.metadata.uid},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        let patched = rotations(self.look)
            .patch_status(&name, &params, &Patch::Apply(patch))
            .await;
        match patched {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            Err(error) if conflict(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Says that it has not begun.
    pub async fn pending(&self, what: &str) -> Result<(), Error> {
        self.tell(&CodexKeyRotationStatus {
            phase: Some(phase::PENDING.to_owned()),
            message: Some(bounded(what)),
            ..CodexKeyRotationStatus::default()
        })
        .await
    }

    /// Says what is waited for, in an event too when that is new.
    pub async fn waits(
        &self,
        before: &CodexKeyRotationStatus,
        phase: &str,
        ready: String,
        message: &str,
    ) -> Result<(), Error> {
        if before.phase.as_deref() != Some(phase) {
            self.event("WaitingForMembers", message).await;
        }
        self.tell(&CodexKeyRotationStatus {
            phase: Some(phase.to_owned()),
            ready: Some(ready),
            message: Some(bounded(message)),
            ..before.clone()
        })
        .await
    }

    /// Says that all is done.
    pub async fn complete(
        &self,
        before: &CodexKeyRotationStatus,
        ready: String,
    ) -> Result<(), Error> {
        let to = before.to.as_deref().unwrap_or_default();
        let from = before.from.as_deref().unwrap_or_default();
        let what = format!(
            "members {ready} need key {to} only; {from} stays in the keyring for what is not a running member"
        );
        self.end(
            CodexKeyRotationStatus {
                ready: Some(ready),
                ..before.clone()
            },
            phase::COMPLETED,
            &what,
        )
        .await?;
        self.event("KeyRotated", &what).await;
        Ok(())
    }

    /// Says that it was given up, and why.
    pub async fn fail(&self, why: &str) -> Result<(), Error> {
        let before = self.rotation.status.clone().unwrap_or_default();
        self.end(before, phase::FAILED, why).await?;
        let events = &self.look.shared.events;
        for about in [
            self.rotation.object_ref(&()),
            self.look.store.object_ref(&()),
        ] {
            events.warning(&about, problem::ROTATION_FAILED, why).await;
        }
        Ok(())
    }

    async fn end(
        &self,
        before: CodexKeyRotationStatus,
        phase: &str,
        message: &str,
    ) -> Result<(), Error> {
        let now = Time(Timestamp::now());
        let good = if phase == phase::COMPLETED {
            "True"
        } else {
            "False"
        };
        self.tell(&CodexKeyRotationStatus {
            phase: Some(phase.to_owned()),
            completed_at: Some(now.clone()),
            message: Some(bounded(message)),
            conditions: vec![job_run::condition_of(COMPLETED, good, phase, message, now)],
            ..before
        })
        .await
    }

    /// Tells of something on the rotation and on its store.
    pub async fn event(&self, reason: &'static str, note: &str) {
        let events = &self.look.shared.events;
        for about in [
            self.rotation.object_ref(&()),
            self.look.store.object_ref(&()),
        ] {
            events.normal(&about, reason, note).await;
        }
    }
}
