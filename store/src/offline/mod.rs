//! A store as it lies there: looked at, verified and rescued without being opened.
//!
//! Nothing here claims the store, and nothing modifies its directory: no file is made in it, not
//! even `LOCK`, none is written, and a read-only volume is as good as any. While somebody works
//! with the store (it is *live*), only [`inspect`] answers, and says so: what it reads may change
//! under its eyes. Otherwise the directory is held with a shared lock, so that nobody opens the
//! store meanwhile.

mod contents;
mod disk;
mod glean;
mod inspect;
mod lines;
mod merge;
mod opening;
mod salvage;
mod settle;
mod verify;
mod walk;

pub use contents::Contents;
pub use inspect::{
    Claim, FileReport, HeaderReport, Inspection, LinkReport, Role, inspect, strategy,
};
pub use opening::Opening;
pub use salvage::{Lost, Salvage, salvage};
pub use verify::{Content, Fault, Verification, verify, verify_against};
pub use walk::End;

/// Told of progress as (bytes read, bytes to read).
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

#[cfg(test)]
mod ledger_tests;
#[cfg(test)]
mod tests;
