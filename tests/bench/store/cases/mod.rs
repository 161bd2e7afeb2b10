//! The cases, in groups that share their databases.

mod big;
mod busy;
mod growth;
mod ledger;
mod small;
mod whole;

pub use big::{child_crash, child_memory};
pub use whole::child_backup;

use anyhow::Result;

use crate::badger::Badger;
use crate::run::Run;

/// Runs all groups that are wanted.
pub fn all(run: &mut Run, badger: Option<&Badger>) -> Result<()> {
    if run.wants("small") {
        small::run(run, badger)?;
    }
    if run.wants("busy") {
        busy::run(run)?;
    }
    if run.wants("big") {
        big::run(run, badger)?;
    }
    if run.wants("whole") {
        whole::run(run)?;
    }
    if run.wants("ledger") {
        ledger::run(run)?;
    }
    if run.wants("growth") {
        growth::run(run)?;
    }
    Ok(())
}
