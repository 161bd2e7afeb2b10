use codexstore_crds::CodexStore;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use super::*;
use crate::controller::fixtures;

fn store() -> CodexStore {
    let mut store = fixtures::store();
    store.spec.encryption =
        serde_json::from_value(json!({"keys": {"secretRef": {"name": "mine"}}})).unwrap();
    store
}

fn secret(uid: &str, current: &str, ids: &[&str]) -> Secret {
    let mut data: std::collections::BTreeMap<_, _> = ids
        .iter()
        .map(|id| ((*id).to_owned(), ByteString(vec![7; 32])))
        .collect();
    data.insert("current".to_owned(), ByteString(current.into()));
    // Nothing of ours is on it.
    let mut secret = Secret {
        data: Some(data),
        ..Secret::default()
    };
    secret.metadata.name = Some("mine".to_owned());
    secret.metadata.uid = Some(uid.to_owned());
    secret
}

fn record(uid: &str, ids: &[&str]) -> ConfigMap {
    let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
    desired::keyring_record(&store(), uid, &ids, "2026-01-01T00:00:00Z")
}

fn check(secret: Option<Secret>, record: Option<ConfigMap>) -> Plan {
    let seen = Seen {
        secret,
        record,
        holders: Vec::new(),
    };
    plan(&store(), &seen)
}

#[track_caller]
fn broken(plan: Plan, reason: &str, words: &[&str]) {
    let Plan::Broken(problem) = plan else {
        panic!("{plan:?}");
    };
    assert_eq!(problem.reason, reason, "{}", problem.message);
    for words in words {
        assert!(
            problem.message.contains(words),
            "`{words}` is not in {}",
            problem.message
        );
    }
}

#[test]
fn a_secret_that_is_not_there_is_asked_for_and_never_made() {
    let create = ["Secret mine", "codexctl key new --secret mine"];
    broken(check(None, None), "SecretMissing", &create);
    let back = ["Secret mine is gone", "(a, b)", "put it back"];
    broken(
        check(None, Some(record("u", &["a", "b"]))),
        "SecretMissing",
        &back,
    );
}

#[test]
fn a_secret_is_taken_without_any_label_of_ours_and_followed() {
    let first = check(Some(secret("u", "a", &["a"])), None);
    assert!(matches!(first, Plan::Record(facts, Happened::Adopted) if facts.current == "a"));
    let same = check(Some(secret("u", "a", &["a"])), Some(record("u", &["a"])));
    assert!(matches!(same, Plan::Steady(facts) if facts.lost.is_empty()));
    let another = check(
        Some(secret("u", "b", &["a", "b"])),
        Some(record("u", &["a"])),
    );
    assert!(matches!(another, Plan::Update(facts, Happened::Nothing) if facts.current == "b"));
    let again = check(Some(secret("new", "a", &["a"])), Some(record("u", &["a"])));
    assert!(matches!(again, Plan::Update(facts, Happened::Adopted) if facts.secret_uid == "new"));
}

#[test]
fn keys_that_were_taken_out_are_noted_and_stay_on_record() {
    let seen = record("u", &["a", "b"]);
    let Plan::Steady(facts) = check(Some(secret("u", "b", &["b"])), Some(seen)) else {
        panic!("whether that is a problem is not known yet");
    };
    assert_eq!(facts.lost, ["a"]);
    let Plan::Update(facts, _) = check(
        Some(secret("u", "c", &["c"])),
        Some(record("u", &["b", "a"])),
    ) else {
        panic!("c is new");
    };
    assert_eq!(facts.lost, ["b", "a"]);
    assert_eq!(facts.on_record(), ["a", "b", "c"]);
}

#[test]
fn a_half_written_or_emptied_secret_is_told_without_its_content() {
    let known = || Some(record("u", &["a"]));
    let half = secret("u", "next", &["a"]);
    broken(
        check(Some(half.clone()), known()),
        "KeyMalformed",
        &["does not name one of its keys", "Members that run go on"],
    );
    broken(check(Some(half), None), "KeyMalformed", &["Secret mine"]);
    for data in [None, Some(std::collections::BTreeMap::new())] {
        let mut emptied = secret("u", "a", &["a"]);
        emptied.data = data;
        broken(
            check(Some(emptied), known()),
            "KeyMalformed",
            &["`current` is missing"],
        );
    }
    for (id, bytes, words) in [
        (
            "b",
            b"canary".to_vec(),
            "has 6 bytes instead of 16, 24 or 32",
        ),
        (
            &*"canary".repeat(11),
            vec![7; 32],
            "more than 64 characters",
        ),
    ] {
        let mut spoiled = secret("u", "a", &["a"]);
        spoiled
            .data
            .as_mut()
            .unwrap()
            .insert(id.to_owned(), ByteString(bytes));
        let plan = check(Some(spoiled), known());
        assert!(!format!("{plan:?}").contains("canary"), "{plan:?}");
        broken(plan, "KeyMalformed", &[words]);
    }
    // What the sidecar does not take for a key either.
    let mut hidden = secret("u", "a", &["a"]);
    hidden
        .data
        .as_mut()
        .unwrap()
        .insert(".note".to_owned(), ByteString(b"x".to_vec()));
    assert!(matches!(check(Some(hidden), known()), Plan::Steady(_)));
}

#[test]
fn a_passphrase_is_looked_at_by_its_length_alone_which_is_not_told() {
    let mut store = fixtures::store();
    let keys = json!({"keys": {"passphraseRef": {"name": "mine"}}});
    store.spec.encryption = serde_json::from_value(keys).unwrap();
    let check = |entries: &[(&str, &[u8])], known: bool| {
        let mut secret = secret("u", "a", &[]);
        let entries = entries.iter();
        let entries = entries.map(|(id, text)| ((*id).to_owned(), ByteString(text.to_vec())));
        secret.data = Some(entries.collect());
        let seen = Seen {
            secret: Some(secret),
            record: known.then(|| record("u", &[])),
            holders: Vec::new(),
        };
        plan(&store, &seen)
    };
    // What else is in the Secret does not matter.
    let good = [("passphrase", &b"twelve bytes\n"[..]), ("user", b"me")];
    let first = check(&good, false);
    assert!(
        matches!(first, Plan::Record(facts, _) if facts.current == "passphrase" && facts.ids.is_empty())
    );
    assert!(matches!(check(&good, true), Plan::Steady(_)));
    for text in [&b"eleven byte"[..], b"eleven byte\r\n", &[b'x'; 1025]] {
        broken(
            check(&[("passphrase", text)], true),
            "KeyMalformed",
            &["holds no passphrase", "12 to 1024 bytes"],
        );
    }
    broken(
        check(&[("words", b"twelve bytes")], true),
        "KeyMalformed",
        &["the entry `passphrase` is missing"],
    );
    let seen = Seen::default();
    broken(
        plan(&store, &seen),
        "SecretMissing",
        &["kubectl create secret generic mine --from-file=passphrase=FILE"],
    );
}

#[test]
fn a_record_that_is_somebody_elses_is_left_alone() {
    let mut foreign = record("u", &["a"]);
    foreign.metadata.labels = None;
    broken(
        check(Some(secret("u", "a", &["a"])), Some(foreign)),
        "ForeignObject",
        &["ConfigMap cxs-orders-keyring"],
    );
}

#[test]
fn what_needs_a_missing_key_is_named_and_cut() {
    let needs: Vec<_> = (0..9).map(|n| format!("pod web-{n}")).collect();
    let plan = check(
        Some(secret("u", "b", &["b"])),
        Some(record("u", &["a", "b"])),
    );
    let Plan::Steady(facts) = plan else {
        panic!("{plan:?}");
    };
    let problem = missing(&store(), &facts, &[("a".to_owned(), needs)]);
    broken(
        Plan::Broken(problem),
        "KeyMissing",
        &[
            "a (pod web-0, pod web-1, pod web-2, …)",
            "current key is b",
            "delete the ConfigMap cxs-orders-keyring",
        ],
    );
}
