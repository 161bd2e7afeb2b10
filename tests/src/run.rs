//! Commands on this machine: kubectl, helm, the cluster tool, and blocks of a page.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a command said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Whether it ended with status 0.
    pub ok: bool,
    /// Its exit status; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Output {
    /// The standard output of a command that must have succeeded.
    ///
    /// # Panics
    /// With both outputs, when it failed.
    #[track_caller]
    pub fn success(self, what: &str) -> String {
        assert!(
            self.ok,
            "{what} failed ({}):\n{}{}",
            self.code, self.out, self.err
        );
        self.out
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
        .to_path_buf()
}

/// A command with the test cluster as its only cluster, in the root of the repository.
pub fn command(program: &str, args: &[&str], kubeconfig: &Path) -> Command {
    let mut path = vec![tools()];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(root())
        .env(
            "PATH",
            std::env::join_paths(path).expect("PATH has no separator in a name"),
        )
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    Output {
        ok: output.status.success(),
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Where the cluster tool keeps helm and kubectl.
fn tools() -> PathBuf {
    let home = std::env::var_os("CODEXSTORE_CLUSTER_HOME").map_or_else(
        || {
            let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
            Path::new(&home).join(".cache/codexstore-cluster")
        },
        PathBuf::from,
    );
    home.join("bin")
}
