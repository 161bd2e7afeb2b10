//! Reading the backup of one member over its admin listener.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use codexstore_api::bodies::BackupTold;
use codexstore_api::client::Backup;
use codexstore_api::{Client, encoding::hex};
use codexstore_crds::{admin_port, names};
use k8s_openapi::api::core::v1::Pod;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::destination::{AtDestination, Destination, Upload};

/// Longest time to reach a member, and for which its stream may stand still.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often a member that gives a backup to somebody else is asked again, and how many times.
const AGAIN: Duration = Duration::from_secs(5);
const TIMES: u32 = 24;
/// Bytes that are read back at a time.
const PART: usize = 256 << 10;

/// What a Job shows to members, and whom it trusts.
pub struct Credentials {
    client: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl Credentials {
    /// From the directory with `tls.crt`, `tls.key` and `ca.crt`; members have the certificate of the store of this UID.
    pub fn load(dir: &Path, store_uid: &str) -> Result<Credentials> {
        let read = || format!("read the certificate in {}", dir.display());
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_file_iter(dir.join("ca.crt")).with_context(read)? {
            roots.add(ca.with_context(read)?).with_context(read)?;
        }
        let chain = CertificateDer::pem_file_iter(dir.join("tls.crt")).with_context(read)?;
        let chain = chain.collect::<Result<Vec<_>, _>>().with_context(read)?;
        let key = PrivateKeyDer::from_pem_file(dir.join("tls.key")).with_context(read)?;
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .with_context(read)?;
        let name = names::server_dns_name(store_uid);
        Ok(Credentials {
            client: Arc::new(client),
            server_name: ServerName::try_from(name).context("the UID of the store")?,
        })
    }
}

/// Copies the backup of the member in `pod` to `path`, reads it back, and says what it is: stored are the bytes that the
/// member told of. What the destination does wrong is marked as [`AtDestination`].
pub async fn copy(
    pod: &Pod,
    credentials: &Credentials,
    destination: &Destination,
    path: &str,
) -> Result<BackupTold> {
    let mut backup = begin(pod, credentials).await?;
    let mut upload = destination.create(path).context(AtDestination)?;
    let told = match through(&mut backup, &mut upload).await {
        Ok(told) => told,
        Err(error) => {
            upload.abandon().await;
            return Err(error);
        }
    };
    upload.finish().await.context(AtDestination)?;
    let stored = sum(destination, path).await;
    let (bytes, sha256) = stored.context(AtDestination)?;
    if (bytes, sha256.as_str()) != (told.bytes, told.sha256.as_str()) {
        return Err(anyhow!(
            "what was read back is not what was written: {bytes} of {} bytes, SHA-256 {sha256}",
            told.bytes
        ));
    }
    Ok(told)
}

/// Passes all bytes on. What arrived must be what the member told of.
async fn through(backup: &mut Backup, upload: &mut Upload) -> Result<BackupTold> {
    let mut sum = Sha256::new();
    let mut bytes: u64 = 0;
    while let Some(part) = backup.chunk().await? {
        sum.update(&part);
        bytes += part.len() as u64;
        upload.write(part).await.context(AtDestination)?;
    }
    let told = backup.told().cloned().unwrap_or_default();
    let sha256 = hex(&sum.finalize());
    if (bytes, &sha256) != (told.bytes, &told.sha256) {
        return Err(anyhow!(
            "{bytes} bytes arrived that are not what the member told of"
        ));
    }
    Ok(told)
}

/// Length and SHA-256 of a stored file.
pub async fn sum(destination: &Destination, path: &str) -> Result<(u64, String)> {
    let mut file = destination.read(path).await?;
    let mut sum = Sha256::new();
    let mut bytes: u64 = 0;
    let mut part = vec![0; PART];
    loop {
        let read = file.read(&mut part).await;
        let read = read.with_context(|| format!("read back {path}"))?;
        if read == 0 {
            return Ok((bytes, hex(&sum.finalize())));
        }
        sum.update(part.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
}

/// Begins to read, again and again while the member gives a backup to somebody else.
async fn begin(pod: &Pod, credentials: &Credentials) -> Result<Backup> {
    let mut left = TIMES;
    loop {
        let client = connect(pod, credentials).await?;
        match client.backup().await {
            Ok(backup) if Some(backup.pod_uid()) == pod.metadata.uid.as_deref() => {
                return Ok(backup);
            }
            Ok(_) => return Err(anyhow!("its address belongs to another pod")),
            Err(busy) if busy.is("overloaded") && left > 0 => {
                left -= 1;
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Connects to the admin listener of the member in a pod.
pub async fn connect(pod: &Pod, credentials: &Credentials) -> Result<Client> {
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref());
    let ip: IpAddr = ip
        .unwrap_or_default()
        .parse()
        .context("the pod has no address")?;
    let address = SocketAddr::new(ip, admin_port(pod).unwrap_or(names::ADMIN_PORT));
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        let name = credentials.server_name.clone();
        let connector = TlsConnector::from(Arc::clone(&credentials.client));
        connector.connect(name, stream).await
    };
    let stream = tokio::time::timeout(PATIENCE, connect).await;
    let stream = stream
        .map_err(|_| anyhow!("no answer (does a NetworkPolicy keep Jobs out?)"))
        .and_then(|connected| connected.map_err(anyhow::Error::from))
        .with_context(|| format!("connect to its admin port {address}"))?;
    let host = credentials.server_name.to_str();
    let client = Client::over(stream, &host).await?;
    Ok(client.timeout(PATIENCE).patience(Duration::ZERO))
}
