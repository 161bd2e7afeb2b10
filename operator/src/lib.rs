//! The CodexStore operator.
//!
//! Guarantees: a keyring is made once and never replaced; nothing that it did not make is changed or deleted; no Secret is
//! listed or watched; a pod that carries the label is either given its sidecar or refused with what to do about it.
//!
//! The crate is split into a pure part (certificates, plans, status) and thin shells around it (controller, webhook, servers).

pub mod args;
pub mod certs;
pub mod controller;
pub mod leader;
pub mod metrics;
pub mod run;
pub mod serve;
pub mod term;
pub mod webhook;
