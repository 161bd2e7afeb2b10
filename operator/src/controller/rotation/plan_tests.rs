//! What members say, and the step that follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codexstore_api::Status;
use codexstore_api::status::{Reencryption, ReencryptionState, State};
use codexstore_crds::{CodexStore, names};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use serde_json::json;

use super::super::super::fixtures::{at, claim_store, facts, pod, pod_of, store};
use super::super::super::kept::Kept;
use super::super::super::key_needs::Places;
use super::super::super::members::{Member, Unreachable};
use super::super::progress::{self, Question};
use super::*;

#[path = "progress_tests.rs"]
mod listed;

fn rotation(phase: &str, mode: Mode) -> CodexKeyRotationStatus {
    CodexKeyRotationStatus {
        phase: Some(phase.to_owned()),
        mode: Some(mode),
        from: Some("old".to_owned()),
        to: Some("new".to_owned()),
        started_at: Some(at(1000)),
        promoted_at: [phase::REWRITING, phase::VERIFYING]
            .contains(&phase)
            .then(|| at(1000)),
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

fn anew(mut of: Member, id: &str, state: ReencryptionState, bytes: (u64, u64)) -> Member {
    if let Some(Ok(status)) = &mut of.answer {
        status.reencryption = Some(Reencryption {
            id: id.to_owned(),
            state,
            done_bytes: bytes.0,
            total_bytes: bytes.1,
            message: (state == ReencryptionState::Failed).then(|| "no room".to_owned()),
            ..Reencryption::default()
        });
    }
    of
}

fn frozen(name: &str) -> Member {
    member(name, Some(Err(Unreachable("no answer".to_owned()))))
}

/// The same member in a pod that was made for this store.
fn made_for(store: &CodexStore, of: Member) -> Member {
    let pod = pod_of(store, &of.pod.name_any());
    Member {
        pod: Arc::new(pod),
        ..of
    }
}

/// How far members are, as `pod=state`.
fn seen(
    status: &CodexKeyRotationStatus,
    facts: &Facts,
    store: &CodexStore,
    members: &[Member],
    claims: &[&str],
) -> Vec<RotationMember> {
    let claim = |pod: &&str| {
        let claim = json!({"metadata": {"name": format!("cxs-orders-{pod}"), "annotations": {names::POD_ANNOTATION: pod}}});
        Arc::new(serde_json::from_value::<PersistentVolumeClaim>(claim).unwrap())
    };
    let claims: Vec<_> = claims.iter().map(claim).collect();
    let places = Places {
        store,
        pod_volumes: false,
        members,
        claims: &claims,
        backups: &[],
        restores: &[],
        kept: &Kept::default(),
        archive: None,
    };
    let question = Question {
        places: &places,
        status,
        key: "new",
        counts: &BTreeSet::from(["uid"]),
        refused: &BTreeMap::new(),
    };
    if facts.current == "new" {
        question.rewriting()
    } else {
        question.loading()
    }
}

fn step(status: &CodexKeyRotationStatus, facts: &Facts, members: &[Member], now: i64) -> Step {
    next(status, facts, members, now, false)
}

fn next(
    status: &CodexKeyRotationStatus,
    facts: &Facts,
    members: &[Member],
    now: i64,
    compromise: bool,
) -> Step {
    let members = seen(status, facts, &store(), members, &[]);
    Known {
        status,
        compromise,
        facts,
        members: &members,
        deadline: 60,
    }
    .next(now)
}

fn enters(phase: &'static str) -> Step {
    Step::Wait {
        phase,
        message: None,
    }
}

#[track_caller]
fn waits(step: Step, wanted: &str) -> String {
    match step {
        Step::Wait {
            phase,
            message: Some(message),
        } => {
            assert_eq!(phase, wanted, "{message}");
            message
        }
        other => panic!("nobody is waited for: {other:?}"),
    }
}

fn states(all: &[RotationMember]) -> Vec<String> {
    let one = |m: &RotationMember| format!("{}={}", m.pod, m.state);
    all.iter().map(one).collect()
}

#[test]
fn each_step_follows_from_what_is_there() {
    let both = ["new", "old"];
    let (added, promoted) = (facts("old", &both), facts("new", &both));
    let in_phase = |phase| rotation(phase, Mode::Rewrap);
    let adding = in_phase(phase::ADDING);
    assert_eq!(
        step(&adding, &facts("old", &["old"]), &[], 1000),
        Step::Add("new".to_owned())
    );
    assert_eq!(step(&adding, &added, &[], 1000), enters(phase::PROMOTING));
    let promote = Step::Promote {
        from: "old".to_owned(),
        to: "new".to_owned(),
    };
    let promoting = in_phase(phase::PROMOTING);
    assert_eq!(step(&promoting, &added, &[], 1000), promote, "nobody runs");
    let members = [
        says("web-0", State::Ready, &both, &["old"]),
        says("web-1", State::Ready, &["old"], &["old"]),
        says("web-2", State::KeyError, &[], &[]),
        member("web-3", None),
    ];
    let message = waits(step(&promoting, &added, &members, 1060), "Distributing");
    assert!(message.ends_with(": web-1"), "{message}");
    let all = seen(&adding, &added, &store(), &members, &[]);
    assert_eq!(
        states(&all),
        ["web-0=Loaded", "web-1=Loading", "web-2=Away"]
    );
    assert_eq!(progress::ready(&all), "1/2");
    let loaded = [says("web-1", State::Ready, &both, &["old"])];
    assert_eq!(step(&promoting, &added, &loaded, 1000), promote);

    let rewriting = in_phase(phase::REWRITING);
    let message = waits(step(&rewriting, &promoted, &members, 1000), "Rewriting");
    assert!(message.ends_with(": web-0, web-1"), "{message}");
    let done = [
        says("web-0", State::Ready, &both, &["new"]),
        says("web-2", State::IoError, &[], &[]),
    ];
    assert_eq!(
        step(&promoting, &promoted, &done, 9000),
        enters(phase::REWRITING)
    );
    assert_eq!(
        step(&rewriting, &promoted, &done, 9000),
        enters(phase::VERIFYING)
    );
    let verifying = in_phase(phase::VERIFYING);
    assert_eq!(step(&verifying, &promoted, &done, 9000), Step::Complete);
    // One that came meanwhile.
    let message = waits(step(&verifying, &promoted, &members, 1000), "Rewriting");
    assert!(message.contains("web-0"), "{message}");
}

#[test]
fn who_does_not_answer_is_named_and_waited_for_until_the_deadline() {
    let added = facts("old", &["new", "old"]);
    let status = rotation(phase::DISTRIBUTING, Mode::Rewrap);
    let message = waits(
        step(&status, &added, &[frozen("web-0")], 1060),
        "Distributing",
    );
    assert!(message.contains("web-0 (no answer)"), "{message}");
    let Step::Fail(reason, why) = step(&status, &added, &[frozen("web-0")], 1061) else {
        panic!("the deadline has passed");
    };
    assert_eq!(reason, "DeadlineExceeded");
    assert!(why.contains("after 60 s") && why.contains("web-0"), "{why}");
    // What takes as long as there is data counts from where somebody last got further.
    let promoted = facts("new", &["new", "old"]);
    let mut moved = rotation(phase::REWRITING, Mode::Rewrap);
    moved.progress_at = Some(at(1050));
    waits(
        step(&moved, &promoted, &[frozen("web-0")], 1110),
        "Rewriting",
    );
    let late = step(&moved, &promoted, &[frozen("web-0")], 1111);
    assert!(
        matches!(late, Step::Fail("DeadlineExceeded", _)),
        "{late:?}"
    );
    let mut ending = pod("web-0");
    ending.metadata.deletion_timestamp = Some(at(1000));
    let ending = Member {
        pod: Arc::new(ending),
        answer: Some(Err(Unreachable(String::new()))),
    };
    assert_eq!(
        step(&status, &added, &[ending], 1000),
        enters(phase::PROMOTING)
    );
}

#[test]
fn after_a_compromise_a_deadline_ends_the_waiting_and_not_the_rotation() {
    let both = ["new", "old"];
    let (added, promoted) = (facts("old", &both), facts("new", &both));
    let mut status = rotation(phase::DISTRIBUTING, Mode::Reencrypt);
    let members = [
        frozen("web-0"),
        says("web-1", State::Ready, &["old"], &["old"]),
    ];
    waits(next(&status, &added, &members, 1060, true), "Distributing");
    let message = waits(next(&status, &added, &members, 1061, true), "Promoting");
    assert!(
        message.contains("deadline has passed") && message.contains("web-0 (no answer), web-1"),
        "{message}"
    );
    status.phase = Some(phase::PROMOTING.to_owned());
    let step = next(&status, &added, &members, 1062, true);
    assert!(matches!(step, Step::Promote { .. }), "{step:?}");
    // Back before that: it is waited for again.
    let back = [says("web-0", State::Ready, &both, &["old"])];
    assert!(matches!(
        next(&status, &added, &back, 1062, true),
        Step::Promote { .. }
    ));

    status.phase = Some(phase::REWRITING.to_owned());
    status.promoted_at = Some(at(1062));
    let done = says("web-1", State::Ready, &both, &["new"]);
    let done = anew(done, "uid", ReencryptionState::Done, (5, 5));
    let members = [frozen("web-0"), done];
    waits(next(&status, &promoted, &members, 1122, true), "Rewriting");
    assert_eq!(
        next(&status, &promoted, &members, 1123, true),
        enters(phase::VERIFYING)
    );
    status.phase = Some(phase::VERIFYING.to_owned());
    assert_eq!(
        next(&status, &promoted, &members, 1124, true),
        Step::Complete
    );
    // The first look at it begins anew to count.
    let late = CodexKeyRotationStatus {
        promoted_at: None,
        ..status.clone()
    };
    waits(next(&late, &promoted, &members, 9000, true), "Rewriting");
    // One that answers and does not get further is no member that is down.
    let stuck = [says("web-1", State::Ready, &both, &["old"])];
    assert!(matches!(
        next(&status, &promoted, &stuck, 1123, true),
        Step::Fail("DeadlineExceeded", _)
    ));
    assert!(matches!(
        next(&status, &promoted, &members, 1123, false),
        Step::Fail("DeadlineExceeded", _)
    ));
}

#[test]
fn only_who_gets_further_than_it_ever_was_moves_the_deadline() {
    let both = ["new", "old"];
    let promoted = facts("new", &both);
    let mut status = rotation(phase::REWRITING, Mode::Reencrypt);
    let percent = |percent| {
        let ready = says("web-0", State::Ready, &both, &["new"]);
        anew(ready, "uid", ReencryptionState::Running, (percent, 100))
    };
    let mut look = |of: Member, wanted: (&str, Option<i32>), further: bool| {
        let now = seen(&status, &promoted, &store(), &[of], &[]);
        let found = (now[0].state.as_str(), now[0].percent);
        assert_eq!(found, wanted);
        let moved = progress::moved(&status.members, &now);
        assert_eq!(moved, further, "{wanted:?}");
        status.members = now;
    };
    look(percent(0), ("Rewriting", Some(0)), false);
    look(percent(10), ("Rewriting", Some(10)), true);
    look(percent(19), ("Rewriting", Some(10)), false);
    look(percent(30), ("Rewriting", Some(30)), true);
    // It died, and begins anew; and it does not answer for a while.
    look(percent(0), ("Rewriting", Some(30)), false);
    look(percent(20), ("Rewriting", Some(30)), false);
    look(frozen("web-0"), ("Unreachable", Some(30)), false);
    look(percent(30), ("Rewriting", Some(30)), false);
    let other = anew(percent(0), "another", ReencryptionState::Running, (70, 100));
    look(other, ("Rewriting", Some(30)), false);
    look(percent(40), ("Rewriting", Some(40)), true);
    let done = anew(percent(0), "uid", ReencryptionState::Done, (1, 1));
    look(done, ("Done", Some(100)), true);
    look(percent(50), ("Rewriting", Some(100)), false);

    let listed = |state: &str| {
        vec![RotationMember {
            pod: "web-0".to_owned(),
            state: state.to_owned(),
            ..RotationMember::default()
        }]
    };
    let moved = progress::moved;
    assert!(moved(&listed("Loading"), &listed("Loaded")));
    assert!(!moved(&listed("Loaded"), &listed("Loaded")));
    assert!(!moved(&listed("Loading"), &listed("Unreachable")));
}

#[test]
fn a_keyring_that_is_full_gets_no_key_more() {
    let ids: Vec<_> = (1..MAX_KEYS).map(|n| format!("k{n:04}")).collect();
    let mut ids: Vec<_> = ids.iter().map(String::as_str).collect();
    ids.push("old");
    let status = rotation(phase::ADDING, Mode::Rewrap);
    let full = step(&status, &facts("old", &ids), &[], 1000);
    assert!(matches!(full, Step::Fail("KeyringFull", why) if why.contains("1024 keys")));
    let room = step(&status, &facts("old", &ids[1..]), &[], 1000);
    assert_eq!(room, Step::Add("new".to_owned()));
}

#[test]
fn a_keyring_that_cannot_be_changed_is_waited_for_until_the_deadline_and_twice_that_after_a_compromise()
 {
    let status = rotation(phase::ADDING, Mode::Rewrap);
    let facts = facts("old", &["old"]);
    let stuck = |compromise, now| {
        let known = Known {
            status: &status,
            compromise,
            facts: &facts,
            members: &[],
            deadline: 60,
        };
        assert_eq!(known.next(now), Step::Add("new".to_owned()), "it is tried");
        known.is_stuck(now)
    };
    assert!(!stuck(false, 1060) && stuck(false, 1061));
    assert!(!stuck(true, 1120) && stuck(true, 1121));
}

#[test]
fn a_key_that_somebody_else_made_current_ends_it() {
    let other = facts("other", &["new", "old", "other"]);
    let status = rotation(phase::DISTRIBUTING, Mode::Rewrap);
    let Step::Fail(reason, why) = step(&status, &other, &[], 1000) else {
        panic!("it was overtaken");
    };
    assert_eq!(reason, "CurrentKeyChanged");
    assert!(why.contains("other"), "{why}");
}

#[test]
fn a_key_of_the_users_is_current_before_members_have_loaded_it() {
    let both = ["new", "old"];
    let promoted = facts("new", &both);
    let mut mine = store();
    let keys = json!({"keys": {"secretRef": {"name": "mine"}}});
    mine.spec.encryption = serde_json::from_value(keys).unwrap();
    let done = says("web-1", State::Ready, &both, &["new"]);
    let members = [
        says("web-0", State::Ready, &["old"], &["old"]),
        anew(done, "uid", ReencryptionState::Done, (5, 5)),
    ];
    let mut status = rotation(phase::DISTRIBUTING, Mode::Reencrypt);
    status.promoted_at = Some(at(1000));
    let all = seen(&status, &promoted, &mine, &members, &[]);
    assert_eq!(states(&all), ["web-0=Loading", "web-1=Done"]);
    assert_eq!(progress::ready(&all), "1/2");
    let next = |status: &CodexKeyRotationStatus, now| {
        Known {
            status,
            compromise: false,
            facts: &promoted,
            members: &all,
            deadline: 60,
        }
        .next(now)
    };
    let message = waits(next(&status, 1060), "Distributing");
    assert!(
        message.ends_with("loaded the new key: web-0"),
        "who is done is not waited for: {message}"
    );
    let Step::Fail("DeadlineExceeded", why) = next(&status, 1061) else {
        panic!("the deadline has passed");
    };
    assert!(why.contains("loaded the new key: web-0"), "{why}");
    // One that comes later does not lead back.
    status.phase = Some(phase::REWRITING.to_owned());
    waits(next(&status, 1060), "Rewriting");
    // A key of ours is not current before that, or somebody decided not to wait.
    let ours = seen(&status, &promoted, &store(), &members, &[]);
    assert_eq!(states(&ours), ["web-0=Rewriting", "web-1=Done"]);
}
