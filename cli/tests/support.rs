//! A store in a directory of its own, and codexctl to use it.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// A CodexStore of all defaults.
pub const ORDERS: &str = "\
apiVersion: codexstore.dev/v1alpha1
kind: CodexStore
metadata: {name: orders}
spec: {}
";

/// These tests run the real sidecar.
pub fn sidecar_is_built() {
    let sidecar = Path::new(env!("CARGO_BIN_EXE_codexctl")).with_file_name("codexstore-sidecar");
    assert!(
        sidecar.exists(),
        "these tests run the real sidecar, and {} is not there: cargo build -p codexstore-sidecar",
        sidecar.display()
    );
}

/// codexctl, with none of this process's settings.
pub fn codexctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_codexctl"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CODEXSTORE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("KUBECONFIG");
    command
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its output, if it succeeded and complained about nothing.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == Some(0) && self.err.is_empty(), "{self:?}");
        String::from_utf8(self.out).expect("text")
    }

    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("one JSON document")
    }

    /// That the arguments are wrong, as clap says it: over several lines.
    #[track_caller]
    pub fn fails_with_usage(self) {
        assert!(self.code == Some(2) && self.out.is_empty(), "{self:?}");
        assert!(self.err.contains("Usage:"), "{self:?}");
    }

    /// Its complaint: one line, nothing on stdout, and the right exit code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.out.is_empty(), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("codexctl: "), "{self:?}");
        self.err
    }
}

/// Runs it to the end.
pub fn run(command: &mut Command) -> Ran {
    Ran::of(command.output().expect("run codexctl"))
}

/// Runs it to the end with this on stdin.
pub fn run_with(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run codexctl");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // it may end before it has read everything
        let _ = stdin.write_all(&input);
    });
    let ran = Ran::of(child.wait_with_output().unwrap());
    writer.join().unwrap();
    ran
}

/// `codexctl dev`, running.
pub struct Store {
    child: Child,
    /// What it said when it was ready.
    pub said: Value,
    dir: Option<tempfile::TempDir>,
}

impl Store {
    /// With all defaults, in a new directory.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Self::start_in(dir.path(), ORDERS);
        store.dir = Some(dir);
        store
    }

    /// In this directory.
    pub fn start_in(dir: &Path, manifest: &str) -> Self {
        sidecar_is_built();
        let file = dir.join("codexstore.yaml");
        fs::write(&file, manifest).unwrap();
        let mut child = codexctl()
            .args(["dev", "-o", "json", "-f"])
            .arg(&file)
            .arg("--dir")
            .arg(dir.join("dev"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("run codexctl dev");
        let mut text = String::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            text.push_str(&line);
            if line == "}" {
                break;
            }
        }
        let said = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("codexctl dev did not become ready: {e} in `{text}`"));
        Self {
            child,
            said,
            dir: None,
        }
    }

    pub fn socket(&self) -> PathBuf {
        PathBuf::from(self.said["socket"].as_str().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// codexctl for this store.
    pub fn ctl<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Command {
        let mut command = codexctl();
        command.env("CODEXSTORE_SOCKET", self.socket()).args(args);
        command
    }

    pub fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Ran {
        run(&mut self.ctl(args))
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> ExitStatus {
        end(&mut self.child)
    }

    /// Stops it as a user's process manager would.
    pub fn stop(mut self) -> ExitStatus {
        signal(self.child.id(), "TERM");
        end(&mut self.child)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.child.id(), "TERM");
            let _ = self.child.wait();
        }
        drop(self.dir.take());
    }
}

/// Waits until it ends, not for ever.
pub fn end(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("codexctl did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "kill -s {name} {pid}");
}
