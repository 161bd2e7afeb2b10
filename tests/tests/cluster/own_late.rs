//! Members that get a key of the user's late, and rotations that take turns.

use codexstore_tests::namespace;
use codexstore_tests::objects;
use serde_json::json;

use crate::own_keys::{has_event, heals, nudge_pod, spec, untouched, write};
use crate::reencrypt::{is_anew, reencrypted, states, uid};
use crate::rotation::{members, needs, rotation, rotation_is, scale, signal, to_freeze};

#[test]
fn a_frozen_member_and_one_that_is_down_catch_up_and_two_rotations_take_turns() {
    let Some(ns) = namespace("own-keys-late") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    write(&ns, "k1", &["k1"]);
    ns.store("orders", spec("mine"));
    members(&ns, 2, to_freeze());
    for pod in ["web-0", "web-1"] {
        assert_eq!(ns.put(pod, "k", pod), 201);
    }
    scale(&ns, 1);
    // Two at once. The first waits for the user, and the second for the first.
    let mut one = rotation("one");
    one["spec"]["reason"] = json!("Compromise");
    ns.create(&one);
    rotation_is(&ns, "one", "it waits for a key", |s| s["phase"] == "Adding");
    let mut two = rotation("two");
    two["spec"]["mode"] = json!("Reencrypt");
    ns.create(&two);
    let waits = rotation_is(&ns, "two", "it waits", |s| s["phase"] == "Pending");
    let message = waits["message"].as_str().unwrap();
    assert!(message.contains("cxk/one is not done yet"), "{waits}");

    signal(&ns, "web-0", "STOP");
    write(&ns, "k2", &["k1", "k2"]);
    let waits = rotation_is(&ns, "one", "it says whom it waits for", |s| {
        let message = s["message"].as_str().unwrap_or_default();
        s["to"] == "k2" && message.contains("web-0")
    });
    signal(&ns, "web-0", "CONT");
    assert_eq!(
        (&waits["ready"], states(&waits)),
        (
            &json!("0/1"),
            vec!["web-0=Unreachable".to_owned(), "web-1=Away".to_owned()]
        ),
        "{waits}"
    );
    nudge_pod(&ns, "web-0");
    for (name, from) in [("one", "k1"), ("two", "k2")] {
        let done = rotation_is(&ns, name, "it is done", |s| s["completedAt"].is_string());
        let keys = (&done["phase"], &done["from"], &done["to"]);
        let wanted = (&json!("Completed"), &json!(from), &json!("k2"));
        assert_eq!(keys, wanted, "{done}");
        assert_eq!(states(&done), ["web-0=Done", "web-1=Away"]);
        assert_eq!(reencrypted(&done), Some("False"), "{done}");
    }
    is_anew(&ns, "web-0", &json!("k2"), &uid(&ns, "two"));

    scale(&ns, 2);
    heals(&ns, "web-1");
    for name in ["one", "two"] {
        rotation_is(&ns, name, "the one that was down caught up", |s| {
            reencrypted(s) == Some("True")
        });
    }
    is_anew(&ns, "web-1", &json!("k2"), &uid(&ns, "two"));
    for pod in ["web-0", "web-1"] {
        needs(&ns, pod, &["k2"]);
        assert_eq!(ns.value(pod, "k"), Some(pod.to_owned()));
    }
    has_event(&ns, "Reencrypted");
    untouched(&ns, "secrets/mine");
}
