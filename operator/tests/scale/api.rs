//! An API server in this process: it keeps objects, lists them, lets them be watched from a revision on, and counts each call.
//!
//! It does what the operator relies on, as the real one does: resource versions, UIDs, finalizers, watches that lose nothing, and
//! server-side apply, by which a manager takes back what it leaves out, and a patch that changes nothing is no change.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The server.
#[derive(Clone, Default)]
pub struct Api {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    changes: Vec<Change>,
    watchers: Vec<Watcher>,
    applied: HashMap<(String, String), Value>,
    calls: BTreeMap<String, usize>,
    made: Option<mpsc::UnboundedSender<Value>>,
}

struct Change {
    version: u64,
    kind: &'static str,
    path: String,
    object: Value,
}

struct Watcher {
    of: Target,
    label: Option<(String, String)>,
    lines: mpsc::UnboundedSender<Bytes>,
}

/// What a path names.
#[derive(Clone, Debug, PartialEq)]
struct Target {
    group: String,
    namespace: Option<String>,
    plural: String,
    name: Option<String>,
    sub: Option<String>,
}

impl Target {
    fn of(path: &str) -> Option<Target> {
        let mut parts = path.trim_matches('/').split('/');
        let group = match parts.next()? {
            "api" => format!("api/{}", parts.next()?),
            "apis" => format!("apis/{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let mut plural = parts.next()?.to_owned();
        let mut namespace = None;
        if plural == "namespaces" {
            namespace = Some(parts.next()?.to_owned());
            parts.next()?.clone_into(&mut plural);
        }
        Some(Target {
            group,
            namespace,
            plural,
            name: parts.next().map(str::to_owned),
            sub: parts.next().map(str::to_owned),
        })
    }

    /// Whether an object's path is one of this collection.
    fn has(&self, path: &str) -> bool {
        Target::of(path).is_some_and(|object| {
            object.group == self.group
                && object.plural == self.plural
                && (self.namespace.is_none() || self.namespace == object.namespace)
        })
    }
}

impl Api {
    /// Starts it; its address. Each Job that is made is sent on.
    pub async fn start(&self) -> (String, mpsc::UnboundedReceiver<Value>) {
        let (sender, made) = mpsc::unbounded_channel();
        self.state.lock().unwrap().made = Some(sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let api = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let api = api.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let api = api.clone();
                        async move { Ok::<_, Infallible>(api.answer(request).await) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        (address, made)
    }

    /// Calls by verb and kind since this was last asked.
    pub fn take_calls(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// The latest resource version, as a number that grows.
    pub fn revision(&self) -> u64 {
        self.state.lock().unwrap().version
    }

    /// All objects of a kind.
    pub fn all(&self, plural: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let of_kind = |path: &str| Target::of(path).is_some_and(|t| t.plural == plural);
        let all = state.objects.iter().filter(|(path, _)| of_kind(path));
        all.map(|(_, object)| object.clone()).collect()
    }

    /// Makes an object, as somebody other than the operator.
    pub fn put(&self, path: &str, object: Value) {
        self.state.lock().unwrap().create(path, object);
    }

    /// Changes an object, as somebody other than the operator.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock().unwrap();
        let Some(mut object) = state.objects.get(path).cloned() else {
            return;
        };
        change(&mut object);
        state.store(path, object);
    }

    /// Applies a status, as a Job does.
    pub fn tell(&self, path: &str, manager: &str, status: &Value) {
        let body = json!({"status": status});
        self.state.lock().unwrap().apply(path, manager, &body);
    }

    /// Takes an object away, and what it owns.
    pub fn remove(&self, path: &str) {
        self.state.lock().unwrap().remove(path);
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let verb = request.method().to_string();
        let path = request.uri().path().to_owned();
        let query: HashMap<String, String> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.replace("%2F", "/").replace("%3D", "=")))
            .collect();
        let apply = request
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.to_str().unwrap().contains("apply"));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if path == "/version" {
            return reply(
                200,
                &json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
            );
        }
        let Some(target) = Target::of(&path) else {
            return failure(404, "NotFound");
        };
        let mut state = self.state.lock().unwrap();
        let watch = query.get("watch").is_some_and(|w| w == "true");
        let what = match (&target.name, watch) {
            (None, true) => "WATCH",
            (None, false) if verb == "GET" => "LIST",
            _ => &verb,
        };
        let sub = target
            .sub
            .as_ref()
            .map(|s| format!("/{s}"))
            .unwrap_or_default();
        *state
            .calls
            .entry(format!("{what} {}{sub}", target.plural))
            .or_default() += 1;
        if target.name.is_none() && verb == "GET" {
            let label = query
                .get("labelSelector")
                .and_then(|s| s.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())));
            let exists = query.get("labelSelector").filter(|s| !s.contains('='));
            let label = label.or(exists.map(|key| (key.clone(), String::new())));
            if watch {
                let since = query
                    .get("resourceVersion")
                    .map_or(0, |v| v.parse().unwrap_or(0));
                return state.watch(target, label, since);
            }
            return state.list(&target, label.as_ref());
        }
        state.act(&verb, &path, &target, apply, &query, body)
    }
}

fn wanted(object: &Value, label: Option<&(String, String)>) -> bool {
    label.is_none_or(|(key, value)| {
        let found = &object["metadata"]["labels"][key];
        found.is_string() && (value.is_empty() || found == value)
    })
}

impl State {
    fn stamp(&mut self, object: &mut Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
    }

    fn tell(&mut self, kind: &'static str, path: &str, object: &Value) {
        let line = line(kind, object);
        self.watchers.retain(|watcher| !watcher.lines.is_closed());
        for watcher in &self.watchers {
            if watcher.of.has(path) && wanted(object, watcher.label.as_ref()) {
                let _ = watcher.lines.send(line.clone());
            }
        }
        self.changes.push(Change {
            version: self.version,
            kind,
            path: path.to_owned(),
            object: object.clone(),
        });
    }

    fn create(&mut self, path: &str, mut object: Value) -> Value {
        let now = jiff::Timestamp::now().as_second();
        let now = jiff::Timestamp::from_second(now).unwrap().to_string();
        object["metadata"]["uid"] = json!(format!("uid-{}", self.version + 1));
        object["metadata"]["generation"] = json!(1);
        if object["metadata"]["creationTimestamp"].is_null() {
            object["metadata"]["creationTimestamp"] = json!(now);
        }
        self.stamp(&mut object);
        self.objects.insert(path.to_owned(), object.clone());
        self.tell("ADDED", path, &object);
        object
    }

    /// Puts a changed object in the place of the one that is there; one that is not changed is left alone.
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        if self.objects.get(path) == Some(&object) {
            return object;
        }
        let finalizers = object["metadata"]["finalizers"].as_array();
        if finalizers.is_none_or(Vec::is_empty)
            && object["metadata"]["deletionTimestamp"].is_string()
        {
            self.remove(path);
            return object;
        }
        self.stamp(&mut object);
        self.objects.insert(path.to_owned(), object.clone());
        self.tell("MODIFIED", path, &object);
        object
    }

    fn remove(&mut self, path: &str) {
        let Some(mut object) = self.objects.remove(path) else {
            return;
        };
        self.stamp(&mut object);
        self.tell("DELETED", path, &object);
        let owner = object["metadata"]["uid"].clone();
        let children: Vec<_> = self
            .objects
            .iter()
            .filter(|(_, o)| o["metadata"]["ownerReferences"][0]["uid"] == owner)
            .map(|(path, _)| path.clone())
            .collect();
        for path in children {
            self.remove(&path);
        }
    }

    fn apply(&mut self, path: &str, manager: &str, body: &Value) -> Option<Value> {
        let mut object = self.objects.get(path)?.clone();
        let key = (path.to_owned(), manager.to_owned());
        if let Some(before) = self.applied.get(&key) {
            take_back(&mut object, before, body);
        }
        merge(&mut object, body);
        self.applied.insert(key, body.clone());
        Some(self.store(path, object))
    }

    fn list(&self, of: &Target, label: Option<&(String, String)>) -> Answer {
        let items: Vec<_> = self
            .objects
            .iter()
            .filter(|(path, object)| of.has(path) && wanted(object, label))
            .map(|(_, object)| object)
            .collect();
        reply(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items}),
        )
    }

    fn watch(&mut self, of: Target, label: Option<(String, String)>, since: u64) -> Answer {
        let (lines, receiver) = mpsc::unbounded_channel();
        for change in self.changes.iter().filter(|c| c.version > since) {
            if of.has(&change.path) && wanted(&change.object, label.as_ref()) {
                let _ = lines.send(line(change.kind, &change.object));
            }
        }
        self.watchers.push(Watcher { of, label, lines });
        let frames = stream::unfold(receiver, |mut receiver| async move {
            let line = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(line)), receiver))
        });
        let body = StreamBody::new(frames).boxed_unsync();
        Response::builder()
            .header("content-type", "application/json")
            .body(body)
            .unwrap()
    }

    fn act(
        &mut self,
        verb: &str,
        path: &str,
        target: &Target,
        apply: bool,
        query: &HashMap<String, String>,
        body: Value,
    ) -> Answer {
        let suffix = target.sub.as_ref().map(|sub| format!("/{sub}"));
        let at = suffix
            .as_ref()
            .and_then(|suffix| path.strip_suffix(suffix.as_str()))
            .unwrap_or(path);
        match verb {
            "GET" => match self.objects.get(at) {
                Some(object) => reply(200, object),
                None => failure(404, "NotFound"),
            },
            "POST" => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let at = format!("{path}/{name}");
                if self.objects.contains_key(&at) {
                    return failure(409, "AlreadyExists");
                }
                let object = self.create(&at, body);
                if target.plural == "jobs"
                    && let Some(made) = &self.made
                {
                    let _ = made.send(object.clone());
                }
                reply(201, &object)
            }
            "DELETE" => {
                let Some(mut object) = self.objects.get(at).cloned() else {
                    return failure(404, "NotFound");
                };
                let finalizers = object["metadata"]["finalizers"].as_array();
                if finalizers.is_none_or(Vec::is_empty) {
                    self.remove(at);
                } else if object["metadata"]["deletionTimestamp"].is_null() {
                    object["metadata"]["deletionTimestamp"] = json!("2026-11-01T00:00:00Z");
                    object = self.store(at, object);
                }
                reply(200, &object)
            }
            "PUT" | "PATCH" => {
                let Some(before) = self.objects.get(at).cloned() else {
                    if apply && target.sub.is_none() && body["metadata"]["uid"].is_null() {
                        return reply(201, &self.create(at, body));
                    }
                    return failure(404, "NotFound");
                };
                for guard in ["resourceVersion", "uid"] {
                    let asked = &body["metadata"][guard];
                    if !asked.is_null() && *asked != before["metadata"][guard] {
                        return failure(409, "Conflict");
                    }
                }
                let manager = query.get("fieldManager").map(String::as_str);
                let object = if apply {
                    self.apply(at, manager.unwrap_or_default(), &body)
                } else {
                    let mut object = before;
                    json_patch::merge(&mut object, &body);
                    Some(self.store(at, object))
                };
                reply(200, &object.unwrap_or_default())
            }
            _ => failure(405, "MethodNotAllowed"),
        }
    }
}

/// Lists whose entries have a `type` are maps by it, as those of conditions.
fn by_type(list: &Value) -> Option<&Vec<Value>> {
    let list = list.as_array()?;
    list.iter().all(|e| e["type"].is_string()).then_some(list)
}

/// What a manager applied before and leaves out now goes.
fn take_back(object: &mut Value, before: &Value, now: &Value) {
    if let (Some(was), Some(list)) = (by_type(before), object.as_array_mut()) {
        let gone = |kind: &Value| {
            was.iter().any(|e| e["type"] == *kind)
                && !by_type(now).is_some_and(|now| now.iter().any(|e| e["type"] == *kind))
        };
        list.retain(|entry| !gone(&entry["type"]));
        return;
    }
    let (Some(fields), Some(was)) = (object.as_object_mut(), before.as_object()) else {
        return;
    };
    for (key, value) in was {
        match now.get(key) {
            None if by_type(value).is_none_or(Vec::is_empty) => drop(fields.remove(key)),
            now => {
                if let Some(field) = fields.get_mut(key) {
                    take_back(field, value, now.unwrap_or(&Value::Null));
                }
            }
        }
    }
}

fn merge(object: &mut Value, applied: &Value) {
    if let (Some(_), Some(list), Some(new)) =
        (by_type(object), object.clone().as_array(), by_type(applied))
    {
        let mut list = list.clone();
        for entry in new {
            match list.iter_mut().find(|e| e["type"] == entry["type"]) {
                Some(found) => *found = entry.clone(),
                None => list.push(entry.clone()),
            }
        }
        *object = json!(list);
        return;
    }
    let Some(new) = applied.as_object() else {
        *object = applied.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in new {
        if !value.is_null() {
            merge(&mut object[key], value);
        }
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut line = json!({"type": kind, "object": object}).to_string();
    line.push('\n');
    line.into()
}

fn reply(status: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

fn failure(status: u16, reason: &str) -> Answer {
    reply(
        status,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": reason, "message": reason}),
    )
}
