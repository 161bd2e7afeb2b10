//! Reconciles CodexStore resources.
//!
//! In reading order: whose an object is ([`ownership`]), the keyring, certificates, claims and members of a store, its status
//! ([`report`]), one look at a store ([`reconcile`]), and here the watches that cause looks.
//!
//! **Secrets are read by name only**: never listed, never watched.

pub mod archive;
pub mod backups;
pub mod claims;
pub mod copies;
pub mod escrow;
pub mod events;
pub mod job_run;
pub mod kept;
pub mod key_needs;
pub mod keyring;
pub mod live;
pub mod members;
mod own_keyring;
pub mod ownership;
pub mod problem;
pub mod reconcile;
pub mod report;
pub mod restores;
pub mod rotation;
pub mod schedule;
pub mod tell;
pub mod tls;
pub mod told;

#[cfg(test)]
pub mod fake_api;
#[cfg(test)]
pub mod fake_member;
#[cfg(test)]
pub mod fixtures;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod stale;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use codexstore_crds::jobs::JobConfig;
use codexstore_crds::{CodexBackup, CodexKeyRotation, CodexRestore, CodexStore, names};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config, Controller, Error as ControllerError};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::metrics::{Metrics, StoreLabels};

/// Why a look failed. Always retried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what was asked.
    #[error("API server: {0}")]
    Kube(#[from] kube::Error),
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] crate::certs::Error),
    /// Certificates could not be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// The caches are not filled yet.
    #[error("the caches of {0} are not filled yet")]
    NotReady(&'static str),
}

/// What all looks share.
pub struct Shared {
    /// The cluster.
    pub client: Client,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// Where things are told.
    pub events: events::Events,
    /// Asks members.
    pub poller: members::Poller,
    /// How often a keyring is read.
    pub keyring_poll: Duration,
    /// The operator's version, as it is noted on pods.
    pub version: String,
    /// What Jobs run as.
    pub jobs: JobConfig,
    memory: Mutex<HashMap<(String, String), reconcile::Memory>>,
    failures: Mutex<HashMap<(String, String), u32>>,
}

impl Shared {
    /// For one term of leadership: nothing is remembered from an earlier one.
    pub fn new(
        client: Client,
        metrics: Arc<Metrics>,
        events: events::Events,
        poller: members::Poller,
        keyring_poll: Duration,
        version: String,
        jobs: JobConfig,
    ) -> Self {
        Self {
            client,
            metrics,
            events,
            poller,
            keyring_poll,
            version,
            jobs,
            memory: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// At the end of a term: what this replica last saw of stores is not shown any more. Another one sees them now, and an alert
    /// on what this one saw would never end.
    pub fn leave(&self) {
        let all: Vec<_> = self
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect();
        for (namespace, name) in all {
            self.forget(&namespace, &name);
        }
    }

    fn forget(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        self.metrics.forget(&StoreLabels {
            namespace: key.0,
            store: key.1,
        });
    }
}

/// A store that may not be readable: a malformed one must not stop the others.
type Guarded = DeserializeGuard<CodexStore>;

struct Scope {
    shared: Arc<Shared>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    backups: Store<CodexBackup>,
    restores: Store<CodexRestore>,
    rotations: Store<CodexKeyRotation>,
    stores: Store<Guarded>,
}

impl Scope {
    /// Other stores that take their keys from the same Secret of the user's.
    fn sharing(&self, store: &CodexStore) -> Vec<CodexStore> {
        let Some(secret) = store.spec.encryption.own_secret() else {
            return Vec::new();
        };
        let shares = |other: &CodexStore| {
            other.metadata.namespace == store.metadata.namespace
                && other.metadata.name != store.metadata.name
                && other.spec.encryption.own_secret() == Some(secret)
        };
        let all = self.stores.state();
        let good = all.iter().filter_map(|guarded| guarded.0.as_ref().ok());
        good.filter(|other| shares(other)).cloned().collect()
    }
}

/// Longest pause after repeated failures.
const MAX_BACKOFF: Duration = Duration::from_mins(5);
/// Time for the caches to fill.
const FILL: Duration = Duration::from_secs(30);

/// Reconciles one namespace, or all of them, until `stop`.
pub async fn run(
    shared: Arc<Shared>,
    namespace: Option<String>,
    concurrency: u16,
    stop: CancellationToken,
) {
    let client = &shared.client;
    let managed = format!("{}={}", MANAGED_BY, names::FIELD_MANAGER);
    let (pods, pod_stream) = cached::<Pod>(
        api(client, namespace.as_deref()),
        watcher::Config::default().labels(names::STORE_LABEL),
    );
    let (claims, claim_stream) = cached::<PersistentVolumeClaim>(
        api(client, namespace.as_deref()),
        watcher::Config::default().labels(&managed),
    );
    let all = watcher::Config::default;
    let (backups, backup_stream) = cached::<CodexBackup>(api(client, namespace.as_deref()), all());
    let (restores, restore_stream) =
        cached::<CodexRestore>(api(client, namespace.as_deref()), all());
    let (rotations, rotation_stream) =
        cached::<CodexKeyRotation>(api(client, namespace.as_deref()), all());
    let record_stream = watcher(
        api::<ConfigMap>(client, namespace.as_deref()),
        watcher::Config::default().labels(&managed),
    )
    .default_backoff()
    .touched_objects();
    let (stores, store_writer) = reflector::store();
    // Its own status updates must not bring it back at once.
    let changes = predicates::generation::<Guarded>;
    let store_stream = watcher(
        api::<Guarded>(client, namespace.as_deref()),
        watcher::Config::default(),
    )
    .default_backoff()
    .reflect(store_writer)
    .applied_objects()
    .predicate_filter(changes, kube::runtime::PredicateConfig::default());
    info!(namespace, "reconciling");
    let scope = Arc::new(Scope {
        shared: Arc::clone(&shared),
        pods,
        claims,
        backups,
        restores,
        rotations,
        stores: stores.clone(),
    });
    let config = Config::default()
        .debounce(Duration::from_millis(200))
        .concurrency(concurrency);
    Controller::for_stream(store_stream, stores)
        .with_config(config)
        .watches_stream(pod_stream, |pod: Pod| store_of(&pod))
        .watches_stream(claim_stream, |claim: PersistentVolumeClaim| {
            store_of(&claim)
        })
        .watches_stream(backup_stream, |backup: CodexBackup| {
            let store = &backup.spec.store_ref.name;
            Some(ObjectRef::new(store).within(&backup.namespace()?))
        })
        .watches_stream(restore_stream, |restore: CodexRestore| {
            let namespace = restore.namespace().unwrap_or_default();
            [&restore.spec.store_ref.name, restore.source()]
                .map(|store| ObjectRef::new(store).within(&namespace))
        })
        .watches_stream(rotation_stream, |rotation: CodexKeyRotation| {
            let store = &rotation.spec.store_ref.name;
            Some(ObjectRef::new(store).within(&rotation.namespace()?))
        })
        .watches_stream(record_stream, |record: ConfigMap| store_of(&record))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(look, failed, scope)
        .for_each(|result| {
            match result {
                Err(ControllerError::ObjectNotFound(gone)) => {
                    debug!(store = %gone, "store is gone");
                    shared.forget(gone.namespace.as_deref().unwrap_or_default(), &gone.name);
                }
                // Failures of a look are told where they happen.
                Ok(_) | Err(ControllerError::ReconcilerFailed(..)) => {}
                Err(error) => warn!(%error, "watch"),
            }
            std::future::ready(())
        })
        .await;
}

/// Watches objects, and keeps what was seen of them last.
fn cached<K>(
    api: Api<K>,
    config: watcher::Config,
) -> (Store<K>, impl Stream<Item = watcher::Result<K>>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, config)
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects();
    (store, stream)
}

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The store that an object carries the label of.
fn store_of<K: Resource>(object: &K) -> Option<ObjectRef<Guarded>> {
    let name = object.labels().get(names::STORE_LABEL)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

async fn look(guarded: Arc<Guarded>, scope: Arc<Scope>) -> Result<Action, Error> {
    let started = Instant::now();
    let shared = &scope.shared;
    let store = match &guarded.0 {
        Ok(store) => store,
        Err(invalid) => {
            warn!(store = guarded.name_any(), error = %invalid.error, "the CodexStore cannot be read");
            let note = format!(
                "this operator cannot read the CodexStore: {}",
                invalid.error
            );
            shared
                .events
                .warning(&guarded.object_ref(&()), "InvalidSpec", &note)
                .await;
            shared.metrics.reconciled("invalid", started.elapsed());
            return Ok(Action::await_change());
        }
    };
    // What a cache that is not filled yet does not show would be taken for missing.
    filled("pods", scope.pods.wait_until_ready()).await?;
    filled("claims", scope.claims.wait_until_ready()).await?;
    filled("backups", scope.backups.wait_until_ready()).await?;
    filled("restores", scope.restores.wait_until_ready()).await?;
    filled("key rotations", scope.rotations.wait_until_ready()).await?;
    let mine = |labels: &std::collections::BTreeMap<String, String>, namespace: Option<String>| {
        labels.get(names::STORE_LABEL) == store.metadata.name.as_ref()
            && namespace == store.metadata.namespace
    };
    let pods = scope.pods.state_filter(|p| mine(p.labels(), p.namespace()));
    let claims = scope
        .claims
        .state_filter(|c| mine(c.labels(), c.namespace()));
    let backups = scope.backups.state_filter(|b| {
        store.metadata.name.as_ref() == Some(&b.spec.store_ref.name)
            && b.namespace() == store.metadata.namespace
    });
    // Those that copy its data into another store too: they need its backups and its keys.
    let restores = scope.restores.state_filter(|r| {
        r.concerns(&store.name_any()) && r.namespace() == store.metadata.namespace
    });
    let rotations = scope.rotations.state_filter(|r| {
        store.metadata.name.as_ref() == Some(&r.spec.store_ref.name)
            && r.namespace() == store.metadata.namespace
    });
    let found = reconcile::Found {
        pods: &pods,
        claims: &claims,
        backups: &backups,
        restores: &restores,
        rotations: &rotations,
        sharing: &scope.sharing(store),
    };
    let done = reconcile::reconcile(shared, store, found).await?;
    let key = (store.namespace().unwrap_or_default(), store.name_any());
    shared
        .failures
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&key);
    debug!(
        namespace = key.0,
        store = key.1,
        outcome = done.outcome,
        "looked"
    );
    shared.metrics.reconciled(done.outcome, started.elapsed());
    Ok(Action::requeue(done.again))
}

async fn filled<E>(
    what: &'static str,
    ready: impl Future<Output = Result<(), E>>,
) -> Result<(), Error> {
    match tokio::time::timeout(FILL, ready).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Error::NotReady(what)),
    }
}

/// After a failure: 1 s, then twice as long each time, up to five minutes.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the controller's"
)]
fn failed(guarded: Arc<Guarded>, why: &Error, scope: Arc<Scope>) -> Action {
    let shared = &scope.shared;
    let key = (guarded.namespace().unwrap_or_default(), guarded.name_any());
    error!(namespace = key.0, store = key.1, error = %why, "cannot reconcile the store");
    shared.metrics.reconciled("error", Duration::ZERO);
    let mut failures = shared
        .failures
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let count = failures.entry(key).or_insert(0);
    let pause = backoff(*count);
    *count = count.saturating_add(1);
    Action::requeue(reconcile::jitter(pause))
}

fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1_u64 << failures.min(16)).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        assert_eq!(backoff(0), Duration::from_secs(1));
        assert_eq!(backoff(3), Duration::from_secs(8));
        assert_eq!(backoff(u32::MAX), MAX_BACKOFF);
    }

    #[test]
    fn objects_lead_to_the_store_of_their_label() {
        let found = store_of(&fixtures::pod("web-0")).unwrap();
        assert_eq!(
            (found.name.as_str(), found.namespace.as_deref()),
            ("orders", Some("shop"))
        );
        assert!(store_of(&Pod::default()).is_none());
    }
}
