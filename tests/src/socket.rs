//! The store as the app sees it: requests by curl from within a container of the pod.

use std::fmt::Write;

use crate::namespace::Namespace;

/// An answer on the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status; 0 when there was none.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The stable code of a problem body.
    pub fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_string()
    }

    /// The kind of a problem body.
    pub fn kind(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        problem["kind"].as_str().unwrap_or_default().to_string()
    }
}

/// The shell's way to the socket: `$CURL URL…`, where the URL begins with `http://s`.
pub const CURL: &str = "curl -s --max-time 30 --unix-socket $CODEXSTORE_SOCKET";

impl Namespace {
    /// A request from container `app`; `arguments` is the rest of curl's command line, for the shell.
    #[track_caller]
    pub fn http(&self, pod: &str, arguments: &str) -> Reply {
        self.http_in(pod, "app", arguments)
    }

    /// A request from a container of the pod.
    #[track_caller]
    pub fn http_in(&self, pod: &str, container: &str, arguments: &str) -> Reply {
        let script = format!("{CURL} -w '\\n%{{http_code}}' {arguments}");
        let output = self.sh(pod, container, &script);
        let (body, status) = output.out.rsplit_once('\n').unwrap_or(("", "0"));
        let status = status.trim().parse().unwrap_or(0);
        let body = if status == 0 {
            format!("{body}{}", output.err)
        } else {
            body.to_string()
        };
        Reply { status, body }
    }

    /// Puts a value; the status.
    #[track_caller]
    pub fn put(&self, pod: &str, key: &str, value: &str) -> u16 {
        self.http(
            pod,
            &format!("-X PUT --data-binary '{value}' http://s/v1/keys/{key}"),
        )
        .status
    }

    /// Gets a value.
    #[track_caller]
    pub fn value(&self, pod: &str, key: &str) -> Option<String> {
        let reply = self.http(pod, &format!("http://s/v1/keys/{key}"));
        match reply.status {
            200 => Some(reply.body),
            404 => None,
            _ => panic!("get of {key} in {pod}: {reply:?}"),
        }
    }

    /// All keys with a prefix, page by page.
    #[track_caller]
    pub fn keys(&self, pod: &str, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut cursor = String::new();
        loop {
            let reply = self.http(
                pod,
                &format!("'http://s/v1/keys?prefix={prefix}&limit=1000{cursor}'"),
            );
            assert_eq!(reply.status, 200, "list in {pod}: {reply:?}");
            let page: serde_json::Value =
                serde_json::from_str(&reply.body).expect("a list is JSON");
            let items = page["items"].as_array().cloned().unwrap_or_default();
            keys.extend(
                items
                    .iter()
                    .filter_map(|i| i["key"].as_str().map(String::from)),
            );
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", encode(next)),
                None => return keys,
            }
        }
    }
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        let _ = write!(encoded, "%{byte:02X}");
    }
    encoded
}
