//! Terms of leadership: what the leader runs, from the moment that it leads until it does so no more.
//!
//! A term's tasks never end by themselves. One that does has failed in a way that nobody foresaw, and a replica that holds the
//! Lease and does nothing is worse than one that is gone: it exits, and another takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codexstore_crds::jobs::JobConfig;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::args::RunArgs;
use crate::controller::{self, Shared, events::Events, members::Poller};
use crate::leader::{Election, grace};
use crate::metrics::Metrics;
use crate::run::VERSION;

/// What a term of leadership needs.
pub struct Term {
    /// The command line.
    pub args: RunArgs,
    /// The cluster.
    pub client: Client,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// Name of this replica.
    pub identity: String,
}

/// What runs during one term.
pub struct Running {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    shared: Arc<Shared>,
}

impl Term {
    fn shared(&self) -> Arc<Shared> {
        Arc::new(Shared::new(
            self.client.clone(),
            Arc::clone(&self.metrics),
            Events::new(self.client.clone(), self.identity.clone()),
            Poller::new(self.args.member_concurrency, self.args.member_timeout),
            self.args.keyring_poll,
            VERSION.to_owned(),
            JobConfig {
                image: self.args.job_image.clone(),
                image_pull_policy: self
                    .args
                    .job_image_pull_policy
                    .clone()
                    .and_then(|policy| policy.0),
                cluster_role: self.args.job_cluster_role.clone(),
            },
        ))
    }

    /// Starts the controllers of one term.
    pub fn start(&self) -> Running {
        let mut running = Running {
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            shared: self.shared(),
        };
        for namespace in self.args.scopes() {
            running.tasks.spawn(controller::backups::run(
                Arc::clone(&running.shared),
                namespace.clone(),
                self.args.concurrency,
                running.stop.clone(),
            ));
            running.tasks.spawn(controller::restores::run(
                Arc::clone(&running.shared),
                namespace.clone(),
                self.args.concurrency,
                running.stop.clone(),
            ));
            running.tasks.spawn(controller::run(
                Arc::clone(&running.shared),
                namespace,
                self.args.concurrency,
                running.stop.clone(),
            ));
        }
        running
    }
}

impl Running {
    /// Ends all tasks, by force after `grace`.
    async fn end(mut self, grace: Duration) {
        self.stop.cancel();
        let finish = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, finish).await.is_err() {
            error!("reconciling did not end in time");
            self.tasks.shutdown().await;
        }
        self.shared.leave();
    }
}

/// Waits for a task of the term to end, which none should; for ever when there is no term.
async fn failed(running: &mut Option<Running>) -> anyhow::Error {
    if let Some(running) = running
        && let Some(ended) = running.tasks.join_next().await
    {
        return match ended {
            Ok(()) => anyhow::anyhow!("a controller ended by itself"),
            Err(why) => anyhow::Error::new(why).context("a controller failed"),
        };
    }
    std::future::pending().await
}

/// Reconciles while this replica leads, until `stop`; returns when nothing runs any more and the Lease is given back. An error
/// says that a task of a term ended by itself.
pub async fn lead(
    term: &Term,
    start: impl Fn() -> Running,
    stop: CancellationToken,
    stopping: &AtomicBool,
) -> anyhow::Result<()> {
    let (sender, mut leading) = watch::channel(term.args.no_leader_election);
    let campaign = CancellationToken::new();
    // Without an election nothing ever changes: the sender lives until the end.
    let mut keep = None;
    let election = if term.args.no_leader_election {
        keep = Some(sender);
        None
    } else {
        let election = Election {
            api: Api::<Lease>::namespaced(term.client.clone(), &term.args.namespace),
            name: term.args.lease.clone(),
            identity: term.identity.clone(),
            duration: term.args.lease_duration,
        };
        Some(tokio::spawn(election.run(sender, campaign.clone())))
    };
    let mut running: Option<Running> = None;
    let outcome = loop {
        let leads = *leading.borrow_and_update();
        term.metrics.is_leader.set(leads.into());
        match (&running, leads) {
            (None, true) => running = Some(start()),
            (Some(_), false) => {
                // Another replica may start any moment: what runs here ends now, half-way if need be. Each step can be repeated.
                if let Some(running) = running.take() {
                    running.end(grace(term.args.lease_duration)).await;
                }
            }
            _ => {}
        }
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            why = failed(&mut running) => break Err(why),
            changed = leading.changed() => if changed.is_err() {
                break Err(anyhow::anyhow!("the election ended by itself"));
            },
        }
    };
    stopping.store(true, Ordering::Relaxed);
    if let Some(running) = running.take() {
        // Losing the Lease meanwhile ends what still runs: dropping it aborts it.
        tokio::select! {
            () = running.end(term.args.shutdown_timeout) => {}
            Ok(_) = leading.wait_for(|leads| !*leads) => {}
        }
    }
    drop(keep);
    term.metrics.is_leader.set(0);
    campaign.cancel();
    if let Some(election) = election {
        // It releases the Lease, so that another replica need not wait for it to run out.
        let _ = election.await;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::controller::fake_api::FakeApi;
    use crate::controller::fixtures::store;
    use crate::controller::reconcile::{Found, reconcile};
    use clap::Parser as _;

    const STORE: &str = "/apis/codexstore.dev/v1alpha1/namespaces/shop/codexstores/orders";
    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/codexstore-operator";

    fn term(api: &FakeApi) -> Arc<Term> {
        let line = "codexstore-operator run --sidecar-image i:1 --namespace ns --lease-duration 3s";
        let Command::Run(args) = Cli::try_parse_from(line.split(' ')).unwrap().command;
        Arc::new(Term {
            args: *args,
            client: api.client.clone(),
            metrics: Arc::default(),
            identity: "one".into(),
        })
    }

    /// A term in which the only task does this.
    fn running(term: &Term, task: impl Future<Output = ()> + Send + 'static) -> Running {
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        Running {
            tasks,
            stop: CancellationToken::new(),
            shared: term.shared(),
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_or_ends_makes_the_replica_give_up_the_lease_and_exit() {
        for panics in [true, false] {
            let api = FakeApi::start().await;
            let term = term(&api);
            let start = || running(&term, async move { assert!(!panics, "as a test") });
            let stopping = AtomicBool::new(false);
            let led = lead(&term, start, CancellationToken::new(), &stopping);
            let led = tokio::time::timeout(Duration::from_secs(5), led).await;
            led.unwrap().unwrap_err();
            assert!(stopping.load(Ordering::Relaxed));
            assert_eq!(api.get(LEASE).unwrap()["spec"]["holderIdentity"], "");
        }
    }

    #[tokio::test]
    async fn what_a_replica_saw_of_stores_is_not_shown_after_its_term() {
        let api = FakeApi::start().await;
        api.put(STORE, &store());
        let term = term(&api);
        let certificate = crate::metrics::CertificateLabels {
            certificate: "webhook".into(),
            namespace: String::new(),
            store: String::new(),
        };
        term.metrics
            .certificate_expiry
            .get_or_create(&certificate)
            .set(7);
        let stop = CancellationToken::new();
        let led = tokio::spawn({
            let (term, stop) = (Arc::clone(&term), stop.clone());
            async move {
                let start = || {
                    let mut running = running(&term, std::future::pending());
                    let shared = Arc::clone(&running.shared);
                    running.tasks.spawn(async move {
                        // It shows what it saw before it writes the status, which may fail already.
                        let _ = reconcile(&shared, &store(), Found::default()).await;
                        std::future::pending::<()>().await;
                    });
                    running
                };
                lead(&term, start, stop, &AtomicBool::new(false)).await
            }
        });
        let shown = async |wanted: bool| {
            for _ in 0..500 {
                if term.metrics.text().contains("orders") == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            unreachable!("waited for {wanted}: {}", term.metrics.text());
        };
        shown(true).await;
        api.fail_all();
        shown(false).await;
        assert!(term.metrics.text().contains("certificate=\"webhook\""));
        stop.cancel();
        led.await.unwrap().unwrap();
    }
}
