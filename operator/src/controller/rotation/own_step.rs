//! Which key a rotation is for where the keyring is the user's: what there is of the phases `Adding` and `Promoting`, which are the
//! user's work there.
//!
//! The key that is current in the Secret is the new one, and one that the user makes current later takes its place. After a compromise
//! that is so only for a key that was not in the Secret when the rotation began: whoever saw a key may have seen all that were in it.

use std::time::Duration;

use codexstore_crds::codex_key_rotation::{phase, reason};
use codexstore_crds::rotation::Mode;
use codexstore_crds::status::first_few;
use codexstore_crds::{CodexKeyRotation, CodexKeyRotationStatus, desired};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::super::Error;
use super::super::keyring::{Facts, MAX_KEYS, facts as facts_of};
use super::super::reconcile::Memory;
use super::write::{self, Writer};
use super::{Look, SOON, exposed, is_for_compromise};

/// Until the next look while the user is waited for.
const USER: Duration = Duration::from_secs(15);
/// Keys that are named one by one.
const NAMED: usize = 5;

/// What follows from which key is current.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// Nothing is known of the rotation yet.
    Begin,
    /// Wait until another key is current.
    Wait,
    /// This one is the new key from now on.
    Take,
    /// Members have begun with another key, and this one may have been seen.
    Fail,
    /// It is the new key already.
    Go,
}

fn target(status: &CodexKeyRotationStatus, compromise: bool, current: &str) -> Target {
    let exposed = status.exposed_backups.as_ref();
    if status.started_at.is_none() || (compromise && exposed.is_none()) {
        return Target::Begin;
    }
    let may_be_seen = compromise && opens(status, current);
    match status.to.as_deref() {
        Some(_) if may_be_seen => Target::Fail,
        None if may_be_seen => Target::Wait,
        Some(to) if to == current => Target::Go,
        _ => Target::Take,
    }
}

/// Whether this key is one of those for which a rotation was asked: somebody may have seen it.
pub fn opens(status: &CodexKeyRotationStatus, key: &str) -> bool {
    let exposed = status.exposed_backups.as_ref();
    exposed.is_some_and(|exposed| exposed.key_ids.iter().any(|id| id == key))
}

/// Has a rotation be for the key that is current in the user's Secret. When to look again, where members have nothing to do for it yet;
/// none where they have.
pub async fn aim(
    look: &Look<'_>,
    rotation: &CodexKeyRotation,
    facts: &Facts,
    secret: &str,
) -> Result<Option<Duration>, Error> {
    let writer = Writer::of(look, rotation);
    let compromise = is_for_compromise(rotation);
    let before = rotation.status.clone().unwrap_or_default();
    match target(&before, compromise, &facts.current) {
        Target::Go => return Ok(None),
        Target::Begin => {
            let begun = CodexKeyRotationStatus {
                mode: Some(Mode::Reencrypt),
                started_at: Some(Time(Timestamp::now())),
                from: Some(facts.current.clone()),
                ..CodexKeyRotationStatus::default()
            };
            if !compromise {
                writer.tell(&taken(begun, facts)).await?;
                return Ok(Some(SOON));
            }
            let Some(ids) = there(look, facts).await? else {
                return Ok(Some(SOON));
            };
            wait(look, &writer, begun, ids, secret).await?;
        }
        Target::Wait => {
            let known = before.exposed_backups.clone().unwrap_or_default();
            wait(look, &writer, before, known.key_ids, secret).await?;
        }
        Target::Take => {
            writer.tell(&taken(before, facts)).await?;
            return Ok(Some(SOON));
        }
        Target::Fail => {
            let why = format!(
                "{} is current again in Secret {secret}, and may have been seen: create another CodexKeyRotation, then put a new key into \
                 the Secret and make that current",
                facts.current
            );
            // What members hold is wrapped with it by now: nobody is said to be done, nor asked for this one any more.
            let status = CodexKeyRotationStatus {
                promoted_at: None,
                ..before
            };
            writer
                .give_up(status, reason::EXPOSED_KEY_CURRENT, &why)
                .await?;
            return Ok(Some(SOON));
        }
    }
    // Read at each look, so that it goes on soon after the user's change.
    look.shared.remember(look.store, Memory::forget_keyring);
    Ok(Some(USER))
}

/// The status of a rotation for which the current key is the new one from now on.
fn taken(status: CodexKeyRotationStatus, facts: &Facts) -> CodexKeyRotationStatus {
    CodexKeyRotationStatus {
        phase: Some(phase::DISTRIBUTING.to_owned()),
        to: Some(facts.current.clone()),
        promoted_at: None,
        progress_at: None,
        message: None,
        ..status
    }
}

/// All keys that may have been seen: what is in the Secret now, and what is on record. None if the Secret is no keyring now. Read live:
/// a key that is there already, and that the last look did not see, must not pass for one that was put there since.
async fn there(look: &Look<'_>, facts: &Facts) -> Result<Option<Vec<String>>, Error> {
    let name = desired::keyring_name(look.store);
    let secret = write::secrets(look).get_opt(&name).await?;
    let Some(now) = secret.and_then(|secret| facts_of(&secret).ok()) else {
        look.shared.remember(look.store, Memory::forget_keyring);
        return Ok(None);
    };
    let mut ids = now.ids;
    for id in facts.on_record() {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids.truncate(MAX_KEYS);
    Ok(Some(ids))
}

/// Says that a key is waited for that is none of these.
async fn wait(
    look: &Look<'_>,
    writer: &Writer<'_>,
    status: CodexKeyRotationStatus,
    ids: Vec<String>,
    secret: &str,
) -> Result<(), Error> {
    let named = first_few(&ids, ids.len(), NAMED);
    let what = format!(
        "waiting for you: put a new key into Secret {secret} and make it current, for example with `codexctl key rotate ./keyring --secret \
         {secret} | kubectl apply --server-side -f -`. What was in it before may have been seen: {named}"
    );
    let (backups, archive) = (look.places.backups, look.places.archive);
    let status = CodexKeyRotationStatus {
        exposed_backups: Some(exposed::of(backups, archive, ids)),
        ..status
    };
    writer.is_in(status, phase::ADDING, Some(what)).await
}

#[cfg(test)]
mod tests {
    use codexstore_crds::codex_key_rotation::ExposedBackups;

    use super::super::super::fixtures::at;
    use super::*;

    fn status(to: Option<&str>, seen: Option<&[&str]>) -> CodexKeyRotationStatus {
        CodexKeyRotationStatus {
            started_at: Some(at(1000)),
            to: to.map(str::to_owned),
            exposed_backups: seen.map(|ids| ExposedBackups {
                key_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
                ..ExposedBackups::default()
            }),
            ..CodexKeyRotationStatus::default()
        }
    }

    #[test]
    fn whatever_is_current_is_the_new_key_but_not_one_that_may_have_been_seen() {
        let check = |of: &CodexKeyRotationStatus, compromise, current, wanted: Target| {
            assert_eq!(target(of, compromise, current), wanted, "{of:?} {current}");
        };
        let new = CodexKeyRotationStatus::default();
        check(&new, false, "a", Target::Begin);
        check(&new, true, "a", Target::Begin);
        check(&status(Some("a"), None), false, "a", Target::Go);
        check(&status(Some("a"), None), false, "b", Target::Take);
        let seen: &[&str] = &["a", "b"];
        check(&status(None, Some(seen)), true, "a", Target::Wait);
        check(&status(None, Some(seen)), true, "b", Target::Wait);
        check(&status(None, Some(seen)), true, "c", Target::Take);
        check(&status(Some("c"), Some(seen)), true, "c", Target::Go);
        check(&status(Some("c"), Some(seen)), true, "d", Target::Take);
        check(&status(Some("c"), Some(seen)), true, "a", Target::Fail);
        // Whatever was written down: without the keys that may have been seen nothing is taken for new.
        check(&status(Some("a"), None), true, "a", Target::Begin);
    }
}
