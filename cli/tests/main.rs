//! codexctl as a user runs it: the real binary, the real sidecar, a real socket.
//!
//! Wants `codexstore-sidecar` beside `codexctl`: `cargo build -p codexstore-sidecar`.

mod support;

mod dev;
mod explain;
mod kv;
mod shell;
