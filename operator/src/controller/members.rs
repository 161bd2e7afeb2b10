//! Members: the pods that hold a store's state, and what each says of itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codexstore_api::bodies::RewrapTold;
use codexstore_api::status::Reencryption;
use codexstore_api::{Status, header, path, query};
use codexstore_crds::{CodexStore, MemberStatus, names, served_store, spec_hash};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, Volume};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::problem::Problem;
use super::tls::Credentials;

/// Largest answer that is read: a member is not trusted with the operator's memory.
const MAX_STATUS: usize = 64 << 10;

/// State of a member that cannot be asked, though it runs.
pub const UNREACHABLE: &str = "Unreachable";
/// State of a member whose sidecar does not run yet.
pub const PENDING: &str = "Pending";
/// State of a member that is ending.
pub const TERMINATING: &str = "Terminating";

/// Whether a pod is there to stay: neither finished nor being deleted.
pub fn lives(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !finished(pod)
}

/// Whether all containers of a pod have ended for good.
pub fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod is a member of the store of this name: by its label, or by its sidecar, since a label can be taken off.
pub fn is_of(pod: &Pod, store: &str) -> bool {
    let label = pod.labels().get(names::STORE_LABEL);
    label.is_some_and(|name| name == store) || served_store(pod) == Some(store)
}

/// What the sidecar of a pod has its data on.
fn data_volume(pod: &Pod) -> Option<&Volume> {
    let spec = pod.spec.as_ref()?;
    let mut inits = spec.init_containers.iter().flatten();
    let sidecar = inits.find(|c| c.name == names::CONTAINER)?;
    let mut mounts = sidecar.volume_mounts.iter().flatten();
    let mount = mounts.find(|m| m.mount_path == names::DATA_DIR)?;
    let mut volumes = spec.volumes.iter().flatten();
    volumes.find(|volume| volume.name == mount.name)
}

/// Whether the sidecar of a pod has its data on the claim of this name. That the pod is called as a claim says is not enough: a store that
/// was made again may have its data elsewhere.
pub fn has_data_on(pod: &Pod, claim: &str) -> bool {
    let source = data_volume(pod).and_then(|volume| volume.persistent_volume_claim.as_ref());
    source.is_some_and(|source| source.claim_name == claim)
}

/// Whether what the sidecar of a pod wrote ends with that pod: on the volume that it was given, and that is no claim.
pub fn takes_data_along(pod: &Pod) -> bool {
    let ends = |volume: &Volume| volume.name == names::DATA_VOLUME && volume.empty_dir.is_some();
    data_volume(pod).is_some_and(ends)
}

/// Whether the sidecar of a pod has its data on a volume of the user's (`podVolume`).
pub fn is_on_pod_volume(pod: &Pod) -> bool {
    data_volume(pod).is_some_and(|volume| volume.name != names::DATA_VOLUME)
}

fn sidecar(pod: &Pod) -> Option<&ContainerStatus> {
    let all = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    all.iter().find(|c| c.name == names::CONTAINER)
}

/// When the sidecar that runs was started.
pub fn started_at(pod: &Pod) -> Option<Timestamp> {
    let running = sidecar(pod)?.state.as_ref()?.running.as_ref()?;
    running.started_at.as_ref().map(|at| at.0)
}

/// Whether the sidecar has ever run in this pod: only then can there be data.
pub fn has_started(pod: &Pod) -> bool {
    let ran = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
    sidecar(pod).is_some_and(|c| {
        c.restart_count > 0 || [&c.state, &c.last_state].into_iter().flatten().any(ran)
    })
}

fn runs(pod: &Pod) -> bool {
    sidecar(pod)
        .and_then(|c| c.state.as_ref())
        .is_some_and(|s| s.running.is_some())
}

/// Whether kubelet's readiness probe succeeds.
fn probed_ready(pod: &Pod) -> bool {
    sidecar(pod).is_some_and(|c| c.ready)
}

/// Why the sidecar does not run yet.
fn waiting(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let waits = sidecar(pod).and_then(|c| c.state.as_ref()?.waiting.as_ref());
    if let Some(waits) = waits {
        let reason = waits.reason.clone().unwrap_or_default();
        return match waits.message.as_deref() {
            Some(message) if !message.is_empty() => {
                format!("the sidecar waits: {reason}: {message}")
            }
            _ => format!("the sidecar waits: {reason}"),
        };
    }
    let scheduled = status.and_then(|s| s.conditions.as_ref()).and_then(|all| {
        all.iter()
            .find(|c| c.type_ == "PodScheduled" && c.status == "False")
    });
    match scheduled {
        Some(c) => format!(
            "not scheduled: {}",
            c.message.as_deref().unwrap_or("no reason given")
        ),
        None => "the sidecar does not run yet".to_owned(),
    }
}

/// Why a member could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable(pub String);

/// What is known about one member.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its pod.
    pub pod: Arc<Pod>,
    /// Its own word; `None` when it was not asked.
    pub answer: Option<Result<Status, Unreachable>>,
}

impl Member {
    /// The member's entry in the status of the store; `problems` are those of this pod that it cannot tell of itself.
    pub fn report(
        &self,
        store: &CodexStore,
        operator: &str,
        problems: &[&Problem],
    ) -> MemberStatus {
        let pod = &*self.pod;
        let mut report = MemberStatus {
            pod: pod.name_any(),
            pod_uid: pod.uid(),
            node: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
            spec_hash: pod.annotations().get(names::SPEC_HASH_ANNOTATION).cloned(),
            ..MemberStatus::default()
        };
        let mut messages: Vec<_> = problems
            .iter()
            .map(|p| format!("{}: {}", p.reason, p.message))
            .collect();
        match &self.answer {
            Some(Ok(status)) => {
                let number = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
                report.ready = status.state.is_ready();
                report.state = Some(status.state.to_string());
                report.revision = number(status.revision);
                report.keys = number(status.keys);
                report.bytes = number(status.bytes);
                report.key_id = (!status.key_id.is_empty()).then(|| status.key_id.clone());
                messages.extend(status.message.clone());
            }
            Some(Err(Unreachable(why))) => {
                // The app uses the socket, not this address: kubelet's probe says whether it is served.
                report.ready = probed_ready(pod);
                report.state = Some(UNREACHABLE.to_owned());
                messages.push(why.clone());
            }
            None => {
                report.state = Some(PENDING.to_owned());
                messages.push(waiting(pod));
            }
        }
        if pod.metadata.deletion_timestamp.is_some() {
            report.ready = false;
            report.state = Some(TERMINATING.to_owned());
        }
        if let Some(why) = self.outdated(store, operator) {
            report.outdated = true;
            messages.push(format!("outdated: {why}"));
        }
        report.message = (!messages.is_empty()).then(|| messages.join("; "));
        report
    }

    /// What of this pod is older than the spec and the operator.
    fn outdated(&self, store: &CodexStore, operator: &str) -> Option<String> {
        let annotation = |name: &str| self.pod.annotations().get(name).map(String::as_str);
        if let Some(Ok(status)) = &self.answer
            && !status.store_uid.is_empty()
            && Some(&status.store_uid) != store.metadata.uid.as_ref()
        {
            return Some("it was admitted for an earlier CodexStore of this name".to_owned());
        }
        if annotation(names::SPEC_HASH_ANNOTATION) != Some(spec_hash(store).as_str()) {
            return Some("it runs with an older spec".to_owned());
        }
        let injected_by = annotation(names::INJECTED_BY_ANNOTATION).unwrap_or("an unknown version");
        (injected_by != operator).then(|| format!("it was injected by operator {injected_by}"))
    }
}

/// Asks members, a bounded number at once.
#[derive(Debug)]
pub struct Poller {
    slots: Semaphore,
    timeout: Duration,
    at_once: usize,
}

impl Poller {
    /// `at_once` bounds polls over all stores; `timeout` is for connecting and answering together.
    pub fn new(at_once: u16, timeout: Duration) -> Self {
        let at_once = usize::from(at_once);
        Self {
            slots: Semaphore::new(at_once),
            timeout,
            at_once,
        }
    }

    /// Asks the members of one store. Without credentials nobody is asked, and the text says why: those that run count as
    /// unreachable, and not as pending.
    pub async fn ask(
        &self,
        pods: Vec<Arc<Pod>>,
        credentials: Result<&Credentials, &str>,
    ) -> Vec<Member> {
        futures::stream::iter(pods)
            .map(|pod| async move {
                let answer = match credentials {
                    _ if !runs(&pod) => None,
                    Ok(credentials) => Some(self.one(&pod, credentials).await),
                    Err(why) => Some(Err(Unreachable(format!("it was not asked: {why}")))),
                };
                Member { pod, answer }
            })
            .buffered(self.at_once)
            .collect()
            .await
    }

    async fn one(&self, pod: &Pod, credentials: &Credentials) -> Result<Status, Unreachable> {
        let status: Status = self
            .exchange(pod, credentials, Method::GET, path::STATUS)
            .await?;
        // The certificate says which store, this says which pod: an address may be another pod's by now.
        if pod.uid().is_none_or(|uid| uid != status.pod_uid) {
            return Err(Unreachable(format!(
                "its admin port belongs to another pod than {}",
                pod.name_any()
            )));
        }
        Ok(status)
    }

    /// Has a member wrap the data keys of all its files with the current key of its keyring.
    pub async fn rewrap(
        &self,
        pod: &Pod,
        credentials: &Credentials,
    ) -> Result<RewrapTold, Unreachable> {
        self.exchange(pod, credentials, Method::POST, path::REWRAP)
            .await
    }

    /// Has a member write everything that it holds anew, under fresh data keys. Under an id that it knows it only says how far it is,
    /// unless it has failed.
    pub async fn reencrypt(
        &self,
        pod: &Pod,
        credentials: &Credentials,
        id: &str,
    ) -> Result<Reencryption, Unreachable> {
        let path = format!("{}?{}={id}", path::REENCRYPT, query::ID);
        self.exchange(pod, credentials, Method::POST, &path).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        pod: &Pod,
        credentials: &Credentials,
        method: Method,
        path: &str,
    ) -> Result<T, Unreachable> {
        let Ok(_slot) = self.slots.acquire().await else {
            return Err(Unreachable("the operator is stopping".to_owned()));
        };
        let ip = pod
            .status
            .as_ref()
            .and_then(|s| s.pod_ip.as_deref())
            .unwrap_or_default();
        let port = codexstore_crds::admin_port(pod).unwrap_or(names::ADMIN_PORT);
        let Ok(ip) = ip.parse::<std::net::IpAddr>() else {
            return Err(Unreachable("the pod has no address yet".to_owned()));
        };
        let address = std::net::SocketAddr::new(ip, port);
        let unreachable = |why: String| Unreachable(format!("its admin port {address} {why}"));
        let mut request = Request::builder()
            .uri(path)
            .header(hyper::header::HOST, credentials.server_name.as_str());
        if method == Method::POST {
            // Another pod that has the address now is not to do it.
            request = request.header(header::POD_UID, pod.uid().unwrap_or_default());
        }
        let request = request.method(method).body(Empty::<Bytes>::new());
        let request = request.map_err(|e| unreachable(e.to_string()))?;
        let answer = tokio::time::timeout(self.timeout, send(address, credentials, request)).await;
        let body = match answer {
            Ok(Ok(body)) => body,
            Ok(Err(why)) => return Err(unreachable(why)),
            Err(_) => {
                let hint = "did not answer in time (does a NetworkPolicy keep the operator out?)";
                return Err(unreachable(hint.to_owned()));
            }
        };
        serde_json::from_slice(&body)
            .map_err(|e| unreachable(format!("answered something else than was asked for: {e}")))
    }
}

/// One request over one connection.
async fn send(
    address: std::net::SocketAddr,
    credentials: &Credentials,
    request: Request<Empty<Bytes>>,
) -> Result<Bytes, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|e| format!("cannot be connected to: {e}"))?;
    let name = ServerName::try_from(credentials.server_name.clone())
        .map_err(|_| "has no valid server name".to_owned())?;
    let stream = TlsConnector::from(Arc::clone(&credentials.client))
        .connect(name, stream)
        .await
        .map_err(|e| format!("failed the TLS handshake: {e}"))?;
    let failed = |e: hyper::Error| format!("broke off: {e}");
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_STATUS)
            .collect()
            .await;
        Ok(body.map_err(|e| format!("broke off: {e}"))?.to_bytes())
    };
    tokio::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(e) => Err(failed(e)),
        },
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
