//! The continuous archive of a store: the archiver's Deployment, and what its record says.
//!
//! The record outlives both the archiver and the CodexStore: what is stored needs its keys for as long as it is there.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use codexstore_crds::archive::{Judged, Record, judge};
use codexstore_crds::backup::Continuous;
use codexstore_crds::{CodexStore, jobs, names, status};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use tokio::time::Instant;

use super::ownership::{Ownership, ownership};
use super::problem::{self, Problem};
use super::schedule::{Applied, delete, one};
use super::{Error, Shared};

/// How long the Deployment is taken to be as it was last applied.
const APPLIED: Duration = Duration::from_mins(10);
/// An access mode that leaves nobody but the archiver the claim.
const ONE_POD: &str = "ReadWriteOncePod";

/// What is remembered between two looks.
#[derive(Default)]
pub struct Memory {
    /// There is no record: nothing is asked of the API server for a store that has no archive.
    none: bool,
    /// There is no archiver any more.
    removed: bool,
    applied: Applied,
    /// Why there is no archiver.
    refused: Option<Problem>,
}

/// What is known of a store's archive.
#[derive(Debug, Default)]
pub struct Archive {
    /// What is in the way.
    pub problems: Vec<Problem>,
    /// What the archiver wrote down; none where there is no archive, and nothing in it where nobody knows what one holds.
    pub record: Option<Record>,
    /// What that comes to, for a store that is to have an archive.
    pub judged: Option<Judged>,
}

/// Makes what an archive needs, or takes the archiver away, and says how it is.
pub async fn ensure(shared: &Shared, store: &CodexStore) -> Result<Archive, Error> {
    let policy = store.spec.backup.as_ref();
    let Some(continuous) = policy.and_then(|policy| policy.continuous.as_ref()) else {
        return without(shared, store).await;
    };
    shared.remember(store, |memory| {
        memory.archive.none = false;
        memory.archive.removed = false;
    });
    let mut archive = Archive::default();
    let now = Timestamp::now().as_second();
    let Some(found) = read(shared, store).await? else {
        if store.metadata.deletion_timestamp.is_none() {
            create(shared, store).await?;
        }
        // Until it is written nobody knows.
        let record = Record::default();
        archive.judged = Some(judge(&record, continuous, now, now));
        archive.record = Some(record);
        return Ok(archive);
    };
    let since = since(store, found.made, now);
    let judged = judge(&found.record, continuous, since, now);
    if store.metadata.deletion_timestamp.is_none() {
        archive.problems = apply(shared, store, judged.silent, found.foreign).await?;
    }
    archive.problems.extend(behind(&judged, continuous));
    archive.judged = Some(judged);
    archive.record = Some(found.record);
    Ok(archive)
}

/// Of a store that is not to have an archive, or not any more. The record was made before there was an archiver: as long as it is there,
/// an archiver may be, also where nobody came to write down that one was made.
async fn without(shared: &Shared, store: &CodexStore) -> Result<Archive, Error> {
    let mut archive = Archive::default();
    if !shared.remember(store, |memory| memory.archive.none) {
        archive.record = read(shared, store).await?.map(|found| found.record);
        let none = archive.record.is_none();
        shared.remember(store, |memory| memory.archive.none = none);
    }
    let had = store.status.as_ref().is_some_and(|status| {
        let condition = status::condition::ARCHIVE_CURRENT;
        status.condition(condition).is_some()
    });
    let removed = shared.remember(store, |memory| memory.archive.removed);
    if had || (archive.record.is_some() && !removed) {
        archive.problems.extend(remove(shared, store).await?);
    }
    Ok(archive)
}

/// When the archiver was asked for, in seconds since 1970: by the condition, which is not there before, and as long as it is being
/// started. Later on it is enough that what it writes is not older than the record, which is never made anew.
fn since(store: &CodexStore, made: Option<i64>, now: i64) -> i64 {
    let status = store.status.as_ref();
    match status.and_then(|status| status.condition(status::condition::ARCHIVE_CURRENT)) {
        None => now,
        Some(starting) if starting.status == "Unknown" => {
            starting.last_transition_time.0.as_second()
        }
        Some(_) => made.unwrap_or_default(),
    }
}

/// What is wrong with one that is too far behind.
fn behind(judged: &Judged, continuous: &Continuous) -> Option<Problem> {
    let what = format!(
        "the archive is {} s behind, and more than {} s is too much: {}",
        judged.behind,
        continuous.bound(),
        judged.condition.2
    );
    judged
        .overdue
        .then(|| Problem::new(problem::ARCHIVE_BEHIND, what))
}

fn maps(shared: &Shared, store: &CodexStore) -> Api<ConfigMap> {
    let namespace = store.namespace().unwrap_or_default();
    Api::namespaced(shared.client.clone(), &namespace)
}

/// What there is of the record's name.
struct Found {
    /// One that cannot be read, or is not ours, says nothing, and so counts as one that needs every key.
    record: Record,
    /// When it was made, in seconds since 1970.
    made: Option<i64>,
    /// Why it is not ours.
    foreign: Option<Problem>,
}

/// The record as it is now.
async fn read(shared: &Shared, store: &CodexStore) -> Result<Option<Found>, Error> {
    let name = names::archive_record(&store.name_any());
    let Some(map) = maps(shared, store).get_opt(&name).await? else {
        return Ok(None);
    };
    let made = map.metadata.creation_timestamp.as_ref();
    let made = made.map(|made| made.0.as_second());
    let foreign = match ownership(&map.metadata, store) {
        Ownership::Foreign(why) => Some(Problem::foreign("ConfigMap", &name, &why)),
        Ownership::Ours | Ownership::Former => None,
    };
    let record = parsed(&map).filter(|_| foreign.is_none());
    Ok(Some(Found {
        record: record.unwrap_or_default(),
        made,
        foreign,
    }))
}

fn parsed(map: &ConfigMap) -> Option<Record> {
    Record::parse(map.data.as_ref()?.get(names::ARCHIVE_RECORD)?)
}

/// Whether what was archived may need keys, by a `ConfigMap` of the record's name, whoever made it. One that cannot be read may.
pub fn holds_data(map: &ConfigMap) -> bool {
    parsed(map).is_none_or(|record| record.needs_any())
}

/// The record as it is now: what [`super::key_needs`] is to know before a key is deleted.
pub async fn live(shared: &Shared, store: &CodexStore) -> Result<Option<Record>, Error> {
    let asked = store.spec.backup.as_ref();
    let asked = asked.is_some_and(|policy| policy.continuous.is_some());
    let found = read(shared, store).await?.map(|found| found.record);
    if found.is_some() {
        // Somebody may have put it back.
        shared.remember(store, |memory| memory.archive.none = false);
    }
    Ok(found.or_else(|| asked.then(Record::default)))
}

/// Makes the record. One that is there stays.
async fn create(shared: &Shared, store: &CodexStore) -> Result<(), Error> {
    let params = PostParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let record = jobs::archive_record(store);
    match maps(shared, store).create(&params, &record).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Applies the Deployment; also when nothing has changed, if the archiver is silent: somebody may have deleted it.
async fn apply(
    shared: &Shared,
    store: &CodexStore,
    silent: bool,
    foreign: Option<Problem>,
) -> Result<Vec<Problem>, Error> {
    if foreign.is_some() {
        return Ok(foreign.into_iter().collect());
    }
    let Some(wanted) = jobs::archiver(store, &shared.jobs) else {
        return Ok(Vec::new());
    };
    let mut hasher = DefaultHasher::new();
    // A struct of strings and numbers always serialises.
    let text = serde_json::to_string(&wanted).unwrap_or_default();
    text.hash(&mut hasher);
    let print = hasher.finish();
    let known = shared.remember(store, |memory| {
        let archive = &memory.archive;
        let (at, what) = archive.applied?;
        let good = what == print && at.elapsed() < APPLIED && !silent;
        good.then(|| archive.refused.clone())
    });
    if let Some(refused) = known {
        return Ok(refused.into_iter().collect());
    }
    let mut refused = claim_of_one_pod(shared, store).await?;
    if refused.is_none() {
        refused = one(&shared.client, store, &wanted, "nothing is archived").await?;
    }
    shared.remember(store, |memory| {
        memory.archive.applied = Some((Instant::now(), print));
        memory.archive.refused.clone_from(&refused);
    });
    Ok(refused.into_iter().collect())
}

/// A claim that one pod mounts at a time would be the archiver's for ever, and no backup would be taken or restored.
async fn claim_of_one_pod(shared: &Shared, store: &CodexStore) -> Result<Option<Problem>, Error> {
    let policy = store.spec.backup.as_ref();
    let Some(name) = policy.and_then(|policy| policy.destination.claim.as_deref()) else {
        return Ok(None);
    };
    let namespace = store.namespace().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(shared.client.clone(), &namespace);
    let claim = api.get_opt(name).await?;
    let modes = claim.and_then(|claim| claim.spec?.access_modes);
    let one_pod = modes.is_some_and(|modes| modes.iter().any(|mode| mode == ONE_POD));
    let what = format!(
        "nothing is archived: the claim {name} is {ONE_POD}, so that the archiver would keep every backup and restore out of it; use a \
         claim with ReadWriteOnce or ReadWriteMany, or a bucket"
    );
    Ok(one_pod.then(|| Problem::new(problem::BACKUP_INVALID, what)))
}

/// Deletes the Deployment, after `continuous` is gone.
async fn remove(shared: &Shared, store: &CodexStore) -> Result<Option<Problem>, Error> {
    let name = names::archiver(&store.name_any());
    let failed = format!("the Deployment {name} still archives");
    let refused = delete::<Deployment>(&shared.client, store, &name, &failed).await?;
    if refused.is_none() {
        shared.remember(store, |memory| {
            memory.archive = Memory {
                removed: true,
                ..Memory::default()
            };
        });
    }
    Ok(refused)
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
