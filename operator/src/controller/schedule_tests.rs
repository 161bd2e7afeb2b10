//! Retention over many runs: what is deleted, when, and with what.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::backups;
use super::super::fake_api::{FakeApi, Fault};
use super::super::fixtures::store;
use super::super::scripted::{STORE, operator};
use super::*;

const SHOP: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop";
const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";
const RUNS: i64 = 50;

fn orders() -> CodexStore {
    let mut store = store();
    let policy = json!({"destination": {"claim": "b"}, "verify": "Always",
        "retention": {"keepLast": 4, "keepDaily": 3}});
    store.spec.backup = serde_json::from_value(policy).unwrap();
    store
}

/// The backup of a run, as its Jobs have left it: one each six hours. Those of the first thirty runs that three divides were verified.
fn backup(run: i64) -> Value {
    let at = Timestamp::from_second(1_793_000_000 + run * 6 * 3600).unwrap();
    let verified = if run < 30 && run % 3 == 0 {
        "True"
    } else {
        "False"
    };
    let condition = json!({"type": "Verified", "status": verified, "reason": "x", "message": "", "lastTransitionTime": at.to_string()});
    json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup",
        "metadata": {"name": name(run), "namespace": "shop", "finalizers": [names::STORED_FINALIZER], "creationTimestamp": at.to_string()},
        "spec": {"storeRef": {"name": "orders"}},
        "status": {"phase": "Succeeded", "startedAt": at.to_string(), "completedAt": at.to_string(), "conditions": [condition],
            "directory": format!("shop/orders/{}", name(run)), "destination": {"claim": "b"}}})
}

fn name(run: i64) -> String {
    format!("orders-{run:02}")
}

/// A restore that reads the backup of the fifth run.
fn restore(phase: &str) -> Value {
    json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore", "metadata": {"name": "back", "namespace": "shop"},
        "spec": {"storeRef": {"name": "orders"}, "backupRef": {"name": name(5)}}, "status": {"phase": phase}})
}

fn all<K: DeserializeOwned>(api: &FakeApi, plural: &str) -> Vec<Arc<K>> {
    api.all(&format!("{SHOP}/{plural}"))
}

/// What the operator does after a run, until nothing is being deleted any more. Counts the Jobs that delete, by backup.
async fn settle(api: &FakeApi, pruned: &mut BTreeMap<String, usize>) {
    let operator = operator(api);
    for _ in 0..8 {
        let (backups, restores) = (all(api, "codexbackups"), all(api, "codexrestores"));
        let _ = ensure(&operator, &orders(), &backups, false).await;
        let _ = expire(&operator, &orders(), &backups, &restores, None).await;
        for backup in all::<CodexBackup>(api, "codexbackups") {
            if backup.metadata.deletion_timestamp.is_some() {
                let _ = backups::look(&backup, &operator, None).await;
            }
        }
        for job in api.all::<Value>(JOBS) {
            let mut job = Value::clone(&job);
            if job["status"].is_null() {
                let path = format!("{JOBS}/{}", job["metadata"]["name"].as_str().unwrap());
                let of = job["metadata"]["labels"][names::BACKUP_LABEL]
                    .as_str()
                    .unwrap();
                *pruned.entry(of.to_owned()).or_default() += 1;
                job["status"] = json!({"conditions": [{"type": "Complete", "status": "True"}]});
                api.put(&path, &job);
            }
        }
    }
}

/// Of a line of history that web-0 left, or of the one in which it is.
fn of_line(run: i64, lineage: &str) -> Value {
    let mut backup = backup(run);
    backup["status"]["members"] = json!([{"pod": "web-0", "stored": true, "lineage": lineage}]);
    backup["status"]["conditions"] = json!([]);
    backup
}

#[tokio::test]
async fn what_an_archive_goes_on_from_expires_once_its_line_of_history_ended_long_ago() {
    let mut store = orders();
    let policy = json!({"destination": {"claim": "b"}, "retention": {"keepLast": 1},
        "continuous": {"keep": "1h"}});
    store.spec.backup = serde_json::from_value(policy).unwrap();
    let run = |line: Option<Value>| {
        let store = store.clone();
        async move {
            let api = FakeApi::start().await;
            for (run, lineage) in [(0, "aa"), (1, "aa"), (2, "bb"), (3, "bb"), (4, "cc")] {
                api.put(
                    &format!("{SHOP}/codexbackups/{}", name(run)),
                    &of_line(run, lineage),
                );
            }
            let lines: Vec<_> = line.into_iter().collect();
            let record = json!({"lines": lines}).to_string();
            let record = Record::parse(&record).unwrap();
            let backups = all(&api, "codexbackups");
            expire(&operator(&api), &store, &backups, &[], Some(&record))
                .await
                .unwrap();
            let gone = all::<CodexBackup>(&api, "codexbackups");
            let left = gone
                .iter()
                .filter(|b| b.metadata.deletion_timestamp.is_none());
            left.map(|b| b.name_any()).collect::<Vec<_>>().join(" ")
        }
    };
    let bb = |rest: Value| {
        let mut line = json!({"pod": "web-0", "lineage": "bb"});
        line.as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        Some(line)
    };
    let now = Timestamp::now().as_millisecond();
    let (both, last) = ("orders-03 orders-04", "orders-04");
    // Nobody knows when they ended, but that was before the last backup.
    assert_eq!(run(None).await, last);
    assert_eq!(run(bb(json!({"untilMs": now}))).await, both);
    assert_eq!(run(bb(json!({"live": true, "untilMs": 5}))).await, both);
    assert_eq!(run(bb(json!({"lastMs": now, "untilMs": 5}))).await, both);
    // All of it was archived before an archiver lost its record, and heard of it again.
    assert_eq!(run(bb(json!({"lastMs": 5, "heardMs": now}))).await, last);
}

fn there(api: &FakeApi) -> BTreeSet<String> {
    let all = all::<CodexBackup>(api, "codexbackups");
    all.iter().map(|b| b.name_any()).collect()
}

#[tokio::test]
async fn over_fifty_runs_each_expires_once_with_its_files_and_never_the_last_verified_nor_one_in_use()
 {
    let api = FakeApi::start().await;
    api.put(STORE, &orders());
    let mut pruned = BTreeMap::new();
    for run in 0..RUNS {
        api.put(&format!("{SHOP}/codexbackups/{}", name(run)), &backup(run));
        let path = format!("{SHOP}/codexrestores/back");
        match run {
            7 => api.put(&path, &restore("Running")),
            35 => api.put(&path, &restore("Succeeded")),
            _ => {}
        }
        // Now and then a call fails, or its answer is lost.
        match run % 5 {
            2 => api.fail(usize::try_from(run % 11).unwrap(), Fault::Before),
            4 => api.fail(usize::try_from(run % 13).unwrap(), Fault::After),
            _ => {}
        }
        settle(&api, &mut pruned).await;

        let there = there(&api);
        assert!(there.contains(&name(run)), "run {run}: the latest is gone");
        let last_verified = (0..=run.min(29)).rev().find(|n| n % 3 == 0).unwrap();
        assert!(
            there.contains(&name(last_verified)),
            "run {run}: the last verified one is gone"
        );
        assert_eq!(
            there.contains(&name(5)),
            (5..35).contains(&run),
            "run {run}: the one in use stays as long as it is"
        );
        if run == 20 {
            assert_eq!(kept_by(&api, 5), json!(["restore"]));
        }
        // Four, of three days at most two more, the verified one, and the one in use.
        assert!(there.len() <= 4 + 2 + 1 + 1, "run {run}: {there:?}");
    }
    // The last four, of the two days before the latest of each, and the last that was verified.
    let left = there(&api);
    let wanted: BTreeSet<_> = [27, 42, 46, 47, 48, 49].map(name).into();
    assert_eq!(left, wanted);
    let deleted: BTreeSet<_> = (0..RUNS).map(name).filter(|n| !left.contains(n)).collect();
    let by_job: BTreeSet<_> = pruned.keys().cloned().collect();
    assert_eq!(by_job, deleted, "what goes goes with its files");
    assert!(pruned.values().all(|jobs| *jobs == 1), "{pruned:?}");
    for (run, by) in [
        (27, json!(["latestVerified"])),
        (42, json!(["keepDaily"])),
        (46, json!(["keepLast", "keepDaily"])),
        (47, json!(["keepLast"])),
        (49, json!(["keepLast", "keepDaily"])),
    ] {
        assert_eq!(kept_by(&api, run), by, "run {run}");
    }
}

/// What a backup says that keeps it.
fn kept_by(api: &FakeApi, run: i64) -> Value {
    let path = format!("{SHOP}/codexbackups/{}", name(run));
    api.get(&path).unwrap()["status"]["keptBy"].take()
}

#[tokio::test]
async fn what_keeps_a_backup_is_written_when_it_changes_and_beside_what_its_jobs_wrote() {
    let api = FakeApi::start().await;
    for run in 0..4 {
        let path = format!("{SHOP}/codexbackups/{}", name(run));
        api.put(&path, &backup(run));
    }
    let look = async |store: &CodexStore| {
        let backups = all(&api, "codexbackups");
        expire(&operator(&api), store, &backups, &[], None)
            .await
            .unwrap();
        api.count("PATCH", "/status")
    };
    let mut store = orders();
    assert_eq!(look(&store).await, 4);
    assert_eq!(look(&store).await, 4, "nothing has changed");
    assert_eq!(kept_by(&api, 3), json!(["keepLast", "keepDaily"]));
    let mut written = api
        .get(&format!("{SHOP}/codexbackups/{}", name(3)))
        .unwrap();
    let status = written["status"].as_object_mut().unwrap();
    status.remove("keptBy");
    assert_eq!(written["status"], backup(3)["status"]);
    // Without a policy nothing expires.
    store.spec.backup = None;
    look(&store).await;
    assert_eq!(kept_by(&api, 3), Value::Null);
    assert_eq!(there(&api).len(), 4);
}
