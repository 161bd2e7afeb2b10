//! The commands that talk to a store over its socket.

pub mod args;
mod change;
mod history;
mod list;
mod top;
pub mod transfer;
mod watch;

use std::{
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use codexstore_api::{
    Status,
    bodies::{self, Batch},
    client::{Client, Found, Put},
    encoding::base64,
};
use serde::Serialize;

use crate::{
    args::{Delete, Set, Socket},
    failure::Coded,
    output::{self, Format, Table, printable, size},
};

use args::{Actor, Get};

pub use change::{cas, ttl};
pub use history::history;
pub use list::list;
pub use top::top;
pub use watch::watch;

/// How long a restarting sidecar is waited for: long enough for a restart, short enough to type.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most that is read as one value or batch: above the largest that any store takes, so that the store says
/// what its limit is, and memory stays bounded.
const MAX_INPUT: u64 = 192 << 20;

/// `get`.
pub async fn get(args: &Get, format: Format) -> Result<()> {
    let key = args.key.as_bytes();
    let client = client(&args.socket);
    let found = match args.revision {
        None => client.get(key).await,
        Some(revision) => client.get_at(key, revision).await,
    };
    let found = call(&args.socket, found)?;
    let Some(found) = found else {
        return Err(absent(key).into());
    };
    match format {
        Format::Table => output::raw(&found.value),
        Format::Json => output::json(&Entry::new(key, &found)),
    }
}

/// `set`.
pub async fn set(args: &Set, format: Format) -> Result<()> {
    let key = args.key.as_bytes();
    let value = match (&args.value, &args.file) {
        (Some(value), _) if value == "-" => read_input(Path::new("-"), "value")?,
        (Some(value), _) => value.as_bytes().to_vec(),
        (None, Some(path)) => read_input(path, "value")?,
        (None, None) => return Err(Coded::invalid("set needs a value or --file").into()),
    };
    let client = named(client(&args.socket), &args.actor);
    let mut put = Put {
        ttl: args.ttl,
        ..Put::default()
    };
    if args.if_absent {
        put.if_none_match = Some("*".to_owned());
    }
    if let Some(wanted) = args.if_revision {
        // The tag holds lineage and revision, so nothing can come between this look and the write.
        put.if_match = match call(&args.socket, client.head(key).await)? {
            Some(found) if found.revision == wanted => Some(found.etag),
            Some(found) => {
                let text = format!(
                    "key `{}` was last written in revision {}, not {wanted}",
                    printable(key),
                    found.revision
                );
                return Err(Coded::conflict(text).into());
            }
            None => {
                let text = format!(
                    "key `{}` is not there, so its revision is not {wanted}",
                    printable(key)
                );
                return Err(Coded::conflict(text).into());
            }
        };
    }
    let written = call(&args.socket, client.set(key, value, &put).await)?;
    match format {
        Format::Table => Ok(()),
        Format::Json => output::json(&serde_json::json!({
            "revision": written.revision,
            "created": written.created,
            "etag": written.etag,
        })),
    }
}

/// `delete`.
pub async fn delete(args: &Delete, format: Format) -> Result<()> {
    let client = named(client(&args.socket), &args.actor);
    if let Some(prefix) = &args.prefix {
        if prefix.is_empty() && !args.all {
            return Err(Coded::invalid(
                "an empty prefix means every key: add --all if that is meant",
            )
            .into());
        }
        let deleted = call(
            &args.socket,
            client.delete_prefix(prefix.as_bytes(), args.all).await,
        )?;
        return match format {
            Format::Table => output::line(&format!("{} deleted", deleted.deleted)),
            Format::Json => output::json(&deleted),
        };
    }
    let key = args.key.as_deref().unwrap_or_default().as_bytes();
    if !call(&args.socket, client.delete(key, None).await)? {
        return Err(absent(key).into());
    }
    match format {
        Format::Table => Ok(()),
        Format::Json => output::json(&serde_json::json!({"deleted": 1})),
    }
}

/// `batch`.
pub async fn batch(socket: &Socket, actor: &Actor, file: &Path, format: Format) -> Result<()> {
    let text = read_input(file, "batch")?;
    let batch: Batch = serde_json::from_slice(&text).map_err(|e| {
        Coded::invalid(format!(
            "{} is not a batch: {e}; see codexctl batch --help",
            name_of(file)
        ))
    })?;
    let client = named(client(socket), actor);
    let committed = call(socket, client.batch(&batch).await)?;
    match format {
        Format::Table => output::line(&format!("revision {}", committed.revision)),
        Format::Json => output::json(&committed),
    }
}

/// `status`.
pub async fn status(socket: &Socket, format: Format) -> Result<()> {
    let status = call(socket, client(socket).status().await)?;
    match format {
        Format::Table => status_table(&status).print(),
        Format::Json => output::json(&status),
    }
}

/// `accept-clock`.
pub async fn accept_clock(socket: &Socket) -> Result<()> {
    call(socket, client(socket).accept_clock().await)
}

fn status_table(status: &Status) -> Table {
    let mut table = Table::bare();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            table.row(vec![name.to_owned(), value]);
        }
    };
    add("State", status.state.to_string());
    add("Message", status.message.clone().unwrap_or_default());
    add("Store", status.store.clone());
    let pod = [status.namespace.as_str(), status.pod.as_str()].join("/");
    add("Pod", pod.trim_matches('/').to_owned());
    add("Revision", status.revision.to_string());
    add("Keys", status.keys.to_string());
    add("Bytes", size(status.bytes));
    let of = |used: u64, max: u64| format!("{} of {}", size(used), size(max));
    add("Disk", of(status.disk_bytes, status.max_disk));
    add("Memory", of(status.memory_bytes, status.max_memory));
    add("Journal", size(status.journal_bytes));
    add("Strategy", status.strategy.clone());
    add("Durability", status.durability.clone());
    add("Compression", status.compression.clone());
    add("Cipher", status.cipher.clone());
    add("Key", status.key_id.clone());
    for (id, of) in status.needed_keys.iter().flatten() {
        let files = if of.files == 1 { "file" } else { "files" };
        let wraps = format!("{id}: {} {files}, {}", of.files, size(of.bytes));
        add("Key wraps", wraps);
    }
    add("Lineage", status.lineage.clone());
    add("Epoch", status.epoch.to_string());
    add("Anchor", status.anchor.clone().unwrap_or_default());
    add("Spec hash", status.spec_hash.clone());
    add("Version", status.version.clone());
    add("Started", status.started_at.clone());
    table
}

/// One key for programs. The value is in `text`, or in `value` as base64: as in a batch, so that what is
/// printed here can be put there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_revision: Option<u64>,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
}

impl Entry {
    fn new(key: &[u8], found: &Found) -> Self {
        let (key, key_base64) = bodies::key_fields(key);
        let (text, value) = value_fields(&found.value);
        Self {
            key,
            key_base64,
            text,
            value,
            revision: found.revision,
            created_revision: None,
            version: found.version,
            expires_at: found.expires_at.clone(),
            etag: Some(found.etag.clone()),
        }
    }
}

fn value_fields(value: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(value) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(base64(value))),
    }
}

fn client(socket: &Socket) -> Client {
    Client::unix(&socket.socket)
        .timeout(socket.timeout)
        .patience(PATIENCE.min(socket.timeout))
}

/// The client with who writes.
fn named(client: Client, actor: &Actor) -> Client {
    match &actor.actor {
        Some(label) => client.actor(label),
        None => client,
    }
}

/// The answer, or the error with what to look at when nobody answers.
fn call<T>(socket: &Socket, answer: codexstore_api::Result<T>) -> Result<T> {
    answer.map_err(|error| {
        if !error.is("unreachable") {
            return error.into();
        }
        let hint = match socket.socket.try_exists() {
            Ok(false) => {
                "no such socket: is --socket or CODEXSTORE_SOCKET right, is this container given the socket, \
                 is `codexctl dev` running?"
            }
            _ => "no sidecar answers on the socket: is its container running?",
        };
        anyhow::Error::new(error).context(hint)
    })
}

fn absent(key: &[u8]) -> Coded {
    Coded::not_found(format!("key `{}` is not there", printable(key)))
}

/// A file as messages call it.
pub fn name_of(path: &Path) -> String {
    if path == Path::new("-") {
        "stdin".to_owned()
    } else {
        path.display().to_string()
    }
}

/// All of a file, or of stdin for `-`.
pub fn read_input(path: &Path, what: &str) -> Result<Vec<u8>> {
    let name = name_of(path);
    let open = || -> std::io::Result<Box<dyn Read>> {
        if path == Path::new("-") {
            return Ok(Box::new(std::io::stdin().lock()));
        }
        Ok(Box::new(std::fs::File::open(PathBuf::from(path))?))
    };
    let mut bytes = Vec::new();
    open()
        .and_then(|input| input.take(MAX_INPUT + 1).read_to_end(&mut bytes))
        .map_err(|e| Coded::invalid(format!("read the {what} from {name}: {e}")))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(Coded::invalid(format!(
            "the {what} in {name} is larger than {}: no store takes that",
            size(MAX_INPUT)
        )))
        .context("read input");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use codexstore_api::status::NeededKey;

    use super::*;

    #[test]
    fn a_value_that_is_text_is_shown_as_text_and_another_as_base64() {
        assert_eq!(value_fields(b"hi"), (Some("hi".into()), None));
        assert_eq!(value_fields(b"\xff\0"), (None, Some("/wA=".into())));
    }

    #[test]
    fn a_status_without_a_pod_or_key_has_no_empty_lines() {
        let text = status_table(&Status::default()).render();
        assert!(text.starts_with("State"), "{text}");
        assert!(!text.contains("Pod") && !text.contains("Key "), "{text}");
    }

    #[test]
    fn a_status_says_of_each_key_what_it_wraps() {
        let wraps = |files, bytes| NeededKey { files, bytes };
        let keys = [("new", wraps(3, 3 << 20)), ("old", wraps(1, 4096))];
        let status = Status {
            needed_keys: Some(keys.map(|(id, of)| (id.to_owned(), of)).into()),
            ..Status::default()
        };
        let text = status_table(&status).render();
        let told = text
            .lines()
            .filter_map(|line| line.strip_prefix("Key wraps"));
        let told: Vec<_> = told.map(str::trim).collect();
        let wanted = ["new: 3 files, 3 MiB", "old: 1 file, 4 KiB"];
        assert_eq!(told, wanted, "{text}");
    }
}
