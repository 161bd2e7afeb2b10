//! Connections of HTTP: any bytes at all, and requests that are well formed, with what each must be answered.

use std::collections::BTreeMap;

use codexstore_api::bodies::{self, Batch, Condition, List, Operation, Precondition};
use codexstore_api::encoding::percent;
use http::Method;
use serde::de::DeserializeOwned;

use crate::bytes::Choices;
use crate::client::Client;
use crate::member::{self, Heard, MAX_VALUE, Member};
use crate::replies::{self, Reply};

/// How a connection of HTTP/2 begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most requests of a connection.
const REQUESTS: usize = 24;

/// A connection: how it is cut and taken, whether its bytes are sent as they are or choose requests, and those.
pub fn http(data: &[u8]) {
    let [how, part, gulp, rest @ ..] = data else {
        return;
    };
    member::with(how & 1 != 0, |runtime, member| {
        let served = |stream: Vec<u8>| {
            let client = Client::new(stream, *part, *gulp);
            let output = client.output();
            let heard = runtime.block_on(async { member::in_time(member.serve(client)).await });
            (heard, output.take())
        };
        if how & 2 == 0 {
            let (heard, output) = served(rest.to_vec());
            if !rest.starts_with(PREFACE) {
                answered(&heard, &output);
            }
        } else {
            made(rest, member, served);
        }
    });
}

/// Each request that came through has one answer, in its place; behind them may be the refusal of what was none.
fn answered(heard: &Heard, output: &[u8]) {
    let methods: Vec<Method> = heard
        .asked
        .iter()
        .map(|asked| asked.method.clone())
        .collect();
    let replies = replies::read(output, &methods, heard.endless);
    for (asked, reply) in heard.asked.iter().zip(&replies) {
        assert_eq!(
            asked.status.map(|status| status.as_u16()),
            Some(reply.status)
        );
    }
    if heard.endless {
        assert!(replies.len() <= heard.asked.len());
        return;
    }
    let refused = replies
        .get(heard.asked.len()..)
        .expect("an answer for each");
    assert!(
        matches!(
            refused,
            [] | [Reply {
                status: 400..500,
                ..
            }]
        ),
        "{refused:?}"
    );
}

/// What a request must be answered.
enum Wanted {
    /// This status, and nothing more is known.
    Status(u16),
    /// Any answer but one that blames the sidecar.
    Any,
    /// The value, or only how long it is.
    Value(Vec<u8>, Method),
    /// A page with these.
    Page(BTreeMap<Vec<u8>, Vec<u8>>),
    /// That so many are gone.
    Deleted(usize),
}

/// Requests that are made of choices, and a model of the store that they come to.
struct Made {
    stream: Vec<u8>,
    wanted: Vec<(Method, Wanted)>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn made(choices: &[u8], member: &Member, served: impl FnOnce(Vec<u8>) -> (Heard, Vec<u8>)) {
    let mut made = Made {
        stream: Vec::new(),
        wanted: Vec::new(),
        entries: BTreeMap::new(),
    };
    let mut choices = Choices(choices);
    while !choices.is_empty() && made.wanted.len() < REQUESTS {
        made.request(&mut choices);
    }
    let (heard, output) = served(made.stream);
    assert_eq!(heard.asked.len(), made.wanted.len(), "each is one request");
    let methods: Vec<Method> = made
        .wanted
        .iter()
        .map(|(method, _)| method.clone())
        .collect();
    let replies = replies::read(&output, &methods, false);
    assert_eq!(replies.len(), made.wanted.len(), "each has one answer");
    for (reply, (method, wanted)) in replies.iter().zip(&made.wanted) {
        wanted.check(method, reply);
    }
    assert_eq!(member.entries(), made.entries);
}

impl Made {
    fn request(&mut self, choices: &mut Choices<'_>) {
        let what = choices.of(14);
        let key = choices.key();
        let path = format!("/v1/keys/{}", percent(&key));
        match what {
            0..3 => self.put(choices, key, &path),
            3 | 4 => {
                let wanted = match self.entries.get(&key) {
                    Some(value) => Wanted::Value(value.clone(), Method::GET),
                    None => Wanted::Status(404),
                };
                self.plain(choices, Method::GET, &path, wanted);
            }
            5 => {
                let wanted = match self.entries.get(&key) {
                    Some(value) => Wanted::Value(value.clone(), Method::HEAD),
                    None => Wanted::Status(404),
                };
                self.plain(choices, Method::HEAD, &path, wanted);
            }
            6 | 7 => {
                let there = self.entries.contains_key(&key);
                let (field, holds) = condition(choices, there);
                let status = match (holds, there) {
                    (false, _) => 412,
                    (true, true) => 204,
                    (true, false) => 404,
                };
                if holds {
                    self.entries.remove(&key);
                }
                self.send(Method::DELETE, &path, &field, b"", Wanted::Status(status));
            }
            8 | 9 => {
                let under = self.entries.iter().filter(|(k, _)| k.starts_with(&key));
                let page = under.map(|(k, v)| (k.clone(), v.clone())).collect();
                let path = format!("/v1/keys?values=true&prefix={}", percent(&key));
                self.plain(choices, Method::GET, &path, Wanted::Page(page));
            }
            10 => {
                let before = self.entries.len();
                self.entries.retain(|k, _| !k.starts_with(&key));
                let wanted = Wanted::Deleted(before - self.entries.len());
                let path = format!("/v1/keys?prefix={}", percent(&key));
                self.plain(choices, Method::DELETE, &path, wanted);
            }
            11 => self.batch(choices, &key),
            12 => {
                let (method, path, wanted) = match choices.of(10) {
                    0 => (Method::GET, "/healthz".to_owned(), Wanted::Status(200)),
                    1 => (Method::GET, "/readyz".to_owned(), Wanted::Status(200)),
                    2 => (Method::HEAD, "/metrics".to_owned(), Wanted::Status(200)),
                    3 => (Method::GET, "/v1/status".to_owned(), Wanted::Status(200)),
                    4 => (Method::GET, format!("{path}/history"), Wanted::Any),
                    5 => (Method::GET, format!("{path}?revision=7"), Wanted::Any),
                    6 => (Method::PATCH, path, Wanted::Status(405)),
                    7 => (Method::GET, format!("{path}/"), Wanted::Status(404)),
                    8 => (Method::OPTIONS, "*".to_owned(), Wanted::Status(404)),
                    _ => (Method::POST, "/v1/clock/accept".to_owned(), Wanted::Any),
                };
                self.plain(choices, method, &path, wanted);
            }
            _ => {
                // Whatever it is, in a query and as the body: refused, or a batch that changes nothing.
                let path = format!("/v1/batch?{}", percent(choices.take(3)));
                let body = choices.take(40).to_vec();
                self.send(Method::PATCH, &path, "", &body, Wanted::Status(405));
            }
        }
    }

    fn put(&mut self, choices: &mut Choices<'_>, key: Vec<u8>, path: &str) {
        let there = self.entries.contains_key(&key);
        let (field, holds) = condition(choices, there);
        let value = choices.value(MAX_VALUE);
        let status = match (value.len() > MAX_VALUE, holds, there) {
            (true, ..) => 413,
            (_, false, _) => 412,
            (_, true, true) => 204,
            (_, true, false) => 201,
        };
        self.send(Method::PUT, path, &field, &value, Wanted::Status(status));
        if status < 300 {
            self.entries.insert(key, value);
        }
    }

    fn batch(&mut self, choices: &mut Choices<'_>, key: &[u8]) {
        let there = self.entries.contains_key(key);
        let (preconditions, holds) = match choices.of(3) {
            0 => (Vec::new(), true),
            1 => (vec![Precondition::new(key, Condition::Absent)], !there),
            _ => (vec![Precondition::new(key, Condition::Present)], there),
        };
        let mut entries = self.entries.clone();
        let mut operations = Vec::new();
        let mut large = false;
        for _ in 0..1 + choices.of(4) {
            let key = choices.key();
            if choices.of(3) == 0 {
                operations.push(Operation::delete(&key));
                entries.remove(&key);
            } else {
                let value = choices.value(MAX_VALUE);
                large |= value.len() > MAX_VALUE;
                operations.push(Operation::set(&key, &value));
                entries.insert(key, value);
            }
        }
        let batch = Batch {
            operations,
            preconditions,
        };
        let body = serde_json::to_vec(&batch).expect("JSON");
        let status = match (large, holds) {
            (true, _) => 413,
            (_, false) => 412,
            _ => 200,
        };
        if status == 200 {
            self.entries = entries;
        }
        self.send(Method::POST, "/v1/batch", "", &body, Wanted::Status(status));
    }

    /// A request that wants no body, with or without one, which may look like another request.
    fn plain(&mut self, choices: &mut Choices<'_>, method: Method, path: &str, wanted: Wanted) {
        let body: &[u8] = match choices.of(6) {
            0 => b"PUT /v1/keys/smuggled HTTP/1.1\r\ncontent-length: 1\r\n\r\nx",
            1 => choices.take(9),
            _ => b"",
        };
        self.send(method, path, "", body, wanted);
    }

    /// Puts a request on the stream. How its body is sent goes by what there is already.
    fn send(&mut self, method: Method, path: &str, fields: &str, body: &[u8], wanted: Wanted) {
        let style = self.stream.len() + body.len();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: fuzz\r\n{fields}");
        let mut sent = body.to_vec();
        if style % 5 == 0 {
            head.push_str("expect: 100-continue\r\n");
        }
        if style % 3 == 0 && !body.is_empty() {
            head.push_str("transfer-encoding: chunked\r\n");
            sent = body
                .chunks(1 + style % 700)
                .fold(Vec::new(), |mut all, chunk| {
                    all.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    all.extend_from_slice(chunk);
                    all.extend_from_slice(b"\r\n");
                    all
                });
            sent.extend_from_slice(b"0\r\n\r\n");
        } else if !body.is_empty() || method == Method::PUT {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        self.stream.extend_from_slice(head.as_bytes());
        self.stream.extend_from_slice(b"\r\n");
        self.stream.extend_from_slice(&sent);
        self.wanted.push((method, wanted));
    }
}

/// A condition, and whether it holds for a key that is there or not.
fn condition(choices: &mut Choices<'_>, there: bool) -> (String, bool) {
    let (field, holds) = match choices.of(5) {
        1 => ("if-match: *\r\n", there),
        2 => ("if-none-match: *\r\n", !there),
        3 => ("if-match: \"0123456789abcdef-1\"\r\n", false),
        _ => ("", true),
    };
    (field.to_owned(), holds)
}

impl Wanted {
    fn check(&self, method: &Method, reply: &Reply) {
        match self {
            Wanted::Any => assert!(reply.status != 500, "{method}: {reply:?}"),
            Wanted::Status(status) => assert_eq!(reply.status, *status, "{method}: {reply:?}"),
            Wanted::Value(value, method) => {
                assert_eq!((reply.status, reply.length), (200, Some(value.len())));
                if *method == Method::GET {
                    assert_eq!(&reply.body, value);
                }
            }
            Wanted::Page(entries) => {
                let page: List = json(reply);
                let items = page.items.iter().map(|item| {
                    let value = item.value_bytes().expect("base64").expect("a value");
                    (item.key_bytes().expect("a key"), value)
                });
                assert_eq!(&items.collect::<BTreeMap<_, _>>(), entries);
            }
            Wanted::Deleted(count) => {
                let deleted: bodies::Deleted = json(reply);
                assert_eq!(deleted.deleted, *count as u64);
            }
        }
    }
}

fn json<T: DeserializeOwned>(reply: &Reply) -> T {
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_slice(&reply.body).expect("JSON")
}
