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

    let mut store = api.get(STORE).unwrap();
    store["spec"]["backup"]
        .as_object_mut()
        .unwrap()
        .remove("continuous");
    api.put(STORE, &store);
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
    for _ in 0..3 {
        look_again(&operator, &api, &[]).await.unwrap();
    }
    assert_eq!(api.count("GET", "configmaps/cxs-orders-archive"), 1);
    assert_eq!(api.count("GET", "deployments"), 0);
    // Before a key is deleted it is looked at again.
    assert_eq!(live(&operator, &claim_store("1Gi")).await.unwrap(), None);
    assert_eq!(api.count("GET", "configmaps/cxs-orders-archive"), 2);
    let asked = live(&operator, &archived()).await.unwrap();
    assert!(
        asked.is_some_and(|record| record.needs("any")),
        "nobody has looked yet"
    );
}
