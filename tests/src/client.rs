//! The API server, asked by path: one client, plain JSON, and the server's own words where it refuses.

use http::Request;
use kube::Client;
use serde_json::Value;

/// What the API server answered to a change: the object, or why not.
pub type Answer = Result<Value, Refused>;

/// A refusal: HTTP status and message, as `kubectl` would print it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// 403, 404, 409, 422 …; 0 when there was no answer at all.
    pub code: u16,
    /// The server's message.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// The path of `resource` ("pods", "pods/web-0", "pods/web-0/log") in a namespace; an empty namespace means cluster-wide.
pub fn path_of(namespace: &str, resource: &str) -> String {
    let kind = resource.split(['/', '?']).next().unwrap_or(resource);
    let group = match kind {
        "deployments" | "statefulsets" | "replicasets" | "daemonsets" => "/apis/apps/v1",
        "jobs" | "cronjobs" => "/apis/batch/v1",
        "leases" => "/apis/coordination.k8s.io/v1",
        "codexstores" | "codexbackups" | "codexrestores" | "codexkeyrotations" => {
            "/apis/codexstore.dev/v1alpha1"
        }
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => {
            "/apis/admissionregistration.k8s.io/v1"
        }
        "clusterroles" | "roles" => "/apis/rbac.authorization.k8s.io/v1",
        "customresourcedefinitions" => "/apis/apiextensions.k8s.io/v1",
        _ => "/api/v1",
    };
    if namespace.is_empty() {
        format!("{group}/{resource}")
    } else {
        format!("{group}/namespaces/{namespace}/{resource}")
    }
}

/// The resource of a kind: "Pod" is under "pods".
pub fn plural(kind: &str) -> String {
    format!("{}s", kind.to_lowercase())
}

/// A blocking client.
pub struct Blocking {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Blocking {
    pub fn new(kubeconfig: &std::path::Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let client = runtime.block_on(async {
            let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
            let mut config = kube::Config::from_custom_kubeconfig(
                file,
                &kube::config::KubeConfigOptions::default(),
            )
            .await?;
            config.proxy_url = None;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self { runtime, client })
    }

    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let content = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        self.send_as(method, path, body, content)
    }

    pub fn send_as(&self, method: &str, path: &str, body: Option<&Value>, content: &str) -> Answer {
        let body = body
            .map(|b| serde_json::to_vec(b).expect("JSON"))
            .unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(body)
            .expect("a request");
        self.runtime
            .block_on(self.client.request::<Value>(request))
            .map_err(|e| refused(&e))
    }

    pub fn text(&self, path: &str) -> Result<String, Refused> {
        let request = Request::builder()
            .uri(path)
            .body(Vec::new())
            .expect("a request");
        self.runtime
            .block_on(self.client.request_text(request))
            .map_err(|e| refused(&e))
    }
}

fn refused(error: &kube::Error) -> Refused {
    match error {
        kube::Error::Api(status) => Refused {
            code: status.code,
            message: status.message.clone(),
        },
        other => Refused {
            code: 0,
            message: other.to_string(),
        },
    }
}
