//! Statuses, as the operator writes them.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::keyring::conflict;

/// What a status is written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Whatever is there by now.
    Any,
    /// What was seen, and nothing that somebody wrote since.
    Seen,
}

/// Writes all that `manager` says in the status of an object: what it said before and leaves out goes. The UID keeps it off another
/// object of that name. False if there was nothing to write it to: the object is gone, or another one, or newer than what was seen.
pub async fn tell<K>(
    client: &Client,
    object: &K,
    manager: &str,
    over: Over,
    status: &impl Serialize,
) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let name = object.name_any();
    let (uid, version) = (&object.meta().uid, &object.meta().resource_version);
    let metadata = match over {
        Over::Any => json!({"name": name, "uid": uid}),
        Over::Seen => json!({"name": name, "uid": uid, "resourceVersion": version}),
    };
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": metadata,
        "status": status,
    });
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let params = PatchParams::apply(manager).force();
    match api.patch_status(&name, &params, &Patch::Apply(patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(false),
        Err(error) if conflict(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use codexstore_crds::CodexStore;

    use super::super::fake_api::{FakeApi, Fault};
    use super::super::scripted::STORE;
    use super::*;
    use crate::controller::fixtures::store;

    async fn write(api: &FakeApi, object: &CodexStore, over: Over) -> Option<bool> {
        let status = json!({"phase": "Ready"});
        tell(&api.client, object, "me", over, &status).await.ok()
    }

    #[tokio::test]
    async fn a_status_is_written_to_the_object_that_was_seen_and_to_no_other() {
        let api = FakeApi::start().await;
        api.put(STORE, &store());
        let seen: CodexStore = serde_json::from_value(api.get(STORE).unwrap()).unwrap();
        assert_eq!(write(&api, &seen, Over::Seen).await, Some(true));
        // By now it is another version.
        assert_eq!(write(&api, &seen, Over::Seen).await, Some(false));
        assert_eq!(write(&api, &seen, Over::Any).await, Some(true));
        let mut other = store();
        other.metadata.uid = Some("another-uid".into());
        api.put(STORE, &other);
        assert_eq!(write(&api, &seen, Over::Any).await, Some(false));
        assert!(api.get(STORE).unwrap()["status"].is_null());
        api.remove(STORE);
        assert_eq!(write(&api, &seen, Over::Any).await, Some(false));
        // Anything else is an error, and tried again.
        api.put(STORE, &store());
        api.fail(0, Fault::Before);
        assert_eq!(write(&api, &seen, Over::Any).await, None);
    }
}
