//! Requests that no client should send: each gets a clear error or a deadline, and the store serves on.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{CURL, Namespace, namespace};
use serde_json::json;

/// Raw bytes to the socket; at the end of the input it closes its half and waits a little for the answer.
const RAW: &str = "timeout 20 socat -t 3 - UNIX-CONNECT:$CODEXSTORE_SOCKET";

#[test]
fn malformed_huge_slow_and_half_closed_requests_do_no_harm() {
    let Some(ns) = namespace("protocol") else {
        return;
    };
    ns.store("orders", json!({}));
    let mut spec = objects::pod_spec(IDLE);
    // One process namespace, so that the app's container sees what the sidecar's process takes.
    spec["shareProcessNamespace"] = json!(true);
    ns.create(&objects::pod_with("app", Some("orders"), spec));
    ns.pod_ready("app");
    assert_eq!(ns.put("app", "k", "v"), 201);

    ns.sh("app", "app", "command -v socat")
        .success("the test image has socat");
    malformed(&ns);
    redis(&ns);
    huge(&ns);
    slow_and_half_closed(&ns);

    assert_eq!(ns.value("app", "k").as_deref(), Some("v"));
    assert_eq!(ns.sidecar_restarts("app"), 0);
    let log = ns.log("app", "codexstore");
    assert!(!log.contains("panicked"), "{log}");
    let peak = sidecar_memory(&ns, "app", "VmHWM");
    assert!(
        peak < 100 << 20,
        "the sidecar took {peak} bytes at its peak"
    );
}

/// The socket of the Redis protocol, by its variable: the same keys, and what is not the protocol is told so.
fn redis(ns: &Namespace) {
    let ask = |bytes: &str| {
        let socat = "timeout 20 socat -t 3 - UNIX-CONNECT:$CODEXSTORE_REDIS_SOCKET";
        let said = ns.sh("app", "app", &format!("printf '{bytes}' | {socat}"));
        said.out.trim().replace("\r\n", "|")
    };
    assert_eq!(ask(r"GET k\r\n"), "$1|v");
    assert_eq!(ask(r"SET redis w EX 100\r\nINCR n\r\n"), "+OK|:1");
    assert_eq!(ns.value("app", "redis").as_deref(), Some("w"));
    assert_eq!(ask(r"DEL redis n\r\n"), ":2");
    let said = ask(r"*1\r\n:1\r\nPING\r\n");
    assert_eq!(said, "-ERR Protocol error: expected '$'");
}

fn malformed(ns: &Namespace) {
    for (what, bytes) in [
        ("no HTTP", "hello there\\r\\n\\r\\n"),
        ("binary", "\\000\\001\\377\\376\\r\\n\\r\\n"),
        ("a bad version", "GET / HTTP/9.9\\r\\nHost: s\\r\\n\\r\\n"),
        (
            "two lengths",
            "PUT /v1/keys/x HTTP/1.1\\r\\nHost: s\\r\\nContent-Length: 1\\r\\nContent-Length: 2\\r\\n\\r\\nab",
        ),
        (
            "a negative length",
            "PUT /v1/keys/x HTTP/1.1\\r\\nHost: s\\r\\nContent-Length: -1\\r\\n\\r\\n",
        ),
    ] {
        let answer = ns
            .sh("app", "app", &format!("printf '{bytes}' | {RAW}"))
            .out;
        assert!(answer.starts_with("HTTP/1.1 400"), "{what}: {answer:?}");
    }
    for (what, arguments, status) in [
        ("an unknown path", "http://s/v2/keys/x", 404),
        ("an unknown method", "-X PATCH http://s/v1/keys/x", 405),
        ("an empty key", "-X PUT -d v http://s/v1/keys/", 400),
        ("a bad escape", "http://s/v1/keys/%ZZ", 400),
        (
            "a bad ttl",
            "-X PUT -d v 'http://s/v1/keys/x?ttl=soon'",
            400,
        ),
        ("a bad limit", "'http://s/v1/keys?limit=many'", 400),
        ("a foreign cursor", "'http://s/v1/keys?cursor=!!!'", 400),
        (
            "a batch that is no JSON",
            "-X POST -d '{' http://s/v1/batch",
            400,
        ),
        (
            "a batch of unknown operations",
            "-X POST -d '{\"operations\":[{\"op\":\"launch\"}]}' http://s/v1/batch",
            400,
        ),
        (
            "a deletion of everything by mistake",
            "-X DELETE 'http://s/v1/keys?prefix='",
            400,
        ),
    ] {
        let reply = ns.http("app", arguments);
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        assert!(!reply.code().is_empty(), "{what} has no code: {reply:?}");
        assert!(!reply.kind().is_empty(), "{what} has no kind: {reply:?}");
    }
}

fn huge(ns: &Namespace) {
    // 9 MiB is beyond the limit of 8 MiB; sent with a length, and without one.
    for how in ["", "-H 'Transfer-Encoding: chunked'"] {
        let script = format!(
            "head -c 9437184 /dev/zero | curl -s --max-time 30 --unix-socket $CODEXSTORE_SOCKET -w '\\n%{{http_code}}' -X PUT {how} \
             -H Expect: --data-binary @- http://s/v1/keys/huge"
        );
        let answer = ns.sh("app", "app", &script).out;
        assert!(answer.trim_end().ends_with("413"), "{how}: {answer}");
    }
    let key = "k".repeat(1025);
    let long = ns.http("app", &format!("-X PUT -d v http://s/v1/keys/{key}"));
    assert!(
        matches!(long.status, 400 | 413 | 414),
        "a key of 1,025 bytes: {long:?}"
    );
    let script = "curl -s --max-time 30 --unix-socket $CODEXSTORE_SOCKET -o /dev/null -w '%{http_code}' \
                  -H \"X-Big: $(head -c 100000 /dev/zero | tr '\\0' a)\" http://s/v1/keys/k";
    let header = ns.sh("app", "app", script).out;
    assert!(
        header.contains("431") || header.contains("400") || header.contains("000"),
        "a header of 100 kB: {header}"
    );
    assert_eq!(ns.http("app", "http://s/v1/keys/huge").status, 404);
}

fn slow_and_half_closed(ns: &Namespace) {
    // A hundred connections that never finish their request: others are served meanwhile.
    let script = format!(
        "for i in $(seq 100); do (printf 'PUT /v1/keys/slow HTTP/1.1\\r\\nHost: s\\r\\nContent-Length: 10\\r\\n\\r\\nab'; sleep 15) | \
         {RAW} >/dev/null 2>&1 & done; sleep 1; {CURL} -o /dev/null -w '%{{http_code}}' http://s/v1/keys/k; \
         kill $(jobs -p) 2>/dev/null; true"
    );
    assert_eq!(ns.sh("app", "app", &script).out.trim(), "200");
    // A head that does not end has 10 s.
    let script = format!("(printf 'GET /v1/ke'; sleep 15) | {RAW}");
    let answer = ns.sh("app", "app", &script).out;
    assert!(
        answer.starts_with("HTTP/1.1 408"),
        "a slow head: {answer:?}"
    );
    // A body that ends before its length, and a connection that ends in the middle of a line.
    for bytes in [
        "PUT /v1/keys/half HTTP/1.1\\r\\nHost: s\\r\\nContent-Length: 100\\r\\n\\r\\nhalf",
        "GET /v1/ke",
    ] {
        let ended = ns.sh("app", "app", &format!("printf '{bytes}' | {RAW}"));
        assert!(ended.ok, "half a request was held: {ended:?}");
        assert!(
            !ended.out.starts_with("HTTP/1.1 2"),
            "half a request was accepted: {ended:?}"
        );
    }
    for key in ["slow", "half"] {
        assert_eq!(
            ns.http("app", &format!("http://s/v1/keys/{key}")).status,
            404,
            "{key}: half a value was stored"
        );
    }
}

/// What the process of the sidecar takes, in bytes: `VmRSS` now, `VmHWM` at its peak. The pod shares its process namespace.
#[track_caller]
pub fn sidecar_memory(ns: &Namespace, pod: &str, field: &str) -> u64 {
    let script = format!(
        "for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" in \
         /codexstore-sidecar\\ run*) grep {field} $p/status;; esac; done"
    );
    let line = ns.sh(pod, "app", &script).success("looking at the process");
    let kib = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no {field}: {line:?}")) * 1024
}

#[test]
fn the_metrics_of_a_member_are_scraped_over_its_pods_network() {
    let Some(ns) = namespace("metrics") else {
        return;
    };
    ns.store("orders", json!({"metrics": {}}));
    ns.create(&objects::pod("app", Some("orders")));
    ns.pod_ready("app");
    assert_eq!(ns.put("app", "k", "v"), 201);
    // As a scraper finds it: by the port's name.
    let pod = ns.get("pods/app").unwrap();
    let inits = pod["spec"]["initContainers"].as_array().unwrap();
    let sidecar = inits.iter().find(|c| c["name"] == "codexstore").unwrap();
    let mut ports = sidecar["ports"].as_array().unwrap().iter();
    let port = ports.find(|p| p["name"] == "cxs-metrics").unwrap();
    let path = format!("pods/app:{}/proxy/metrics", port["containerPort"]);
    let text = ns.cluster.text(&ns.path(&path)).unwrap();
    assert!(text.contains("\ncodexstore_keys 1"), "{text}");
}
