//! The keyring: made once, then only watched over.
//!
//! The order is what keeps keys safe. The Secret is created (never applied) and then recorded in a `ConfigMap`; pods are admitted
//! only after that. From then on a missing Secret is a missing Secret: no key is made in its place, however often the CodexStore
//! is deleted and created again. `plan` decides, and before it may decide to make a key, all that could hold data of an earlier
//! one is read live: claims, pods, backups, and the status of the CodexStore itself. [`ensure`] does it, one step at a time, so that a
//! crash between any two steps leaves something that the next look goes on from. A keyring that the user brings is only recorded: see
//! `own_keyring`.

use std::collections::{BTreeMap, BTreeSet};

use codexstore_crds::status::first_few;
use codexstore_crds::{CodexBackup, CodexStore, desired, names};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::archive;
use super::claims;
use super::kept;
use super::key_needs::may_need_keys;
use super::live;
use super::members;
use super::own_keyring;
use super::ownership::{Ownership, keyring_ownership, ownership};
use super::problem::{self, Problem};

/// Longest id and most keys that a member takes.
const MAX_ID: usize = 64;
pub(super) const MAX_KEYS: usize = 1024;

/// State of a keyring after a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keyring {
    /// The store is not encrypted.
    NotEncrypted,
    /// It is there and on record.
    Ready(Facts),
    /// Something changed under our hands: look again soon.
    Pending,
    /// It cannot be used. The UID is that of the Secret on record, if there is one.
    Broken(Problem, Option<String>),
}

impl Keyring {
    /// See [`Facts::pod_volumes`]. Of one that is not good it is not known, and no key is deleted.
    pub fn pod_volumes(&self) -> bool {
        !matches!(self, Self::Ready(facts) if !facts.pod_volumes)
    }
}

/// What is known of a good keyring. Never the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// UID of the Secret.
    pub secret_uid: String,
    /// Its version, which is another one after each change.
    pub version: String,
    /// Id of the key that wraps new files.
    pub current: String,
    /// Ids of all keys.
    pub ids: Vec<String>,
    /// Ids on record that are not in the Secret any more; only where that is the user's.
    pub lost: Vec<String>,
    /// Whether volumes of the user's (`podVolume`) may hold data: of this store, or of an earlier one of its name.
    pub pod_volumes: bool,
}

impl Facts {
    /// The ids that belong on the record.
    pub(super) fn on_record(&self) -> Vec<String> {
        let mut all: Vec<_> = self.ids.iter().chain(&self.lost).cloned().collect();
        all.sort();
        all
    }
}

/// What happened, for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// Nothing.
    Nothing,
    /// A keyring was made.
    Made,
    /// An existing keyring was taken into use.
    Adopted,
    /// A Secret that had been gone or changed is back.
    Restored,
}

/// What a look saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// The Secret of the keyring's name.
    pub secret: Option<Secret>,
    /// The `ConfigMap` of the record's name.
    pub record: Option<ConfigMap>,
    /// What holds data written with keys that are not there; only read when there is neither Secret nor record.
    pub holders: Vec<String>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Make the Secret, then the record.
    Create,
    /// Make the record.
    Record(Facts, Happened),
    /// Write down other facts.
    Update(Facts, Happened),
    /// Nothing.
    Steady(Facts),
    /// Nothing: somebody has to put something right.
    Broken(Problem),
}

fn plan(store: &CodexStore, seen: &Seen) -> Plan {
    let name = names::keyring_secret(desired::store_name(store));
    if let Some(record) = &seen.record
        && let Ownership::Foreign(why) = ownership(&record.metadata, store)
    {
        return Plan::Broken(Problem::foreign("ConfigMap", &name, &why));
    }
    let recorded = seen.record.as_ref().map(recorded);
    let Some(secret) = &seen.secret else {
        return match recorded {
            Some(recorded) if recorded.secret.as_ref().is_some_and(|own| *own != name) => {
                Plan::Broken(elsewhere(&name, &recorded))
            }
            Some(recorded) => Plan::Broken(gone(&name, &recorded.ids)),
            None if seen.holders.is_empty() => Plan::Create,
            None => Plan::Broken(held(&name, &seen.holders)),
        };
    };
    if let Ownership::Foreign(why) = keyring_ownership(&secret.metadata, store) {
        return Plan::Broken(Problem::foreign("Secret", &name, &why));
    }
    let mut facts = match facts(secret) {
        Ok(facts) => facts,
        Err(why) => {
            return Plan::Broken(Problem::new(
                problem::KEY_MALFORMED,
                format!("Secret {name} is not a keyring: {why}. Put back what was there before"),
            ));
        }
    };
    facts.pod_volumes = on_pod_volumes(store, recorded.as_ref());
    let Some(recorded) = recorded else {
        return Plan::Record(facts, Happened::Adopted);
    };
    let missing: Vec<_> = recorded
        .ids
        .iter()
        .filter(|id| !facts.ids.contains(id))
        .collect();
    if !missing.is_empty() {
        let list = missing
            .iter()
            .map(|id| id.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        return Plan::Broken(Problem::new(
            problem::KEY_MISSING,
            format!(
                "Secret {name} lacks the key {list}, which data was written with: put the Secret back as it was; or, if that data is \
                 worthless, delete the ConfigMap {name}, and the Secret is taken as it is"
            ),
        ));
    }
    if recorded.uid != facts.secret_uid {
        return Plan::Update(facts, Happened::Restored);
    }
    if recorded.ids.len() != facts.ids.len() || recorded.pod_volumes != facts.pod_volumes {
        return Plan::Update(facts, Happened::Nothing);
    }
    Plan::Steady(facts)
}

fn gone(name: &str, ids: &[String]) -> Problem {
    Problem::new(
        problem::SECRET_MISSING,
        format!(
            "Secret {name} is gone, and what this store wrote can be read only with its key ({}): put the Secret back; or, if the data is \
             worthless, delete the CodexStore, the ConfigMap {name} and the store's PersistentVolumeClaims and CodexBackups, create the \
             CodexStore again, and a new key is made",
            ids.join(", ")
        ),
    )
}

/// An earlier CodexStore of this name had its keys in a Secret of the user's.
fn elsewhere(name: &str, recorded: &Recorded) -> Problem {
    let secret = recorded.secret.as_deref().unwrap_or_default();
    // A passphrase has no keys that are on record.
    let source = if recorded.ids.is_empty() {
        "passphraseRef"
    } else {
        "secretRef"
    };
    Problem::new(
        problem::SECRET_MISSING,
        format!(
            "an earlier CodexStore of this name had its keys in the Secret {secret}: create it with `encryption: {{keys: {{{source}: \
             {{name: {secret}}}}}}}`; or, if its data is worthless, delete the CodexStore, the ConfigMap {name} and the store's \
             PersistentVolumeClaims and CodexBackups, create the CodexStore again, and a new key is made"
        ),
    )
}

fn held(name: &str, holders: &[String]) -> Problem {
    let list = first_few(holders, holders.len(), 5);
    Problem::new(
        problem::SECRET_MISSING,
        format!(
            "Secret {name} is gone, but there is data that was written with its key ({list}): put the Secret back; or, if the data is \
             worthless, delete all of that and the CodexStore, create the CodexStore again, and a new key is made"
        ),
    )
}

/// What the record says.
pub(super) struct Recorded {
    secret: Option<String>,
    /// UID of the Secret.
    pub(super) uid: String,
    /// Ids of its keys.
    pub(super) ids: Vec<String>,
    /// Whether data was on volumes of the user's, ever.
    pub(super) pod_volumes: bool,
}

/// Whether volumes of the user's may hold data: by the spec, or by what is on record of before.
pub(super) fn on_pod_volumes(store: &CodexStore, recorded: Option<&Recorded>) -> bool {
    store.spec.volume.pod_volume.is_some() || recorded.is_some_and(|r| r.pod_volumes)
}

/// Reads the record.
pub(super) fn recorded(record: &ConfigMap) -> Recorded {
    let text = |key: &str| {
        let data = record.data.as_ref();
        data.and_then(|data| data.get(key))
            .cloned()
            .unwrap_or_default()
    };
    let ids = text("keyIds");
    Recorded {
        secret: Some(text("secretName")).filter(|name| !name.is_empty()),
        uid: text("secretUid"),
        ids: ids
            .split(',')
            .map(str::trim)
            .filter(|id| !id.is_empty())
            .map(str::to_owned)
            .collect(),
        pod_volumes: text(names::RECORD_POD_VOLUME) == "true",
    }
}

/// Reads a Secret as a keyring, by the rules that the sidecar has. The error never repeats what is in it.
pub fn facts(secret: &Secret) -> Result<Facts, String> {
    let empty = BTreeMap::new();
    let data: &BTreeMap<String, ByteString> = secret.data.as_ref().unwrap_or(&empty);
    let current = data
        .get(names::KEYRING_CURRENT)
        .ok_or("the entry `current` is missing")?;
    let current = std::str::from_utf8(&current.0).map_err(|_| "the entry `current` is not text")?;
    let current = current.trim().to_owned();
    let is_key = |id: &str| id != names::KEYRING_CURRENT && !id.starts_with('.');
    let mut ids = BTreeSet::new();
    for (id, key) in data.iter().filter(|(id, _)| is_key(id)) {
        if id.len() > MAX_ID {
            // Not repeated: somebody may have put a key where its name belongs.
            return Err(format!(
                "the name of an entry has more than {MAX_ID} characters, and is no key's id"
            ));
        }
        if ![16, 24, 32].contains(&key.0.len()) {
            return Err(format!(
                "the key {id} has {} bytes instead of 16, 24 or 32 (it must be raw bytes, without a newline)",
                key.0.len()
            ));
        }
        ids.insert(id.clone());
    }
    if !ids.contains(&current) {
        return Err("the entry `current` does not name one of its keys".to_owned());
    }
    if ids.len() > MAX_KEYS {
        return Err(format!("it has more than {MAX_KEYS} keys"));
    }
    Ok(Facts {
        secret_uid: secret.uid().unwrap_or_default(),
        version: secret.resource_version().unwrap_or_default(),
        current,
        ids: ids.into_iter().collect(),
        lost: Vec::new(),
        pod_volumes: false,
    })
}

/// Looks at the keyring and takes the next step towards a good one.
pub async fn ensure(
    client: &Client,
    store: &CodexStore,
) -> Result<(Keyring, Happened), kube::Error> {
    if !store.spec.encryption.is_on() {
        return Ok((Keyring::NotEncrypted, Happened::Nothing));
    }
    let namespace = store.namespace().unwrap_or_default();
    let secrets = Api::<Secret>::namespaced(client.clone(), &namespace);
    let records = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
    let own = store.spec.encryption.own_secret().is_some();
    let name = names::keyring_record(&store.name_any());
    let mut seen = Seen {
        record: records.get_opt(&name).await?,
        secret: secrets.get_opt(&desired::keyring_name(store)).await?,
        holders: Vec::new(),
    };
    if !own && seen.secret.is_none() && seen.record.is_none() {
        // No key for a store that is gone, nor by what a cache says: its status may be older than the record that is missing.
        let Some(current) = live::same(client, store).await? else {
            return Ok((Keyring::Pending, Happened::Nothing));
        };
        seen.holders = holders(client, &namespace, &current).await?;
    }
    let plan = if own {
        own_keyring::plan(store, &seen)
    } else {
        plan(store, &seen)
    };
    match plan {
        Plan::Broken(problem) => {
            let record = seen
                .record
                .as_ref()
                .filter(|r| ownership(&r.metadata, store) == Ownership::Ours);
            let uid = record
                .map(|r| recorded(r).uid)
                .filter(|uid| !uid.is_empty());
            Ok((Keyring::Broken(problem, uid), Happened::Nothing))
        }
        Plan::Steady(facts) => Ok((Keyring::Ready(facts), Happened::Nothing)),
        Plan::Create => {
            let secret = fresh(store)?;
            match secrets.create(&post(), &secret).await {
                Ok(made) => {
                    let Ok(mut facts) = facts(&made) else {
                        return Ok((Keyring::Pending, Happened::Nothing));
                    };
                    facts.pod_volumes = on_pod_volumes(store, None);
                    record(&records, store, &facts).await?;
                    Ok((Keyring::Ready(facts), Happened::Made))
                }
                // Somebody was faster; what they made is looked at next time.
                Err(error) if conflict(&error) => Ok((Keyring::Pending, Happened::Nothing)),
                Err(error) => Err(error),
            }
        }
        Plan::Record(facts, happened) => {
            record(&records, store, &facts).await?;
            Ok((Keyring::Ready(facts), happened))
        }
        Plan::Update(facts, happened) => {
            let version = seen
                .record
                .as_ref()
                .and_then(kube::ResourceExt::resource_version);
            let mut data = BTreeMap::from([
                ("secretName", desired::keyring_name(store)),
                ("secretUid", facts.secret_uid.clone()),
                ("keyIds", facts.on_record().join(",")),
            ]);
            if facts.pod_volumes {
                data.insert(names::RECORD_POD_VOLUME, "true".to_owned());
            }
            let patch = json!({"metadata": {"resourceVersion": version}, "data": data});
            match records
                .patch(&name, &patch_params(), &Patch::Merge(patch))
                .await
            {
                Ok(_) => Ok((Keyring::Ready(facts), happened)),
                Err(error) if conflict(&error) => Ok((Keyring::Pending, Happened::Nothing)),
                Err(error) => Err(error),
            }
        }
    }
}

async fn record(
    api: &Api<ConfigMap>,
    store: &CodexStore,
    facts: &Facts,
) -> Result<(), kube::Error> {
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let record = desired::keyring_record(store, &facts.secret_uid, &facts.ids, &now);
    match api.create(&post(), &record).await {
        Ok(_) => Ok(()),
        Err(error) if conflict(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What may hold data written with a key of this store: its status, if that says that there was a keyring (a volume of the
/// user's own shows nowhere else once no pod runs), its claims, pods whose sidecar ran, its backups, also those whose files stayed without
/// them, and its archive. Read live: a cache that lags behind must not lead to a new key.
async fn holders(
    client: &Client,
    namespace: &str,
    store: &CodexStore,
) -> Result<Vec<String>, kube::Error> {
    let mut holders = Vec::new();
    if store.status.as_ref().is_some_and(|s| s.keyring.is_some()) {
        holders.push("the status of the CodexStore says that a keyring was made".to_owned());
    }
    let own = store.name_any();
    // All of the namespace: labels can be taken off.
    let all = ListParams::default();
    let found = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    for claim in found.list(&all).await? {
        // One of such a name that nobody made for a member is told as what it is.
        let made = claim.annotations().contains_key(names::POD_ANNOTATION)
            || claim.labels().contains_key(names::STORE_LABEL);
        if made && claims::is_of(&claim, &own) {
            holders.push(format!("PersistentVolumeClaim {}", claim.name_any()));
        }
    }
    // What a finished pod wrote to a volume of its own ends with it; on the user's volume it stays, whatever the spec says now.
    let lasting = store.spec.volume.pod_volume.is_some();
    let holds = |pod: &Pod| {
        let there = lasting || members::is_on_pod_volume(pod) || !members::finished(pod);
        there && members::is_of(pod, &own) && members::has_started(pod)
    };
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let pods = pods.list(&all).await?.items.into_iter().filter(holds);
    holders.extend(pods.map(|pod| format!("pod {}", pod.name_any())));
    let backups = Api::<CodexBackup>::namespaced(client.clone(), namespace);
    let needs = |backup: &CodexBackup| {
        let status = backup.status.as_ref();
        backup.spec.store_ref.name == own && status.is_some_and(may_need_keys)
    };
    let backups = backups.list(&all).await?.items.into_iter().filter(needs);
    holders.extend(backups.map(|backup| format!("cxb/{}", backup.name_any())));
    let name = names::archive_record(&store.name_any());
    let records = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let archive = records.get_opt(&name).await?;
    if archive.is_some_and(|map| archive::holds_data(&map)) {
        holders.push(format!("the archive, by the ConfigMap {name}"));
    }
    let name = names::kept_backups(&store.name_any());
    let kept = kept::live(client, store).await?;
    holders.extend(
        kept.all()
            .map(|what| format!("{what}, by the ConfigMap {name}")),
    );
    Ok(holders)
}

/// A new keyring of one random key.
fn fresh(store: &CodexStore) -> Result<Secret, kube::Error> {
    let key = random_key(store)?;
    Ok(desired::keyring_secret(store, &random_id()?, &key))
}

/// A key of the size that the spec asks for.
pub fn random_key(store: &CodexStore) -> Result<Vec<u8>, kube::Error> {
    let mut key = vec![0; store.spec.encryption.key_size.bytes()];
    random(&mut key)?;
    Ok(key)
}

/// An id for a new key: the day, and what tells it from others of that day.
pub fn random_id() -> Result<String, kube::Error> {
    let mut suffix = [0; 2];
    random(&mut suffix)?;
    let date = jiff::Timestamp::now().strftime("%Y%m%d");
    Ok(format!("{date}-{:04x}", u16::from_be_bytes(suffix)))
}

fn random(bytes: &mut [u8]) -> Result<(), kube::Error> {
    getrandom::fill(bytes)
        .map_err(|e| kube::Error::Service(std::io::Error::other(e.to_string()).into()))
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

pub(super) fn patch_params() -> PatchParams {
    PatchParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// Whether the API server said that something else was there first.
pub fn conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
