//! Each kind of workload that may carry the label.

use codexstore_tests::objects::{self, IDLE};
use codexstore_tests::{Namespace, namespace, wait};
use serde_json::{Value, json};

const CLAIM: &str = "64Mi";

#[test]
fn a_deployment_has_a_store_in_each_replica() {
    let Some(ns) = namespace("deployment") else {
        return;
    };
    ns.store("orders", json!({}));
    let mut deployment = objects::deployment("web", "orders", objects::pod_spec(IDLE));
    deployment["spec"]["replicas"] = json!(2);
    ns.create(&deployment);
    let status = ns.status("orders", "two members are ready", |s| s["ready"] == "2/2");
    assert_eq!(status["readyMembers"], 2);
    assert_eq!(status["totalMembers"], 2);
    let pods = ns.pods_of("web");
    let names: Vec<_> = pods
        .iter()
        .filter_map(|p| p["metadata"]["name"].as_str())
        .collect();
    // The members are ready before their apps start.
    for name in &names {
        ns.pod_ready(name);
        assert_eq!(ns.put(name, "who", name), 201);
    }
    // Each pod has a store of its own.
    for name in &names {
        assert_eq!(ns.value(name, "who").as_deref(), Some(*name));
    }
    for member in status["members"].as_array().unwrap() {
        assert!(names.contains(&member["pod"].as_str().unwrap()), "{member}");
        assert_eq!(member["ready"], true);
        assert_eq!(member["keyId"], status["keyId"]);
    }
    ns.condition_is("orders", "Ready", "True");
}

#[test]
fn a_stateful_set_with_a_claim_has_its_data_again_after_its_pod_was_deleted() {
    let Some(ns) = namespace("statefulset") else {
        return;
    };
    ns.store("orders", json!({"volume": {"claim": {"size": CLAIM}}}));
    ns.create(&objects::stateful_set(
        "web",
        "orders",
        objects::pod_spec(IDLE),
    ));
    let first = ns.pod_ready("web-0");
    for i in 0..20 {
        assert_eq!(ns.put("web-0", &format!("k{i}"), &format!("v{i}")), 201);
    }
    ns.delete_and_wait("pods/web-0");
    let second = ns.pod_ready("web-0");
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    for i in 0..20 {
        assert_eq!(ns.value("web-0", &format!("k{i}")), Some(format!("v{i}")));
    }
    let claim = ns.get("persistentvolumeclaims/cxs-orders-web-0").unwrap();
    let owners = claim["metadata"]["ownerReferences"]
        .as_array()
        .map_or(0, Vec::len);
    assert_eq!(
        owners, 0,
        "reclaimPolicy Retain: nothing may collect the claim"
    );
}

#[test]
fn a_job_with_a_volume_of_its_own_completes_and_its_last_write_is_there() {
    let Some(ns) = namespace("job") else { return };
    ns.create(&objects::claim("work", CLAIM));
    ns.store("orders", json!({"volume": {"podVolume": "work"}}));
    // The write is the last thing that the app does: the sidecar must outlive it.
    let put = "exec curl -sf --unix-socket $CODEXSTORE_SOCKET -X PUT -d done http://s/v1/keys/last";
    ns.create(&objects::job("batch", "orders", on_claim(put)));
    ns.job_complete("batch");
    let get = "curl -sf --unix-socket $CODEXSTORE_SOCKET http://s/v1/keys/last";
    ns.create(&objects::job("check", "orders", on_claim(get)));
    ns.job_complete("check");
    let pods = ns.list("pods?labelSelector=app%3Dcheck");
    assert_eq!(
        ns.log(pods[0]["metadata"]["name"].as_str().unwrap(), "app"),
        "done"
    );
}

#[test]
fn a_cron_job_starts_by_itself_and_completes_with_a_store() {
    let Some(ns) = namespace("cronjob") else {
        return;
    };
    ns.store("orders", json!({}));
    let put = "curl -sf --unix-socket $CODEXSTORE_SOCKET -X PUT -d x http://s/v1/keys/run";
    let job = objects::job("tick", "orders", objects::pod_spec(put));
    ns.create(
        &json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": {
        "schedule": "* * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": job["spec"]}}}),
    );
    let name = wait::until("the schedule starts a run", wait::LONG, || {
        let jobs = ns.list("jobs");
        let name = jobs.first().and_then(|j| j["metadata"]["name"].as_str());
        name.map(String::from).ok_or("no job yet")
    });
    ns.job_complete(&name);
}

#[test]
fn the_first_and_the_last_action_of_an_app_reach_its_store() {
    let Some(ns) = namespace("first-last") else {
        return;
    };
    ns.store("orders", json!({"volume": {"claim": {"size": CLAIM}}}));
    // No retry anywhere: one refused connection ends the app with an error.
    let put = |key: &str| {
        format!(
            "curl -sf --unix-socket $CODEXSTORE_SOCKET -X PUT -d $CODEXSTORE_BOOT http://s/v1/keys/{key}"
        )
    };
    let script = format!(
        "set -e; {}; trap '{}; exit 0' TERM; while :; do sleep 0.2; done",
        put("first"),
        put("last")
    );
    let mut spec = objects::pod_spec(&script);
    spec["containers"][0]["env"] = json!([{"name": "CODEXSTORE_BOOT", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}]);
    ns.create(&objects::stateful_set("web", "orders", spec));
    let pod = ns.pod_ready("web-0");
    let uid = pod["metadata"]["uid"].as_str().map(String::from);
    // The pod is ready as soon as its app runs.
    wait::until("the first action is done", wait::SHORT, || {
        match ns.value("web-0", "first") {
            found if found == uid => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    let pod = ns.get("pods/web-0").unwrap();
    assert_eq!(
        pod["status"]["containerStatuses"][0]["restartCount"], 0,
        "the first action failed"
    );
    ns.delete_and_wait("pods/web-0");
    ns.pod_ready("web-0");
    assert_eq!(
        ns.value("web-0", "last"),
        uid,
        "the app's last write, during its termination"
    );
}

#[test]
fn a_pod_volume_that_the_pod_does_not_have_is_refused_by_name() {
    let Some(ns) = namespace("podvolume") else {
        return;
    };
    ns.store("orders", json!({"volume": {"podVolume": "work"}}));
    let message = ns.refused(&objects::pod("app", Some("orders")));
    assert!(message.contains("work"), "{message}");
}

#[test]
fn a_generated_pod_name_with_a_claim_is_refused_naming_stateful_set() {
    let Some(ns) = namespace("generated") else {
        return;
    };
    ns.store("orders", json!({"volume": {"claim": {"size": CLAIM}}}));
    ns.create(&objects::deployment(
        "web",
        "orders",
        objects::pod_spec(IDLE),
    ));
    let message = wait::until("the ReplicaSet says why", wait::SHORT, || {
        replica_failure(&ns)
    });
    assert!(message.contains("StatefulSet"), "{message}");
    assert!(ns.pods_of("web").is_empty());
    let mut pod = objects::pod("x", Some("orders"));
    pod["metadata"].as_object_mut().unwrap().remove("name");
    pod["metadata"]["generateName"] = json!("web-");
    let message = ns.refused(&pod);
    assert!(message.contains("StatefulSet"), "{message}");
}

fn replica_failure(ns: &Namespace) -> Result<String, String> {
    let deployment = ns.get("deployments/web").map_err(|e| e.to_string())?;
    let conditions = deployment["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let failure = conditions.iter().find(|c| c["type"] == "ReplicaFailure");
    failure
        .and_then(|c| c["message"].as_str().map(String::from))
        .ok_or(format!("{conditions:?}"))
}

fn on_claim(script: &str) -> Value {
    let mut spec = objects::pod_spec(script);
    spec["volumes"] = json!([{"name": "work", "persistentVolumeClaim": {"claimName": "work"}}]);
    spec
}
