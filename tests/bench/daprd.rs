//! Beside daprd, the sidecar of Dapr, with its state store in memory: reads over HTTP and over gRPC.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::results::Row;
use crate::server::Server;
use crate::{KEYS, VALUE, compare_with, go, key, load, report};

/// Whom the rows name.
const PEER: &str = "daprd, state in memory";

/// Requests of a round.
const TOTAL: usize = 100_000;

/// Both interfaces; nothing where there is no Go.
pub fn rows(ours: &Server, dir: &Path) -> Result<Vec<Row>> {
    let Some(program) = go::build("daprd")? else {
        return Ok(Vec::new());
    };
    let daprd = start(&program, dir)?;
    fill(&daprd.socket)?;
    let http = compare_with(
        "http.get.c32",
        PEER,
        || get(&ours.socket, "/v1/keys/key:"),
        || get(&daprd.socket, "/v1.0/state/bench/key:"),
    )?;
    let name = format!("key:{:012}", key(1));
    let theirs = [field(1, "bench"), field(2, &name)].concat();
    let (get_file, state_file) = (dir.join("get"), dir.join("get-state"));
    fs::write(&get_file, framed(&field(1, &name)))?;
    fs::write(&state_file, framed(&theirs))?;
    let socket = daprd.socket.with_file_name("dapr-bench-grpc.socket");
    let grpc = compare_with(
        "grpc.get.c32",
        PEER,
        || unary(&ours.socket, "/codexstore.v1.KV/Get", &get_file),
        || unary(&socket, "/dapr.proto.runtime.v1.Dapr/GetState", &state_file),
    )?;
    Ok(vec![http, grpc])
}

fn start(program: &Path, dir: &Path) -> Result<Server> {
    let (resources, sockets) = (dir.join("resources"), dir.join("daprd"));
    fs::create_dir_all(&resources)?;
    fs::create_dir_all(&sockets)?;
    fs::write(
        resources.join("state.yaml"),
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: bench}\n\
         spec: {type: state.in-memory, version: v1, metadata: []}\n",
    )?;
    let mut command = Command::new(program);
    command.arg(&resources).arg(&sockets);
    let socket = sockets.join("dapr-bench-http.socket");
    Server::start(command, socket, |socket| {
        let found = load::run(socket, 1, 1, "204", |_, buffer| {
            buffer.extend_from_slice(b"GET /v1.0/healthz HTTP/1.1\r\nhost: b\r\n\r\n");
        });
        found.is_ok()
    })
}

/// Sets every key once, as JSON, which is what it takes.
fn fill(socket: &Path) -> Result<()> {
    let value = "x".repeat(VALUE);
    load::run(socket, 32, KEYS, "204", |number, buffer| {
        let body = format!(r#"[{{"key":"key:{number:012}","value":"{value}"}}]"#);
        let head = format!(
            "POST /v1.0/state/bench HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        buffer.extend_from_slice(head.as_bytes());
        buffer.extend_from_slice(body.as_bytes());
    })?;
    Ok(())
}

fn get(socket: &Path, path: &str) -> Result<f64> {
    let outcome = load::run(socket, 32, TOTAL, "200", |number, buffer| {
        let key = key(number);
        let head = format!("GET {path}{key:012} HTTP/1.1\r\nhost: b\r\n\r\n");
        buffer.extend_from_slice(head.as_bytes());
    })?;
    report(&outcome);
    Ok(outcome.rate)
}

/// Unary calls of 32 connections with one each under way, by h2load: the same call again and again.
fn unary(socket: &Path, method: &str, body: &Path) -> Result<f64> {
    let output = Command::new("h2load")
        .args(["-n", &TOTAL.to_string(), "-c", "32", "-m", "1", "-d"])
        .arg(body)
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .arg(format!("--base-uri=unix:{}", socket.display()))
        .arg(format!("http://localhost{method}"))
        .output()
        .context("running h2load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let after = |head: &str| text.split_once(head).map(|(_, rest)| rest.trim_start());
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
        text.get(..end.unwrap_or(text.len())).map(str::parse::<f64>)
    };
    // `finished in 1.02s, 98039.22 req/s, …` and `traffic: … (15000000) data`.
    let rate = after("finished in").and_then(|rest| rest.split_once(", "));
    let rate = rate.and_then(|(_, rest)| number(rest));
    let data = after("traffic:").and_then(|rest| rest.split_once(" data"));
    let data = data.and_then(|(rest, _)| rest.rsplit_once('('));
    let data = data.and_then(|(_, rest)| number(rest)).context(SILENT)??;
    // A call that fails has no message, whatever its HTTP status.
    ensure!(
        data >= (TOTAL * VALUE) as f64,
        "{method}: the answers of {TOTAL} calls have {data} bytes of data:\n{text}"
    );
    let rate = rate.context(SILENT)??;
    println!("    {rate:>10.0}/s");
    Ok(rate)
}

const SILENT: &str = "h2load says nothing of the rate and the data";

/// A field of a message: bytes or a string of less than 128.
fn field(number: u8, text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![number << 3 | 2, length];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// A message as gRPC sends it: not compressed, and behind its length.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut bytes = vec![0];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}
