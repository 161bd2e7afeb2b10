//! The keyring, sealed to the people whom the spec names: kept in a `ConfigMap`, from which each backup takes a copy.
//!
//! It is sealed anew when the keyring, the recipients, or what was sealed is not what it was. Sealing draws random numbers, so that two of the same
//! keyring differ: what it was made from is compared, by a hash of the Secret's UID and version, the recipients, and the sealed text. No key goes into that
//! hash. A look seals before it takes a step of a rotation: a new key is sealed before anything is written with it.

use std::collections::BTreeMap;

use codexstore_api::encoding::hex;
use codexstore_crds::status::{EscrowStatus, MAX_KEYS};
use codexstore_crds::{CodexStore, desired, names};
use codexstore_escrow::{Keys, Recipient, seal};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PostParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::keyring::{Facts, Keyring, conflict, facts as facts_of, patch_params};
use super::ownership::{Ownership, ownership};
use super::problem::{self, Problem};
use super::{Error, Shared};

/// How the escrow of a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Escrow {
    /// There are no keys.
    NotEncrypted,
    /// The keys, or the passphrase, are the user's own.
    NotOurs,
    /// The spec names no recipients.
    NotAskedFor,
    /// The keyring is not there to be sealed; what was sealed before stays.
    NoKeyring,
    /// Something changed under our hands: look again.
    Pending,
    /// The keyring as it is now is sealed.
    Sealed(EscrowStatus),
    /// It cannot be sealed.
    Failed(Problem),
}

/// Looks whether what is sealed is the keyring as it is now, and seals it if not.
pub async fn ensure(
    shared: &Shared,
    store: &CodexStore,
    keyring: &Keyring,
) -> Result<Escrow, Error> {
    let escrow = match look(shared, store, keyring).await {
        // Nothing that waiting heals, a quota say; the rest of the store goes on.
        Err(Error::Kube(kube::Error::Api(answer))) if matches!(answer.code, 400 | 403 | 422) => {
            let message = format!("the sealed keyring cannot be kept: {}", answer.message);
            Escrow::Failed(Problem::new(problem::ESCROW_FAILED, message))
        }
        done => done?,
    };
    if let Escrow::Failed(problem) = &escrow {
        let (about, events) = (store.object_ref(&()), &shared.events);
        events
            .warning(&about, problem.reason, &problem.message)
            .await;
    }
    Ok(escrow)
}

async fn look(shared: &Shared, store: &CodexStore, keyring: &Keyring) -> Result<Escrow, Error> {
    let recipients = store.spec.encryption.escrow_recipients();
    let facts = match keyring {
        Keyring::NotEncrypted => return Ok(Escrow::NotEncrypted),
        _ if store.spec.encryption.own_secret().is_some() => return Ok(Escrow::NotOurs),
        _ if recipients.is_empty() => return Ok(Escrow::NotAskedFor),
        Keyring::Ready(facts) if store.metadata.deletion_timestamp.is_none() => facts,
        _ => return Ok(Escrow::NoKeyring),
    };
    let to = match parse(recipients) {
        Ok(to) => to,
        Err(problem) => return Ok(Escrow::Failed(problem)),
    };
    let source = source(facts, recipients);
    let known = shared.remember(store, |memory| memory.escrow.clone());
    if let Some((from, status)) = known
        && from == source
    {
        return Ok(Escrow::Sealed(status));
    }
    let namespace = store.namespace().unwrap_or_default();
    let name = names::escrow(&store.name_any());
    let maps = Api::<ConfigMap>::namespaced(shared.client.clone(), &namespace);
    let before = maps.get_opt(&name).await?;
    if let Some(map) = &before
        && let Ownership::Foreign(why) = ownership(&map.metadata, store)
    {
        return Ok(Escrow::Failed(Problem::foreign("ConfigMap", &name, &why)));
    }
    let good = before.as_ref().filter(|map| is_good(map, &source));
    let good = good.and_then(|map| status_of(map, &name, to.len()));
    let status = if let Some(status) = good {
        status
    } else {
        let Some(map) = sealed(shared, store, facts, &to, &source).await? else {
            return Ok(Escrow::Pending);
        };
        let map = match map {
            Ok(map) => map,
            Err(problem) => return Ok(Escrow::Failed(problem)),
        };
        match write(&maps, &name, before.as_ref(), &map).await {
            Err(error) if conflict(&error) => return Ok(Escrow::Pending),
            done => done?,
        }
        let Some(status) = status_of(&map, &name, to.len()) else {
            return Ok(Escrow::Pending);
        };
        let note = format!(
            "the keyring is sealed to {} in the ConfigMap {name}, with the keys {}",
            count(to.len()),
            facts.ids.join(", ")
        );
        let about = store.object_ref(&());
        shared.events.normal(&about, "KeyringSealed", &note).await;
        status
    };
    shared.remember(store, |memory| {
        memory.escrow = Some((source, status.clone()));
    });
    Ok(Escrow::Sealed(status))
}

/// For people.
pub fn count(recipients: usize) -> String {
    match recipients {
        1 => "1 recipient".to_owned(),
        n => format!("{n} recipients"),
    }
}

fn parse(recipients: &[String]) -> Result<Vec<Recipient>, Problem> {
    let all = recipients.iter().enumerate().map(|(n, text)| {
        Recipient::parse(text).map_err(|why| {
            // By its place: somebody may have put there what is to be seen by nobody.
            let message = format!("escrow.recipients: number {} {why}", n + 1);
            Problem::new(problem::ESCROW_INVALID, message)
        })
    });
    let mut all = all.collect::<Result<Vec<_>, _>>()?;
    all.sort();
    all.dedup();
    Ok(all)
}

/// What is sealed, and to whom, as a hash. No key goes into it.
fn source(facts: &Facts, recipients: &[String]) -> String {
    let mut recipients = recipients.to_vec();
    recipients.sort();
    let fields = [facts.secret_uid.as_str(), facts.version.as_str()];
    hash(
        fields
            .into_iter()
            .chain(recipients.iter().map(String::as_str)),
    )
}

fn hash<'a>(fields: impl Iterator<Item = &'a str>) -> String {
    let mut sum = Sha256::new();
    for field in fields {
        sum.update((field.len() as u64).to_be_bytes());
        sum.update(field);
    }
    hex(&sum.finalize())
}

/// The source, and all that was made from it.
fn mark(source: &str, data: &BTreeMap<String, String>) -> String {
    let data = data
        .iter()
        .flat_map(|(key, value)| [key.as_str(), value.as_str()]);
    hash([source].into_iter().chain(data))
}

/// Whether a `ConfigMap` is as it was made, from what there is now.
fn is_good(map: &ConfigMap, source: &str) -> bool {
    let wanted = map.data.as_ref().map(|data| mark(source, data));
    wanted.is_some() && map.annotations().get(names::SEALED_FROM_ANNOTATION) == wanted.as_ref()
}

fn status_of(map: &ConfigMap, name: &str, recipients: usize) -> Option<EscrowStatus> {
    let data = map.data.as_ref()?;
    let ids = data.get(names::ESCROW_IDS)?.split(',').map(str::to_owned);
    let ids: Vec<_> = ids.collect();
    // Ids begin with a day: of very many the latest are shown.
    let surplus = ids.len().saturating_sub(MAX_KEYS);
    Some(EscrowStatus {
        config_map_name: name.to_owned(),
        recipients: i32::try_from(recipients).unwrap_or(i32::MAX),
        key_ids: ids.into_iter().skip(surplus).collect(),
        sealed_at: Time(data.get(names::ESCROW_TIME)?.parse().ok()?),
    })
}

/// The `ConfigMap` with the keyring as it is now; none if that is not what it was a moment ago.
async fn sealed(
    shared: &Shared,
    store: &CodexStore,
    facts: &Facts,
    to: &[Recipient],
    source: &str,
) -> Result<Option<Result<ConfigMap, Problem>>, Error> {
    let namespace = store.namespace().unwrap_or_default();
    let secrets = Api::<Secret>::namespaced(shared.client.clone(), &namespace);
    let secret = secrets.get_opt(&desired::keyring_name(store)).await?;
    let same = |secret: &Secret| {
        let now = facts_of(secret);
        now.is_ok_and(|now| now.secret_uid == facts.secret_uid && now.version == facts.version)
    };
    let Some(secret) = secret.filter(same) else {
        shared.remember(store, super::reconcile::Memory::forget_keyring);
        return Ok(None);
    };
    let mut keys = Keys::new(format!("{namespace}/{}", store.name_any()), &facts.current);
    let data = secret.data.unwrap_or_default();
    for (id, key) in facts.ids.iter().filter_map(|id| Some((id, data.get(id)?))) {
        keys.insert(id, &key.0);
    }
    let text = match seal(&keys, to) {
        Ok(text) => text,
        Err(why) => {
            let message = format!("the keyring cannot be sealed: {why}");
            return Ok(Some(Err(Problem::new(problem::ESCROW_FAILED, message))));
        }
    };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let data = BTreeMap::from([
        (names::ESCROW_SEALED.to_owned(), text),
        (names::ESCROW_IDS.to_owned(), facts.ids.join(",")),
        (names::ESCROW_TIME.to_owned(), now),
    ]);
    Ok(Some(Ok(desired::escrow(store, &mark(source, &data), data))))
}

/// Writes it, unless somebody changed what was there since.
async fn write(
    maps: &Api<ConfigMap>,
    name: &str,
    before: Option<&ConfigMap>,
    map: &ConfigMap,
) -> Result<(), kube::Error> {
    let Some(before) = before else {
        let params = PostParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        return maps.create(&params, map).await.map(drop);
    };
    // What else is in it goes: its mark is one of all its entries.
    let mut data = json!(map.data);
    for key in before.data.iter().flatten().map(|(key, _)| key) {
        if let Some(entries) = data.as_object_mut() {
            entries.entry(key).or_insert(json!(null));
        }
    }
    let patch = json!({
        "metadata": {
            "uid": before.metadata.uid,
            "resourceVersion": before.metadata.resource_version,
            "annotations": map.metadata.annotations,
        },
        "data": data,
    });
    let patch = Patch::Merge(patch);
    maps.patch(name, &patch_params(), &patch).await.map(drop)
}

#[cfg(test)]
#[path = "escrow_tests.rs"]
mod tests;
