use codexstore_crds::{CodexStore, CodexStoreStatus, desired};
use serde_json::json;

use super::*;
use crate::controller::fake_api::{FakeApi, Fault};
use crate::controller::fixtures::{claim_store, facts, store};
use crate::controller::kept::Kept;
use crate::controller::reconcile::{Found, reconcile};
use crate::controller::rotation::played::failed;
use crate::controller::scripted::{
    CLAIM, RECORD, ROTATION, STORE, condition, look, look_again, operator, pair, rotation, with,
};

pub(super) const MINE: &str = "/api/v1/namespaces/shop/secrets/mine";

pub(super) fn own(mut store: CodexStore) -> CodexStore {
    let keys = json!({"keys": {"secretRef": {"name": "mine"}}});
    store.spec.encryption = serde_json::from_value(keys).unwrap();
    store
}

/// The Secret as a user writes it, always of one UID.
pub(super) fn write(api: &FakeApi, current: &str, ids: &[&str]) {
    let mut secret = desired::keyring_secret(&store(), current, &[7; 32]);
    let key = secret.data.as_mut().unwrap().remove(current).unwrap();
    for id in ids {
        let data = secret.data.as_mut().unwrap();
        data.insert((*id).to_owned(), key.clone());
    }
    secret.metadata.name = Some("mine".to_owned());
    secret.metadata.labels = None;
    secret.metadata.uid = Some("mine-uid".to_owned());
    api.put(MINE, &secret);
}

fn status(api: &FakeApi) -> CodexStoreStatus {
    serde_json::from_value(api.get(STORE).unwrap()["status"].take()).unwrap()
}

fn listed(api: &FakeApi) -> Vec<(String, String)> {
    let keys = status(api).encryption_keys.into_iter();
    keys.map(|key| (key.id, key.state)).collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(a, b)| pair(a, b)).collect()
}

fn told(api: &FakeApi, reason: &str) -> bool {
    api.events().contains(&pair(reason, "orders"))
}

pub(super) fn untouched(api: &FakeApi) {
    let calls = api.calls();
    let touched = calls
        .iter()
        .find(|(verb, path)| verb != "GET" && path.starts_with(MINE));
    assert_eq!(touched, None);
    let made = calls
        .iter()
        .any(|(verb, path)| verb == "GET" && path.ends_with("/secrets/cxs-orders-keyring"));
    assert!(!made, "a keyring of ours was looked for");
}

#[tokio::test]
async fn a_secret_is_waited_for_then_followed_and_never_written() {
    let api = with(&own(store())).await;
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "SecretMissing"));
    assert!(api.get(RECORD).is_none(), "pods would be let in");
    write(&api, "a", &["a"]);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
    let record = api.get(RECORD).unwrap()["data"].take();
    assert_eq!(
        (
            &record["secretName"],
            &record["secretUid"],
            &record["keyIds"]
        ),
        (&json!("mine"), &json!("mine-uid"), &json!("a"))
    );
    let keyring = status(&api).keyring.unwrap();
    assert_eq!(keyring.secret_name, "mine");
    assert_eq!(listed(&api), pairs(&[("a", "Active")]));

    write(&api, "a", &["a", "b"]);
    look(&api, &[]).await.unwrap();
    assert_eq!(listed(&api), pairs(&[("a", "Active"), ("b", "Adding")]));
    assert!(!told(&api, "KeyPromoted"));
    write(&api, "b", &["a", "b"]);
    look(&api, &[]).await.unwrap();
    assert_eq!(listed(&api), pairs(&[("a", "Retiring"), ("b", "Active")]));
    assert_eq!(status(&api).key_id.as_deref(), Some("b"));
    assert!(told(&api, "KeyPromoted"));
    // Nothing needs it: it may go.
    write(&api, "b", &["b"]);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
    assert_eq!(api.get(RECORD).unwrap()["data"]["keyIds"], "b");
    assert!(told(&api, "KeyRetired"));
    let retired = pairs(&[("b", "Active"), ("a", "Retired")]);
    assert_eq!(listed(&api), retired);
    look(&api, &[]).await.unwrap();
    assert_eq!(listed(&api), retired, "it stays");
    // Put back it is a key like any other.
    write(&api, "b", &["a", "b"]);
    look(&api, &[]).await.unwrap();
    assert_eq!(listed(&api), pairs(&[("a", "Retiring"), ("b", "Active")]));
    untouched(&api);
}

#[tokio::test]
async fn a_key_that_is_needed_is_missed_until_it_is_back() {
    let spec = own(claim_store("1Gi"));
    let api = with(&spec).await;
    // Data that no pod has mounted.
    api.put(
        CLAIM,
        &desired::member_claim(&spec, "web-0", false).unwrap(),
    );
    write(&api, "a", &["a"]);
    look(&api, &[]).await.unwrap();
    write(&api, "b", &["a", "b"]);
    look(&api, &[]).await.unwrap();
    // An older content: what was current is gone.
    write(&api, "a", &["a"]);
    for _ in 0..2 {
        look(&api, &[]).await.unwrap();
        assert_eq!(condition(&api, "KeysReady"), pair("False", "KeyMissing"));
        assert_eq!(condition(&api, "Degraded"), pair("True", "KeyMissing"));
    }
    assert_eq!(listed(&api), pairs(&[("a", "Active"), ("b", "Missing")]));
    let now = status(&api);
    assert_eq!(now.key_id.as_deref(), Some("b"), "what was good last");
    let needed = &now.encryption_keys[1].needed_by;
    assert!(needed[0].contains("claim cxs-orders-web-0"), "{needed:?}");
    assert_eq!(api.get(RECORD).unwrap()["data"]["keyIds"], "a,b");
    let promoted = |api: &FakeApi| {
        let events = api.whole_events();
        let notes = events.iter().filter(|e| e["reason"] == "KeyPromoted");
        notes.map(|e| e["note"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(promoted(&api).len(), 1, "a rollback promotes nothing");
    write(&api, "b", &["a", "b"]);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
    assert_eq!(listed(&api), pairs(&[("a", "Retiring"), ("b", "Active")]));
    // Its user says that the data is worthless.
    write(&api, "b", &["b"]);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "KeyMissing"));
    api.remove(RECORD);
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
    // That was needed: it is not called retired.
    assert_eq!(listed(&api), pairs(&[("b", "Active")]));
    untouched(&api);
}

#[tokio::test]
async fn what_is_half_written_is_told_and_what_was_known_stays() {
    let api = with(&own(store())).await;
    write(&api, "a", &["a"]);
    look(&api, &[]).await.unwrap();
    let good = api.get(MINE).unwrap();
    for spoil in ["half", "emptied", "gone"] {
        match spoil {
            "half" => write(&api, "b", &["a"]),
            "emptied" => api.put(MINE, &json!({"metadata": good["metadata"]})),
            _ => drop(api.remove(MINE)),
        }
        look(&api, &[]).await.unwrap();
        let reason = if spoil == "gone" {
            "SecretMissing"
        } else {
            "KeyMalformed"
        };
        assert_eq!(
            condition(&api, "KeysReady"),
            pair("False", reason),
            "{spoil}"
        );
        assert_eq!(listed(&api), pairs(&[("a", "Active")]), "{spoil}");
        assert_eq!(status(&api).key_id.as_deref(), Some("a"), "{spoil}");
        assert!(told(&api, reason), "{spoil}");
        api.put(MINE, &good);
        look(&api, &[]).await.unwrap();
        assert_eq!(
            condition(&api, "KeysReady"),
            pair("True", "KeyringReady"),
            "{spoil}"
        );
    }
    untouched(&api);
}

#[tokio::test]
async fn a_passphrase_has_no_keys_to_list_and_none_to_miss() {
    let mut spec = claim_store("1Gi");
    let keys = json!({"keys": {"passphraseRef": {"name": "mine", "key": "words"}}});
    spec.spec.encryption = serde_json::from_value(keys).unwrap();
    let api = with(&spec).await;
    api.put(
        CLAIM,
        &desired::member_claim(&spec, "web-0", false).unwrap(),
    );
    let words = json!({"metadata": {"name": "mine"}, "data": {"words": "Y29ycmVjdCBob3JzZQ=="}});
    api.put(MINE, &words);
    for _ in 0..2 {
        look(&api, &[]).await.unwrap();
        assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
    }
    let now = status(&api);
    assert_eq!(now.key_id.as_deref(), Some("passphrase"));
    assert_eq!(now.encryption_keys, []);
    assert_eq!(api.get(RECORD).unwrap()["data"]["keyIds"], "");
    api.put(
        MINE,
        &json!({"metadata": {"name": "mine"}, "data": {"words": "c2hvcnQ="}}),
    );
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "KeyMalformed"));
    assert!(!told(&api, "KeyPromoted") && !told(&api, "KeyRotated"));
    untouched(&api);
}

#[tokio::test]
async fn another_name_is_followed_by_the_next_look() {
    let api = with(&own(store())).await;
    write(&api, "a", &["a"]);
    let operator = operator(&api);
    look_again(&operator, &api, &[]).await.unwrap();
    let mut renamed = api.get(STORE).unwrap();
    renamed["spec"]["encryption"]["keys"]["secretRef"]["name"] = json!("mine-2");
    api.put(STORE, &renamed);
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("False", "SecretMissing"));
    let mut secret = api.get(MINE).unwrap();
    secret["metadata"] = json!({"name": "mine-2", "uid": "another"});
    api.put("/api/v1/namespaces/shop/secrets/mine-2", &secret);
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(condition(&api, "KeysReady"), pair("True", "KeyringReady"));
    let record = api.get(RECORD).unwrap()["data"].take();
    assert_eq!(
        (&record["secretName"], &record["secretUid"]),
        (&json!("mine-2"), &json!("another"))
    );
}

#[tokio::test]
async fn a_store_that_is_made_anew_without_its_secret_is_told_which_it_had() {
    let words =
        json!({"metadata": {"name": "mine"}, "data": {"passphrase": "Y29ycmVjdCBob3JzZQ=="}});
    for source in ["secretRef", "passphraseRef"] {
        let mut spec = store();
        let keys = json!({"keys": {source: {"name": "mine"}}});
        spec.spec.encryption = serde_json::from_value(keys).unwrap();
        let api = with(&spec).await;
        match source {
            "secretRef" => write(&api, "a", &["a"]),
            _ => api.put(MINE, &words),
        }
        look(&api, &[]).await.unwrap();
        api.remove(STORE);
        let mut managed = store();
        managed.metadata.uid = Some("another-uid".to_owned());
        api.put(STORE, &managed);
        look(&api, &[]).await.unwrap();
        assert_eq!(condition(&api, "KeysReady"), pair("False", "SecretMissing"));
        let said = api.get(STORE).unwrap()["status"].to_string();
        assert!(
            said.contains(&format!("{source}: {{name: mine}}")),
            "{said}"
        );
        assert_eq!(api.count("POST", "/secrets"), 3, "the certificates' only");
    }
}

#[tokio::test]
async fn a_rotation_is_refused_whatever_the_secret_is_like() {
    for there in [true, false] {
        let api = with(&own(store())).await;
        if there {
            write(&api, "a", &["a"]);
        }
        api.put(ROTATION, &rotation("now", &json!({})));
        let asked = Arc::new(serde_json::from_value(api.get(ROTATION).unwrap()).unwrap());
        let store: CodexStore = serde_json::from_value(api.get(STORE).unwrap()).unwrap();
        let found = Found {
            rotations: std::slice::from_ref(&asked),
            ..Found::default()
        };
        reconcile(&operator(&api), &store, found).await.unwrap();
        let said = api.get(ROTATION).unwrap()["status"].take();
        assert_eq!(failed(&said), "KeysOfYourOwn");
        let message = said["message"].as_str().unwrap();
        assert!(
            message.contains("Secret mine") && message.contains("make that current"),
            "{message}"
        );
        assert!(message.contains("`mode: Reencrypt`"), "{message}");
        untouched(&api);
    }
}

#[tokio::test]
async fn a_fault_at_any_call_changes_no_secret_and_is_made_up_for() {
    let mut faults = 0;
    for fault in [Fault::Before, Fault::After] {
        for call in 0.. {
            let api = with(&own(store())).await;
            write(&api, "a", &["a"]);
            look(&api, &[]).await.unwrap();
            write(&api, "b", &["a", "b"]);
            look(&api, &[]).await.unwrap();
            write(&api, "b", &["b"]);
            let secret = api.get(MINE);
            api.fail(call, fault);
            for _ in 0..3 {
                let _ = look(&api, &[]).await;
            }
            assert_eq!(api.get(MINE), secret);
            assert_eq!(
                api.get(RECORD).unwrap()["data"]["keyIds"],
                "b",
                "{fault:?} at {call}"
            );
            assert_eq!(
                listed(&api),
                pairs(&[("b", "Active"), ("a", "Retired")]),
                "{fault:?} at {call}"
            );
            if api.calls().len() <= call {
                break;
            }
            faults += 1;
        }
    }
    assert!(faults > 20, "{faults}");
}

#[test]
fn of_very_many_keys_the_current_and_the_missing_ones_are_listed() {
    let store = store();
    let places = Places {
        store: &store,
        pod_volumes: false,
        members: &[],
        claims: &[],
        backups: &[],
        restores: &[],
        kept: &Kept::default(),
        archive: None,
    };
    let ids: Vec<_> = (0..100).map(|n| format!("k{n:03}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let missing = [("k000-gone".to_owned(), vec!["pod web-0".to_owned()])];
    let all = keys(&facts("k001", &ids), &missing, &places, &[]);
    assert_eq!(all.len(), MAX_KEYS);
    let state = |id: &str| all.iter().find(|key| key.id == id).map(|key| &*key.state);
    assert_eq!(state("k001"), Some("Active"));
    assert_eq!(state("k000-gone"), Some("Missing"));
    assert_eq!((state("k099"), state("k002")), (Some("Retiring"), None));
    assert!(all.is_sorted_by(|a, b| a.id < b.id));
}

#[test]
fn that_members_are_done_is_told_once() {
    let said = |state: &str, by: &[&str]| {
        let by = by.iter().map(|by| (*by).to_owned()).collect();
        vec![
            status_of("a", state, by),
            status_of("b", "Active", Vec::new()),
        ]
    };
    // An operator that has just been started, and what it says look after look.
    let started = || {
        let mut promoted = None;
        move |was: &str, before: &[KeyStatus], now: &[KeyStatus]| {
            let facts = facts("b", &["a", "b"]);
            let events = events(Some(was), before, &facts, now, "mine", &mut promoted);
            events
                .into_iter()
                .map(|(reason, _)| reason)
                .collect::<Vec<_>>()
        }
    };
    let mut check = started();
    let (busy, done) = (
        said("Retiring", &["pod web-0"]),
        said("Retiring", &["cxb/x"]),
    );
    let silent = said(
        "Retiring",
        &["pod web-0 (it does not say which keys it needs)"],
    );
    let quiet = [""; 0];
    // An operator that was started in between knows what was written down.
    assert_eq!(
        check("b", &silent, &done),
        quiet,
        "it may have been done before"
    );
    assert_eq!(check("b", &busy, &busy), quiet);
    assert_eq!(check("b", &busy, &silent), quiet, "it may need any");
    assert_eq!(check("b", &busy, &done), ["KeyRotated"]);
    assert_eq!(check("b", &done, &done), quiet);
    let mut check = started();
    assert_eq!(check("a", &done, &silent), ["KeyPromoted"]);
    assert_eq!(check("b", &silent, &silent), quiet);
    assert_eq!(
        check("b", &silent, &done),
        ["KeyRotated"],
        "it was seen to begin"
    );
    assert_eq!(check("b", &silent, &done), quiet, "once");
    let at_once = started()("a", &[], &done);
    assert_eq!(
        at_once,
        ["KeyPromoted", "KeyRotated"],
        "no look saw them busy"
    );
}
