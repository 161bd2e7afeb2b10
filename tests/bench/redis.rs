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

/// What redis-benchmark is to do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// `set`, `get` or `incr`.
    pub test: &'static str,
    /// Clients.
    pub connections: usize,
    /// Requests that each has on the way at once.
    pub pipeline: usize,
    /// Requests of all.
    pub total: usize,
}

/// Requests a second that redis-benchmark reports for `test` (`set` or `get`).
pub fn benchmark(
    server: &Server,
    test: &'static str,
    connections: usize,
    total: usize,
    keys: usize,
    value: usize,
) -> Result<f64> {
    let load = Load {
        test,
        connections,
        pipeline: 1,
        total,
    };
    Ok(measure(&server.socket, load, keys, value)?.rate)
}

/// What redis-benchmark reports.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Requests a second.
    pub rate: f64,
    /// 99th percentile of the time to an answer, in milliseconds.
    #[allow(dead_code, reason = "only the bench over sockets asks for it")]
    pub p99: f64,
}

/// Runs redis-benchmark against a socket.
pub fn measure(socket: &Path, load: Load, keys: usize, value: usize) -> Result<Measured> {
    let output = Command::new("redis-benchmark")
        .args(["-s", &socket.to_string_lossy(), "-t", load.test, "--csv"])
        .args(["-c", &load.connections.to_string()])
        .args(["-P", &load.pipeline.to_string()])
        .args(["-n", &load.total.to_string()])
        .args(["-r", &keys.to_string(), "-d", &value.to_string()])
        .output()
        .context("running redis-benchmark")?;
    let report = String::from_utf8(output.stdout)?;
    let row = report
        .lines()
        .find(|l| l.to_lowercase().starts_with(&format!("\"{}\"", load.test)))
        .context("no result in redis-benchmark's CSV")?;
    let column = |number: usize| -> Result<f64> {
        let text = row.split(',').nth(number).context("a column is missing")?;
        Ok(text.trim_matches('"').parse()?)
    };
    Ok(Measured {
        rate: column(1)?,
        p99: column(6)?,
    })
}
