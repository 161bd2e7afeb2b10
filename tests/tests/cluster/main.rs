//! CodexStore on a real cluster, end to end: each module shows one part of what is promised.
//!
//! The cluster is the one that `CODEXSTORE_TEST_KUBECONFIG` names (`make test` makes one). The first test to run installs CodexStore by
//! the commands of docs/QUICKSTART.md. Tests share the operator, except for those that take it away, which run alone.

// Helpers of tests may panic and index just as tests do; clippy knows only functions marked as tests.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)]

mod access;
mod admission;
mod alone;
mod archive;
mod attempts;
mod backups;
mod chart;
mod clones;
mod ctl;
mod durability;
mod escrow;
mod held;
mod keys;
mod ledger;
mod left;
mod members;
mod own_keys;
mod own_late;
mod protocol;
mod quickstart;
mod reencrypt;
mod refusals;
mod restores;
mod rotation;
mod s3;
mod secrecy;
mod space;
mod switches;
mod traces;
mod workloads;
