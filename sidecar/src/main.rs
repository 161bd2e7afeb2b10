//! `codexstore-sidecar`: serves one store on a pod-local Unix socket, and its state to the operator.
//!
//! The store does the work; this binary is the protocols, the limits, and the process's life.
//! **Nothing here knows the format of a file or a Kubernetes object.**
//!
//! - [`flags`], [`settings`]: what was asked for, then what it means on this machine.
//! - [`run`]: the process from start to end; [`ping`]: the exec probe.
//! - [`engine`]: what stands between the protocols and the store, and who opens the store.
//! - [`http`], [`redis`]: requests and answers; [`serve`]: connections and their deadlines.
//! - [`admin`]: the listener for the operator; [`aside`]: what restores set aside.

mod access;
mod admin;
mod aside;
mod engine;
mod flags;
mod grpc;
mod http;
mod log;
mod metrics;
mod ping;
mod redis;
mod run;
mod scrape;
mod serve;
mod settings;
mod trace;
mod units;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use flags::{Cli, Command};

/// Entries are freed in batches, by other threads than made them: glibc's takes a sixth more processor time for a set.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Ping(flags) => match ping::ping(&flags) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error, 1),
        },
        Command::SetAside(flags) => match aside::set_aside(&flags) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error, 1),
        },
        Command::Run(flags) => match run::run(*flags) {
            Ok(()) => ExitCode::SUCCESS,
            Err(run::Failed::Flags(error)) => complain(&error, 2),
            Err(run::Failed::Run) => ExitCode::from(1),
        },
    }
}

/// Says what is wrong, with its causes, and with which code to end.
fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("codexstore-sidecar: {error:#}");
    ExitCode::from(code)
}
