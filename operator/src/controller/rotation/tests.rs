//! Whole rotations against the API server of [`crate::controller::fake_api`], with a fault at each call.

use std::sync::Arc;

use codexstore_crds::rotation::{Retire, RotationPolicy};
use codexstore_crds::store::{Keys, Managed};
use codexstore_crds::{CodexKeyRotation, CodexStore};
use serde_json::{Value, json};

use super::{Rotations, open};
use crate::controller::fake_api::{FakeApi, Fault};
use crate::controller::fixtures::store;
use crate::controller::scripted::{KEYRING, ROTATION, STORE, look};

const RECORD: &str = "/api/v1/namespaces/shop/configmaps/cxs-orders-keyring";

/// Looks that are enough for a whole rotation, and for its old key to go.
const LOOKS: usize = 16;

fn rotating(policy: RotationPolicy) -> CodexStore {
    let mut store = store();
    store.spec.encryption.keys = Some(Keys {
        managed: Some(Managed {
            rotation: Some(policy),
            ..Managed::default()
        }),
        ..Keys::default()
    });
    store
}

fn rotation() -> Value {
    json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexKeyRotation",
        "metadata": {"name": "now", "namespace": "shop", "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": {"storeRef": {"name": "orders"}}})
}

/// The ids in the keyring, the current one, and those on the record.
fn keys(api: &FakeApi) -> (Vec<String>, String, Vec<String>) {
    let secret: k8s_openapi::api::core::v1::Secret =
        serde_json::from_value(api.get(KEYRING).unwrap()).unwrap();
    let facts = crate::controller::keyring::facts(&secret).unwrap();
    let record = api.get(RECORD).unwrap()["data"]["keyIds"].take();
    let record = record.as_str().unwrap().split(',').map(str::to_owned);
    (facts.ids, facts.current, record.collect())
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
            let status = api.get(STORE).unwrap()["status"].take();
            assert_eq!(
                status["encryptionKeys"],
                json!([{"id": to, "state": "Active"}]),
                "{status}"
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
        let of = Rotations::of(all);
        (of.going, of.failed)
    };
    assert_eq!(of(&all), (true, false));
    assert_eq!(of(&all[..1]), (false, true));
    assert_eq!(of(&[]), (false, false));
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
