//! The admin listener: who may talk to it.

use std::net::SocketAddr;
use std::sync::Arc;

use codexstore_api::Client;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::harness::{Place, Sidecar, free, runtime};

pub type Ca = CertifiedIssuer<'static, KeyPair>;
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(ca: &Ca, dns: &str, role: Option<&str>) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec![dns.to_string()]).unwrap();
    if let Some(role) = role {
        let uri = format!("codexstore://role/{role}");
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
    }
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, ca).unwrap(), key)
}

pub fn identity(ca: &Ca, role: &str) -> Identity {
    let (certificate, key) = leaf(ca, "client", Some(role));
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    (vec![certificate.der().clone()], key)
}

/// Writes the server's files.
pub fn install(place: &Place, server: &Ca, clients: &Ca) {
    let dir = place.path("tls");
    std::fs::create_dir_all(&dir).unwrap();
    let (certificate, key) = leaf(server, "uid-1.codexstore", None);
    std::fs::write(dir.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
    std::fs::write(dir.join("ca.crt"), clients.pem()).unwrap();
}

pub fn start(place: &Place) -> (Sidecar, SocketAddr) {
    let (s, address) = spawn(place);
    s.until("it is ready", |s| s.get("/readyz").status == 200);
    (s, address)
}

/// A sidecar that has an admin listener, whether its store opens or not.
pub fn spawn(place: &Place) -> (Sidecar, SocketAddr) {
    spawn_with(place, &[])
}

/// The same with more flags.
pub fn spawn_with(place: &Place, flags: &[&str]) -> (Sidecar, SocketAddr) {
    let address = free();
    let tls = place.path("tls");
    let address_text = address.to_string();
    let mut args = vec!["--admin-listen", &address_text, "--pod-uid", "u-1"];
    args.extend(["--tls-dir", tls.to_str().unwrap()]);
    args.extend(flags);
    let s = place.start(&args);
    s.until("the admin listener is bound", |_| {
        std::net::TcpStream::connect(address).is_ok()
    });
    (s, address)
}

pub async fn connect(
    address: SocketAddr,
    ca: &Ca,
    identity: Option<Identity>,
    version: &'static SupportedProtocolVersion,
) -> Result<Client, String> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let name = ServerName::try_from("uid-1.codexstore").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|e| e.to_string())?;
    let client = Client::over(stream, "uid-1.codexstore")
        .await
        .map_err(|e| e.to_string())?;
    Ok(client.patience(std::time::Duration::ZERO))
}

/// In TLS 1.3 a client learns that it was refused with its first read.
async fn refused(client: Result<Client, String>) {
    if let Ok(client) = client {
        assert!(client.status().await.unwrap_err().is("unreachable"));
    }
}

pub const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

#[test]
fn the_operator_reads_the_status_and_nobody_else_does() {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    let (s, address) = start(&place);
    s.put("k", b"value");
    runtime().block_on(async {
        let operator = connect(address, &ca, Some(identity(&ca, "operator")), TLS13)
            .await
            .unwrap();
        let status = operator.status().await.unwrap();
        assert_eq!((status.pod_uid.as_str(), status.keys), ("u-1", 1));
        operator.health().await.unwrap();
        // The listener has no data verbs.
        let error = operator.ready().await.unwrap_err();
        assert!(error.is("no-such-route"), "{error}");
        assert!(
            operator
                .list(&codexstore_api::bodies::ListQuery::default())
                .await
                .unwrap_err()
                .is("no-such-route")
        );

        let backup = connect(address, &ca, Some(identity(&ca, "backup")), TLS13)
            .await
            .unwrap();
        assert!(backup.status().await.unwrap_err().is("denied"));
        let unknown = connect(address, &ca, Some(identity(&ca, "root")), TLS13)
            .await
            .unwrap();
        assert!(unknown.status().await.unwrap_err().is("denied"));
        assert!(unknown.health().await.unwrap_err().is("denied"));

        refused(connect(address, &ca, None, TLS13).await).await;
        let foreign = self::ca();
        refused(connect(address, &ca, Some(identity(&foreign, "operator")), TLS13).await).await;
    });
    served(&s);
}

#[test]
fn strangers_cost_few_connections_and_do_not_displace_the_operator() {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    let (s, address) = start(&place);
    runtime().block_on(async {
        let operator = connect(address, &ca, Some(identity(&ca, "operator")), TLS13)
            .await
            .unwrap();
        operator.status().await.unwrap();
        // Silent ones, and ones that begin a record and leave it there.
        let mut strangers: Vec<std::net::TcpStream> = (0..64)
            .map(|n| {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                if n % 2 == 0 {
                    std::io::Write::write_all(&mut stream, &[22, 3, 1, 0, 200]).unwrap();
                }
                stream.set_nonblocking(true).unwrap();
                stream
            })
            .collect();
        // Well within the time that a handshake may take.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3);
        loop {
            strangers.retain_mut(|stream| {
                let read = std::io::Read::read(stream, &mut [0; 16]);
                matches!(read, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
            });
            if strangers.len() <= 8 {
                break;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{} strangers are still there",
                strangers.len()
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        operator.status().await.expect("its connection is kept");
        // All places for handshakes are taken by silence, and yet one who speaks gets in.
        let second = connect(address, &ca, Some(identity(&ca, "operator")), TLS13)
            .await
            .unwrap();
        second.status().await.unwrap();
    });
    served(&s);
}

fn served(s: &Sidecar) {
    assert_eq!(s.get("/v1/status").status, 200);
}

#[test]
fn only_tls_1_3_is_spoken() {
    let place = Place::new();
    let ca = ca();
    install(&place, &ca, &ca);
    let (s, address) = start(&place);
    // A client hello of TLS 1.2, as it is on the wire: the client library here has no TLS 1.2.
    let mut hello = vec![3, 3];
    hello.extend_from_slice(&[7; 32]); // random
    hello.push(0); // session
    hello.extend_from_slice(&[0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // ECDHE with AES-128-GCM
    hello.extend_from_slice(&[1, 0]); // no compression
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // groups: P-256
        0, 11, 0, 2, 1, 0, // point formats
        0, 13, 0, 6, 0, 4, 4, 3, 8, 4, // signatures
        0, 23, 0, 0, // extended master secret
    ];
    hello.extend_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
    hello.extend_from_slice(extensions);
    let length = u32::try_from(hello.len()).unwrap().to_be_bytes();
    let mut message = vec![1, length[1], length[2], length[3]];
    message.extend_from_slice(&hello);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend_from_slice(&message);
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut stream, &record).unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).unwrap();
    // An alert record: fatal, protocol_version (70).
    assert_eq!((answer[0], answer[5], answer[6]), (21, 2, 70), "{answer:?}");
    served(&s);
}

#[test]
fn certificates_are_reloaded_live_and_absent_ones_are_waited_for() {
    let place = Place::new();
    let (s, address) = start(&place);
    let (first, second) = (ca(), ca());
    let works = |server: &Ca, clients: &Ca| {
        runtime().block_on(async {
            match connect(address, server, Some(identity(clients, "operator")), TLS13).await {
                Ok(client) => client.status().await.is_ok(),
                Err(_) => false,
            }
        })
    };
    assert!(!works(&first, &first));
    served(&s);
    install(&place, &first, &first);
    s.until("the certificates are loaded", |_| works(&first, &first));
    std::fs::write(place.path("tls/tls.crt"), "broken").unwrap();
    s.until("the log says so", |s| s.log().contains("cannot be loaded"));
    assert!(works(&first, &first), "the old ones stay");
    install(&place, &second, &second);
    s.until("the new ones are loaded", |_| works(&second, &second));
    assert!(!works(&second, &first), "the old CA is no longer trusted");
}
