//! The sidecar's process: found, started with a store's settings, waited for, stopped.

use std::{
    env, fs, io,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use codexstore_api::{Client, Retry};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout_at},
};

use crate::failure::Coded;

const BINARY: &str = "codexstore-sidecar";
/// Longest wait for a store to become ready: recovery of much data takes a while.
const START: Duration = Duration::from_mins(1);
/// Longest wait for a stop: the sidecar itself takes about a second.
const STOP: Duration = Duration::from_secs(10);

/// The binary: the one that was named, one beside codexctl, or one on the PATH.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        if runnable(path) {
            return Ok(path.to_owned());
        }
        let text = format!("--sidecar {}: no executable file", path.display());
        return Err(Coded::not_found(text).into());
    }
    let exe = env::current_exe().unwrap_or_default();
    let beside = exe.parent().map(|dir| dir.join(BINARY));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join(BINARY));
    beside
        .into_iter()
        .chain(on_path)
        .find(|candidate| runnable(candidate))
        .ok_or_else(|| {
            let beside = exe.parent().unwrap_or(Path::new("")).display();
            Coded::not_found(format!(
                "{BINARY} is neither beside codexctl ({beside}) nor on the PATH: build it with \
                 `cargo build -p {BINARY}`, or name it with --sidecar"
            ))
            .into()
        })
}

fn runnable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// A running sidecar. Dropped without [`Sidecar::stop`], it is killed.
pub struct Sidecar {
    child: Child,
}

impl Sidecar {
    /// Starts it with exactly these settings: what this process has of the kind is not passed on. Its log goes
    /// to stderr. It has a process group of its own, so that a Ctrl-C ends the app first, as in a pod.
    pub fn start(binary: &Path, env: &[(String, String)]) -> Result<Self> {
        let log = io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .context("copy stderr")?;
        let mut command = Command::new(binary);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("CODEXSTORE_") {
                command.env_remove(name);
            }
        }
        let child = command
            .arg("run")
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        Ok(Self { child })
    }

    /// Waits until the store is open, or until it is clear that it will not be.
    pub async fn ready(&mut self, client: &Client) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.child.try_wait().context("wait for the sidecar")? {
                return Err(ended(status).into());
            }
            match client.ready().await {
                Ok(()) => return Ok(()),
                Err(error) if error.retry() == Retry::No || Instant::now() > deadline => {
                    return Err(anyhow::Error::new(error).context("the store does not open"));
                }
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Waits until it ends, which it does not by itself unless something is wrong.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => ended(status).into(),
            Err(error) => anyhow::Error::new(error).context("wait for the sidecar"),
        }
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        signal(&self.child, Signal::TERM);
        let deadline = Instant::now() + STOP;
        match timeout_at(deadline, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(ended(status).into()),
            Ok(Err(error)) => Err(error).context("wait for the sidecar"),
            Err(_) => {
                self.child.kill().await.context("kill the sidecar")?;
                let text = format!("the sidecar did not stop within {STOP:?} and was killed");
                Err(Coded::unreachable(text).into())
            }
        }
    }
}

fn ended(status: ExitStatus) -> Coded {
    Coded::unreachable(format!(
        "the sidecar ended ({status}); its log above says why"
    ))
}

/// Signals a child, if it still runs.
pub fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It may have ended meanwhile; it is not reaped before `wait`, so the id is still its own.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_binary_that_is_none_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sidecar");
        assert!(
            find(Some(&file))
                .unwrap_err()
                .to_string()
                .contains("--sidecar")
        );
        fs::write(&file, "").unwrap();
        assert!(find(Some(&file)).is_err());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(Some(&file)).unwrap(), file);
    }
}
