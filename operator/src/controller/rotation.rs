//! Rotation of keys: what becomes of each CodexKeyRotation, those that a schedule makes, and the deletion of keys that nothing needs any more.
//!
//! A rotation puts a new key into the keyring, waits until each running member says that it has loaded it, makes it current, and has
//! each member wrap the data keys of its files with it. `plan` decides by what is there (keyring and members), not by what
//! was done, so each step can be repeated and another operator goes on where this one ended. The Secret is changed one entry at
//! a time, by a patch that fails if somebody else was faster.
//!
//! Apart from that, a member that needs another key than the current one is asked to wrap its data keys anew whenever it is seen:
//! one that was down for a whole rotation catches up when it is back. That is all that there is where the keyring is the user's: who
//! makes another key current there has rotated, see `own`.

mod own;
mod plan;
mod retire;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;
use std::time::Duration;

use codexstore_api::status::State;
use codexstore_crds::codex_key_rotation::phase;
use codexstore_crds::status::{KeyStatus, MAX_KEYS, RotationSchedule};
use codexstore_crds::{CodexKeyRotation, CodexKeyRotationStatus, CodexStore};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::key_needs::Places;
use super::keyring::{Facts, Keyring, random_id};
use super::problem::{self, Problem};
use super::tls::Credentials;
use super::{Error, Shared};
use plan::{Step, plan};
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
    /// What is in the way.
    pub problems: Vec<Problem>,
    /// Why the keyring is not good, though it looked so by itself.
    pub broken: Option<Problem>,
    /// By which schedule it is rotated, and since when.
    pub schedule: Option<RotationSchedule>,
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
    /// The latest that has ended was given up.
    pub failed: bool,
}

impl Rotations {
    fn of(all: &[Arc<CodexKeyRotation>]) -> Self {
        let ended = all.iter().filter_map(|rotation| {
            let status = rotation.status.as_ref()?;
            Some((status.completed_at.clone()?, status.phase.as_deref()))
        });
        let last = ended.max_by_key(|(time, _)| time.clone());
        Self {
            going: all.iter().any(|rotation| !rotation.ended()),
            failed: last.is_some_and(|(_, how)| how == Some(phase::FAILED)),
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
}

/// Takes the next step of a rotation, makes one that is due, deletes keys that nothing needs, and says how the keys are.
pub async fn ensure(look: Look<'_>, keyring: &Keyring) -> Result<Keys, Error> {
    let before = look.store.status.as_ref();
    let mut seen = Keys {
        schedule: before.and_then(|s| s.rotation_schedule.clone()),
        rotations: Rotations::of(look.rotations),
        ..Keys::default()
    };
    let open = open(look.rotations);
    let going = look.store.metadata.deletion_timestamp.is_none();
    let own = look.store.spec.encryption.own_secret();
    if let Some(secret) = own {
        own::refuse(&look, &open, secret).await?;
    }
    let facts = match keyring {
        Keyring::Ready(facts) if going => facts,
        Keyring::NotEncrypted => {
            for rotation in open {
                let why = "the store is not encrypted: it has no keys";
                Writer::of(&look, rotation).fail(why).await?;
            }
            return Ok(Keys {
                schedule: None,
                ..seen
            });
        }
        // What was known is still the best that is known; a keyring that is put right goes on from there.
        _ => {
            seen.keys = before
                .map(|s| s.encryption_keys.clone())
                .unwrap_or_default();
            return Ok(seen);
        }
    };
    if let Some(secret) = own {
        return own::follow(&look, facts, secret, seen).await;
    }
    schedule(&look, &mut seen).await?;
    let becomes = match open.split_first() {
        Some((first, others)) => {
            for other in others {
                let what = format!("cxk/{} is not done yet", first.name_any());
                Writer::of(&look, other).pending(&what).await?;
            }
            seen.again = Some(match go_on(&look, first, facts).await {
                // Nothing that waiting heals; the rest of the store goes on.
                Err(Error::Kube(kube::Error::Api(answer))) if refused(&answer) => {
                    let why = format!("the keyring cannot be changed: {}", answer.message);
                    Writer::of(&look, first).fail(&why).await?;
                    SOON
                }
                done => done?,
            });
            first.status.as_ref().and_then(|s| s.to.clone())
        }
        None => None,
    };
    catch_up(&look, facts).await;
    // Ids begin with a day: of very many the latest are shown.
    let surplus = facts.ids.len().saturating_sub(MAX_KEYS);
    let shown = facts.ids.iter().skip(surplus);
    let one = |id: &String| match id {
        id if *id == facts.current => status_of(id, "Active", Vec::new()),
        id if becomes.as_ref() == Some(id) => status_of(id, "Adding", Vec::new()),
        id => status_of(id, "Retiring", look.places.needing(id)),
    };
    seen.keys = shown.map(one).collect();
    if open.is_empty() {
        let retired = match retire::one(&look, &seen.keys).await {
            Err(Error::Kube(kube::Error::Api(answer))) if refused(&answer) => {
                tracing::warn!(
                    why = answer.message,
                    "a key that nothing needs cannot be deleted"
                );
                false
            }
            done => done?,
        };
        if retired {
            seen.again = Some(SOON);
        }
    }
    Ok(seen)
}

/// What the status says of a key.
fn status_of(id: &str, state: &str, mut needed_by: Vec<String>) -> KeyStatus {
    if needed_by.len() > SHOWN {
        let more = format!("and {} more", needed_by.len() - SHOWN);
        needed_by.truncate(SHOWN);
        needed_by.push(more);
    }
    KeyStatus {
        id: id.to_owned(),
        state: state.to_owned(),
        needed_by,
    }
}

/// Those that have not ended, in the order in which they take turns: one that has begun goes on, whatever else was made in the
/// same second.
fn open(all: &[Arc<CodexKeyRotation>]) -> Vec<&Arc<CodexKeyRotation>> {
    let mut open: Vec<_> = all.iter().filter(|r| !r.ended()).collect();
    open.sort_by_key(|r| {
        let begun = r.status.as_ref().is_some_and(|s| s.to.is_some());
        (!begun, r.metadata.creation_timestamp.clone(), r.name_any())
    });
    open
}

/// Whether the API server will not do this however often it is asked: a Secret that is immutable, say.
fn refused(answer: &kube::core::Status) -> bool {
    matches!(answer.code, 400 | 403 | 422)
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
    let since = seen.schedule.take().filter(|s| s.schedule == schedule);
    let mut since = since.map_or(now, |s| s.since.0);
    match policy.due(since, now) {
        Ok(None) => {}
        Ok(Some(due)) => {
            write::create(look, due).await?;
            since = Timestamp::from_second(due).unwrap_or(now);
        }
        Err(why) => seen
            .problems
            .push(Problem::new(problem::ROTATION_INVALID, why)),
    }
    seen.schedule = Some(RotationSchedule {
        schedule,
        since: Time(since),
    });
    Ok(())
}

/// The next step of a rotation, and when the one after it is due.
async fn go_on(
    look: &Look<'_>,
    rotation: &CodexKeyRotation,
    facts: &Facts,
) -> Result<Duration, Error> {
    let mut status = rotation.status.clone().unwrap_or_default();
    let writer = Writer::of(look, rotation);
    if status.to.is_none() {
        // Written down before there is such a key, so that whoever goes on from here adds the same.
        let id = random_id()?;
        status = CodexKeyRotationStatus {
            phase: Some(phase::ADDING.to_owned()),
            started_at: Some(Time(Timestamp::now())),
            from: Some(facts.current.clone()),
            to: Some(id),
            ..CodexKeyRotationStatus::default()
        };
        writer.tell(&status).await?;
        return Ok(SOON);
    }
    let deadline = look.store.spec.encryption.rotation().deadline_seconds();
    let now = Timestamp::now().as_second();
    match plan(&status, facts, look.places.members, deadline, now) {
        Step::Add(id) => {
            let added = write::add_key(look, facts, &id).await?;
            if added {
                writer
                    .event("KeyAdded", &format!("key {id} is in the keyring"))
                    .await;
            }
            Ok(SOON)
        }
        Step::Wait {
            phase,
            ready,
            message,
        } => {
            writer.waits(&status, phase, ready, &message).await?;
            Ok(GOING)
        }
        Step::Promote { from, to } => {
            if write::promote(look, &from, &to).await? {
                let what = format!("key {to} is current now, instead of {from}");
                writer.event("KeyPromoted", &what).await;
            }
            Ok(SOON)
        }
        Step::Complete { ready } => {
            writer.complete(&status, ready).await?;
            Ok(SOON)
        }
        Step::Fail(why) => {
            writer.fail(&why).await?;
            Ok(SOON)
        }
    }
}

/// Has members that need another key than the current one wrap their data keys with it. One that has not loaded it as the
/// current one yet does nothing, and is asked again. True if one did something.
async fn catch_up(look: &Look<'_>, facts: &Facts) -> bool {
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
        if !behind || !status.loaded_key_ids.contains(&facts.current) {
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
            }
        }
    }
    some
}
