use codexstore_crds::archive::Line;
use codexstore_crds::backup::BackupPolicy;
use serde_json::{Value, json};

use super::super::fake_api::FakeApi;
use super::super::fixtures::claim_store;
use super::super::scripted::{STORE, condition, look, look_again, operator, pair, with};
use super::*;

const RECORD: &str = "/api/v1/namespaces/shop/configmaps/cxs-orders-archive";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/cxs-orders-archiver";
const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/backups";

fn policy(continuous: &Value) -> Option<BackupPolicy> {
    let policy = json!({"destination": {"claim": "backups"}, "continuous": continuous});
    serde_json::from_value(policy).unwrap()
}

fn archived() -> CodexStore {
    let mut store = claim_store("1Gi");
    store.spec.backup = policy(&json!({}));
    store
}

/// The archiver writes.
fn write(api: &FakeApi, change: impl FnOnce(&mut Record)) {
    let mut map = api.get(RECORD).unwrap();
    let mut record = Record {
        written_at: Timestamp::now().as_second(),
        key_ids: Some(vec!["old".to_owned()]),
        ..Record::default()
    };
    change(&mut record);
    map["data"][names::ARCHIVE_RECORD] = json!(serde_json::to_string(&record).unwrap());
    api.put(RECORD, &map);
}

fn line(until: i64) -> Line {
    Line {
        pod: "web-0".to_owned(),
        live: true,
        based: true,
        until_ms: u64::try_from(until * 1000).ok(),
        ..Line::default()
    }
}

#[tokio::test]
async fn an_archiver_is_made_where_it_is_asked_for_and_taken_away_with_that() {
    let api = with(&archived()).await;
    let operator = operator(&api);
    look_again(&operator, &api, &[]).await.unwrap();
    look_again(&operator, &api, &[]).await.unwrap();
    assert!(api.get(DEPLOYMENT).is_some());
    assert_eq!(
        condition(&api, "ArchiveCurrent"),
        pair("Unknown", "Starting")
    );
    let role = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/roles/cxs-orders-archive";
    assert_eq!(
        api.get(role).unwrap()["rules"][0]["resourceNames"],
        json!(["cxs-orders-archive"])
    );
    write(&api, |record| {
        record.lines = vec![line(Timestamp::now().as_second())];
    });
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(condition(&api, "ArchiveCurrent"), pair("True", "Current"));
    assert_eq!(condition(&api, "Degraded").0, "False");
    assert!(
        operator
            .metrics
            .text()
            .contains("archive_current{namespace=\"shop\",store=\"orders\"} 1")
    );
    assert_eq!(
        api.count("PATCH", "deployments/"),
        1,
        "it is not applied again and again"
    );

    stop(&api);
    look_again(&operator, &api, &[]).await.unwrap();
    assert!(api.get(DEPLOYMENT).is_none());
    assert!(!operator.metrics.text().contains("archive_current{"));
    // What is stored stays, and so does what is known of its keys.
    assert!(api.get(RECORD).is_some());
    look(&api, &[]).await.unwrap();
    let status = api.get(STORE).unwrap()["status"].take();
    assert!(status.get("archive").is_none(), "{status}");
    let parsed = serde_json::from_value(api.get(STORE).unwrap()).unwrap();
    let known = live(&operator, &parsed).await.unwrap();
    assert!(known.is_some_and(|record| record.needs("old") && !record.needs("new")));
}

/// The user takes `continuous` out of the spec.
fn stop(api: &FakeApi) {
    let mut store = api.get(STORE).unwrap();
    let policy = store["spec"]["backup"].as_object_mut().unwrap();
    policy.remove("continuous");
    api.put(STORE, &store);
}

#[tokio::test]
async fn an_archiver_that_nobody_wrote_down_is_taken_away_all_the_same() {
    let api = with(&archived()).await;
    // What follows the Deployment fails, its status too; then the operator dies.
    let before = api.get(STORE).unwrap();
    for _ in 0..2 {
        look(&api, &[]).await.unwrap();
    }
    assert!(api.get(DEPLOYMENT).is_some());
    api.put(STORE, &before);
    assert!(
        before["status"]
            .to_string()
            .find("ArchiveCurrent")
            .is_none()
    );
    stop(&api);
    let operator = operator(&api);
    for _ in 0..3 {
        look_again(&operator, &api, &[]).await.unwrap();
    }
    assert!(api.get(DEPLOYMENT).is_none());
    assert_eq!(api.count("DELETE", DEPLOYMENT), 1);
    let looked = api.count("GET", DEPLOYMENT);
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(api.count("GET", DEPLOYMENT), looked, "once is enough");
}

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/roles/cxs-orders-archive";
const BINDING: &str =
    "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings/cxs-orders-archive";

#[tokio::test]
async fn jobs_may_use_the_record_where_there_is_one_and_write_it_where_it_is_asked_for() {
    let mut plain = archived();
    plain.spec.backup.as_mut().unwrap().continuous = None;
    let api = with(&plain).await;
    look(&api, &[]).await.unwrap();
    assert!(api.get(ROLE).is_none() && api.get(BINDING).is_none());

    let api = with(&archived()).await;
    look(&api, &[]).await.unwrap();
    let verbs = || api.get(ROLE).unwrap()["rules"][0]["verbs"].take();
    assert_eq!(verbs(), json!(["get", "patch"]));
    assert!(api.get(BINDING).is_some());
    stop(&api);
    look(&api, &[]).await.unwrap();
    assert_eq!(
        verbs(),
        json!(["get"]),
        "it is restored from, and not written"
    );
}

#[tokio::test]
async fn rights_that_the_operator_lacks_are_a_problem_of_archives_alone() {
    for missing in ["/roles/", "/deployments/"] {
        let mut plain = archived();
        plain.spec.backup.as_mut().unwrap().continuous = None;
        let api = with(&plain).await;
        api.forbid(missing);
        look(&api, &[]).await.unwrap();
        assert_eq!(condition(&api, "Degraded").0, "False", "{missing}");

        let api = with(&archived()).await;
        api.forbid(missing);
        for _ in 0..2 {
            look(&api, &[]).await.unwrap();
        }
        let degraded = condition(&api, "Degraded");
        assert_eq!(degraded, pair("True", "BackupInvalid"), "{missing}");
        assert_eq!(condition(&api, "KeysReady").0, "True", "the rest goes on");
    }
}

#[tokio::test]
async fn what_cannot_be_taken_away_is_said_until_it_can() {
    for (missing, says) in [
        ("/deployments/", "cxs-orders-archiver still archives"),
        ("/cronjobs/", "backups are still taken"),
    ] {
        let mut store = archived();
        store.spec.backup.as_mut().unwrap().schedule = Some("0 3 * * *".to_owned());
        let api = with(&store).await;
        for _ in 0..2 {
            look(&api, &[]).await.unwrap();
        }
        let mut store = api.get(STORE).unwrap();
        store["spec"].as_object_mut().unwrap().remove("backup");
        api.put(STORE, &store);
        api.forbid(missing);
        for _ in 0..3 {
            look(&api, &[]).await.unwrap();
            let said = api.get(STORE).unwrap()["status"].to_string();
            assert!(said.contains(says), "{said}");
        }
        api.forbid("nothing");
        look(&api, &[]).await.unwrap();
        look(&api, &[]).await.unwrap();
        assert_eq!(condition(&api, "Degraded").0, "False", "{missing}");
        let all = api.calls();
        let deleted = |what: &str| all.iter().any(|(v, p)| v == "DELETE" && p.contains(what));
        assert!(
            deleted("/deployments/") && deleted("/cronjobs/"),
            "{missing}"
        );
    }
}

#[tokio::test]
async fn no_new_key_is_made_where_pieces_need_an_old_one() {
    let keyring = "/api/v1/namespaces/shop/secrets/cxs-orders-keyring";
    let begun = || async {
        let api = with(&archived()).await;
        for _ in 0..2 {
            look(&api, &[]).await.unwrap();
        }
        api
    };
    // All else that tells of the keys is lost.
    let lose = |api: &FakeApi| {
        api.remove(keyring);
        api.remove("/api/v1/namespaces/shop/configmaps/cxs-orders-keyring");
        api.put(STORE, &archived());
    };
    let holds = [
        Record {
            key_ids: Some(vec!["old".to_owned()]),
            written_at: 1,
            ..Record::default()
        },
        Record {
            written_at: 1,
            ..Record::default()
        },
    ];
    for record in holds {
        let api = begun().await;
        write(&api, |written| *written = record);
        lose(&api);
        look(&api, &[]).await.unwrap();
        assert!(api.get(keyring).is_none());
        assert_eq!(condition(&api, "KeysReady"), pair("False", "SecretMissing"));
        let said = api.get(STORE).unwrap()["status"].to_string();
        assert!(said.contains("the ConfigMap cxs-orders-archive"), "{said}");
    }
    // One in which nothing was ever written, and one of nothing.
    let api = begun().await;
    lose(&api);
    look(&api, &[]).await.unwrap();
    assert!(api.get(keyring).is_some());
    let api = begun().await;
    write(&api, |record| record.key_ids = Some(Vec::new()));
    lose(&api);
    look(&api, &[]).await.unwrap();
    assert!(api.get(keyring).is_some());
}

#[tokio::test]
async fn one_that_is_far_behind_or_silent_degrades_the_store() {
    let api = with(&archived()).await;
    let operator = operator(&api);
    look_again(&operator, &api, &[]).await.unwrap();
    let now = Timestamp::now().as_second();
    write(&api, |record| record.lines = vec![line(now - 301)]);
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(condition(&api, "ArchiveCurrent"), pair("False", "Behind"));
    assert_eq!(condition(&api, "Degraded"), pair("True", "ArchiveBehind"));
    let told = ("ArchiveBehind".to_owned(), "orders".to_owned());
    assert!(api.events().contains(&told), "{:?}", api.events());
    write(&api, |record| {
        record.written_at = now - 100;
        record.lines = vec![line(now - 100)];
    });
    api.remove(DEPLOYMENT);
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(
        condition(&api, "ArchiveCurrent"),
        pair("False", "ArchiverSilent")
    );
    assert_eq!(
        condition(&api, "Degraded").0,
        "False",
        "it may heal by itself"
    );
    assert!(api.get(DEPLOYMENT).is_some(), "somebody deleted it");
}

#[tokio::test]
async fn one_that_is_asked_for_again_is_started_whatever_is_on_the_record() {
    let api = with(&archived()).await;
    let operator = operator(&api);
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(
        condition(&api, "ArchiveCurrent"),
        pair("Unknown", "Starting")
    );
    let now = Timestamp::now().as_second();
    let ask = |continuous: Option<Value>| {
        let mut store = api.get(STORE).unwrap();
        let policy = store["spec"]["backup"].as_object_mut().unwrap();
        policy.remove("continuous");
        policy.extend(continuous.map(|asked| ("continuous".to_owned(), asked)));
        api.put(STORE, &store);
    };
    ask(None);
    write(&api, |record| {
        record.written_at = now - 9000;
        record.lines = vec![line(now - 9000)];
    });
    look_again(&operator, &api, &[]).await.unwrap();
    ask(Some(json!({})));
    for _ in 0..2 {
        look_again(&operator, &api, &[]).await.unwrap();
        assert_eq!(
            condition(&api, "ArchiveCurrent"),
            pair("Unknown", "Starting")
        );
        assert_eq!(condition(&api, "Degraded").0, "False");
    }
    write(&api, |record| {
        record.lines = vec![line(Timestamp::now().as_second())];
    });
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(condition(&api, "ArchiveCurrent"), pair("True", "Current"));
    // It was started, and has written nothing since.
    write(&api, |record| record.written_at = now - 100);
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(condition(&api, "ArchiveCurrent").1, "ArchiverSilent");
}

#[tokio::test]
async fn a_claim_of_one_pod_and_a_foreign_record_are_refused_with_a_reason() {
    let api = with(&archived()).await;
    let claim = json!({"metadata": {"name": "backups", "namespace": "shop"}, "spec": {"accessModes": [ONE_POD]}});
    api.put(CLAIM, &claim);
    for _ in 0..2 {
        look(&api, &[]).await.unwrap();
    }
    assert_eq!(condition(&api, "Degraded"), pair("True", "BackupInvalid"));
    let said = api.get(STORE).unwrap()["status"].to_string();
    assert!(
        said.contains("ReadWriteOncePod") && said.contains("or a bucket"),
        "{said}"
    );
    assert!(api.get(DEPLOYMENT).is_none());

    let api = with(&archived()).await;
    let theirs = json!({"metadata": {"name": "cxs-orders-archive"}, "data": {"record.json": "{\"keyIds\": []}"}});
    api.put(RECORD, &theirs);
    let before = api.get(RECORD).unwrap();
    look(&api, &[]).await.unwrap();
    assert_eq!(condition(&api, "Degraded"), pair("True", "ForeignObject"));
    assert_eq!(api.get(RECORD).unwrap(), before);
    let known = live(&operator(&api), &archived()).await.unwrap();
    assert!(
        known.is_some_and(|record| record.needs("any")),
        "whoever wrote it is not believed"
    );
}

#[tokio::test]
async fn a_store_without_an_archive_is_asked_about_once() {
    let api = with(&claim_store("1Gi")).await;
    let operator = operator(&api);
    let asked = || api.count("GET", "configmaps/cxs-orders-archive");
    look_again(&operator, &api, &[]).await.unwrap();
    assert_eq!(asked(), 2, "once before a key is made, and once for itself");
    for _ in 0..3 {
        look_again(&operator, &api, &[]).await.unwrap();
    }
    assert_eq!(asked(), 2);
    assert_eq!(api.count("GET", "deployments"), 0);
    // Before a key is deleted it is looked at again.
    assert_eq!(live(&operator, &claim_store("1Gi")).await.unwrap(), None);
    assert_eq!(asked(), 3);
    let asked = live(&operator, &archived()).await.unwrap();
    assert!(
        asked.is_some_and(|record| record.needs("any")),
        "nobody has looked yet"
    );
}
