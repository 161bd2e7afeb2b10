//! codexctl: talks to a CodexStore over its socket, works on its files while nobody has it open, runs one on a laptop, and explains
//! what the cluster does.
//!
//! - [`args`]: the command line, only parsed.
//! - [`kv`]: get, set, delete, list, batch, cas, ttl, watch, history, status.
//! - [`offline`]: inspect and the like, on the files themselves.
//! - [`keyring`]: a keyring as a directory.
//! - [`dev`]: the same resource without a cluster.
//! - [`backups`]: backups as files, and what a cluster says of its own.
//! - [`downloads`]: a backup's files, from where the cluster keeps them.
//! - [`restores`]: a store made of a file, and a CodexRestore that is followed to its end.
//! - [`follow`]: what the operator makes of what was asked for.
//! - [`explain`]: facts from the cluster first, then a pure judgement on them.
//! - [`jobs`]: what a store's Jobs run in the cluster.
//! - [`output`], [`failure`]: what goes to stdout, and what to stderr and the shell.
//!
//! **Nothing but [`jobs`], [`restores`], [`downloads`] and `backup verify` changes anything in a cluster, and nothing but [`downloads`] reads a
//! Secret from it: the credentials of the bucket.**

mod args;
mod backups;
mod dev;
mod downloads;
mod explain;
mod failure;
mod follow;
mod jobs;
mod keyring;
mod kv;
mod offline;
mod output;
mod restores;

use std::{ffi::OsStr, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use output::Format;

fn main() -> ExitCode {
    conceal();
    let cli = parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (message, code) = failure::report(&error);
            if let Some(message) = message {
                eprintln!("codexctl: {message}");
            }
            ExitCode::from(code)
        }
    }
}

/// A core file would hold keys and values; and whoever can trace this process has them. What it starts is as it would be otherwise.
fn conceal() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        eprintln!("codexctl: this process cannot be kept from being traced or dumped: {error}");
    }
}

/// The command line; help calls us what we were called.
fn command() -> clap::Command {
    let command = Cli::command();
    let called = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called).file_name() == Some(OsStr::new("kubectl-codexstore")) {
        return command.bin_name("kubectl codexstore");
    }
    command
}

fn parse() -> Cli {
    let matches = command().get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn run(cli: Cli) -> Result<()> {
    // kube picks no provider by itself, and two in one process would be an accident.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(dispatch(cli))
}

async fn dispatch(cli: Cli) -> Result<()> {
    let format = cli.output;
    match cli.command {
        Command::Get(get) => kv::get(&get, format).await,
        Command::Set(set) => kv::set(&set, format).await,
        Command::Delete(delete) => kv::delete(&delete, format).await,
        Command::List(list) => kv::list(&list, format).await,
        Command::Batch {
            socket,
            actor,
            file,
        } => kv::batch(&socket, &actor, &file, format).await,
        Command::Cas(cas) => kv::cas(&cas, format).await,
        Command::Ttl(ttl) => kv::ttl(&ttl, format).await,
        Command::Watch(watch) => kv::watch(&watch, format).await,
        Command::History(history) => kv::history(&history, format).await,
        Command::Top(top) => kv::top(&top, format).await,
        Command::Status { socket } => kv::status(&socket, format).await,
        Command::AcceptClock { socket } => kv::accept_clock(&socket).await,
        Command::Inspect(inspect) => offline::inspect(&inspect, format),
        Command::Verify(verify) => offline::verify(&verify, format),
        Command::Salvage(salvage) => offline::salvage(&salvage, format),
        Command::Export(export) => offline::export(&export, format).await,
        Command::Import(import) => offline::import(&import, format).await,
        Command::Convert(convert) => offline::convert(&convert, format),
        Command::MigrateEncryption(migrate) => offline::migrate_encryption(&migrate, format),
        Command::Key(command) => offline::key(&command, format),
        Command::Passphrase(passphrase) => offline::passphrase(&passphrase, format),
        Command::Backup(command) => backups::backup(&command, format).await,
        Command::Archive(command) => offline::archive(&command, format),
        Command::Restore(restore) => Box::pin(restores::restore(&restore, format)).await,
        Command::Job(job) => Box::pin(jobs::job(&job)).await,
        Command::Explain(explain) => explain::explain(&explain, format).await,
        Command::Dev(dev) => dev::dev(&dev, format).await,
        Command::Completion { shell } => {
            let mut text = Vec::new();
            let mut command = command();
            let name = command.get_bin_name().unwrap_or("codexctl").to_owned();
            clap_complete::generate(shell, &mut command, name, &mut text);
            output::raw(&text)
        }
        Command::Man { dir } => man(&dir),
        Command::Version => version(format),
    }
}

/// Manual pages: `codexctl.1`, and one for each command.
fn man(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .with_context(|| format!("write manual pages into {}", dir.display()))
}

fn version(format: Format) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        Format::Table => output::line(&format!("codexctl {version}")),
        Format::Json => output::json(&serde_json::json!({
            "version": version,
            "apiVersion": format!("{}/{}", codexstore_crds::names::GROUP, codexstore_crds::names::VERSION),
        })),
    }
}
