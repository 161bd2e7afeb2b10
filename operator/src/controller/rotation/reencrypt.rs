//! Re-encryption: who is asked for it, and what becomes of members that a rotation could not wait for.
//!
//! A member is asked under the UID of the rotation, once its files need the current key only: so that key is the one that wraps what it
//! writes anew. What it says is kept in the rotation's status, since a sidecar that is started anew has forgotten it. A rotation that has
//! ended lists those that are left, and is the record by which they are asked when they are back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use codexstore_api::status::{Reencryption, ReencryptionState, State};
use codexstore_crds::codex_key_rotation::{RotationMember, member};
use codexstore_crds::rotation::Mode;
use codexstore_crds::{CodexKeyRotation, CodexKeyRotationStatus};
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::super::Error;
use super::super::keyring::Facts;
use super::super::members::Member;
use super::progress::{Question, needs_only};
use super::write::Writer;
use super::{GOING, Look, exposed, own_step};

/// How long one that has failed is not asked again.
const AGAIN: Duration = Duration::from_mins(1);

/// Asks those of these members that can begin and have not, under this id. Why some could not be asked, by pod.
pub async fn ask(
    look: &Look<'_>,
    facts: &Facts,
    id: &str,
    wanted: &(dyn Fn(&Member) -> bool + Sync),
) -> BTreeMap<String, String> {
    let mut refused = BTreeMap::new();
    let Some(credentials) = look.credentials else {
        return refused;
    };
    for member in look.places.members.iter().filter(|m| wanted(m)) {
        let Some(Ok(status)) = &member.answer else {
            continue;
        };
        // Only what wraps with the current key seals anew under it.
        let can = status.state == State::Ready && needs_only(status, &facts.current);
        let key = (member.pod.uid().unwrap_or_default(), id.to_owned());
        let asked = look
            .shared
            .remember(look.store, |memory| memory.asked.get(&key).copied());
        if !can || !is_due(status.reencryption.as_ref(), id, asked, Instant::now()) {
            continue;
        }
        let pod = member.pod.name_any();
        let told = look
            .shared
            .poller
            .reencrypt(&member.pod, credentials, id)
            .await;
        match told {
            Ok(_) => {
                tracing::info!(pod, rotation = id, "a member encrypts everything anew");
                look.shared.remember(look.store, |memory| {
                    memory.asked.retain(|_, at| at.elapsed() < AGAIN);
                    memory.asked.insert(key, Instant::now());
                });
            }
            Err(why) => {
                tracing::warn!(pod, why = why.0, "a member does not encrypt anew");
                refused.insert(pod, why.0);
            }
        }
    }
    refused
}

/// Whether a member that says this is to be asked under this id.
fn is_due(known: Option<&Reencryption>, id: &str, asked: Option<Instant>, now: Instant) -> bool {
    let rested = asked.is_none_or(|at| now.duration_since(at) >= AGAIN);
    match known {
        Some(known) if known.state == ReencryptionState::Running => false,
        Some(known) if known.id == id => known.state == ReencryptionState::Failed && rested,
        _ => true,
    }
}

/// Of rotations that have ended: asks the members that they left out and that are back, and writes down what became of them. When to look
/// again, if one of them is at it. `going` is a rotation that will ask members itself.
pub async fn left(
    look: &Look<'_>,
    facts: &Facts,
    going: Option<&CodexKeyRotation>,
) -> Result<Option<Duration>, Error> {
    // Under a key that may have been seen nothing is encrypted anew.
    let may_be_seen = |r: &CodexKeyRotation| {
        let status = r.status.as_ref();
        status.is_some_and(|status| own_step::opens(status, &facts.current))
    };
    let mut ended: Vec<_> = look
        .rotations
        .iter()
        .filter(|r| r.left().next().is_some() && !may_be_seen(r))
        .collect();
    ended.sort_by_key(|r| std::cmp::Reverse(promoted(r)));
    let mut again = None;
    // The latest counts for those before it.
    let mut asked = BTreeSet::new();
    // Under which key everything will be encrypted anew is known from when that one has begun.
    let busy = going.is_some_and(|r| {
        let mode = r.status.as_ref().and_then(|s| s.mode);
        mode == Some(Mode::Reencrypt)
    });
    for rotation in ended {
        let id = rotation.uid().unwrap_or_default();
        let waits: BTreeSet<_> = rotation.left().map(|m| m.pod.clone()).collect();
        let wanted = |m: &Member| {
            let pod = m.pod.name_any();
            !busy && waits.contains(&pod) && !asked.contains(&pod)
        };
        let refused = ask(look, facts, &id, &wanted).await;
        asked.extend(waits.iter().cloned());
        let before = rotation.status.clone().unwrap_or_default();
        let counts = uids_since(look.rotations, rotation);
        let now = Question {
            places: &look.places,
            status: &before,
            key: &facts.current,
            counts: &counts.iter().map(String::as_str).collect(),
            refused: &refused,
        }
        .rewriting();
        let lasts = look.places.pod_volumes;
        let after = caught_up(&before.members, &now, lasts);
        if after.iter().any(|m| m.state == member::REWRITING) {
            again = Some(GOING);
        }
        if after != before.members {
            Writer::of(look, rotation).caught_up(&before, after).await?;
        }
    }
    Ok(again)
}

/// Those that were left, as they are now. One whose data is gone is waited for no more; `lasts` if that cannot be known.
fn caught_up(
    before: &[RotationMember],
    now: &[RotationMember],
    lasts: bool,
) -> Vec<RotationMember> {
    let one = |listed: &RotationMember| {
        if listed.state == member::DONE {
            return Some(listed.clone());
        }
        // One that is known by its name only may be two: a member, and a claim of its name that it has not mounted.
        let same = |m: &&RotationMember| {
            let by_name = m.pod_uid.is_none() || listed.pod_uid.is_none();
            m.pod == listed.pod && (by_name || m.pod_uid == listed.pod_uid)
        };
        match now.iter().find(same) {
            Some(now) => Some(now.clone()),
            None if lasts && listed.pod_uid.is_none() => Some(RotationMember {
                state: member::AWAY.to_owned(),
                message: None,
                ..listed.clone()
            }),
            None => None,
        }
    };
    before.iter().filter_map(one).collect()
}

fn promoted(rotation: &CodexKeyRotation) -> Option<i64> {
    let status: &CodexKeyRotationStatus = rotation.status.as_ref()?;
    Some(status.promoted_at.as_ref()?.0.as_second())
}

/// Rotations that re-encrypted with the key of this one, or a later key.
fn uids_since(all: &[Arc<CodexKeyRotation>], rotation: &CodexKeyRotation) -> BTreeSet<String> {
    let since = promoted(rotation);
    let seen = |key: &String| {
        let status = rotation.status.as_ref();
        status.is_some_and(|status| own_step::opens(status, key))
    };
    let counts = |r: &&Arc<CodexKeyRotation>| {
        let to = r.status.as_ref().and_then(|s| s.to.as_ref());
        promoted(r).is_some() && promoted(r) >= since && !to.is_some_and(seen)
    };
    all.iter().filter(counts).filter_map(|r| r.uid()).collect()
}

/// Keeps the lists of exposed backups of rotations that have ended as they are.
pub async fn exposures(look: &Look<'_>) -> Result<(), Error> {
    for rotation in look.rotations.iter().filter(|r| r.ended()) {
        let Some(status) = &rotation.status else {
            continue;
        };
        let Some(known) = &status.exposed_backups else {
            continue;
        };
        let places = &look.places;
        let now = exposed::of(places.backups, places.archive, known.key_ids.clone());
        if now != *known {
            let status = CodexKeyRotationStatus {
                exposed_backups: Some(now),
                ..status.clone()
            };
            Writer::of(look, rotation).tell(&status).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "reencrypt_tests.rs"]
mod tests;
