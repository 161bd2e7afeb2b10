//! `run`: the life of the sidecar, from its flags to a clean end.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{self, Certificates};
use crate::engine::local::Local;
use crate::engine::owner::Owner;
use crate::engine::restore::{Order, Restorer};
use crate::flags::RunFlags;
use crate::grpc::Grpc;
use crate::http::{App, SCANS};
use crate::log;
use crate::redis::{self, Redis};
use crate::scrape;
use crate::serve::connections::Connections;
use crate::serve::{self, socket};
use crate::settings::{Keys, Settings};
use crate::trace::export;

/// Stack of the threads that scan, parse and encode.
const STACK: usize = 512 << 10;

/// Why `run` did not come to a clean end.
pub enum Failed {
    /// The flags are wrong; there is no log yet.
    Flags(anyhow::Error),
    /// Something else, which the log says.
    Run,
}

impl Failed {
    fn logged(error: &anyhow::Error) -> Failed {
        tracing::error!(
            error = format!("{error:#}"),
            "codexstore-sidecar cannot go on"
        );
        Failed::Run
    }
}

/// Runs until SIGTERM or SIGINT.
pub fn run(flags: RunFlags) -> Result<(), Failed> {
    let settings = Arc::new(Settings::from_flags(flags).map_err(Failed::Flags)?);
    log::start(&settings.log_level, settings.log_format).map_err(Failed::Flags)?;
    greet(&settings);
    conceal();
    // The umask is the process's: before there are threads.
    let sockets = Sockets::listen(&settings).map_err(|e| Failed::logged(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(SCANS + 3)
        .thread_keep_alive(Duration::from_secs(5))
        .thread_stack_size(STACK)
        .build()
        .context("start the runtime")
        .map_err(|e| Failed::logged(&e))?;
    let result = runtime.block_on(serve(&settings, sockets));
    // A thread that hangs in the disk must not hold up the end.
    runtime.shutdown_background();
    result.map_err(|e| Failed::logged(&e))
}

/// The sockets, and their files.
struct Sockets {
    http: (std::os::unix::net::UnixListener, socket::SocketFile),
    redis: Option<(std::os::unix::net::UnixListener, socket::SocketFile)>,
}

impl Sockets {
    fn listen(settings: &Settings) -> Result<Sockets> {
        let listen = |path: &Path| socket::listen(path, settings.socket_mode);
        Ok(Sockets {
            http: listen(&settings.socket)?,
            redis: settings.redis_socket.as_deref().map(listen).transpose()?,
        })
    }
}

async fn serve(settings: &Arc<Settings>, sockets: Sockets) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (listener, file) = sockets.http;
    let listener = UnixListener::from_std(listener)?;
    let local = Arc::new(Local::default());
    let all = Connections::new(settings.limits.max_connections);
    let spans = settings.tracing.as_ref();
    let spans = spans.map(|to| export::start(to, &settings.identity));
    let (tracer, exporting) = spans.transpose()?.unzip();
    let app = App::new(Arc::clone(&local), settings, Arc::clone(&all), tracer);
    let app = Arc::new(app);
    let grpc = Arc::new(Grpc::new(&app)?);
    let accepting = serve::accept(listener, Arc::clone(&app), grpc, Arc::clone(&all));
    let accepting = tokio::spawn(accepting);
    let mut files = vec![file];
    if let Some((listener, file)) = sockets.redis {
        files.push(file);
        let listener = UnixListener::from_std(listener)?;
        let redis = Arc::new(Redis::new(Arc::clone(&app), settings));
        tokio::spawn(redis::accept(listener, redis, Arc::clone(&all)));
    }

    if let Some(address) = settings.metrics_listen {
        tokio::spawn(scrape::serve(address, Arc::clone(&app)));
    }
    let (orders, ordered) = channel();
    let certificates = settings.admin_listen.map(|address| {
        let certificates = Arc::new(Certificates::new(settings.tls_dir.clone()));
        let restorer = Restorer::new(Arc::clone(settings), orders.clone());
        let streams = admin::Streams::new(restorer);
        tokio::spawn(admin::serve(
            address,
            Arc::clone(&certificates),
            app,
            streams,
        ));
        certificates
    });
    let keeper = {
        let owner = Owner::new(Arc::clone(settings), Arc::clone(&local));
        std::thread::Builder::new()
            .name("owner".into())
            .spawn(move || keep(owner, certificates.as_deref(), &ordered))?
    };

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let deadline = Instant::now() + settings.shutdown;
    // Clients that hang must not use up the time that the store needs.
    let patience = Instant::now() + settings.shutdown * 3 / 4;
    tracing::info!("stopping");
    all.stop();
    drop(files);
    let _ = accepting.await;
    if tokio::time::timeout_at(patience.into(), all.empty())
        .await
        .is_err()
    {
        tracing::warn!("some requests were not answered in time");
    }
    // While the store is closed.
    let flushing = exporting.map(|exporting| tokio::spawn(exporting.stop(deadline)));
    // The thread that opens the store closes it, so that the two never overlap.
    let _ = orders.send(Order::Stop);
    // It has a thread of its own: the pool may be full of work that nobody waits for any more.
    let (done, closed) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("closer".into())
        .spawn(move || {
            let _ = keeper.join();
            Owner::close(&local);
            let _ = done.send(());
        })?;
    if tokio::time::timeout_at(deadline.into(), closed)
        .await
        .is_err()
    {
        tracing::warn!(
            "the store was not closed in time; its journal is replayed at the next start"
        );
    }
    if let Some(flushing) = flushing {
        let _ = flushing.await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// Keeps the store open and the files loaded until told to stop.
fn keep(mut owner: Owner, certificates: Option<&Certificates>, orders: &Receiver<Order>) {
    loop {
        if let Some(certificates) = certificates {
            certificates.look();
        }
        let pause = owner.step();
        match orders.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(order) => {
                if !owner.obey(order) {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Keeps others out of this process's memory and of what it can read. Where a pod's containers see
/// each other's processes, one with the same user could otherwise read the keyring through
/// `/proc/PID/root`, or trace this process; and a core dump would hold keys and values.
fn conceal() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "this process cannot be kept from being traced or dumped");
    }
}

/// One line that says what runs with which settings.
fn greet(settings: &Settings) {
    let keys = match &settings.keys {
        Keys::None => "none".to_string(),
        Keys::Dir(dir) => dir.display().to_string(),
        Keys::Passphrase(file) => format!("passphrase in {}", file.display()),
    };
    let who = &settings.identity;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        store = who.store,
        namespace = who.namespace,
        pod = who.pod,
        spec_hash = who.spec_hash,
        socket = %settings.socket.display(),
        redis_socket = settings.redis_socket.as_ref().map(|path| tracing::field::display(path.display())),
        socket_mode = format!("{:04o}", settings.socket_mode),
        access_rules = settings.access.rules(),
        data_dir = %settings.data_dir.display(),
        keyring = keys,
        key_bits = settings.key_size.bits(),
        strategy = settings.strategy.as_str(),
        durability = settings.durability.as_str(),
        compression = ?settings.compression,
        max_disk = settings.max_disk,
        max_memory = settings.max_memory,
        max_value = settings.limits.max_value,
        max_connections = settings.limits.max_connections,
        max_requests = settings.limits.max_requests,
        admin_listen = settings.admin_listen.map(tracing::field::display),
        metrics_listen = settings.metrics_listen.map(tracing::field::display),
        otlp_endpoint = settings.tracing.as_ref().map(|to| to.endpoint.as_str()),
        "codexstore-sidecar starts"
    );
    if matches!(settings.keys, Keys::None) {
        tracing::warn!("the data is not encrypted: anyone who can read the disk can read it");
    }
}
