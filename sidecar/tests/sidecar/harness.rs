//! Starting a sidecar, asking it, ending it.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use codexstore_api::{Client, Problem, Status};

pub const KEY_ID: &str = "20260101-abcd";

/// A directory for one test, with a keyring of one key.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        let place = Place {
            dir: tempfile::tempdir().unwrap(),
        };
        place.keyring(KEY_ID, &[(KEY_ID, &[7; 32])]);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("s.sock")
    }

    /// Replaces the keyring as the kubelet does: a new directory, and one rename of `..data`.
    pub fn keyring(&self, current: &str, keys: &[(&str, &[u8])]) {
        let root = self.path("keyring");
        std::fs::create_dir_all(&root).unwrap();
        let version = (0..1000)
            .map(|n| format!("..v{n}"))
            .find(|n| !root.join(n).exists())
            .unwrap();
        std::fs::create_dir(root.join(&version)).unwrap();
        std::fs::write(root.join(&version).join("current"), current).unwrap();
        for (id, key) in keys {
            std::fs::write(root.join(&version).join(id), key).unwrap();
        }
        std::os::unix::fs::symlink(&version, root.join("..tmp")).unwrap();
        std::fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
    }

    /// Writes a file whole: whoever looks meanwhile sees what was there before, or all of it.
    pub fn write_whole(&self, path: &Path, content: &[u8]) {
        let new = self.path("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_codexstore-sidecar"));
        command.arg("run");
        command.arg("--data-dir").arg(self.path("data"));
        command.arg("--socket").arg(self.socket());
        if !args
            .iter()
            .any(|arg| ["--no-encryption", "--passphrase-file"].contains(arg))
        {
            command.arg("--keyring-dir").arg(self.path("keyring"));
        }
        command.args(["--max-disk", "256Mi", "--log-level", "debug"]);
        command.args(args);
        command
    }

    pub fn start(&self, args: &[&str]) -> Sidecar {
        self.spawn(self.command(args))
    }

    pub fn spawn(&self, mut command: Command) -> Sidecar {
        let log = self.path("log");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let sidecar = Sidecar {
            child,
            socket: self.socket(),
            log,
        };
        sidecar.until("it answers", |_| {
            UnixStream::connect(&sidecar.socket).is_ok()
        });
        sidecar
    }

    /// Starts a sidecar and waits until its store is open.
    pub fn ready(&self, args: &[&str]) -> Sidecar {
        let sidecar = self.start(args);
        sidecar.until("it is ready", |s| s.get("/readyz").status == 200);
        sidecar
    }

    /// Name and content of every file of the store, but those that it deletes meanwhile.
    pub fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let files = std::fs::read_dir(self.path("data")).unwrap();
        let mut files: Vec<_> = files
            .filter_map(|file| {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                match std::fs::read(file.path()) {
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    content => Some((name, content.unwrap())),
                }
            })
            .collect();
        files.sort();
        files
    }

    /// Name, length and hash of every file of the store.
    pub fn fingerprint(&self) -> Vec<(String, usize, u64)> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let files = self.contents().into_iter();
        files
            .map(|(name, content)| {
                let mut hasher = DefaultHasher::new();
                content.hash(&mut hasher);
                (name, content.len(), hasher.finish())
            })
            .collect()
    }
}

pub struct Sidecar {
    pub child: Child,
    pub socket: PathBuf,
    log: PathBuf,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(30).collect::<Vec<_>>();
            eprintln!("--- end of the sidecar's log");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

impl Sidecar {
    pub fn client(&self) -> Client {
        Client::unix(&self.socket).patience(Duration::ZERO)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    pub fn until(&self, what: &str, holds: impl Fn(&Sidecar) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds(self) {
            assert!(Instant::now() < deadline, "not within 30 s: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    /// Sends these bytes on a new connection, ends the sending side, and reads to the end.
    pub fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // A server that refuses early may close while we send.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        Answer::read(&mut stream)
    }

    /// A connection to the socket of the Redis protocol, which lies beside the other.
    pub fn connect_redis(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket.with_file_name("redis.sock")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    /// Sends these bytes on a new connection of the Redis protocol, ends the sending side, and reads
    /// all answers.
    pub fn redis(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect_redis();
        // A server that refuses early may close while this sends.
        let _ = stream.write_all(bytes.as_ref());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        String::from_utf8_lossy(&answers).into_owned()
    }

    pub fn request(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> Answer {
        let mut bytes = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        self.send(&bytes)
    }

    pub fn get(&self, target: &str) -> Answer {
        self.request("GET", target, "", b"")
    }

    pub fn put(&self, key: &str, value: &[u8]) -> Answer {
        self.request("PUT", &format!("/v1/keys/{key}"), "", value)
    }

    pub fn status(&self) -> Status {
        serde_json::from_slice(&self.get("/v1/status").body).unwrap()
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap()
    }

    /// Kills it as the kernel would, and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn read(stream: &mut UnixStream) -> Answer {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        Answer::parse(&bytes)
    }

    pub fn parse(bytes: &[u8]) -> Answer {
        let at = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let (head, body) = match at {
            Some(at) => (&bytes[..at], &bytes[at + 4..]),
            None => (bytes, &[][..]),
        };
        let head = String::from_utf8_lossy(head).to_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        Answer {
            status,
            head,
            body: body.to_vec(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let name = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&name))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as a problem, whose status must be the answer's.
    #[track_caller]
    pub fn problem(&self) -> Problem {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        problem
    }

    /// Checks status and code of a refusal.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.problem().code.as_str()),
            (status, code),
            "{self:?}"
        );
    }
}

/// Stops who looks at it, when dropped.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An address that nobody listens on, and that no other test is given.
pub fn free() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address.port()) {
            return address;
        }
    }
}

/// Lets this process have as many descriptors as the machine allows; how many connections that is, ten thousand at most, and
/// no fewer where CI=true.
pub fn many_connections() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let room = most.unwrap_or(u64::MAX).saturating_sub(500);
    if room < MANY {
        not_run(&format!(
            "{MANY} connections: there are descriptors for {room}, and `ulimit -Hn` must be {} at least",
            MANY + 500
        ));
    }
    usize::try_from(room.min(MANY)).unwrap()
}

/// As many connections as there are to be at once.
const MANY: u64 = 10_000;

/// Says that something cannot be tried here; where CI=true that is a failure.
#[track_caller]
pub fn not_run(why: &str) {
    assert!(
        !std::env::var("CI").is_ok_and(|ci| ci == "true"),
        "NOT RUN with CI=true: {why}"
    );
    eprintln!("\n*** NOT RUN: {why}\n");
}

/// A sidecar that may have 64 descriptors, its files included.
pub fn with_64_descriptors(place: &Place) -> Sidecar {
    let base = place.command(&[]);
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(base.get_program())
        .args(base.get_args());
    let s = place.spawn(command);
    s.until("it is ready", |s| s.get("/readyz").status == 200);
    s
}

/// Some connection had to give way.
#[track_caller]
pub fn some_gave_way(s: &Sidecar) {
    let metrics = s.get("/metrics").text();
    let evicted = metrics
        .lines()
        .find_map(|line| line.strip_prefix(r#"codexstore_rejected_total{reason="evicted"} "#));
    assert!(evicted.is_some_and(|count| count != "0"), "{metrics}");
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Exit code and what was written to stderr, for a command that ends by itself.
pub fn outcome(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

pub fn ping(socket: &Path, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_codexstore-sidecar"));
    command.arg("ping").arg("--socket").arg(socket).args(args);
    outcome(command)
}
