//! One look at one store, and what follows from it.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use codexstore_crds::status::EscrowStatus;
use codexstore_crds::{
    CodexBackup, CodexKeyRotation, CodexRestore, CodexStore, CodexStoreStatus, desired,
    is_injected, names,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource as _, ResourceExt as _};
use tokio::time::Instant;

use super::archive;
use super::escrow;
use super::kept::{self, Kept};
use super::key_needs::Places;
use super::keyring::{self, Happened, Keyring};
use super::members;
use super::problem::Problem;
use super::report;
use super::restores;
use super::rotation;
use super::tell::{
    show, show_archive, show_backups, tell_of_claims, tell_of_members, uninjected, warn_of,
};
use super::tls::{self, Certificates, Credentials};
use super::told::{Over, tell};
use super::{Error, Shared, claims, schedule};

/// Time until the next look: when all is well, when something is under way, and when somebody else was faster.
const STEADY: Duration = Duration::from_secs(30);
const UNSTEADY: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(1);
/// How long certificates are taken to be as they were last seen.
const CERTIFICATES: Duration = Duration::from_mins(5);

/// What is remembered between two looks, so that not every look reads every Secret.
#[derive(Default)]
pub struct Memory {
    uid: Option<String>,
    pods: u64,
    keyring: Option<(Instant, Keyring)>,
    /// What the sealed keyring was made from when it was last looked at, and what it is.
    pub(super) escrow: Option<(String, EscrowStatus)>,
    /// The key of a Secret of the user's that was last seen to be made current, and whether it was told that members have it.
    pub(super) promoted: Option<(String, bool)>,
    /// When members were last asked to encrypt everything anew: UID of the pod, and of the rotation.
    pub(super) asked: HashMap<(String, String), Instant>,
    credentials: Option<(Instant, Credentials)>,
    /// The files of backups that stayed.
    pub(super) kept: Option<(Instant, Arc<Kept>)>,
    /// The archive.
    pub(super) archive: archive::Memory,
    /// The objects that backups need.
    pub(super) applied: schedule::Applied,
}

impl Memory {
    /// The keyring was changed: the next look reads it.
    pub(super) fn forget_keyring(&mut self) {
        self.keyring = None;
    }
}

/// What a look ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// For the metrics: `steady`, `waiting` or `problem`.
    pub outcome: &'static str,
    /// When to look again.
    pub again: Duration,
}

/// What the caches know of one store.
#[derive(Clone, Copy, Default)]
pub struct Found<'a> {
    /// Pods with its label.
    pub pods: &'a [Arc<Pod>],
    /// Claims with our labels, and its own.
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// Its backups.
    pub backups: &'a [Arc<CodexBackup>],
    /// Its restores, and those that copy its data.
    pub restores: &'a [Arc<CodexRestore>],
    /// The rotations of its keys.
    pub rotations: &'a [Arc<CodexKeyRotation>],
    /// Other stores that take their keys from the same Secret.
    pub sharing: &'a [CodexStore],
}

impl Found<'_> {
    /// Messages that each key has encrypted in other stores.
    fn messages_elsewhere(&self) -> BTreeMap<String, i64> {
        let mut all = BTreeMap::new();
        let statuses = self.sharing.iter().filter_map(|s| s.status.as_ref());
        for key in statuses.flat_map(|s| &s.encryption_keys) {
            let sum = all.entry(key.id.clone()).or_insert(0_i64);
            *sum = sum.saturating_add(key.messages.unwrap_or(0));
        }
        all
    }
}

/// Looks at one store.
pub async fn reconcile(
    shared: &Shared,
    store: &CodexStore,
    found: Found<'_>,
) -> Result<Done, Error> {
    let pods = found.pods;
    let mut problems = Vec::new();
    let mut waiting = Vec::new();
    let changed = pods_changed(shared, store, pods);

    let credentials = match credentials(shared, store, changed).await? {
        Certificates::Ready(credentials) => Ok(credentials),
        Certificates::Pending => {
            let why = "certificates are being made".to_owned();
            waiting.push(why.clone());
            Err(why)
        }
        Certificates::Broken(problem) => {
            let why = problem.message.clone();
            problems.push(problem);
            Err(why)
        }
    };

    // The record that follows lets pods in, so all that they mount is there before it.
    let keyring = look_at_keyring(shared, store, changed).await?;
    if keyring == Keyring::Pending {
        waiting.push("the keyring is being made".to_owned());
    }
    // Before a rotation goes on: no key is used that was not sealed, if it can be.
    let escrow = escrow::ensure(shared, store, &keyring).await?;

    let volumes = claims::ensure(&shared.client, store, pods, found.claims).await?;
    tell_of_claims(shared, store, &volumes).await;
    problems.extend(volumes.problems);
    let archive = archive::ensure(shared, store).await?;
    let record = archive.record.as_ref();
    let backups = schedule::ensure(shared, store, found.backups, record.is_some()).await?;
    schedule::expire(shared, store, found.backups, found.restores, record).await?;

    let (injected, bare): (Vec<_>, Vec<_>) = pods
        .iter()
        .filter(|p| !members::finished(p))
        .cloned()
        .partition(|p| is_injected(p));
    for pod in bare.iter().filter(|p| members::lives(p)) {
        problems.extend(uninjected(shared, pod).await);
    }
    let answers = shared
        .poller
        .ask(injected, credentials.as_ref().map_err(String::as_str))
        .await;
    problems.extend(restores::on_start(shared, store, &answers, found.restores).await?);
    let kept = kept::seen(shared, store).await?;
    let keys = rotation::ensure(
        rotation::Look {
            shared,
            store,
            rotations: found.rotations,
            credentials: credentials.as_ref().ok(),
            places: Places {
                store,
                pod_volumes: keyring.pod_volumes(),
                members: &answers,
                claims: found.claims,
                backups: found.backups,
                kept: &kept,
                restores: found.restores,
                archive: archive.record.as_ref(),
            },
            elsewhere: &found.messages_elsewhere(),
        },
        &keyring,
    )
    .await?;
    let keyring = judged(keyring, keys.broken.as_ref());
    let held_up = held_up(&keyring, pods, volumes.of_pods);
    let (soon, rotations) = (keys.again, keys.rotations);
    let report = |m: &members::Member| {
        let mine = |(pod, _): &&(Arc<Pod>, Problem)| pod.name_any() == m.pod.name_any();
        let mine: Vec<_> = held_up.iter().filter(mine).map(|(_, p)| p).collect();
        m.report(store, &shared.version, &mine)
    };
    let members: Vec<_> = answers.iter().map(report).collect();

    problems.extend(archive.problems);
    warn_of(shared, store, &keyring, &problems, &held_up).await;
    show_backups(shared, store, &backups, archive.judged.as_ref());
    show_archive(shared, store, archive.judged.as_ref());
    let seen = report::Seen {
        keyring: &keyring,
        escrow,
        keys,
        members,
        backups,
        archive: archive.judged,
        problems,
        waiting_for: waiting,
    };
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let status = report::status(store, seen, &now);
    show(shared, store, &status, &keyring, rotations);
    tell_of_members(shared, store, &status).await;
    write(shared, store, &status).await?;
    let mut done = done(&status, &keyring);
    done.again = soon.map_or(done.again, |soon| soon.min(done.again));
    Ok(done)
}

fn done(status: &CodexStoreStatus, keyring: &Keyring) -> Done {
    let is = |type_| status.condition(type_).is_some_and(|c| c.status == "True");
    if *keyring == Keyring::Pending {
        Done {
            outcome: "waiting",
            again: SOON,
        }
    } else if is("Degraded") {
        Done {
            outcome: "problem",
            again: UNSTEADY,
        }
    } else if is("Progressing") || !is("Ready") {
        Done {
            outcome: "waiting",
            again: UNSTEADY,
        }
    } else {
        Done {
            outcome: "steady",
            again: jitter(STEADY),
        }
    }
}

/// Give or take a tenth, so that stores do not march in step.
pub fn jitter(time: Duration) -> Duration {
    let random = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
    time.mul_f64(0.9 + 0.2 * random)
}

/// Whether the store's pods are others, or in another state, than at the last look.
fn pods_changed(shared: &Shared, store: &CodexStore, pods: &[Arc<Pod>]) -> bool {
    let mut hasher = DefaultHasher::new();
    let mut prints: Vec<_> = pods
        .iter()
        .map(|p| {
            (
                p.uid(),
                members::lives(p),
                members::finished(p),
                members::has_started(p),
            )
        })
        .collect();
    prints.sort();
    prints.hash(&mut hasher);
    // The spec may name another Secret.
    store.spec.encryption.own_secret().hash(&mut hasher);
    let print = hasher.finish();
    shared.remember(store, |memory| {
        if memory.uid != store.metadata.uid {
            *memory = Memory {
                uid: store.metadata.uid.clone(),
                ..Memory::default()
            };
        }
        let changed = memory.pods != print;
        memory.pods = print;
        changed
    })
}

async fn credentials(
    shared: &Shared,
    store: &CodexStore,
    changed: bool,
) -> Result<Certificates, Error> {
    let known = shared.remember(store, |memory| memory.credentials.clone());
    if let Some((at, credentials)) = known
        && !changed
        && at.elapsed() < CERTIFICATES
    {
        return Ok(Certificates::Ready(credentials));
    }
    let certificates = tls::ensure(&shared.client, store, &shared.metrics).await?;
    shared.remember(store, |memory| {
        memory.credentials = match &certificates {
            Certificates::Ready(credentials) => Some((Instant::now(), credentials.clone())),
            _ => None,
        };
    });
    Ok(certificates)
}

async fn look_at_keyring(
    shared: &Shared,
    store: &CodexStore,
    changed: bool,
) -> Result<Keyring, Error> {
    let known = shared.remember(store, |memory| memory.keyring.clone());
    // A keyring that is not good is looked at each time, so that it heals soon after it is put right.
    if let Some((at, keyring @ (Keyring::Ready(_) | Keyring::NotEncrypted))) = known
        && !changed
        && at.elapsed() < jitter(shared.keyring_poll)
    {
        return Ok(keyring);
    }
    let (keyring, happened) = keyring::ensure(&shared.client, store).await?;
    shared.remember(store, |memory| {
        memory.keyring = Some((Instant::now(), keyring.clone()));
        memory.escrow = None;
    });
    if let Keyring::Ready(facts) = &keyring {
        let secret = desired::keyring_name(store);
        let (reason, what) = match happened {
            Happened::Made => (
                "KeyringCreated",
                "made: keep a copy of it outside of the cluster",
            ),
            Happened::Adopted => ("KeyringAdopted", "taken into use"),
            Happened::Restored => ("KeyringRestored", "is back, with all its keys"),
            Happened::Nothing => return Ok(keyring),
        };
        let note = format!("Secret {secret} {what}; current key {}", facts.current);
        shared
            .events
            .normal(&store.object_ref(&()), reason, &note)
            .await;
    }
    Ok(keyring)
}

/// The keyring, once it is known what needs keys that are not in it.
fn judged(keyring: Keyring, broken: Option<&Problem>) -> Keyring {
    match (keyring, broken) {
        (Keyring::Ready(facts), Some(problem)) => {
            Keyring::Broken(problem.clone(), Some(facts.secret_uid))
        }
        (keyring, _) => keyring,
    }
}

/// What holds single pods up: a keyring that those which have not started wait for, and claims that are not theirs.
fn held_up(
    keyring: &Keyring,
    pods: &[Arc<Pod>],
    of_pods: Vec<(Arc<Pod>, Problem)>,
) -> Vec<(Arc<Pod>, Problem)> {
    let mut held_up = of_pods;
    if let Keyring::Broken(problem, _) = keyring {
        let waiting = pods
            .iter()
            .filter(|p| is_injected(p) && members::lives(p) && !members::has_started(p));
        held_up.extend(waiting.map(|p| (Arc::clone(p), problem.clone())));
    }
    held_up
}

/// Writes the status if it changed.
async fn write(
    shared: &Shared,
    store: &CodexStore,
    status: &CodexStoreStatus,
) -> Result<(), Error> {
    if store.status.as_ref() != Some(status) {
        tell(
            &shared.client,
            store,
            names::FIELD_MANAGER,
            Over::Any,
            status,
        )
        .await?;
    }
    Ok(())
}

impl Shared {
    pub(super) fn remember<T>(
        &self,
        store: &CodexStore,
        use_it: impl FnOnce(&mut Memory) -> T,
    ) -> T {
        let key = (store.namespace().unwrap_or_default(), store.name_any());
        let mut all = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        use_it(all.entry(key).or_default())
    }
}
