//! A keyring that the user brings (`encryption.keys.secretRef`), or a passphrase (`passphraseRef`): read, recorded and followed, and
//! never written. Of a passphrase the operator knows no key: each member derives its own, and the record has no ids.
//!
//! The record lets pods in, as it does for a keyring of ours, and says which keys there were: one that the user takes out of
//! the Secret is missed for as long as something needs it ([`super::rotation`] finds that out, once the members were asked).

use codexstore_crds::{CodexStore, desired, names};
use k8s_openapi::api::core::v1::Secret;

use super::keyring::{Facts, Happened, Plan, Seen, facts, on_pod_volumes, recorded};
use super::ownership::{Ownership, ownership};
use super::problem::{self, Problem};

/// Bytes that a member takes for a passphrase.
const PASSPHRASE: std::ops::RangeInclusive<usize> = 12..=1024;

/// Needs of a lost key that are named.
const NAMED: usize = 3;

const GO_ON: &str = "Members that run go on with the keys that they have loaded";

/// What to do with what was seen: nothing but a record is ever made.
pub(super) fn plan(store: &CodexStore, seen: &Seen) -> Plan {
    let name = desired::keyring_name(store);
    if let Some(record) = &seen.record
        && let Ownership::Foreign(why) = ownership(&record.metadata, store)
    {
        let name = names::keyring_record(desired::store_name(store));
        return Plan::Broken(Problem::foreign("ConfigMap", &name, &why));
    }
    let recorded = seen.record.as_ref().map(recorded);
    let passphrase = store.spec.encryption.passphrase_entry();
    let Some(secret) = &seen.secret else {
        let what = match recorded {
            None => format!(
                "Secret {name}, which is to hold the keys of this store, is not there: create it, for example with `{}`, and keep a \
                 copy of it",
                create(&name, passphrase)
            ),
            Some(_) if passphrase.is_some() => format!(
                "Secret {name} is gone, and what this store wrote can be read only with its passphrase: put it back. {GO_ON}"
            ),
            Some(recorded) => format!(
                "Secret {name} is gone, and what this store wrote can be read only with its keys ({}): put it back. {GO_ON}",
                recorded.ids.join(", ")
            ),
        };
        return Plan::Broken(Problem::new(problem::SECRET_MISSING, what));
    };
    let read = match passphrase {
        Some(entry) => passphrase_facts(secret, entry),
        None => facts(secret),
    };
    let mut facts = match read {
        Ok(facts) => facts,
        Err(why) => {
            let kind = if passphrase.is_some() {
                "holds no passphrase for this store"
            } else {
                "is not a keyring"
            };
            let what =
                format!("Secret {name} {kind}: {why}. {GO_ON}; put it right, or back as it was");
            return Plan::Broken(Problem::new(problem::KEY_MALFORMED, what));
        }
    };
    facts.pod_volumes = on_pod_volumes(store, recorded.as_ref());
    let Some(recorded) = recorded else {
        return Plan::Record(facts, Happened::Adopted);
    };
    let known = |id: &String| recorded.ids.contains(id);
    let unknown = facts.ids.iter().any(|id| !known(id));
    facts.lost = without(&recorded.ids, &facts.ids);
    if recorded.uid != facts.secret_uid {
        // Created again, as tools do, or another name in the spec.
        return Plan::Update(facts, Happened::Adopted);
    }
    if unknown || recorded.pod_volumes != facts.pod_volumes {
        return Plan::Update(facts, Happened::Nothing);
    }
    Plan::Steady(facts)
}

fn create(name: &str, passphrase: Option<&str>) -> String {
    match passphrase {
        Some(entry) => format!("kubectl create secret generic {name} --from-file={entry}=FILE"),
        None => format!("codexctl key new --secret {name} | kubectl apply --server-side -f -"),
    }
}

/// Reads a Secret as one with a passphrase, by the rules that the sidecar has. Nothing of it is told, its length neither.
fn passphrase_facts(secret: &Secret, entry: &str) -> Result<Facts, String> {
    let data = secret.data.as_ref();
    let text = data
        .and_then(|data| data.get(entry))
        .ok_or_else(|| format!("the entry `{entry}` is missing"))?;
    let text = text
        .0
        .strip_suffix(b"\n")
        .map_or(text.0.as_slice(), |line| {
            line.strip_suffix(b"\r").unwrap_or(line)
        });
    if !PASSPHRASE.contains(&text.len()) {
        let (least, most) = (PASSPHRASE.start(), PASSPHRASE.end());
        return Err(format!(
            "the passphrase in its entry `{entry}` does not have {least} to {most} bytes"
        ));
    }
    Ok(Facts {
        secret_uid: secret.metadata.uid.clone().unwrap_or_default(),
        version: secret.metadata.resource_version.clone().unwrap_or_default(),
        current: names::PASSPHRASE_NAME.to_owned(),
        ids: Vec::new(),
        lost: Vec::new(),
        pod_volumes: false,
    })
}

fn without(all: &[String], those: &[String]) -> Vec<String> {
    all.iter()
        .filter(|id| !those.contains(id))
        .cloned()
        .collect()
}

/// Keys that are on record, gone from the Secret, and needed.
pub(super) fn missing(
    store: &CodexStore,
    facts: &Facts,
    needed: &[(String, Vec<String>)],
) -> Problem {
    let name = desired::keyring_name(store);
    let list: Vec<_> = needed
        .iter()
        .map(|(id, by)| {
            let more = if by.len() > NAMED { ", …" } else { "" };
            let by: Vec<_> = by.iter().take(NAMED).map(String::as_str).collect();
            format!("{id} ({}{more})", by.join(", "))
        })
        .collect();
    let record = names::keyring_record(desired::store_name(store));
    Problem::new(
        problem::KEY_MISSING,
        format!(
            "Secret {name}, whose current key is {}, lacks keys that are needed: {}. Put them back under their ids. {GO_ON}. Or, if what \
             was written with them is worthless, delete the ConfigMap {record}, and the Secret is taken as it is",
            facts.current,
            list.join("; ")
        ),
    )
}

#[cfg(test)]
#[path = "own_keyring_tests.rs"]
mod tests;
