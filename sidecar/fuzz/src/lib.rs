//! What the fuzz targets do with their bytes.
//!
//! - [`redis()`]: a stream of the Redis protocol, for its parser alone.
//! - [`http()`] and [`grpc()`]: connections of a [`client`] to the whole service over real stores, which are a [`member`].

mod bytes;
mod calls;
mod client;
mod member;
mod redis;
mod replies;
mod requests;

pub use calls::grpc;
pub use redis::redis;
pub use requests::http;

// The sidecar is a program; what is fuzzed of it is read from its sources, where it is called by the same names.
#[path = "../../src"]
#[allow(dead_code, unused_imports)]
mod sidecar {
    pub mod access;
    pub mod engine;
    pub mod flags;
    pub mod grpc;
    pub mod http;
    pub mod log;
    pub mod metrics;
    pub mod serve;
    pub mod settings;
    pub mod trace;
    pub mod units;
    pub mod watch;
}
use sidecar::{
    access, engine, flags, grpc, http, log, metrics, serve, settings, trace, units, watch,
};
