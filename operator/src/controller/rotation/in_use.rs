//! Whether members use the key that a user made current: who does it is not waited for, and so nobody else says who does not.

use std::collections::{BTreeMap, BTreeSet};

use codexstore_crds::codex_key_rotation::{RotationMember, member};
use codexstore_crds::status::condition;
use codexstore_crds::{CodexKeyRotationStatus, CodexStoreStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource as _, ResourceExt as _};

use super::super::keyring::Facts;
use super::plan::named;
use super::progress::Question;
use super::{Keys, Look};

/// The condition `KeyInUse`: value, reason, message.
pub type InUse = (Option<bool>, &'static str, String);

const ALL: &str = "AllMembers";
const WAITING: &str = "WaitingForMembers";

fn before(status: Option<&CodexStoreStatus>) -> Option<&Condition> {
    status?.condition(condition::KEY_IN_USE)
}

/// What was said before, where nobody knows more.
pub fn known(status: Option<&CodexStoreStatus>) -> Option<InUse> {
    let known = before(status)?;
    let (value, reason) = match known.status.as_str() {
        "True" => (true, ALL),
        _ => (false, WAITING),
    };
    Some((Some(value), reason, known.message.clone()))
}

/// Says for whom it is waited since the user made a key current, and by when that should be over.
pub async fn tell(look: &Look<'_>, facts: &Facts, seen: &mut Keys) {
    let status = look.store.status.as_ref();
    let waits = before(status).filter(|c| c.status == "False");
    let was = status.and_then(|s| s.key_id.as_ref());
    let changed = waits.is_some() || was.is_some_and(|was| *was != facts.current);
    let behind = behind(look, facts, &seen.refused, changed);
    let current = &facts.current;
    if behind.is_empty() {
        let what = format!("members that run have loaded key {current}, and need no other");
        seen.in_use = Some((Some(true), ALL, what));
        return;
    }
    let behind: Vec<_> = behind.iter().collect();
    let what = format!(
        "waiting until members have loaded key {current} and wrapped their data keys with it: {}",
        named(&behind)
    );
    if waits.is_none() {
        let about = look.store.object_ref(&());
        look.shared.events.normal(&about, WAITING, &what).await;
    }
    let since = waits.map_or_else(Timestamp::now, |c| c.last_transition_time.0);
    let policy = look.store.spec.encryption.rotation();
    let deadline = since.as_second().saturating_add(policy.deadline_seconds());
    seen.rotations.going = true;
    seen.rotations.deadline = seen.rotations.deadline.or(Some(deadline));
    seen.in_use = Some((Some(false), WAITING, what));
}

/// The members that run and do not use the current key alone. Where none was made current, one that does not say what it needs is not
/// among them.
fn behind(
    look: &Look<'_>,
    facts: &Facts,
    refused: &BTreeMap<String, String>,
    changed: bool,
) -> Vec<RotationMember> {
    let question = Question {
        places: &look.places,
        status: &CodexKeyRotationStatus::default(),
        key: &facts.current,
        counts: &BTreeSet::new(),
        refused,
    };
    let says = |listed: &RotationMember| {
        let mut members = look.places.members.iter();
        let found = members.find(|m| m.pod.name_any() == listed.pod);
        let answer = found.and_then(|m| m.answer.as_ref()?.as_ref().ok());
        answer.is_some_and(|status| status.needed_key_ids.is_some())
    };
    let mut all = question.rewriting();
    all.retain(|listed| match listed.state.as_str() {
        member::LOADING | member::REWRITING | member::UNREACHABLE => changed || says(listed),
        _ => false,
    });
    all
}
