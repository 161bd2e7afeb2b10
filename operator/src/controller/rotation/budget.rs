//! How many messages keys have encrypted, and what follows near the end of that.
//!
//! A key of the keyring encrypts data keys: one for each file that is made, and for each key slot at a rewrap. Members say how many since
//! their store was opened, and how many log files there were in its life. What was counted, and up to where, stand together in the status
//! of the store: whoever counts on from an older one gets the same sum. Where it cannot be known, too many are counted.

use std::collections::{BTreeMap, BTreeSet};

use codexstore_api::encoding::hex;
use codexstore_crds::codex_key_rotation::RotationReason;
use codexstore_crds::status::{KeyStatus, KeyUse, MAX_KEY_MESSAGES, MAX_MEMBERS};
use codexstore_crds::{CodexKeyRotation, CodexStoreStatus, names};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource as _, ResourceExt as _};
use sha2::{Digest as _, Sha256};

use super::super::Error;
use super::super::key_needs::{Places, is_open};
use super::super::members::Member;
use super::super::problem::{self, Problem};
use super::{Look, write};

/// At how many messages a key is worn: 80 % of what it may encrypt.
const WORN: i64 = MAX_KEY_MESSAGES / 5 * 4;
/// Seconds after a rotation that did not replace a worn key until there is another one.
const PAUSE: i64 = 3600;

/// What was counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Up to where.
    pub uses: Vec<KeyUse>,
    /// By key.
    messages: BTreeMap<String, i64>,
}

/// Counts on from what was known.
pub fn count(before: Option<&CodexStoreStatus>, places: &Places<'_>) -> Counted {
    let keys = before.map(|s| s.encryption_keys.as_slice());
    let known = keys.unwrap_or_default().iter();
    let mut messages: BTreeMap<_, _> = known
        .filter_map(|key| Some((key.id.clone(), key.messages?)))
        .collect();
    let pods = places.members.iter().map(|m| m.pod.name_any());
    let claimed = places.claims.iter().filter_map(|claim| {
        let pod = claim.annotations().get(names::POD_ANNOTATION);
        pod.cloned()
    });
    let lasting: BTreeSet<_> = pods.chain(claimed).collect();
    let before = before.map(|s| s.key_uses.as_slice());
    let mut uses: BTreeMap<_, _> = before
        .unwrap_or_default()
        .iter()
        .filter(|known| lasting.contains(&known.pod))
        .map(|known| (known.pod.clone(), known.clone()))
        .collect();
    let mut add = |id: &str, used: i64| {
        let sum = messages.entry(id.to_owned()).or_insert(0_i64);
        *sum = sum.saturating_add(used);
    };
    let mut most = 0;
    let mut beyond = Vec::new();
    for now in places.members.iter().filter_map(use_of) {
        if !uses.contains_key(&now.pod) && uses.len() >= MAX_MEMBERS {
            beyond.push(now.key_id);
            continue;
        }
        let before = uses.get(&now.pod);
        let count = since(before, &now);
        most = most.max(count);
        add(&now.key_id, count);
        // Which of the two it was is not known.
        if let Some(before) = before.filter(|before| before.key_id != now.key_id) {
            add(&before.key_id, count);
        }
        uses.insert(now.pod.clone(), now);
    }
    for id in &beyond {
        add(id, most);
    }
    Counted {
        uses: uses.into_values().collect(),
        messages,
    }
}

/// What an open member says of its use of keys.
fn use_of(member: &Member) -> Option<KeyUse> {
    let status = member.answer.as_ref()?.as_ref().ok()?;
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let encrypts = is_open(member) && !status.key_id.is_empty();
    encrypts.then_some(KeyUse {
        pod: member.pod.name_any(),
        lineage: status.lineage.clone(),
        epoch: number(status.epoch),
        logs: number(status.log_number),
        wraps: number(status.key_wraps?),
        key_id: status.key_id.clone(),
    })
}

/// How many messages a member encrypted since then, at most. With each log file at most one image is made.
fn since(before: Option<&KeyUse>, now: &KeyUse) -> i64 {
    let same = |b: &&KeyUse| b.lineage == now.lineage && b.epoch <= now.epoch && b.logs <= now.logs;
    let unseen = |logs: i64| logs.saturating_mul(2).saturating_add(now.wraps);
    match before.filter(same) {
        Some(b) if b.epoch == now.epoch && b.wraps <= now.wraps => now.wraps - b.wraps,
        Some(b) => unseen(now.logs - b.logs),
        None => unseen(now.logs),
    }
}

impl Counted {
    /// Puts the counts to the keys; `elsewhere` is what other stores with the same Secret have counted.
    pub fn show(&self, keys: &mut [KeyStatus], elsewhere: &BTreeMap<String, i64>) {
        for key in keys {
            key.messages = self.messages.get(&key.id).copied();
            key.messages_elsewhere = elsewhere.get(&key.id).copied().filter(|n| *n > 0);
            let counted = key.messages.or(key.messages_elsewhere).is_some();
            key.max_messages = counted.then_some(MAX_KEY_MESSAGES);
        }
    }
}

/// All messages of the current key that are known.
pub fn of_current(keys: &[KeyStatus]) -> i64 {
    let current = keys.iter().find(|key| key.state == "Active");
    current.map_or(0, |key| {
        let elsewhere = key.messages_elsewhere.unwrap_or(0);
        key.messages.unwrap_or(0).saturating_add(elsewhere)
    })
}

/// What is wrong where a key of the user's is worn.
pub fn worn(keys: &[KeyStatus], secret: &str) -> Option<Problem> {
    let used = of_current(keys);
    (used >= WORN).then(|| {
        Problem::new(
            problem::KEY_WORN,
            format!(
                "the current key of Secret {secret} has encrypted about {used} of {MAX_KEY_MESSAGES} messages: put a new key into the Secret, \
                 and make that current"
            ),
        )
    })
}

/// Makes a rotation where the current key is worn and none is under way, at most once an hour. True if one was made.
pub async fn renew(look: &Look<'_>, keys: &[KeyStatus]) -> Result<bool, Error> {
    let used = of_current(keys);
    let current = keys.iter().find(|key| key.state == "Active");
    let Some(current) = current.filter(|_| used >= WORN) else {
        return Ok(false);
    };
    let before = look.rotations.iter().filter(|r| is_for(r, &current.id));
    let last = before.filter_map(|r| Some(r.status.as_ref()?.completed_at.as_ref()?.0.as_second()));
    let last = last.max();
    if last.is_some_and(|last| Timestamp::now().as_second() - last < PAUSE) {
        return Ok(false);
    }
    let name = name(&look.store.name_any(), &current.id, last);
    if !write::create(look, &name, RotationReason::KeyBudget).await? {
        return Ok(false);
    }
    let note = format!(
        "key {} has encrypted about {used} of {MAX_KEY_MESSAGES} messages: cxk/{name} replaces it",
        current.id
    );
    let about = look.store.object_ref(&());
    look.shared
        .events
        .warning(&about, problem::KEY_WORN, &note)
        .await;
    Ok(true)
}

/// Whether a rotation was made for the wear of this key, and has ended without replacing it. One that had not begun does not say of which.
fn is_for(rotation: &CodexKeyRotation, key: &str) -> bool {
    let from = rotation.status.as_ref().and_then(|s| s.from.as_deref());
    rotation.ended()
        && rotation.spec.reason == RotationReason::KeyBudget
        && from.is_none_or(|from| from == key)
}

/// By this name it is made once, whoever makes it: for a key, and after the attempt that ended at `last`. An id need not be the name of
/// an object.
fn name(store: &str, key: &str, last: Option<i64>) -> String {
    let digest = Sha256::digest(format!("{key}/{}", last.unwrap_or(0)));
    let hex = hex(&digest);
    format!("{store}-worn-{}", hex.get(..8).unwrap_or_default())
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
