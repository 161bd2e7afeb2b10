//! `explain`: reads facts from the cluster, then judges them by pure functions.

pub mod cluster;
mod pod;
mod readiness;
mod report;
mod store;

use anyhow::Result;

use self::cluster::{Cluster, Webhook};
use crate::{
    args::Explain,
    failure::Coded,
    output::{self, Format},
};

/// What is to be explained.
#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    Pod(&'a str),
    Store(&'a str),
}

/// `explain`.
pub async fn explain(args: &Explain, format: Format) -> Result<()> {
    let target = target(&args.target)?;
    let cluster = Cluster::connect(&args.place).await?;
    match target {
        Target::Pod(name) => pod(&cluster, name, format).await,
        Target::Store(name) => store(&cluster, name, format).await,
    }
}

fn target(text: &str) -> Result<Target<'_>> {
    let unknown = || {
        Coded::invalid(format!(
            "cannot explain `{text}`: write pod/NAME or cxs/NAME"
        ))
    };
    let (kind, name) = text.split_once('/').ok_or_else(unknown)?;
    if name.is_empty() || name.contains('/') {
        return Err(unknown().into());
    }
    match kind {
        "pod" | "pods" | "po" => Ok(Target::Pod(name)),
        "cxs" | "codexstore" | "codexstores" | "codexstores.codexstore.dev" => {
            Ok(Target::Store(name))
        }
        _ => Err(unknown().into()),
    }
}

async fn pod(cluster: &Cluster, name: &str, format: Format) -> Result<()> {
    let namespace = &cluster.namespace;
    let Some(pod) = cluster.pod(name).await? else {
        let refused = store::refused(&cluster.warnings().await, name);
        let refused = refused.map_or_else(
            || ", and no event says that one was refused".to_owned(),
            |finding| format!("; {}", finding.message),
        );
        return Err(Coded::not_found(format!(
            "pod/{name} is not there in namespace {namespace}{refused}"
        ))
        .into());
    };
    let store = match pod::store_of(&pod) {
        Some(store) => cluster.store(store).await?,
        None => None,
    };
    let webhook = if codexstore_crds::is_injected(&pod) {
        Webhook::Unknown("not looked up".to_owned())
    } else {
        cluster.webhook().await
    };
    let events = cluster.warnings().await;
    let report = pod::explain(&pod::Facts {
        namespace,
        pod: &pod,
        store: store.as_ref(),
        webhook: &webhook,
        events: &events,
    });
    match format {
        Format::Table => output::raw(report.text().as_bytes()),
        Format::Json => output::json(&report),
    }
}

async fn store(cluster: &Cluster, name: &str, format: Format) -> Result<()> {
    let namespace = &cluster.namespace;
    let Some(store) = cluster.store(name).await? else {
        let others = cluster.store_names().await;
        let others = if !others.is_empty() {
            format!("there is {}", others.join(", "))
        } else if cluster.webhook().await == Webhook::Absent {
            "the operator is not installed in this cluster".to_owned()
        } else {
            "there are none".to_owned()
        };
        return Err(Coded::not_found(format!(
            "cxs/{name} is not there in namespace {namespace}; {others}"
        ))
        .into());
    };
    let pods = cluster.pods(name).await?;
    let webhook = cluster.webhook().await;
    let events = cluster.warnings().await;
    let report = store::explain(namespace, &store, &pods, &webhook, &events);
    match format {
        Format::Table => output::raw(report.text().as_bytes()),
        Format::Json => output::json(&report),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_as_for_kubectl() {
        assert_eq!(target("pod/a-0").unwrap(), Target::Pod("a-0"));
        assert_eq!(target("cxs/a").unwrap(), Target::Store("a"));
        assert_eq!(target("codexstore/a").unwrap(), Target::Store("a"));
        for wrong in ["a", "pod/", "deploy/a", "pod/a/b", "/a"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}
