//! How members are observed from outside of their pods.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::names;

/// The metrics of members over the pod's network.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Port on which each member's sidecar serves `GET /metrics`, and nothing else: by default 7434, 1024 to 65535.
    /// The container's port is named `cxs-metrics`. Whoever reaches the port may read it: it has numbers, and no key or
    /// value.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: i32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            port: default_port(),
        }
    }
}

impl Metrics {
    /// The port; none if it is not one, which the schema forbids.
    pub fn port(&self) -> Option<u16> {
        u16::try_from(self.port).ok().filter(|port| *port > 0)
    }
}

fn default_port() -> i32 {
    i32::from(names::METRICS_PORT)
}
