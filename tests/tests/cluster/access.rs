//! `spec.access`: containers of one pod with different users do what the rules give them.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{CURL, namespace};
use serde_json::json;

#[test]
fn containers_with_different_users_have_the_access_that_rules_give_them() {
    let Some(ns) = namespace("access") else {
        return;
    };
    ns.store(
        "orders",
        json!({"access": [
            {"uids": [10001], "verbs": ["Read", "Write"]},
            {"gids": [20000], "prefixes": ["audit/"], "verbs": ["Read"]},
        ]}),
    );
    let mut spec = objects::pod_spec(IDLE);
    let mut auditor = objects::container("auditor", IDLE);
    auditor["securityContext"]["runAsUser"] = json!(10002);
    auditor["securityContext"]["runAsGroup"] = json!(20000);
    spec["containers"].as_array_mut().unwrap().push(auditor);
    ns.create(&objects::pod_with("app", Some("orders"), spec));
    ns.pod_ready("app");
    let ask = |container: &str, arguments: &str| {
        let script = format!("{CURL} -o /dev/null -w '%{{http_code}}' {arguments}");
        ns.sh("app", container, &script).out.trim().to_owned()
    };
    for (container, arguments, status) in [
        ("app", "-X PUT -d v http://s/v1/keys/audit%2F1", "201"),
        ("app", "-X PUT -d v http://s/v1/keys/secret", "201"),
        ("auditor", "http://s/v1/keys/audit%2F1", "200"),
        ("auditor", "-X PUT -d v http://s/v1/keys/audit%2F1", "403"),
        ("auditor", "http://s/v1/keys/secret", "403"),
        ("app", "http://s/v1/keys/secret", "200"),
    ] {
        assert_eq!(
            ask(container, arguments),
            status,
            "{container}: {arguments}"
        );
    }
    let listed = ns
        .sh("app", "auditor", &format!("{CURL} http://s/v1/keys"))
        .out;
    assert!(
        listed.contains("audit/1") && !listed.contains("secret"),
        "{listed}"
    );

    // A rule for nobody is refused by the API server, with what to write.
    let nobody = objects::store("nobody", json!({"access": [{"verbs": ["Read"]}]}));
    let refused = ns.refused(&nobody);
    assert!(refused.contains("give it uids, gids or both"), "{refused}");
    // So is one for those that the kernel cannot name.
    let overflow = json!({"access": [{"uids": [65_534], "verbs": ["Read"]}]});
    let refused = ns.refused(&objects::store("overflow", overflow));
    assert!(refused.contains("that it cannot name"), "{refused}");
}
