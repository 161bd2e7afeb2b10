//! Puts the parts together: what every replica does, what the leader does, and the order in which both end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use codexstore_crds::InjectConfig;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::args::RunArgs;
use crate::metrics::Metrics;
use crate::serve::{Answer, bind, serve};
use crate::term::{Term, lead};
use crate::webhook::identity::{Keeper, Source, names};
use crate::webhook::lookup::Lookup;
use crate::webhook::review::Reviewer;
use crate::webhook::server::{handle, text};
use crate::webhook::tls::{Current, server_config};

/// The operator's version: noted on pods, so that pods of an older one are seen as outdated.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long the webhook goes on after the order to stop: until every node knows that reviews go to another replica now.
/// A review that finds nobody would refuse somebody's pod.
const DRAIN: Duration = Duration::from_secs(4);

/// Time for the API server to answer at the start.
const START: Duration = Duration::from_secs(30);

/// Runs the operator until it is told to stop.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let stop = on_signals()?;
    let config = kube::Config::infer()
        .await
        .context("find the cluster: no KUBECONFIG, and not in a pod")?;
    let client = Client::try_from(config).context("use the cluster's configuration")?;
    let version = tokio::time::timeout(START, client.apiserver_version())
        .await
        .context("the API server did not answer in time")?
        .context("ask the API server for its version")?;
    info!(
        version = VERSION,
        kubernetes = version.git_version,
        "started"
    );
    too_old(&version.major, &version.minor)?;

    let metrics = Arc::new(Metrics::default());
    let identity = args.pod_name.clone().unwrap_or_else(host_name);
    let ready = Arc::new(Ready {
        webhook: (!args.no_webhook).then(Arc::default),
        stopping: AtomicBool::new(false),
    });
    let servers = TaskTracker::new();
    let background = CancellationToken::new();

    start_http(&args, &metrics, &ready, &servers, &background).await?;
    if let Some(current) = &ready.webhook {
        start_webhook(&args, &client, &metrics, current, &servers, &background).await?;
    }
    let term = Term {
        args: args.clone(),
        client: client.clone(),
        metrics: Arc::clone(&metrics),
        identity: identity.clone(),
    };
    // Reviews go on for a while also after a failure: this replica is ready no more, and another is asked soon.
    let led = lead(&term, || term.start(), stop, &ready.stopping).await;

    if ready.webhook.is_some() {
        tokio::time::sleep(DRAIN).await;
    }
    background.cancel();
    servers.close();
    if tokio::time::timeout(args.shutdown_timeout, servers.wait())
        .await
        .is_err()
    {
        error!("not everything ended in time");
    }
    info!("stopped");
    led
}

/// Native sidecars came with 1.29; on an older server a sidecar would be a container that never ends.
fn too_old(major: &str, minor: &str) -> anyhow::Result<()> {
    let number = |text: &str| {
        text.trim_end_matches(|c: char| !c.is_ascii_digit())
            .parse::<u32>()
            .ok()
    };
    if let (Some(major), Some(minor)) = (number(major), number(minor))
        && (major, minor) < (1, 29)
    {
        anyhow::bail!(
            "Kubernetes {major}.{minor} has no native sidecars: CodexStore needs 1.29 or later"
        );
    }
    Ok(())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => format!("codexstore-operator-{}", std::process::id()),
        name => name.to_owned(),
    }
}

/// A token that SIGTERM and SIGINT cancel.
fn on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        info!("stopping");
        token.cancel();
    });
    Ok(stop)
}

/// What readiness depends on.
struct Ready {
    /// The webhook's certificate; `None` without a webhook.
    webhook: Option<Arc<Current>>,
    stopping: AtomicBool,
}

async fn start_http(
    args: &RunArgs,
    metrics: &Arc<Metrics>,
    ready: &Arc<Ready>,
    servers: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = listen(args.http_addr).await?;
    let (metrics, ready) = (Arc::clone(metrics), Arc::clone(ready));
    let handler = move |request: Request<Incoming>| {
        let answer = plain(&request, &metrics, &ready);
        async move { answer }
    };
    servers.spawn(serve(
        listener,
        None,
        handler,
        stop.clone(),
        args.shutdown_timeout,
    ));
    Ok(())
}

fn plain(request: &Request<Incoming>, metrics: &Metrics, ready: &Ready) -> Answer {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok"),
        "/readyz" => {
            if ready.stopping.load(Ordering::Relaxed) {
                text(StatusCode::SERVICE_UNAVAILABLE, "stopping")
            } else if ready.webhook.as_ref().is_some_and(|w| !w.loaded()) {
                text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the webhook has no certificate yet",
                )
            } else {
                text(StatusCode::OK, "ok")
            }
        }
        "/metrics" => {
            let mut answer = text(StatusCode::OK, metrics.text().trim_end());
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            answer
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            answer
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "the paths are /healthz, /readyz and /metrics",
        ),
    }
}

async fn start_webhook(
    args: &RunArgs,
    client: &Client,
    metrics: &Arc<Metrics>,
    current: &Arc<Current>,
    servers: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = listen(args.webhook_addr).await?;
    let tls = server_config(Arc::clone(current)).context("set up TLS")?;
    let source = match &args.cert_dir {
        Some(dir) => Source::Directory(dir.clone()),
        None => Source::Secret {
            name: args.webhook_secret.clone(),
            sans: names(
                &args.webhook_service,
                &args.namespace,
                &args.webhook_dns_names,
            ),
        },
    };
    let keeper = Keeper {
        client: client.clone(),
        namespace: args.namespace.clone(),
        config: args.webhook_config.clone(),
        source,
        current: Arc::clone(current),
        metrics: Arc::clone(metrics),
    };
    servers.spawn(keeper.run(stop.clone()));
    let scopes: Option<Vec<String>> = args.scopes().into_iter().collect();
    let reviewer = Reviewer {
        lookup: Lookup::new(client.clone(), args.keyring_wait),
        inject: Arc::new(InjectConfig {
            sidecar_image: args.sidecar_image.clone(),
            image_pull_policy: args.sidecar_image_pull_policy.clone().and_then(|p| p.0),
            operator_version: VERSION.to_owned(),
        }),
        namespaces: scopes.map(Arc::from),
        metrics: Arc::clone(metrics),
    };
    let handler = move |request| handle(reviewer.clone(), request);
    let tls = Some(TlsAcceptor::from(tls));
    servers.spawn(serve(
        listener,
        tls,
        handler,
        stop.clone(),
        args.shutdown_timeout,
    ));
    info!(address = %args.webhook_addr, "webhook listens");
    Ok(())
}

async fn listen(addr: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    bind(addr)
        .await
        .with_context(|| format!("listen on {addr}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_without_native_sidecars_are_refused() {
        assert!(too_old("1", "28").is_err());
        assert!(too_old("1", "28+").is_err());
        assert!(too_old("1", "29").is_ok());
        assert!(too_old("1", "33-gke").is_ok());
        assert!(too_old("2", "0").is_ok());
        assert!(too_old("", "").is_ok());
    }
}
