//! One step of a rotation: what members say and what is in the keyring goes into `plan`, and what comes out is done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codexstore_crds::codex_key_rotation::{
    ExposedBackups, RotationMember, RotationReason, member, phase, reason,
};
use codexstore_crds::rotation::Mode;
use codexstore_crds::{CodexKeyRotation, CodexKeyRotationStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::super::Error;
use super::super::keyring::{Facts, random_id};
use super::super::members::Member;
use super::super::problem;
use super::plan::{Known, Step};
use super::progress::{self, Question};
use super::write::{self, Writer};
use super::{GOING, Look, SOON, exposed, own_step, reencrypt};

/// The next step of a rotation, and when the one after it is due. One that has begun is given up for `urgent`.
pub async fn go_on(
    look: &Look<'_>,
    rotation: &CodexKeyRotation,
    facts: &Facts,
    urgent: Option<&CodexKeyRotation>,
) -> Result<Duration, Error> {
    let policy = look.store.spec.encryption.rotation();
    let writer = Writer::of(look, rotation);
    let before = rotation.status.clone().unwrap_or_default();
    if let Some(secret) = look.store.spec.encryption.own_secret()
        && urgent.is_none()
        && let Some(pause) = own_step::aim(look, rotation, facts, secret).await?
    {
        return Ok(pause);
    }
    let Some(to) = before.to.clone() else {
        // Written down before there is such a key, so that whoever goes on from here adds the same.
        let id = random_id()?;
        let status = CodexKeyRotationStatus {
            phase: Some(phase::ADDING.to_owned()),
            mode: Some(rotation.spec.mode(policy.mode)),
            started_at: Some(Time(Timestamp::now())),
            from: Some(facts.current.clone()),
            to: Some(id),
            ..CodexKeyRotationStatus::default()
        };
        writer.tell(&status).await?;
        return Ok(SOON);
    };
    let members = progress_of(look, rotation, &before, facts, urgent.is_none()).await;
    let compromise = rotation.spec.reason == RotationReason::Compromise;
    let known = Known {
        status: &before,
        compromise,
        facts,
        members: &members,
        deadline: policy.deadline_seconds(),
    };
    let step = match urgent {
        Some(other) => {
            let what = format!(
                "given up for cxk/{}, which must not wait: somebody may have seen a key",
                other.name_any()
            );
            Step::Fail(reason::SUPERSEDED, what)
        }
        None => known.next(Timestamp::now().as_second()),
    };
    let status = seen_by(&before, facts, &members);
    let status = CodexKeyRotationStatus {
        exposed_backups: (compromise && facts.current == to)
            .then(|| exposed_now(look, &before, facts)),
        ..status
    };
    take(look, &writer, &known, step, status).await
}

/// Takes this step, and says when the one after it is due.
async fn take(
    look: &Look<'_>,
    writer: &Writer<'_>,
    known: &Known<'_>,
    step: Step,
    status: CodexKeyRotationStatus,
) -> Result<Duration, Error> {
    match step {
        Step::Add(id) => {
            let tried = write::add_key(look, known.facts, &id).await;
            let what = format!("key {id} is in the keyring");
            match changed(look, known, tried, |now| !now.ids.contains(&id)).await? {
                Some(true) => writer.event("KeyAdded", &what).await,
                Some(false) => {}
                None => give_up(writer, known, status, &what).await?,
            }
        }
        Step::Wait { phase, message } => {
            let pause = if message.is_some() { GOING } else { SOON };
            writer.is_in(status, phase, message).await?;
            return Ok(pause);
        }
        Step::Promote { from, to } => {
            let tried = write::promote(look, &from, &to).await;
            let what = format!("key {to} is current now, instead of {from}");
            match changed(look, known, tried, |_| true).await? {
                Some(true) => writer.event("KeyPromoted", &what).await,
                Some(false) => {}
                None => give_up(writer, known, status, &what).await?,
            }
        }
        Step::Complete => writer.complete(status).await?,
        Step::Fail(reason, why) => writer.give_up(status, reason, &why).await?,
    }
    Ok(SOON)
}

/// Whether the keyring was changed, which was tried; none if it was not for so long that it is waited for no more. `lacks` says of the
/// keyring, with the same current key, that it was not: where the answer alone was lost, the rotation goes on.
async fn changed(
    look: &Look<'_>,
    known: &Known<'_>,
    tried: Result<bool, Error>,
    lacks: impl Fn(&Facts) -> bool,
) -> Result<Option<bool>, Error> {
    // What the API server refuses for good ends a rotation with what it says.
    let may_heal = match &tried {
        Ok(made) => !made,
        Err(Error::Kube(kube::Error::Api(answer))) => !problem::is_final(answer),
        Err(_) => true,
    };
    if !may_heal || !known.is_stuck(Timestamp::now().as_second()) {
        return tried.map(Some);
    }
    match write::live(look).await? {
        Some((_, now)) if now.current == known.facts.current && lacks(&now) => {
            if let Err(error) = tried {
                tracing::warn!(%error, "the keyring could not be changed for as long as it was waited for");
            }
            Ok(None)
        }
        _ => tried.map(Some),
    }
}

async fn give_up(
    writer: &Writer<'_>,
    known: &Known<'_>,
    status: CodexKeyRotationStatus,
    what: &str,
) -> Result<(), Error> {
    let why = known.given_up(what);
    writer
        .give_up(status, reason::DEADLINE_EXCEEDED, &why)
        .await
}

/// How far each member is; those that can encrypt anew, and are to, are asked to if it `goes_on`.
async fn progress_of(
    look: &Look<'_>,
    rotation: &CodexKeyRotation,
    before: &CodexKeyRotationStatus,
    facts: &Facts,
    goes_on: bool,
) -> Vec<RotationMember> {
    let to = before.to.clone().unwrap_or_default();
    let id = rotation.uid().unwrap_or_default();
    let mut question = Question {
        places: &look.places,
        status: before,
        key: &to,
        counts: &BTreeSet::from([id.as_str()]),
        refused: &BTreeMap::new(),
    };
    if facts.current != to {
        return question.loading();
    }
    let mut refused = BTreeMap::new();
    if goes_on && before.mode == Some(Mode::Reencrypt) {
        let now = question.rewriting();
        let wanted = |m: &Member| {
            let pod = m.pod.name_any();
            let mut mine = now.iter().filter(|listed| listed.pod == pod);
            mine.any(|listed| !matches!(&*listed.state, member::DONE | member::AWAY))
        };
        refused = reencrypt::ask(look, facts, &id, &wanted).await;
    }
    question.refused = &refused;
    question.rewriting()
}

/// The status of a rotation with what was seen of members now.
fn seen_by(
    before: &CodexKeyRotationStatus,
    facts: &Facts,
    members: &[RotationMember],
) -> CodexKeyRotationStatus {
    let now = Time(Timestamp::now());
    let promoted = before.to.as_ref() == Some(&facts.current);
    let moved = progress::moved(&before.members, members);
    CodexKeyRotationStatus {
        ready: Some(progress::ready(members)),
        promoted_at: before
            .promoted_at
            .clone()
            .or_else(|| promoted.then(|| now.clone())),
        progress_at: if moved {
            Some(now)
        } else {
            before.progress_at.clone()
        },
        members: progress::bounded(members),
        ..before.clone()
    }
}

/// The backups that keys open which were in the keyring when the new one became current.
fn exposed_now(look: &Look<'_>, before: &CodexKeyRotationStatus, facts: &Facts) -> ExposedBackups {
    let known = before.exposed_backups.as_ref().map(|e| e.key_ids.clone());
    let seen = || {
        let others = facts.ids.iter().filter(|id| **id != facts.current);
        others.cloned().collect()
    };
    let (backups, archive) = (look.places.backups, look.places.archive);
    exposed::of(backups, archive, known.unwrap_or_else(seen))
}
