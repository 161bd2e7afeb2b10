//! The next step of a rotation. Pure.

use codexstore_crds::CodexKeyRotationStatus;
use codexstore_crds::codex_key_rotation::phase;
use kube::ResourceExt as _;

use super::super::key_needs::is_open;
use super::super::keyring::Facts;
use super::super::members::{self, Member};

/// Members that are named one by one.
const NAMED: usize = 5;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Put a key of this id into the keyring.
    Add(String),
    /// Look again later.
    Wait {
        /// The phase.
        phase: &'static str,
        /// Members that are done with it, of all that run.
        ready: String,
        /// Who is waited for.
        message: String,
    },
    /// Make another key current.
    Promote {
        /// The one that is.
        from: String,
        /// The one that is to be.
        to: String,
    },
    /// All is done.
    Complete {
        /// Members that are done, of all that run.
        ready: String,
    },
    /// Give up.
    Fail(String),
}

/// The next step of a rotation that has chosen its key, `now` in seconds since 1970.
///
/// Members that do not run hold nothing up: they open their store with the keyring as it is then.
pub fn plan(
    status: &CodexKeyRotationStatus,
    facts: &Facts,
    members: &[Member],
    deadline: i64,
    now: i64,
) -> Step {
    let from = status.from.clone().unwrap_or_default();
    let to = status.to.clone().unwrap_or_default();
    let running: Vec<_> = members
        .iter()
        .filter(|m| m.answer.is_some() && members::lives(&m.pod))
        .collect();
    let began = status.started_at.as_ref().map_or(now, |t| t.0.as_second());
    let wait =
        |phase, what: &str, done: &dyn Fn(&Member) -> bool, then: &dyn Fn(String) -> Step| {
            let missing: Vec<_> = running.iter().filter(|m| !done(m)).collect();
            let ready = format!("{}/{}", running.len() - missing.len(), running.len());
            if missing.is_empty() {
                return then(ready);
            }
            let shown = missing.iter().take(NAMED).map(|m| name_of(m));
            let mut waited_for = shown.collect::<Vec<_>>().join(", ");
            if missing.len() > NAMED {
                waited_for = format!("{waited_for} and {} more", missing.len() - NAMED);
            }
            if now - began > deadline {
                return Step::Fail(format!(
                    "given up after {deadline} s of waiting until {what}: {waited_for}"
                ));
            }
            Step::Wait {
                phase,
                ready,
                message: format!("waiting until {what}: {waited_for}"),
            }
        };
    if facts.current == to {
        let what = "their data keys are wrapped with the new key";
        return wait(phase::REWRITING, what, &|m| needs_only(m, &to), &|ready| {
            Step::Complete { ready }
        });
    }
    if facts.current != from {
        return Step::Fail(format!(
            "somebody else made {} the current key meanwhile",
            facts.current
        ));
    }
    if !facts.ids.contains(&to) {
        return Step::Add(to);
    }
    let what = "they have loaded the new key";
    wait(phase::DISTRIBUTING, what, &|m| has_loaded(m, &to), &|_| {
        Step::Promote {
            from: from.clone(),
            to: to.clone(),
        }
    })
}

/// A member that does not have its store open will load what is there when it opens it.
fn has_loaded(member: &Member, id: &str) -> bool {
    match &member.answer {
        Some(Ok(status)) => {
            !is_open(member) || status.loaded_key_ids.iter().any(|loaded| loaded == id)
        }
        _ => false,
    }
}

/// A member that does not have its store open catches up when it has.
fn needs_only(member: &Member, id: &str) -> bool {
    match &member.answer {
        Some(Ok(status)) => {
            let needed = status.needed_key_ids.as_ref();
            !is_open(member) || needed.is_some_and(|all| all.iter().all(|needed| needed == id))
        }
        _ => false,
    }
}

/// With what is in the way, where the member does not say.
fn name_of(member: &Member) -> String {
    let name = member.pod.name_any();
    match &member.answer {
        Some(Err(why)) => format!("{name} ({})", why.0),
        Some(Ok(status)) if is_open(member) && status.needed_key_ids.is_none() => {
            format!("{name} (its sidecar is of a version that cannot do that: make the pod anew)")
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use codexstore_api::Status;
    use codexstore_api::status::State;
    use k8s_openapi::jiff::Timestamp;

    use super::super::super::fixtures::{facts, pod};
    use super::super::super::members::Unreachable;
    use super::*;

    fn rotation() -> CodexKeyRotationStatus {
        CodexKeyRotationStatus {
            from: Some("old".to_owned()),
            to: Some("new".to_owned()),
            started_at: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                Timestamp::from_second(1000).unwrap(),
            )),
            ..CodexKeyRotationStatus::default()
        }
    }

    fn member(name: &str, answer: Option<Result<Status, Unreachable>>) -> Member {
        Member {
            pod: Arc::new(pod(name)),
            answer,
        }
    }

    fn says(name: &str, state: State, loaded: &[&str], needed: &[&str]) -> Member {
        let texts = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let status = Status {
            state,
            loaded_key_ids: texts(loaded),
            needed_key_ids: (state == State::Ready).then(|| texts(needed)),
            ..Status::default()
        };
        member(name, Some(Ok(status)))
    }

    fn step(facts: &Facts, members: &[Member], now: i64) -> Step {
        plan(&rotation(), facts, members, 60, now)
    }

    #[test]
    fn each_step_follows_from_what_is_there() {
        let both = ["new", "old"];
        let (added, promoted) = (facts("old", &both), facts("new", &both));
        assert_eq!(
            step(&facts("old", &["old"]), &[], 1000),
            Step::Add("new".to_owned())
        );
        let promote = Step::Promote {
            from: "old".to_owned(),
            to: "new".to_owned(),
        };
        assert_eq!(step(&added, &[], 1000), promote, "nobody runs");
        let members = [
            says("web-0", State::Ready, &both, &["old"]),
            says("web-1", State::Ready, &["old"], &["old"]),
            says("web-2", State::KeyError, &[], &[]),
            member("web-3", None),
        ];
        let Step::Wait {
            phase,
            ready,
            message,
        } = step(&added, &members, 1060)
        else {
            panic!("web-1 has not loaded it");
        };
        assert_eq!((phase, ready.as_str()), ("Distributing", "2/3"));
        assert!(message.ends_with(": web-1"), "{message}");
        assert_eq!(
            step(
                &added,
                &[says("web-1", State::Ready, &both, &["old"])],
                1000
            ),
            promote
        );

        let Step::Wait { phase, ready, .. } = step(&promoted, &members, 1000) else {
            panic!("two need the old key");
        };
        assert_eq!((phase, ready.as_str()), ("Rewriting", "1/3"));
        let done = [
            says("web-0", State::Ready, &both, &["new"]),
            says("web-2", State::IoError, &[], &[]),
        ];
        assert_eq!(
            step(&promoted, &done, 9000),
            Step::Complete {
                ready: "2/2".to_owned()
            }
        );
    }

    #[test]
    fn who_does_not_answer_is_named_and_waited_for_until_the_deadline() {
        let added = facts("old", &["new", "old"]);
        let frozen = || {
            [member(
                "web-0",
                Some(Err(Unreachable("no answer".to_owned()))),
            )]
        };
        let Step::Wait { message, .. } = step(&added, &frozen(), 1060) else {
            panic!("it is waited for");
        };
        assert!(message.contains("web-0 (no answer)"), "{message}");
        let Step::Fail(why) = step(&added, &frozen(), 1061) else {
            panic!("the deadline has passed");
        };
        assert!(why.contains("after 60 s") && why.contains("web-0"), "{why}");
        let mut ending = pod("web-0");
        ending.metadata.deletion_timestamp =
            Some(serde_json::from_value("2026-01-01T00:00:00Z".into()).unwrap());
        let ending = Member {
            pod: Arc::new(ending),
            answer: Some(Err(Unreachable(String::new()))),
        };
        assert!(matches!(
            step(&added, &[ending], 1000),
            Step::Promote { .. }
        ));
    }

    #[test]
    fn a_sidecar_that_cannot_say_what_it_needs_is_not_taken_for_done() {
        let mut old = says("web-0", State::Ready, &["new", "old"], &[]);
        if let Some(Ok(status)) = &mut old.answer {
            status.needed_key_ids = None;
        }
        let Step::Wait { message, .. } = step(&facts("new", &["new", "old"]), &[old], 1000) else {
            panic!("it may need the old key");
        };
        assert!(message.contains("make the pod anew"), "{message}");
    }

    #[test]
    fn a_key_that_somebody_else_made_current_ends_it() {
        let other = facts("other", &["new", "old", "other"]);
        let Step::Fail(why) = step(&other, &[], 1000) else {
            panic!("it was overtaken");
        };
        assert!(why.contains("other"), "{why}");
    }
}
