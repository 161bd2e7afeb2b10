//! A member in this process: its admin listener, and as much of a store as the operator can see.
#![expect(clippy::missing_panics_doc, reason = "only tests call this")]

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use codexstore_api::Status;
use codexstore_api::bodies::RewrapTold;
use codexstore_api::status::{Reencryption, ReencryptionState, State};
use codexstore_crds::{CodexStore, names};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStatus, Pod, PodStatus, Secret,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fixtures::pod_of;

/// What a member's admin listener does with connections, with the certificate in this Secret.
pub fn acceptor(secret: &Secret) -> TlsAcceptor {
    let entry = |key: &str| secret.data.as_ref().unwrap()[key].0.clone();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&entry("ca.crt")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(&entry("tls.crt")).unwrap()],
            PrivateKeyDer::from_pem_slice(&entry("tls.key")).unwrap(),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// What there is to know of a member.
#[derive(Debug, Default)]
pub struct Inside {
    /// What it says of itself.
    pub status: Status,
    /// The current key of the keyring that it has loaded.
    pub current: String,
    /// Under which key all that it holds was written.
    pub sealed: String,
    /// Ids of the re-encryptions that it was asked for, as they came.
    pub asked: Vec<String>,
    /// How often it was asked to wrap its data keys anew.
    pub rewraps: usize,
    /// It answers nothing, and drops connections instead.
    pub frozen: bool,
    /// It loads no other keyring.
    pub stuck: bool,
    /// Re-encryptions end so, at the next look; they run until there is one.
    pub ends: Option<ReencryptionState>,
}

/// A member that runs.
#[derive(Clone)]
pub struct FakeMember {
    inside: Arc<Mutex<Inside>>,
    /// Its pod.
    pub pod: Pod,
}

impl FakeMember {
    /// Starts a member of `store` with the certificate in this Secret. All that it holds is under this key.
    pub async fn start(store: &CodexStore, name: &str, secret: &Secret, key: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut pod = pod_of(store, name);
        let inits = pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap();
        inits[0].ports.as_mut().unwrap()[0].container_port = port.into();
        pod.status = Some(PodStatus {
            pod_ip: Some("127.0.0.1".into()),
            init_container_statuses: Some(vec![ContainerStatus {
                name: names::CONTAINER.into(),
                ready: true,
                state: Some(ContainerState {
                    running: Some(ContainerStateRunning::default()),
                    ..ContainerState::default()
                }),
                ..ContainerStatus::default()
            }]),
            ..PodStatus::default()
        });
        let status = Status {
            state: State::Ready,
            store_uid: store.metadata.uid.clone().unwrap_or_default(),
            pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
            lineage: "1".into(),
            epoch: 1,
            key_id: key.to_owned(),
            loaded_key_ids: vec![key.to_owned()],
            needed_key_ids: Some(vec![key.to_owned()]),
            set_aside_key_ids: Some(Vec::new()),
            ..Status::default()
        };
        let inside = Arc::new(Mutex::new(Inside {
            status,
            current: key.to_owned(),
            sealed: key.to_owned(),
            ends: Some(ReencryptionState::Done),
            ..Inside::default()
        }));
        tokio::spawn(serve(listener, acceptor(secret), Arc::clone(&inside)));
        Self { inside, pod }
    }

    /// Looks at it, or changes it.
    pub fn with<T>(&self, look: impl FnOnce(&mut Inside) -> T) -> T {
        look(&mut self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Kubelet has brought it this keyring, and it has loaded it.
    pub fn load(&self, current: &str, ids: &[String]) {
        self.with(|inside| {
            if !inside.frozen && !inside.stuck {
                current.clone_into(&mut inside.current);
                inside.status.loaded_key_ids = ids.to_vec();
            }
        });
    }

    /// It is started anew, and has forgotten what it kept in memory.
    pub fn restart(&self) {
        self.with(|inside| {
            inside.status.reencryption = None;
            inside.status.epoch += 1;
            inside.status.key_wraps = inside.status.key_wraps.map(|_| 0);
        });
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, inside: Arc<Mutex<Inside>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, inside) = (acceptor.clone(), Arc::clone(&inside));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |request: Request<Incoming>| {
                let inside = Arc::clone(&inside);
                async move {
                    let frozen = inside.lock().unwrap().frozen;
                    if frozen {
                        return Err(std::io::Error::other("frozen"));
                    }
                    let body = answer(&mut inside.lock().unwrap(), &request);
                    let body = Full::new(Bytes::from(body));
                    Ok(Response::new(body))
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(inside: &mut Inside, request: &Request<Incoming>) -> Vec<u8> {
    let path = request.uri().path().to_owned();
    let id = request.uri().query().and_then(|q| q.strip_prefix("id="));
    let json = match path.as_str() {
        "/v1/status" => {
            let told = serde_json::to_vec(&inside.status);
            end(inside);
            told
        }
        "/v1/rewrap" => {
            inside.rewraps += 1;
            inside.status.needed_key_ids = Some(vec![inside.current.clone()]);
            inside.status.key_id.clone_from(&inside.current);
            serde_json::to_vec(&RewrapTold { files: 3, slots: 6 })
        }
        "/v1/reencrypt" => {
            let id = id.unwrap().to_owned();
            inside.asked.push(id.clone());
            let begun = Reencryption {
                id,
                state: ReencryptionState::Running,
                done_bytes: 35,
                total_bytes: 100,
                ..Reencryption::default()
            };
            inside.status.reencryption = Some(begun.clone());
            serde_json::to_vec(&begun)
        }
        other => unreachable!("{other} was asked for"),
    };
    json.unwrap()
}

/// What was running ends, behind the look that saw it run.
fn end(inside: &mut Inside) {
    let Some(known) = &mut inside.status.reencryption else {
        return;
    };
    if known.state == ReencryptionState::Running
        && let Some(state) = inside.ends
    {
        known.state = state;
        if state == ReencryptionState::Done {
            inside.sealed.clone_from(&inside.current);
        } else {
            known.message = Some("disk-full: let keys expire".to_owned());
        }
    }
}
