//! The store as it is now: what cannot be taken back is not done by what a cache says.

use codexstore_crds::CodexStore;
use kube::{Api, Client, ResourceExt as _};

/// The live CodexStore, if it is still this one: not one that was created since under its name, and not one that is being
/// deleted.
pub async fn same(client: &Client, store: &CodexStore) -> Result<Option<CodexStore>, kube::Error> {
    let namespace = store.namespace().unwrap_or_default();
    let found = Api::<CodexStore>::namespaced(client.clone(), &namespace)
        .get_opt(&store.name_any())
        .await?;
    Ok(found.filter(|found| {
        found.metadata.uid == store.metadata.uid && found.metadata.deletion_timestamp.is_none()
    }))
}

/// Whether the live CodexStore has this very spec too.
pub async fn unchanged(client: &Client, store: &CodexStore) -> Result<bool, kube::Error> {
    let found = same(client, store).await?;
    Ok(found.is_some_and(|found| found.metadata.generation == store.metadata.generation))
}
