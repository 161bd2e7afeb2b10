//! A rotation that began, and a keyring that is not good meanwhile.

use codexstore_api::status::ReencryptionState;
use codexstore_crds::rotation::Mode;
use serde_json::{Value, json};

use super::played::{Cluster, LONG_AGO, path};
use crate::controller::fake_member::Inside;
use crate::controller::scripted::{KEYRING, pair};

/// What holds a rotation up in a phase.
type Hold = fn(&mut Inside, bool);

const PHASES: [(&str, Hold); 2] = [
    ("Distributing", |inside, held| inside.stuck = held),
    ("Rewriting", |inside, held| {
        inside.ends = (!held).then_some(ReencryptionState::Done);
    }),
];

fn keyring(status: &Value) -> Option<(String, String)> {
    let mut all = status["conditions"].as_array()?.iter();
    let found = all.find(|c| c["type"] == "KeyringReady")?;
    Some(pair(found["status"].as_str()?, found["reason"].as_str()?))
}

fn message(status: &Value) -> &str {
    status["message"].as_str().unwrap_or_default()
}

/// One that is held up in this phase, and whose keyring was lost, said so, and put back behind the deadline.
async fn put_right(phase: &str, hold: Hold) -> Cluster {
    let cluster = Box::pin(Cluster::start(Mode::Reencrypt, &["web-0"])).await;
    cluster.members[0].with(|inside| hold(inside, true));
    cluster.ask("now", &json!({}));
    let waits = |s: &Value| s["phase"] == phase && message(s).starts_with("waiting until");
    cluster.until("now", "it waits", waits).await;
    let secret = cluster.api.remove(KEYRING).unwrap();
    let told = |s: &Value| message(s).contains("Secret cxs-orders-keyring is gone");
    let waits = cluster.until("now", "it says why", told).await;
    assert_eq!(waits["phase"], phase, "{waits}");
    assert_eq!(keyring(&waits), Some(pair("False", "SecretMissing")));
    let written = || cluster.api.count("PATCH", "codexkeyrotations/now/status");
    let before = written();
    for _ in 0..2 {
        cluster.look().await;
    }
    assert_eq!(written(), before, "that is written once");
    assert_eq!(
        cluster.api.told("WaitingForKeyring"),
        2,
        "of it and its store"
    );
    cluster.wait_for_the_deadline("now");
    cluster.api.put(KEYRING, &secret);
    let good = |s: &Value| keyring(s) == Some(pair("True", "KeyringReady"));
    cluster.until("now", "it goes on", good).await;
    cluster
}

#[tokio::test]
async fn a_rotation_that_began_says_what_is_wrong_with_the_keyring_and_goes_on_when_it_is_good() {
    for (phase, hold) in PHASES {
        let cluster = put_right(phase, hold).await;
        // It waits again for what it waited for.
        let waits = |s: &Value| message(s).starts_with("waiting until");
        let waiting = cluster.until("now", "it waits", waits).await;
        assert!(waiting["completedAt"].is_null(), "{waiting}");
        cluster.members[0].with(|inside| hold(inside, false));
        let done = cluster.done("now").await;
        assert_eq!(done["phase"], "Completed", "{done}");
    }
}

#[tokio::test]
async fn its_deadline_counts_from_when_the_keyring_was_good_again() {
    for (phase, hold) in PHASES {
        let cluster = put_right(phase, hold).await;
        let mut rotation = cluster.api.get(&path("now")).unwrap();
        for condition in rotation["status"]["conditions"].as_array_mut().unwrap() {
            condition["lastTransitionTime"] = json!(LONG_AGO);
        }
        cluster.api.put(&path("now"), &rotation);
        let done = cluster.done("now").await;
        assert_eq!(done["phase"], "Failed", "{done}");
        assert!(message(&done).contains("given up after 30 s"), "{done}");
    }
}
