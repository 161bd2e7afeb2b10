//! The webhook's certificate as the TLS server sees it: it can change while serving.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certs::Leaf;

/// Holds the certificate that new connections get.
#[derive(Default)]
pub struct Current(pub(super) RwLock<Option<Loaded>>);

pub(super) struct Loaded {
    pub(super) pem: String,
    key: Arc<CertifiedKey>,
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current")
            .field("loaded", &self.loaded())
            .finish()
    }
}

impl Current {
    /// Whether there is a certificate to serve with.
    pub fn loaded(&self) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Uses this certificate from the next connection on; says whether it is another than before.
    pub fn install(&self, leaf: &Leaf) -> Result<bool, String> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if current
            .as_ref()
            .is_some_and(|loaded| loaded.pem == leaf.certificate)
        {
            return Ok(false);
        }
        let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("tls.crt: {e}"))?;
        if chain.is_empty() {
            return Err("tls.crt holds no certificate".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())
            .map_err(|e| format!("tls.key: {e}"))?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(|e| format!("tls.crt and tls.key: {e}"))?;
        *current = Some(Loaded {
            pem: leaf.certificate.clone(),
            key: Arc::new(key),
        });
        Ok(true)
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|loaded| Arc::clone(&loaded.key))
    }
}

/// TLS 1.3 with whatever certificate is current.
pub fn server_config(current: Arc<Current>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
