//! Certificates of the admin listener, loaded anew when their files change.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwapOption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::watch::{Fingerprint, Refused};

/// The current certificates, if there are valid ones.
pub struct Certificates {
    dir: PathBuf,
    current: ArcSwapOption<ServerConfig>,
    /// The files as last read; `None` before the first time and while they cannot be read.
    seen: Mutex<Option<Fingerprint>>,
    /// When files that were refused are tried again.
    refused: Mutex<Refused>,
    /// Whether they were ever looked at.
    looked: AtomicBool,
}

impl Certificates {
    /// Certificates from `tls.crt`, `tls.key` and `ca.crt` in this directory; nothing is read yet.
    pub fn new(dir: PathBuf) -> Certificates {
        Certificates {
            dir,
            current: ArcSwapOption::empty(),
            seen: Mutex::default(),
            refused: Mutex::default(),
            looked: AtomicBool::new(false),
        }
    }

    /// What a handshake uses now.
    pub fn current(&self) -> Option<Arc<ServerConfig>> {
        self.current.load_full()
    }

    /// Loads the files if they changed. Broken ones leave what was loaded before in place.
    pub fn look(&self) {
        let now = Fingerprint::of(&self.dir);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let first = !self.looked.swap(true, Ordering::Relaxed);
            if *seen == now && !first && !refused.is_due() {
                return;
            }
            *seen = now;
        }
        match load(&self.dir) {
            Ok(config) => {
                self.current.store(Some(Arc::new(config)));
                *refused = Refused::default();
                tracing::info!(dir = %self.dir.display(), "certificates of the admin listener loaded");
            }
            Err(error) => {
                let kept = self.current.load().is_some();
                let error = format!("{error:#}");
                if refused.again(&error) {
                    tracing::error!(dir = %self.dir.display(), error, kept,
                        "certificates of the admin listener cannot be loaded; trying again");
                }
            }
        }
    }
}

fn load(dir: &Path) -> Result<ServerConfig> {
    let read = |name: &str| std::fs::read(dir.join(name)).with_context(|| format!("read {name}"));
    let chain: Vec<CertificateDer<'static>> = certificates(&read("tls.crt")?).context("tls.crt")?;
    let key = PrivateKeyDer::from_pem_slice(&read("tls.key")?)
        .ok()
        .context("tls.key: not a private key in PEM form")?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&read("ca.crt")?).context("ca.crt")? {
        roots.add(certificate).context("ca.crt")?;
    }
    // Named, not taken from a process-wide default that another crate may have set.
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .context("ca.crt")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .context("tls.crt and tls.key")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would outlive a change of the CA.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .context("not certificates in PEM form")?;
    ensure!(!found.is_empty(), "no certificate in it");
    Ok(found)
}
