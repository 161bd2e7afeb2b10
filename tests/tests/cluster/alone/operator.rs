//! The operator goes away, changes, moves: pods and data do not notice. These tests have the cluster to themselves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Cluster, Namespace, RELEASE, SYSTEM, exclusive, path_of, wait};
use serde_json::json;

#[test]
fn with_the_leader_killed_the_other_replica_reconciles_and_admits() {
    let Some((cluster, _alone)) = exclusive() else {
        return;
    };
    let ns = Namespace::alone(cluster, "leader");
    ns.store("orders", json!({}));
    let leader = leader(cluster);
    cluster.kill_pod(SYSTEM, &leader).unwrap();
    // At once: the webhook needs no leader.
    let admitted = wait::until("a replica admits", wait::SHORT, || {
        ns.dry_run(&objects::pod("app", Some("orders")))
    });
    assert_eq!(admitted["spec"]["initContainers"][0]["name"], "codexstore");
    ns.store("later", json!({}));
    assert_ne!(self::leader(cluster), leader);
    ns.create(&objects::pod("app", Some("later")));
    ns.pod_ready("app");
    ns.status("later", "its member is ready", |s| s["ready"] == "1/1");
    cluster.operator_ready();
}

#[test]
fn with_all_of_the_operator_killed_pods_go_on_and_it_takes_up_where_it_was() {
    let Some((cluster, _alone)) = exclusive() else {
        return;
    };
    let ns = Namespace::alone(cluster, "killed");
    ns.store("orders", json!({}));
    ns.create(&objects::pod("app", Some("orders")));
    ns.pod_ready("app");
    // In the middle of its work: stores are created while it dies, again and again.
    for round in 0..3 {
        for n in 0..3 {
            ns.create(&objects::store(&format!("s{round}-{n}"), json!({})));
        }
        for pod in cluster.operator_pods() {
            let name = pod["metadata"]["name"].as_str().unwrap();
            cluster.kill_pod(SYSTEM, name).unwrap();
        }
        assert!(
            ns.put("app", "k", &round.to_string()) < 300,
            "the app needs no operator"
        );
    }
    cluster.operator_ready();
    for round in 0..3 {
        for n in 0..3 {
            ns.condition_is(&format!("s{round}-{n}"), "KeysReady", "True");
        }
    }
    // Each store has one keyring with one key, and the record of it.
    for round in 0..3 {
        for n in 0..3 {
            let name = format!("cxs-s{round}-{n}-keyring");
            let secret = ns.get(&format!("secrets/{name}")).unwrap();
            assert_eq!(
                secret["data"].as_object().unwrap().len(),
                2,
                "{name}: current, and one key"
            );
            let record = ns.get(&format!("configmaps/{name}")).unwrap();
            assert_eq!(record["data"]["secretUid"], secret["metadata"]["uid"]);
        }
    }
    ns.status("orders", "its member is ready", |s| s["ready"] == "1/1");
    assert_eq!(ns.value("app", "k").as_deref(), Some("2"));
}

#[test]
fn helm_upgrade_refuses_no_pod_and_keeps_the_webhooks_trust() {
    let Some((cluster, _alone)) = exclusive() else {
        return;
    };
    let ns = Namespace::alone(cluster, "upgrade");
    ns.store("orders", json!({}));
    ns.create(&objects::pod("app", Some("orders")));
    ns.pod_ready("app");
    let bundle = || {
        let path = path_of("", &format!("mutatingwebhookconfigurations/{RELEASE}"));
        cluster.get(&path).unwrap()["webhooks"][0]["clientConfig"]["caBundle"].clone()
    };
    let before = bundle();
    let upgrading = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut answers = 0;
            while upgrading.load(Ordering::Relaxed) {
                let pod = objects::pod(&format!("p{answers}"), Some("orders"));
                let made = ns
                    .dry_run(&pod)
                    .unwrap_or_else(|e| panic!("refused during the upgrade: {e}"));
                assert_eq!(made["spec"]["initContainers"][0]["name"], "codexstore");
                answers += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            answers
        });
        let stop = StopOnDrop(&upgrading);
        upgrade(
            cluster,
            &[
                "--reuse-values",
                "--set",
                "operator.podAnnotations.test=upgraded",
            ],
        );
        cluster.operator_ready();
        drop(stop);
        assert!(asked.join().expect("no pod is refused") > 10);
    });
    assert_eq!(bundle(), before);
    assert!(
        cluster
            .operator_pods()
            .iter()
            .all(|p| p["metadata"]["annotations"]["test"] == "upgraded")
    );
    ns.store("later", json!({}));
    ns.status("orders", "its member is ready", |s| s["ready"] == "1/1");
    upgrade(cluster, &["--reset-values"]);
    cluster.operator_ready();
}

#[test]
fn uninstall_leaves_data_and_pods_alone_and_removes_the_webhook() {
    let Some((cluster, _alone)) = exclusive() else {
        return;
    };
    let ns = Namespace::alone(cluster, "uninstall");
    ns.store("orders", json!({"volume": {"claim": {"size": "64Mi"}}}));
    ns.create(&objects::stateful_set(
        "web",
        "orders",
        objects::pod_spec(IDLE),
    ));
    let pod = ns.pod_ready("web-0");
    assert_eq!(ns.put("web-0", "k", "v"), 201);
    let keyring = ns.get("secrets/cxs-orders-keyring").unwrap();

    cluster
        .helm(&["-n", SYSTEM, "uninstall", RELEASE, "--wait"])
        .success("helm uninstall");
    for kind in [
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
    ] {
        let left = cluster.get(&path_of("", kind)).unwrap();
        let ours = left["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c["metadata"]["name"] == RELEASE)
            .count();
        assert_eq!(ours, 0, "{kind}");
    }
    assert_eq!(ns.value("web-0", "k").as_deref(), Some("v"));
    assert_eq!(ns.put("web-0", "k", "without operator"), 204);
    let same = ns.get("pods/web-0").unwrap();
    assert_eq!(same["metadata"]["uid"], pod["metadata"]["uid"]);
    assert_eq!(
        ns.get("secrets/cxs-orders-keyring").unwrap()["data"],
        keyring["data"]
    );
    ns.get("persistentvolumeclaims/cxs-orders-web-0")
        .expect("the claim");
    ns.get("codexstores/orders").expect("the store");
    // As the notes of the chart warn: a labelled pod now starts without its store.
    let bare = ns.dry_run(&objects::pod("bare", Some("orders"))).unwrap();
    assert_eq!(bare["spec"]["initContainers"], json!(null));

    // Installed again, it goes on with what is there.
    cluster.install();
    ns.delete_and_wait("pods/web-0");
    let uid = &ns.pod_ready("web-0")["metadata"]["uid"];
    assert_eq!(ns.value("web-0", "k").as_deref(), Some("without operator"));
    // Of the pod before there is such a status too.
    ns.status("orders", "its new member is ready", |s| {
        s["ready"] == "1/1" && s["members"][0]["podUid"] == *uid
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Changes the release, and waits until that is there.
#[track_caller]
pub fn upgrade(cluster: &Cluster, args: &[&str]) {
    let all = [
        &[
            "-n",
            SYSTEM,
            "upgrade",
            RELEASE,
            "charts/codexstore",
            "--wait",
            "--timeout=180s",
        ],
        args,
    ]
    .concat();
    cluster.helm(&all).success("helm upgrade");
}

/// The pod that holds the Lease.
#[track_caller]
fn leader(cluster: &Cluster) -> String {
    wait::until("a leader", wait::SHORT, || cluster.leader())
}
