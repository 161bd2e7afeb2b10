//! A backup as it is streamed out of a sidecar over mutual TLS, checked, and restored into another one: how fast, and in how much memory.
//!
//! Memory is what is anonymous (`RssAnon`): the most of it meanwhile, beside what there was before.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use codexstore_api::Client;
use codexstore_api::client::RestoreInto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::mpsc;

use crate::load;
use crate::results::Row;
use crate::server::{Server, anonymous};
use crate::{command, data, limit, mib, ready};

const VALUE: usize = 16 << 10;

/// Values in a GiB.
const GIB: usize = (1 << 30) / VALUE;

/// How long nothing is asked before memory is looked at: the store folds what was written.
const SETTLE: Duration = Duration::from_secs(5);

/// Between two looks at memory.
const LOOK: Duration = Duration::from_millis(2);

/// Bytes of a restore that are sent at a time, as its Job does.
const PART: usize = 256 << 10;

const POD_UID: &str = "bench";

const NAME: &str = "bench.codexstore";

/// The rows: of a store of one GiB its restore, of one of two GiB its backup.
pub fn rows(program: &Path, dir: &Path) -> Result<Vec<Row>> {
    let dir = dir.join("streams");
    let tls = Tls::new(&dir.join("tls"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (from, at) = tls.member(program, &dir.join("from"), false)?;
    let file = dir.join("backup");
    fill(&from.socket, 0..GIB)?;
    runtime.block_on(tls.backup(at, &file))?;

    let begin = Instant::now();
    let (into, address) = tls.member(program, &dir.join("into"), true)?;
    runtime.block_on(tls.restore(address, &file))?;
    while !ready(program, &into.socket) {
        thread::sleep(Duration::from_millis(1));
    }
    let took = begin.elapsed().as_secs_f64();
    let mut rows = vec![limit("sidecar.restore.1g", "s", took, 20.0)];
    drop(into);

    fill(&from.socket, GIB..2 * GIB)?;
    thread::sleep(SETTLE);
    let begin = Instant::now();
    let process = from.process();
    let (done, extra) = most_beside(&process, || runtime.block_on(tls.backup(at, &file)))?;
    done?;
    let took = begin.elapsed().as_secs_f64();
    let speed = fs::metadata(&file)?.len() as f64 / 1e6 / took;
    rows.push(limit("sidecar.backup.2g", "MB/s", speed, 150.0));
    rows.push(limit("sidecar.memory.backup.2g", "MiB", mib(extra), 64.0));
    drop(from);

    let codexctl = match std::env::var_os("CODEXCTL") {
        Some(path) => PathBuf::from(path),
        None => program.with_file_name("codexctl"),
    };
    if codexctl.exists() {
        let keyring = dir.join("from/keyring");
        let extra = verify(&codexctl, &file, &keyring)?;
        rows.push(limit("codexctl.memory.verify.2g", "MiB", mib(extra), 64.0));
    } else {
        println!("    {} is not there: not measured", codexctl.display());
    }
    fs::remove_dir_all(&dir)?;
    Ok(rows)
}

/// Sets keys with these numbers.
fn fill(socket: &Path, numbers: std::ops::Range<usize>) -> Result<()> {
    let mut value = vec![0; VALUE];
    load::run(socket, 32, numbers.len(), "20", |number, buffer| {
        let number = numbers.start + number;
        data::fill(number as u64, &mut value);
        let head = format!(
            "PUT /v1/keys/key:{number:012} HTTP/1.1\r\nhost: b\r\ncontent-length: {VALUE}\r\n\r\n"
        );
        buffer.extend_from_slice(head.as_bytes());
        buffer.extend_from_slice(&value);
    })?;
    Ok(())
}

/// Does something, and says how much more memory than before a process had meanwhile.
fn most_beside<T>(process: &str, act: impl FnOnce() -> T) -> Result<(T, u64)> {
    let before = anonymous(process)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut most = before;
            while !stop.load(Ordering::Relaxed) {
                most = anonymous(process).map_or(most, |now| most.max(now));
                thread::sleep(LOOK);
            }
            most
        });
        let done = act();
        stop.store(true, Ordering::Relaxed);
        let most = looks.join().map_err(|_| anyhow!("a thread panicked"))?;
        Ok((done, most - before))
    })
}

/// The memory that `codexctl` takes to open all of a backup with its keys, as a Job that verifies does.
fn verify(codexctl: &Path, file: &Path, keyring: &Path) -> Result<u64> {
    let mut command = Command::new(codexctl);
    command
        .args(["backup", "verify"])
        .arg(file)
        .arg("--keyring")
        .arg(keyring);
    let mut child = command
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", codexctl.display()))?;
    let process = child.id().to_string();
    let mut most = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        most = anonymous(&process).map_or(most, |now| most.max(now));
        thread::sleep(LOOK);
    };
    ensure!(status.success(), "codexctl backup verify: {status}");
    Ok(most)
}

/// An authority, and what members and Jobs have of it.
struct Tls {
    dir: PathBuf,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Tls {
    fn new(dir: &Path) -> Result<Tls> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::create_dir_all(dir)?;
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &ca)?;
        fs::write(dir.join("tls.crt"), leaf.pem())?;
        fs::write(dir.join("tls.key"), key.serialize_pem())?;
        fs::write(dir.join("ca.crt"), ca.pem())?;
        Ok(Tls {
            dir: dir.to_owned(),
            ca,
        })
    }

    /// A sidecar with an admin listener, and where that is. One that waits for a restore serves nothing else yet.
    fn member(&self, program: &Path, dir: &Path, waits: bool) -> Result<(Server, SocketAddr)> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (listen, tls) = (address.to_string(), self.dir.to_string_lossy());
        let mut flags = vec![
            "--admin-listen",
            &listen,
            "--pod-uid",
            POD_UID,
            "--tls-dir",
            &tls,
        ];
        if waits {
            flags.push("--await-restore");
        }
        let (command, socket) = command(program, dir, &flags)?;
        let listens = || std::net::TcpStream::connect(address).is_ok();
        let server = Server::start(command, socket, |socket| {
            listens() && (waits || ready(program, socket))
        })?;
        Ok((server, address))
    }

    /// A client with a role.
    async fn client(&self, address: SocketAddr, role: &str) -> Result<Client> {
        let mut params = CertificateParams::new(vec!["client".to_owned()])?;
        let uri = format!("codexstore://role/{role}");
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.ca)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![leaf.der().clone()], key)?;
        let stream = tokio::net::TcpStream::connect(address).await?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(NAME)?, stream)
            .await?;
        Ok(Client::over(stream, NAME).await?)
    }

    /// Reads a member's backup into a file, which is on disk in the end.
    async fn backup(&self, address: SocketAddr, file: &Path) -> Result<()> {
        let client = self.client(address, "backup").await?;
        let mut backup = client.backup().await?;
        let mut out = File::create(file)?;
        let mut bytes = 0;
        while let Some(part) = backup.chunk().await? {
            out.write_all(&part)?;
            bytes += part.len() as u64;
        }
        let told = backup.told().context("the member told nothing of it")?;
        ensure!(told.bytes == bytes, "{bytes} of {} bytes", told.bytes);
        Ok(out.sync_all()?)
    }

    /// Sends a file to a member that waits for it.
    async fn restore(&self, address: SocketAddr, file: &Path) -> Result<()> {
        let client = self.client(address, "restore").await?;
        let (parts, body) = mpsc::channel(2);
        let mut file = File::open(file)?;
        let sending = tokio::task::spawn_blocking(move || -> Result<()> {
            loop {
                let mut part = vec![0; PART];
                let read = file.read(&mut part)?;
                part.truncate(read);
                if read == 0 || parts.blocking_send(Ok(Bytes::from(part))).is_err() {
                    return Ok(());
                }
            }
        });
        let into = RestoreInto {
            pod_uid: POD_UID,
            if_empty: true,
            pieces: None,
            longest: Duration::from_mins(5),
        };
        let told = client.restore(&into, body).await?;
        sending.await??;
        ensure!(told.entries == GIB as u64, "{told:?}");
        Ok(())
    }
}
