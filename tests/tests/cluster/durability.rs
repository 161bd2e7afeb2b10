//! What was acknowledged is there after the sidecar was killed.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace, wait};
use serde_json::json;

/// Four writers, each with its own keys; a key is noted once its write was acknowledged. A failed write is tried again under a new key.
const LOAD: &str = r#"
for w in 1 2 3 4; do
  (i=0; while [ ! -e /tmp/stop ]; do
    i=$((i+1))
    if curl -sf --max-time 10 --unix-socket $CODEXSTORE_SOCKET -X PUT -d "value-$w-$i" http://s/v1/keys/load-$w-$i
    then echo load-$w-$i >>/tmp/acked-$w; else echo x >>/tmp/failed-$w; sleep 0.1; fi
  done; echo done >>/tmp/ended) &
done
trap 'exit 0' TERM; while :; do sleep 0.2; done
"#;

#[test]
fn every_acknowledged_write_is_there_after_kill_9_under_load_and_the_app_goes_on() {
    let Some(ns) = namespace("kill") else { return };
    ns.store("orders", json!({}));
    // One process namespace and one user: so the app may kill the sidecar, on any cluster.
    let mut spec = objects::pod_spec(LOAD);
    spec["shareProcessNamespace"] = json!(true);
    spec["securityContext"]["runAsUser"] = json!(65532);
    ns.create(&objects::pod_with("app", Some("orders"), spec));
    ns.pod_ready("app");
    for round in 1..=2 {
        let before = acked(&ns).len();
        wait::until("writes are acknowledged", wait::LONG, || {
            more_than(&ns, before + 100)
        });
        kill_sidecar(&ns, "app");
        wait::until("the sidecar was restarted", wait::LONG, || {
            match ns.sidecar_restarts("app") {
                n if n >= round => Ok(()),
                n => Err(format!("{n} restarts")),
            }
        });
        let after = acked(&ns).len();
        wait::until("the same app writes again", wait::LONG, || {
            more_than(&ns, after + 20)
        });
    }
    ns.sh("app", "app", "touch /tmp/stop").success("stop");
    wait::until("the writers ended", wait::SHORT, || {
        match ns.sh("app", "app", "wc -l </tmp/ended").out.trim() {
            "4" => Ok(()),
            n => Err(format!("{n} ended")),
        }
    });
    let failed = ns.sh("app", "app", "cat /tmp/failed-* | wc -l").out;
    assert_ne!(
        failed.trim(),
        "0",
        "no write failed: the kill was not under load"
    );
    let acked = acked(&ns);
    let there: std::collections::HashSet<_> = ns.keys("app", "load-").into_iter().collect();
    let lost: Vec<_> = acked.iter().filter(|k| !there.contains(*k)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged writes are lost: {lost:?}",
        lost.len(),
        acked.len()
    );
    for key in acked.iter().step_by(acked.len() / 10) {
        assert_eq!(ns.value("app", key), Some(key.replace("load", "value")));
    }
    let pod = ns.pod_ready("app");
    assert_eq!(
        pod["status"]["containerStatuses"][0]["restartCount"], 0,
        "the app was restarted"
    );
}

#[test]
fn an_ephemeral_store_survives_the_crash_of_its_containers() {
    let Some(ns) = namespace("crash") else { return };
    ns.store("orders", json!({}));
    let mut spec = objects::pod_spec(IDLE);
    spec["shareProcessNamespace"] = json!(true);
    spec["securityContext"]["runAsUser"] = json!(65532);
    ns.create(&objects::pod_with("app", Some("orders"), spec));
    ns.pod_ready("app");
    assert_eq!(ns.put("app", "k", "v"), 201);
    kill_sidecar(&ns, "app");
    wait::until("the sidecar was restarted", wait::LONG, || {
        match ns.sidecar_restarts("app") {
            0 => Err("not yet"),
            _ => Ok(()),
        }
    });
    ns.pod_ready("app");
    assert_eq!(ns.value("app", "k").as_deref(), Some("v"));
}

/// Kills the sidecar of a pod that shares its process namespace with an app of the same user.
#[track_caller]
pub fn kill_sidecar(ns: &Namespace, pod: &str) {
    let script = r#"
for p in /proc/[0-9]*; do
  case "$(tr '\0' ' ' <$p/cmdline 2>/dev/null)" in /codexstore-sidecar\ run*) kill -9 ${p#/proc/} && echo killed;; esac
done"#;
    let printed = ns.sh(pod, "app", script).success("kill of the sidecar");
    assert_eq!(printed.trim(), "killed");
}

fn acked(ns: &Namespace) -> Vec<String> {
    let lines = ns.sh("app", "app", "cat /tmp/acked-* 2>/dev/null").out;
    lines.lines().map(String::from).collect()
}

fn more_than(ns: &Namespace, count: usize) -> Result<(), String> {
    match acked(ns).len() {
        n if n > count => Ok(()),
        n => Err(format!("{n} acknowledged, more than {count} wanted")),
    }
}
