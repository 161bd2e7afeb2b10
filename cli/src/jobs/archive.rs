//! `job archive`: pulls what members write, piece by piece, and stores it for as long as it runs.
//!
//! In reading order: what is at the destination ([`shelf`]), the record that is kept of it ([`book`]), one member ([`mod@line`]), the
//! backups that pieces follow ([`base`]), what is deleted ([`prune`]), and here what starts and ends all of that.

mod base;
mod book;
mod keys;
mod line;
mod prune;
mod shelf;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use codexstore_api::Client;
use codexstore_crds::archive::{Continuous, HEARTBEAT};
use codexstore_crds::{CodexStore, jobs, names};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::cluster::Cluster;
use super::destination::Destination;
use super::member::{self, Credentials};
use super::take::is_member;
use crate::failure::Coded;
use base::Bases;
use book::Book;

/// Pieces that are held in memory at once.
const PIECES: usize = 4;
/// How often it is looked which members there are, and whether something is to be written down.
const LOOK: Duration = Duration::from_secs(10);
/// How often it is looked which backups there are, where nothing waits for one.
const BACKUPS: Duration = Duration::from_mins(1);
/// Until the first time that old pieces are deleted, and between the others.
const FIRST_PRUNE: Duration = Duration::from_mins(10);
const PRUNE: Duration = Duration::from_hours(1);
/// How often something of note is written down at most.
const NOTED: Duration = Duration::from_secs(15);
/// How long the last word may take when it is asked to end.
const LAST_WORD: Duration = Duration::from_secs(2);
/// For how long the destination may fail before it ends, to be started anew: the credentials of a destination come from the environment,
/// and whoever renews them changes what a new process gets.
const ANEW: Duration = Duration::from_mins(5);
/// Pauses after a destination or an API server that could not be reached.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Connects to the member in a pod.
type Dial = Box<dyn Fn(Pod) -> BoxFuture<'static, Result<Client>> + Send + Sync>;

/// What all members of a store share.
struct Archive {
    cluster: Cluster,
    store: CodexStore,
    /// Directory of the archive within the destination.
    directory: String,
    destination: Destination,
    dial: Dial,
    policy: Continuous,
    holder: String,
    permits: Semaphore,
    book: Book,
    bases: Bases,
}

/// Archives until it is asked to end.
pub async fn archive(
    cluster: Cluster,
    store: &str,
    policy: Continuous,
    holder: &str,
) -> Result<()> {
    if policy.interval_seconds() < 1 || policy.keep_seconds() < 1 {
        return Err(Coded::invalid("--interval and --keep are at least 1s").into());
    }
    let store = cluster.store(store).await?;
    let Some(backup) = &store.spec.backup else {
        let what = format!(
            "cxs/{} has no spec.backup, so no destination",
            store.name_any()
        );
        return Err(Coded::invalid(what).into());
    };
    let uid = store.metadata.uid.clone().unwrap_or_default();
    let directory = jobs::archive_directory(&cluster.namespace, &store.name_any());
    let location = jobs::location(&backup.destination, &directory);
    let mut term = signal(SignalKind::terminate())?;
    let archive = Arc::new(Archive {
        dial: Box::new(move |pod| {
            // As they are now: they are renewed while this runs.
            let credentials = Credentials::load(Path::new(names::TLS_DIR), &uid);
            async move { member::connect(&pod, &credentials?).await }.boxed()
        }),
        destination: Destination::of(&backup.destination)?,
        book: Book::new(&store.name_any(), &location),
        bases: Bases::new(&backup.destination),
        permits: Semaphore::new(PIECES),
        holder: holder.to_owned(),
        directory,
        cluster,
        store,
        policy,
    });
    tokio::select! {
        never = run(Arc::clone(&archive)) => never,
        _ = term.recv() => {
            // What a member's piece was being stored for is stored again by whoever comes next.
            let last = archive.book.write(&archive.cluster);
            match tokio::time::timeout(LAST_WORD, last).await {
                Ok(Err(error)) => eprintln!("the last word was not written: {error:#}"),
                Err(_) => eprintln!("the last word was not written in time"),
                Ok(Ok(())) => {}
            }
            eprintln!("asked to end");
            Ok(())
        }
    }
}

async fn run(archive: Arc<Archive>) -> Result<()> {
    begin(&archive).await?;
    let mut members = Members::default();
    let mut prune: Option<JoinHandle<()>> = None;
    let mut next_prune = Instant::now() + FIRST_PRUNE;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        match archive.cluster.pods(&archive.store.name_any()).await {
            Ok(pods) => members.look(&archive, &pods),
            Err(error) => eprintln!("{error:#}"),
        }
        if let Err(error) = look_at_backups(&archive).await {
            eprintln!("{error:#}");
        }
        if archive.book.is_stuck_for(ANEW) {
            return Err(anyhow!(
                "the destination has failed for {} minutes: it begins anew, with what its environment has by then",
                ANEW.as_secs() / 60
            ));
        }
        if Instant::now() >= next_prune && prune.as_ref().is_none_or(JoinHandle::is_finished) {
            next_prune = Instant::now() + PRUNE;
            let archive = Arc::clone(&archive);
            prune = Some(tokio::spawn(async move {
                match prune::prune(&archive).await {
                    Ok(0) => {}
                    Ok(count) => eprintln!("{count} old pieces deleted"),
                    Err(error) => eprintln!("old pieces are not deleted: {error:#}"),
                }
            }));
        }
        // A little less, so that it is not missed by one look.
        let heartbeat = Duration::from_secs(HEARTBEAT.unsigned_abs()).saturating_sub(LOOK / 2);
        if archive.book.is_due(NOTED, heartbeat)
            && let Err(error) = archive.book.write(&archive.cluster).await
        {
            eprintln!("{error:#}");
        }
    }
}

/// Reads what there is, for as long as that takes: what nobody knows cannot be gone on from.
async fn begin(archive: &Archive) -> Result<()> {
    let (since, mut pause) = (Instant::now(), PAUSE);
    loop {
        let begun = async {
            archive.book.read(&archive.cluster).await?;
            archive.bases.refresh(archive).await?;
            let walk = archive.book.walk();
            let shelf = shelf::Shelf::read(&archive.destination, &archive.directory).await?;
            for left in &shelf.unfinished {
                archive.destination.delete(left).await?;
            }
            archive.book.begin(walk, &shelf);
            archive.book.write(&archive.cluster).await
        };
        let Err(error) = begun.await else {
            return Ok(());
        };
        let why = format!("{error:#}");
        eprintln!("{why}");
        archive.book.failed(&why);
        // The record says it, if it was read and can be written.
        let _ = archive.book.write(&archive.cluster).await;
        if since.elapsed() > ANEW {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Looks which backups there are, and asks for one where pieces follow none.
async fn look_at_backups(archive: &Archive) -> Result<()> {
    let waits = archive.book.without_base(|line| archive.bases.has(line));
    if waits.is_empty() && !archive.bases.is_older_than(BACKUPS) {
        return Ok(());
    }
    archive.bases.refresh(archive).await?;
    let now = Timestamp::now().as_second();
    let waits = archive.book.without_base(|line| archive.bases.has(line));
    let mut why = waits
        .first()
        .map(|pod| format!("{pod} is archived without a backup that this follows"));
    if why.is_none() {
        let keep = archive.policy.keep_seconds();
        let old = archive.book.live().into_iter();
        let goes_on = old.filter(|line| line.message.is_none());
        let mut old = goes_on.filter(|line| archive.bases.is_old(line, now - keep));
        why = old.next().map(|line| {
            let pod = line.pod;
            format!("the latest backup of {pod} is older than anybody wants to go back to")
        });
    }
    match why {
        Some(why) => archive.bases.ask(archive, &why, now).await,
        None => Ok(()),
    }
}

/// The tasks of members, by the UIDs of their pods.
#[derive(Default)]
struct Members(BTreeMap<String, (String, JoinHandle<()>)>);

impl Members {
    /// Begins with those that are new, and ends with those that are gone.
    fn look(&mut self, archive: &Arc<Archive>, pods: &[Pod]) {
        let running = pods.iter().filter(|pod| is_member(pod) && has_address(pod));
        let running: BTreeMap<_, _> = running.filter_map(|pod| Some((pod.uid()?, pod))).collect();
        self.0.retain(|uid, (_, task)| {
            let stays = running.contains_key(uid) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for (uid, pod) in running {
            self.0.entry(uid).or_insert_with(|| {
                let line = line::Member::new(Arc::clone(archive), pod.clone());
                (pod.name_any(), tokio::spawn(line.run()))
            });
        }
        let here = |pod: &str| self.0.values().any(|(name, _)| name == pod);
        archive.book.left(here);
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for (_, task) in self.0.values() {
            task.abort();
        }
    }
}

fn has_address(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.is_some_and(|status| status.pod_ip.is_some())
}

/// Now, in milliseconds since 1970.
fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}
