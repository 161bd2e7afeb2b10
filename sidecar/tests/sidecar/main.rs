//! The real binary on a temporary directory, spoken to over its socket. One test binary, a module
//! for each concern.

// A test may stop at what it did not expect; clippy allows that only within #[test] functions.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod access;
mod admin;
mod archive;
mod backup;
mod batch;
mod conditions;
mod connections;
mod document;
mod durability;
mod grpc;
mod grpc_limits;
mod grpc_streams;
mod harness;
mod http2;
mod keyring;
mod keys;
mod ledger;
mod life;
mod lists;
mod privacy;
mod redis;
mod redis_limits;
mod reencrypt;
mod restore;
mod robust;
mod rotation;
mod scrape;
mod traces;
mod watch;
