//! The next step of a rotation. Pure.

use codexstore_crds::CodexKeyRotationStatus;
use codexstore_crds::codex_key_rotation::{
    MAX_ROTATION_MEMBERS, RotationMember, member, phase, reason,
};
use codexstore_crds::rotation::Mode;
use codexstore_crds::status::first_few;

use super::super::keyring::{Facts, MAX_KEYS};

/// Members that are named one by one.
const NAMED: usize = 5;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Put a key of this id into the keyring.
    Add(String),
    /// Be in this phase, and look again later.
    Wait {
        /// The phase.
        phase: &'static str,
        /// Who is waited for; none where nobody is.
        message: Option<String>,
    },
    /// Make another key current.
    Promote {
        /// The one that is.
        from: String,
        /// The one that is to be.
        to: String,
    },
    /// All is done.
    Complete,
    /// Give up, for this reason, which is in words too.
    Fail(&'static str, String),
}

/// What is known of a rotation.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Its status. It has chosen its key.
    pub status: &'a CodexKeyRotationStatus,
    /// Whether somebody may have seen a key: a deadline that passes ends the waiting then, and not the rotation.
    pub compromise: bool,
    /// The keyring.
    pub facts: &'a Facts,
    /// How far members are.
    pub members: &'a [RotationMember],
    /// How long is waited while nobody gets further, in seconds.
    pub deadline: i64,
}

impl Known<'_> {
    /// The next step, `now` in seconds since 1970.
    ///
    /// Members that do not run hold nothing up: they open their store with the keyring as it is then.
    pub fn next(&self, now: i64) -> Step {
        let from = self.status.from.clone().unwrap_or_default();
        let to = self.status.to.clone().unwrap_or_default();
        if self.facts.current == to {
            return self.rewrite(now);
        }
        if self.facts.current != from {
            let what = format!(
                "somebody else made {} the current key meanwhile",
                self.facts.current
            );
            return Step::Fail(reason::CURRENT_KEY_CHANGED, what);
        }
        if !self.facts.ids.contains(&to) {
            if self.facts.ids.len() >= MAX_KEYS {
                let what = format!(
                    "the keyring has {MAX_KEYS} keys, and members take no more: delete those that nothing needs, or let `retire: Unneeded` do it"
                );
                return Step::Fail(reason::KEYRING_FULL, what);
            }
            return Step::Add(to);
        }
        let missing = self.in_states(&[member::LOADING, member::UNREACHABLE]);
        let what = format!("they have loaded the new key: {}", named(&missing));
        if missing.is_empty() || (self.compromise && self.expired(now)) {
            if self.is_in(phase::PROMOTING) {
                return Step::Promote { from, to };
            }
            let without = format!(
                "the deadline has passed: the new key becomes current without waiting until {what}"
            );
            return Step::Wait {
                phase: phase::PROMOTING,
                message: (!missing.is_empty()).then_some(without),
            };
        }
        self.wait(phase::DISTRIBUTING, &what, now)
    }

    /// The new key is current.
    fn rewrite(&self, now: i64) -> Step {
        // Only a key of the user's is current before members that run have loaded it.
        let loading = self.in_states(&[member::LOADING]);
        let begun = self.is_in(phase::REWRITING) || self.is_in(phase::VERIFYING);
        let missing = self.in_states(&[
            member::LOADING,
            member::REWRITING,
            member::UNREACHABLE,
            member::FAILED,
        ]);
        let reencrypts = self.status.mode == Some(Mode::Reencrypt);
        let what = if reencrypts {
            "what they hold is encrypted anew"
        } else {
            "their data keys are wrapped with the new key"
        };
        let (phase, what) = if loading.is_empty() || begun {
            (phase::REWRITING, format!("{what}: {}", named(&missing)))
        } else {
            let what = format!("they have loaded the new key: {}", named(&loading));
            (phase::DISTRIBUTING, what)
        };
        if self.status.promoted_at.is_none() {
            // The deadline counts from here.
            return Step::Wait {
                phase,
                message: (!missing.is_empty()).then(|| format!("waiting until {what}")),
            };
        }
        // Who is not reached in time is taken for one that is down.
        let lost = self.compromise
            && self.expired(now)
            && missing.iter().all(|m| m.state == member::UNREACHABLE);
        if !missing.is_empty() && !lost {
            return self.wait(phase, &what, now);
        }
        let left = self.members.iter().filter(|m| m.state != member::DONE);
        let left = left.count();
        if reencrypts && left > MAX_ROTATION_MEMBERS {
            let what = format!(
                "fewer than {MAX_ROTATION_MEMBERS} members are down, since no more can be kept in mind: {left}"
            );
            return self.wait(phase::REWRITING, &what, now);
        }
        if self.is_in(phase::VERIFYING) {
            return Step::Complete;
        }
        // Not over yet: whoever runs by then is listed, and asked.
        Step::Wait {
            phase: phase::VERIFYING,
            message: None,
        }
    }

    fn wait(&self, phase: &'static str, what: &str, now: i64) -> Step {
        if self.expired(now) {
            return Step::Fail(reason::DEADLINE_EXCEEDED, self.given_up(what));
        }
        Step::Wait {
            phase,
            message: Some(format!("waiting until {what}")),
        }
    }

    /// That this was waited for in vain.
    pub fn given_up(&self, what: &str) -> String {
        let deadline = self.deadline;
        format!("given up after {deadline} s of waiting until {what}")
    }

    /// Whether a keyring that still cannot be changed is waited for no more. After a compromise it is changed when the deadline has passed:
    /// as long again is left for that.
    pub fn is_stuck(&self, now: i64) -> bool {
        self.waited(now) > self.deadline.saturating_mul(1 + i64::from(self.compromise))
    }

    /// Whether it was waited for longer than the deadline.
    fn expired(&self, now: i64) -> bool {
        self.waited(now) > self.deadline
    }

    /// How long it was waited for, in seconds.
    fn waited(&self, now: i64) -> i64 {
        now - self.status.waits_since().unwrap_or(now)
    }

    fn is_in(&self, phase: &str) -> bool {
        self.status.phase.as_deref() == Some(phase)
    }

    fn in_states(&self, states: &[&str]) -> Vec<&RotationMember> {
        let wanted = |m: &&RotationMember| states.contains(&m.state.as_str());
        self.members.iter().filter(wanted).collect()
    }
}

/// The first few, each with what is in the way.
pub fn named(members: &[&RotationMember]) -> String {
    let one = |m: &&RotationMember| match &m.message {
        Some(why) => format!("{} ({why})", m.pod),
        None => m.pod.clone(),
    };
    first_few(members.iter().map(one), members.len(), NAMED)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
