//! What is around the operator: members that answer over TLS, `CronJob`s that come due, and Jobs that do what `codexctl job` does, as far
//! as the API server sees it.

use std::sync::Arc;
use std::time::Duration;

use codexstore_api::Status;
use codexstore_api::encoding::unbase64;
use codexstore_api::status::State;
use codexstore_crds::{CodexStore, InjectConfig, inject, jobs, names};
use k8s_openapi::api::core::v1::Pod;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::api::Api;

const NAMESPACE: &str = "shop";
/// A Job takes so long from one of its states to the next: seconds in a cluster.
const STEP: Duration = Duration::from_millis(600);

fn path(group: &str, plural: &str, name: &str) -> String {
    let root = if group == "v1" { "/api" } else { "/apis" };
    format!("{root}/{group}/namespaces/{NAMESPACE}/{plural}/{name}")
}

fn ours(plural: &str, name: &str) -> String {
    path("codexstore.dev/v1alpha1", plural, name)
}

fn job_path(name: &str) -> String {
    path("batch/v1", "jobs", name)
}

/// A store that keeps so many backups.
pub fn store(api: &Api, name: &str, kept: usize) {
    let spec = json!({"backup": {"schedule": "* * * * *", "destination": {"claim": "backups"}, "verify": "Always",
        "retention": {"keepLast": kept}}});
    let store = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexStore",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
    api.put(&ours("codexstores", name), store);
}

/// Its members, which start once it has its keyring.
pub async fn members(api: &Api, name: &str, members: usize) {
    let store = api.get(&ours("codexstores", name)).unwrap();
    let store: CodexStore = serde_json::from_value(store).unwrap();
    for n in 0..members {
        member(api, &store, &format!("{name}-{n}")).await;
    }
}

/// Whether the operator has made all that pods of a store mount.
pub fn is_made(api: &Api, name: &str) -> bool {
    let conditions = api.get(&ours("codexstores", name)).unwrap()["status"]["conditions"].take();
    let conditions = conditions.as_array().cloned().unwrap_or_default();
    let keys = |c: &Value| c["type"] == "KeysReady" && c["status"] == "True";
    let cron = names::backup_cron_job(name);
    conditions.iter().any(keys) && api.get(&path("batch/v1", "cronjobs", &cron)).is_some()
}

/// Whether the operator sees that all its members serve.
pub fn is_ready(api: &Api, name: &str) -> bool {
    let conditions = api.get(&ours("codexstores", name)).unwrap()["status"]["conditions"].take();
    let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    conditions
        .as_array()
        .is_some_and(|all| all.iter().any(ready))
}

/// The id of a store's current key.
fn key_id(api: &Api, store: &str) -> Option<String> {
    let secret = api.get(&path("v1", "secrets", &format!("cxs-{store}-keyring")))?;
    let current = unbase64(secret["data"][names::KEYRING_CURRENT].as_str()?)?;
    Some(String::from_utf8(current).ok()?.trim().to_owned())
}

async fn member(api: &Api, store: &CodexStore, name: &str) {
    let store_name = store.metadata.name.clone().unwrap();
    let plain: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {names::STORE_LABEL: store_name}},
        "spec": {"containers": [{"name": "app"}]}}))
    .unwrap();
    let config = InjectConfig {
        sidecar_image: "sidecar:1".to_owned(),
        image_pull_policy: None,
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut pod = serde_json::to_value(inject(&plain, store, &config, "seed").unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sidecar = pod["spec"]["initContainers"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .find(|c| c["name"] == names::CONTAINER)
        .unwrap();
    let ports = sidecar["ports"].as_array_mut().unwrap().iter_mut();
    for entry in ports.filter(|p| p["name"] == names::ADMIN_PORT_NAME) {
        entry["containerPort"] = json!(port);
    }
    pod["status"] = json!({"phase": "Running", "podIP": "127.0.0.1", "initContainerStatuses": [{"name": names::CONTAINER,
        "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
    api.put(&path("v1", "pods", name), pod);
    let api = api.clone();
    let pod = name.to_owned();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (api, pod, store) = (api.clone(), pod.clone(), store_name.clone());
            tokio::spawn(async move { serve(&api, &store, &pod, stream).await });
        }
    });
}

/// Answers one request for the status.
async fn serve(api: &Api, store: &str, pod: &str, stream: tokio::net::TcpStream) -> Option<()> {
    let secret = |name: String, entry: &str| {
        let text = api.get(&path("v1", "secrets", &name))?["data"][entry].take();
        unbase64(text.as_str()?)
    };
    let certificate = secret(format!("cxs-{store}-server"), "tls.crt")?;
    let key = secret(format!("cxs-{store}-server"), "tls.key")?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<_, _>>()
        .ok()?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&key).ok()?)
        .ok()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut stream = acceptor.accept(stream).await.ok()?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.ok()?);
    }
    let key_id = key_id(api, store)?;
    let uid = |path: String| Some(api.get(&path)?["metadata"]["uid"].as_str()?.to_owned());
    let status = Status {
        store: store.to_owned(),
        store_uid: uid(ours("codexstores", store))?,
        pod: pod.to_owned(),
        pod_uid: uid(path("v1", "pods", pod))?,
        state: State::Ready,
        // A store that is used: it says something else each time.
        revision: api.revision(),
        keys: 1000,
        bytes: 1 << 20,
        loaded_key_ids: vec![key_id.clone()],
        needed_key_ids: Some(vec![key_id.clone()]),
        set_aside_key_ids: Some(Vec::new()),
        key_id,
        ..Status::default()
    };
    let body = serde_json::to_string(&status).ok()?;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

/// The Jobs that the operator makes run, until they have ended.
pub async fn run_jobs(api: Api, mut made: mpsc::UnboundedReceiver<Value>) {
    while let Some(job) = made.recv().await {
        let api = api.clone();
        tokio::spawn(async move {
            let name = job["metadata"]["name"].as_str().unwrap().to_owned();
            let labels = &job["metadata"]["labels"];
            let Some(backup) = labels[names::BACKUP_LABEL].as_str() else {
                return;
            };
            starts(&api, &name).await;
            if name.ends_with("-verify") {
                let condition = json!({"type": "Verified", "status": "True", "reason": "Opened", "message": "1 members opened with their keys",
                    "lastTransitionTime": now()});
                api.tell(
                    &ours("codexbackups", backup),
                    "codexctl-verify",
                    &json!({"conditions": [condition]}),
                );
                tokio::time::sleep(STEP).await;
            }
            ends(&api, &name).await;
        });
    }
}

/// One run of a store's schedule: what the CronJob's Job does, as `codexctl job backup` does it.
pub async fn scheduled(api: Api, store: String, members: usize, run: usize) {
    let cron = names::backup_cron_job(&store);
    let found = api.get(&path("batch/v1", "cronjobs", &cron));
    let Some(cron_job) = found else {
        return;
    };
    let name = format!("{cron}-{}", 30_000_000 + run);
    let mut metadata = cron_job["spec"]["jobTemplate"]["metadata"].clone();
    metadata["name"] = json!(name);
    metadata["namespace"] = json!(NAMESPACE);
    api.put(
        &job_path(&name),
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": cron_job["spec"]["jobTemplate"]["spec"]}),
    );
    starts(&api, &name).await;
    let backup = jobs::backup_of_job(&store, &name);
    let at = ours("codexbackups", &backup);
    api.put(
        &at,
        json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup",
            "metadata": {"name": backup, "namespace": NAMESPACE, "finalizers": [names::STORED_FINALIZER],
                "labels": {names::STORE_LABEL: store, names::JOB_LABEL: name}},
            "spec": {"storeRef": {"name": store}}}),
    );
    let mut status = json!({"phase": "Running", "startedAt": now(), "directory": format!("{NAMESPACE}/{store}/{backup}"),
        "destination": {"claim": "backups"}, "message": "waiting for members to be read", "members": []});
    api.tell(&at, "codexctl-backup", &status);
    for n in 0..members {
        status["message"] = json!(format!("reading {store}-{n}"));
        api.tell(&at, "codexctl-backup", &status);
        tokio::time::sleep(STEP).await;
        let member = json!({"pod": format!("{store}-{n}"), "stored": true, "revision": run, "keys": 1000, "bytes": 1 << 20,
            "sha256": "0".repeat(64), "root": "0".repeat(64), "keyId": key_id(&api, &store), "lineage": "0".repeat(32), "file": "f"});
        status["members"].as_array_mut().unwrap().push(member);
    }
    status["phase"] = json!("Succeeded");
    status["completedAt"] = json!(now());
    status.as_object_mut().unwrap().remove("message");
    status["conditions"] = json!([{"type": "Completed", "status": "True", "reason": "Succeeded", "message": "", "lastTransitionTime": now()}]);
    api.tell(&at, "codexctl-backup", &status);
    ends(&api, &name).await;
    // Of those that succeeded the CronJob keeps one.
    if let Some(before) = run.checked_sub(1) {
        api.remove(&job_path(&format!("{cron}-{}", 30_000_000 + before)));
    }
}

/// What the Job controller says of a Job whose pod starts.
async fn starts(api: &Api, name: &str) {
    for status in [
        json!({"active": 1, "ready": 0, "startTime": now()}),
        json!({"ready": 1}),
    ] {
        tokio::time::sleep(STEP).await;
        api.change(&job_path(name), |job| {
            json_patch::merge(&mut job["status"], &status);
        });
    }
    tokio::time::sleep(STEP).await;
}

/// And of one whose pod has ended.
async fn ends(api: &Api, name: &str) {
    for status in [
        json!({"active": 0, "ready": 0, "uncountedTerminatedPods": {"succeeded": ["uid"]}}),
        json!({"succeeded": 1, "uncountedTerminatedPods": {}, "conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}),
        json!({"completionTime": now(), "conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}]}),
    ] {
        api.change(&job_path(name), |job| {
            json_patch::merge(&mut job["status"], &status);
        });
        tokio::time::sleep(STEP / 2).await;
    }
}

fn now() -> String {
    let now = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(now).unwrap().to_string()
}

/// How many backups of a store there are, and how many of them were verified.
pub fn backups(api: &Api, store: &str) -> (usize, usize) {
    let all = api.all("codexbackups");
    let mine: Vec<_> = all
        .iter()
        .filter(|b| b["spec"]["storeRef"]["name"] == store)
        .collect();
    let verified = |backup: &&&Value| {
        let all = backup["status"]["conditions"].as_array();
        all.is_some_and(|all| {
            all.iter()
                .any(|c| c["type"] == "Verified" && c["status"] == "True")
        })
    };
    (mine.len(), mine.iter().filter(verified).count())
}
