//! Whole rotations with members that answer: what an operator that dies at any call, a member that dies or freezes, and a hand in the
//! Secret leave behind, in both modes.

use std::collections::BTreeMap;

use codexstore_api::status::ReencryptionState;
use codexstore_crds::rotation::Mode;
use codexstore_crds::status::MAX_KEY_MESSAGES;
use codexstore_crds::{CodexKeyRotation, CodexStore, desired};
use serde_json::{Value, json};

use super::played::{Cluster, LOOKS, failed, keyring, path, rotating, states, uid};
use crate::controller::fake_api::Fault;
use crate::controller::scripted::{
    BACKUPS, CLAIM, KEYRING, ROTATION, ROTATIONS, STORE, condition, pair,
};

#[tokio::test]
async fn an_operator_that_dies_at_any_call_is_followed_by_one_that_goes_on_in_each_mode() {
    let mut faults = 0;
    // Each call of a rewrap has a sweep of its own, in `tests`.
    for (mode, name, each, spec) in [
        (Mode::Rewrap, "Rewrap", 4, json!({})),
        (Mode::Reencrypt, "Reencrypt", 1, json!({})),
        (
            Mode::Rewrap,
            "Reencrypt",
            2,
            json!({"reason": "Compromise"}),
        ),
    ] {
        for fault in [Fault::Before, Fault::After] {
            for call in (0..).step_by(each) {
                let cluster = Box::pin(Cluster::start(mode, &["web-0"])).await;
                cluster.ask("now", &spec);
                cluster.api.fail(call, fault);
                let at = || format!("{spec} {name}, {fault:?} at {call}");
                for _ in 0..LOOKS {
                    if cluster.status("now")["completedAt"].is_string() {
                        break;
                    }
                    cluster.look().await;
                    let (ids, current) = keyring(&cluster.api);
                    assert!(ids.contains(&cluster.first), "{}: {ids:?}", at());
                    assert!(ids.contains(&current), "{}", at());
                }
                let done = cluster.status("now");
                assert_eq!(done["phase"], "Completed", "{}: {done}", at());
                assert_eq!(done["mode"], name, "{done}");
                assert_eq!(done["from"], json!(cluster.first), "{}", at());
                let to = done["to"].as_str().unwrap();
                let (ids, current) = keyring(&cluster.api);
                assert_eq!((ids.len(), current.as_str()), (2, to), "{}", at());
                assert_eq!(states(&done), ["web-0=Done"], "{}", at());
                let seen = spec["reason"].is_string().then(|| json!([cluster.first]));
                let exposed = &done["exposedBackups"]["keyIds"];
                assert_eq!(*exposed, seen.unwrap_or_default(), "{}", at());
                let id = uid(&cluster.api, "now");
                cluster.members[0].with(|inside| {
                    let needed = inside.status.needed_key_ids.clone().unwrap();
                    assert_eq!(needed, [to], "{}", at());
                    let anew = name == "Reencrypt";
                    assert_eq!(inside.sealed == to, anew, "{}", at());
                    assert_eq!(inside.asked.contains(&id), anew, "{}", at());
                });
                if cluster.api.calls().len() <= call {
                    break;
                }
                faults += 1;
            }
        }
    }
    println!("calls at which the operator died, in both modes and after a compromise: {faults}");
    assert!(faults > 250, "{faults}");
}

#[tokio::test]
async fn each_phase_is_gone_through_and_told() {
    let cluster = Box::pin(Cluster::start(Mode::Reencrypt, &["web-0", "web-1"])).await;
    cluster.ask("now", &json!({}));
    let mut phases = Vec::new();
    let mut keys = BTreeMap::<String, Vec<Value>>::new();
    for _ in 0..LOOKS {
        cluster.look().await;
        let store = cluster.api.get(STORE).unwrap()["status"].take();
        for key in store["encryptionKeys"].as_array().unwrap() {
            let id = key["id"].as_str().unwrap().to_owned();
            keys.entry(id).or_default().push(key.clone());
        }
        let status = cluster.status("now");
        let phase = status["phase"].as_str().unwrap().to_owned();
        if phases.last() != Some(&phase) {
            phases.push(phase);
        }
    }
    let wanted = [
        "Adding",
        "Distributing",
        "Promoting",
        "Rewriting",
        "Verifying",
        "Completed",
    ];
    assert_eq!(phases, wanted);
    let done = cluster.status("now");
    assert_eq!(done["ready"], "2/2", "{done}");
    assert_eq!(keys.len(), 2);
    for (id, seen) in &keys {
        let first = &seen[0]["firstSeenAt"];
        assert!(first.is_string(), "{seen:?}");
        assert!(seen.iter().all(|key| key["firstSeenAt"] == *first));
        let mut loaded: Vec<_> = seen.iter().map(|k| k["loaded"].as_str().unwrap()).collect();
        loaded.dedup();
        let old = *id == cluster.first;
        let wanted: &[&str] = if old { &["2/2"] } else { &["0/2", "2/2"] };
        assert_eq!(loaded, wanted, "{id}");
    }
    let condition = &done["conditions"][1];
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&json!("Reencrypted"), &json!("True"))
    );
    for reason in ["KeyAdded", "WaitingForMembers", "KeyPromoted", "KeyRotated"] {
        assert!(cluster.told(reason), "{reason}");
    }
    for member in &cluster.members {
        member.with(|inside| {
            assert_eq!(inside.asked.len(), 1, "once");
            assert_eq!(inside.sealed, done["to"].as_str().unwrap());
        });
    }
}

#[tokio::test]
async fn a_member_that_dies_while_it_encrypts_is_asked_again_and_one_that_was_done_is_not() {
    let cluster = Box::pin(Cluster::start(Mode::Rewrap, &["web-0", "web-1"])).await;
    cluster.members[1].with(|inside| inside.ends = None);
    cluster.ask("now", &json!({"mode": "Reencrypt"}));
    let wanted = |s: &Value| states(s) == ["web-0=Done", "web-1=Rewriting"];
    let half = cluster.until("now", "one is done", wanted).await;
    assert_eq!(half["mode"], "Reencrypt", "as it asks for itself");
    let under_way = |s: &Value| s["members"][1]["message"] == "30 % encrypted anew";
    cluster.until("now", "the other is at it", under_way).await;
    for member in &cluster.members {
        member.restart();
    }
    cluster.members[1].with(|inside| inside.ends = Some(ReencryptionState::Done));
    let done = cluster.done("now").await;
    assert_eq!(done["phase"], "Completed", "{done}");
    let asked = |n: usize| cluster.members[n].with(|inside| inside.asked.len());
    assert_eq!((asked(0), asked(1)), (1, 2));
}

#[tokio::test]
async fn a_member_that_could_not_is_named_and_the_rotation_given_up_at_the_deadline() {
    let cluster = Box::pin(Cluster::start(Mode::Reencrypt, &["web-0"])).await;
    cluster.members[0].with(|inside| inside.ends = Some(ReencryptionState::Failed));
    cluster.ask("now", &json!({}));
    let wanted = |s: &Value| states(s) == ["web-0=Failed"];
    let waits = cluster.until("now", "it has failed", wanted).await;
    let message = waits["message"].as_str().unwrap();
    assert!(message.contains("web-0 (disk-full"), "{message}");
    cluster.wait_for_the_deadline("now");
    let given_up = cluster.done("now").await;
    assert_eq!(failed(&given_up), "DeadlineExceeded");
    assert!(cluster.told("RotationFailed"));
    // It is not forgotten: once there is room, it is made up for.
    cluster.members[0].with(|inside| inside.ends = Some(ReencryptionState::Done));
    let wanted = |s: &Value| states(s) == ["web-0=Done"];
    cluster.until("now", "it has caught up", wanted).await;
    assert!(cluster.told("Reencrypted"));
}

#[tokio::test]
async fn a_keyring_that_cannot_be_changed_ends_it_and_says_how_that_is() {
    const KEYS: &str = "secrets/cxs-orders-keyring";
    for phase in ["Adding", "Promoting"] {
        let cluster = Box::pin(Cluster::start(Mode::Rewrap, &["web-0"])).await;
        cluster.ask("now", &json!({}));
        let reached = cluster.until("now", phase, |s| s["phase"] == phase).await;
        // An answer that may be another one the next time is waited for until the deadline, and no longer.
        cluster.api.refuse_changes(KEYS, 500);
        for _ in 0..3 {
            cluster.look().await;
        }
        assert_eq!(cluster.status("now"), reached, "{phase}");
        cluster.wait_for_the_deadline("now");
        let given_up = cluster.done("now").await;
        assert_eq!(failed(&given_up), "DeadlineExceeded", "{phase}");
        let to = given_up["to"].as_str().unwrap();
        let message = given_up["message"].as_str().unwrap();
        assert!(message.contains(to), "{message}");
        assert_eq!(keyring(&cluster.api).1, cluster.first, "{phase}");

        cluster.ask("again", &json!({}));
        cluster.api.refuse_changes(KEYS, 422);
        let refused = cluster.done("again").await;
        assert_eq!(failed(&refused), "KeyringRefused", "{phase}");
    }
}

#[tokio::test]
async fn one_that_was_down_is_encrypted_anew_when_it_is_back() {
    let mut cluster = Box::pin(Cluster::start(Mode::Reencrypt, &["web-1"])).await;
    let store = rotating(Mode::Reencrypt);
    let claim = desired::member_claim(&store, "web-0", false).unwrap();
    cluster.api.put(CLAIM, &claim);
    cluster.ask("now", &json!({}));
    let done = cluster.done("now").await;
    assert_eq!(done["phase"], "Completed", "{done}");
    assert_eq!(states(&done), ["web-0=Away", "web-1=Done"]);
    assert_eq!(done["conditions"][1]["reason"], "MembersLeft", "{done}");
    assert!(
        done["message"]
            .as_str()
            .unwrap()
            .contains("when they are back: web-0")
    );

    cluster.add(&store, "web-0").await;
    let wanted = |s: &Value| s["conditions"][1]["status"] == "True";
    let caught_up = cluster.until("now", "it has caught up", wanted).await;
    assert_eq!(states(&caught_up), ["web-0=Done", "web-1=Done"]);
    assert_eq!(caught_up["completedAt"], done["completedAt"]);
    assert!(cluster.told("Reencrypted"));
    let asked = |n: usize| cluster.members[n].with(|inside| inside.asked.len());
    assert_eq!((asked(0), asked(1)), (1, 1));
    let sealed = cluster.members[1].with(|inside| inside.sealed.clone());
    assert_eq!(json!(sealed), done["to"]);
}

#[tokio::test]
async fn after_a_compromise_a_frozen_member_is_not_waited_for_and_catches_up() {
    let cluster = Box::pin(Cluster::start(Mode::Rewrap, &["web-0", "web-1"])).await;
    let backup = |name: &str, key: &str| {
        json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"storeRef": {"name": "orders"}},
            "status": {"phase": "Succeeded", "members": [{"pod": "web-0", "stored": true, "keyId": key}]}})
    };
    cluster.api.put(
        &format!("{BACKUPS}/before"),
        &backup("before", &cluster.first),
    );
    cluster.members[1].with(|inside| inside.frozen = true);
    cluster.ask("now", &json!({"reason": "Compromise"}));
    let waits = cluster
        .until("now", "it waits", |s| s["phase"] == "Distributing")
        .await;
    assert_eq!(states(&waits), ["web-0=Loading", "web-1=Unreachable"]);
    let loaded = |s: &Value| states(s) == ["web-0=Loaded", "web-1=Unreachable"];
    cluster.until("now", "one has it", loaded).await;
    assert_eq!(
        keyring(&cluster.api).1,
        cluster.first,
        "not before the deadline"
    );
    cluster.wait_for_the_deadline("now");
    let promoted = |s: &Value| s["phase"] == "Rewriting" && s["members"][0]["state"] == "Done";
    let rewriting = cluster
        .until("now", "it goes on without it", promoted)
        .await;
    assert_eq!(rewriting["to"], json!(keyring(&cluster.api).1));
    cluster.wait_for_the_deadline("now");
    let done = cluster.done("now").await;
    assert_eq!(done["phase"], "Completed", "{done}");
    assert_eq!(done["mode"], "Reencrypt", "{done}");
    assert_eq!(states(&done), ["web-0=Done", "web-1=Unreachable"]);
    assert_eq!(done["conditions"][1]["reason"], "MembersLeft", "{done}");
    let exposed =
        json!({"count": 1, "names": ["before"], "keyIds": [cluster.first], "archive": false});
    assert_eq!(done["exposedBackups"], exposed);
    assert!(cluster.told("BackupsExposed"));

    // What is taken now is not exposed; what is deleted is not any more.
    let to = done["to"].as_str().unwrap();
    cluster
        .api
        .put(&format!("{BACKUPS}/after"), &backup("after", to));
    cluster.api.remove(&format!("{BACKUPS}/before"));
    cluster.members[1].with(|inside| inside.frozen = false);
    let wanted = |s: &Value| states(s) == ["web-0=Done", "web-1=Done"];
    let back = cluster.until("now", "it has caught up", wanted).await;
    assert_eq!(back["exposedBackups"]["count"], 0, "{back}");
    assert_eq!(
        keyring(&cluster.api).0.len(),
        2,
        "the old key opens the backup"
    );
}

#[tokio::test]
async fn two_at_once_take_turns() {
    for mode in [Mode::Rewrap, Mode::Reencrypt] {
        let cluster = Box::pin(Cluster::start(mode, &["web-0"])).await;
        cluster.ask("one", &json!({}));
        cluster.ask("two", &json!({}));
        cluster
            .until("one", "it goes on", |s| s["phase"] == "Distributing")
            .await;
        assert_eq!(cluster.status("two")["phase"], "Pending");
        let one = cluster.done("one").await;
        let two = cluster.done("two").await;
        assert_eq!(
            (&one["phase"], &two["phase"]),
            (&json!("Completed"), &json!("Completed"))
        );
        assert_eq!(
            (&one["from"], &two["from"]),
            (&json!(cluster.first), &one["to"])
        );
        assert_eq!(json!(keyring(&cluster.api).1), two["to"]);
        let asked = cluster.members[0].with(|inside| inside.asked.len());
        assert_eq!(asked, if mode == Mode::Reencrypt { 2 } else { 0 });
    }
}

#[tokio::test]
async fn a_rotation_that_has_begun_is_given_up_for_a_compromise() {
    for mode in [Mode::Rewrap, Mode::Reencrypt] {
        // One waits for a member that answers nothing, and one for a member that does not get further.
        for phase in ["Distributing", "Rewriting"] {
            let cluster = Box::pin(Cluster::start(mode, &["web-0", "web-1"])).await;
            cluster.members[0].with(|inside| inside.frozen = phase == "Distributing");
            cluster.members[1].with(|inside| inside.ends = None);
            cluster.ask("one", &json!({}));
            let begun = cluster.until("one", phase, |s| s["phase"] == phase).await;
            cluster.ask("seen", &json!({"reason": "Compromise"}));
            let given_up = cluster.until("one", "it ends", |s| s["completedAt"].is_string());
            let given_up = given_up.await;
            assert_eq!(failed(&given_up), "Superseded", "{phase}");
            let message = given_up["message"].as_str().unwrap();
            assert!(message.contains("cxk/seen"), "{message}");
            for member in &cluster.members {
                member.with(|inside| {
                    inside.frozen = false;
                    inside.ends = Some(ReencryptionState::Done);
                });
            }
            let done = cluster.done("seen").await;
            assert_eq!(done["phase"], "Completed", "{phase}: {done}");
            let from = if phase == "Distributing" {
                json!(cluster.first)
            } else {
                begun["to"].clone()
            };
            assert_eq!(done["from"], from, "{phase}");
            assert_eq!(states(&done), ["web-0=Done", "web-1=Done"], "{phase}");
            assert_eq!(json!(keyring(&cluster.api).1), done["to"], "{phase}");
            // What the first one could not do is done with that, if it was to be done at all.
            cluster.look().await;
            let left = cluster.status("one")["conditions"][1]["status"].clone();
            let caught_up = mode == Mode::Reencrypt && phase == "Rewriting";
            assert_eq!(left == "True", caught_up, "{phase}: {left}");
        }
    }
}

#[tokio::test]
async fn what_becomes_of_the_secret_by_hand_is_told_and_put_right_it_goes_on() {
    for mode in [Mode::Rewrap, Mode::Reencrypt] {
        for phase in ["Distributing", "Promoting", "Rewriting", "Verifying"] {
            let cluster = Box::pin(Cluster::start(mode, &["web-0"])).await;
            let before = cluster.api.get(KEYRING).unwrap();
            cluster.ask("now", &json!({}));
            let found = cluster.until("now", phase, |s| s["phase"] == phase).await;
            let good = cluster.api.get(KEYRING).unwrap();
            // The old key deleted; then the content of before the rotation, as a tool that restores Secrets puts it.
            let mut without = good.clone();
            let data = without["data"].as_object_mut().unwrap();
            data.remove(&cluster.first);
            for spoilt in [&without, &before] {
                cluster.api.put(KEYRING, spoilt);
                cluster.look().await;
                cluster.look().await;
                let ready = condition(&cluster.api, "KeysReady");
                assert_eq!(ready.0, "False", "{phase}: {ready:?}");
                let now = cluster.status("now");
                assert_eq!(now["completedAt"], Value::Null, "{phase}: {now}");
                assert_eq!((&now["from"], &now["to"]), (&found["from"], &found["to"]));
            }
            cluster.api.put(KEYRING, &good);
            let done = cluster.done("now").await;
            assert_eq!(done["phase"], "Completed", "{phase}: {done}");
            assert_eq!(done["to"], found["to"], "{phase}");
            let ready = condition(&cluster.api, "KeysReady");
            assert_eq!(ready, pair("True", "KeyringReady"), "{phase}");
        }
    }
}

#[tokio::test]
async fn a_rollback_to_the_old_current_key_is_promoted_again() {
    let cluster = Box::pin(Cluster::start(Mode::Reencrypt, &["web-0"])).await;
    cluster.ask("now", &json!({}));
    let added = |s: &Value| s["phase"] == "Promoting";
    cluster.until("now", "it is added", added).await;
    let before = cluster.api.get(KEYRING).unwrap();
    let found = cluster
        .until("now", "it is promoted", |s| s["phase"] == "Rewriting")
        .await;
    cluster.api.put(KEYRING, &before);
    let done = cluster.done("now").await;
    assert_eq!(done["phase"], "Completed", "{done}");
    assert_eq!(done["to"], found["to"]);
    assert_eq!(json!(keyring(&cluster.api).1), done["to"]);
}

#[tokio::test]
async fn a_worn_key_is_replaced_by_itself_once() {
    let cluster = Box::pin(Cluster::start(Mode::Rewrap, &["web-0"])).await;
    cluster.members[0].with(|inside| inside.status.key_wraps = Some(7));
    cluster.look().await;
    let mut store = cluster.api.get(STORE).unwrap();
    let key = &mut store["status"]["encryptionKeys"][0];
    assert_eq!(
        (&key["messages"], &key["maxMessages"]),
        (&json!(7), &json!(MAX_KEY_MESSAGES))
    );
    key["messages"] = json!(MAX_KEY_MESSAGES / 5 * 4 - 2);
    cluster.api.put(STORE, &store);
    cluster.look().await;
    assert_eq!(cluster.api.count("POST", "codexkeyrotations"), 0, "not yet");
    cluster.members[0].with(|inside| inside.status.key_wraps = Some(9));
    for _ in 0..LOOKS {
        cluster.look().await;
    }
    let made = cluster.api.all::<CodexKeyRotation>(ROTATIONS);
    assert_eq!(made.len(), 1, "{made:?}");
    let rotation = serde_json::to_value(&*made[0]).unwrap();
    assert_eq!(rotation["spec"]["reason"], "KeyBudget", "{rotation}");
    assert_eq!(rotation["status"]["phase"], "Completed", "{rotation}");
    assert!(cluster.told("KeyWorn"));
    // The new key begins anew.
    let status = cluster.api.get(STORE).unwrap()["status"].take();
    let current = rotation["status"]["to"].as_str().unwrap();
    let keys = status["encryptionKeys"].as_array().unwrap();
    let new = keys.iter().find(|key| key["id"] == current).unwrap();
    let messages = new["messages"].as_i64().unwrap_or(0);
    assert!(messages < 100, "{new}");
}

#[tokio::test]
async fn a_worn_key_that_cannot_be_replaced_is_tried_again_after_an_hour_whatever_was_cleaned_up() {
    let cluster = Box::pin(Cluster::start(Mode::Rewrap, &["web-0"])).await;
    cluster.look().await;
    let mut store = cluster.api.get(STORE).unwrap();
    store["status"]["encryptionKeys"][0]["messages"] = json!(MAX_KEY_MESSAGES);
    cluster.api.put(STORE, &store);
    let frozen = |is: bool| cluster.members[0].with(|inside| inside.frozen = is);
    frozen(true);
    let open = || {
        let all = cluster.api.all::<CodexKeyRotation>(ROTATIONS);
        let name = |r: &CodexKeyRotation| r.metadata.name.clone().unwrap();
        all.iter().find(|r| !r.ended()).map(|r| name(r))
    };
    let mut seen = Vec::<String>::new();
    for day in 1..3 {
        cluster.look().await;
        let name = open().unwrap();
        let is_waiting = |s: &Value| s["phase"] == "Distributing";
        cluster.until(&name, "it waits", is_waiting).await;
        cluster.wait_for_the_deadline(&name);
        cluster.done(&name).await;
        for _ in 0..3 {
            cluster.look().await;
        }
        assert_eq!(open(), None, "not within an hour");
        // The one before is cleaned up.
        if let Some(before) = seen.pop() {
            cluster.api.remove(&path(&before));
        }
        let mut ended = cluster.api.get(&path(&name)).unwrap();
        ended["status"]["completedAt"] = json!(format!("2026-01-0{day}T00:00:00Z"));
        cluster.api.put(&path(&name), &ended);
        seen.push(name);
    }
    let posts = cluster.api.count("POST", "codexkeyrotations");
    assert_eq!(posts, 2, "nobody asks again and again for the same");
    frozen(false);
    cluster.look().await;
    let third = open().unwrap();
    assert_eq!(cluster.done(&third).await["phase"], "Completed");
}

#[tokio::test]
async fn a_status_that_somebody_else_wrote_since_is_not_overwritten() {
    let cluster = Box::pin(Cluster::start(Mode::Reencrypt, &["web-0"])).await;
    cluster.ask("now", &json!({}));
    let asked = cluster.api.get(ROTATION).unwrap();
    cluster.look().await;
    let chosen = cluster.status("now")["to"].clone();
    // A cache that lags behind: as if nothing had been chosen yet.
    let stale: CodexKeyRotation = serde_json::from_value(asked).unwrap();
    let store: CodexStore = serde_json::from_value(cluster.api.get(STORE).unwrap()).unwrap();
    let found = crate::controller::reconcile::Found {
        rotations: &[std::sync::Arc::new(stale)],
        ..Default::default()
    };
    let operator = crate::controller::scripted::operator(&cluster.api);
    crate::controller::reconcile::reconcile(&operator, &store, found)
        .await
        .unwrap();
    assert_eq!(cluster.status("now")["to"], chosen);
}
