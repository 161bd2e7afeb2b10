//! What an admission has to know about a store, read from the API server as it is now.
//!
//! Always live: a cache that lags behind would refuse the pods of a store that was created a moment ago.

use std::time::Duration;

use codexstore_crds::{CodexStore, desired, names};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::{Api, Client, ResourceExt as _};

use crate::controller::ownership::{Ownership, ownership};

/// Time between two looks for a keyring that is being made.
const STEP: Duration = Duration::from_millis(200);

/// Whether a store's keyring was made, for admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// It was, and this is the UID of its Secret: pods may come. If the Secret is gone since, they wait for it.
    Yes(String),
    /// Not yet.
    No,
    /// A `ConfigMap` of the record's name exists that the operator did not make.
    Foreign,
}

/// Reads stores and records.
#[derive(Clone)]
pub struct Lookup {
    client: Client,
    wait: Duration,
}

impl Lookup {
    /// `wait` bounds how long an admission waits for a keyring.
    pub fn new(client: Client, wait: Duration) -> Self {
        Self { client, wait }
    }

    /// The store of this name; `None` if there is none.
    pub async fn store(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<CodexStore>, kube::Error> {
        Api::<CodexStore>::namespaced(self.client.clone(), namespace)
            .get_opt(name)
            .await
    }

    /// Waits until the store's keyring is on record, for as long as was asked for; and, where its data will be on a volume of the user's,
    /// until that is: nothing else remembers such a volume once the store is deleted.
    pub async fn recorded(
        &self,
        namespace: &str,
        store: &CodexStore,
    ) -> Result<Recorded, kube::Error> {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let name = names::keyring_record(desired::store_name(store));
        let end = tokio::time::Instant::now() + self.wait;
        loop {
            if let Some(record) = api.get_opt(&name).await? {
                if ownership(&record.metadata, store) != Ownership::Ours {
                    return Ok(Recorded::Foreign);
                }
                let mut data = record.data.unwrap_or_default();
                if store.spec.volume.pod_volume.is_none()
                    || data.contains_key(names::RECORD_POD_VOLUME)
                {
                    let uid = data.remove("secretUid");
                    return Ok(Recorded::Yes(uid.unwrap_or_default()));
                }
            }
            if tokio::time::Instant::now() + STEP > end {
                return Ok(Recorded::No);
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Why a pod cannot have the claim that its store would give it: one of this name is there and somebody else's. A
    /// kubelet would mount it all the same, and without encryption the sidecar would serve what is on it.
    pub async fn foreign_claim(
        &self,
        namespace: &str,
        store: &CodexStore,
        pod: &Pod,
    ) -> Result<Option<String>, kube::Error> {
        let Some(pod) = pod.metadata.name.as_deref() else {
            return Ok(None); // refused elsewhere: a claim needs the pod's name
        };
        if store.spec.volume.claim.is_none() {
            return Ok(None);
        }
        let own = desired::store_name(store);
        let name = names::member_claim(own, pod);
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let Some(claim) = api.get_opt(&name).await? else {
            return Ok(None);
        };
        let Ownership::Foreign(why) = ownership(&claim.metadata, store) else {
            return Ok(None);
        };
        let whose = match claim.labels().get(names::STORE_LABEL) {
            Some(other) if other != own => format!("belongs to CodexStore {other}"),
            _ => "was not made by the CodexStore operator".to_owned(),
        };
        Ok(Some(format!(
            "CodexStore {own} keeps this pod's data in the PersistentVolumeClaim {name}, and that of this name in namespace \
             {namespace} {whose} ({why}): give the pod another name, or delete that claim if its data is not needed"
        )))
    }
}
