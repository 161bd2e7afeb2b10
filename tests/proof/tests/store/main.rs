//! Real processes that are killed, stopped and starved, on real and failing file systems.
//!
//! Each test prints its counter; `PROOF_SCALE` multiplies the rounds (`make soak`: 50), and `PROOF_SEED` makes the drawn times
//! those of another run. What a machine cannot do is said with `NOT RUN`, and fails where `CI=true`.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)] // tests

mod backups;
mod crash;
mod faults;
mod harness;
mod memory;
mod owners;
mod sidecar;
