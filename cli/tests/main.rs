//! codexctl as a user runs it: the real binary, the real sidecar, a real socket.
//!
//! Wants `codexstore-sidecar` beside `codexctl`: `cargo build -p codexstore-sidecar`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, helpers included"
)]

mod support;

mod backups;
mod core_file;
mod dev;
mod explain;
mod kv;
mod offline;
mod past;
mod restores;
mod running;
mod shell;
