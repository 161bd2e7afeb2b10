//! A small API server in this process: it keeps objects, writes down each call, and can fail at a chosen one.
#![expect(clippy::missing_panics_doc, reason = "only tests call this")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::serve::{Answer, serve};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was done.
    Before,
    /// It was done, and the answer is lost.
    After,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    calls: Vec<(String, String)>,
    version: u64,
    fault: Option<(usize, Fault)>,
    dead: bool,
    hangs: bool,
    terminating: bool,
    forbidden: Option<String>,
    refused: Option<(String, u16)>,
}

/// The server.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
    /// A client of it.
    pub client: kube::Client,
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        if Arc::strong_count(&self.state) <= 2 {
            self.stop.cancel();
        }
    }
}

impl FakeApi {
    /// Starts a server without objects.
    pub async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let handler = move |request| answer(Arc::clone(&shared), request);
        let stop = CancellationToken::new();
        let grace = std::time::Duration::ZERO;
        tokio::spawn(serve(listener, None, handler, stop.clone(), grace));
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        Self {
            state,
            stop,
            client,
        }
    }

    /// Fails the call of this number, counted from 0 and from now on.
    pub fn fail(&self, call: usize, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state.calls.clear();
        state.fault = Some((call, fault));
    }

    /// Fails all calls from now on.
    pub fn fail_all(&self) {
        self.state.lock().unwrap().dead = true;
    }

    /// Makes nothing any more, as in a namespace that is being deleted.
    pub fn terminate(&self) {
        self.state.lock().unwrap().terminating = true;
    }

    /// Takes every right to paths with this in them away.
    pub fn forbid(&self, part: &str) {
        self.state.lock().unwrap().forbidden = Some(part.to_owned());
    }

    /// Answers all changes of paths with this in them with this code, and does nothing.
    pub fn refuse_changes(&self, part: &str, code: u16) {
        self.state.lock().unwrap().refused = Some((part.to_owned(), code));
    }

    /// Answers no call from now on.
    pub fn hang(&self) {
        self.state.lock().unwrap().hangs = true;
    }

    /// Verb and path of all calls so far.
    pub fn calls(&self) -> Vec<(String, String)> {
        self.state.lock().unwrap().calls.clone()
    }

    /// How many calls had this verb and a path with this in it.
    pub fn count(&self, verb: &str, part: &str) -> usize {
        self.calls()
            .iter()
            .filter(|(v, path)| v == verb && path.contains(part))
            .count()
    }

    /// The object at this path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// All objects in the collection at this path.
    pub fn all<T: serde::de::DeserializeOwned>(&self, collection: &str) -> Vec<Arc<T>> {
        let state = self.state.lock().unwrap();
        let found = state.objects.iter().filter(|(path, _)| {
            path.rsplit_once('/')
                .is_some_and(|(parent, _)| parent == collection)
        });
        found
            .map(|(_, object)| Arc::new(serde_json::from_value(object.clone()).unwrap()))
            .collect()
    }

    /// Puts an object there, as a user would.
    pub fn put(&self, path: &str, object: &impl serde::Serialize) {
        let mut state = self.state.lock().unwrap();
        let mut object = serde_json::to_value(object).unwrap();
        stamp(&mut state, &mut object);
        state.objects.insert(path.to_owned(), object);
    }

    /// Takes an object away, as a user would.
    pub fn remove(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.remove(path)
    }

    /// All events, whole.
    pub fn whole_events(&self) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let events = state
            .objects
            .iter()
            .filter(|(path, _)| path.contains("/events/"));
        events.map(|(_, e)| e.clone()).collect()
    }

    /// How many calls were not reads.
    pub fn writes(&self) -> usize {
        self.calls().iter().filter(|(v, _)| v != "GET").count()
    }

    /// How many events have this reason.
    pub fn told(&self, reason: &str) -> usize {
        let all = self.whole_events();
        all.iter().filter(|e| e["reason"] == reason).count()
    }

    /// All events, as (reason, object).
    pub fn events(&self) -> Vec<(String, String)> {
        let events = self.whole_events();
        events
            .iter()
            .map(|e| (text(&e["reason"]), text(&e["regarding"]["name"])))
            .collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn stamp(state: &mut State, object: &mut Value) {
    state.version += 1;
    let version = state.version;
    if object["metadata"]["uid"].is_null() {
        object["metadata"]["uid"] = json!(format!("uid-{version}"));
    }
    object["metadata"]["resourceVersion"] = json!(version.to_string());
}

fn reply(status: u16, body: &Value) -> Answer {
    let mut response = Response::new(Full::new(serde_json::to_vec(body).unwrap().into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn failure(status: u16, reason: &str) -> Answer {
    reply(
        status,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": status, "reason": reason, "message": reason}),
    )
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Answer {
    let verb = request.method().to_string();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let kind = request
        .headers()
        .get("content-type")
        .map(|v| v.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if state.lock().unwrap().hangs {
        std::future::pending::<()>().await;
    }
    let mut state = state.lock().unwrap();
    let number = state.calls.len();
    state.calls.push((verb.clone(), path.clone()));
    let fault = state
        .fault
        .filter(|(call, _)| *call == number)
        .map(|(_, fault)| fault);
    if state.dead || fault == Some(Fault::Before) {
        return failure(500, "InternalError");
    }
    let forbidden = state.forbidden.as_ref();
    if forbidden.is_some_and(|part| path.contains(part)) {
        return failure(403, "Forbidden");
    }
    let refused = state.refused.as_ref();
    if let Some((_, code)) = refused.filter(|(part, _)| verb != "GET" && path.contains(part)) {
        return failure(*code, "Refused");
    }
    let done = act(
        &mut state,
        &verb,
        &path,
        &query,
        kind.as_deref().unwrap_or_default(),
        body,
    );
    if fault == Some(Fault::After) {
        failure(500, "InternalError")
    } else {
        done
    }
}

fn act(state: &mut State, verb: &str, path: &str, query: &str, kind: &str, body: Value) -> Answer {
    match verb {
        "GET" if collection(path) => list(state, path, query),
        "GET" => match state.objects.get(path) {
            Some(object) => reply(200, object),
            None => failure(404, "NotFound"),
        },
        "POST" if state.terminating => reply(
            403,
            &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": "forbidden: unable to create new content in namespace shop because it is being terminated"}),
        ),
        "POST" => {
            let mut object = body;
            let path = format!("{path}/{}", text(&object["metadata"]["name"]));
            if state.objects.contains_key(&path) {
                return failure(409, "AlreadyExists");
            }
            object["metadata"].as_object_mut().unwrap().remove("uid");
            let namespace = path.split("/namespaces/").nth(1);
            if let Some(namespace) = namespace.and_then(|rest| rest.split('/').next()) {
                object["metadata"]["namespace"] = json!(namespace);
            }
            stamp(state, &mut object);
            state.objects.insert(path, object.clone());
            reply(201, &object)
        }
        "PUT" | "PATCH" => {
            let target = path.strip_suffix("/status").unwrap_or(path).to_owned();
            let Some(before) = state.objects.get(&target).cloned() else {
                if !kind.contains("apply") || target != path {
                    return failure(404, "NotFound");
                }
                // A server-side apply makes what is not there, unless it is of a certain one.
                if !body["metadata"]["uid"].is_null() {
                    return failure(409, "Conflict");
                }
                let mut object = body;
                stamp(state, &mut object);
                state.objects.insert(target, object.clone());
                return reply(201, &object);
            };
            for guard in ["resourceVersion", "uid"] {
                let asked = &body["metadata"][guard];
                if !asked.is_null() && *asked != before["metadata"][guard] {
                    return failure(409, "Conflict");
                }
            }
            let mut object = before;
            if verb == "PUT" {
                object = body;
            } else if kind.contains("json-patch") {
                let changes: json_patch::Patch = serde_json::from_value(body).unwrap();
                if json_patch::patch(&mut object, &changes).is_err() {
                    return failure(422, "Invalid");
                }
            } else {
                // A server-side apply of one manager replaces the status that it owns.
                if kind.contains("apply") {
                    object.as_object_mut().unwrap().remove("status");
                }
                json_patch::merge(&mut object, &body);
            }
            stamp(state, &mut object);
            let finalizers = object["metadata"]["finalizers"].as_array();
            if finalizers.is_none_or(Vec::is_empty)
                && object["metadata"]["deletionTimestamp"].is_string()
            {
                state.objects.remove(&target);
            } else {
                state.objects.insert(target, object.clone());
            }
            reply(200, &object)
        }
        "DELETE" => match state.objects.get(path).cloned() {
            None => failure(404, "NotFound"),
            Some(mut object) => {
                let finalizers = object["metadata"]["finalizers"].as_array();
                if finalizers.is_some_and(|all| !all.is_empty()) {
                    object["metadata"]["deletionTimestamp"] = json!("2026-11-01T00:00:00Z");
                    stamp(state, &mut object);
                    state.objects.insert(path.to_owned(), object.clone());
                } else {
                    state.objects.remove(path);
                }
                reply(200, &object)
            }
        },
        _ => failure(405, "MethodNotAllowed"),
    }
}

/// Paths end in the plural of a kind, or in a name after it.
fn collection(path: &str) -> bool {
    [
        "persistentvolumeclaims",
        "pods",
        "codexstores",
        "configmaps",
        "codexbackups",
        "codexrestores",
    ]
    .iter()
    .any(|plural| path.ends_with(&format!("/{plural}")))
}

fn list(state: &State, path: &str, query: &str) -> Answer {
    let selector = query
        .split('&')
        .find_map(|p| p.strip_prefix("labelSelector="));
    let selector = selector
        .unwrap_or_default()
        .replace("%2F", "/")
        .replace("%3D", "=");
    let wanted = selector.split_once('=');
    let items: Vec<_> = state
        .objects
        .iter()
        .filter(|(at, _)| {
            at.rsplit_once('/')
                .is_some_and(|(parent, _)| parent == path)
        })
        .filter(|(_, o)| wanted.is_none_or(|(k, v)| o["metadata"]["labels"][k] == v))
        .map(|(_, o)| o.clone())
        .collect();
    reply(
        200,
        &json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}),
    )
}
