//! `job hold` and `job read`: the two halves of a pod by which somebody reads a claim from outside of the cluster.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use codexstore_crds::jobs::DESTINATION_DIR;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::destination::Destination;
use crate::output;

/// Bytes that are written at a time.
const PART: usize = 256 << 10;

/// Does nothing until it is told to end: its pod is there for others to run [`read`] in, and has a deadline.
pub async fn hold() -> Result<()> {
    let mut term = signal(SignalKind::terminate()).context("listen for signals")?;
    term.recv().await;
    Ok(())
}

/// Writes a file of the destination to stdout.
pub async fn read(path: &str) -> Result<()> {
    let destination = Destination::Dir(PathBuf::from(DESTINATION_DIR));
    let mut file = destination.read(path).await?;
    let mut part = vec![0; PART];
    loop {
        let read = file.read(&mut part).await;
        let read = read.with_context(|| format!("read {path}"))?;
        if read == 0 {
            return Ok(());
        }
        output::raw(part.get(..read).unwrap_or_default())?;
    }
}
