//! The Redis protocol of the real sidecar: beside a real Redis, whose answers are the measure, and by real
//! clients.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod clients;
mod differential;
mod script;
mod servers;
mod wire;
