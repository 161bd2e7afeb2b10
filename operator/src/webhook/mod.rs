//! The admission webhook: gives labelled pods their sidecar, and keeps others away from a store's data and keys.
//!
//! Every replica serves it; it changes nothing in the cluster, so a dry run is like any other.

pub mod graft;
pub mod identity;
pub mod lookup;
pub mod review;
pub mod server;
pub mod tls;
