//! The status of a store, made from what was seen. Pure: same input, same status.

use codexstore_crds::archive::Judged;
use codexstore_crds::status::{ConditionChange, condition, first_few, phase};
use codexstore_crds::{CodexStore, CodexStoreStatus, KeyringStatus, MemberStatus, desired};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::escrow::{self, Escrow};
use super::keyring::Keyring;
use super::members;
use super::problem::{self, Problem};
use super::rotation::Keys;
use super::schedule::Backups;

/// What was seen.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The keyring.
    pub keyring: &'a Keyring,
    /// Whether it is sealed.
    pub escrow: Escrow,
    /// Each of its keys.
    pub keys: Keys,
    /// The members.
    pub members: Vec<MemberStatus>,
    /// What else is wrong (volumes, foreign objects, pods without sidecar).
    pub problems: Vec<Problem>,
    /// The backups.
    pub backups: Backups,
    /// What the archive comes to, where there is to be one.
    pub archive: Option<Judged>,
    /// What is still being made, in words; empty when nothing is.
    pub waiting_for: Vec<String>,
}

/// States in which a member cannot serve and does not heal by waiting.
const FAILED: [&str; 5] = [
    "Poisoned",
    "KeyError",
    "IntegrityError",
    "IoError",
    "ConfigError",
];

const SEALING: &str = "the keyring is being sealed";

/// The phase in a word.
fn word(store: &CodexStore, well: bool, all_there: bool) -> &'static str {
    if store.metadata.deletion_timestamp.is_some() {
        phase::DELETING
    } else if !well {
        phase::DEGRADED
    } else if !all_there {
        phase::PROGRESSING
    } else if store.spec.volume.ephemeral.is_some() {
        phase::EPHEMERAL
    } else {
        phase::READY
    }
}

/// The new status; conditions keep their time unless their status changes.
pub fn status(store: &CodexStore, seen: Seen<'_>, now: &Time) -> CodexStoreStatus {
    let before = store.status.clone().unwrap_or_default();
    let generation = store.metadata.generation;
    let mut status = CodexStoreStatus {
        observed_generation: generation,
        key_id: before.key_id,
        keyring: before.keyring,
        escrow: before.escrow,
        encryption_keys: seen.keys.keys,
        key_uses: seen.keys.uses,
        rotation_schedule: seen.keys.schedule,
        conditions: before.conditions,
        ..CodexStoreStatus::default()
    };
    known_keyring(&mut status, store, seen.keyring);
    let mut problems = Vec::new();
    if let Keyring::Broken(problem, _) = seen.keyring {
        problems.push(problem.clone());
    }
    if let Escrow::Failed(problem) = &seen.escrow {
        problems.push(problem.clone());
    }
    problems.extend(seen.problems);
    problems.extend(seen.keys.problems);
    problems.extend(seen.backups.problems);
    status.last_backup = seen.backups.last;
    status.backup_schedule = seen.backups.schedule;
    status.archive = seen.archive.as_ref().map(|judged| judged.status.clone());
    problems.extend(member_problems(&seen.members));
    let mut waiting = seen.waiting_for;
    if seen.escrow == Escrow::Pending {
        waiting.push(SEALING.to_owned());
    }
    waiting.extend(slow_members(&seen.members));
    let outdated = names_of(&seen.members, |m| m.outdated);
    status.set_members(seen.members);

    let escrowed = escrowed(&mut status, seen.escrow);

    let ready = ready(&status, outdated.as_deref());
    let mut set = |type_, (value, reason, message): (Option<bool>, &str, &str)| {
        let change = ConditionChange {
            type_,
            status: value,
            reason,
            message,
            generation,
        };
        status.set_condition(&change, now);
    };
    set(condition::READY, (ready.0, ready.1, &ready.2));
    let joined = waiting.join("; ");
    set(
        condition::PROGRESSING,
        if waiting.is_empty() {
            (Some(false), "Steady", "nothing is being waited for")
        } else {
            (Some(true), "WaitingForMembers", joined.as_str())
        },
    );
    let joined = problems
        .iter()
        .map(|p| p.message.as_str())
        .collect::<Vec<_>>()
        .join("; ");
    set(
        condition::DEGRADED,
        match problems.first() {
            None => (Some(false), "AsExpected", "nothing is wrong"),
            Some(first) => (Some(true), first.reason, joined.as_str()),
        },
    );
    set(condition::KEYS_READY, keys_ready(seen.keyring));
    if let Some((value, reason, message)) = &escrowed {
        set(condition::KEY_ESCROWED, (*value, reason, message));
    }
    let archive = seen.archive.as_ref().map(|judged| &judged.condition);
    let found = [
        (condition::ARCHIVE_CURRENT, archive),
        (condition::KEY_IN_USE, seen.keys.in_use.as_ref()),
        (
            condition::LAST_BACKUP_SUCCEEDED,
            seen.backups.condition.as_ref(),
        ),
    ];
    for (type_, found) in found {
        if let Some((value, reason, message)) = found {
            set(type_, (*value, reason, message));
        }
    }
    let gone = |type_: &str| {
        found
            .iter()
            .any(|(t, found)| *t == type_ && found.is_none())
    };
    status.conditions.retain(|c| !gone(&c.type_));
    let word = word(
        store,
        problems.is_empty(),
        waiting.is_empty() && ready.0 == Some(true),
    );
    status.phase = Some(word.to_owned());
    status
}

fn keys_ready(keyring: &Keyring) -> (Option<bool>, &str, &str) {
    match keyring {
        Keyring::Ready(_) => (
            Some(true),
            "KeyringReady",
            "the keyring is there and well-formed",
        ),
        Keyring::NotEncrypted => (
            Some(true),
            "NotEncrypted",
            "the store has no encryption, as its spec says",
        ),
        Keyring::Pending => (None, "KeyringPending", "the keyring is being made"),
        Keyring::Broken(problem, _) => (Some(false), problem.reason, problem.message.as_str()),
    }
}

/// What the status says of the escrow, and the condition on it. That nobody asked for one is said, and is no fault.
fn escrowed(
    status: &mut CodexStoreStatus,
    escrow: Escrow,
) -> Option<(Option<bool>, &'static str, String)> {
    let (value, reason, message) = match escrow {
        Escrow::NotEncrypted => {
            status.escrow = None;
            let all = &mut status.conditions;
            all.retain(|c| c.type_ != condition::KEY_ESCROWED);
            return None;
        }
        Escrow::NotAskedFor => {
            status.escrow = None;
            let message = "encryption.keys.managed.escrow names no recipients: without a copy of the keyring elsewhere, backups cannot be opened \
                           once the cluster is gone";
            (Some(false), "NotAskedFor", message.to_owned())
        }
        Escrow::NotOurs => {
            status.escrow = None;
            let message = "the keys are in a Secret of yours: keep a copy of it elsewhere";
            (Some(false), "KeysOfYourOwn", message.to_owned())
        }
        Escrow::NoKeyring => {
            let message = "there is no keyring to be sealed; what was sealed before stays";
            (None, "KeyringNotReady", message.to_owned())
        }
        Escrow::Pending => (None, "Pending", SEALING.to_owned()),
        Escrow::Sealed(sealed) => {
            let to = escrow::count(usize::try_from(sealed.recipients).unwrap_or_default());
            status.escrow = Some(sealed);
            let message = format!("the keyring is sealed to {to}, and goes with each backup");
            (Some(true), "Sealed", message)
        }
        Escrow::Failed(problem) => (Some(false), problem.reason, problem.message),
    };
    Some((value, reason, message))
}

/// What the status says of the keyring.
fn known_keyring(status: &mut CodexStoreStatus, store: &CodexStore, keyring: &Keyring) {
    match keyring {
        Keyring::Ready(facts) => {
            status.key_id = Some(facts.current.clone());
            status.keyring = Some(KeyringStatus {
                secret_name: desired::keyring_name(store),
                secret_uid: facts.secret_uid.clone(),
            });
        }
        Keyring::NotEncrypted => {
            status.key_id = None;
            status.keyring = None;
        }
        // What is on record lets pods in: those of a store that was recreated wait for their Secret too.
        Keyring::Broken(_, Some(uid)) => {
            status.keyring = Some(KeyringStatus {
                secret_name: desired::keyring_name(store),
                secret_uid: uid.clone(),
            });
        }
        // What was known before is still the best that is known.
        Keyring::Pending | Keyring::Broken(_, None) => {}
    }
}

fn ready(
    status: &CodexStoreStatus,
    outdated: Option<&str>,
) -> (Option<bool>, &'static str, String) {
    let count = status.ready.clone().unwrap_or_default();
    if status.total_members == 0 {
        let message = "no pod uses this store: give one the label codexstore.dev/store".to_owned();
        (Some(true), "NoMembers", message)
    } else if status.ready_members < status.total_members {
        (
            Some(false),
            "WaitingForMembers",
            format!("{count} members are ready"),
        )
    } else if let Some(outdated) = outdated {
        let message = format!(
            "{count} members are ready; {} run with an older spec or operator, until their pods are made anew: {outdated}",
            status.outdated_members
        );
        (Some(true), "MembersOutdated", message)
    } else {
        (
            Some(true),
            "AllMembersReady",
            format!("{count} members are ready"),
        )
    }
}

fn member_problems(all: &[MemberStatus]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |reason, wanted: &dyn Fn(&str) -> bool| {
        let mut found = all
            .iter()
            .filter(|m| m.state.as_deref().is_some_and(wanted));
        if let Some(first) = found.next() {
            let detail = first
                .message
                .as_deref()
                .or(first.state.as_deref())
                .unwrap_or_default();
            let more = match found.count() {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            problems.push(Problem::new(
                reason,
                format!("member {}: {detail}{more}", first.pod),
            ));
        }
    };
    add(problem::MEMBER_FAILED, &|state| FAILED.contains(&state));
    add(problem::MEMBER_UNREACHABLE, &|state| {
        state == members::UNREACHABLE
    });
    problems
}

/// Members that are on their way.
fn slow_members(all: &[MemberStatus]) -> Option<String> {
    let slow = |m: &MemberStatus| {
        let state = m.state.as_deref().unwrap_or_default();
        !m.ready && !FAILED.contains(&state) && state != members::UNREACHABLE
    };
    let first = all.iter().find(|m| slow(m))?;
    let detail = first
        .message
        .as_deref()
        .or(first.state.as_deref())
        .unwrap_or_default();
    Some(match all.iter().filter(|m| slow(m)).count() {
        1 => format!("member {}: {detail}", first.pod),
        n => format!("{n} members, among them {}: {detail}", first.pod),
    })
}

/// The first few names of the members that are meant.
fn names_of(all: &[MemberStatus], wanted: fn(&MemberStatus) -> bool) -> Option<String> {
    const SHOWN: usize = 10;
    let mut names: Vec<_> = all
        .iter()
        .filter(|m| wanted(m))
        .map(|m| m.pod.as_str())
        .collect();
    names.sort_unstable();
    if names.is_empty() {
        return None;
    }
    Some(first_few(&names, names.len(), SHOWN))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
