//! Canaries: a store's keys, values, key bytes and tokens are nowhere but where they belong.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, SYSTEM, namespace, path_of, wait};
use serde_json::{Value, json};

use crate::backups::take;
use crate::restores::restore_is;
use crate::rotation::{rotation, rotation_is, signal};

/// A key, a value, and that in base64.
type Canary = [&'static str; 3];

/// There while everything is backed up, rotated and encrypted anew.
const BEFORE: Canary = [
    "canary-key-7f3a",
    "canary-value-91bc",
    "Y2FuYXJ5LXZhbHVlLTkxYmM",
];

/// Written behind that, under the new key.
const BEHIND: Canary = [
    "canary-key-52d0",
    "canary-value-3d2e",
    "Y2FuYXJ5LXZhbHVlLTNkMmU",
];

#[test]
fn no_key_value_or_token_is_in_any_log_event_status_or_metric() {
    let Some(ns) = namespace("secrecy") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store(
        "orders",
        json!({"volume": {"claim": {"size": "64Mi", "reclaimPolicy": "Delete"}},
            "backup": {"destination": {"claim": "backups"}, "continuous": {"interval": "1s"}}}),
    );
    ns.create(&objects::pod("app", Some("orders")));
    ns.pod_ready("app");
    use_and_misuse(&ns, BEFORE);
    let mut secrets = secrets_of(&ns);
    // Jobs and rotations have arguments and statuses of their own.
    take(&ns, "before");
    let mut anew = rotation("anew");
    anew["spec"]["reason"] = json!("Compromise");
    ns.create(&anew);
    let done = rotation_is(&ns, "anew", "it is done", |s| s["completedAt"].is_string());
    assert_eq!(done["phase"], "Completed", "{done}");
    assert_eq!(ns.value("app", BEFORE[0]).as_deref(), Some(BEFORE[1]));
    use_and_misuse(&ns, BEHIND);
    let now = secrets_of(&ns);
    assert!(now.len() > secrets.len(), "the new key is among them");
    secrets.extend(now);
    for [key, value, base64] in [BEFORE, BEHIND] {
        let all = [("a key", key), ("a value", value), ("base64", base64)];
        secrets.extend(all.map(|(what, text)| (what.to_owned(), text.to_owned())));
    }
    take(&ns, "after");
    ns.create(&json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore", "metadata": {"name": "back"},
        "spec": {"storeRef": {"name": "orders"}, "backupRef": {"name": "after"}}}));
    restore_is(&ns, "back", "it is restored", |s| s["phase"] == "Succeeded");
    ns.status("orders", "its member is ready", |s| s["ready"] == "1/1");
    ns.sh("app", "app", "true");

    let places = places(&ns);
    for (place, text) in &places {
        assert!(!text.is_empty(), "{place} is empty: nothing was looked at");
        for (what, secret) in &secrets {
            assert!(
                !text.contains(secret.as_str()),
                "{what} is in the {place}:\n{text}"
            );
        }
    }
    // The search can find: the name of the store is in the status.
    assert!(places.iter().any(|(_, text)| text.contains("orders")));
}

/// All that tells something, by name.
fn places(ns: &Namespace) -> Vec<(String, String)> {
    let mut places = vec![
        (
            "log of the sidecar".to_string(),
            ns.log("app", "codexstore"),
        ),
        (
            "metrics of the sidecar".into(),
            ns.http("app", "http://s/metrics").body,
        ),
        (
            "status of the sidecar".into(),
            ns.http("app", "http://s/v1/status").body,
        ),
        ("store".into(), ns.get("codexstores").unwrap().to_string()),
        ("events".into(), ns.get("events").unwrap().to_string()),
        ("pods".into(), ns.get("pods").unwrap().to_string()),
        ("jobs".into(), ns.get("jobs").unwrap().to_string()),
        (
            "rotations".into(),
            ns.get("codexkeyrotations").unwrap().to_string(),
        ),
        (
            "backups".into(),
            ns.get("codexbackups").unwrap().to_string(),
        ),
        (
            "restores".into(),
            ns.get("codexrestores").unwrap().to_string(),
        ),
        (
            "config maps".into(),
            ns.get("configmaps").unwrap().to_string(),
        ),
        (
            "events of the operator".into(),
            ns.cluster
                .get(&path_of(SYSTEM, "events"))
                .unwrap()
                .to_string(),
        ),
    ];
    // The archiver, and Jobs: those that verify have the keyring.
    for selector in ["codexstore.dev/archiver", "batch.kubernetes.io/job-name"] {
        let pods = ns.list(&format!(
            "pods?labelSelector={}",
            selector.replace('/', "%2F")
        ));
        assert!(!pods.is_empty(), "no pod has the label {selector}");
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let container = pod["spec"]["containers"][0]["name"].as_str().unwrap();
            places.push((format!("log of {name}"), log_of(ns, name, container)));
        }
    }
    for (pod, log) in ns.cluster.operator_logs() {
        assert!(log.lines().any(|l| l.contains("level")), "no log of {pod}");
        places.push((format!("log of {pod}"), log));
        let metrics = ns
            .cluster
            .text(&path_of(SYSTEM, &format!("pods/{pod}:8080/proxy/metrics")));
        let metrics = metrics.unwrap_or_else(|e| panic!("metrics of {pod}: {e}"));
        assert!(metrics.contains("codexstore_operator_"), "{metrics}");
        places.push((format!("metrics of {pod}"), metrics));
    }
    places
}

/// What a container has said: something, since the archiver may have asked for a backup just now, whose pod does not run yet.
#[track_caller]
fn log_of(ns: &Namespace, pod: &str, container: &str) -> String {
    wait::until(&format!("{pod} says something"), wait::SHORT, || {
        match ns.log(pod, container) {
            none if none.is_empty() => Err("its log is empty"),
            log => Ok(log),
        }
    })
}

/// Requests of each kind, good and bad, with a canary in them.
fn use_and_misuse(ns: &Namespace, [key, value, _]: Canary) {
    assert_eq!(ns.put("app", key, value), 201);
    assert_eq!(ns.value("app", key).as_deref(), Some(value));
    for arguments in [
        format!("-X PUT -d {value} -H 'If-Match: \"{value}\"' http://s/v1/keys/{key}"),
        format!("-X PUT -d {value} 'http://s/v1/keys/{key}?ttl={value}'"),
        format!("'http://s/v1/keys?prefix={key}&values=true&cursor={value}'"),
        format!(
            "-X POST -d '{{\"operations\":[{{\"op\":\"{value}\",\"key\":\"{key}\"}}]}}' http://s/v1/batch"
        ),
        format!("-X POST -d '{{\"{value}\"' http://s/v1/batch"),
        format!("-H 'Authorization: Bearer {value}' http://s/v1/{key}"),
        format!("-X {key} http://s/v1/keys/{key}"),
        format!(
            "-X PUT --data-binary '{value}' http://s/v1/keys/{}",
            key.repeat(100)
        ),
    ] {
        ns.http("app", &arguments);
    }
    ns.sh("app", "app", &format!("printf 'GET /{key} {value}\\r\\n\\r\\n' | timeout 5 socat -t 1 - UNIX-CONNECT:$CODEXSTORE_SOCKET"));
}

/// What is in the store's Secrets now, and its pod's token: each must not be found again.
fn secrets_of(ns: &Namespace) -> Vec<(String, String)> {
    let mut secrets = Vec::new();
    for name in [
        "cxs-orders-keyring",
        "cxs-orders-ca",
        "cxs-orders-server",
        "cxs-orders-client-operator",
    ] {
        let secret = ns.get(&format!("secrets/{name}")).unwrap();
        for (entry, data) in secret["data"].as_object().unwrap() {
            // Names of keys and certificates are no secrets.
            if ["current", "tls.crt", "ca.crt"].contains(&entry.as_str()) {
                continue;
            }
            let data = data.as_str().unwrap();
            // From the middle: a PEM file begins like any other.
            let middle = data.len().saturating_sub(24) / 2;
            secrets.push((
                format!("{name}/{entry} in base64"),
                data[middle..middle + 24].to_string(),
            ));
            let bytes = decode(data);
            if let Some(line) = std::str::from_utf8(&bytes)
                .ok()
                .and_then(|t| t.lines().nth(1))
            {
                secrets.push((format!("{name}/{entry} as text"), line.to_string()));
            }
            let mut hex = String::new();
            for byte in bytes.iter().rev().skip(40 % bytes.len()).take(12) {
                hex.insert_str(0, &format!("{byte:02x}"));
            }
            secrets.push((format!("{name}/{entry} in hexadecimal"), hex));
        }
    }
    let token = ns
        .sh(
            "app",
            "app",
            "cat /var/run/secrets/kubernetes.io/serviceaccount/token",
        )
        .out;
    assert!(token.len() > 100);
    secrets.push((
        "the API token".into(),
        token.split('.').next_back().unwrap_or_default().to_string(),
    ));
    // At least two of each Secret, and the token.
    assert!(secrets.len() >= 9, "{}", secrets.len());
    secrets
}

#[test]
fn a_sidecar_that_is_aborted_leaves_no_core_file_and_its_log_says_nothing_of_what_it_held() {
    let Some(ns) = namespace("core-file") else {
        return;
    };
    ns.store("orders", json!({}));
    // One process namespace and one user: so the app may send it signals, on any cluster.
    let mut spec = objects::pod_spec(IDLE);
    spec["shareProcessNamespace"] = json!(true);
    spec["securityContext"]["runAsUser"] = json!(65532);
    ns.create(&objects::pod_with("app", Some("orders"), spec));
    ns.pod_ready("app");
    let (key, value) = ("canary-key-7f3a", "canary-value-91bc");
    assert_eq!(ns.put("app", key, value), 201);
    // What the kernel makes no core file of belongs to root below /proc, whoever it runs as. (That it makes none then is for the
    // sidecar's own tests: where a core file would go to is the node's business, and no pod sees it.)
    let owner = "for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" in \
         /codexstore-sidecar\\ run*) stat -c %u $p/environ; stat -c %u /proc/self/environ;; esac; done";
    let owners = ns.sh("app", "app", owner).success("whose they are");
    assert_eq!(
        owners.split_whitespace().collect::<Vec<_>>(),
        ["0", "65532"]
    );
    signal(&ns, "app", "ABRT");
    wait::until("it was started anew", wait::LONG, || {
        match ns.sidecar_restarts("app") {
            1 => Ok(()),
            n => Err(n),
        }
    });
    let pod = ns.pod_ready("app");
    let all = pod["status"]["initContainerStatuses"].as_array().unwrap();
    let sidecar = all.iter().find(|c| c["name"] == "codexstore").unwrap();
    let ended = &sidecar["lastState"]["terminated"];
    assert_eq!(ended["exitCode"], 128 + 6, "{sidecar}");
    assert_eq!(ns.value("app", key).as_deref(), Some(value));
    let log = ns.log("app", "codexstore&previous=true");
    assert!(log.contains("\"level\""), "{log}");
    let events = ns.get("events").unwrap();
    for text in [log, pod.to_string(), events.to_string()] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn the_status_of_a_store_holds_names_and_numbers_only() {
    let Some(ns) = namespace("status") else {
        return;
    };
    ns.store("orders", json!({}));
    ns.create(&objects::pod("app", Some("orders")));
    ns.pod_ready("app");
    assert_eq!(ns.put("app", "a", "1"), 201);
    let status = ns.status("orders", "the member's numbers are there", |s| {
        s["members"][0]["keys"] == 1
    });
    let member: &Value = &status["members"][0];
    assert_eq!(member["pod"], "app");
    assert_eq!(member["state"], "Ready");
    assert!(
        member["revision"].as_u64().is_some_and(|r| r >= 1),
        "{member}"
    );
    assert_eq!(status["keyring"]["secretName"], "cxs-orders-keyring");
    assert_eq!(status["observedGeneration"], 1);
}

fn decode(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for c in text.bytes().take_while(|c| *c != b'=') {
        let six = alphabet.iter().position(|a| *a == c).expect("base64");
        bits = (bits << 6) | u32::try_from(six).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).unwrap());
        }
    }
    bytes
}
