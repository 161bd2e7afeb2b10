//! Files of backups that stay when their CodexBackup goes: they still need their keys.
//!
//! A CodexBackup says which keys its files need for as long as it is there. Before it goes without them, that is written into a
//! `ConfigMap`, which outlives the CodexStore, as the files do. The operator does not know when they are gone: who deletes them takes the
//! entry away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codexstore_crds::{CodexBackup, CodexStore, CodexStoreSpec, desired, names};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PostParams};
use kube::{Client, ResourceExt as _};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::backups::terminating;
use super::key_needs::{keys_of_backup, may_need_keys};
use super::keyring::{MAX_KEYS, conflict, patch_params};
use super::ownership::{Ownership, ownership};
use super::problem::{self, Problem};
use super::{Error, Shared};

/// Bytes of the entries that backups have for themselves: a `ConfigMap` holds 1 MiB.
const ROOM: usize = 512 << 10;

/// What the files of one backup need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Files {
    /// Where they are, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    location: String,
    /// The keys, sorted. None where they may need any.
    key_ids: Option<Vec<String>>,
}

impl Files {
    fn need(&self, id: &str) -> bool {
        let ids = self.key_ids.as_ref();
        ids.is_none_or(|ids| ids.iter().any(|key| key == id))
    }

    /// These and those that were there before under the same name.
    fn and(self, before: Files) -> Files {
        let both = self.key_ids.zip(before.key_ids);
        let all = both.map(|(new, old)| new.into_iter().chain(old).collect::<BTreeSet<_>>());
        // A keyring has no more.
        let all = all.filter(|all| all.len() <= MAX_KEYS);
        Files {
            location: self.location,
            key_ids: all.map(|all| all.into_iter().collect()),
        }
    }

    /// Strings always serialise.
    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Files of backups that stayed, by the names of their `CodexBackup`s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept(BTreeMap<String, Files>);

impl Kept {
    /// What is written in the `ConfigMap` of that name, whoever made it. What cannot be read may need any key.
    fn parse(map: &ConfigMap) -> Self {
        let data = map.data.iter().flatten();
        let files = |text: &String| serde_json::from_str(text).unwrap_or_default();
        Self(
            data.map(|(name, text)| (name.clone(), files(text)))
                .collect(),
        )
    }

    /// What needs the key of this id, in words.
    pub fn needing(&self, id: &str) -> impl Iterator<Item = String> {
        let needing = self.0.iter().filter(move |(_, files)| files.need(id));
        needing.map(|(name, _)| words(name))
    }

    /// All of them, in words.
    pub fn all(&self) -> impl Iterator<Item = String> {
        self.0.keys().map(|name| words(name))
    }
}

fn words(name: &str) -> String {
    match name {
        names::KEPT_OTHERS => "other backups (kept)".to_owned(),
        name => format!("backup {name} (kept)"),
    }
}

/// The entry by which these files of a backup are written down beside what is there: its own, or, where there is no room for that, the one
/// of all such.
fn entry(data: &BTreeMap<String, String>, name: &str, files: Files) -> (String, String) {
    let before = |name: &str| {
        let text = data.get(name)?;
        Some(serde_json::from_str::<Files>(text).unwrap_or_default())
    };
    let with = |files: Files, name: &str| match before(name) {
        Some(before) => files.and(before),
        None => files,
    };
    let own = with(files.clone(), name).text();
    let others = data
        .iter()
        .filter(|(other, _)| *other != name && *other != names::KEPT_OTHERS);
    let used: usize = others.map(|(name, text)| name.len() + text.len()).sum();
    if used + name.len() + own.len() <= ROOM {
        return (name.to_owned(), own);
    }
    let files = Files {
        location: String::new(),
        ..files
    };
    let name = names::KEPT_OTHERS;
    (name.to_owned(), with(files, name).text())
}

/// What became of writing it down.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there, or there is nothing to be said.
    Done,
    /// Somebody was faster: it is to be tried again.
    Late,
    /// It cannot be, for as long as somebody has not put this right.
    Refused(String),
}

/// Writes down which keys the files of a backup need, by the status that was seen of it.
pub async fn write(client: &Client, backup: &CodexBackup) -> Result<Written, Error> {
    match try_to_write(client, backup).await {
        Ok(written) => Ok(written),
        Err(error) if conflict(&error) => Ok(Written::Late),
        // The keyring goes with its namespace, too.
        Err(kube::Error::Api(answer)) if terminating(&answer) => Ok(Written::Done),
        Err(error) => Ok(Written::Refused(problem::refusal(error)?)),
    }
}

async fn try_to_write(client: &Client, backup: &CodexBackup) -> Result<Written, kube::Error> {
    let status = backup.status.as_ref();
    let Some(status) = status.filter(|status| may_need_keys(status)) else {
        return Ok(Written::Done);
    };
    let namespace = backup.namespace().unwrap_or_default();
    // It may be gone: its name is enough.
    let mut store = CodexStore::new(&backup.spec.store_ref.name, CodexStoreSpec::default());
    store.metadata.namespace = Some(namespace.clone());
    let files = Files {
        location: status.location.clone().unwrap_or_default(),
        key_ids: keys_of_backup(status),
    };
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
    let name = names::kept_backups(&store.name_any());
    let Some(found) = maps.get_opt(&name).await? else {
        let data = BTreeMap::from([entry(&BTreeMap::new(), &backup.name_any(), files)]);
        let params = PostParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let map = desired::kept_backups(&store, data);
        maps.create(&params, &map).await?;
        return Ok(Written::Done);
    };
    if let Ownership::Foreign(why) = ownership(&found.metadata, &store) {
        let problem = Problem::foreign("ConfigMap", &name, &why);
        return Ok(Written::Refused(problem.message));
    }
    let version = found.resource_version();
    let data = found.data.unwrap_or_default();
    let (entry, text) = entry(&data, &backup.name_any(), files);
    if data.get(&entry) != Some(&text) {
        let patch = json!({"metadata": {"resourceVersion": version}, "data": {entry: text}});
        let patch = Patch::Merge(patch);
        maps.patch(&name, &patch_params(), &patch).await?;
    }
    Ok(Written::Done)
}

/// What is written down now: what is asked before a key is made or deleted.
pub async fn live(client: &Client, store: &CodexStore) -> Result<Kept, kube::Error> {
    let namespace = store.namespace().unwrap_or_default();
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
    let name = names::kept_backups(&store.name_any());
    let found = maps.get_opt(&name).await?;
    Ok(found.as_ref().map(Kept::parse).unwrap_or_default())
}

/// What was written down when that was last looked at, as often as the keyring is.
pub async fn seen(shared: &Shared, store: &CodexStore) -> Result<Arc<Kept>, Error> {
    if !store.spec.encryption.is_on() {
        return Ok(Arc::default());
    }
    let known = shared.remember(store, |memory| memory.kept.clone());
    if let Some((at, kept)) = known
        && at.elapsed() < shared.keyring_poll
    {
        return Ok(kept);
    }
    let kept = Arc::new(live(&shared.client, store).await?);
    let now = Some((Instant::now(), Arc::clone(&kept)));
    shared.remember(store, |memory| memory.kept = now);
    Ok(kept)
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
