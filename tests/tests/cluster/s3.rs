//! Backups in a bucket of a real S3 server, which checks signatures and takes uploads in parts.

use codexstore_tests::{Namespace, SYSTEM, namespace, objects, path_of, wait};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::backups::{backup, backup_is, take, verified};

const ACCESS: &str = "AKIDEXAMPLE";
const SECRET: &str = "correct-horse-battery-staple";

/// The Secret with what the server asks for.
pub fn credentials() -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"},
        "stringData": {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET}})
}

/// A server in the namespace: plain on port 7070, with TLS on 7443, and a shell beside it that sees its files in /data.
pub fn server(ns: &Namespace) {
    let host = format!("s3.{}.svc", ns.name);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![host])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    ns.create(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-tls"},
        "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()}}),
    );
    ns.create(
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s3-ca"},
        "data": {"ca.crt": certificate.pem()}}),
    );
    ns.create(&credentials());
    let image = std::env::var("CODEXSTORE_TEST_S3_IMAGE")
        .unwrap_or_else(|_| "localhost/codexstore-test-s3:1".into());
    let data = json!([{"name": "data", "mountPath": "/data"}, {"name": "tls", "mountPath": "/tls", "readOnly": true}]);
    let gateway = |name: &str, args: Value| {
        json!({"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "args": args, "volumeMounts": data,
            "env": [{"name": "ROOT_ACCESS_KEY", "value": ACCESS}, {"name": "ROOT_SECRET_KEY", "value": SECRET}],
            "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}})
    };
    let mut spec = objects::pod_spec(objects::IDLE);
    spec["securityContext"]["fsGroup"] = json!(10001);
    spec["shareProcessNamespace"] = json!(true);
    spec["volumes"] = json!([{"name": "data", "emptyDir": {}}, {"name": "tls", "secret": {"secretName": "s3-tls", "defaultMode": 0o440}}]);
    spec["containers"][0]["volumeMounts"] = data.clone();
    let mut make = objects::container("make", "mkdir /data/backups");
    make["volumeMounts"] = data.clone();
    spec["initContainers"] = json!([make]);
    let containers = spec["containers"].as_array_mut().unwrap();
    containers.push(gateway(
        "plain",
        json!(["--port", ":7070", "posix", "/data"]),
    ));
    containers.push(gateway(
        "tls",
        json!([
            "--port",
            ":7443",
            "--cert",
            "/tls/tls.crt",
            "--key",
            "/tls/tls.key",
            "posix",
            "/data"
        ]),
    ));
    ns.create(&objects::pod_with("s3", None, spec));
    ns.create(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s3"}, "spec": {
        "selector": {"app": "s3"},
        "ports": [{"name": "plain", "port": 7070}, {"name": "tls", "port": 7443}]}}),
    );
    ns.pod_ready("s3");
}

/// Sends a signal to both of its processes.
pub fn signal(ns: &Namespace, signal: &str) {
    let script = format!(
        r#"
for p in /proc/[0-9]*; do
  case "$(tr '\0' ' ' <$p/cmdline 2>/dev/null)" in /versitygw\ *) kill -{signal} ${{p#/proc/}} && echo sent;; esac
done"#
    );
    let printed = ns
        .sh("s3", "app", &script)
        .success("a signal to the server");
    assert_eq!(printed, "sent\nsent\n");
}

/// A bucket of that server, as a patch of a store.
pub fn destination(ns: &Namespace, bucket: &str, tls: bool) -> Value {
    let (scheme, port) = if tls { ("https", 7443) } else { ("http", 7070) };
    let mut s3 = json!({"bucket": bucket, "prefix": "team/a", "endpoint": format!("{scheme}://s3.{}.svc:{port}", ns.name),
        "credentialsRef": {"name": "s3"}});
    if tls {
        s3["caRef"] = json!({"name": "s3-ca"});
    }
    json!({"spec": {"backup": {"destination": {"s3": s3}}}})
}

/// The backups of members that are stored.
pub fn files(ns: &Namespace) -> String {
    ns.sh(
        "s3",
        "app",
        "cd /data/backups && find . -type f -name '*.backup'",
    )
    .out
}

#[track_caller]
fn fails(ns: &Namespace, name: &str) -> String {
    ns.create(&backup("orders", name));
    // Its Job has three tries, and waits longer before each.
    backup_is(ns, name, "a try has failed", |s| {
        s["conditions"][0]["reason"] == "TryFailed" || s["completedAt"].is_string()
    });
    let status = backup_is(ns, name, "it has ended", |s| s["completedAt"].is_string());
    assert_eq!(status["phase"], "Failed", "{status}");
    let message = status["message"].as_str().unwrap().to_owned();
    assert!(!message.contains(SECRET), "{message}");
    message
}

/// What the operator's metrics say of the destination of the store.
#[track_caller]
fn unreachable(ns: &Namespace, wanted: u8) {
    let line = format!(
        "codexstore_operator_backup_destination_unreachable{{namespace=\"{}\",store=\"orders\"}} {wanted}\n",
        ns.name
    );
    wait::until(&line, wait::SHORT, || {
        let pods = ns.cluster.operator_pods();
        let names = pods.iter().filter_map(|p| p["metadata"]["name"].as_str());
        let paths = names.map(|pod| path_of(SYSTEM, &format!("pods/{pod}:8080/proxy/metrics")));
        let mut all = paths.filter_map(|path| ns.cluster.text(&path).ok());
        if all.any(|metrics| metrics.contains(&line)) {
            Ok(())
        } else {
            Err("another value, or none")
        }
    });
}

#[test]
fn a_bucket_holds_backups_in_parts_over_tls_and_what_goes_wrong_is_told() {
    let Some(ns) = namespace("s3") else {
        return;
    };
    server(&ns);
    let mut spec = destination(&ns, "backups", false)["spec"].take();
    spec["backup"]["retention"] = json!({"keepLast": 10});
    ns.store("orders", spec);
    ns.create(&objects::pod("app-0", Some("orders")));
    ns.pod_ready("app-0");
    // More than one part of an upload.
    for key in ["a", "b", "c"] {
        let put = format!(
            "dd if=/dev/urandom of=/tmp/v bs=1M count=6 && curl -fsS --unix-socket $CODEXSTORE_SOCKET -T /tmp/v http://s/v1/keys/{key}"
        );
        ns.sh("app-0", "app", &put).success("put 6 MiB");
    }
    let first = take(&ns, "first");
    assert!(first["bytes"].as_i64().unwrap() > 18 << 20, "{first}");
    assert_eq!(
        first["location"],
        format!("s3://backups/team/a/{}/orders/first", ns.name)
    );
    assert_eq!(files(&ns).lines().count(), 1);
    ns.patch("codexstores/orders", &destination(&ns, "backups", true));
    assert_eq!(verified(&take(&ns, "over-tls")), Some("True"));

    // The server's own encryption is asked for; and of a week one backup is verified, which there is already.
    ns.patch(
        "codexstores/orders",
        &json!({"spec": {"backup": {"verify": "Weekly", "destination": {"s3": {"serverSideEncryption": "AES256"}}}}}),
    );
    ns.create(&backup("orders", "weekly"));
    let weekly = backup_is(&ns, "weekly", "it has ended", |s| {
        s["completedAt"].is_string()
    });
    assert_eq!(weekly["phase"], "Succeeded", "{weekly}");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(
        ns.get("jobs/cxb-weekly-verify")
            .is_err_and(|e| e.code == 404)
    );
    ns.delete_and_wait("codexbackups/weekly");
    ns.patch(
        "codexstores/orders",
        &json!({"spec": {"backup": {"verify": "Always", "destination": {"s3": {"serverSideEncryption": null}}}}}),
    );

    ns.patch("codexstores/orders", &destination(&ns, "nowhere", true));
    let why = fails(&ns, "no-bucket");
    assert!(why.contains("NoSuchBucket"), "{why}");
    unreachable(&ns, 1);
    ns.patch("codexstores/orders", &destination(&ns, "backups", true));
    ns.patch(
        "secrets/s3",
        &json!({"stringData": {"AWS_SECRET_ACCESS_KEY": "wrong"}}),
    );
    let why = fails(&ns, "bad-secret");
    assert!(why.contains("SignatureDoesNotMatch"), "{why}");
    ns.patch(
        "secrets/s3",
        &json!({"stringData": {"AWS_SECRET_ACCESS_KEY": SECRET}}),
    );

    // The server is away for a while: the Job goes on when it is back.
    ns.patch(
        "services/s3",
        &json!({"spec": {"selector": {"app": "nobody"}}}),
    );
    ns.create(&backup("orders", "patient"));
    backup_is(&ns, "patient", "it runs", |s| s["phase"] == "Running");
    std::thread::sleep(std::time::Duration::from_secs(5));
    let status = backup_is(&ns, "patient", "it still runs", |s| s["phase"].is_string());
    assert_eq!(status["phase"], "Running", "{status}");
    ns.patch("services/s3", &json!({"spec": {"selector": {"app": "s3"}}}));
    backup_is(&ns, "patient", "it is verified", |s| {
        verified(s) == Some("True")
    });
    unreachable(&ns, 0);

    assert_eq!(files(&ns).lines().count(), 3);
    ns.delete_and_wait("codexbackups/first");
    wait::until("its object is gone", wait::SHORT, || match files(&ns) {
        files if files.contains("/first/") => Err(files),
        _ => Ok(()),
    });
    assert_eq!(files(&ns).lines().count(), 2);

    // A server whose certificate nobody vouches for is not spoken to.
    ns.patch(
        "codexstores/orders",
        &json!({"spec": {"backup": {"destination": {"s3": {"caRef": null}}}}}),
    );
    // Each of its tries takes a minute, in which a server might come back: the first says it.
    ns.create(&backup("orders", "untrusted"));
    let status = backup_is(&ns, "untrusted", "a try has failed", |s| {
        s["conditions"][0]["reason"] == "TryFailed"
    });
    let why = status["message"].as_str().unwrap();
    assert!(why.to_lowercase().contains("certificate"), "{why}");
    assert_eq!(status["phase"], "Running", "{status}");
}
