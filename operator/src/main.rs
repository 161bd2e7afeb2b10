//! `codexstore-operator`: see `--help`.

use std::process::ExitCode;

use clap::Parser as _;
use codexstore_operator::args::{Cli, Command, LogFormat, RunArgs};
use tracing::{error, warn};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    match start(*args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // The chain of causes, once.
            error!(error = format!("{why:#}"), "cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn start(args: RunArgs) -> anyhow::Result<()> {
    let filter = match args.log_level.parse::<Targets>() {
        Ok(filter) => filter,
        Err(why) => {
            eprintln!(
                "codexstore-operator: --log-level `{}`: {why}",
                args.log_level
            );
            std::process::exit(2);
        }
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match args.log_format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text => layer.boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .init();
    conceal();
    // The one provider of cryptography; without this, the first TLS connection would have to guess.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a provider of cryptography was installed already"))?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(codexstore_operator::run::run(args))
}

/// A core file would hold keys, those of each store among them; and whoever can trace this process has them.
fn conceal() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!(%error, "this process cannot be kept from being traced or dumped");
    }
}
