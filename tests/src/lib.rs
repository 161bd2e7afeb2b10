//! What the end-to-end tests on a real cluster share: the cluster, a namespace for each test, and ways to wait, run and look.
//!
//! The cluster is the one that `CODEXSTORE_TEST_KUBECONFIG` names, never `$KUBECONFIG`: that may be production.
//! Everything is blocking on the outside, since a test reads best from top to bottom.
//!
//! ```no_run
//! use codexstore_tests::{namespace, objects};
//! let Some(ns) = namespace("example") else { return };
//! ns.create(&objects::store("orders", serde_json::json!({})));
//! ns.create(&objects::pod("app", Some("orders")));
//! ns.pod_ready("app");
//! assert_eq!(ns.put("app", "greeting", "hello"), 201);
//! ```

// A test that cannot go on panics, with what it saw: that is what this harness is for.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc
)]
// JSON is written in place and handed over: `json!({})` reads better than `&json!({})`.
#![allow(clippy::needless_pass_by_value)]

mod client;
mod cluster;
pub mod document;
mod namespace;
pub mod objects;
mod report;
pub mod run;
mod socket;
pub mod wait;

pub use client::{Answer, path_of};
pub use cluster::{Alone, Cluster, RELEASE, SYSTEM, cluster, exclusive};
pub use namespace::{Namespace, namespace};
pub use socket::{CURL, Reply};
