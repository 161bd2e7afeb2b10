//! How members are observed from outside of their pods. Names as in Kubernetes' own `TracingConfiguration`.

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

/// Spans of members' requests.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// An OpenTelemetry collector that takes OTLP over gRPC: `http://HOST:PORT`, such as
    /// `http://otel-collector.observability:4317`. The pods must reach it. TLS is not supported. A request has a span if its
    /// caller sent a sampled `traceparent`; a span never holds a key or a value.
    #[schemars(length(max = 280))]
    #[x_kube(validation = Rule::new("self.matches('^http://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\\\\[[0-9A-Fa-f:.]+\\\\]):[1-9][0-9]{0,4}$') && int(self.substring(self.lastIndexOf(':') + 1)) < 65536").message("tracing.endpoint is http://HOST:PORT of a collector that takes OTLP over gRPC, without a path, and without TLS, which is not supported: write for example http://otel-collector.observability:4317"))]
    pub endpoint: String,

    /// Of a million requests without a `traceparent`, so many begin a trace: 0 (the default) to 1000000. Commands of the
    /// Redis protocol carry none: they have spans by this alone.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub sampling_rate_per_million: i32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

fn default_port() -> i32 {
    i32::from(names::METRICS_PORT)
}
