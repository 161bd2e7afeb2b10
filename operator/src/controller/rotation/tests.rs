//! Whole rotations against the API server of [`crate::controller::fake_api`], with a fault at each call.

use std::sync::Arc;

use codexstore_crds::rotation::{Retire, RotationPolicy};
use codexstore_crds::{CodexKeyRotation, CodexStore};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::played::failed;
use super::{Rotations, open, overtaking, shown};
use crate::controller::fake_api::{FakeApi, Fault};
use crate::controller::fixtures;
use crate::controller::reconcile::{Found, reconcile};
use crate::controller::scripted::{
    self, KEYRING, RECORD, ROTATION, ROTATIONS, STORE, look, operator,
};

/// Looks that are enough for a whole rotation, and for its old key to go.
const LOOKS: usize = 16;

fn rotating(policy: RotationPolicy) -> CodexStore {
    fixtures::rotating(fixtures::store(), policy)
}

fn rotation() -> Value {
    scripted::rotation("now", &json!({}))
}

/// The ids in the keyring, the current one, and those on the record.
fn keys(api: &FakeApi) -> (Vec<String>, String, Vec<String>) {
    let facts = scripted::facts(api);
    let record = api.get(RECORD).unwrap()["data"]["keyIds"].take();
    let record = record.as_str().unwrap().split(',').map(str::to_owned);
    (facts.ids, facts.current, record.collect())
}

#[tokio::test]
async fn a_store_without_keys_has_none_to_rotate() {
    let api = FakeApi::start().await;
    let mut plain = fixtures::store();
    plain.spec.encryption = serde_json::from_value(json!({"none": {}})).unwrap();
    api.put(STORE, &plain);
    api.put(ROTATION, &rotation());
    look(&api, &[]).await.unwrap();
    let status = api.get(ROTATION).unwrap()["status"].take();
    assert_eq!(failed(&status), "NotEncrypted");
}

#[tokio::test]
async fn a_fault_at_any_call_loses_no_key_and_is_made_up_for() {
    let mut faults = 0;
    for fault in [Fault::Before, Fault::After] {
        for call in 0.. {
            let api = FakeApi::start().await;
            api.put(
                STORE,
                &rotating(RotationPolicy {
                    retire: Retire::Unneeded,
                    ..RotationPolicy::default()
                }),
            );
            look(&api, &[]).await.unwrap();
            let (_, first, _) = keys(&api);
            api.put(ROTATION, &rotation());
            api.fail(call, fault);
            for _ in 0..LOOKS {
                let _ = look(&api, &[]).await;
                let (ids, current, record) = keys(&api);
                assert!(ids.contains(&current), "{fault:?} at {call}");
                assert!(
                    record.iter().all(|id| ids.contains(id)),
                    "{fault:?} at {call}: {record:?} of {ids:?}"
                );
            }
            let done = api.get(ROTATION).unwrap()["status"].take();
            assert_eq!(done["phase"], "Completed", "{fault:?} at {call}: {done}");
            assert_eq!(done["from"], json!(first), "{fault:?} at {call}");
            let to = done["to"].as_str().unwrap().to_owned();
            let wanted = (vec![to.clone()], to.clone(), vec![to.clone()]);
            assert_eq!(keys(&api), wanted, "{fault:?} at {call}");
            let mut status = api.get(STORE).unwrap()["status"].take();
            for (n, time) in [(0, "firstSeenAt"), (1, "firstSeenAt"), (1, "retiredAt")] {
                let time = status["encryptionKeys"][n][time].take();
                assert!(time.is_string(), "{fault:?} at {call}: {status}");
            }
            assert_eq!(
                status["encryptionKeys"],
                json!([{"id": to, "state": "Active", "loaded": "0/0", "firstSeenAt": null},
                    {"id": first, "state": "Retired", "firstSeenAt": null, "retiredAt": null}]),
                "{fault:?} at {call}: {status}"
            );
            if api.calls().len() <= call {
                break;
            }
            faults += 1;
        }
    }
    println!("faults: {faults}");
    assert!(faults > 60, "{faults}");
}

/// A look that saw rotations as they were before somebody wrote to one.
async fn look_late(api: &FakeApi) {
    let store: CodexStore = serde_json::from_value(api.get(STORE).unwrap()).unwrap();
    let rotations = api.all(ROTATIONS);
    api.put(ROTATION, &api.get(ROTATION).unwrap());
    let found = Found {
        rotations: &rotations,
        ..Found::default()
    };
    let _ = reconcile(&operator(api), &store, found).await;
}

#[tokio::test]
async fn an_end_that_could_not_be_written_is_told_once_it_is() {
    for (end, reason) in [("Completed", "KeyRotated"), ("Failed", "RotationFailed")] {
        let api = FakeApi::start().await;
        api.put(STORE, &rotating(RotationPolicy::default()));
        look(&api, &[]).await.unwrap();
        api.put(ROTATION, &rotation());
        let phase = || api.get(ROTATION).unwrap()["status"]["phase"].take();
        for _ in 0..LOOKS {
            if phase() == "Verifying" {
                break;
            }
            look(&api, &[]).await.unwrap();
        }
        if end == "Failed" {
            // Somebody makes another key current.
            let mut keyring = api.get(KEYRING).unwrap();
            let data = keyring["data"].as_object_mut().unwrap();
            let (_, to, _) = keys(&api);
            let (current, key) = (data["current"].take(), data[&to].clone());
            assert!(current.is_string());
            data.insert("other".to_owned(), key);
            data.insert("current".to_owned(), json!("b3RoZXI="));
            api.put(KEYRING, &keyring);
        }
        look_late(&api).await;
        assert_eq!(phase(), "Verifying");
        assert_eq!(api.told(reason), 0, "{end}");
        look(&api, &[]).await.unwrap();
        assert_eq!(phase(), end);
        assert_eq!(api.told(reason), 2, "of it and its store");
    }
}

#[tokio::test]
async fn a_schedule_is_not_due_when_it_is_new_and_its_rotation_is_made_once() {
    let api = FakeApi::start().await;
    let policy = |schedule: &str| RotationPolicy {
        schedule: Some(schedule.to_owned()),
        ..RotationPolicy::default()
    };
    api.put(STORE, &rotating(policy("0 3 1 * *")));
    look(&api, &[]).await.unwrap();
    look(&api, &[]).await.unwrap();
    assert_eq!(api.count("POST", "codexkeyrotations"), 0);
    // As after a month without an operator.
    let mut store = api.get(STORE).unwrap();
    assert_eq!(store["status"]["rotationSchedule"]["schedule"], "0 3 1 * *");
    store["status"]["rotationSchedule"]["since"] = json!("2026-01-15T00:00:00Z");
    api.put(STORE, &store);
    look(&api, &[]).await.unwrap();
    let since = api.get(STORE).unwrap()["status"]["rotationSchedule"]["since"].take();
    assert_ne!(since, "2026-01-15T00:00:00Z");
    look(&api, &[]).await.unwrap();
    let made = |api: &FakeApi| api.count("POST", "codexkeyrotations");
    assert_eq!(made(&api), 1);
    // The status was not written: the same one is asked for again, and is there.
    api.put(STORE, &store);
    look(&api, &[]).await.unwrap();
    assert_eq!(made(&api), 2);
    let again = api.get(STORE).unwrap()["status"]["rotationSchedule"]["since"].take();
    assert_eq!(again, since);
}

#[test]
fn the_latest_rotation_that_has_ended_counts() {
    let rotation = |phase: &str, ended: Option<&str>| {
        let mut rotation = rotation();
        rotation["status"] = json!({"phase": phase, "completedAt": ended});
        Arc::new(serde_json::from_value::<CodexKeyRotation>(rotation).unwrap())
    };
    let all = [
        rotation("Failed", Some("2026-11-02T00:00:00Z")),
        rotation("Completed", Some("2026-11-03T00:00:00Z")),
        rotation("Failed", Some("2026-11-01T00:00:00Z")),
        rotation("Distributing", None),
    ];
    let of = |all: &[Arc<CodexKeyRotation>]| {
        let of = Rotations::of(all, 60);
        (of.going, of.failed)
    };
    assert_eq!(of(&all), (true, false));
    assert_eq!(of(&all[..1]), (false, true));
    assert_eq!(of(&[]), (false, false));
}

#[test]
fn the_deadline_that_is_shown_is_that_of_the_rotation_whose_turn_it_is() {
    let at = |second: i64| fixtures::at(second).0.to_string();
    let rotation = |made: i64, status: Value| {
        let mut rotation = rotation();
        rotation["metadata"]["creationTimestamp"] = json!(at(made));
        rotation["status"] = status;
        Arc::new(serde_json::from_value::<CodexKeyRotation>(rotation).unwrap())
    };
    let of = |all: &[Arc<CodexKeyRotation>]| Rotations::of(all, 60).deadline;
    let ended = rotation(1, json!({"phase": "Completed", "startedAt": at(1)}));
    assert_eq!(of(&[]), None);
    assert_eq!(of(std::slice::from_ref(&ended)), None);
    let pending = rotation(100, json!({"phase": "Pending"}));
    assert_eq!(of(&[ended.clone(), pending.clone()]), Some(160));
    let mut going =
        json!({"phase": "Distributing", "to": "k", "startedAt": at(200), "progressAt": at(250)});
    assert_eq!(
        of(&[pending.clone(), rotation(150, going.clone())]),
        Some(260)
    );
    going["promotedAt"] = json!(at(220));
    assert_eq!(
        of(&[ended, rotation(150, going.clone()), pending]),
        Some(310)
    );
    going["conditions"] = json!([{"type": "KeyringReady", "status": "True", "reason": "", "message": "", "lastTransitionTime": at(300)}]);
    assert_eq!(of(&[rotation(150, going)]), Some(360));
}

#[test]
fn rotations_take_turns_and_one_that_has_begun_goes_on() {
    let rotation = |name: &str, second: u8, status: Value| {
        let mut rotation = rotation();
        rotation["metadata"]["name"] = json!(name);
        rotation["metadata"]["creationTimestamp"] = json!(format!("2026-11-01T00:00:0{second}Z"));
        rotation["status"] = status;
        Arc::new(serde_json::from_value::<CodexKeyRotation>(rotation).unwrap())
    };
    let all = [
        rotation("done", 0, json!({"phase": "Completed", "to": "k0"})),
        rotation("later", 2, json!({})),
        rotation("a", 1, json!({"phase": "Pending"})),
        rotation("b", 1, json!({"phase": "Distributing", "to": "k1"})),
    ];
    let names: Vec<_> = open(&all)
        .iter()
        .map(|r| r.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["b", "a", "later"]);
}

#[test]
fn one_for_a_compromise_waits_for_none_but_an_earlier_one_for_a_compromise() {
    let rotation = |name: &str, second: u8, reason: &str, begun: Option<u8>| {
        let at = |second: u8| format!("2026-11-01T00:00:0{second}Z");
        let mut rotation = rotation();
        rotation["metadata"]["name"] = json!(name);
        rotation["metadata"]["creationTimestamp"] = json!(at(second));
        rotation["spec"]["reason"] = json!(reason);
        if let Some(begun) = begun {
            let status = json!({"phase": "Distributing", "to": "k", "startedAt": at(begun)});
            rotation["status"] = status;
        }
        Arc::new(serde_json::from_value::<CodexKeyRotation>(rotation).unwrap())
    };
    let check = |all: &[Arc<CodexKeyRotation>], wanted: (&str, Option<&str>)| {
        let open = open(all);
        let (first, others) = open.split_first().unwrap();
        let found = overtaking(first, others).map(ResourceExt::name_any);
        assert_eq!((first.name_any().as_str(), found.as_deref()), wanted);
    };
    let old = || rotation("old", 1, "Scheduled", Some(2));
    let waits = || rotation("waits", 1, "Manual", None);
    let seen = |begun| rotation("seen", 3, "Compromise", begun);
    check(&[old(), waits()], ("old", None));
    check(&[old(), waits(), seen(None)], ("old", Some("seen")));
    // Once that is over it is first, though it came last; what has not begun is given up for nothing.
    check(&[waits(), seen(None)], ("seen", None));
    check(&[waits(), seen(Some(4))], ("seen", None));
    // Its own new key may have been seen since it began.
    let again = |second| rotation("again", second, "Compromise", None);
    check(&[seen(Some(4)), again(4)], ("seen", None));
    check(&[seen(Some(4)), again(5)], ("seen", Some("again")));
}

#[test]
fn of_very_many_keys_the_current_one_is_shown_and_the_latest_others() {
    let ids: Vec<_> = (0..100).map(|n| format!("k{n:02}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let of = |current: &str, room: usize| {
        let facts = fixtures::facts(current, &ids);
        shown(&facts, room).cloned().collect::<Vec<_>>()
    };
    let all = of("k07", 64);
    assert_eq!(
        (all.len(), all[0].as_str(), all[1].as_str()),
        (64, "k07", "k37")
    );
    assert_eq!(of("k99", 3), ["k97", "k98", "k99"]);
    assert_eq!(of("k07", 1), ["k07"]);
    assert_eq!(of("k07", 100).len(), 100);
}
