//! The real sidecar: starting it, speaking HTTP to it, and load whose answers are remembered.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A place for one sidecar: keyring, data, socket.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub data: PathBuf,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let keyring = dir.path().join("keyring");
        std::fs::create_dir(&keyring).unwrap();
        std::fs::write(keyring.join("current"), "proof").unwrap();
        std::fs::write(keyring.join("proof"), [9; 32]).unwrap();
        let data = dir.path().join("data");
        Place { dir, data }
    }

    /// The command that runs the sidecar, within `prefix`.
    pub fn start(&self, socket: &str, prefix: &[&str]) -> Sidecar {
        let sidecar = std::env::var_os("CODEXSTORE_SIDECAR").map_or_else(
            || Path::new(env!("CARGO_BIN_EXE_store-worker")).with_file_name("codexstore-sidecar"),
            PathBuf::from,
        );
        assert!(
            sidecar.exists(),
            "{} is missing: cargo build -p codexstore-sidecar",
            sidecar.display()
        );
        let program = sidecar.as_os_str();
        let mut command = Command::new(prefix.first().map_or(program, |first| first.as_ref()));
        if let [_, rest @ ..] = prefix {
            command.args(rest).arg(program);
        }
        let socket = self.dir.path().join(socket);
        command
            .arg("run")
            .arg("--data-dir")
            .arg(&self.data)
            .arg("--socket")
            .arg(&socket);
        // Two of them share this directory.
        command.args(["--redis-socket", ""]);
        command
            .arg("--keyring-dir")
            .arg(self.dir.path().join("keyring"));
        command.args(["--max-disk", "256Mi", "--log-level", "error"]);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Sidecar { child, socket }
    }
}

/// A running sidecar, or a command around it.
pub struct Sidecar {
    pub child: Child,
    pub socket: PathBuf,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Sidecar {
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until the store is open; false if that does not happen.
    pub fn ready(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Ok(mut connection) = Connection::new(&self.socket)
                && connection
                    .request("GET", "/readyz", b"")
                    .is_ok_and(|answer| answer.status == 200)
            {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// A connection as soon as there can be one.
    pub fn connection_within(&self, patience: Duration) -> Connection {
        let deadline = Instant::now() + patience;
        loop {
            match Connection::new(&self.socket) {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn connection(&self) -> Connection {
        Connection::new(&self.socket).unwrap()
    }
}

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn done(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// True if a problem has this code.
    pub fn is(&self, code: &str) -> bool {
        String::from_utf8_lossy(&self.body)
            .replace(' ', "")
            .contains(&format!("\"code\":\"{code}\""))
    }
}

/// One connection that is kept.
pub struct Connection(BufReader<UnixStream>);

impl Connection {
    pub fn new(socket: &Path) -> std::io::Result<Connection> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Connection(BufReader::new(stream)))
    }

    pub fn request(&mut self, method: &str, target: &str, body: &[u8]) -> std::io::Result<Answer> {
        let mut bytes = format!(
            "{method} {target} HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        self.0.get_mut().write_all(&bytes)?;
        let (mut status, mut len) = (0, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest
                    .split(' ')
                    .next()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0);
            } else if let Some(rest) = line.strip_prefix("content-length: ") {
                len = rest.parse().unwrap_or(0);
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body)?;
        Ok(Answer { status, body })
    }

    pub fn put(&mut self, key: &str, value: &[u8]) -> std::io::Result<Answer> {
        self.request("PUT", &format!("/v1/keys/{key}"), value)
    }

    /// A key's value; `None` if it is not there.
    #[track_caller]
    pub fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        let answer = self
            .request("GET", &format!("/v1/keys/{key}"), b"")
            .unwrap();
        match answer.status {
            200 => Some(answer.body),
            404 => None,
            status => panic!(
                "get of {key}: {status} {}",
                String::from_utf8_lossy(&answer.body)
            ),
        }
    }
}

/// One writer's keys: key `i` was set to the numbers that are `i` modulo [`KEYS`], the last acknowledged one being below `next`.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub writer: usize,
    /// The next number to write: all below it were acknowledged, but for `unknown`.
    pub next: u64,
    /// A number whose write was not acknowledged.
    pub unknown: Option<u64>,
}

/// Keys of each writer.
pub const KEYS: u64 = 16;

pub fn value(writer: usize, n: u64) -> Vec<u8> {
    let mut value = format!("{n} ").into_bytes();
    let mut noise = vec![0; 8000];
    fastrand::Rng::with_seed(n << 8 ^ writer as u64).fill(&mut noise);
    value.extend(noise);
    value
}

impl Written {
    pub fn new(writer: usize) -> Written {
        Written {
            writer,
            next: 1,
            unknown: None,
        }
    }

    fn key(&self, n: u64) -> String {
        format!("w{}-{}", self.writer, n % KEYS)
    }

    /// Writes until something fails, or `stop`; how it ended.
    pub fn write(&mut self, connection: &mut Connection, stop: &AtomicBool) -> Option<Answer> {
        while !stop.load(Ordering::Relaxed) {
            match connection.put(&self.key(self.next), &value(self.writer, self.next)) {
                Ok(answer) if answer.done() => self.next += 1,
                failed => {
                    self.unknown = Some(self.next);
                    self.next += 1;
                    return failed.ok();
                }
            }
        }
        None
    }

    /// Everything acknowledged must be there.
    #[track_caller]
    pub fn check(&self, connection: &mut Connection) {
        let newest = self.next - 1;
        for n in newest.saturating_sub(KEYS - 1).max(1)..=newest {
            let found = connection.get(&self.key(n));
            let there = found.as_deref() == Some(&value(self.writer, n));
            if self.unknown == Some(n) && !there {
                let before = n.checked_sub(KEYS).filter(|before| *before > 0);
                assert!(
                    found == before.map(|before| value(self.writer, before)),
                    "writer {}: {n}",
                    self.writer
                );
            } else {
                assert!(
                    there,
                    "writer {}: {n} of {newest} is not there",
                    self.writer
                );
            }
        }
    }
}

/// Writers that write at the same time until each has failed or the time is up. Whether any failed.
pub fn load(sidecar: &Sidecar, writers: &mut [Written], time: Duration) -> bool {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = writers
            .iter_mut()
            .map(|written| {
                let (mut connection, stop) = (sidecar.connection(), &stop);
                scope.spawn(move || {
                    let failed =
                        written.write(&mut connection, stop).is_some() || written.unknown.is_some();
                    // One that fails tells the others.
                    stop.fetch_or(failed, Ordering::Relaxed);
                    failed
                })
            })
            .collect();
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .fold(false, |a, b| a | b)
    })
}
