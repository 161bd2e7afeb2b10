//! What Jobs read from and write to the API server.

use anyhow::{Context, Result};
use codexstore_crds::archive::Record;
use codexstore_crds::{CodexBackup, CodexRestore, CodexStore, names};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Config, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::failure::Coded;

/// Who writes a status.
pub const TAKER: &str = "codexctl-backup";
/// Who writes the status of a restore.
pub const RESTORER: &str = "codexctl-restore";
/// Who writes whether a backup verifies.
pub const VERIFIER: &str = "codexctl-verify";

/// A connection with the identity of the pod, and its namespace.
pub struct Cluster {
    /// The connection.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

impl Cluster {
    /// By the service account of this pod, or outside of one by the kubeconfig.
    pub async fn connect(namespace: Option<&str>) -> Result<Cluster> {
        let config = Config::infer().await;
        let config = config.map_err(|e| Coded::invalid(format!("no way to the cluster: {e}")))?;
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let client = Client::try_from(config).context("make a client for the cluster")?;
        Ok(Cluster { client, namespace })
    }

    /// A store.
    pub async fn store(&self, name: &str) -> Result<CodexStore> {
        let api = Api::<CodexStore>::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(name).await;
        let found = found.with_context(|| format!("read cxs/{name}"))?;
        found.ok_or_else(|| Coded::not_found(format!("there is no CodexStore {name}")).into())
    }

    fn backups(&self) -> Api<CodexBackup> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A backup.
    pub async fn backup(&self, name: &str) -> Result<CodexBackup> {
        let found = self.backups().get_opt(name).await;
        let found = found.with_context(|| format!("read cxb/{name}"))?;
        found.ok_or_else(|| Coded::not_found(format!("there is no CodexBackup {name}")).into())
    }

    /// All backups of a store.
    pub async fn backups_of(&self, store: &str) -> Result<Vec<CodexBackup>> {
        let all = self.backups().list(&ListParams::default()).await;
        let mut all = all.context("list the CodexBackups")?.items;
        all.retain(|backup| backup.spec.store_ref.name == store);
        Ok(all)
    }

    /// A restore.
    pub async fn restore(&self, name: &str) -> Result<CodexRestore> {
        let api = Api::<CodexRestore>::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(name).await;
        let found = found.with_context(|| format!("read cxr/{name}"))?;
        found.ok_or_else(|| Coded::not_found(format!("there is no CodexRestore {name}")).into())
    }

    /// Makes a backup, or takes the one of that name, which an earlier try of the same Job made.
    pub async fn make(&self, backup: &CodexBackup) -> Result<CodexBackup> {
        let name = backup.metadata.name.as_deref().unwrap_or_default();
        match self.backups().create(&PostParams::default(), backup).await {
            Ok(made) => Ok(made),
            Err(kube::Error::Api(answer)) if answer.code == 409 => self.backup(name).await,
            Err(error) => Err(error).with_context(|| format!("create cxb/{name}")),
        }
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The record of a store's archive, as it is kept; none if there is no such `ConfigMap`.
    pub async fn record(&self, store: &str) -> Result<Option<ConfigMap>> {
        let name = names::archive_record(store);
        let found = self.maps().get_opt(&name).await;
        found.with_context(|| format!("read the ConfigMap {name}"))
    }

    /// Writes the record in the place of what was read in `version`, and says which version that is; none if it is another one by
    /// now.
    pub async fn write_record(
        &self,
        store: &str,
        version: &str,
        record: &Record,
    ) -> Result<Option<String>> {
        let name = names::archive_record(store);
        let text = serde_json::to_string(record).context("make JSON")?;
        let patch = json!({
            "metadata": {"resourceVersion": version},
            "data": {names::ARCHIVE_RECORD: text},
        });
        let params = PatchParams::default();
        match self
            .maps()
            .patch(&name, &params, &Patch::Merge(patch))
            .await
        {
            Ok(written) => Ok(Some(written.metadata.resource_version.unwrap_or_default())),
            Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("write the ConfigMap {name}")),
        }
    }

    /// Writes what `who` knows of a backup or a restore: all of it, since what is left out is taken back. The UID keeps
    /// it off another one of that name.
    pub async fn tell<K>(&self, object: &K, who: &str, status: Value) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    {
        let name = object.meta().name.as_deref().unwrap_or_default();
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name, "uid": object.meta().uid},
            "status": status,
        });
        let params = PatchParams::apply(who).force();
        let api = Api::<K>::namespaced(self.client.clone(), &self.namespace);
        let patched = api.patch_status(name, &params, &Patch::Apply(patch)).await;
        patched
            .map(drop)
            .with_context(|| format!("write the status of {} {name}", K::kind(&())))
    }

    /// The pods that ask for a store, sorted by name.
    pub async fn pods(&self, store: &str) -> Result<Vec<Pod>> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().labels(&format!("{}={store}", names::STORE_LABEL));
        let list = api.list(&params).await;
        let mut pods = list
            .with_context(|| format!("list the pods of cxs/{store}"))?
            .items;
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(pods)
    }

    /// Tells of something in an event. A courtesy: the status says the same.
    pub async fn event(
        &self,
        about: &[ObjectReference],
        action: &str,
        good: bool,
        reason: &str,
        note: &str,
    ) {
        let reporter = Reporter {
            controller: "codexctl".to_owned(),
            instance: std::env::var("POD_NAME").ok(),
        };
        let recorder = Recorder::new(self.client.clone(), reporter);
        let event = Event {
            type_: if good {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason: reason.to_owned(),
            note: Some(note.chars().take(500).collect()),
            action: action.to_owned(),
            secondary: None,
        };
        for about in about {
            if let Err(error) = recorder.publish(&event, about).await {
                eprintln!("an event was not published: {error}");
            }
        }
    }
}
