//! The servers under load: the sidecar and Redis, each on a Unix socket and a directory of its own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A server that stops with this value.
pub struct Server {
    child: Child,
    /// Its Unix socket.
    pub socket: PathBuf,
    /// From its start until its socket answered.
    pub ready_after: Duration,
}

impl Server {
    fn start(mut command: Command, socket: PathBuf, ready: impl Fn(&Path) -> bool) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        while !ready(&socket) {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended at its start: {status}");
            }
            if start.elapsed() > Duration::from_secs(20) {
                bail!("{name} was not ready in 20 s");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self {
            child,
            socket,
            ready_after: start.elapsed(),
        })
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sidecar with its defaults: encryption, checksums and compression on, durability `always`.
pub fn sidecar(program: &Path, dir: &Path) -> Result<Server> {
    let keyring = dir.join("keyring");
    fs::create_dir_all(&keyring)?;
    fs::write(keyring.join("current"), "bench")?;
    fs::write(keyring.join("bench"), [7u8; 32])?;
    let socket = dir.join("codexstore.sock");
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--keyring-dir")
        .arg(&keyring)
        .arg("--socket")
        .arg(&socket)
        .args([
            "--log-level",
            "warn",
            "--max-disk",
            "8Gi",
            "--max-memory",
            "2Gi",
        ])
        .env_remove("CODEXSTORE_SOCKET");
    Server::start(command, socket, |socket| {
        Command::new(program)
            .args(["ping", "--ready", "--socket"])
            .arg(socket)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    })
}

/// Redis with every write synced before it is answered.
pub fn redis(dir: &Path) -> Result<Server> {
    fs::create_dir_all(dir)?;
    let socket = dir.join("redis.sock");
    let mut command = Command::new("redis-server");
    command
        .args([
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ])
        .args([
            "--unixsocket",
            &socket.to_string_lossy(),
            "--dir",
            &dir.to_string_lossy(),
        ]);
    Server::start(command, socket, |socket| {
        UnixStream::connect(socket).is_ok()
    })
}

/// Requests a second that redis-benchmark reports for `test` (`set` or `get`).
pub fn redis_benchmark(
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
