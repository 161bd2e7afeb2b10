//! Volumes of lasting members: made when their pod is seen, grown when the spec grows, never deleted.

use std::sync::Arc;

use codexstore_crds::{CodexStore, Quantity, desired, names};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tracing::info;

use super::keyring::conflict;
use super::live;
use super::members;
use super::ownership::{Ownership, ownership};
use super::problem::{self, Problem};

/// What came of a look at the claims.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What a user has to look after.
    pub problems: Vec<Problem>,
    /// Pods whose claim is somebody else's: to be told on the pod too.
    pub of_pods: Vec<(Arc<Pod>, Problem)>,
    /// Names of claims that were made.
    pub made: Vec<String>,
    /// Names of claims that were grown.
    pub grown: Vec<String>,
}

/// Whether a claim is a member's of the store of this name: by its label, or by its own name, since a label can be taken off.
pub fn is_of(claim: &PersistentVolumeClaim, store: &str) -> bool {
    let label = claim.labels().get(names::STORE_LABEL);
    let prefix = names::member_claim_prefix(store);
    label.is_some_and(|name| name == store) || claim.name_any().starts_with(&prefix)
}

/// Changes that a claim needs; `None` when it is right.
fn change(store: &CodexStore, found: &PersistentVolumeClaim) -> Option<Value> {
    let wanted = desired::member_claim(store, "", false)?;
    let mut patch = json!({"metadata": {"resourceVersion": found.resource_version()}});
    let mut changed = false;
    let mut owners: Vec<OwnerReference> = found.owner_references().to_vec();
    owners.retain(|o| !(o.kind == "CodexStore" && o.name == store.name_any()));
    owners.extend(wanted.metadata.owner_references.into_iter().flatten());
    if owners != found.owner_references() {
        *patch.pointer_mut("/metadata")? = json!({
            "resourceVersion": found.resource_version(), "ownerReferences": owners,
        });
        changed = true;
    }
    if grows(store, found) {
        let size = &store.spec.volume.claim.as_ref()?.size;
        let spec = json!({"resources": {"requests": {"storage": size.as_str()}}});
        patch.as_object_mut()?.insert("spec".to_owned(), spec);
        changed = true;
    }
    changed.then_some(patch)
}

/// Whether the spec asks for more than the claim does. A claim that somebody made larger by hand stays.
fn grows(store: &CodexStore, found: &PersistentVolumeClaim) -> bool {
    let Some(claim) = &store.spec.volume.claim else {
        return false;
    };
    let requests = found
        .spec
        .as_ref()
        .and_then(|s| s.resources.as_ref()?.requests.as_ref());
    let have = requests.and_then(|r| Quantity::parse(&r.get("storage")?.0).ok());
    have.is_some_and(|have| have.units() < claim.size.units())
}

/// Makes the claims of the pods that are there, and keeps all claims of the store as the spec says.
pub async fn ensure(
    client: &Client,
    store: &CodexStore,
    pods: &[Arc<Pod>],
    claims: &[Arc<PersistentVolumeClaim>],
) -> Result<Outcome, kube::Error> {
    let mut outcome = Outcome::default();
    if store.spec.volume.claim.is_none() {
        return Ok(outcome);
    }
    let namespace = store.namespace().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace);
    for pod in pods
        .iter()
        .filter(|p| members::lives(p) && codexstore_crds::is_injected(p))
    {
        let name = names::member_claim(&store.name_any(), &pod.name_any());
        let cached = claims.iter().find(|c| c.name_any() == name);
        // Not in the cache: it may be missing, too new, or without our labels.
        let found = match cached {
            Some(cached) => Some(cached.metadata.clone()),
            None => api.get_opt(&name).await?.map(|found| found.metadata),
        };
        if let Some(found) = found {
            if let Ownership::Foreign(why) = ownership(&found, store) {
                let problem = Problem::foreign("PersistentVolumeClaim", &name, &why);
                outcome.problems.push(problem.clone());
                outcome.of_pods.push((Arc::clone(pod), problem));
            }
            continue;
        }
        let Some(claim) = desired::member_claim(store, &pod.name_any(), false) else {
            continue;
        };
        if claim.metadata.owner_references.is_some() && !live::unchanged(client, store).await? {
            continue;
        }
        let params = PostParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match api.create(&params, &claim).await {
            Ok(_) => {
                info!(namespace, claim = name, "claim made");
                outcome.made.push(name);
            }
            Err(error) if conflict(&error) => {}
            Err(error) => refused(&mut outcome, "made", &name, error)?,
        }
    }
    for found in claims {
        let name = found.name_any();
        if let Ownership::Foreign(why) = ownership(&found.metadata, store) {
            // With our label but not ours: it only matters if a pod needs the name.
            let problem = Problem::foreign("PersistentVolumeClaim", &name, &why);
            if name.starts_with(&names::member_claim_prefix(&store.name_any()))
                && !outcome.problems.contains(&problem)
            {
                outcome.problems.push(problem);
            }
            continue;
        }
        let Some(patch) = change(store, found) else {
            continue;
        };
        // An owner that is gone, or a policy that is no more, would have the claim collected, and the data with it.
        if patch.pointer("/metadata/ownerReferences").is_some()
            && !live::unchanged(client, store).await?
        {
            continue;
        }
        let grows = grows(store, found);
        let params = PatchParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api.patch(&name, &params, &Patch::Merge(patch)).await {
            Ok(_) => {
                info!(namespace, claim = name, grows, "claim changed");
                if grows {
                    outcome.grown.push(name);
                }
            }
            Err(error) if conflict(&error) => {}
            Err(error) => refused(&mut outcome, "changed", &name, error)?,
        }
    }
    Ok(outcome)
}

/// What the API server refuses (quota, a class that cannot grow) is the user's to solve; anything else is retried.
fn refused(
    outcome: &mut Outcome,
    what: &str,
    name: &str,
    error: kube::Error,
) -> Result<(), kube::Error> {
    if matches!(&error, kube::Error::Api(status) if status.code == 404) {
        return Ok(());
    }
    let why = problem::refusal(error)?;
    let message = format!("PersistentVolumeClaim {name} cannot be {what}: {why}");
    let problem = Problem::new(problem::VOLUME_FAILED, message);
    outcome.problems.push(problem);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::{claim_store, store};
    use codexstore_crds::store::ReclaimPolicy;

    fn claim(store: &CodexStore) -> PersistentVolumeClaim {
        desired::member_claim(store, "web-0", false).unwrap()
    }

    #[test]
    fn a_claim_follows_a_larger_size_and_never_a_smaller_one() {
        let small = claim(&claim_store("1Gi"));
        assert_eq!(change(&claim_store("1Gi"), &small), None);
        assert_eq!(change(&claim_store("1024Mi"), &small), None);
        let patch = change(&claim_store("2Gi"), &small).unwrap();
        assert_eq!(patch["spec"]["resources"]["requests"]["storage"], "2Gi");
        assert_eq!(change(&claim_store("512Mi"), &small), None);
    }

    #[test]
    fn a_claim_is_owned_exactly_where_the_policy_is_delete() {
        let mut delete = claim_store("1Gi");
        delete.spec.volume.claim.as_mut().unwrap().reclaim_policy = ReclaimPolicy::Delete;
        let patch = change(&delete, &claim(&claim_store("1Gi"))).unwrap();
        assert_eq!(patch["metadata"]["ownerReferences"][0]["uid"], "store-uid");
        let patch = change(&claim_store("1Gi"), &claim(&delete)).unwrap();
        assert_eq!(patch["metadata"]["ownerReferences"], json!([]));
        assert_eq!(change(&delete, &claim(&delete)), None);
    }

    #[test]
    fn other_owners_of_a_claim_are_kept() {
        let store = claim_store("1Gi");
        let mut found = claim(&store);
        found.metadata.owner_references = Some(vec![OwnerReference {
            kind: "StatefulSet".into(),
            ..OwnerReference::default()
        }]);
        assert_eq!(change(&store, &found), None);
    }

    #[test]
    fn stores_without_claims_change_none() {
        assert_eq!(change(&store(), &claim(&claim_store("1Gi"))), None);
    }
}
