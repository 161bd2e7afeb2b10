//! What a rotation changes in the cluster.

use std::collections::BTreeMap;

use codexstore_crds::backup::LocalRef;
use codexstore_crds::codex_key_rotation::{
    COMPLETED, KEYRING_READY, REENCRYPTED, RotationMember, RotationReason, member, phase, reason,
};
use codexstore_crds::rotation::Mode;
use codexstore_crds::status::{bounded, condition_of};
use codexstore_crds::{
    CodexKeyRotation, CodexKeyRotationSpec, CodexKeyRotationStatus, desired, names,
};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PostParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use super::super::Error;
use super::super::keyring::{
    Facts, MAX_KEYS, conflict, facts as facts_of, patch_params, random_key,
};
use super::super::ownership::{Ownership, keyring_ownership};
use super::super::problem::{self, Problem};
use super::super::reconcile::Memory;
use super::super::told::{self, Over};
use super::plan::named;
use super::{Look, exposed};

/// Who writes the status of rotations.
const MANAGER: &str = "codexstore-operator-rotation";
/// Rotations of a schedule that have ended and stay to be looked at.
const HISTORY: usize = 10;

pub(super) fn secrets(look: &Look<'_>) -> Api<Secret> {
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

/// Puts a new key into the keyring. False if it is there, somebody was faster, or there is no room for it.
pub async fn add_key(look: &Look<'_>, known: &Facts, id: &str) -> Result<bool, Error> {
    let Some((secret, now)) = live(look).await? else {
        return Ok(false);
    };
    let full = now.ids.len() >= MAX_KEYS;
    if full || now.ids.iter().any(|there| there == id) || now.current != known.current {
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

/// Makes a rotation, and deletes the oldest of those that were made so and have ended. False if there is one of that name.
pub async fn create(look: &Look<'_>, name: &str, reason: RotationReason) -> Result<bool, Error> {
    let store = look.store;
    let spec = CodexKeyRotationSpec {
        store_ref: LocalRef {
            name: store.name_any(),
        },
        mode: None,
        reason,
    };
    let mut rotation = CodexKeyRotation::new(name, spec);
    rotation.metadata.labels = Some(desired::labels(store, "key-rotation"));
    rotation.metadata.owner_references = desired::owner_reference(store).map(|owner| vec![owner]);
    let api = rotations(look);
    let made = match api.create(&PostParams::default(), &rotation).await {
        Ok(_) => true,
        Err(error) if conflict(&error) => false,
        Err(error) => return Err(error.into()),
    };
    // One by which members are still to be re-encrypted is the record of that.
    let scheduled = |r: &&std::sync::Arc<CodexKeyRotation>| {
        r.ended() && r.labels().contains_key(names::STORE_LABEL) && r.left().next().is_none()
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
    Ok(made)
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

    /// Writes all that is known. False if there was nothing to write it to: the rotation is gone, or newer than what was seen.
    pub async fn tell(&self, status: &CodexKeyRotationStatus) -> Result<bool, Error> {
        if self.rotation.status.as_ref() == Some(status) {
            return Ok(true);
        }
        // Not over what somebody wrote since: that a member is done is written down nowhere else.
        let client = &self.look.shared.client;
        Ok(told::tell(client, self.rotation, MANAGER, Over::Seen, status).await?)
    }

    /// Says that it has not begun.
    pub async fn pending(&self, what: &str) -> Result<(), Error> {
        self.tell(&CodexKeyRotationStatus {
            phase: Some(phase::PENDING.to_owned()),
            message: Some(bounded(what)),
            ..CodexKeyRotationStatus::default()
        })
        .await?;
        Ok(())
    }

    /// Says that it began, and waits until the keyring is good again; in an event too when that is new.
    pub async fn held_up(&self, problem: &Problem) -> Result<(), Error> {
        let before = self.rotation.status.clone().unwrap_or_default();
        let known = before.keyring().filter(|c| c.status == "False");
        let since = known.map(|c| c.last_transition_time.clone());
        let what = format!("waiting for a good keyring: {}", problem.message);
        if since.is_none() {
            self.event("WaitingForKeyring", &what).await;
        }
        let since = since.unwrap_or_else(|| Time(Timestamp::now()));
        let bad = condition_of(
            KEYRING_READY,
            "False",
            problem.reason,
            &problem.message,
            since,
        );
        let mut status = with_keyring(before, bad);
        status.message = Some(bounded(&what));
        self.tell(&status).await?;
        Ok(())
    }

    /// Says that the keyring is good again, if it was not. False if it was: what was seen is older than what is written otherwise.
    pub async fn resumed(&self) -> Result<bool, Error> {
        let before = self.rotation.status.clone().unwrap_or_default();
        if before.keyring().is_none_or(|c| c.status != "False") {
            return Ok(false);
        }
        let now = Time(Timestamp::now());
        let what = "the keyring is good again: the deadline counts from here";
        let good = condition_of(KEYRING_READY, "True", KEYRING_READY, what, now);
        let mut status = with_keyring(before, good);
        status.message = None;
        self.tell(&status).await?;
        Ok(true)
    }

    /// Says which phase it is in, and what is waited for, in an event too when that is new.
    pub async fn is_in(
        &self,
        status: CodexKeyRotationStatus,
        phase: &str,
        message: Option<String>,
    ) -> Result<(), Error> {
        let before = self.rotation.status.as_ref();
        let entered = before.and_then(|s| s.phase.as_deref()) != Some(phase);
        if let Some(message) = message.as_ref().filter(|_| entered) {
            let reason = match phase {
                phase::ADDING => "WaitingForKey",
                _ => "WaitingForMembers",
            };
            self.event(reason, message).await;
        }
        self.tell(&CodexKeyRotationStatus {
            phase: Some(phase.to_owned()),
            message: message.as_deref().map(bounded),
            ..status
        })
        .await?;
        Ok(())
    }

    /// Says that all is done.
    pub async fn complete(&self, status: CodexKeyRotationStatus) -> Result<(), Error> {
        let to = status.to.as_deref().unwrap_or_default();
        let from = status.from.as_deref().unwrap_or_default();
        let ready = status.ready.as_deref().unwrap_or_default();
        let anew = match status.mode {
            Some(Mode::Reencrypt) => ", and all that they hold was encrypted anew",
            _ => "",
        };
        let own = self.look.store.spec.encryption.own_secret();
        let (event, rest) = match own {
            Some(_) => (
                "Reencrypted",
                "what else needs another key is in .status.encryptionKeys of the CodexStore"
                    .to_owned(),
            ),
            None => (
                "KeyRotated",
                format!("{from} stays in the keyring for what is not a running member"),
            ),
        };
        let mut what = format!("members {ready} need key {to} only{anew}; {rest}");
        if let Some((false, left)) = reencrypted(&status) {
            what = format!("{what}; {left}");
        }
        if self
            .end(status, phase::COMPLETED, reason::COMPLETED, &what)
            .await?
        {
            self.event(event, &what).await;
            self.warn_of_exposed().await;
        }
        Ok(())
    }

    /// Says that it was given up before it began, and why.
    pub async fn fail(&self, reason: &str, why: &str) -> Result<(), Error> {
        let before = self.rotation.status.clone().unwrap_or_default();
        self.give_up(before, reason, why).await
    }

    /// Says that it was given up, and why: as one of the reasons in [`reason`], and in words.
    pub async fn give_up(
        &self,
        status: CodexKeyRotationStatus,
        reason: &str,
        why: &str,
    ) -> Result<(), Error> {
        if self.end(status, phase::FAILED, reason, why).await? {
            self.warning(problem::ROTATION_FAILED, why).await;
            self.warn_of_exposed().await;
        }
        Ok(())
    }

    /// Writes down what became of members that it had left out.
    pub async fn caught_up(
        &self,
        before: &CodexKeyRotationStatus,
        members: Vec<RotationMember>,
    ) -> Result<(), Error> {
        let mut status = CodexKeyRotationStatus {
            members,
            ..before.clone()
        };
        let all = set_reencrypted(&mut status);
        if self.tell(&status).await? && all == Some(true) {
            let to = status.to.as_deref().unwrap_or_default();
            let what =
                format!("the members that were left out when key {to} came are encrypted anew");
            self.event("Reencrypted", &what).await;
        }
        Ok(())
    }

    async fn end(
        &self,
        status: CodexKeyRotationStatus,
        phase: &str,
        reason: &str,
        message: &str,
    ) -> Result<bool, Error> {
        let now = Time(Timestamp::now());
        let good = if phase == phase::COMPLETED {
            "True"
        } else {
            "False"
        };
        let mut status = CodexKeyRotationStatus {
            phase: Some(phase.to_owned()),
            completed_at: Some(now.clone()),
            message: Some(bounded(message)),
            conditions: vec![condition_of(COMPLETED, good, reason, message, now)],
            ..status
        };
        set_reencrypted(&mut status);
        self.tell(&status).await
    }

    /// Tells of backups that stay exposed: on the rotation and on its store.
    async fn warn_of_exposed(&self) {
        let places = &self.look.places;
        let known = self.rotation.status.as_ref();
        let known = known.and_then(|s| s.exposed_backups.as_ref());
        let exposed =
            known.map(|known| exposed::of(places.backups, places.archive, known.key_ids.clone()));
        if let Some(what) = exposed.as_ref().and_then(exposed::told) {
            self.warning(problem::BACKUPS_EXPOSED, &what).await;
        }
    }

    async fn warning(&self, reason: &'static str, note: &str) {
        let events = &self.look.shared.events;
        for about in [
            self.rotation.object_ref(&()),
            self.look.store.object_ref(&()),
        ] {
            events.warning(&about, reason, note).await;
        }
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

fn with_keyring(mut status: CodexKeyRotationStatus, now: Condition) -> CodexKeyRotationStatus {
    status.conditions.retain(|c| c.type_ != KEYRING_READY);
    status.conditions.push(now);
    status
}

/// Whether all that members hold was encrypted anew, and in words who is left. None where that was not asked for, or the new key is not
/// current.
fn reencrypted(status: &CodexKeyRotationStatus) -> Option<(bool, String)> {
    let asked = status.mode == Some(Mode::Reencrypt) && status.promoted_at.is_some();
    let left: Vec<_> = status
        .members
        .iter()
        .filter(|m| m.state != member::DONE)
        .collect();
    asked.then(|| {
        if left.is_empty() {
            return (true, "all that members hold was encrypted anew".to_owned());
        }
        let who = named(&left);
        (false, format!("encrypted anew when they are back: {who}"))
    })
}

/// Sets the condition that tells of it.
fn set_reencrypted(status: &mut CodexKeyRotationStatus) -> Option<bool> {
    let (all, message) = reencrypted(status)?;
    let known = |c: &&Condition| c.type_ == REENCRYPTED;
    let (value, reason) = if all {
        ("True", "AllMembers")
    } else {
        ("False", "MembersLeft")
    };
    let before = status.conditions.iter().find(known);
    let since = before.filter(|c| c.status == value).map_or_else(
        || Time(Timestamp::now()),
        |c| c.last_transition_time.clone(),
    );
    let condition = condition_of(REENCRYPTED, value, reason, &message, since);
    status.conditions.retain(|c| c.type_ != REENCRYPTED);
    status.conditions.push(condition);
    Some(all)
}
