use super::*;
use crate::controller::fixtures::store;

fn secret(uid: &str, ids: &[&str]) -> Secret {
    let mut secret = desired::keyring_secret(&store(), ids[0], &[7; 32]);
    secret.metadata.uid = Some(uid.into());
    for id in ids {
        secret
            .data
            .as_mut()
            .unwrap()
            .insert((*id).into(), ByteString(vec![7; 32]));
    }
    secret
}

fn record(uid: &str, ids: &[&str]) -> ConfigMap {
    let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
    desired::keyring_record(&store(), uid, &ids, "2026-01-01T00:00:00Z")
}

fn check(secret: Option<Secret>, record: Option<ConfigMap>, holders: &[&str]) -> Plan {
    let holders = holders.iter().map(|h| (*h).to_owned()).collect();
    plan(
        &store(),
        &Seen {
            secret,
            record,
            holders,
        },
    )
}

fn broken(plan: &Plan) -> &'static str {
    match plan {
        Plan::Broken(problem) => problem.reason,
        _ => "not broken",
    }
}

#[test]
fn a_key_is_made_only_when_there_is_no_trace_of_an_earlier_one() {
    assert_eq!(check(None, None, &[]), Plan::Create);
    assert_eq!(
        broken(&check(None, Some(record("u", &["a"])), &[])),
        "SecretMissing"
    );
    assert_eq!(
        broken(&check(None, None, &["PersistentVolumeClaim x"])),
        "SecretMissing"
    );
    // A record that somebody emptied still says that there was a keyring.
    let mut emptied = record("u", &["a"]);
    emptied.data = None;
    assert_eq!(broken(&check(None, Some(emptied), &[])), "SecretMissing");
}

#[test]
fn a_crash_after_the_secret_was_made_is_picked_up_by_recording_it() {
    let plan = check(Some(secret("u", &["a"])), None, &[]);
    assert!(matches!(plan, Plan::Record(facts, Happened::Adopted) if facts.current == "a"));
}

#[test]
fn a_good_keyring_on_record_is_left_alone() {
    let plan = check(
        Some(secret("u", &["a"])),
        Some(record("u", &["a"])),
        &["ignored"],
    );
    assert!(matches!(plan, Plan::Steady(_)));
}

#[test]
fn that_data_was_on_a_volume_of_the_users_stays_on_record() {
    let mut own = store();
    own.spec.volume.ephemeral = None;
    own.spec.volume.pod_volume = Some("work".to_owned());
    let of = |store: &CodexStore, record: Option<ConfigMap>| {
        let secret = Some(secret("u", &["a"]));
        let holders = Vec::new();
        let seen = Seen {
            secret,
            record,
            holders,
        };
        plan(store, &seen)
    };
    let known = |facts: &Facts| facts.pod_volumes;
    let ids = ["a".to_owned()];
    let marked = desired::keyring_record(&own, "u", &ids, "2026-01-01T00:00:00Z");
    // One of an earlier operator, or of a store that was on claims.
    let added = of(&own, Some(record("u", &["a"])));
    assert!(matches!(&added, Plan::Update(f, Happened::Nothing) if known(f)));
    assert!(matches!(&of(&own, None), Plan::Record(f, _) if known(f)));
    let steady = of(&own, Some(marked.clone()));
    assert!(matches!(&steady, Plan::Steady(f) if known(f)));
    let again = of(&store(), Some(marked));
    assert!(matches!(&again, Plan::Steady(f) if known(f)));
    let never = of(&store(), Some(record("u", &["a"])));
    assert!(matches!(&never, Plan::Steady(f) if !known(f)));
}

#[test]
fn a_secret_that_was_put_back_is_taken_again_only_with_the_recorded_keys() {
    let back = check(
        Some(secret("new", &["a", "b"])),
        Some(record("old", &["a"])),
        &[],
    );
    assert!(matches!(back, Plan::Update(facts, Happened::Restored) if facts.secret_uid == "new"));
    let other = check(
        Some(secret("new", &["b"])),
        Some(record("old", &["a"])),
        &[],
    );
    assert_eq!(broken(&other), "KeyMissing");
    let edited = check(Some(secret("u", &["b"])), Some(record("u", &["a"])), &[]);
    assert_eq!(broken(&edited), "KeyMissing");
}

#[test]
fn foreign_objects_are_neither_used_nor_replaced() {
    let mut foreign = secret("u", &["a"]);
    foreign.metadata.labels = None;
    assert_eq!(broken(&check(Some(foreign), None, &[])), "ForeignObject");
    let mut foreign = record("u", &["a"]);
    foreign.metadata.labels = None;
    assert_eq!(broken(&check(None, Some(foreign), &[])), "ForeignObject");
}

#[test]
fn malformed_keyrings_are_named_without_their_content() {
    let spoiled = |change: fn(&mut BTreeMap<String, ByteString>)| {
        let mut secret = secret("u", &["a"]);
        change(secret.data.as_mut().unwrap());
        let plan = check(Some(secret), Some(record("u", &["a"])), &[]);
        let Plan::Broken(problem) = plan else {
            unreachable!("a malformed keyring was accepted")
        };
        assert_eq!(problem.reason, "KeyMalformed");
        assert!(!problem.message.contains("canary"), "{}", problem.message);
    };
    spoiled(BTreeMap::clear);
    spoiled(|data| drop(data.remove("current")));
    spoiled(|data| drop(data.insert("current".into(), ByteString(b"canary".to_vec()))));
    spoiled(|data| drop(data.insert("current".into(), ByteString(vec![0xff]))));
    spoiled(|data| drop(data.insert("a".into(), ByteString(b"canary".to_vec()))));
}

#[test]
fn new_keys_have_the_size_asked_for_and_differ() {
    let mut store = store();
    store.spec.encryption.key_size = codexstore_crds::store::KeySize::Aes128;
    let (a, b) = (fresh(&store).unwrap(), fresh(&store).unwrap());
    let key = |secret: &Secret| {
        let facts = facts(secret).unwrap();
        secret.data.as_ref().unwrap()[&facts.current].0.clone()
    };
    assert_eq!(key(&a).len(), 16);
    assert_ne!(key(&a), key(&b));
    assert!(
        a.metadata.owner_references.is_none(),
        "garbage collection could delete the keys"
    );
}
