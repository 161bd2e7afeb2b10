use super::super::fake_api::FakeApi;
use super::super::fixtures::{pod, store};
use super::super::scripted::{STORE, operator};
use super::*;

const BACKUP: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexbackups/now";

#[tokio::test]
async fn one_that_cannot_be_verified_for_long_is_written_down_once() {
    let api = FakeApi::start().await;
    let mut store = store();
    let policy = json!({"destination": {"claim": "b"}, "verify": "Always"});
    store.spec.backup = serde_json::from_value(policy).unwrap();
    api.put(STORE, &store);
    let metadata =
        json!({"name": "now", "namespace": "shop", "finalizers": [names::STORED_FINALIZER]});
    let failed = json!({"metadata": {"name": "cxb-now-verify", "namespace": "shop"}, "status": {"conditions": [
        {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "limit"}]}});
    api.put(
        "/apis/batch/v1/namespaces/shop/jobs/cxb-now-verify",
        &failed,
    );
    let operator = operator(&api);
    let mut conditions = json!([]);
    for _ in 0..3 {
        // What its Job wrote stays beside it.
        let status =
            json!({"phase": "Succeeded", "destination": {"claim": "b"}, "conditions": conditions});
        let seen = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": metadata,
            "spec": {"storeRef": {"name": "orders"}}, "status": status});
        api.put(BACKUP, &seen);
        let seen = serde_json::from_value(seen).unwrap();
        look(&seen, &operator, None).await.unwrap();
        conditions = api.get(BACKUP).unwrap()["status"]["conditions"].take();
        assert_eq!(
            (&conditions[0]["type"], &conditions[0]["status"]),
            (&json!("Verified"), &json!("Unknown"))
        );
    }
    assert_eq!(api.count("PATCH", "codexbackups/now/status"), 1);
}

const JOB: &str = "/apis/batch/v1/namespaces/shop/jobs/cxb-now-backup";

/// A store with a destination, and a backup whose Job is in this state.
async fn taken(status: Value, conditions: Value) -> FakeApi {
    let api = FakeApi::start().await;
    let mut store = store();
    let policy = json!({"destination": {"claim": "b"}, "verify": "Never"});
    store.spec.backup = serde_json::from_value(policy).unwrap();
    api.put(STORE, &store);
    let job = json!({"metadata": {"name": "cxb-now-backup", "namespace": "shop"}, "status": {"conditions": conditions}});
    api.put(JOB, &job);
    told(&api, &status);
    api
}

/// What the Job's pod wrote.
fn told(api: &FakeApi, status: &Value) {
    let metadata = json!({"name": "now", "namespace": "shop", "uid": "b", "finalizers": [names::STORED_FINALIZER]});
    let backup = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": metadata,
        "spec": {"storeRef": {"name": "orders"}}, "status": status});
    api.put(BACKUP, &backup);
}

/// One look by an operator that has just started; the status then.
async fn look_at(api: &FakeApi) -> Value {
    let backup = serde_json::from_value(api.get(BACKUP).unwrap()).unwrap();
    look(&backup, &operator(api), None).await.unwrap();
    api.get(BACKUP).unwrap()["status"].take()
}

fn failed_try() -> Value {
    let completed = json!({"type": "Completed", "status": "False", "reason": "TryFailed", "message": "web-0: no answer",
        "lastTransitionTime": "2026-11-01T00:00:00Z"});
    json!({"phase": "Running", "startedAt": "2026-11-01T00:00:00Z", "message": "a try failed", "conditions": [completed],
        "destination": {"claim": "b"}, "directory": "shop/orders/now",
        "members": [{"pod": "web-0", "stored": false, "message": "no answer"}]})
}

fn job_failed() -> Value {
    json!([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "limit"}])
}

#[tokio::test]
async fn a_try_that_failed_is_not_the_end_while_the_job_has_others() {
    let api = taken(failed_try(), json!([])).await;
    // Between two of its pods, and as it was told that a third one failed.
    for conditions in [
        json!([]),
        json!([{"type": "FailureTarget", "status": "True"}]),
    ] {
        let job = json!({"metadata": {"name": "cxb-now-backup", "namespace": "shop"}, "status": {"conditions": conditions}});
        api.put(JOB, &job);
        assert_eq!(look_at(&api).await["phase"], "Running");
    }
    assert_eq!(api.writes(), 0, "{:?}", api.calls());
    // The next one stores it.
    told(
        &api,
        &json!({"phase": "Succeeded", "completedAt": "2026-11-01T00:01:00Z"}),
    );
    api.put(
        JOB,
        &json!({"metadata": {"name": "cxb-now-backup", "namespace": "shop"},
        "status": {"conditions": [{"type": "Complete", "status": "True"}]}}),
    );
    assert_eq!(look_at(&api).await["phase"], "Succeeded");
    assert_eq!(api.events(), []);
}

#[tokio::test]
async fn a_job_that_has_failed_ends_its_backup_with_what_its_last_try_said() {
    let api = taken(failed_try(), job_failed()).await;
    let status = look_at(&api).await;
    assert_eq!(status["phase"], "Failed", "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("web-0: no answer (job/"), "{message}");
    assert!(message.contains("BackoffLimitExceeded"), "{message}");
    assert!(status["completedAt"].is_string() && status["duration"].is_string());
    let completed = &status["conditions"][0];
    assert_eq!(
        (&completed["status"], &completed["reason"]),
        (&json!("False"), &json!("Failed"))
    );
    // What is known of it stays: without the directory, nothing would be deleted with it.
    assert_eq!(status["directory"], "shop/orders/now");
    assert_eq!(status["members"][0]["pod"], "web-0");
    let events: Vec<_> = ["now", "orders"]
        .map(|of| ("BackupFailed".to_owned(), of.to_owned()))
        .into();
    let mut found = api.events();
    found.sort();
    assert_eq!(found, events);
    // It is the end.
    look_at(&api).await;
    assert_eq!(api.count("PATCH", "codexbackups/now/status"), 1);
}

#[tokio::test]
async fn the_pod_of_a_member_that_no_try_stored_is_told_so_once() {
    let mut tried = failed_try();
    let other = json!({"pod": "web-1", "stored": true});
    tried["members"].as_array_mut().unwrap().push(other);
    let api = taken(tried, job_failed()).await;
    for name in ["web-0", "web-1", "web-2"] {
        let path = format!("/api/v1/namespaces/shop/pods/{name}");
        api.put(&path, &pod(name));
    }
    for _ in 0..2 {
        look_at(&api).await;
    }
    let all = api.whole_events();
    let mut pods = all.iter().filter(|e| e["regarding"]["kind"] == "Pod");
    let told = pods.next().unwrap();
    assert_eq!(
        (&told["reason"], &told["regarding"]["uid"]),
        (&json!("BackupFailed"), &json!("web-0-uid"))
    );
    let note = told["note"].as_str().unwrap();
    assert!(
        note.contains("backup now") && note.contains("no answer"),
        "{note}"
    );
    assert_eq!(pods.next(), None);
}

#[tokio::test]
async fn that_it_was_the_destination_is_still_known_when_the_job_has_failed() {
    let mut tried = failed_try();
    let unreachable = json!({"type": "DestinationUnreachable", "status": "True", "reason": "DestinationFailed", "message": "no answer",
        "lastTransitionTime": "2026-11-01T00:00:00Z"});
    tried["conditions"]
        .as_array_mut()
        .unwrap()
        .push(unreachable);
    let api = taken(tried, job_failed()).await;
    let status = look_at(&api).await;
    assert_eq!(status["conditions"][0]["reason"], "Failed", "{status}");
    let status: CodexBackupStatus = serde_json::from_value(status).unwrap();
    assert!(status.unreachable() && status.conditions.len() == 2);
    let api = taken(failed_try(), job_failed()).await;
    let status = serde_json::from_value(look_at(&api).await);
    assert!(!CodexBackupStatus::unreachable(&status.unwrap()));
}

#[tokio::test]
async fn the_end_that_a_job_wrote_wins_over_one_that_is_seen_late() {
    let api = taken(failed_try(), job_failed()).await;
    let cached: CodexBackup = serde_json::from_value(api.get(BACKUP).unwrap()).unwrap();
    told(
        &api,
        &json!({"phase": "Succeeded", "completedAt": "2026-11-01T00:01:00Z"}),
    );
    look(&cached, &operator(&api), None).await.unwrap();
    assert_eq!(api.get(BACKUP).unwrap()["status"]["phase"], "Succeeded");
    assert_eq!(api.writes(), 0, "{:?}", api.calls());
}

#[tokio::test]
async fn dying_at_any_call_ends_a_failed_backup_in_the_same_state() {
    for fault in [
        super::super::fake_api::Fault::Before,
        super::super::fake_api::Fault::After,
    ] {
        for call in 0..6 {
            let api = taken(failed_try(), job_failed()).await;
            api.fail(call, fault);
            for _ in 0..3 {
                let backup = serde_json::from_value(api.get(BACKUP).unwrap()).unwrap();
                let _ = look(&backup, &operator(&api), None).await;
            }
            let status = api.get(BACKUP).unwrap()["status"].take();
            assert_eq!(status["phase"], "Failed", "{fault:?} of call {call}");
            assert!(
                status["message"]
                    .as_str()
                    .unwrap()
                    .contains("web-0: no answer")
            );
        }
    }
}

const PRUNE: &str = "/apis/batch/v1/namespaces/shop/jobs/cxb-now-prune";

/// A backup that is stored and is being deleted, of a store that is there.
async fn deleted(change: impl FnOnce(&mut Value)) -> FakeApi {
    let status = json!({"phase": "Succeeded", "completedAt": "2026-11-01T00:00:00Z", "destination": {"claim": "b"},
        "directory": "shop/orders/now", "location": "pvc/b:/shop/orders/now"});
    let api = taken(status, json!([])).await;
    let mut backup = api.get(BACKUP).unwrap();
    backup["metadata"]["deletionTimestamp"] = json!("2026-11-01T00:01:00Z");
    change(&mut backup);
    api.put(BACKUP, &backup);
    api
}

async fn looks(api: &FakeApi, times: usize) {
    for _ in 0..times {
        let Some(backup) = api.get(BACKUP) else {
            return;
        };
        let backup = serde_json::from_value(backup).unwrap();
        look(&backup, &operator(api), None).await.unwrap();
    }
}

fn left(api: &FakeApi) -> Option<String> {
    let events = api.whole_events();
    let mut notes = events.iter().filter(|e| e["reason"] == "StoredBackupLeft");
    notes.next().map(|e| e["note"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn what_is_stored_goes_first_and_then_its_resource() {
    let api = deleted(|_| {}).await;
    looks(&api, 3).await;
    assert!(api.get(PRUNE).is_some() && api.get(BACKUP).is_some());
    let job = json!({"metadata": {"name": "cxb-now-prune", "namespace": "shop"}, "status": {"conditions": [
        {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "limit"}]}});
    api.put(PRUNE, &job);
    // One that failed is told, and another one is made.
    looks(&api, 2).await;
    assert!(
        api.events()
            .contains(&("PruneFailed".to_owned(), "now".to_owned()))
    );
    let made = api.get(PRUNE).unwrap();
    assert!(made["status"].is_null() && api.get(BACKUP).is_some());
    api.put(
        PRUNE,
        &json!({"metadata": {"name": "cxb-now-prune", "namespace": "shop"},
        "status": {"conditions": [{"type": "Complete", "status": "True"}]}}),
    );
    looks(&api, 1).await;
    assert!(api.get(BACKUP).is_none());
    assert_eq!(left(&api), None);
}

#[tokio::test]
async fn without_its_store_the_finalizer_lets_go_and_says_where_the_files_are() {
    let api = deleted(|_| {}).await;
    api.remove(STORE);
    looks(&api, 1).await;
    assert!(api.get(BACKUP).is_none() && api.get(PRUNE).is_none());
    let note = left(&api).unwrap();
    assert!(note.contains("pvc/b:/shop/orders/now"), "{note}");
}

#[tokio::test]
async fn in_a_namespace_that_is_being_deleted_the_finalizer_lets_go() {
    let api = deleted(|_| {}).await;
    api.terminate();
    looks(&api, 1).await;
    // No Job can be made there, nor an event: that is in the log.
    assert!(api.get(BACKUP).is_none() && api.get(PRUNE).is_none());
    assert_eq!(api.count("POST", "/events"), 1);
}

#[tokio::test]
async fn what_is_to_stay_or_was_never_stored_takes_no_job() {
    for change in [
        |b: &mut Value| b["spec"]["deletionPolicy"] = json!("Retain"),
        |b: &mut Value| b["status"] = json!({"phase": "Failed"}),
    ] {
        let api = deleted(change).await;
        looks(&api, 1).await;
        assert!(api.get(BACKUP).is_none() && api.get(PRUNE).is_none());
        assert_eq!(api.events(), []);
    }
}

#[tokio::test]
async fn a_job_that_was_seen_to_go_on_is_not_asked_for_and_one_that_ended_is() {
    let api = taken(failed_try(), json!([])).await;
    let backup: CodexBackup = serde_json::from_value(api.get(BACKUP).unwrap()).unwrap();
    let (seen, mut writer) = reflector::store();
    let mut see = |conditions: Value| {
        let job = json!({"metadata": {"name": "cxb-now-backup", "namespace": "shop"}, "status": {"conditions": conditions}});
        writer.apply_watcher_event(&watcher::Event::Apply(serde_json::from_value(job).unwrap()));
    };
    let operator = operator(&api);
    see(json!([]));
    look(&backup, &operator, Some(&seen)).await.unwrap();
    assert_eq!(api.calls(), []);
    // An end that was seen may be that of an earlier one of its name.
    see(job_failed());
    look(&backup, &operator, Some(&seen)).await.unwrap();
    assert_eq!(api.count("GET", JOB), 1);
    assert_eq!(api.get(BACKUP).unwrap()["status"]["phase"], "Running");
}

const VERIFY: &str = "/apis/batch/v1/namespaces/shop/jobs/cxb-now-verify";

fn verify_job(asked: Option<&str>, conditions: &Value) -> Value {
    let annotations = asked.map(|asked| json!({names::VERIFY_ANNOTATION: asked}));
    json!({"metadata": {"name": "cxb-now-verify", "namespace": "shop", "annotations": annotations},
        "status": {"conditions": conditions}})
}

/// A backup that was verified, of a store that has none verified by itself.
async fn verified() -> FakeApi {
    let good = json!({"type": "Verified", "status": "True", "reason": "Opened", "message": "1 member",
        "lastTransitionTime": "2026-11-01T00:02:00Z"});
    let status = json!({"phase": "Succeeded", "completedAt": "2026-11-01T00:01:00Z", "destination": {"claim": "b"},
        "directory": "shop/orders/now", "conditions": [good]});
    taken(status, json!([])).await
}

/// Somebody asks for it to be verified.
fn ask(api: &FakeApi, mark: &str) {
    let mut backup = api.get(BACKUP).unwrap();
    backup["metadata"]["annotations"] = json!({names::VERIFY_ANNOTATION: mark});
    api.put(BACKUP, &backup);
}

fn asked(api: &FakeApi) -> Value {
    api.get(BACKUP).unwrap()["metadata"]["annotations"][names::VERIFY_ANNOTATION].take()
}

fn made_for(api: &FakeApi) -> Value {
    let job = api.get(VERIFY).unwrap_or_default();
    job["metadata"]["annotations"][names::VERIFY_ANNOTATION].clone()
}

fn condition(api: &FakeApi) -> Value {
    api.get(BACKUP).unwrap()["status"]["conditions"][0].take()
}

#[tokio::test]
async fn a_backup_is_verified_anew_for_whoever_asks() {
    let api = verified().await;
    looks(&api, 2).await;
    assert_eq!(api.get(VERIFY), None);
    ask(&api, "1");
    looks(&api, 1).await;
    assert_eq!(made_for(&api), "1");
    // One that was there before answers nothing: while it goes on it is waited for.
    api.put(VERIFY, &verify_job(Some("0"), &json!([])));
    looks(&api, 2).await;
    assert_eq!(made_for(&api), "0");
    let complete = json!([{"type": "Complete", "status": "True"}]);
    api.put(VERIFY, &verify_job(None, &complete));
    looks(&api, 2).await;
    assert_eq!((made_for(&api), asked(&api)), (json!("1"), json!("1")));
    api.put(VERIFY, &verify_job(Some("1"), &complete));
    looks(&api, 1).await;
    assert_eq!(
        (asked(&api), condition(&api)["status"].take()),
        (Value::Null, json!("True"))
    );
    let calls = api.writes();
    looks(&api, 2).await;
    assert_eq!(api.writes(), calls, "it was asked for once");
}

#[tokio::test]
async fn who_asks_hears_that_nobody_can_say() {
    let failed = json!([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "limit"}]);
    for gone in [false, true] {
        let api = verified().await;
        ask(&api, "1");
        if gone {
            api.remove(STORE);
        } else {
            api.put(VERIFY, &verify_job(Some("1"), &failed));
        }
        let before = api.get(BACKUP).unwrap();
        looks(&api, 1).await;
        // What its Job wrote stays beside it.
        let mut backup = before;
        backup["status"]["conditions"] = json!([condition(&api)]);
        api.put(BACKUP, &backup);
        looks(&api, 1).await;
        let condition = condition(&api);
        assert_eq!(condition["status"], "Unknown", "{condition}");
        let why = if gone { "CodexStore is gone" } else { "limit" };
        assert!(
            condition["message"].as_str().unwrap().contains(why),
            "{condition}"
        );
        assert_eq!(asked(&api), Value::Null);
        assert_eq!(
            api.events(),
            [("BackupNotVerified".to_owned(), "now".to_owned())]
        );
    }
}
