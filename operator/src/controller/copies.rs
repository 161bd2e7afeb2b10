//! Copies: a CodexRestore that gives members what another store backed up.
//!
//! Before a Job is started, it is decided here of which backup the copy is, and whether it can be made at all. No key moves: the Job
//! mounts both keyrings, and what is read of them here is which keys there are.

use std::collections::BTreeSet;

use codexstore_crds::codex_backup::{BackupMember, CodexBackupStatus, MAX_BACKUP_MEMBERS, phase};
use codexstore_crds::jobs::{Origin, recorded};
use codexstore_crds::pairs::pairs;
use codexstore_crds::{CodexBackup, CodexRestore, CodexStore, desired, is_injected, names};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use super::{Error, keyring, members};

/// Why no Job is started.
#[derive(Debug, PartialEq, Eq)]
pub enum Not {
    /// Something is missing that may come.
    Yet(String),
    /// It cannot be done as it was asked for.
    Never(String),
}

/// What is copied.
#[derive(Debug)]
pub struct Found {
    backup: CodexBackup,
    store: Option<CodexStore>,
}

impl Found {
    /// What its Job needs to know.
    pub fn origin(&self) -> Origin<'_> {
        Origin {
            backup: &self.backup,
            store: self.store.as_ref(),
        }
    }
}

/// Looks at all that a copy of `from` into the members of `store` needs.
pub async fn look(
    client: &Client,
    store: &CodexStore,
    restore: &CodexRestore,
    from: &str,
) -> Result<Result<Found, Not>, Error> {
    let namespace = store.namespace().unwrap_or_default();
    let backups = Api::<CodexBackup>::namespaced(client.clone(), &namespace);
    let all = match &restore.spec.backup_ref {
        Some(named) => backups.get_opt(&named.name).await?.into_iter().collect(),
        None => backups.list(&ListParams::default()).await?.items,
    };
    let backup = match choose(restore, from, all) {
        Ok(backup) => backup,
        Err(not) => return Ok(Err(not)),
    };
    let stores = Api::<CodexStore>::namespaced(client.clone(), &namespace);
    let found = Found {
        store: stores.get_opt(from).await?,
        backup,
    };
    let label = format!("{}={}", names::STORE_LABEL, store.name_any());
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    let pods = pods
        .list(&ListParams::default().labels(&label))
        .await?
        .items;
    let needed = ready(store, restore, &pods).and_then(|pods| check(store, restore, &found, &pods));
    let needed = match needed {
        Ok(needed) if needed.is_empty() => return Ok(Ok(found)),
        Ok(needed) => needed,
        Err(not) => return Ok(Err(not)),
    };
    let secrets = Api::<Secret>::namespaced(client.clone(), &namespace);
    let theirs = found.origin().keyring();
    let held = secrets.get_opt(&theirs).await?;
    if let Err(why) = has_keys(held.as_ref(), &theirs, &needed, &found.backup.name_any()) {
        return Ok(Err(Not::Never(why)));
    }
    let ours = desired::keyring_name(store);
    Ok(match secrets.get_opt(&ours).await? {
        Some(_) => Ok(found),
        None => Err(Not::Yet(format!("waiting for Secret {ours}"))),
    })
}

/// The backup that is copied, of those that are there.
fn choose(restore: &CodexRestore, from: &str, all: Vec<CodexBackup>) -> Result<CodexBackup, Not> {
    let broken = |backup: &CodexBackup| {
        let verified = backup.status.as_ref().and_then(CodexBackupStatus::verified);
        verified == Some(false) || backup.metadata.deletion_timestamp.is_some()
    };
    if let Some(named) = restore.spec.backup_ref.as_ref().map(|b| &b.name) {
        let Some(backup) = all.into_iter().find(|backup| backup.name_any() == *named) else {
            return Err(Not::Never(format!(
                "there is no CodexBackup {named}, which would say where the backup is and which key opens it"
            )));
        };
        let of = &backup.spec.store_ref.name;
        if of != from {
            return Err(Not::Never(format!(
                "cxb/{named} is a backup of cxs/{of}, and not of cxs/{from}"
            )));
        }
        if broken(&backup) {
            return Err(Not::Never(format!(
                "cxb/{named} is being deleted, or was found broken"
            )));
        }
        return match &backup.status {
            Some(status) if status.usable() && recorded(&backup).is_some() => Ok(backup),
            Some(status) if status.ended() => {
                Err(Not::Never(format!("cxb/{named} has nothing stored")))
            }
            _ => Err(Not::Yet(format!(
                "waiting for cxb/{named}, which is not done"
            ))),
        };
    }
    let whole = |backup: &CodexBackup| {
        let status = backup.status.as_ref();
        status.is_some_and(|s| s.phase.as_deref() == Some(phase::SUCCEEDED))
            && backup.spec.store_ref.name == from
            && recorded(backup).is_some()
            && !broken(backup)
    };
    let ended = |backup: &CodexBackup| {
        let time = backup.status.as_ref().and_then(|s| s.completed_at.clone());
        (time, backup.name_any())
    };
    let last = all.into_iter().filter(whole).max_by_key(ended);
    last.ok_or_else(|| {
        Not::Never(format!(
            "there is no CodexBackup of cxs/{from} in which every member is stored: take one, or name one in `backupRef`"
        ))
    })
}

/// The store's members, once those that are to get something run.
fn ready(store: &CodexStore, restore: &CodexRestore, pods: &[Pod]) -> Result<Vec<String>, Not> {
    let name = store.name_any();
    let living: Vec<_> = pods
        .iter()
        .filter(|pod| is_injected(pod) && members::lives(pod))
        .collect();
    let asked: Vec<_> = restore.spec.members.iter().map(|m| &m.pod).collect();
    if asked.is_empty() && living.is_empty() {
        return Err(Not::Yet(format!(
            "waiting for a pod that runs with cxs/{name}"
        )));
    }
    if let Some(missing) = asked
        .iter()
        .find(|asked| !living.iter().any(|pod| pod.name_any() == ***asked))
    {
        return Err(Not::Yet(format!(
            "waiting for pod {missing}: none of that name runs with cxs/{name}"
        )));
    }
    let late = living.iter().find(|pod| {
        let wanted = asked.is_empty() || asked.contains(&&pod.name_any());
        wanted && !members::has_started(pod)
    });
    if let Some(late) = late {
        let what = format!(
            "waiting for pod {}, whose sidecar does not run yet",
            late.name_any()
        );
        return Err(Not::Yet(what));
    }
    Ok(living.iter().map(|pod| pod.name_any()).collect())
}

/// The ids of the keys that open what is copied: none if it is not encrypted.
fn check(
    store: &CodexStore,
    restore: &CodexRestore,
    found: &Found,
    pods: &[String],
) -> Result<BTreeSet<String>, Not> {
    let (name, backup) = (store.name_any(), found.backup.name_any());
    if let Some(source) = &found.store
        && source.spec.strategy != store.spec.strategy
    {
        return Err(Not::Never(format!(
            "cxs/{} has strategy {:?} and cxs/{name} {:?}: a copy has the one of the store that it is of",
            source.name_any(),
            source.spec.strategy,
            store.spec.strategy
        )));
    }
    let by_passphrase = |store: &CodexStore| store.spec.encryption.passphrase_entry().is_some();
    let other = found.store.as_ref().filter(|source| by_passphrase(source));
    if let Some(words) = other.or(Some(store).filter(|store| by_passphrase(store))) {
        return Err(Not::Never(format!(
            "cxs/{} has its keys from a passphrase, and a copy is handed from one keyring to another: move the data with \
             `codexctl export` and `codexctl import`",
            words.name_any()
        )));
    }
    let listed = found.backup.status.as_ref();
    let listed = listed.map(|s| s.members.as_slice()).unwrap_or_default();
    let mut copied: Vec<&BackupMember> = listed.iter().filter(|m| m.stored).collect();
    // Of very many members the status lists the first: the Job knows all.
    if listed.len() < MAX_BACKUP_MEMBERS {
        let stored: Vec<_> = copied.iter().map(|m| m.pod.as_str()).collect();
        let pairs = pairs(&restore.spec.members, pods, &backup, &stored).map_err(Not::Never)?;
        copied.retain(|m| pairs.iter().any(|(_, from)| *from == m.pod));
    }
    let encrypted = copied.iter().any(|m| m.key_id.is_some());
    match (encrypted, store.spec.encryption.is_on()) {
        (true, false) => Err(Not::Never(format!(
            "cxb/{backup} is encrypted and cxs/{name} is not: copy into a store without `encryption: {{none: {{}}}}`"
        ))),
        (false, true) => Err(Not::Never(format!(
            "cxb/{backup} is not encrypted and cxs/{name} is: copy into a store with `encryption: {{none: {{}}}}`, or move \
             the data with `codexctl export` and `codexctl import`"
        ))),
        _ => Ok(copied.iter().filter_map(|m| m.key_id.clone()).collect()),
    }
}

/// An error if a keyring lacks keys that open the backup, or is none.
fn has_keys(
    secret: Option<&Secret>,
    name: &str,
    needed: &BTreeSet<String>,
    backup: &str,
) -> Result<(), String> {
    let lacks = |what: String| {
        Err(format!(
            "cxb/{backup} cannot be opened: {what}. Put it back"
        ))
    };
    let Some(secret) = secret else {
        return lacks(format!("Secret {name}, which has its key, is gone"));
    };
    match keyring::facts(secret) {
        Err(why) => lacks(format!("Secret {name} is not a keyring: {why}")),
        Ok(facts) => match needed.iter().find(|id| !facts.ids.contains(id)) {
            Some(id) => lacks(format!("Secret {name} lacks its key {id}")),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
