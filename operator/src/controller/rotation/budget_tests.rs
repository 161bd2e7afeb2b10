use std::sync::Arc;

use codexstore_api::Status;
use codexstore_api::status::State;

use super::super::super::fixtures::{claim_store, pod};
use super::super::super::kept::Kept;
use super::*;

fn member(pod_name: &str, epoch: u64, logs: u64, wraps: Option<u64>, key: &str) -> Member {
    let status = Status {
        state: State::Ready,
        lineage: "1".to_owned(),
        epoch,
        log_number: logs,
        key_wraps: wraps,
        key_id: key.to_owned(),
        ..Status::default()
    };
    Member {
        pod: Arc::new(pod(pod_name)),
        answer: Some(Ok(status)),
    }
}

/// What the status has after it was counted, and the messages of `a` and `b`.
fn after(before: &CodexStoreStatus, members: &[Member]) -> (CodexStoreStatus, i64, i64) {
    let store = claim_store("1Gi");
    let places = Places {
        store: &store,
        pod_volumes: false,
        members,
        claims: &[],
        backups: &[],
        restores: &[],
        kept: &Kept::default(),
        archive: None,
    };
    let counted = count(Some(before), &places);
    let key = |id: &str, state: &str| KeyStatus {
        id: id.to_owned(),
        state: state.to_owned(),
        ..KeyStatus::default()
    };
    let mut keys = vec![key("a", "Retiring"), key("b", "Active")];
    counted.show(&mut keys, &BTreeMap::new());
    let messages = |n: usize| keys[n].messages.unwrap_or(0);
    let counts = (messages(0), messages(1));
    let status = CodexStoreStatus {
        encryption_keys: keys,
        key_uses: counted.uses,
        ..CodexStoreStatus::default()
    };
    (status, counts.0, counts.1)
}

#[test]
fn a_look_counts_on_from_the_one_before_and_never_back() {
    let none = CodexStoreStatus::default();
    // A store that is there already: each of its log files, an image with each, and what it says.
    let (first, a, b) = after(&none, &[member("web-0", 1, 10, Some(4), "a")]);
    assert_eq!((a, b), (24, 0));
    let (again, a, _) = after(&first, &[member("web-0", 1, 10, Some(4), "a")]);
    assert_eq!(a, 24, "the same look twice");
    assert_eq!(again, first);
    let (more, a, _) = after(&first, &[member("web-0", 1, 12, Some(9), "a")]);
    assert_eq!(a, 29);
    // Started anew: what it did unseen is in its log files.
    let (anew, a, _) = after(&more, &[member("web-0", 2, 15, Some(2), "a")]);
    assert_eq!(a, 29 + 2 * 3 + 2);
    // Another volume under its name, where numbers are lower.
    let (other, a, _) = after(&anew, &[member("web-0", 1, 2, Some(1), "a")]);
    assert_eq!(a, 37 + 5);
    // Another key: which of the two it was since the last look is not known.
    let (_, a, b) = after(&other, &[member("web-0", 1, 2, Some(7), "b")]);
    assert_eq!((a, b), (42 + 6, 6));
}

#[test]
fn members_add_up_and_one_that_is_silent_is_counted_when_it_is_back() {
    let none = CodexStoreStatus::default();
    let both = [
        member("web-0", 1, 1, Some(1), "a"),
        member("web-1", 1, 1, Some(1), "a"),
    ];
    let (first, a, _) = after(&none, &both);
    assert_eq!(a, 6);
    let mut silent = member("web-1", 1, 1, Some(1), "a");
    silent.answer = None;
    let (second, a, _) = after(&first, &[member("web-0", 1, 1, Some(1), "a"), silent]);
    assert_eq!((a, second.key_uses.len()), (6, 2));
    let (_, a, _) = after(&second, &[member("web-1", 1, 1, Some(5), "a")]);
    assert_eq!(a, 10);
    // An earlier sidecar does not say it, and one that is not open has no key.
    let (_, a, _) = after(&none, &[member("web-0", 1, 1, None, "a")]);
    assert_eq!(a, 0);
}

#[test]
fn members_beyond_those_that_are_kept_count_as_much_as_any() {
    let uses = (0..MAX_MEMBERS).map(|n| KeyUse {
        pod: format!("web-{n}"),
        lineage: "1".to_owned(),
        epoch: 1,
        logs: 1,
        wraps: 1,
        key_id: "a".to_owned(),
    });
    let before = CodexStoreStatus {
        key_uses: uses.collect(),
        ..CodexStoreStatus::default()
    };
    let mut members: Vec<_> = (0..MAX_MEMBERS)
        .map(|n| member(&format!("web-{n}"), 1, 1, Some(1), "a"))
        .collect();
    members[3] = member("web-3", 1, 1, Some(8), "a");
    members.push(member("more", 1, 9, Some(9), "a"));
    let (status, a, _) = after(&before, &members);
    assert_eq!((a, status.key_uses.len()), (14, MAX_MEMBERS));
}

#[test]
fn what_other_stores_wrote_with_the_same_key_adds_up() {
    let counted = Counted::default();
    let mut keys = vec![KeyStatus {
        id: "a".to_owned(),
        state: "Active".to_owned(),
        ..KeyStatus::default()
    }];
    counted.show(&mut keys, &BTreeMap::from([("a".to_owned(), WORN)]));
    assert_eq!(keys[0].max_messages, Some(MAX_KEY_MESSAGES));
    assert_eq!(of_current(&keys), WORN);
    let said = worn(&keys, "mine").unwrap().message;
    assert!(
        said.contains("Secret mine") && said.contains("put a new key"),
        "{said}"
    );
    counted.show(&mut keys, &BTreeMap::from([("a".to_owned(), WORN - 1)]));
    assert_eq!(worn(&keys, "mine"), None);
}

#[test]
fn the_name_is_that_of_an_object_whatever_the_key_is_called() {
    let name = name(&"s".repeat(40), "UPPER_case.", None);
    assert!(name.len() <= 63, "{name}");
    assert!(
        name.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    );
    let again = |last| super::name(&"s".repeat(40), "UPPER_case.", Some(last));
    assert_ne!(name, again(1));
    assert_ne!(again(1), again(2));
}
