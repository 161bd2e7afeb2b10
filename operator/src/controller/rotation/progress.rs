//! How far each member is with a rotation. Pure.

use std::collections::{BTreeMap, BTreeSet};

use codexstore_api::Status;
use codexstore_api::status::{Reencryption, ReencryptionState};
use codexstore_crds::codex_key_rotation::{MAX_ROTATION_MEMBERS, RotationMember, member};
use codexstore_crds::rotation::Mode;
use codexstore_crds::{CodexKeyRotationStatus, names};
use kube::ResourceExt as _;

use super::super::key_needs::{Places, is_open};
use super::super::members::{self, Member};

/// Longest message about one member, in characters.
const MESSAGE: usize = 512;
/// Steps in which a re-encryption's progress is told, in percent: each writes a status.
const PERCENT: u64 = 10;
/// How far one is that is done, in percent.
const ALL: i32 = 100;

/// What becomes of an open member, by what it says.
#[derive(Default)]
struct Told {
    state: &'static str,
    message: Option<String>,
    percent: Option<i32>,
}

type Says<'a> = &'a dyn Fn(&RotationMember, &Status) -> Told;

/// What is asked about members.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Where a store's data is.
    pub places: &'a Places<'a>,
    /// What is known of the rotation.
    pub status: &'a CodexKeyRotationStatus,
    /// The key that members are to have, or to need only.
    pub key: &'a str,
    /// UIDs of rotations whose re-encryption counts: this one's, and later ones'.
    pub counts: &'a BTreeSet<&'a str>,
    /// Why members could not be asked to do their part, by pod.
    pub refused: &'a BTreeMap<String, String>,
}

impl Question<'_> {
    /// Who has loaded the new key.
    pub fn loading(&self) -> Vec<RotationMember> {
        self.each(&|_, status| {
            let state = if self.has_loaded(status) {
                member::LOADED
            } else {
                member::LOADING
            };
            Told {
                state,
                ..Told::default()
            }
        })
    }

    /// Who is done with the new key, which is current.
    pub fn rewriting(&self) -> Vec<RotationMember> {
        self.each(&|listed, status| {
            let refused = self.refused.get(&listed.pod).cloned();
            if !needs_only(status, self.key) {
                let old = "its sidecar is of a version that cannot do that: make the pod anew";
                let old = status.needed_key_ids.is_none().then(|| old.to_owned());
                if self.is_the_users() && old.is_none() && !self.has_loaded(status) {
                    return Told {
                        state: member::LOADING,
                        message: status.message.clone(),
                        percent: None,
                    };
                }
                return rewriting(old.or(refused));
            }
            if !self.reencrypts() {
                return done();
            }
            match &status.reencryption {
                Some(known) if self.counts.contains(known.id.as_str()) => of_reencryption(known),
                // It was started anew since it said so.
                _ if self.was_done(listed) => done(),
                Some(other) if other.state == ReencryptionState::Running => {
                    let percent = percent_of(other);
                    let what = "encrypted anew for another rotation, which goes first";
                    rewriting(Some(format!("{percent} % {what}")))
                }
                _ => rewriting(refused),
            }
        })
    }

    fn has_loaded(&self, status: &Status) -> bool {
        status.loaded_key_ids.iter().any(|id| id == self.key)
    }

    /// Whether the key was made current by a user, who need not have waited until members had it.
    fn is_the_users(&self) -> bool {
        let encryption = &self.places.store.spec.encryption;
        encryption.own_secret().is_some()
    }

    fn reencrypts(&self) -> bool {
        self.status.mode == Some(Mode::Reencrypt)
    }

    /// What is on record of a member.
    fn before(&self, listed: &RotationMember) -> Option<&RotationMember> {
        let mut all = self.status.members.iter();
        all.find(|before| is_same(before, listed))
    }

    /// Whether a member is on record as done.
    fn was_done(&self, listed: &RotationMember) -> bool {
        let before = self.before(listed);
        before.is_some_and(|before| before.state == member::DONE)
    }

    /// All members, sorted, one of each name: those that run, as they say, and data that no running member has.
    fn each(&self, of: Says<'_>) -> Vec<RotationMember> {
        let mut all = BTreeMap::new();
        let mut put = |mut listed: RotationMember| {
            let before = self.before(&listed).and_then(|before| before.percent);
            listed.percent = listed.percent.max(before);
            all.insert(listed.pod.clone(), listed);
        };
        // Claims that no member has, by the pod that they were made for.
        let mut left = BTreeMap::new();
        for claim in self.places.claims {
            if let Some(pod) = claim.annotations().get(names::POD_ANNOTATION) {
                put(self.away(pod.clone(), None, None));
                let name = claim.name_any();
                let mut members = self.places.members.iter();
                if !members.any(|m| members::has_data_on(&m.pod, &name)) {
                    left.insert(pod, name);
                }
            }
        }
        for member in self.places.members {
            // What ends takes its data along, unless that is on a claim.
            if members::lives(&member.pod)
                && let Some(listed) = self.one(member, of)
            {
                put(match left.get(&listed.pod) {
                    Some(claim) if self.reencrypts() => self.beside(listed, claim),
                    _ => listed,
                });
            }
        }
        all.into_values().collect()
    }

    /// A member with its data elsewhere than on the claim of its name, together with that claim: done when both are, and known by its pod's
    /// name, as the claim is.
    fn beside(&self, mut listed: RotationMember, claim: &str) -> RotationMember {
        if listed.state == member::DONE {
            let why = format!("its data is elsewhere, and no member has claim {claim} mounted");
            return self.away(listed.pod, None, Some(why));
        }
        listed.pod_uid = None;
        listed
    }

    fn one(&self, member: &Member, of: Says<'_>) -> Option<RotationMember> {
        let pod = member.pod.name_any();
        let uid = members::takes_data_along(&member.pod).then(|| member.pod.uid());
        let uid = uid.flatten();
        let mut listed = RotationMember {
            pod: pod.clone(),
            pod_uid: uid.clone(),
            ..RotationMember::default()
        };
        let told = match &member.answer {
            // It never ran: what its volume holds is said of its claim.
            None if !members::has_started(&member.pod) => return None,
            None => return Some(self.away(pod, uid, None)),
            Some(Ok(status)) if !is_open(member) => {
                let why = format!("its store is not open: {}", status.state);
                return Some(self.away(pod, uid, Some(why)));
            }
            Some(Ok(status)) => of(&listed, status),
            // What was encrypted anew stays so, whether it answers now or not.
            Some(Err(_)) if self.reencrypts() && self.was_done(&listed) => done(),
            Some(Err(why)) => Told {
                state: member::UNREACHABLE,
                message: Some(why.0.clone()),
                percent: None,
            },
        };
        told.state.clone_into(&mut listed.state);
        listed.message = told.message.map(|m| m.chars().take(MESSAGE).collect());
        listed.percent = told.percent;
        Some(listed)
    }

    /// One that catches up when it is back, unless it was done before it went.
    fn away(&self, pod: String, pod_uid: Option<String>, why: Option<String>) -> RotationMember {
        let mut listed = RotationMember {
            pod,
            pod_uid,
            state: member::AWAY.to_owned(),
            message: why,
            percent: None,
        };
        if self.reencrypts() && self.was_done(&listed) {
            member::DONE.clone_into(&mut listed.state);
        }
        listed
    }
}

fn done() -> Told {
    Told {
        state: member::DONE,
        message: None,
        percent: Some(ALL),
    }
}

fn rewriting(message: Option<String>) -> Told {
    Told {
        state: member::REWRITING,
        message,
        percent: None,
    }
}

fn of_reencryption(known: &Reencryption) -> Told {
    match known.state {
        ReencryptionState::Done => done(),
        ReencryptionState::Failed => Told {
            state: member::FAILED,
            message: known.message.clone(),
            percent: None,
        },
        ReencryptionState::Running | ReencryptionState::Unknown => {
            let step = percent_of(known);
            Told {
                percent: i32::try_from(step).ok(),
                ..rewriting(Some(format!("{step} % encrypted anew")))
            }
        }
    }
}

/// How far a re-encryption is, in whole steps.
fn percent_of(known: &Reencryption) -> u64 {
    let percent = known
        .done_bytes
        .saturating_mul(100)
        .checked_div(known.total_bytes)
        .unwrap_or(0)
        .min(100);
    percent / PERCENT * PERCENT
}

fn is_same(one: &RotationMember, other: &RotationMember) -> bool {
    one.pod == other.pod && one.pod_uid == other.pod_uid
}

/// Whether what an open member holds needs this key and no other.
pub fn needs_only(status: &Status, id: &str) -> bool {
    let needed = status.needed_key_ids.as_ref();
    needed.is_some_and(|all| all.iter().all(|needed| needed == id))
}

/// Members that are done with the phase, of all that run, as the status has it.
pub fn ready(all: &[RotationMember]) -> String {
    let running = all.iter().filter(|m| m.state != member::AWAY).count();
    let ready = |m: &&RotationMember| matches!(m.state.as_str(), member::DONE | member::LOADED);
    format!("{}/{running}", all.iter().filter(ready).count())
}

/// Whether somebody got further than it ever was. One that begins anew again and again, or comes and goes, does not.
pub fn moved(before: &[RotationMember], now: &[RotationMember]) -> bool {
    now.iter().any(|m| {
        let known = before.iter().find(|b| is_same(b, m));
        let loaded = |b: &RotationMember| m.state == member::LOADED && b.state != m.state;
        known.is_some_and(|b| loaded(b) || m.percent > b.percent)
    })
}

/// As many as a status has room for: those that are done are left out first.
pub fn bounded(all: &[RotationMember]) -> Vec<RotationMember> {
    let mut kept: Vec<_> = all.to_vec();
    kept.sort_by_key(|m| (m.state == member::DONE, m.pod.clone()));
    kept.truncate(MAX_ROTATION_MEMBERS);
    kept.sort_by(|a, b| a.pod.cmp(&b.pod));
    kept
}
