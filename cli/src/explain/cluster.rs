//! What is asked of the cluster: objects by GET, lists of one namespace. `explain` asks for no Secret.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context, Result};
use codexstore_crds::{CodexBackup, CodexStore, names};
use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{Event, Namespace, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{Selector, SelectorExt},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{args::InCluster, failure::Coded};

/// What is known of the operator's webhook, as far as this user may look.
#[derive(Clone, Debug, PartialEq)]
pub enum Webhook {
    /// It could not be looked up.
    Unknown(String),
    /// There is none.
    Absent,
    /// It is there.
    Present {
        /// Since when.
        since: Option<Time>,
        /// Whether it is asked about pods of this namespace.
        selects: bool,
    },
}

/// A connection, and the namespace that is meant.
pub struct Cluster {
    client: Client,
    /// The namespace.
    pub namespace: String,
}

impl Cluster {
    /// By kubeconfig, or by the service account of a pod.
    pub async fn connect(place: &InCluster) -> Result<Self> {
        let (kubeconfig, context) = (place.kubeconfig.as_deref(), place.context.as_deref());
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let unusable = |e: &dyn std::error::Error| Coded::invalid(format!("kubeconfig: {e}"));
        let mut config = match (kubeconfig, context) {
            (Some(path), _) => {
                let file = Kubeconfig::read_from(path).map_err(|e| unusable(&e))?;
                Config::from_custom_kubeconfig(file, &options)
                    .await
                    .map_err(|e| unusable(&e))?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options)
                .await
                .map_err(|e| unusable(&e))?,
            (None, None) => Config::infer().await.map_err(|e| unusable(&e))?,
        };
        config.connect_timeout = Some(Duration::from_secs(10));
        let namespace = place.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("make a client for the cluster")?;
        Ok(Self { client, namespace })
    }

    /// A pod.
    pub async fn pod(&self, name: &str) -> Result<Option<Pod>> {
        read(self.api::<Pod>().get_opt(name).await, || {
            format!("read pod/{name}")
        })
    }

    /// A store. A cluster that does not even know the resource has none.
    pub async fn store(&self, name: &str) -> Result<Option<CodexStore>> {
        let found = match self.api::<CodexStore>().get_opt(name).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            other => other,
        };
        read(found, || format!("read cxs/{name}"))
    }

    /// A backup.
    pub async fn backup(&self, name: &str) -> Result<Option<CodexBackup>> {
        let found = self.api::<CodexBackup>().get_opt(name).await;
        read(found, || format!("read cxb/{name}"))
    }

    /// Makes an object.
    pub async fn create<K>(&self, object: &K, doing: &str) -> Result<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let made = self.api().create(&PostParams::default(), object).await;
        read(made, || doing.to_owned())
    }

    /// A backup that has to be there.
    pub async fn backup_there(&self, name: &str) -> Result<CodexBackup> {
        let namespace = &self.namespace;
        let missing = || format!("cxb/{name} is not there in namespace {namespace}");
        let found = self.backup(name).await?;
        found.ok_or_else(|| Coded::not_found(missing()).into())
    }

    /// Has a backup verified now: see [`names::VERIFY_ANNOTATION`].
    pub async fn ask_to_verify(&self, backup: &CodexBackup, mark: &str) -> Result<()> {
        let name = backup.name_any();
        let patch = json!({"metadata": {
            "uid": backup.metadata.uid,
            "annotations": {names::VERIFY_ANNOTATION: mark},
        }});
        let (api, params) = (self.api::<CodexBackup>(), PatchParams::default());
        let patched = api.patch(&name, &params, &Patch::Merge(patch)).await;
        read(patched, || format!("ask for cxb/{name} to be verified")).map(drop)
    }

    /// An object of any kind.
    pub async fn get<K>(&self, name: &str) -> Result<Option<K>>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let found = self.api::<K>().get_opt(name).await;
        read(found, || format!("read {} {name}", K::kind(&())))
    }

    /// All backups.
    pub async fn backups(&self) -> Result<Vec<CodexBackup>> {
        let list = self.api::<CodexBackup>().list(&ListParams::default()).await;
        read(list, || "list the CodexBackups".to_owned()).map(|list| list.items)
    }

    /// The names of all stores; none if they cannot be read.
    pub async fn store_names(&self) -> Vec<String> {
        let list = self.api::<CodexStore>().list(&ListParams::default()).await;
        let stores = list.map(|list| list.items).unwrap_or_default();
        stores.into_iter().filter_map(|s| s.metadata.name).collect()
    }

    /// The pods that ask for a store.
    pub async fn pods(&self, store: &str) -> Result<Vec<Pod>> {
        let params = ListParams::default().labels(&format!("{}={store}", names::STORE_LABEL));
        let list = self.api::<Pod>().list(&params).await;
        read(list, || format!("list the pods of cxs/{store}")).map(|list| list.items)
    }

    /// Warnings about pods and what makes them; none if they cannot be read: they only add to what is said.
    pub async fn warnings(&self) -> Vec<Event> {
        let params = ListParams::default().fields("type=Warning").limit(1000);
        let list = self.api::<Event>().list(&params).await;
        list.map(|list| list.items).unwrap_or_default()
    }

    /// The operator's webhook, and whether it is asked about this namespace.
    pub async fn webhook(&self) -> Webhook {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let namespace = namespaces.get(&self.namespace).await;
        let all = match configurations.list(&ListParams::default()).await {
            Ok(all) => all,
            Err(error) => return Webhook::Unknown(reason(&error)),
        };
        let ours = all.items.into_iter().find_map(|configuration| {
            let mut hooks = configuration.webhooks.into_iter().flatten();
            let hook = hooks.find(|hook| hook.name.ends_with(names::GROUP))?;
            Some((configuration.metadata.creation_timestamp, hook))
        });
        let Some((since, hook)) = ours else {
            return Webhook::Absent;
        };
        let labels = match namespace {
            Ok(namespace) => namespace.metadata.labels.unwrap_or_default(),
            Err(error) => return Webhook::Unknown(reason(&error)),
        };
        let selector = hook.namespace_selector.unwrap_or_default();
        match Selector::try_from(selector) {
            Ok(selector) => Webhook::Present {
                since,
                selects: selector.matches(&labels),
            },
            Err(error) => Webhook::Unknown(error.to_string()),
        }
    }

    /// Objects of a kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// The result, or an error that says what was being read, with an exit code that fits.
fn read<T>(result: kube::Result<T>, what: impl FnOnce() -> String) -> Result<T> {
    result.map_err(|error| {
        let text = format!("{}: {}", what(), reason(&error));
        match &error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                Coded::denied(text).into()
            }
            kube::Error::Api(status) if status.code == 404 => Coded::not_found(text).into(),
            kube::Error::Api(status) if status.code == 409 => Coded::conflict(text).into(),
            kube::Error::Api(status) if matches!(status.code, 400 | 422) => {
                Coded::invalid(text).into()
            }
            kube::Error::Api(_) => anyhow::Error::msg(text),
            _ => Coded::unreachable(text).into(),
        }
    })
}

/// The server's own words where there are some, else the error with its causes.
fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
