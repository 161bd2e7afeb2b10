//! Redis on its Unix socket, and redis-benchmark.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::server::Server;

/// Redis with every write synced before it is answered.
pub fn always(dir: &Path) -> Result<Server> {
    start(
        dir,
        &[
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ],
    )
}

/// Starts Redis with these settings.
pub fn start(dir: &Path, settings: &[&str]) -> Result<Server> {
    fs::create_dir_all(dir)?;
    let socket = dir.join("redis.sock");
    let mut command = Command::new("redis-server");
    command.args(["--port", "0"]).args(settings).args([
        "--unixsocket",
        &socket.to_string_lossy(),
        "--dir",
        &dir.to_string_lossy(),
    ]);
    Server::start(command, socket, |socket| {
        // While it loads, it answers with an error.
        ask(socket, b"PING\r\n").is_ok_and(|answer| answer.starts_with(b"+PONG"))
    })
}

/// Sends a command and reads what comes at once.
pub fn ask(socket: &Path, command: &[u8]) -> Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(command)?;
    let mut answer = vec![0; 512];
    let len = stream.read(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}

/// Requests a second that redis-benchmark reports for `test` (`set` or `get`).
pub fn benchmark(
    server: &Server,
    test: &str,
    connections: usize,
    total: usize,
    keys: usize,
    value: usize,
) -> Result<f64> {
    let output = Command::new("redis-benchmark")
        .args(["-s", &server.socket.to_string_lossy(), "-t", test, "--csv"])
        .args(["-c", &connections.to_string(), "-n", &total.to_string()])
        .args(["-r", &keys.to_string(), "-d", &value.to_string()])
        .output()
        .context("running redis-benchmark")?;
    let report = String::from_utf8(output.stdout)?;
    let row = report
        .lines()
        .find(|l| l.to_lowercase().starts_with(&format!("\"{test}\"")));
    let rate = row
        .and_then(|r| r.split(',').nth(1))
        .context("no result in redis-benchmark's CSV")?;
    Ok(rate.trim_matches('"').parse()?)
}
