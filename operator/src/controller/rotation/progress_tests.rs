//! How far each member is, by what it says.

use super::*;

#[test]
fn a_member_encrypts_anew_once_it_needs_the_new_key_only_and_is_done_when_it_says_so() {
    let both = ["new", "old"];
    let promoted = facts("new", &both);
    let status = rotation(phase::REWRITING, Mode::Reencrypt);
    let ready = |needed| says("web-0", State::Ready, &both, &[needed]);
    let running = ReencryptionState::Running;
    let check = |of: Member, state: &str, message: Option<&str>| {
        let all = seen(&status, &promoted, &store(), &[of], &[]);
        assert_eq!(
            (all[0].state.as_str(), all[0].message.as_deref()),
            (state, message)
        );
    };
    check(ready("old"), "Rewriting", None);
    check(ready("new"), "Rewriting", None);
    check(
        anew(ready("new"), "another", ReencryptionState::Done, (9, 9)),
        "Rewriting",
        None,
    );
    let percent = Some("30 % encrypted anew");
    check(
        anew(ready("new"), "uid", running, (39, 100)),
        "Rewriting",
        percent,
    );
    let none = Some("0 % encrypted anew");
    check(
        anew(ready("new"), "uid", running, (0, 0)),
        "Rewriting",
        none,
    );
    check(
        anew(ready("new"), "uid", ReencryptionState::Failed, (0, 9)),
        "Failed",
        Some("no room"),
    );
    check(
        anew(ready("new"), "uid", ReencryptionState::Done, (9, 9)),
        "Done",
        None,
    );
    // A restored backup may need the old key again.
    check(
        anew(ready("old"), "uid", ReencryptionState::Done, (9, 9)),
        "Rewriting",
        None,
    );
}

#[test]
fn what_is_on_record_as_done_stays_done_where_the_data_is_the_same() {
    let both = ["new", "old"];
    let promoted = facts("new", &both);
    let done = |pod: &str, pod_uid: Option<&str>| RotationMember {
        pod: pod.to_owned(),
        pod_uid: pod_uid.map(str::to_owned),
        state: member::DONE.to_owned(),
        ..RotationMember::default()
    };
    let forgot = || says("web-0", State::Ready, &both, &["new"]);
    let mut status = rotation(phase::REWRITING, Mode::Reencrypt);
    // On a claim: whichever pod has it.
    status.members = vec![done("web-0", None), done("web-1", None)];
    let lasting = claim_store("1Gi");
    let claims = ["web-0", "web-1", "web-2"];
    let again = made_for(&lasting, forgot());
    let all = seen(&status, &promoted, &lasting, &[again], &claims);
    assert_eq!(states(&all), ["web-0=Done", "web-1=Done", "web-2=Away"]);
    assert_eq!(progress::ready(&all), "2/2");
    let all = seen(
        &status,
        &promoted,
        &lasting,
        &[made_for(&lasting, frozen("web-0"))],
        &claims[..1],
    );
    assert_eq!(states(&all), ["web-0=Done"]);
    // In a pod: its own.
    status.members = vec![done("web-0", Some("web-0-uid"))];
    let all = seen(&status, &promoted, &store(), &[forgot()], &[]);
    assert_eq!(states(&all), ["web-0=Done"]);
    status.members = vec![done("web-0", Some("an-older-uid"))];
    let all = seen(&status, &promoted, &store(), &[forgot()], &[]);
    assert_eq!(states(&all), ["web-0=Rewriting"]);
}

/// A store that was deleted, and made again under its name with volumes of another kind.
#[test]
fn a_claim_is_not_done_because_a_member_of_its_name_is() {
    let both = ["new", "old"];
    let promoted = facts("new", &both);
    let ready = || says("web-0", State::Ready, &both, &["new"]);
    let done = || anew(ready(), "uid", ReencryptionState::Done, (9, 9));
    let mut status = rotation(phase::REWRITING, Mode::Reencrypt);
    let all = seen(&status, &promoted, &store(), &[ready()], &["web-0"]);
    assert_eq!(states(&all), ["web-0=Rewriting"], "it is waited for");
    let all = seen(&status, &promoted, &store(), &[done()], &["web-0"]);
    assert_eq!(states(&all), ["web-0=Away"]);
    let why = all[0].message.as_deref().unwrap_or_default();
    assert!(why.contains("claim cxs-orders-web-0"), "{why}");
    // One of each name: by the UID of a pod that may be made anew the claim would be lost.
    assert_eq!(all[0].pod_uid, None);
    let claims = claim_store("1Gi");
    let of = made_for(&claims, done());
    let all = seen(&status, &promoted, &claims, &[of], &["web-0"]);
    assert_eq!(states(&all), ["web-0=Done"]);
    // What the claim holds was encrypted anew before: what the member holds need not have been.
    status.members = vec![RotationMember {
        pod: "web-0".to_owned(),
        state: member::DONE.to_owned(),
        ..RotationMember::default()
    }];
    let all = seen(&status, &promoted, &store(), &[ready()], &["web-0"]);
    assert_eq!(states(&all), ["web-0=Rewriting"]);
    let all = seen(&status, &promoted, &store(), &[done()], &["web-0"]);
    assert_eq!(states(&all), ["web-0=Done"]);
}

#[test]
fn a_member_that_still_encrypts_anew_for_another_rotation_says_so() {
    let both = ["new", "old"];
    let status = rotation(phase::REWRITING, Mode::Reencrypt);
    let ready = says("web-0", State::Ready, &both, &["new"]);
    let busy = anew(ready, "another", ReencryptionState::Running, (7, 10));
    let message = waits(
        step(&status, &facts("new", &both), &[busy], 1000),
        "Rewriting",
    );
    assert!(
        message.contains("web-0 (70 % encrypted anew for another rotation"),
        "{message}"
    );
}

#[test]
fn of_very_many_members_those_that_are_not_done_are_listed() {
    let one = |n: usize| RotationMember {
        pod: format!("web-{n:04}"),
        state: if n == 600 { "Away" } else { "Done" }.to_owned(),
        ..RotationMember::default()
    };
    let all: Vec<_> = (0..=600).map(one).collect();
    let kept = progress::bounded(&all);
    assert_eq!(kept.len(), MAX_ROTATION_MEMBERS);
    assert!(kept.iter().any(|m| m.state == "Away"));
    assert!(kept.is_sorted_by(|a, b| a.pod < b.pod));
    // More than can be kept in mind hold it up.
    let away = |n: usize| RotationMember {
        state: "Away".to_owned(),
        ..one(n)
    };
    let all: Vec<_> = (0..=MAX_ROTATION_MEMBERS).map(away).collect();
    let status = rotation(phase::VERIFYING, Mode::Reencrypt);
    let facts = facts("new", &["new", "old"]);
    let known = Known {
        status: &status,
        compromise: false,
        facts: &facts,
        members: &all,
        deadline: 60,
    };
    waits(known.next(1000), "Rewriting");
    let known = Known {
        members: &all[1..],
        ..known
    };
    assert_eq!(known.next(1000), Step::Complete);
}

#[test]
fn a_sidecar_that_cannot_say_what_it_needs_is_not_taken_for_done() {
    let mut old = says("web-0", State::Ready, &["new", "old"], &[]);
    if let Some(Ok(status)) = &mut old.answer {
        status.needed_key_ids = None;
    }
    let status = rotation(phase::REWRITING, Mode::Rewrap);
    let step = step(&status, &facts("new", &["new", "old"]), &[old], 1000);
    let message = waits(step, "Rewriting");
    assert!(message.contains("make the pod anew"), "{message}");
}
