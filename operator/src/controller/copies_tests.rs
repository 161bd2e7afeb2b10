use std::sync::Arc;

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::super::fake_api::{FakeApi, Fault};
use super::super::fixtures::{pod_of, store};
use super::super::restores;
use super::super::scripted::{STORE, operator};
use super::*;

const SHOP: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop";
const CORE: &str = "/api/v1/namespaces/shop";
const JOB: &str = "/apis/batch/v1/namespaces/shop/jobs/cxr-copy";

/// The store that gets the data: `orders`, as its fixtures have it.
fn ours() -> CodexStore {
    let mut ours = store();
    ours.spec.backup = serde_json::from_value(json!({"destination": {"claim": "ours"}})).unwrap();
    ours
}

fn unencrypted() -> CodexStore {
    let mut ours = ours();
    ours.spec.encryption = serde_json::from_value(json!({"none": {}})).unwrap();
    ours
}

/// The store whose data is copied.
fn theirs() -> CodexStore {
    let mut theirs = ours();
    theirs.metadata.name = Some("sales".to_owned());
    theirs.metadata.uid = Some("sales-uid".to_owned());
    theirs
}

fn backup(name: &str, hour: u8, change: impl FnOnce(&mut Value)) -> CodexBackup {
    let mut backup = json!({
        "apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"storeRef": {"name": "sales"}},
        "status": {"phase": "Succeeded", "completedAt": format!("2026-11-01T{hour:02}:00:00Z"), "destination": {"claim": "theirs"},
            "members": [{"pod": "web-0", "stored": true, "keyId": "k1"}, {"pod": "web-1", "stored": true, "keyId": "k2"}]},
    });
    change(&mut backup);
    serde_json::from_value(backup).unwrap()
}

/// The time so many seconds ago.
fn ago(seconds: i64) -> String {
    let now = k8s_openapi::jiff::Timestamp::now().as_second();
    let then = k8s_openapi::jiff::Timestamp::from_second(now - seconds);
    then.unwrap().to_string()
}

fn restore(change: impl FnOnce(&mut Value)) -> CodexRestore {
    let mut restore = json!({
        "apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore",
        "metadata": {"name": "copy", "namespace": "shop", "uid": "r", "creationTimestamp": ago(0)},
        "spec": {"storeRef": {"name": "orders"}, "fromStoreRef": {"name": "sales"}},
    });
    change(&mut restore);
    serde_json::from_value(restore).unwrap()
}

/// A member whose sidecar runs, or is about to.
fn member(name: &str, runs: bool) -> Pod {
    let mut pod = pod_of(&store(), name);
    let state = if runs {
        json!({"running": {}})
    } else {
        json!({"waiting": {}})
    };
    let status = json!({"initContainerStatuses": [{"name": names::CONTAINER, "image": "", "imageID": "", "ready": runs,
        "restartCount": 0, "state": state}]});
    pod.status = serde_json::from_value(status).unwrap();
    pod
}

fn keyring_of(store: &CodexStore, ids: &[&str]) -> Secret {
    let mut secret = desired::keyring_secret(store, ids[0], &[7; 32]);
    for id in ids {
        let data = secret.data.get_or_insert_default();
        data.insert((*id).to_owned(), ByteString(vec![7; 32]));
    }
    secret
}

/// Everything that a copy needs, with two members.
async fn cluster() -> FakeApi {
    let api = FakeApi::start().await;
    api.put(STORE, &ours());
    api.put(&format!("{SHOP}/codexstores/sales"), &theirs());
    api.put(
        &format!("{SHOP}/codexbackups/monday"),
        &backup("monday", 8, |_| {}),
    );
    for pod in ["copy-0", "copy-1"] {
        api.put(&format!("{CORE}/pods/{pod}"), &member(pod, true));
    }
    api.put(
        &format!("{CORE}/secrets/cxs-sales-keyring"),
        &keyring_of(&theirs(), &["k2", "k1"]),
    );
    api.put(
        &format!("{CORE}/secrets/cxs-orders-keyring"),
        &keyring_of(&ours(), &["mine"]),
    );
    api.put(&format!("{SHOP}/codexrestores/copy"), &restore(|_| {}));
    api
}

/// One look by an operator that has just started; the phase and the message then.
async fn look_at(api: &FakeApi) -> Result<(String, String), Error> {
    let restore = api.get(&format!("{SHOP}/codexrestores/copy")).unwrap();
    let restore = serde_json::from_value(restore).unwrap();
    restores::look(Arc::new(restore), Arc::new(operator(api))).await?;
    let status = api.get(&format!("{SHOP}/codexrestores/copy")).unwrap()["status"].take();
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    Ok((text("phase"), text("message")))
}

/// What the Job of a copy was started with: its arguments, its account, and the Secrets that it mounts.
fn started(api: &FakeApi) -> String {
    let job = api.get(JOB).expect("no Job");
    let pod = &job["spec"]["template"]["spec"];
    let args = pod["containers"][0]["args"].as_array().unwrap();
    let args: Vec<_> = args.iter().map(|arg| arg.as_str().unwrap()).collect();
    let volumes = pod["volumes"].as_array().unwrap();
    let secrets = volumes
        .iter()
        .filter_map(|v| v["secret"]["secretName"].as_str());
    let account = pod["serviceAccountName"].as_str().unwrap();
    format!(
        "{} as {account} with {}",
        args[4..].join(" "),
        secrets.collect::<Vec<_>>().join(" ")
    )
}

const WITH_BOTH: &str = "--backup monday as cxs-orders-jobs with cxs-orders-client-restore cxs-orders-keyring cxs-sales-keyring";

#[tokio::test]
async fn a_copy_is_of_one_backup_and_no_keyring_is_changed() {
    let api = cluster().await;
    api.put(
        &format!("{SHOP}/codexbackups/sunday"),
        &backup("sunday", 7, |_| {}),
    );
    look_at(&api).await.unwrap();
    assert_eq!(started(&api), WITH_BOTH);
    let pod = api.get(JOB).unwrap()["spec"]["template"]["spec"].take();
    let volume = &pod["volumes"][0];
    assert_eq!(
        volume["persistentVolumeClaim"],
        json!({"claimName": "theirs"})
    );
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|m| m["name"] == volume["name"]).unwrap();
    assert_eq!(mount["readOnly"], true, "{mount}");
    assert_eq!(api.writes(), 2, "{:?}", api.calls());
}

#[tokio::test]
async fn a_backup_that_is_chosen_does_not_expire_before_its_job_runs() {
    let api = cluster().await;
    look_at(&api).await.unwrap();
    let copy = api.get(&format!("{SHOP}/codexrestores/copy")).unwrap();
    let copy: CodexRestore = serde_json::from_value(copy).unwrap();
    // What retention leaves alone.
    assert_eq!((copy.backup(), copy.ended()), (Some("monday"), false));
    let writes = api.calls().into_iter().filter(|(verb, _)| verb != "GET");
    let verbs: Vec<_> = writes.map(|(verb, _)| verb).collect();
    assert_eq!(verbs, ["PATCH", "POST"], "before there is a Job");
}

#[tokio::test]
async fn a_store_that_is_gone_is_copied_by_its_backup_and_its_keyring() {
    let api = cluster().await;
    api.remove(&format!("{SHOP}/codexstores/sales"));
    look_at(&api).await.unwrap();
    assert_eq!(started(&api), WITH_BOTH);
}

#[tokio::test]
async fn a_fault_at_any_call_starts_no_second_job_and_is_made_up_for() {
    let mut faults = 0;
    for fault in [Fault::Before, Fault::After] {
        for call in 0.. {
            let api = cluster().await;
            // It waits first, and says so.
            api.put(&format!("{CORE}/pods/copy-1"), &member("copy-1", false));
            api.fail(call, fault);
            for _ in 0..2 {
                let _ = look_at(&api).await;
                assert!(api.get(JOB).is_none(), "{fault:?} at {call}");
            }
            api.put(&format!("{CORE}/pods/copy-1"), &member("copy-1", true));
            for _ in 0..3 {
                let _ = look_at(&api).await;
            }
            assert_eq!(started(&api), WITH_BOTH, "{fault:?} at {call}");
            let restore = api.get(&format!("{SHOP}/codexrestores/copy")).unwrap();
            // The Job says the rest.
            assert_eq!(restore["status"]["phase"], "Pending", "{fault:?} at {call}");
            let jobs = api
                .calls()
                .iter()
                .filter(|(verb, path)| verb == "POST" && path.ends_with("/jobs"))
                .count();
            assert!(jobs <= 2, "{fault:?} at {call}");
            if api.calls().len() <= call {
                break;
            }
            faults += 1;
        }
    }
    println!("faults: {faults}");
    assert!(faults > 30, "{faults}");
}

#[tokio::test]
async fn what_may_come_is_waited_for() {
    let waits = async |change: &dyn Fn(&FakeApi), says: &str| {
        let api = cluster().await;
        change(&api);
        let (phase, message) = look_at(&api).await.unwrap();
        assert_eq!(phase, "Pending", "{message}");
        assert!(message.contains(says), "{message}");
        assert!(api.get(JOB).is_none());
        api.events()
    };
    waits(&|api| drop(api.remove(STORE)), "no CodexStore orders").await;
    let alone = |api: &FakeApi| {
        for pod in ["copy-0", "copy-1"] {
            api.remove(&format!("{CORE}/pods/{pod}"));
        }
    };
    waits(&alone, "a pod that runs with cxs/orders").await;
    let named = |api: &FakeApi| asks(api, &json!({"members": [{"pod": "copy-7"}]}));
    waits(&named, "pod copy-7: none of that name").await;
    let late = |api: &FakeApi| api.put(&format!("{CORE}/pods/copy-1"), &member("copy-1", false));
    waits(&late, "pod copy-1, whose sidecar").await;
    let going = |api: &FakeApi| {
        let going = backup("now", 9, |b| b["status"] = json!({"phase": "Running"}));
        api.put(&format!("{SHOP}/codexbackups/now"), &going);
        asks(api, &json!({"backupRef": {"name": "now"}}));
    };
    waits(&going, "cxb/now, which is not done").await;
    let unmade = |api: &FakeApi| drop(api.remove(&format!("{CORE}/secrets/cxs-orders-keyring")));
    let events = waits(&unmade, "Secret cxs-orders-keyring").await;
    assert_eq!(events, []);
}

/// Asks for the copy in other words.
fn asks(api: &FakeApi, spec: &Value) {
    let restore = restore(|r| json_patch::merge(&mut r["spec"], spec));
    api.put(&format!("{SHOP}/codexrestores/copy"), &restore);
}

async fn refused(change: impl FnOnce(&FakeApi), says: &str) {
    let api = cluster().await;
    change(&api);
    let (phase, message) = look_at(&api).await.unwrap();
    assert_eq!(phase, "Failed", "{message}");
    assert!(message.contains(says), "{message}");
    assert!(api.get(JOB).is_none());
    let told = ("RestoreFailed".to_owned(), "copy".to_owned());
    assert!(api.events().contains(&told));
    // It stays refused.
    look_at(&api).await.unwrap();
    assert!(api.get(JOB).is_none());
}

/// Asks for a backup of which something is not as it should be.
fn spoiled(change: impl FnOnce(&mut Value)) -> impl FnOnce(&FakeApi) {
    move |api| {
        api.put(
            &format!("{SHOP}/codexbackups/bad"),
            &backup("bad", 9, change),
        );
        asks(api, &json!({"backupRef": {"name": "bad"}}));
    }
}

#[tokio::test]
async fn a_backup_that_cannot_be_copied_is_refused_and_the_message_says_why() {
    let lost = json!({"backupRef": {"name": "tuesday"}});
    refused(|api| asks(api, &lost), "no CodexBackup tuesday").await;
    let others = spoiled(|b| b["spec"]["storeRef"]["name"] = json!("other"));
    refused(others, "a backup of cxs/other, and not of cxs/sales").await;
    let failed = spoiled(|b| b["status"]["phase"] = json!("Failed"));
    refused(failed, "has nothing stored").await;
    let broken = spoiled(|b| {
        b["status"]["conditions"] = json!([{"type": "Verified", "status": "False", "reason": "x", "message": "",
            "lastTransitionTime": "2026-11-01T00:00:00Z"}]);
    });
    refused(broken, "found broken").await;
    let none_whole = |api: &FakeApi| {
        let part = |b: &mut Value| b["status"]["phase"] = json!("PartiallyFailed");
        let part = backup("monday", 8, part);
        api.put(&format!("{SHOP}/codexbackups/monday"), &part);
    };
    let says = "no CodexBackup of cxs/sales in which every member";
    refused(none_whole, says).await;
}

#[tokio::test]
async fn members_and_stores_that_do_not_fit_are_refused() {
    let lost = json!({"members": [{"pod": "copy-0", "from": "web-9"}]});
    refused(|api| asks(api, &lost), "web-9 is not stored").await;
    let third = |api: &FakeApi| api.put(&format!("{CORE}/pods/copy-2"), &member("copy-2", true));
    refused(third, "copy-2 gets is not clear").await;
    let ledger = |api: &FakeApi| {
        let mut theirs = theirs();
        theirs.spec.strategy = codexstore_crds::store::Strategy::Ledger;
        api.put(&format!("{SHOP}/codexstores/sales"), &theirs);
    };
    let says = "cxs/sales has strategy Ledger and cxs/orders Snapshot";
    refused(ledger, says).await;
    let plain = |api: &FakeApi| api.put(STORE, &unencrypted());
    refused(plain, "cxb/monday is encrypted and cxs/orders is not").await;
    let open = spoiled(|b| {
        b["status"]["members"] =
            json!([{"pod": "copy-0", "stored": true}, {"pod": "copy-1", "stored": true}]);
    });
    refused(open, "cxb/bad is not encrypted and cxs/orders is").await;
}

/// With keys from a Secret of the user's.
fn with_own(mut store: CodexStore, keys: &Value) -> CodexStore {
    store.spec.encryption = serde_json::from_value(json!({"keys": keys})).unwrap();
    store
}

#[tokio::test]
async fn a_secret_of_the_users_is_mounted_as_one_of_ours_is_and_a_passphrase_is_refused() {
    let api = cluster().await;
    let mine = json!({"secretRef": {"name": "mine"}});
    api.put(
        &format!("{SHOP}/codexstores/sales"),
        &with_own(theirs(), &mine),
    );
    api.put(
        &format!("{CORE}/secrets/mine"),
        &keyring_of(&theirs(), &["k1", "k2"]),
    );
    api.remove(&format!("{CORE}/secrets/cxs-sales-keyring"));
    look_at(&api).await.unwrap();
    let started = started(&api);
    assert!(started.contains("cxs-orders-keyring mine"), "{started}");

    let words = json!({"passphraseRef": {"name": "mine"}});
    let from = |api: &FakeApi| {
        let theirs = with_own(theirs(), &words);
        api.put(&format!("{SHOP}/codexstores/sales"), &theirs);
    };
    refused(from, "cxs/sales has its keys from a passphrase").await;
    let into = |api: &FakeApi| api.put(STORE, &with_own(ours(), &words));
    refused(into, "cxs/orders has its keys from a passphrase").await;
}

#[tokio::test]
async fn a_key_that_is_not_there_is_named_and_nothing_of_it_shown() {
    let secret = format!("{CORE}/secrets/cxs-sales-keyring");
    let gone = |api: &FakeApi| drop(api.remove(&secret));
    refused(gone, "Secret cxs-sales-keyring, which has its key, is gone").await;
    let lacks = |api: &FakeApi| api.put(&secret, &keyring_of(&theirs(), &["k2"]));
    refused(lacks, "lacks its key k1").await;
    let malformed = |api: &FakeApi| {
        let mut bad = keyring_of(&theirs(), &["k1", "k2"]);
        let canary = ByteString(b"canary".to_vec());
        bad.data
            .get_or_insert_default()
            .insert("k1".to_owned(), canary);
        api.put(&secret, &bad);
    };
    refused(malformed, "is not a keyring: the key k1 has 6 bytes").await;
}

#[tokio::test]
async fn only_keys_of_what_is_copied_are_needed_and_without_encryption_none() {
    let api = cluster().await;
    let secret = format!("{CORE}/secrets/cxs-sales-keyring");
    api.put(&secret, &keyring_of(&theirs(), &["k2"]));
    let second = restore(|r| r["spec"]["members"] = json!([{"pod": "copy-0", "from": "web-1"}]));
    api.put(&format!("{SHOP}/codexrestores/copy"), &second);
    look_at(&api).await.unwrap();
    assert_eq!(started(&api), WITH_BOTH);

    let api = cluster().await;
    api.remove(&secret);
    api.put(STORE, &unencrypted());
    let open = |b: &mut Value| {
        b["status"]["members"] =
            json!([{"pod": "web-0", "stored": true}, {"pod": "web-1", "stored": true}]);
    };
    api.put(
        &format!("{SHOP}/codexbackups/monday"),
        &backup("monday", 8, open),
    );
    look_at(&api).await.unwrap();
    assert_eq!(
        started(&api),
        "--backup monday as cxs-orders-jobs with cxs-orders-client-restore"
    );
}

#[tokio::test]
async fn what_does_not_come_is_waited_for_until_the_deadline() {
    let waited = async |spec: Value, seconds: i64| {
        let api = cluster().await;
        api.remove(&format!("{CORE}/pods/copy-1"));
        let old = restore(|r| {
            json_patch::merge(&mut r["spec"], &spec);
            r["metadata"]["creationTimestamp"] = json!(ago(seconds));
        });
        api.put(&format!("{SHOP}/codexrestores/copy"), &old);
        let (phase, message) = look_at(&api).await.unwrap();
        assert!(message.contains("pod copy-1"), "{message}");
        (phase, message, api)
    };
    let members = || json!({"members": [{"pod": "copy-1"}]});
    let with = |deadline: &str| {
        let mut spec = members();
        spec["startDeadline"] = json!(deadline);
        spec
    };
    assert_eq!(waited(members(), 3540).await.0, "Pending");
    assert_eq!(waited(with("2h"), 7100).await.0, "Pending");
    for (spec, seconds) in [(members(), 3660), (with("90s"), 120), (with("2h"), 7260)] {
        let (phase, message, api) = waited(spec, seconds).await;
        assert_eq!(phase, "Failed");
        assert!(message.contains("startDeadline"), "{message}");
        let told = ("RestoreFailed".to_owned(), "copy".to_owned());
        assert!(api.events().contains(&told));
        // It holds nothing up any more.
        let next = restore(|r| {
            r["metadata"] = json!({"name": "next", "namespace": "shop", "uid": "n", "creationTimestamp": ago(0)});
        });
        let path = format!("{SHOP}/codexrestores/next");
        api.put(&path, &next);
        api.put(&format!("{CORE}/pods/copy-1"), &member("copy-1", true));
        restores::look(Arc::new(next), Arc::new(operator(&api)))
            .await
            .unwrap();
        assert!(api.get(&JOB.replace("cxr-copy", "cxr-next")).is_some());
    }
    // What is there in time is not refused because it was asked for long ago: the operator may have been away.
    let api = cluster().await;
    let old = restore(|r| r["metadata"]["creationTimestamp"] = json!(ago(999_999)));
    api.put(&format!("{SHOP}/codexrestores/copy"), &old);
    look_at(&api).await.unwrap();
    assert_eq!(started(&api), WITH_BOTH);
}

#[tokio::test]
async fn one_that_is_refused_is_told_what_it_would_wait_for() {
    let api = cluster().await;
    api.remove(&format!("{CORE}/pods/copy-1"));
    asks(&api, &json!({"members": [{"pod": "copy-1"}]}));
    look_at(&api).await.unwrap();
    let next = restore(|r| {
        r["metadata"] =
            json!({"name": "next", "namespace": "shop", "uid": "n", "creationTimestamp": ago(-5)});
    });
    let path = format!("{SHOP}/codexrestores/next");
    api.put(&path, &next);
    restores::look(Arc::new(next), Arc::new(operator(&api)))
        .await
        .unwrap();
    let status = api.get(&path).unwrap()["status"].take();
    assert_eq!(status["phase"], "Failed", "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("cxr/copy") && message.contains("pod copy-1"),
        "{message}"
    );
}

#[tokio::test]
async fn one_that_has_begun_comes_first_whatever_it_is_called() {
    let api = cluster().await;
    look_at(&api).await.unwrap();
    assert_eq!(started(&api), WITH_BOTH);
    // Made in the same second, and first by its name.
    let copy = api.get(&format!("{SHOP}/codexrestores/copy")).unwrap();
    let made = copy["metadata"]["creationTimestamp"].clone();
    let other = restore(|r| {
        r["metadata"] =
            json!({"name": "a", "namespace": "shop", "uid": "a", "creationTimestamp": made});
        r["spec"] = json!({"storeRef": {"name": "orders"}});
    });
    let path = format!("{SHOP}/codexrestores/a");
    api.put(&path, &other);
    let other = Arc::new(other);
    restores::look(other, Arc::new(operator(&api)))
        .await
        .unwrap();
    let status = api.get(&path).unwrap()["status"].take();
    assert_eq!(status["phase"], "Failed", "{status}");
    assert!(status["message"].as_str().unwrap().contains("cxr/copy"));
    let job = JOB.replace("cxr-copy", "cxr-a");
    assert!(api.get(&job).is_none());
    // That one goes on, whatever comes before it by its name.
    look_at(&api).await.unwrap();
    let copy = api.get(&format!("{SHOP}/codexrestores/copy")).unwrap();
    assert_ne!(copy["status"]["phase"], "Failed");
}

#[tokio::test]
async fn a_restore_looks_for_the_record_of_an_archive_where_there_may_be_one() {
    let args = async |change: &dyn Fn(&FakeApi)| {
        let api = cluster().await;
        change(&api);
        let plain = restore(|r| r["spec"] = json!({"storeRef": {"name": "orders"}}));
        api.put(&format!("{SHOP}/codexrestores/copy"), &plain);
        look_at(&api).await.unwrap();
        let pod = api.get(JOB).expect("no Job")["spec"]["template"]["spec"].take();
        pod["containers"][0]["args"].to_string()
    };
    let none = |_: &FakeApi| {};
    let flag = "--no-archive-record";
    assert!(args(&none).await.contains(flag));
    let asked = |api: &FakeApi| {
        let mut store = ours();
        let policy = json!({"destination": {"claim": "ours"}, "continuous": {}});
        store.spec.backup = serde_json::from_value(policy).unwrap();
        api.put(STORE, &store);
    };
    assert!(!args(&asked).await.contains(flag));
    let left = |api: &FakeApi| {
        let record = codexstore_crds::jobs::archive_record(&ours());
        api.put(&format!("{CORE}/configmaps/cxs-orders-archive"), &record);
    };
    assert!(!args(&left).await.contains(flag));
}

#[tokio::test]
async fn a_job_whose_account_went_with_the_other_store_is_started_again_as_our_own() {
    for (fault, calls) in [(None, 1), (Some(Fault::Before), 9), (Some(Fault::After), 9)] {
        for call in 0..calls {
            let api = cluster().await;
            let bucket = json!({"s3": {"bucket": "bkt"}});
            let cloud = backup("monday", 8, |b| b["status"]["destination"] = bucket);
            api.put(&format!("{SHOP}/codexbackups/monday"), &cloud);
            look_at(&api).await.unwrap();
            assert!(
                started(&api).contains("as cxs-sales-jobs"),
                "{}",
                started(&api)
            );
            // Its pod runs.
            let mut running = api.get(&format!("{SHOP}/codexrestores/copy")).unwrap();
            running["status"] =
                json!({"phase": "Running", "backup": "monday", "message": "restoring copy-0"});
            api.put(&format!("{SHOP}/codexrestores/copy"), &running);
            look_at(&api).await.unwrap();
            assert!(started(&api).contains("as cxs-sales-jobs"));

            api.remove(&format!("{SHOP}/codexstores/sales"));
            if let Some(fault) = fault {
                api.fail(call, fault);
            }
            for _ in 0..4 {
                let _ = look_at(&api).await;
            }
            assert!(
                started(&api).contains("as cxs-orders-jobs"),
                "{fault:?} of call {call}: {}",
                started(&api)
            );
            let status = api.get(&format!("{SHOP}/codexrestores/copy")).unwrap()["status"].take();
            assert_eq!(
                status["phase"], "Pending",
                "{fault:?} of call {call}: {status}"
            );
        }
    }
}
