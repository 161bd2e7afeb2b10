//! Full volumes: by the store's own budget, and by the disk itself.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, Reply, namespace, wait};
use serde_json::json;

#[test]
fn a_store_that_used_up_its_budget_refuses_writes_and_is_not_evicted() {
    let Some(ns) = namespace("budget") else {
        return;
    };
    ns.store(
        "orders",
        json!({"volume": {"ephemeral": {"sizeLimit": "64Mi"}}}),
    );
    ns.create(&objects::pod("app", Some("orders")));
    let uid = ns.pod_ready("app")["metadata"]["uid"].clone();
    check_full(&ns, "app");
    let pod = ns.pod_ready("app");
    assert_eq!(pod["metadata"]["uid"], uid);
    assert_eq!(ns.sidecar_restarts("app"), 0);
}

#[test]
fn a_full_64_mib_volume_refuses_writes_and_recovers() {
    let Some(ns) = namespace("ext4") else { return };
    ns.create(&objects::claim("small", "64Mi"));
    ns.store("orders", json!({"volume": {"podVolume": "small"}}));
    let volume = json!([{"name": "small", "persistentVolumeClaim": {"claimName": "small"}}]);
    let mut spec = objects::pod_spec(IDLE);
    spec["volumes"] = volume.clone();
    ns.create(&objects::pod_with("app", Some("orders"), spec));
    ns.pod_ready("app");
    for i in 0..4 {
        assert_eq!(put_random(&ns, "app", &format!("early-{i}")).status, 201);
    }
    // Another pod, that is no member, takes the rest of the disk, so that the store's own budget is not what ends it.
    let mut spec = objects::pod_spec(IDLE);
    spec["volumes"] = volume;
    spec["securityContext"]["fsGroup"] = json!(65532);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "small", "mountPath": "/small"}]);
    ns.create(&objects::pod_with("glutton", None, spec));
    ns.pod_ready("glutton");
    // Part of it: the store finds the disk full long before its own budget, and lives in what is left.
    eat(&ns, "dd if=/dev/zero of=/small/waste/most bs=1M count=16");
    check_full(&ns, "app");

    // All of it: now nothing can make room, and still nothing is lost.
    let df = eat(
        &ns,
        "i=0; while dd if=/dev/zero of=/small/waste/$i bs=64k count=16; do i=$((i+1)); done; \
         dd if=/dev/zero of=/small/waste/rest bs=512",
    );
    let free = df
        .split_whitespace()
        .nth(3)
        .and_then(|n| n.parse::<u64>().ok());
    assert!(
        free.is_some_and(|kib| kib < 64),
        "the disk is not full: {df}"
    );
    let mut count = 0;
    let full = wait::until("writes are refused", wait::SHORT, || {
        count += 1;
        match put_random(&ns, "app", &format!("more-{count}")) {
            reply if reply.status == 507 => Ok(reply),
            reply => Err(format!("{} {}", reply.status, reply.body)),
        }
    });
    assert_eq!(full.code(), "disk-full", "{full:?}");
    for i in 0..4 {
        let reply = ns.http("app", &format!("-o /dev/null http://s/v1/keys/early-{i}"));
        assert_eq!(reply.status, 200, "reads go on: {reply:?}");
    }
    let deleted = ns.http("app", "-X DELETE http://s/v1/keys/early-0");
    assert_eq!(deleted.status, 204, "deletes go on: {deleted:?}");

    ns.sh("glutton", "app", "rm -r /small/waste")
        .success("freeing the disk");
    wait::until("writes work again", wait::SHORT, || {
        match put_random(&ns, "app", "later") {
            reply if reply.status == 201 || reply.status == 204 => Ok(()),
            reply => Err(format!("{} {}", reply.status, reply.body)),
        }
    });
    assert_eq!(ns.http("app", "http://s/v1/keys/early-0").status, 404);
    assert_eq!(
        ns.http("app", "-o /dev/null http://s/v1/keys/early-1")
            .status,
        200
    );
    assert_eq!(ns.sidecar_restarts("app"), 0);
}

/// Lets the glutton take a part of the volume; the last line of `df`.
fn eat(ns: &Namespace, how: &str) -> String {
    let script = format!("mkdir -p /small/waste; {{ {how}; }} 2>/dev/null; df -k /small | tail -1");
    ns.sh("glutton", "app", &script).success("filling the disk")
}

/// Writes until the store is full; then reads must go on, deletes must make room, and a write must work again.
fn check_full(ns: &Namespace, pod: &str) {
    let mut count = 0;
    let full = loop {
        let reply = put_random(ns, pod, &format!("big-{count}"));
        if reply.status != 201 {
            break reply;
        }
        count += 1;
        assert!(count < 100, "100 MiB in a store of 64 MiB");
    };
    assert_eq!(
        (full.status, full.code().as_str()),
        (507, "disk-full"),
        "{full:?}"
    );
    assert!(count >= 4, "only {count} MiB fit");
    for i in 0..count {
        assert_eq!(
            ns.http(pod, &format!("-o /dev/null http://s/v1/keys/big-{i}"))
                .status,
            200
        );
    }
    for i in 0..count / 2 {
        let deleted = ns.http(pod, &format!("-X DELETE http://s/v1/keys/big-{i}"));
        assert_eq!(deleted.status, 204, "{deleted:?}");
    }
    wait::until("deletes made room", wait::SHORT, || {
        match put_random(ns, pod, "again") {
            reply if reply.status == 201 || reply.status == 204 => Ok(()),
            reply => Err(format!("{} {}", reply.status, reply.body)),
        }
    });
}

/// Puts a mebibyte that does not compress.
fn put_random(ns: &Namespace, pod: &str, key: &str) -> Reply {
    let script = format!(
        "head -c 1048576 /dev/urandom >/tmp/blob && curl -s --max-time 30 --unix-socket $CODEXSTORE_SOCKET -w '\\n%{{http_code}}' \
         -X PUT --data-binary @/tmp/blob http://s/v1/keys/{key}"
    );
    let output = ns.sh(pod, "app", &script);
    let (body, status) = output.out.rsplit_once('\n').unwrap_or(("", "0"));
    Reply {
        status: status.trim().parse().unwrap_or(0),
        body: format!("{body}{}", output.err),
    }
}
