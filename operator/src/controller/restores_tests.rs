use codexstore_api::Status;
use codexstore_crds::codex_restore::MAX_RESTORE_NAME;

use super::super::fake_api::{FakeApi, Fault};
use super::super::fixtures::{claim_store, pod, store};
use super::super::scripted::{STORE, operator};
use super::*;

const RESTORE: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexrestores/back";
const JOB: &str = "/apis/batch/v1/namespaces/shop/jobs/cxr-back";

#[test]
fn a_member_has_one_restore_whose_name_fits() {
    let mut store = store();
    store.metadata.name = Some("s".repeat(names::MAX_STORE_NAME));
    let member = Member {
        pod: Arc::new(pod("web-0")),
        answer: None,
    };
    let name = restore_name(&store, "0a1b2c3d-4e5f-6789-abcd-ef0123456789");
    assert!(name.ends_with("-0a1b2c3d-4e5f") && name.len() <= MAX_RESTORE_NAME);
    let restore = of_member(&store, &member, &name);
    assert!(restore.spec.on_start);
    assert_eq!(restore.spec.members[0].pod, "web-0");
    assert_eq!(restore.metadata.owner_references.unwrap().len(), 1);
}

/// A restore of which its Job's pod wrote this, and its Job, which is in this state.
async fn restored(status: Value, conditions: Value) -> FakeApi {
    let api = FakeApi::start().await;
    let mut store = store();
    let policy = json!({"destination": {"claim": "b"}});
    store.spec.backup = serde_json::from_value(policy).unwrap();
    api.put(STORE, &store);
    let job = json!({"metadata": {"name": "cxr-back", "namespace": "shop"}, "status": {"conditions": conditions}});
    api.put(JOB, &job);
    told(&api, &status);
    api
}

/// What the Job's pod wrote.
fn told(api: &FakeApi, status: &Value) {
    let restore = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore",
        "metadata": {"name": "back", "namespace": "shop", "uid": "r"},
        "spec": {"storeRef": {"name": "orders"}, "backupRef": {"name": "monday"}}, "status": status});
    api.put(RESTORE, &restore);
}

fn seen(api: &FakeApi) -> Arc<CodexRestore> {
    Arc::new(serde_json::from_value(api.get(RESTORE).unwrap()).unwrap())
}

/// One look by an operator that has just started; the status then.
async fn look_at(api: &FakeApi) -> Value {
    look(seen(api), Arc::new(operator(api))).await.unwrap();
    api.get(RESTORE).unwrap()["status"].take()
}

fn failed_try() -> Value {
    let completed = json!({"type": "Completed", "status": "False", "reason": "TryFailed", "message": "web-0: no answer",
        "lastTransitionTime": "2026-11-01T00:00:00Z"});
    json!({"phase": "Running", "startedAt": "2026-11-01T00:00:00Z", "message": "a try failed", "backup": "monday",
        "conditions": [completed], "ready": "0/1", "members": [{"pod": "web-0", "restored": false, "message": "no answer"}]})
}

fn job_failed() -> Value {
    json!([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "limit"}])
}

#[tokio::test]
async fn a_try_that_failed_is_not_the_end_while_the_job_has_others() {
    let api = restored(failed_try(), json!([])).await;
    assert_eq!(look_at(&api).await["phase"], "Running");
    assert_eq!(api.writes(), 0, "{:?}", api.calls());
}

#[tokio::test]
async fn a_job_that_has_failed_ends_its_restore_with_what_its_last_try_said() {
    let api = restored(failed_try(), job_failed()).await;
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
    // What is known of it stays.
    assert_eq!(
        (&status["backup"], &status["members"][0]["pod"]),
        (&json!("monday"), &json!("web-0"))
    );
    let mut events = api.events();
    events.sort();
    let told = |of: &str| ("RestoreFailed".to_owned(), of.to_owned());
    assert_eq!(events, [told("back"), told("orders")]);
    // It is the end.
    look_at(&api).await;
    assert_eq!(api.count("PATCH", "codexrestores/back/status"), 1);
}

#[tokio::test]
async fn the_pod_of_a_member_that_no_try_restored_is_told_so_but_for_one_that_waits_on() {
    for on_start in [false, true] {
        let api = restored(failed_try(), job_failed()).await;
        let mut asked = api.get(RESTORE).unwrap();
        asked["spec"]["onStart"] = json!(on_start);
        api.put(RESTORE, &asked);
        for name in ["web-0", "web-1"] {
            let path = format!("/api/v1/namespaces/shop/pods/{name}");
            api.put(&path, &pod(name));
        }
        look_at(&api).await;
        let told = |of: &str| api.events().contains(&("RestoreFailed".into(), of.into()));
        assert!(told("back") && told("orders") && !told("web-1"));
        assert_eq!(told("web-0"), !on_start);
    }
}

#[tokio::test]
async fn the_end_that_a_job_wrote_wins_over_one_that_is_seen_late() {
    let api = restored(failed_try(), job_failed()).await;
    let cached = seen(&api);
    told(
        &api,
        &json!({"phase": "Succeeded", "completedAt": "2026-11-01T00:01:00Z"}),
    );
    look(cached, Arc::new(operator(&api))).await.unwrap();
    assert_eq!(api.get(RESTORE).unwrap()["status"]["phase"], "Succeeded");
    assert_eq!(api.writes(), 0, "{:?}", api.calls());
}

#[tokio::test]
async fn dying_at_any_call_ends_a_failed_restore_in_the_same_state() {
    for fault in [Fault::Before, Fault::After] {
        for call in 0..6 {
            let api = restored(failed_try(), job_failed()).await;
            api.fail(call, fault);
            for _ in 0..3 {
                let _ = look(seen(&api), Arc::new(operator(&api))).await;
            }
            let status = api.get(RESTORE).unwrap()["status"].take();
            assert_eq!(status["phase"], "Failed", "{fault:?} of call {call}");
            let message = status["message"].as_str().unwrap();
            assert!(message.contains("web-0: no answer"), "{message}");
        }
    }
}

#[tokio::test]
async fn a_member_without_a_claim_is_restored_where_a_restore_names_it() {
    let api = restored(json!({}), json!([])).await;
    api.remove(JOB);
    let store = api.get(STORE).unwrap();
    assert!(store["spec"]["volume"]["ephemeral"].is_object(), "{store}");
    let mut asked = api.get(RESTORE).unwrap();
    asked["spec"]["members"] = json!([{"pod": "web-9", "from": "web-0"}]);
    api.put(RESTORE, &asked);
    look_at(&api).await;
    let job = api.get(JOB).expect("its Job");
    assert_eq!(job["metadata"]["labels"][names::RESTORE_LABEL], "back");
    // Which member gets what, the Job reads in the resource.
    let pod = &job["spec"]["template"]["spec"];
    let args = pod["containers"][0]["args"].to_string();
    assert!(args.contains("restore") && args.contains("back"), "{args}");
    assert_eq!(seen(&api).spec.members[0].from.as_deref(), Some("web-0"));
}

/// A member that says this of itself, whose sidecar was started so many seconds ago.
fn says(state: State, started: i64) -> Member {
    let mut pod = pod("web-0");
    let at = Timestamp::from_second(Timestamp::now().as_second() - started).unwrap();
    let status = json!({"initContainerStatuses": [{"name": names::CONTAINER, "image": "", "imageID": "", "ready": true,
        "restartCount": 0, "state": {"running": {"startedAt": at.to_string()}}}]});
    pod.status = serde_json::from_value(status).unwrap();
    let status = Status {
        state,
        ..Status::default()
    };
    Member {
        pod: Arc::new(pod),
        answer: Some(Ok(status)),
    }
}

const RESTORES: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexrestores";
const BACKUP: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexbackups/last";

/// A store whose members are restored on their start.
fn if_empty() -> CodexStore {
    let mut store = claim_store("1Gi");
    let policy = json!({"destination": {"claim": "b"}});
    store.spec.backup = serde_json::from_value(policy).unwrap();
    store.spec.restore = serde_json::from_value(json!({"onStart": "IfEmpty"})).unwrap();
    store
}

#[tokio::test]
async fn only_a_member_that_waits_is_restored_whatever_there_is_at_the_destination() {
    // A backup of it, none, and a destination that failed: what is there a Job finds out, once there is a member that waits.
    let member = json!([{"pod": "web-0", "stored": true}]);
    let unreachable = json!([{"type": "DestinationUnreachable", "status": "True", "reason": "DestinationFailed", "message": "",
        "lastTransitionTime": "2026-11-01T00:00:00Z"}]);
    let destinations = [
        Some(json!({"phase": "Succeeded", "members": member})),
        None,
        Some(json!({"phase": "Failed", "conditions": unreachable})),
    ];
    for status in destinations {
        for (state, restored, told) in [
            (State::Ready, false, Some("DataPresent")),
            (State::AwaitingRestore, true, None),
            (State::IntegrityError, false, None),
        ] {
            let case = format!("{state:?}, {status:?}");
            let api = FakeApi::start().await;
            api.put(STORE, &if_empty());
            if let Some(status) = &status {
                let backup = json!({"metadata": {"name": "last", "namespace": "shop"}, "spec": {"storeRef": {"name": "orders"}},
                    "status": status});
                api.put(BACKUP, &backup);
            }
            let members = [says(state, 5)];
            let operator = operator(&api);
            for _ in 0..2 {
                let restores = api.all::<CodexRestore>(RESTORES);
                let problems = on_start(&operator, &if_empty(), &members, &restores).await;
                assert!(problems.unwrap().is_empty(), "{case}");
            }
            let made = api.all::<CodexRestore>(RESTORES);
            assert_eq!(made.len(), usize::from(restored), "{case}");
            assert!(made.iter().all(|made| made.spec.on_start), "{case}");
            let wanted: Vec<_> = told
                .map(|reason| (reason.to_owned(), "web-0".to_owned()))
                .into_iter()
                .collect();
            assert_eq!(api.events(), wanted, "{case}");
            assert_eq!(
                api.writes(),
                1 - usize::from(state == State::IntegrityError)
            );
        }
    }
}

#[tokio::test]
async fn that_a_member_found_its_data_is_told_of_its_start_and_not_later_or_of_a_restore() {
    let api = FakeApi::start().await;
    let operator = operator(&api);
    let long_ago = [says(State::Ready, 3600)];
    on_start(&operator, &if_empty(), &long_ago, &[])
        .await
        .unwrap();
    let now = [says(State::Ready, 5)];
    let name = restore_name(&if_empty(), &now[0].pod.uid().unwrap());
    let mut done = of_member(&if_empty(), &now[0], &name);
    let status = json!({"phase": "Succeeded"});
    done.status = serde_json::from_value(status).unwrap();
    let done = [Arc::new(done)];
    on_start(&operator, &if_empty(), &now, &done).await.unwrap();
    let mut never = if_empty();
    never.spec.restore = None;
    on_start(&operator, &never, &now, &[]).await.unwrap();
    assert_eq!(api.calls(), []);
}
