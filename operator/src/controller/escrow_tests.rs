//! Escrow against the API server of [`crate::controller::fake_api`], with a fault at each call.

use codexstore_crds::encryption::{Escrow as Spec, Keys as SpecKeys, Managed};
use codexstore_escrow::{Identity, unseal};
use serde_json::{Value, json};

use super::*;
use crate::controller::fake_api::{FakeApi, Fault};
use crate::controller::fixtures::store;
use crate::controller::scripted::{
    KEYRING, ROTATION, STORE, condition, look, look_again, operator, pair,
};

const MAP: &str = "/api/v1/namespaces/shop/configmaps/cxs-orders-escrow";

fn asking(recipients: &[String]) -> CodexStore {
    let mut store = store();
    let escrow = Spec {
        recipients: recipients.to_vec(),
    };
    store.spec.encryption.keys = Some(SpecKeys {
        managed: Some(Managed {
            escrow: Some(escrow),
            ..Managed::default()
        }),
        ..SpecKeys::default()
    });
    store
}

/// A server with a store that asks for escrow, and who can open it.
async fn begun() -> (FakeApi, [Identity; 1]) {
    let api = FakeApi::start().await;
    let identity = Identity::random().unwrap();
    let recipient = identity.recipient().unwrap().to_string();
    api.put(STORE, &asking(&[recipient]));
    (api, [identity])
}

/// The keyring in the Secret, as it would be sealed.
fn keyring(api: &FakeApi) -> Keys {
    let secret: Secret = serde_json::from_value(api.get(KEYRING).unwrap()).unwrap();
    let facts = facts_of(&secret).unwrap();
    let data = secret.data.unwrap();
    let mut keys = Keys::new("shop/orders", facts.current);
    for id in facts.ids {
        keys.insert(id.clone(), &data[&id].0);
    }
    keys
}

fn sealed_text(api: &FakeApi) -> String {
    let map = api.get(MAP).unwrap();
    map["data"][names::ESCROW_SEALED]
        .as_str()
        .unwrap()
        .to_owned()
}

/// What is sealed, and what is said to be.
fn opened(api: &FakeApi, identity: &[Identity]) -> (Keys, Vec<String>) {
    let keys = unseal(sealed_text(api).as_bytes(), identity).unwrap();
    let map = api.get(MAP).unwrap();
    let ids = map["data"][names::ESCROW_IDS].as_str().unwrap();
    (keys, ids.split(',').map(str::to_owned).collect())
}

fn ids(keys: &Keys) -> Vec<String> {
    keys.iter().map(|(id, _)| id.to_owned()).collect()
}

fn escrowed(api: &FakeApi) -> (String, String) {
    condition(api, "KeyEscrowed")
}

/// Changes the keyring as a user would.
fn change(api: &FakeApi, change: impl FnOnce(&mut Value)) {
    let mut secret = api.get(KEYRING).unwrap();
    change(&mut secret["data"]);
    api.put(KEYRING, &secret);
}

#[tokio::test]
async fn a_keyring_is_sealed_once_and_anew_when_something_changed() {
    let (api, identity) = begun().await;
    for _ in 0..3 {
        assert_eq!(look(&api, &[]).await.unwrap().outcome, "steady");
    }
    assert_eq!(
        opened(&api, &identity),
        (keyring(&api), ids(&keyring(&api)))
    );
    let first = sealed_text(&api);
    assert_eq!(api.count("POST", "configmaps"), 2, "record and escrow");
    assert_eq!(api.count("PATCH", "configmaps"), 0);
    assert_eq!(escrowed(&api), pair("True", "Sealed"));
    let status = api.get(STORE).unwrap()["status"]["escrow"].take();
    assert_eq!(status["configMapName"], "cxs-orders-escrow");
    assert_eq!(
        (&status["recipients"], &status["keyIds"]),
        (&json!(1), &json!(ids(&keyring(&api))))
    );
    assert!(
        api.get(MAP).unwrap()["metadata"]
            .get("ownerReferences")
            .is_none()
    );
    assert_eq!(api.told("KeyringSealed"), 1);

    // A key more; then other bytes under the same id.
    for byte in ["AQEBAQEBAQEBAQEBAQEBAQ==", "AgICAgICAgICAgICAgICAg=="] {
        change(&api, |data| data["more"] = json!(byte));
        look(&api, &[]).await.unwrap();
        assert_eq!(
            opened(&api, &identity),
            (keyring(&api), ids(&keyring(&api)))
        );
    }
    assert_ne!(sealed_text(&api), first);
    // Somebody damages what is sealed, or adds to it.
    for (key, value) in [
        (names::ESCROW_SEALED, "nothing"),
        ("more", "x"),
        (names::ESCROW_IDS, "a,b"),
    ] {
        let mut map = api.get(MAP).unwrap();
        map["data"][key] = json!(value);
        api.put(MAP, &map);
        look(&api, &[]).await.unwrap();
        assert_eq!(
            opened(&api, &identity),
            (keyring(&api), ids(&keyring(&api)))
        );
        assert_eq!(
            api.get(MAP).unwrap()["data"].as_object().unwrap().len(),
            3,
            "{key}"
        );
    }
    api.remove(MAP);
    look(&api, &[]).await.unwrap();
    opened(&api, &identity);

    // Another recipient: the former one cannot open what is sealed from then on.
    let other = [Identity::random().unwrap()];
    let status = api.get(STORE).unwrap()["status"].take();
    let mut store = json!(asking(&[other[0].recipient().unwrap().to_string()]));
    store["status"] = status;
    api.put(STORE, &store);
    look(&api, &[]).await.unwrap();
    assert_eq!(opened(&api, &other).0, keyring(&api));
    assert!(unseal(sealed_text(&api).as_bytes(), &identity).is_err());
}

#[tokio::test]
async fn an_operator_that_remembers_reads_nothing_anew_until_it_reads_the_keyring() {
    let (api, _) = begun().await;
    let operator = operator(&api);
    look_again(&operator, &api, &[]).await.unwrap();
    let reads = |api: &FakeApi| api.count("GET", "cxs-orders-escrow");
    let before = reads(&api);
    for _ in 0..3 {
        look_again(&operator, &api, &[]).await.unwrap();
    }
    assert_eq!(reads(&api), before);
}

#[tokio::test]
async fn what_is_no_public_key_is_told_and_stops_nothing_else() {
    let api = FakeApi::start().await;
    let good = Identity::random().unwrap().recipient().unwrap().to_string();
    let mut typo = good.clone();
    typo.replace_range(30..31, if &good[30..31] == "q" { "p" } else { "q" });
    api.put(STORE, &asking(&[good, typo.clone()]));
    look(&api, &[]).await.unwrap();
    assert_eq!(escrowed(&api), pair("False", "EscrowInvalid"));
    let status = api.get(STORE).unwrap()["status"].take();
    assert_eq!(status["phase"], "Degraded");
    assert!(
        status
            .to_string()
            .contains("number 2 is not an age public key"),
        "{status}"
    );
    assert!(!status.to_string().contains(&typo));
    assert!(status["keyring"].is_object(), "the rest went on: {status}");
    assert_eq!(api.get(MAP), None);
    assert_eq!(api.told("EscrowInvalid"), 1);

    // Without recipients nothing is asked, and nothing is wrong.
    api.put(STORE, &store());
    look(&api, &[]).await.unwrap();
    assert_eq!(escrowed(&api), pair("False", "NotAskedFor"));
    assert_eq!(api.get(STORE).unwrap()["status"]["phase"], "Ephemeral");
}

#[tokio::test]
async fn somebody_elses_map_is_left_alone_and_a_lost_keyring_leaves_what_was_sealed() {
    let (api, identity) = begun().await;
    let foreign = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "cxs-orders-escrow", "namespace": "shop"}, "data": {"a": "b"}});
    api.put(MAP, &foreign);
    look(&api, &[]).await.unwrap();
    assert_eq!(escrowed(&api), pair("False", "ForeignObject"));
    assert_eq!(api.get(MAP).unwrap()["data"], json!({"a": "b"}));
    api.remove(MAP);
    look(&api, &[]).await.unwrap();
    let (keys, _) = opened(&api, &identity);

    api.remove(KEYRING);
    look(&api, &[]).await.unwrap();
    assert_eq!(escrowed(&api), pair("Unknown", "KeyringNotReady"));
    assert_eq!(opened(&api, &identity).0, keys, "a way back to the keys");
    let status = api.get(STORE).unwrap()["status"].take();
    assert_eq!(status["escrow"]["keyIds"], json!(ids(&keys)));
}

#[tokio::test]
async fn a_fault_at_any_call_is_made_up_for_and_no_key_is_used_before_it_is_sealed() {
    let mut faults = 0;
    for fault in [Fault::Before, Fault::After] {
        for call in 0.. {
            let (api, identity) = begun().await;
            api.fail(call, fault);
            for _ in 0..3 {
                let _ = look(&api, &[]).await;
            }
            assert_eq!(
                opened(&api, &identity).0,
                keyring(&api),
                "{fault:?} at {call}"
            );
            assert_eq!(
                escrowed(&api),
                pair("True", "Sealed"),
                "{fault:?} at {call}"
            );
            if api.calls().len() <= call {
                break;
            }
            faults += 1;
        }
        for call in 0.. {
            let (api, identity) = begun().await;
            look(&api, &[]).await.unwrap();
            let rotation = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexKeyRotation",
                "metadata": {"name": "now", "namespace": "shop", "creationTimestamp": "2026-11-01T00:00:00Z"},
                "spec": {"storeRef": {"name": "orders"}}});
            api.put(ROTATION, &rotation);
            api.fail(call, fault);
            for _ in 0..10 {
                let _ = look(&api, &[]).await;
                let (sealed, said) = opened(&api, &identity);
                let used = keyring(&api).current;
                assert!(
                    said.contains(&used),
                    "{fault:?} at {call}: {used} is not sealed"
                );
                assert_eq!(ids(&sealed), said, "{fault:?} at {call}");
            }
            assert_eq!(
                opened(&api, &identity).0,
                keyring(&api),
                "{fault:?} at {call}"
            );
            assert_eq!(keyring(&api).iter().count(), 2, "{fault:?} at {call}");
            if api.calls().len() <= call {
                break;
            }
            faults += 1;
        }
    }
    println!("faults: {faults}");
    assert!(faults > 80, "{faults}");
}
