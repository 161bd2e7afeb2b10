//! `dev`: the resource of the cluster on a laptop, by the functions that the operator uses.

mod keyring;
mod manifest;
mod place;
mod schema;
mod sidecar;

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result};
use codexstore_api::Client;
use codexstore_crds::{CodexStore, desired::store_name, names, sidecar_env};
use rustix::process::Signal;
use serde::Serialize;
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use self::{
    place::{Place, redis_socket},
    sidecar::Sidecar,
};
use crate::{
    args::Dev,
    failure::{Coded, Exit},
    kv::{name_of, read_input},
    output::{self, Format},
};

/// How long the command may take to end when its store is gone.
const GRACE: Duration = Duration::from_secs(5);

/// `dev`.
pub async fn dev(args: &Dev, format: Format) -> Result<()> {
    // While stdin is waited for nothing runs yet: a signal ends this process as it does any other.
    let text = read_input(&args.file, "CodexStore")?;
    // Before anything runs: a signal from now on is a clean stop.
    let mut signals = Signals::new()?;
    let file = name_of(&args.file);
    let store = manifest::parse(&text, &file, args.store.as_deref())?;
    let binary = sidecar::find(args.sidecar.as_deref())?;

    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => PathBuf::from(".codexstore").join(store_name(&store)),
    };
    let place = Place::take(&dir)?;
    let key = if store.spec.encryption.is_on() {
        let bits = store.spec.encryption.key_size.bits();
        let size = codexstore::KeySize::from_bits(bits).unwrap_or_default();
        Some(keyring::ensure(&place.keyring(), &place.data(), size)?)
    } else {
        None
    };

    let mut sidecar = Sidecar::start(&binary, &environment(&store, &place, &args.log_level))?;
    let client = Client::unix(place.socket()).patience(Duration::ZERO);
    let outcome = tokio::select! {
        ready = sidecar.ready(&client) => match ready {
            Ok(()) => serve(&mut sidecar, &mut signals, args, &running(&store, &place, key), format).await,
            Err(error) => Err(error),
        },
        _ = signals.next() => Ok(()),
    };
    let stopped = sidecar.stop().await;
    // What went wrong first is what matters.
    outcome.and(stopped)
}

/// Runs the command, or waits for a signal.
async fn serve(
    sidecar: &mut Sidecar,
    signals: &mut Signals,
    args: &Dev,
    running: &Running,
    format: Format,
) -> Result<()> {
    if args.command.is_empty() {
        match format {
            Format::Table => output::raw(running.text().as_bytes())?,
            Format::Json => output::json(running)?,
        }
        return tokio::select! {
            error = sidecar.failed() => Err(error),
            _ = signals.next() => Ok(()),
        };
    }
    let mut child = start_command(&args.command, &running.socket)?;
    let mut asked = false;
    loop {
        tokio::select! {
            status = child.wait() => return exit(status.context("wait for the command")?),
            error = sidecar.failed() => {
                end(&mut child, signals).await;
                return Err(error);
            }
            got = signals.next() => {
                // A terminal sends Ctrl-C to the command too; asked twice, it has to go.
                let by_terminal = got == Signal::INT && io::stdin().is_terminal();
                if asked {
                    sidecar::signal(&child, Signal::KILL);
                } else if !by_terminal {
                    sidecar::signal(&child, got);
                }
                asked = true;
            }
        }
    }
}

/// Ends the command, which may ignore being asked: after a while, or at the next signal, it has to go.
async fn end(child: &mut Child, signals: &mut Signals) {
    sidecar::signal(child, Signal::TERM);
    tokio::select! {
        _ = child.wait() => return,
        () = tokio::time::sleep(GRACE) => {}
        _ = signals.next() => {}
    }
    let _ = child.kill().await;
}

/// The sidecar's settings: those of a pod, and where things are here.
fn environment(store: &CodexStore, place: &Place, log_level: &str) -> Vec<(String, String)> {
    let mut env = sidecar_env(store);
    let mut add =
        |name: &str, value: &str| env.push((format!("CODEXSTORE_{name}"), value.to_owned()));
    let path = |path: &Path| path.to_string_lossy().into_owned();
    add("DATA_DIR", &path(&place.data()));
    add("SOCKET", &path(place.socket()));
    add("REDIS_SOCKET", &path(&redis_socket(place.socket())));
    // A pod's containers have many users; a laptop's socket is for one.
    add("SOCKET_MODE", "0600");
    if store.spec.encryption.is_on() {
        add("KEYRING_DIR", &path(&place.keyring()));
    }
    if let Some(namespace) = &store.metadata.namespace {
        add("NAMESPACE", namespace);
    }
    add("LOG_LEVEL", log_level);
    add("LOG_FORMAT", "text");
    env
}

/// What is said once the store serves.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    store: String,
    socket: PathBuf,
    redis_socket: PathBuf,
    data_dir: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keyring_dir: Option<PathBuf>,
}

fn running(store: &CodexStore, place: &Place, key_id: Option<String>) -> Running {
    Running {
        store: store_name(store).to_owned(),
        socket: place.socket().to_owned(),
        redis_socket: redis_socket(place.socket()),
        data_dir: place.data(),
        keyring_dir: key_id.is_some().then(|| place.keyring()),
        key_id,
    }
}

impl Running {
    fn text(&self) -> String {
        let socket = quoted(&self.socket);
        let redis = quoted(&self.redis_socket);
        let encryption = match (&self.key_id, &self.keyring_dir) {
            (Some(id), Some(dir)) => format!("encrypted with key {id} in {}", quoted(dir)),
            _ => "NOT encrypted".to_owned(),
        };
        let curl = format!("curl --unix-socket {socket}");
        format!(
            "store {name} is ready, {encryption}\n\
             \n\
             socket   {socket}\n\
             data     {data}\n\
             \n\
             {curl} -X PUT -d hello http://localhost/v1/keys/greeting\n\
             {curl} http://localhost/v1/keys/greeting\n\
             redis-cli -s {redis} get greeting\n\
             export {variable}={socket}   # for codexctl, and for your app\n\
             export {redis_variable}={redis}\n\
             \n\
             Ctrl-C stops it; data and keys stay.\n",
            name = self.store,
            data = quoted(&self.data_dir),
            variable = names::SOCKET_ENV,
            redis_variable = names::REDIS_SOCKET_ENV,
        )
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn start_command(command: &[OsString], socket: &Path) -> Result<Child> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Coded::invalid("no command after --"))?;
    Command::new(program)
        .args(arguments)
        .env(names::SOCKET_ENV, socket)
        .env(names::REDIS_SOCKET_ENV, redis_socket(socket))
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Coded::invalid(format!("run {}: {e}", program.display())).into())
}

/// The command's exit code as ours; 128 + signal if one ended it.
fn exit(status: ExitStatus) -> Result<()> {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    match code {
        Some(0) => Ok(()),
        code => Err(Exit(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(1)).into()),
    }
}

/// The signals that ask for an end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_a_shell_where_needed() {
        assert_eq!(quoted(Path::new("/a/b-c.sock")), "/a/b-c.sock");
        assert_eq!(quoted(Path::new("/it's me")), r"'/it'\''s me'");
    }

    #[test]
    fn a_command_that_a_signal_ended_is_128_and_more() {
        let code = |raw| {
            let error = exit(ExitStatus::from_raw(raw)).unwrap_err();
            error.downcast_ref::<Exit>().unwrap().0
        };
        assert_eq!(code(7 << 8), 7);
        assert_eq!(code(9), 137);
        assert!(exit(ExitStatus::from_raw(0)).is_ok());
    }
}
