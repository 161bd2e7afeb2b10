use ReencryptionState::{Done, Failed, Running};
use codexstore_crds::CodexKeyRotationSpec;
use serde_json::json;

use super::*;

#[test]
fn one_is_asked_once_and_after_a_failure_again_in_a_while() {
    let told = |id: &str, state| {
        Some(Reencryption {
            id: id.to_owned(),
            state,
            ..Reencryption::default()
        })
    };
    let now = Instant::now();
    let check = |known: Option<Reencryption>, asked: Option<u64>| {
        let asked = asked.map(|s| now.checked_sub(Duration::from_secs(s)).unwrap());
        is_due(known.as_ref(), "mine", asked, now)
    };
    assert!(check(None, None));
    assert!(check(None, Some(1)), "it was started anew since");
    assert!(check(told("another", Done), None));
    assert!(!check(told("another", Running), None), "it is busy");
    assert!(!check(told("mine", Running), None) && !check(told("mine", Done), None));
    assert!(!check(told("mine", Failed), Some(59)));
    assert!(check(told("mine", Failed), Some(60)));
    assert!(check(told("mine", Failed), None), "by another operator");
}

#[test]
fn a_later_rotation_counts_for_those_before_it() {
    let rotation = |uid: &str, promoted: Option<&str>| {
        let mut rotation = CodexKeyRotation::new(uid, CodexKeyRotationSpec::default());
        rotation.metadata.uid = Some(uid.to_owned());
        rotation.status = serde_json::from_value(json!({"promotedAt": promoted})).unwrap();
        Arc::new(rotation)
    };
    let all = [
        rotation("a", Some("2026-11-01T00:00:00Z")),
        rotation("b", Some("2026-11-02T00:00:00Z")),
        rotation("c", Some("2026-11-03T00:00:00Z")),
        rotation("d", None),
    ];
    let since = |n: usize| uids_since(&all, &all[n]).into_iter().collect::<Vec<_>>();
    assert_eq!(since(1), ["b", "c"]);
    assert_eq!(since(2), ["c"]);
}

#[test]
fn data_that_is_gone_is_waited_for_no_more() {
    let listed = |pod: &str, state: &str| RotationMember {
        pod: pod.to_owned(),
        state: state.to_owned(),
        ..RotationMember::default()
    };
    let before = [
        listed("web-0", "Done"),
        listed("web-1", "Away"),
        listed("web-2", "Unreachable"),
    ];
    let now = [listed("web-1", "Done")];
    let after = caught_up(&before, &now, false);
    assert_eq!(after, [listed("web-0", "Done"), listed("web-1", "Done")]);
    let after = caught_up(&before, &now, true);
    assert_eq!(
        after[2],
        listed("web-2", "Away"),
        "its volume may be anywhere"
    );
}

#[test]
fn a_claim_that_was_left_stays_so_whichever_pod_has_its_name() {
    let listed = |state: &str, pod_uid: Option<&str>| RotationMember {
        pod: "web-0".to_owned(),
        pod_uid: pod_uid.map(str::to_owned),
        state: state.to_owned(),
        ..RotationMember::default()
    };
    let check = |before: RotationMember, now: &[RotationMember], lasts, wanted: &[_]| {
        assert_eq!(caught_up(&[before], now, lasts), wanted);
    };
    let both = listed("Away", None);
    let of = |uid| listed("Rewriting", Some(uid));
    let after = std::slice::from_ref(&both);
    check(of("a"), after, false, after);
    check(both.clone(), &[of("b")], false, &[of("b")]);
    check(of("a"), &[of("b")], false, &[]);
    check(of("a"), &[of("b")], true, &[]);
}
