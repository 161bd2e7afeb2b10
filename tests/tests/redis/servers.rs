//! The two servers: the sidecar, and a Redis if there is one.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use codexstore_tests::run;

use crate::wire::{Client, Value};

/// A process that ends with this value.
pub struct Server {
    child: Child,
    pub socket: PathBuf,
}

impl Server {
    fn start(mut command: Command, socket: PathBuf) -> Server {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { child, socket };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let pong = Value::Simple("PONG".to_owned());
            if UnixStream::connect(&server.socket).is_ok() && server.client().ask("PING") == pong {
                return server;
            }
            assert!(Instant::now() < deadline, "{command:?} does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sidecar in this directory, in which an earlier one may have been.
pub fn sidecar(dir: &Path) -> Server {
    let keyring = dir.join("keyring");
    std::fs::create_dir_all(&keyring).unwrap();
    std::fs::write(keyring.join("current"), "test").unwrap();
    std::fs::write(keyring.join("test"), [7; 32]).unwrap();
    let mut command = Command::new(binary());
    command
        .arg("run")
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--keyring-dir")
        .arg(&keyring)
        .arg("--socket")
        .arg(dir.join("http.sock"))
        .args(["--max-disk", "256Mi", "--log-level", "warn"]);
    Server::start(command, dir.join("redis.sock"))
}

/// A Redis in this directory; nothing where it is not installed, which is a failure where CI=true.
pub fn redis(dir: &Path) -> Option<Server> {
    if !there("redis-server", "redis-server") {
        return None;
    }
    let mut command = Command::new("redis-server");
    let socket = dir.join("real.sock");
    command
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(dir);
    Some(Server::start(command, socket))
}

/// True if a program is installed. What is missing is said loudly, and is a failure where CI=true.
pub fn there(program: &str, package: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        return true;
    }
    missing(&format!("{program} (package {package})"));
    false
}

/// Says what is missing.
pub fn missing(what: &str) {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "{what} is missing: tests/setup redis");
    eprintln!("SKIPPED: {what} is missing: tests/setup redis");
}

/// The sidecar, built if `cargo test` of this crate has not.
fn binary() -> PathBuf {
    static BUILT: std::sync::Once = std::sync::Once::new();
    if let Some(named) = std::env::var_os("CODEXSTORE_SIDECAR") {
        return named.into();
    }
    BUILT.call_once(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "codexstore-sidecar"])
            .current_dir(run::root())
            .stdin(Stdio::null())
            .status();
        assert!(
            built.unwrap().success(),
            "cargo build -p codexstore-sidecar"
        );
    });
    let deps = std::env::current_exe().unwrap();
    let dir = deps.parent().unwrap().parent().unwrap();
    dir.join("codexstore-sidecar")
}
