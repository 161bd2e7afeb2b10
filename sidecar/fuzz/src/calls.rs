//! Connections of gRPC: any frames of HTTP/2 at all, and well-formed calls of any method with any message.

use std::collections::BTreeMap;

use bytes::Bytes;
use codexstore_api::grpc::operation::Operation;
use codexstore_api::grpc::{
    BatchRequest, CompareAndSetRequest, CompareAndSetResponse, DeletePrefixRequest,
    DeletePrefixResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse, HistoryRequest,
    ListRequest, ListResponse, SetRequest, SetResponse, StatusRequest, WatchRequest,
};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::{v1, v1alpha};

use crate::bytes::Choices;
use crate::client::Client;
use crate::member::{self, Member};
use crate::requests::PREFACE;

/// Most calls of a connection.
const CALLS: usize = 12;

/// What nothing that expires comes to within a run: an hour.
const HOUR: u64 = 3_600_000;

/// A connection: whether its bytes are sent as they are behind the preface, and with settings, or choose calls; and those.
pub fn grpc(data: &[u8]) {
    let [how, part, rest @ ..] = data else {
        return;
    };
    member::with(how & 1 != 0, |runtime, member| {
        if how & 2 == 0 {
            let settings: &[u8] = match how & 4 {
                0 => b"",
                _ => b"\0\0\0\x04\0\0\0\0\0",
            };
            let stream = [PREFACE, settings, rest].concat();
            let client = Client::new(stream, *part, *part);
            runtime.block_on(async { member::in_time(member.serve(client)).await });
        } else {
            let room = 64 << (how >> 4);
            let calls = calls(member, Choices(rest), room);
            runtime.block_on(async { member::in_time(calls).await });
        }
    });
}

async fn calls(member: &Member, mut choices: Choices<'_>, room: usize) {
    let (client, server) = tokio::io::duplex(room);
    let serving = tokio::spawn(member.serve(server));
    let shake = http2::handshake(TokioExecutor::new(), TokioIo::new(client));
    let (mut sender, connection) = shake.await.expect("a connection");
    let connection = tokio::spawn(connection);
    let mut made = 0;
    while !choices.is_empty() && made < CALLS {
        let call = Call::choose(&mut choices);
        let before = Before::of(member);
        let answer = call.make(&mut sender).await;
        call.check(member, &before, &answer);
        made += 1;
    }
    drop(sender);
    // The client goes away, and so the connection ends.
    let _ended = connection.await;
    let heard = serving.await.expect("no panic");
    assert_eq!(heard.asked.len(), made, "each is one call");
}

/// Methods that are offered, and one that is not.
const METHODS: [&str; 15] = [
    "/codexstore.v1.KV/Get",
    "/codexstore.v1.KV/Set",
    "/codexstore.v1.KV/Delete",
    "/codexstore.v1.KV/DeletePrefix",
    "/codexstore.v1.KV/List",
    "/codexstore.v1.KV/Batch",
    "/codexstore.v1.KV/CompareAndSet",
    "/codexstore.v1.KV/History",
    "/codexstore.v1.KV/Watch",
    "/codexstore.v1.KV/Status",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/codexstore.v1.KV/Nothing",
];

/// A call that is well formed as far as HTTP/2 goes.
struct Call {
    path: &'static str,
    message: Vec<u8>,
    /// The message as gRPC frames it, or something else.
    body: Vec<u8>,
    /// Whether that is one whole message, as it is.
    framed: bool,
    timeout: Option<&'static str>,
}

/// What a client got for a call.
struct Answer {
    code: Code,
    message: String,
    body: Vec<u8>,
}

/// The store before a call.
struct Before {
    revision: u64,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Before {
    fn of(member: &Member) -> Before {
        Before {
            revision: member.store().status().revision,
            entries: member.entries(),
        }
    }
}

impl Call {
    fn choose(choices: &mut Choices<'_>) -> Call {
        let path = METHODS[usize::from(choices.of(15))];
        let form = choices.byte();
        let message = if form % 8 == 0 {
            let size = choices.byte();
            choices.take(usize::from(size)).to_vec()
        } else {
            choices.message(member::MAX_VALUE, 2)
        };
        let message = later(path, message);
        let size = u32::try_from(message.len()).expect("it is small");
        let frame = |flag: u8, size: u32| [&[flag], &size.to_be_bytes()[..], &message].concat();
        let (body, framed) = match form / 8 {
            0 => (frame(1, size), false),
            1 => (frame(0, size + 1), false),
            2 => (frame(0, u32::MAX), false),
            3 => (frame(0, size).repeat(2), false),
            4 => (message.clone(), false),
            _ => (frame(0, size), true),
        };
        let timeout = match form % 16 {
            1 => Some("1H"),
            2 => Some("1h"),
            _ => None,
        };
        Call {
            path,
            message,
            body,
            framed,
            timeout,
        }
    }

    async fn make(&self, sender: &mut SendRequest<Full<Bytes>>) -> Answer {
        let mut request = Request::post(format!("http://fuzz{}", self.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(timeout) = self.timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let body = Full::new(Bytes::copy_from_slice(&self.body));
        let request = request.body(body).expect("a request");
        sender.ready().await.expect("the connection goes on");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let (head, body) = response.into_parts();
        if let Some(status) = status(&head.headers) {
            return status;
        }
        let endless = self.path.ends_with("/Watch");
        read(body, endless).await
    }

    /// What holds of every answer, and what of this one.
    fn check(&self, member: &Member, before: &Before, answer: &Answer) {
        let Answer {
            code,
            message,
            body,
        } = answer;
        let now = Before::of(member);
        assert!(
            !matches!(code, Code::Unknown | Code::DataLoss),
            "{}: {message}",
            self.path
        );
        if self.framed && self.decodes() && *code == Code::Internal {
            panic!("{}: {message}", self.path);
        }
        let path = self.path.rsplit('/').next().unwrap_or_default();
        if *code != Code::Ok {
            // What is refused changes nothing.
            assert_eq!(
                (now.revision, now.entries),
                (before.revision, before.entries.clone())
            );
            return;
        }
        if self.timeout == Some("1h") {
            panic!("{path} was answered with a malformed time");
        }
        if !self.framed {
            return;
        }
        // Reflection ends at what it does not understand.
        let asked = self.decodes() || path == "ServerReflectionInfo";
        assert!(asked, "{path} was answered without its message");
        let (mut wanted, mut changed) = (before.entries.clone(), true);
        match path {
            "Set" => {
                let SetRequest { key, value, .. } = decoded(&self.message);
                let done: SetResponse = decoded(body);
                assert_eq!(done.revision, before.revision + 1);
                let old = wanted.insert(key.to_vec(), value.to_vec());
                assert_eq!(done.created, old.is_none());
            }
            "Delete" => {
                let DeleteRequest { key, .. } = decoded(&self.message);
                let done: DeleteResponse = decoded(body);
                assert_eq!(done.revision, before.revision + 1);
                assert!(wanted.remove(&key[..]).is_some());
            }
            "DeletePrefix" => {
                let DeletePrefixRequest { prefix, .. } = decoded(&self.message);
                let done: DeletePrefixResponse = decoded(body);
                wanted.retain(|key, _| !key.starts_with(&prefix));
                let gone = before.entries.len() - wanted.len();
                assert_eq!(done.deleted, gone as u64);
                changed = gone > 0;
            }
            "Batch" => {
                let batch: BatchRequest = decoded(&self.message);
                for operation in batch.operations {
                    match operation.operation.expect("it was accepted") {
                        Operation::Set(set) => {
                            wanted.insert(set.key.to_vec(), set.value.to_vec());
                        }
                        Operation::Delete(delete) => {
                            wanted.remove(&delete.key[..]);
                        }
                    }
                }
                changed = now.revision != before.revision;
                assert!(changed || wanted == before.entries);
            }
            "CompareAndSet" => {
                let CompareAndSetRequest { key, new_value, .. } = decoded(&self.message);
                let done: CompareAndSetResponse = decoded(body);
                let found = done.current.map(|entry| entry.value.to_vec());
                if done.swapped {
                    wanted.insert(key.to_vec(), new_value.to_vec());
                } else {
                    assert_eq!(found.as_ref(), before.entries.get(&key[..]));
                }
                changed = done.swapped;
            }
            "Get" => {
                let GetRequest { key, revision } = decoded(&self.message);
                let found: GetResponse = decoded(body);
                let found = found.entry.map(|entry| entry.value.to_vec());
                // What it was then is not in the model.
                if revision.is_none() {
                    assert_eq!(found.as_ref(), before.entries.get(&key[..]));
                }
                changed = false;
            }
            "List" => {
                let asked: ListRequest = decoded(&self.message);
                let page: ListResponse = decoded(body);
                let whole = asked
                    == ListRequest {
                        prefix: asked.prefix.clone(),
                        ..ListRequest::default()
                    };
                if whole {
                    let found = page.entries.into_iter();
                    let found = found.map(|entry| (entry.key.to_vec(), entry.value.to_vec()));
                    wanted.retain(|key, _| key.starts_with(&asked.prefix));
                    assert!(found.eq(wanted));
                }
                (wanted, changed) = (before.entries.clone(), false);
            }
            _ => changed = false,
        }
        assert_eq!(now.entries, wanted, "{path}");
        assert_eq!(now.revision, before.revision + u64::from(changed), "{path}");
    }

    /// Whether the message is one of the method's.
    fn decodes(&self) -> bool {
        fn is<M: Message + Default>(bytes: &[u8]) -> bool {
            M::decode(bytes).is_ok()
        }
        let is = match METHODS.iter().position(|path| *path == self.path) {
            Some(0) => is::<GetRequest>,
            Some(1) => is::<SetRequest>,
            Some(2) => is::<DeleteRequest>,
            Some(3) => is::<DeletePrefixRequest>,
            Some(4) => is::<ListRequest>,
            Some(5) => is::<BatchRequest>,
            Some(6) => is::<CompareAndSetRequest>,
            Some(7) => is::<HistoryRequest>,
            Some(8) => is::<WatchRequest>,
            Some(9) => is::<StatusRequest>,
            Some(10 | 11) => is::<HealthCheckRequest>,
            Some(12) => is::<v1::ServerReflectionRequest>,
            Some(13) => is::<v1alpha::ServerReflectionRequest>,
            _ => return true,
        };
        is(&self.message)
    }
}

/// Reads an answer to its end; of one without an end, what comes first.
async fn read(mut body: Incoming, endless: bool) -> Answer {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.expect("an answer to its end").into_data() {
            Ok(data) => {
                all.extend_from_slice(&data);
                if endless {
                    break;
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                let status = status(&trailers).expect("a status");
                return Answer {
                    // The first message.
                    body: all.get(5..).unwrap_or_default().to_vec(),
                    ..status
                };
            }
        }
    }
    assert!(endless, "an answer without a status");
    Answer {
        code: Code::Ok,
        message: String::new(),
        body: all,
    }
}

fn status(headers: &HeaderMap) -> Option<Answer> {
    let status = Status::from_header_map(headers)?;
    Some(Answer {
        code: status.code(),
        message: status.message().to_owned(),
        body: Vec::new(),
    })
}

/// The message, with nothing in it that could expire before it is looked at.
fn later(path: &str, message: Vec<u8>) -> Vec<u8> {
    let put_off = |ttl: &mut Option<u64>| {
        if let Some(ttl @ 1..) = ttl {
            *ttl = ttl.saturating_add(HOUR);
        }
    };
    match path.rsplit('/').next() {
        Some("Set") => change::<SetRequest>(message, |set| put_off(&mut set.ttl_ms)),
        Some("CompareAndSet") => {
            change::<CompareAndSetRequest>(message, |set| put_off(&mut set.ttl_ms))
        }
        Some("Batch") => change::<BatchRequest>(message, |batch| {
            for operation in &mut batch.operations {
                if let Some(Operation::Set(set)) = &mut operation.operation {
                    put_off(&mut set.ttl_ms);
                }
            }
        }),
        _ => message,
    }
}

/// Changes a message if it is one, and leaves alone what is as it was.
fn change<M: Message + Default + Clone + PartialEq>(
    message: Vec<u8>,
    change: impl FnOnce(&mut M),
) -> Vec<u8> {
    let Ok(found) = M::decode(&message[..]) else {
        return message;
    };
    let mut changed = found.clone();
    change(&mut changed);
    if changed == found {
        message
    } else {
        changed.encode_to_vec()
    }
}

fn decoded<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).expect("a message")
}
