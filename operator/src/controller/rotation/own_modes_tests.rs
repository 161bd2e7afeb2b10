//! Whole rotations of a Secret that is the user's, with members that answer: everything is encrypted anew under the key that the user
//! made current, and after a compromise under none that was there before.

use codexstore_api::status::ReencryptionState;
use codexstore_crds::{CodexStore, desired};
use serde_json::{Value, json};

use super::super::played::{Cluster, LOOKS, failed, states};
use super::tests::{MINE, own, untouched, write};
use crate::controller::fake_api::{FakeApi, Fault};
use crate::controller::fake_member::Inside;
use crate::controller::fixtures::claim_store;
use crate::controller::scripted::{
    BACKUPS, CLAIM, ROTATION, ROTATIONS, look, look_again, operator, rotation, with,
};

fn store() -> CodexStore {
    own(claim_store("1Gi"))
}

/// A store whose Secret holds these keys, with members that hold everything under the current one.
async fn start(current: &str, ids: &[&str], pods: &[&str]) -> Cluster {
    let api = with(&store()).await;
    write(&api, current, ids);
    Cluster::of(api, &store(), MINE, pods).await
}

fn anew() -> Value {
    json!({"mode": "Reencrypt"})
}

fn compromise() -> Value {
    json!({"reason": "Compromise"})
}

fn backup(api: &FakeApi, name: &str, key: &str) {
    let backup = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"storeRef": {"name": "orders"}},
        "status": {"phase": "Succeeded", "members": [{"pod": "web-0", "stored": true, "keyId": key}]}});
    api.put(&format!("{BACKUPS}/{name}"), &backup);
}

fn reencrypted(status: &Value) -> Option<&str> {
    let mut all = status["conditions"].as_array()?.iter();
    all.find(|c| c["type"] == "Reencrypted")?["status"].as_str()
}

fn message(status: &Value) -> &str {
    status["message"].as_str().unwrap_or_default()
}

/// Under which key each member holds everything, and how often it was asked to write it so.
fn sealed(cluster: &Cluster) -> Vec<(String, usize)> {
    let one = |inside: &mut Inside| (inside.sealed.clone(), inside.asked.len());
    cluster.members.iter().map(|m| m.with(one)).collect()
}

fn all(key: &str, asked: usize, members: usize) -> Vec<(String, usize)> {
    vec![(key.to_owned(), asked); members]
}

#[tokio::test]
async fn members_encrypt_everything_anew_under_the_key_that_the_user_made_current() {
    let cluster = Box::pin(start("k1", &["k1"], &["web-0", "web-1"])).await;
    write(&cluster.api, "k2", &["k1", "k2"]);
    cluster.ask("now", &anew());
    let mut phases = Vec::new();
    let mut named = 0;
    for n in 0..LOOKS {
        for member in &cluster.members {
            member.with(|inside| inside.stuck = n < 3);
        }
        cluster.look().await;
        let status = cluster.status("now");
        let phase = status["phase"].as_str().unwrap().to_owned();
        if phase == "Distributing" && status["members"].is_array() {
            assert_eq!(states(&status), ["web-0=Loading", "web-1=Loading"]);
            let wanted = "they have loaded the new key: web-0, web-1";
            assert!(message(&status).ends_with(wanted), "{status}");
            named += 1;
        }
        if phases.last() != Some(&phase) {
            phases.push(phase);
        }
    }
    assert!(named > 0);
    let wanted = ["Distributing", "Rewriting", "Verifying", "Completed"];
    assert_eq!(phases, wanted);
    let done = cluster.status("now");
    let keys = (&done["from"], &done["to"], &done["mode"]);
    assert_eq!(keys, (&json!("k2"), &json!("k2"), &json!("Reencrypt")));
    assert_eq!(states(&done), ["web-0=Done", "web-1=Done"]);
    assert_eq!(reencrypted(&done), Some("True"), "{done}");
    assert_eq!(done["exposedBackups"], Value::Null, "{done}");
    assert_eq!(sealed(&cluster), all("k2", 1, 2));
    for reason in ["WaitingForMembers", "Reencrypted"] {
        assert!(cluster.told(reason), "{reason}");
    }
    // Without a new key there are fresh data keys all the same.
    cluster.ask("again", &anew());
    let again = cluster.done("again").await;
    assert_eq!(again["phase"], "Completed", "{again}");
    assert_eq!(sealed(&cluster), all("k2", 2, 2));
    untouched(&cluster.api);
}

#[tokio::test]
async fn a_key_that_is_made_current_meanwhile_is_the_new_one() {
    let cluster = Box::pin(start("k1", &["k1"], &["web-0"])).await;
    cluster.members[0].with(|inside| inside.ends = None);
    cluster.ask("now", &anew());
    let begun = |s: &Value| s["members"][0]["percent"] == 30;
    cluster.until("now", "it is under way", begun).await;
    write(&cluster.api, "k2", &["k1", "k2"]);
    cluster.members[0].with(|inside| inside.ends = Some(ReencryptionState::Done));
    let done = cluster.done("now").await;
    let keys = (&done["phase"], &done["from"], &done["to"]);
    assert_eq!(
        keys,
        (&json!("Completed"), &json!("k1"), &json!("k2")),
        "{done}"
    );
    assert_eq!(states(&done), ["web-0=Done"]);
    let needed = cluster.members[0].with(|inside| inside.status.needed_key_ids.clone());
    assert_eq!(needed.unwrap(), ["k2"]);
    untouched(&cluster.api);
}

#[tokio::test]
async fn after_a_compromise_nothing_is_done_until_a_key_is_current_that_was_not_there_before() {
    let mut cluster = Box::pin(start("k1", &["k0", "k1"], &["web-1"])).await;
    let claim = desired::member_claim(&store(), "web-0", false).unwrap();
    cluster.api.put(CLAIM, &claim);
    backup(&cluster.api, "before", "k0");
    cluster.ask("seen", &compromise());
    // As it is; with a new key that is not current; and with another one current that may have been seen as well.
    let spoilt: [(&str, &[&str]); 3] = [
        ("k1", &["k0", "k1"]),
        ("k1", &["k0", "k1", "k2"]),
        ("k0", &["k0", "k1", "k2"]),
    ];
    for (current, ids) in spoilt {
        write(&cluster.api, current, ids);
        for _ in 0..4 {
            cluster.look().await;
        }
        let waits = cluster.status("seen");
        assert_eq!(waits["phase"], "Adding", "{current}: {waits}");
        assert_eq!(
            waits["exposedBackups"],
            json!({"count": 1, "names": ["before"], "keyIds": ["k0", "k1"], "archive": false})
        );
        for words in [
            "new key into Secret mine and make it current",
            "may have been seen: k0, k1",
        ] {
            assert!(message(&waits).contains(words), "{waits}");
        }
        assert_eq!(reencrypted(&waits), None, "{waits}");
        assert_eq!(sealed(&cluster), all("k1", 0, 1), "{current}");
    }
    assert!(cluster.told("WaitingForKey"));
    write(&cluster.api, "k2", &["k0", "k1", "k2"]);
    let done = cluster.done("seen").await;
    let keys = (&done["phase"], &done["from"], &done["to"]);
    assert_eq!(
        keys,
        (&json!("Completed"), &json!("k1"), &json!("k2")),
        "{done}"
    );
    assert_eq!(states(&done), ["web-0=Away", "web-1=Done"]);
    assert_eq!(reencrypted(&done), Some("False"), "{done}");
    assert_eq!(done["exposedBackups"]["names"], json!(["before"]));
    assert!(cluster.told("BackupsExposed"));
    assert_eq!(sealed(&cluster), all("k2", 1, 1));

    // One that was down catches up when it is back, but under no key that may have been seen.
    write(&cluster.api, "k1", &["k0", "k1", "k2"]);
    cluster.add(&store(), "web-0").await;
    for _ in 0..4 {
        cluster.look().await;
    }
    assert_eq!(sealed(&cluster)[1], ("k1".to_owned(), 0));
    assert_eq!(reencrypted(&cluster.status("seen")), Some("False"));
    // Nor does it count that it was, for somebody who asked for no more than that.
    cluster.ask("meanwhile", &anew());
    cluster.done("meanwhile").await;
    assert_eq!(sealed(&cluster)[1], ("k1".to_owned(), 1));
    assert_eq!(reencrypted(&cluster.status("seen")), Some("False"));
    write(&cluster.api, "k2", &["k0", "k1", "k2"]);
    backup(&cluster.api, "before", "k2");
    let wanted = |s: &Value| reencrypted(s) == Some("True");
    let caught_up = cluster.until("seen", "it has caught up", wanted).await;
    assert_eq!(states(&caught_up), ["web-0=Done", "web-1=Done"]);
    assert_eq!(caught_up["exposedBackups"]["count"], 0, "{caught_up}");
    assert_eq!(sealed(&cluster)[1], ("k2".to_owned(), 2));
    untouched(&cluster.api);
}

#[tokio::test]
async fn a_key_that_the_last_look_did_not_see_is_not_taken_for_new() {
    let api = with(&store()).await;
    write(&api, "k1", &["k1"]);
    let operator = operator(&api);
    look_again(&operator, &api, &[]).await.unwrap();
    write(&api, "k2", &["k1", "k2"]);
    api.put(ROTATION, &rotation("now", &compromise()));
    look_again(&operator, &api, &[]).await.unwrap();
    let waits = api.get(ROTATION).unwrap()["status"].take();
    assert_eq!(waits["from"], "k1", "as it was last read: {waits}");
    let exposed = &waits["exposedBackups"]["keyIds"];
    assert_eq!(*exposed, json!(["k1", "k2"]), "{waits}");
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(api.get(ROTATION).unwrap()["status"]["phase"], "Adding");
}

#[tokio::test]
async fn a_key_that_was_made_current_before_somebody_said_that_one_was_seen_is_not_taken_for_new() {
    let cluster = Box::pin(start("k1", &["k1"], &["web-0"])).await;
    write(&cluster.api, "k2", &["k1", "k2"]);
    // Whether the operator has seen it or not.
    for known in [false, true] {
        if known {
            cluster.look().await;
        }
        let name = format!("seen-{known}");
        cluster.ask(&name, &compromise());
        let waits = |s: &Value| s["phase"] == "Adding";
        let waits = cluster.until(&name, "it waits", waits).await;
        assert!(message(&waits).contains("seen: k1, k2"), "{waits}");
        for _ in 0..4 {
            cluster.look().await;
        }
        assert_eq!(cluster.status(&name)["phase"], "Adding");
        cluster.api.remove(&format!("{ROTATIONS}/{name}"));
    }
    assert_eq!(sealed(&cluster), all("k1", 0, 1));
}

#[tokio::test]
async fn a_key_that_may_have_been_seen_and_is_current_again_ends_it_and_nobody_is_said_to_be_done()
{
    let cluster = Box::pin(start("k1", &["k1"], &["web-0", "web-1"])).await;
    cluster.members[1].with(|inside| inside.ends = None);
    cluster.ask("seen", &compromise());
    let waits = |s: &Value| s["phase"] == "Adding";
    cluster.until("seen", "it waits", waits).await;
    write(&cluster.api, "k2", &["k1", "k2"]);
    let half = |s: &Value| states(s) == ["web-0=Done", "web-1=Rewriting"];
    cluster.until("seen", "one is done", half).await;
    write(&cluster.api, "k1", &["k1", "k2"]);
    let given_up = cluster.done("seen").await;
    assert_eq!(failed(&given_up), "ExposedKeyCurrent");
    let why = "k1 is current again in Secret mine, and may have been seen";
    assert!(message(&given_up).starts_with(why), "{given_up}");
    assert_eq!(reencrypted(&given_up), None, "{given_up}");
    cluster.members[1].with(|inside| inside.ends = Some(ReencryptionState::Done));
    // It is over: only another one, with another key, says that they are done.
    write(&cluster.api, "k2", &["k1", "k2"]);
    cluster.ask("again", &compromise());
    let waits = |s: &Value| s["phase"] == "Adding";
    cluster.until("again", "it waits", waits).await;
    write(&cluster.api, "k3", &["k1", "k2", "k3"]);
    let done = cluster.done("again").await;
    assert_eq!(done["phase"], "Completed", "{done}");
    assert_eq!(done["exposedBackups"]["keyIds"], json!(["k1", "k2"]));
    assert_eq!(reencrypted(&done), Some("True"), "{done}");
    assert_eq!(sealed(&cluster), all("k3", 2, 2));
    assert_eq!(reencrypted(&cluster.status("seen")), None);
    untouched(&cluster.api);
}

#[tokio::test]
async fn a_frozen_member_holds_the_others_up_in_nothing_and_a_compromise_gives_up_what_goes_on() {
    let cluster = Box::pin(start("k1", &["k1"], &["web-0", "web-1"])).await;
    cluster.members[1].with(|inside| inside.frozen = true);
    cluster.ask("one", &anew());
    let half = |s: &Value| states(s) == ["web-0=Done", "web-1=Unreachable"];
    cluster.until("one", "one is done", half).await;
    cluster.set_times("one", "2026-01-01T00:00:00Z");
    cluster.ask("seen", &compromise());
    let given_up = cluster.done("one").await;
    assert!(message(&given_up).contains("cxk/seen"), "{given_up}");
    let waits = |s: &Value| s["phase"] == "Adding";
    cluster.until("seen", "it waits", waits).await;
    write(&cluster.api, "k2", &["k1", "k2"]);
    let half = |s: &Value| s["to"] == "k2" && states(s) == ["web-0=Done", "web-1=Unreachable"];
    cluster.until("seen", "one is done", half).await;
    cluster.set_times("seen", "2026-01-02T00:00:00Z");
    let done = cluster.done("seen").await;
    assert_eq!(done["phase"], "Completed", "{done}");
    assert_eq!(reencrypted(&done), Some("False"), "{done}");
    cluster.members[1].with(|inside| inside.frozen = false);
    let wanted = |s: &Value| reencrypted(s) == Some("True");
    cluster.until("seen", "it has caught up", wanted).await;
    cluster.look().await;
    assert_eq!(reencrypted(&cluster.status("one")), Some("True"));
    assert_eq!(
        sealed(&cluster),
        [("k2".to_owned(), 2), ("k2".to_owned(), 1)]
    );
}

#[tokio::test]
async fn a_member_that_cannot_load_the_new_key_is_named_with_what_it_says() {
    let cluster = Box::pin(start("k1", &["k1"], &["web-0", "web-1"])).await;
    cluster.members[0].with(|inside| {
        inside.stuck = true;
        inside.status.message = Some("the old one stays".to_owned());
    });
    write(&cluster.api, "k2", &["k1", "k2"]);
    cluster.ask("now", &anew());
    let half = |s: &Value| states(s) == ["web-0=Loading", "web-1=Done"];
    let waits = cluster.until("now", "one is done", half).await;
    assert_eq!(waits["phase"], "Distributing", "{waits}");
    let wanted = "loaded the new key: web-0 (the old one stays)";
    assert!(message(&waits).ends_with(wanted), "{waits}");
    cluster.members[0].with(|inside| inside.stuck = false);
    assert_eq!(cluster.done("now").await["phase"], "Completed");
}

#[tokio::test]
async fn a_secret_that_is_no_keyring_is_waited_for() {
    let cluster = Box::pin(start("k1", &["k1"], &["web-0"])).await;
    write(&cluster.api, "k2", &["k1"]);
    cluster.ask("now", &anew());
    cluster.ask("seen", &compromise());
    cluster.look().await;
    for name in ["now", "seen"] {
        let waits = cluster.status(name);
        assert_eq!(waits["phase"], "Pending", "{waits}");
        assert!(message(&waits).contains("Secret mine"), "{waits}");
    }
    write(&cluster.api, "k2", &["k1", "k2"]);
    let waits = |s: &Value| s["phase"] == "Adding";
    let waits = cluster.until("seen", "it waits", waits).await;
    assert!(message(&waits).contains("seen: k1, k2"), "{waits}");
}

#[tokio::test]
async fn with_a_passphrase_nothing_is_encrypted_anew() {
    let mut store = claim_store("1Gi");
    let keys = json!({"keys": {"passphraseRef": {"name": "mine"}}});
    store.spec.encryption = serde_json::from_value(keys).unwrap();
    let api = with(&store).await;
    let words = json!({"passphrase": "Y29ycmVjdCBob3JzZQ=="});
    api.put(MINE, &json!({"metadata": {"name": "mine"}, "data": words}));
    for spec in [anew(), compromise()] {
        api.put(ROTATION, &rotation("now", &spec));
        look(&api, &[]).await.unwrap();
        let said = api.get(ROTATION).unwrap()["status"].take();
        assert_eq!(failed(&said), "KeysFromPassphrase");
        assert!(message(&said).contains("passphrase"), "{said}");
    }
    untouched(&api);
}

#[tokio::test]
async fn an_operator_that_dies_at_any_call_is_followed_by_one_that_goes_on() {
    let mut faults = 0;
    for (name, spec) in [("now", anew()), ("seen", compromise())] {
        for fault in [Fault::Before, Fault::After] {
            for call in 0.. {
                let cluster = Box::pin(start("k1", &["k1"], &["web-0"])).await;
                cluster.ask(name, &spec);
                cluster.api.fail(call, fault);
                let at = || format!("{name}, {fault:?} at {call}");
                for _ in 0..LOOKS {
                    let status = cluster.status(name);
                    if status["completedAt"].is_string() {
                        break;
                    }
                    if status["phase"] == "Adding" {
                        write(&cluster.api, "k2", &["k1", "k2"]);
                    }
                    cluster.look().await;
                }
                let done = cluster.status(name);
                assert_eq!(done["phase"], "Completed", "{}: {done}", at());
                assert_eq!(reencrypted(&done), Some("True"), "{}: {done}", at());
                let key = if name == "seen" { "k2" } else { "k1" };
                assert_eq!((&done["from"], &done["to"]), (&json!("k1"), &json!(key)));
                assert_eq!(sealed(&cluster)[0].0, key, "{}", at());
                untouched(&cluster.api);
                if cluster.api.calls().len() <= call {
                    break;
                }
                faults += 1;
            }
        }
    }
    println!("calls at which the operator died: {faults}");
    assert!(faults > 60, "{faults}");
}
