//! Keys of a Secret that is the user's: who makes another one current there has rotated.
//!
//! The Secret is never written. Members load what is in it by themselves; here they are asked to wrap their data keys with the
//! current key ([`super::catch_up`]), and a key that was taken out is either no longer needed, and then comes off the record, or
//! missed. What a CodexKeyRotation is for here is to have members encrypt everything anew under that key, see [`super::own_step`].

use std::sync::Arc;

use codexstore_crds::CodexKeyRotation;
use codexstore_crds::codex_key_rotation::reason;
use codexstore_crds::rotation::Mode;
use codexstore_crds::status::{KeyStatus, MAX_KEYS};
use kube::{Resource as _, ResourceExt as _};

use super::super::Error;
use super::super::key_needs::{Places, is_members};
use super::super::keyring::Facts;
use super::super::own_keyring;
use super::super::reconcile::Memory;
use super::retire::Live;
use super::write::{self, Writer};
use super::{GOING, Keys, Look, budget, counted, go_on, in_use, retired, shown, status_of};

/// A key that is missed, and what needs it.
type Missing = (String, Vec<String>);

/// Ends rotations that somebody asked for in vain, and leaves those that have members encrypt everything anew: the operator cannot make
/// a key here.
pub async fn refuse(
    look: &Look<'_>,
    open: &mut Vec<&Arc<CodexKeyRotation>>,
    secret: &str,
) -> Result<(), Error> {
    let encryption = &look.store.spec.encryption;
    let mode = encryption.rotation().mode;
    let store = look.store.name_any();
    let (reason, why) = if encryption.passphrase_entry().is_some() {
        let why = format!(
            "the keys of CodexStore {store} are derived from the passphrase in Secret {secret}, which cannot be changed while members \
             run: `codexctl passphrase --change` does it with a store that is closed"
        );
        (reason::KEYS_FROM_PASSPHRASE, why)
    } else {
        let why = format!(
            "the keys of CodexStore {store} are those of the Secret {secret}, which the operator never changes: put a new key into it and \
             make that current there, and members wrap their data keys with it by themselves; no CodexKeyRotation is needed, but one with \
             `mode: Reencrypt` to have them encrypt everything anew"
        );
        (reason::KEYS_OF_YOUR_OWN, why)
    };
    let (vain, others): (Vec<_>, Vec<_>) = open.iter().copied().partition(|rotation| {
        encryption.passphrase_entry().is_some() || rotation.spec.mode(mode) == Mode::Rewrap
    });
    *open = others;
    for rotation in vain {
        Writer::of(look, rotation).fail(reason, &why).await?;
    }
    Ok(())
}

/// Follows the Secret, which is a good keyring by itself.
pub async fn follow(
    look: &Look<'_>,
    open: &[&Arc<CodexKeyRotation>],
    facts: &Facts,
    secret: &str,
    mut seen: Keys,
) -> Result<Keys, Error> {
    seen.schedule = None;
    if go_on(look, open, facts, &mut seen).await? {
        seen.again = Some(seen.again.map_or(GOING, |again| again.min(GOING)));
    }
    let before = look.store.status.as_ref();
    let known = before.map(|s| s.encryption_keys.as_slice());
    let (missing, went) = missing(look, facts, secret).await?;
    // Of a passphrase each member derives its own.
    if look.store.spec.encryption.passphrase_entry().is_none() {
        seen.keys = keys(facts, &missing, &look.places, known.unwrap_or_default());
        counted(look, &mut seen);
        in_use::tell(look, facts, &mut seen).await;
        retired::list(look, facts, &went, &mut seen.keys);
        seen.problems.extend(budget::worn(&seen.keys, secret));
    }
    if !missing.is_empty() {
        // Looked at each time, so that it heals soon after it is put right.
        look.shared.remember(look.store, Memory::forget_keyring);
        seen.broken = Some(own_keyring::missing(look.store, facts, &missing));
        return Ok(seen);
    }
    let was = before.and_then(|s| s.key_id.as_deref());
    let known = known.unwrap_or_default();
    let said = look.shared.remember(look.store, |memory| {
        events(was, known, facts, &seen.keys, secret, &mut memory.promoted)
    });
    for (reason, note) in said {
        let about = look.store.object_ref(&());
        look.shared.events.normal(&about, reason, &note).await;
    }
    Ok(seen)
}

/// The keys that are on record, no longer in the Secret, and needed, each with what needs it. Those that nothing needs come off the
/// record: which those were, if they did.
async fn missing(
    look: &Look<'_>,
    facts: &Facts,
    secret: &str,
) -> Result<(Vec<Missing>, Vec<String>), Error> {
    let mut missing = Vec::new();
    let mut gone = Vec::new();
    let mut live = None;
    for id in &facts.lost {
        let mut needed = look.places.needing(id);
        if needed.is_empty() {
            let live = match &mut live {
                Some(live) => live,
                none => none.insert(Live::read(look).await?),
            };
            needed = live.needing(look, id);
            if needed.is_empty() {
                gone.push(id.clone());
                continue;
            }
        }
        missing.push((id.clone(), needed));
    }
    if gone.is_empty() {
        return Ok((missing, gone));
    }
    let mut left: Vec<_> = facts.ids.clone();
    left.extend(missing.iter().map(|(id, _)| id.clone()));
    left.sort();
    let written = write::record(look, &left).await?;
    look.shared.remember(look.store, Memory::forget_keyring);
    if written != Some(true) {
        return Ok((missing, Vec::new()));
    }
    for id in &gone {
        let note =
            format!("key {id} is no longer in Secret {secret}, and nothing needs it any more");
        let about = look.store.object_ref(&());
        look.shared.events.normal(&about, "KeyRetired", &note).await;
    }
    Ok((missing, gone))
}

/// What the status says of the keys: of very many, the current one, those that are missing, and the last ones by their ids.
fn keys(
    facts: &Facts,
    missing: &[Missing],
    places: &Places<'_>,
    known: &[KeyStatus],
) -> Vec<KeyStatus> {
    let mut all: Vec<_> = missing
        .iter()
        .take(MAX_KEYS / 2)
        .map(|(id, needed)| status_of(id, "Missing", needed.clone()))
        .collect();
    let room = MAX_KEYS.saturating_sub(all.len());
    all.extend(shown(facts, room).map(|id| match id {
        id if *id == facts.current => status_of(id, "Active", Vec::new()),
        id if is_new(id, known) => status_of(id, "Adding", Vec::new()),
        id => status_of(id, "Retiring", places.needing(id)),
    }));
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// Whether a key that is not current never was, as far as is known.
fn is_new(id: &str, known: &[KeyStatus]) -> bool {
    let kept = known.iter().filter(|key| key.state != retired::RETIRED);
    match known.iter().find(|key| key.id == id) {
        Some(key) => key.state == "Adding",
        None => (1..MAX_KEYS).contains(&kept.count()),
    }
}

/// What became of the keys since the last look. `promoted` is kept from look to look: members may be done before their need was ever
/// written down, and `was` may be that of a look before.
fn events(
    was: Option<&str>,
    before: &[KeyStatus],
    facts: &Facts,
    now: &[KeyStatus],
    secret: &str,
    promoted: &mut Option<(String, bool)>,
) -> Vec<(&'static str, String)> {
    let current = &facts.current;
    let mut events = Vec::new();
    if let Some(was) = was.filter(|was| was != current) {
        let what = format!("key {current} is current now in Secret {secret}, instead of {was}");
        events.push(("KeyPromoted", what));
        if promoted.as_ref().is_none_or(|(key, _)| key != current) {
            *promoted = Some((current.clone(), false));
        }
    }
    let needs = |keys: &[KeyStatus], whose: fn(&str) -> bool| {
        let others = keys.iter().filter(|key| key.id != *current);
        others.flat_map(|key| &key.needed_by).any(|by| whose(by))
    };
    let waits = promoted
        .as_ref()
        .is_some_and(|(key, told)| key == current && !told)
        || (was == Some(current) && needs(before, is_members));
    // One that does not say what it needs may need any.
    if waits && !needs(now, |by| by.starts_with("pod ")) {
        let what = format!(
            "members need key {current} only; what else needs another key is in .status.encryptionKeys of the CodexStore"
        );
        events.push(("KeyRotated", what));
        *promoted = Some((current.clone(), true));
    }
    events
}

#[cfg(test)]
#[path = "in_use_tests.rs"]
mod in_use_tests;
#[cfg(test)]
#[path = "own_modes_tests.rs"]
mod modes_tests;
#[cfg(test)]
#[path = "own_tests.rs"]
mod tests;
