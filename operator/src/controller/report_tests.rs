use codexstore_crds::status::EscrowStatus;

use super::*;
use crate::controller::escrow::Escrow;
use crate::controller::fixtures::{at, claim_store, store};
use crate::controller::keyring::Facts;

fn good() -> Keyring {
    Keyring::Ready(Facts {
        secret_uid: "secret-uid".into(),
        version: "1".into(),
        current: "20260101-abcd".into(),
        ids: vec!["20260101-abcd".into()],
        lost: Vec::new(),
        pod_volumes: false,
    })
}

fn member(pod: &str, state: &str) -> MemberStatus {
    MemberStatus {
        pod: pod.into(),
        ready: state == "Ready",
        state: Some(state.into()),
        message: (state != "Ready").then(|| format!("because of {state}")),
        ..MemberStatus::default()
    }
}

fn seen(keyring: &Keyring, members: Vec<MemberStatus>) -> Seen<'_> {
    Seen {
        keyring,
        escrow: Escrow::NotAskedFor,
        keys: crate::controller::rotation::Keys::default(),
        backups: crate::controller::schedule::Backups::default(),
        archive: None,
        members,
        problems: Vec::new(),
        waiting_for: Vec::new(),
    }
}

fn check(store: &CodexStore, members: Vec<MemberStatus>) -> CodexStoreStatus {
    status(store, seen(&good(), members), &at(1))
}

fn is(status: &CodexStoreStatus, type_: &str) -> (String, String) {
    let condition = status.condition(type_).unwrap();
    assert_eq!(condition.observed_generation, Some(1));
    (condition.status.clone(), condition.reason.clone())
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn a_store_with_all_members_ready_is_ready_or_ephemeral() {
    let members = || vec![member("a", "Ready"), member("b", "Ready")];
    let lasting = check(&claim_store("1Gi"), members());
    assert_eq!(lasting.phase.as_deref(), Some("Ready"));
    assert_eq!(lasting.ready.as_deref(), Some("2/2"));
    assert_eq!(lasting.key_id.as_deref(), Some("20260101-abcd"));
    assert_eq!(is(&lasting, "Ready"), pair("True", "AllMembersReady"));
    assert_eq!(is(&lasting, "Progressing"), pair("False", "Steady"));
    assert_eq!(is(&lasting, "Degraded"), pair("False", "AsExpected"));
    assert_eq!(is(&lasting, "KeysReady"), pair("True", "KeyringReady"));
    assert_eq!(
        check(&store(), members()).phase.as_deref(),
        Some("Ephemeral")
    );
}

#[test]
fn a_store_that_nobody_uses_is_ready_and_says_how_to_use_it() {
    let status = check(&store(), vec![]);
    assert_eq!(is(&status, "Ready"), pair("True", "NoMembers"));
    assert_eq!(status.ready.as_deref(), Some("0/0"));
}

#[test]
fn a_member_on_its_way_is_progress_and_a_failed_one_is_not() {
    let slow = check(
        &store(),
        vec![member("a", "Ready"), member("b", "Recovering")],
    );
    assert_eq!(slow.phase.as_deref(), Some("Progressing"));
    assert_eq!(is(&slow, "Ready"), pair("False", "WaitingForMembers"));
    assert_eq!(is(&slow, "Degraded"), pair("False", "AsExpected"));
    let failed = check(
        &store(),
        vec![member("a", "Ready"), member("b", "IntegrityError")],
    );
    assert_eq!(failed.phase.as_deref(), Some("Degraded"));
    assert_eq!(is(&failed, "Degraded"), pair("True", "MemberFailed"));
    assert!(
        failed
            .condition("Degraded")
            .unwrap()
            .message
            .contains("member b")
    );
}

#[test]
fn running_members_stay_ready_when_the_keyring_is_gone() {
    let mut store = store();
    store.status = Some(check(&store, vec![member("a", "Ready")]));
    let gone = Keyring::Broken(Problem::new(problem::SECRET_MISSING, "put it back"), None);
    let status = status(&store, seen(&gone, vec![member("a", "Ready")]), &at(5));
    assert_eq!(is(&status, "KeysReady"), pair("False", "SecretMissing"));
    assert_eq!(is(&status, "Degraded"), pair("True", "SecretMissing"));
    assert_eq!(is(&status, "Ready"), pair("True", "AllMembersReady"));
    assert_eq!(status.phase.as_deref(), Some("Degraded"));
    assert_eq!(
        status.keyring.as_ref().unwrap().secret_uid,
        "secret-uid",
        "the record was forgotten"
    );
    assert_eq!(
        status.condition("KeysReady").unwrap().message,
        "put it back"
    );
}

#[test]
fn outdated_members_are_counted_and_named() {
    let mut old = member("b", "Ready");
    old.outdated = true;
    let status = check(&store(), vec![member("a", "Ready"), old]);
    assert_eq!(is(&status, "Ready"), pair("True", "MembersOutdated"));
    assert_eq!(status.outdated_members, 1);
    assert!(status.condition("Ready").unwrap().message.ends_with(": b"));
}

#[test]
fn an_unreachable_member_degrades() {
    let mut away = member("a", members::UNREACHABLE);
    away.ready = true;
    let status = check(&store(), vec![away]);
    assert_eq!(is(&status, "Degraded"), pair("True", "MemberUnreachable"));
    assert_eq!(is(&status, "Ready"), pair("True", "AllMembersReady"));
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut store = store();
    store.status = Some(check(&store, vec![member("a", "Ready")]));
    let later = status(
        &store,
        seen(&good(), vec![member("a", "Ready"), member("b", "Ready")]),
        &at(9),
    );
    assert_eq!(
        later.condition("Ready").unwrap().last_transition_time,
        at(1)
    );
    store.status = Some(later);
    let worse = status(&store, seen(&good(), vec![member("a", "Pending")]), &at(20));
    assert_eq!(
        worse.condition("Ready").unwrap().last_transition_time,
        at(20)
    );
    assert_eq!(
        worse.condition("KeysReady").unwrap().last_transition_time,
        at(1)
    );
}

#[test]
fn the_same_sight_gives_the_same_status() {
    let mut store = store();
    let first = check(&store, vec![member("b", "Ready"), member("a", "Ready")]);
    store.status = Some(first.clone());
    let again = status(
        &store,
        seen(&good(), vec![member("a", "Ready"), member("b", "Ready")]),
        &at(99),
    );
    assert_eq!(
        first, again,
        "an unchanged status would be written again and again"
    );
}

#[test]
fn an_unencrypted_store_says_so() {
    let status = status(&store(), seen(&Keyring::NotEncrypted, vec![]), &at(1));
    assert_eq!(is(&status, "KeysReady"), pair("True", "NotEncrypted"));
    assert_eq!((status.key_id, status.keyring), (None, None));
}

#[test]
fn whether_the_keyring_is_escrowed_is_told_and_not_asking_for_it_is_no_fault() {
    let of = |escrow| {
        let keyring = good();
        let seen = Seen {
            escrow,
            ..seen(&keyring, vec![member("a", "Ready")])
        };
        status(&claim_store("1Gi"), seen, &at(1))
    };
    let none = of(Escrow::NotAskedFor);
    assert_eq!(is(&none, "KeyEscrowed"), pair("False", "NotAskedFor"));
    assert_eq!(is(&none, "Degraded"), pair("False", "AsExpected"));
    assert_eq!((none.phase.as_deref(), none.escrow), (Some("Ready"), None));

    let sealed = EscrowStatus {
        config_map_name: "cxs-orders-escrow".into(),
        recipients: 2,
        key_ids: vec!["k".into()],
        sealed_at: at(1),
    };
    let good = of(Escrow::Sealed(sealed.clone()));
    assert_eq!(is(&good, "KeyEscrowed"), pair("True", "Sealed"));
    assert_eq!(good.escrow, Some(sealed.clone()));

    let problem = Problem::new(problem::ESCROW_INVALID, "number 1 is none");
    let bad = of(Escrow::Failed(problem));
    assert_eq!(is(&bad, "KeyEscrowed"), pair("False", "EscrowInvalid"));
    assert_eq!(is(&bad, "Degraded"), pair("True", "EscrowInvalid"));

    // What was sealed stays known while there is nothing to seal.
    let mut store = claim_store("1Gi");
    store.status = Some(good);
    let keyring = Keyring::Pending;
    let seen = Seen {
        escrow: Escrow::NoKeyring,
        ..seen(&keyring, vec![member("a", "Ready")])
    };
    let waits = status(&store, seen, &at(2));
    assert_eq!(
        is(&waits, "KeyEscrowed"),
        pair("Unknown", "KeyringNotReady")
    );
    assert_eq!(waits.escrow, Some(sealed));

    let own = of(Escrow::NotOurs);
    assert_eq!(is(&own, "KeyEscrowed"), pair("False", "KeysOfYourOwn"));
    assert_eq!(is(&own, "Degraded"), pair("False", "AsExpected"));
    let plain = of(Escrow::NotEncrypted);
    assert!(plain.condition("KeyEscrowed").is_none());
}

#[test]
fn a_condition_says_whether_the_archive_is_current_where_there_is_to_be_one() {
    use codexstore_crds::archive::{Line, Record, judge};

    let store = claim_store("1Gi");
    let line = Line {
        pod: "web-0".into(),
        live: true,
        based: true,
        until_ms: Some(990_000),
        ..Line::default()
    };
    let record = Record {
        written_at: 1000,
        key_ids: Some(vec!["k".into()]),
        lines: vec![line],
        ..Record::default()
    };
    let keyring = good();
    let mut with = seen(&keyring, vec![member("web-0", "Ready")]);
    let policy = codexstore_crds::backup::Continuous::default();
    with.archive = Some(judge(&record, &policy, 0, 1001));
    let told = status(&store, with, &at(1));
    assert_eq!(is(&told, "ArchiveCurrent"), pair("True", "Current"));
    let archive = told.archive.clone().unwrap();
    assert_eq!(
        (archive.behind_seconds, archive.members.len()),
        (Some(10), 1)
    );
    // Where it is not asked for any more, nothing is left of it.
    let mut after = store.clone();
    after.status = Some(told);
    let told = status(
        &after,
        seen(&keyring, vec![member("web-0", "Ready")]),
        &at(2),
    );
    assert_eq!(told.condition("ArchiveCurrent"), None);
    assert_eq!(told.archive, None);
}
