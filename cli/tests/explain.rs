//! `codexctl explain` against an API server that answers by a script: what it asks for, and its exit codes.
//! (The real cluster's turn is in tests/.)

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::support::{Ran, codexctl, run};

/// Answers by path; what it has no answer for is not found.
pub struct Server {
    kubeconfig: PathBuf,
    /// Its address.
    pub url: String,
    /// First lines of requests.
    pub asked: Arc<Mutex<Vec<String>>>,
    /// Bodies of those that had one.
    pub sent: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

impl Server {
    pub fn start(answers: &[(&str, u16, Value)]) -> Self {
        let answers: HashMap<String, (u16, Value)> = answers
            .iter()
            .map(|(path, code, body)| ((*path).to_owned(), (*code, body.clone())))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (log, bodies) = (Arc::clone(&asked), Arc::clone(&sent));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &answers, &log, &bodies);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("config");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        Self {
            kubeconfig,
            url: format!("http://{address}"),
            asked,
            sent,
            _dir: dir,
        }
    }

    fn explain(&self, args: &[&str]) -> Ran {
        self.run("explain", args)
    }

    pub fn run(&self, command: &str, args: &[&str]) -> Ran {
        run(&mut self.command(command, args))
    }

    pub fn command(&self, command: &str, args: &[&str]) -> Command {
        let mut codexctl = codexctl();
        codexctl
            .env("KUBECONFIG", &self.kubeconfig)
            .arg(command)
            .args(args);
        codexctl
    }
}

fn serve(
    stream: TcpStream,
    answers: &HashMap<String, (u16, Value)>,
    log: &Mutex<Vec<String>>,
    bodies: &Mutex<Vec<String>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = reader.by_ref().lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let mut length = 0;
    for line in lines.by_ref() {
        let line = line.unwrap_or_default().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(count) = line.strip_prefix("content-length:") {
            length = count.trim().parse().unwrap();
        }
    }
    if length > 0 {
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        bodies
            .lock()
            .unwrap()
            .push(String::from_utf8(body).unwrap());
    }
    let url = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let path = url.split('?').next().unwrap_or_default().to_owned();
    log.lock().unwrap().push(first);
    let missing = (404, status(404, "NotFound", "not found"));
    let (code, body) = answers.get(&path).unwrap_or(&missing);
    let body = body.to_string();
    let mut stream = stream;
    let _ = write!(
        stream,
        "HTTP/1.1 {code} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
}

pub fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
           "code": code, "reason": reason, "message": message})
}

fn pod(labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": labels},
           "spec": {"containers": [{"name": "app", "image": "app"}]}})
}

const POD: &str = "/api/v1/namespaces/shop/pods/web";

#[test]
fn a_pod_without_a_label_is_explained() {
    let server = Server::start(&[(POD, 200, pod(&json!({})))]);
    let text = server.explain(&["pod/web"]).ok();
    assert!(
        text.contains("codexstore.dev/store") && text.contains("NotAsked"),
        "{text}"
    );
    let report = server.explain(&["pod/web", "-o", "json"]).json();
    assert_eq!(report["injected"], false);
    assert_eq!(report["findings"][0]["reason"], "NotAsked");
}

#[test]
fn a_pod_that_names_no_store_hears_the_webhooks_words() {
    let server = Server::start(&[(POD, 200, pod(&json!({"codexstore.dev/store": "orders"})))]);
    let report = server
        .explain(&["pod/web", "-n", "shop", "-o", "json"])
        .json();
    assert_eq!(report["store"], "orders");
    assert_eq!(report["findings"][0]["reason"], "StoreNotFound");
}

#[test]
fn a_cluster_without_the_operator_is_told_apart_from_one_without_the_store() {
    // What an API server answers for a resource that it does not know is no Status.
    let stores = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexstores";
    let one = format!("{stores}/orders");
    let webhooks = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    let none = json!({"items": [], "metadata": {}});
    let server = Server::start(&[
        (POD, 200, pod(&json!({"codexstore.dev/store": "orders"}))),
        (stores, 404, json!("404 page not found")),
        (&one, 404, json!("404 page not found")),
        (webhooks, 200, none),
    ]);
    let text = server.explain(&["pod/web"]).ok();
    assert!(
        text.contains("the operator's webhook is not installed"),
        "{text}"
    );
    let error = server.explain(&["cxs/orders"]).fails(3);
    assert!(error.contains("the operator is not installed"), "{error}");
}

#[test]
fn the_namespace_selector_of_the_webhook_is_applied() {
    let webhook = json!({"items": [{"metadata": {"name": "codexstore"}, "webhooks": [{
        "name": "inject.codexstore.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {},
        "namespaceSelector": {"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["shop"]}]}}]}], "metadata": {}});
    let namespace =
        json!({"metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop"}}});
    let store = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexStore",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "s"}, "spec": {},
        "status": {"keyring": {"secretName": "cxs-orders-keyring", "secretUid": "k"}}});
    let server = Server::start(&[
        (POD, 200, pod(&json!({"codexstore.dev/store": "orders"}))),
        ("/api/v1/namespaces/shop", 200, namespace),
        (
            "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexstores/orders",
            200,
            store,
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
            200,
            webhook,
        ),
    ]);
    let report = server.explain(&["pod/web", "-o", "json"]).json();
    assert_eq!(
        report["findings"][0]["reason"], "NamespaceExcluded",
        "{report}"
    );
    let asked = server.asked.lock().unwrap();
    assert!(
        asked
            .iter()
            .all(|line| line.starts_with("GET ") && !line.contains("secrets")),
        "{asked:?}"
    );
}

#[test]
fn what_is_not_there_exits_with_3() {
    let server = Server::start(&[]);
    assert!(
        server
            .explain(&["pod/nobody"])
            .fails(3)
            .contains("pod/nobody is not there in namespace shop")
    );
    assert!(
        server
            .explain(&["cxs/nothing", "-n", "x"])
            .fails(3)
            .contains("namespace x")
    );
}

#[test]
fn what_may_not_be_read_exits_with_4() {
    let denied = status(403, "Forbidden", "pods \"web\" is forbidden");
    let server = Server::start(&[(POD, 403, denied)]);
    let error = server.explain(&["pod/web"]).fails(4);
    assert!(error.contains("pods \"web\" is forbidden"), "{error}");
}

#[test]
fn a_cluster_that_does_not_answer_exits_with_9_and_a_wrong_target_with_2() {
    let server = Server::start(&[]);
    let config = std::fs::read_to_string(&server.kubeconfig).unwrap();
    let port = config
        .split("127.0.0.1:")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    // Nobody listens there, and no test beside this one ever will.
    let nobody = config.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:1");
    std::fs::write(&server.kubeconfig, nobody).unwrap();
    server.explain(&["pod/web"]).fails(9);
    server.explain(&["deploy/web"]).fails(2);
    let error =
        run(codexctl().args(["explain", "pod/web", "--kubeconfig", "/no/such/config"])).fails(2);
    assert!(error.contains("/no/such/config"), "{error}");
}
