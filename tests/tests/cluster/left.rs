//! What is stored stays where the CodexStore, or its whole namespace, is deleted: no finalizer holds anything up.

use codexstore_tests::{Namespace, namespace, objects, path_of, wait};
use serde_json::json;

use crate::backups::{backup, backup_is, take};
use crate::restores::has_event;
use crate::s3;

/// The backups of which something is stored, of one namespace.
fn stored(keeps: &Namespace, of: &Namespace) -> Vec<String> {
    let below = format!("./team/a/{}/orders/", of.name);
    let files = s3::files(keeps);
    let own = files.lines().filter_map(|file| file.strip_prefix(&below));
    let mut names: Vec<_> = own
        .filter_map(|file| Some(file.split_once('/')?.0.to_owned()))
        .collect();
    names.sort();
    names
}

/// A namespace with a store and a member, whose backups are kept in the other one.
fn shop(keeps: &Namespace, topic: &str) -> Namespace {
    // What the first holds keeps those away that want the cluster for themselves.
    let ns = Namespace::alone(keeps.cluster, topic);
    ns.create(&s3::credentials());
    let mut spec = s3::destination(keeps, "backups", false)["spec"].take();
    spec["backup"]["retention"] = json!({"keepLast": 10});
    ns.store("orders", spec);
    ns.create(&objects::pod("app-0", Some("orders")));
    ns.pod_ready("app-0");
    assert_eq!(ns.put("app-0", "k", "v"), 201);
    ns
}

#[test]
fn what_is_stored_stays_where_its_store_or_the_whole_namespace_is_deleted() {
    let Some(keeps) = namespace("keeps") else {
        return;
    };
    s3::server(&keeps);
    let ns = shop(&keeps, "left");
    let mut retained = backup("orders", "retained");
    retained["spec"]["deletionPolicy"] = json!("Retain");
    ns.create(&retained);
    backup_is(&ns, "retained", "it is stored", |s| {
        s["phase"] == "Succeeded"
    });
    take(&ns, "gone");
    take(&ns, "left");
    // While there is a store, a backup goes as its policy says.
    ns.delete_and_wait("codexbackups/retained");
    ns.delete_and_wait("codexbackups/gone");
    assert_eq!(stored(&keeps, &ns), ["left", "retained"]);
    ns.delete_and_wait("codexstores/orders");
    ns.delete_and_wait("codexbackups/left");
    has_event(&ns, "StoredBackupLeft");
    let events = ns.list("events");
    let mut notes = events.iter().filter(|e| e["reason"] == "StoredBackupLeft");
    let told = notes.next().unwrap()["message"].as_str().unwrap();
    let at = format!("s3://backups/team/a/{}/orders/left", ns.name);
    assert!(told.contains(&at), "{told}");
    assert_eq!(stored(&keeps, &ns), ["left", "retained"]);

    // With the store, its member and a backup in it.
    let ns = shop(&keeps, "dropped");
    take(&ns, "last");
    let path = path_of("", &format!("namespaces/{}", ns.name));
    ns.cluster.send("DELETE", &path, None).unwrap();
    wait::until("the namespace is gone", 3 * wait::LONG, || {
        match ns.cluster.get(&path) {
            Err(gone) if gone.code == 404 => Ok(()),
            Ok(there) => Err(there["status"].to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    assert_eq!(stored(&keeps, &ns), ["last"]);
}
