//! Rotation of keys: what becomes of each CodexKeyRotation, those that a schedule makes, and the deletion of keys that nothing needs any more.
//!
//! A rotation puts a new key into the keyring, waits until each running member says that it has loaded it, makes it current, and has
//! each member wrap the data keys of its files with it. `plan` decides by what is there (keyring and members), not by what
//! was done, so each step can be repeated and another operator goes on where this one ended. The Secret is changed one entry at
//! a time, by a patch that fails if somebody else was faster.
//!
//! Where that is asked for, members then encrypt everything anew, see `reencrypt`; and a key that has encrypted nearly as much as one may
//! is replaced by itself, see `budget`.
//!
//! Apart from that, a member that needs another key than the current one is asked to wrap its data keys anew whenever it is seen:
//! one that was down for a whole rotation catches up when it is back. Where the keyring is the user's, who makes another key current
//! there has rotated, see `own`; what a rotation is for there is to encrypt everything anew, see `own_step`.

mod budget;
mod exposed;
#[cfg(test)]
mod held_up_tests;
mod in_use;
#[cfg(test)]
mod modes_tests;
mod own;
mod own_step;
mod plan;
#[cfg(test)]
mod played;
mod progress;
mod reencrypt;
mod retire;
mod retired;
mod step;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wrapped_tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use codexstore_api::status::{NeededKey, ReencryptionState, State, Status};
use codexstore_crds::codex_key_rotation::{RotationReason, phase, reason};
use codexstore_crds::status::{KeyStatus, KeyUse, MAX_KEYS, RotationSchedule};
use codexstore_crds::{CodexKeyRotation, CodexKeyRotationStatus, CodexStore};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::key_needs::Places;
use super::keyring::{Facts, Keyring};
use super::problem::{self, Problem};
use super::tls::Credentials;
use super::{Error, Shared};
use write::Writer;

/// Until the next look while a rotation goes on, and after a change that another one follows.
const GOING: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(1);
/// Needs of a key that are listed one by one.
const SHOWN: usize = 15;

/// What is known of a store's keys.
#[derive(Debug, Default)]
pub struct Keys {
    /// Each key in the keyring.
    pub keys: Vec<KeyStatus>,
    /// Up to where members' use of them is counted.
    pub uses: Vec<KeyUse>,
    /// What is in the way.
    pub problems: Vec<Problem>,
    /// Why the keyring is not good, though it looked so by itself.
    pub broken: Option<Problem>,
    /// By which schedule it is rotated, and since when.
    pub schedule: Option<RotationSchedule>,
    /// Whether members use the key that the user made current; none where the keys are not in a Secret of his.
    pub in_use: Option<in_use::InUse>,
    /// Why members did not wrap their data keys anew, by pod.
    pub refused: BTreeMap<String, String>,
    /// When to look again, if that is sooner than otherwise.
    pub again: Option<Duration>,
    /// How its rotations are.
    pub rotations: Rotations,
}

/// How the rotations of a store are, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotations {
    /// One is not done.
    pub going: bool,
    /// By when the one whose turn it is should have got further or ended, in seconds since 1970.
    pub deadline: Option<i64>,
    /// The latest that has ended was given up.
    pub failed: bool,
    /// There should have been one since.
    pub overdue: bool,
    /// Members that are still to encrypt everything anew, of rotations that have ended.
    pub left: i64,
    /// Backups that keys open which somebody may have seen, of the rotation that knows of most.
    pub exposed: i64,
    /// Messages that the current key has encrypted.
    pub messages: i64,
}

impl Rotations {
    /// `deadline` is how long one waits while nobody gets further, in seconds.
    fn of(all: &[Arc<CodexKeyRotation>], deadline: i64) -> Self {
        let since = |first: &&Arc<CodexKeyRotation>| {
            let begun = first.status.as_ref();
            let begun = begun.and_then(CodexKeyRotationStatus::waits_since);
            let made = first.metadata.creation_timestamp.as_ref();
            begun.or(made.map(|made| made.0.as_second()))
        };
        let since = open(all).first().and_then(since);
        let ended = all.iter().filter_map(|rotation| {
            let status = rotation.status.as_ref()?;
            Some((status.completed_at.clone()?, status.phase.as_deref()))
        });
        let last = ended.max_by_key(|(time, _)| time.clone());
        let left: BTreeSet<_> = all.iter().flat_map(|r| r.left()).map(|m| &m.pod).collect();
        let exposed = all.iter().filter_map(|rotation| {
            let known = rotation.status.as_ref()?.exposed_backups.as_ref()?;
            Some(i64::from(known.count))
        });
        Self {
            going: all.iter().any(|rotation| !rotation.ended()),
            deadline: since.map(|since| since.saturating_add(deadline)),
            failed: last.is_some_and(|(_, how)| how == Some(phase::FAILED)),
            left: i64::try_from(left.len()).unwrap_or(i64::MAX),
            exposed: exposed.max().unwrap_or(0),
            ..Self::default()
        }
    }
}

/// What a look at the keys needs.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// What is shared.
    pub shared: &'a Shared,
    /// The store.
    pub store: &'a CodexStore,
    /// Its rotations.
    pub rotations: &'a [Arc<CodexKeyRotation>],
    /// To talk to its members.
    pub credentials: Option<&'a Credentials>,
    /// Where its keys may be needed.
    pub places: Places<'a>,
    /// Messages that keys encrypted in other stores which share its Secret.
    pub elsewhere: &'a BTreeMap<String, i64>,
}

/// Takes the next step of a rotation, makes one that is due, deletes keys that nothing needs, and says how the keys are.
pub async fn ensure(look: Look<'_>, keyring: &Keyring) -> Result<Keys, Error> {
    let before = look.store.status.as_ref();
    let mut seen = Keys {
        schedule: before.and_then(|s| s.rotation_schedule.clone()),
        rotations: Rotations::of(
            look.rotations,
            look.store.spec.encryption.rotation().deadline_seconds(),
        ),
        ..Keys::default()
    };
    let mut open = open(look.rotations);
    let going = look.store.metadata.deletion_timestamp.is_none();
    let own = look.store.spec.encryption.own_secret();
    if let Some(secret) = own {
        own::refuse(&look, &mut open, secret).await?;
    }
    let facts = match keyring {
        Keyring::Ready(facts) if going => facts,
        Keyring::NotEncrypted => {
            for rotation in open {
                let why = "the store is not encrypted: it has no keys";
                Writer::of(&look, rotation)
                    .fail(reason::NOT_ENCRYPTED, why)
                    .await?;
            }
            return Ok(Keys {
                schedule: None,
                ..seen
            });
        }
        // What was known is still the best that is known; a keyring that is put right goes on from there.
        _ => {
            if let Keyring::Broken(problem, _) = keyring {
                for rotation in open {
                    let writer = Writer::of(&look, rotation);
                    if has_started(rotation) {
                        writer.held_up(problem).await?;
                    } else {
                        writer.pending(&problem.message).await?;
                    }
                }
            }
            let before = before.cloned().unwrap_or_default();
            seen.keys = before.encryption_keys;
            seen.in_use = in_use::known(look.store.status.as_ref());
            seen.uses = before.key_uses;
            return Ok(seen);
        }
    };
    if let Some(secret) = own {
        return own::follow(&look, &open, facts, secret, seen).await;
    }
    schedule(&look, &mut seen).await?;
    go_on(&look, &open, facts, &mut seen).await?;
    let first = open.first().and_then(|first| first.status.as_ref());
    let becomes = first.and_then(|s| s.to.clone());
    let one = |id: &String| match id {
        id if *id == facts.current => status_of(id, "Active", Vec::new()),
        id if becomes.as_ref() == Some(id) => status_of(id, "Adding", Vec::new()),
        id => status_of(id, "Retiring", look.places.needing(id)),
    };
    seen.keys = shown(facts, MAX_KEYS).map(one).collect();
    counted(&look, &mut seen);
    retired::list(&look, facts, &[], &mut seen.keys);
    if open.is_empty() {
        if budget::renew(&look, &seen.keys).await? {
            seen.again = Some(SOON);
            return Ok(seen);
        }
        let retired = match retire::one(&look, &mut seen.keys).await {
            Ok(retired) => retired,
            Err(error) => {
                let why = refusal(error)?;
                tracing::warn!(why, "a key that nothing needs cannot be deleted");
                false
            }
        };
        if retired {
            seen.again = Some(SOON);
        }
    }
    Ok(seen)
}

/// The first of those that have not ended goes on, the others wait for it, and members catch up with what was before. True if one of
/// them wrapped its data keys anew.
async fn go_on(
    look: &Look<'_>,
    open: &[&Arc<CodexKeyRotation>],
    facts: &Facts,
    seen: &mut Keys,
) -> Result<bool, Error> {
    let mut resumed = false;
    for rotation in open {
        resumed |= Writer::of(look, rotation).resumed().await?;
    }
    if resumed {
        // What was seen of it has the deadline of before.
        seen.again = Some(SOON);
        return Ok(false);
    }
    reencrypt::exposures(look).await?;
    if let Some((first, others)) = open.split_first() {
        for other in others {
            let what = format!("cxk/{} is not done yet", first.name_any());
            Writer::of(look, other).pending(&what).await?;
        }
        let urgent = overtaking(first, others);
        seen.again = Some(match step::go_on(look, first, facts, urgent).await {
            Ok(pause) => pause,
            Err(error) => {
                // Nothing that waiting heals; the rest of the store goes on.
                let why = format!("the keyring cannot be changed: {}", refusal(error)?);
                Writer::of(look, first)
                    .fail(reason::KEYRING_REFUSED, &why)
                    .await?;
                SOON
            }
        });
    }
    let some = catch_up(look, facts, &mut seen.refused).await;
    let going = open.first().map(|first| &***first);
    if let Some(soon) = reencrypt::left(look, facts, going).await? {
        seen.again = Some(seen.again.map_or(soon, |again| again.min(soon)));
    }
    Ok(some)
}

/// Says of each key since when it is known, who has loaded it, what it wraps, and what it encrypted.
fn counted(look: &Look<'_>, seen: &mut Keys) {
    let before = look.store.status.iter().flat_map(|s| &s.encryption_keys);
    let since: BTreeMap<_, _> = before.map(|key| (&key.id, &key.first_seen_at)).collect();
    let asked: Vec<_> = look.places.members.iter().flat_map(|m| &m.answer).collect();
    for key in &mut seen.keys {
        let known = since.get(&key.id).copied().cloned().flatten();
        key.first_seen_at = known.or_else(|| Some(Time(Timestamp::now())));
        let loaded = asked.iter().copied().flatten();
        let loaded = loaded.filter(|status| status.loaded_key_ids.contains(&key.id));
        key.loaded = Some(format!("{}/{}", loaded.count(), asked.len()));
        let wrapped = wrapped(asked.iter().copied().flatten(), &key.id);
        let shown = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        key.files = wrapped.map(|all| shown(all.files));
        key.bytes = wrapped.map(|all| shown(all.bytes));
    }
    let counted = budget::count(look.store.status.as_ref(), &look.places);
    counted.show(&mut seen.keys, look.elsewhere);
    seen.rotations.messages = budget::of_current(&seen.keys);
    seen.uses = counted.uses;
}

/// What a key wraps of all members that say it; none if nobody does.
fn wrapped<'a>(answers: impl Iterator<Item = &'a Status>, id: &str) -> Option<NeededKey> {
    let told = answers.filter_map(|status| status.needed_keys.as_ref());
    let each = told.map(|keys| keys.get(id).copied().unwrap_or_default());
    each.reduce(|all, of| NeededKey {
        files: all.files.saturating_add(of.files),
        bytes: all.bytes.saturating_add(of.bytes),
    })
}

/// The keys of the keyring that there is room for, sorted: the current one, and of very many others the latest, since ids begin with
/// a day.
fn shown(facts: &Facts, room: usize) -> impl Iterator<Item = &String> {
    let is_current = |id: &&String| **id == facts.current;
    let others = facts.ids.iter().filter(|id| !is_current(id)).count();
    let mut surplus = others.saturating_sub(room.saturating_sub(1));
    facts.ids.iter().filter(move |id| {
        let left_out = surplus > 0 && **id != facts.current;
        surplus -= usize::from(left_out);
        !left_out
    })
}

/// The needs that there is room for.
fn few(mut needed_by: Vec<String>) -> Vec<String> {
    if needed_by.len() > SHOWN {
        let more = format!("and {} more", needed_by.len() - SHOWN);
        needed_by.truncate(SHOWN);
        needed_by.push(more);
    }
    needed_by
}

/// What the status says of a key.
fn status_of(id: &str, state: &str, needed_by: Vec<String>) -> KeyStatus {
    KeyStatus {
        id: id.to_owned(),
        state: state.to_owned(),
        needed_by: few(needed_by),
        ..KeyStatus::default()
    }
}

/// Those that have not ended, in the order in which they take turns: one that has begun goes on, whatever else was made in the
/// same second, and of the others those for a compromise come first.
fn open(all: &[Arc<CodexKeyRotation>]) -> Vec<&Arc<CodexKeyRotation>> {
    let mut open: Vec<_> = all.iter().filter(|r| !r.ended()).collect();
    open.sort_by_key(|r| {
        let turn = (!has_begun(r), !is_for_compromise(r));
        (turn, r.metadata.creation_timestamp.clone(), r.name_any())
    });
    open
}

/// The rotation that one which has begun is given up for: one for a compromise. Where both are, only one that was made since the first
/// began: what was seen may be its new key.
fn overtaking<'a>(
    first: &CodexKeyRotation,
    others: &[&'a Arc<CodexKeyRotation>],
) -> Option<&'a CodexKeyRotation> {
    let began = first.status.as_ref().and_then(|s| s.started_at.clone());
    let since = |r: &CodexKeyRotation| {
        let made = r.metadata.creation_timestamp.as_ref();
        !is_for_compromise(first) || made > began.as_ref()
    };
    let urgent = |r: &&'a Arc<CodexKeyRotation>| is_for_compromise(r) && since(r);
    let found = others.iter().copied().find(urgent);
    found.filter(|_| has_begun(first)).map(|other| &**other)
}

fn has_begun(rotation: &CodexKeyRotation) -> bool {
    rotation.status.as_ref().is_some_and(|s| s.to.is_some())
}

/// Whether it was looked at with a good keyring, be its key chosen or not.
fn has_started(rotation: &CodexKeyRotation) -> bool {
    let status = rotation.status.as_ref();
    status.is_some_and(|s| s.to.is_some() || s.started_at.is_some())
}

fn is_for_compromise(rotation: &CodexKeyRotation) -> bool {
    rotation.spec.reason == RotationReason::Compromise
}

/// What the API server says where it will not do something however often it is asked: a Secret that is immutable, say.
fn refusal(error: Error) -> Result<String, Error> {
    match error {
        Error::Kube(error) => Ok(problem::refusal(error)?),
        error => Err(error),
    }
}

/// Makes the rotation that the schedule asks for.
async fn schedule(look: &Look<'_>, seen: &mut Keys) -> Result<(), Error> {
    let policy = look.store.spec.encryption.rotation();
    let Some(schedule) = policy.schedule.clone() else {
        seen.schedule = None;
        return Ok(());
    };
    let now = Timestamp::now();
    // What passed before there was this schedule is not due.
    let known = seen.schedule.take().filter(|s| s.schedule == schedule);
    let rotated = known.as_ref().and_then(|s| s.rotated_at.clone());
    let mut since = known.map_or(now, |s| s.since.0);
    let rotated = rotated.map_or(since, |time| time.0);
    let completed = look.rotations.iter().filter_map(|r| {
        let status = r.status.as_ref()?;
        let done = status.phase.as_deref() == Some(phase::COMPLETED);
        done.then_some(status.completed_at.as_ref()?.0)
    });
    let rotated = completed.fold(rotated, Timestamp::max);
    if let Some(due) = policy.overdue(rotated, now) {
        let why = format!(
            "the key should have been rotated by {} ({schedule}), and was not since {}: kubectl get cxk says what is in the way",
            Timestamp::from_second(due).unwrap_or(now),
            rotated.strftime("%Y-%m-%dT%H:%M:%SZ")
        );
        seen.rotations.overdue = true;
        let problem = Problem::new(problem::ROTATION_OVERDUE, why);
        seen.problems.push(problem);
    }
    match policy.due(since, now) {
        Ok(None) => {}
        Ok(Some(due)) => {
            // By this name it is made once, whoever makes it.
            let name = format!("{}-{}", look.store.name_any(), due / 60);
            write::create(look, &name, RotationReason::Scheduled).await?;
            since = Timestamp::from_second(due).unwrap_or(now);
        }
        Err(why) => seen
            .problems
            .push(Problem::new(problem::ROTATION_INVALID, why)),
    }
    seen.schedule = Some(RotationSchedule {
        schedule,
        since: Time(since),
        rotated_at: Some(Time(rotated)),
    });
    Ok(())
}

/// Has members that need another key than the current one wrap their data keys with it. One that has not loaded it as the
/// current one yet does nothing, and is asked again. True if one did something.
async fn catch_up(look: &Look<'_>, facts: &Facts, refused: &mut BTreeMap<String, String>) -> bool {
    let mut some = false;
    let Some(credentials) = look.credentials else {
        return some;
    };
    for member in look.places.members {
        let answer = member
            .answer
            .as_ref()
            .and_then(|answer| answer.as_ref().ok());
        let Some(status) = answer.filter(|status| status.state == State::Ready) else {
            continue;
        };
        let needed = status.needed_key_ids.iter().flatten();
        let behind = needed.clone().any(|id| *id != facts.current);
        // What it writes anew is wrapped with the current key.
        let known = status.reencryption.as_ref();
        let busy = known.is_some_and(|known| known.state == ReencryptionState::Running);
        if !behind || busy || !status.loaded_key_ids.contains(&facts.current) {
            continue;
        }
        let pod = member.pod.name_any();
        match look.shared.poller.rewrap(&member.pod, credentials).await {
            Ok(done) if done.slots > 0 => {
                some = true;
                tracing::info!(
                    pod,
                    files = done.files,
                    key = facts.current,
                    "a member wrapped its data keys anew"
                );
            }
            Ok(_) => {}
            Err(why) => {
                tracing::warn!(pod, why = why.0, "a member did not wrap its data keys anew");
                refused.insert(pod, why.0);
            }
        }
    }
    some
}
