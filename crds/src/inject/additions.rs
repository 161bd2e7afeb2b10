//! What others added to a sidecar that was injected before: kept when the sidecar is made anew.
//!
//! The API server calls us again after its own admission and other webhooks changed a pod that we patched. Were
//! their additions dropped, the pod would be refused by the very rule that made them: a `LimitRange` that sets a CPU
//! limit where there is none also refuses a container without one.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements, Volume},
    apimachinery::pkg::api::resource::Quantity as K8sQuantity,
};

use super::{InjectConfig, annotation, podspec};
use crate::{CodexStore, Quantity, names, settings::spec_hash};

/// How close the earlier injection is to this one.
#[derive(Clone, Copy)]
pub(super) struct Earlier {
    /// By the same version of the operator.
    version: bool,
    /// And under the same spec.
    spec: bool,
}

impl Earlier {
    pub(super) fn of(pod: &Pod, store: &CodexStore, cfg: &InjectConfig) -> Self {
        let is = |name, value: &str| annotation(pod, name) == Some(value);
        let version = is(names::INJECTED_BY_ANNOTATION, &cfg.operator_version);
        Self {
            version,
            spec: version && is(names::SPEC_HASH_ANNOTATION, &spec_hash(store)),
        }
    }
}

/// Keeps variables and mounts; after the same version the image (another webhook may have pointed it to a mirror);
/// and under the same spec the resources that the store does not set. Of a pod's YAML that is applied again after the
/// operator or the store changed, nothing of that is kept: it may be what we ourselves had set then.
pub(super) fn keep(new: &mut Container, old: Container, earlier: Earlier) {
    if earlier.version {
        new.image = old.image;
        new.image_pull_policy = old.image_pull_policy;
    }
    if let Some(old) = old.resources {
        keep_resources(new.resources.get_or_insert_default(), old, earlier);
    }
    let env = new.env.get_or_insert_default();
    for var in old.env.into_iter().flatten() {
        // a variable of ours that is gone from the spec must go from the pod as well
        if !var.name.starts_with("CODEXSTORE_") && env.iter().all(|v| v.name != var.name) {
            env.push(var);
        }
    }
    let mounts = new.volume_mounts.get_or_insert_default();
    for mount in old.volume_mounts.into_iter().flatten() {
        let taken = mounts.iter().any(|m| m.mount_path == mount.mount_path);
        let data = mount.mount_path == names::DATA_DIR;
        if !taken && !data && !podspec::VOLUMES.contains(&mount.name.as_str()) {
            mounts.push(mount);
        }
    }
}

fn keep_resources(new: &mut ResourceRequirements, old: ResourceRequirements, earlier: Earlier) {
    let pairs = [
        (&mut new.limits, old.limits),
        (&mut new.requests, old.requests),
    ];
    for (new, old) in pairs {
        let new: &mut BTreeMap<_, _> = new.get_or_insert_default();
        for (name, amount) in old.into_iter().flatten() {
            match new.get_mut(&name) {
                Some(ours) => keep_spelling(ours, amount),
                None if earlier.spec => {
                    new.insert(name, amount);
                }
                None => {}
            }
        }
    }
}

/// An empty directory's limit in the API server's spelling.
pub(super) fn keep_size_spelling(new: &mut Volume, old: &Volume) {
    let new = new.empty_dir.as_mut().and_then(|e| e.size_limit.as_mut());
    let old = old.empty_dir.as_ref().and_then(|e| e.size_limit.clone());
    if let (Some(new), Some(old)) = (new, old) {
        keep_spelling(new, old);
    }
}

/// The API server writes `1024Mi` as `1Gi`: what differs only in that is no change.
fn keep_spelling(new: &mut K8sQuantity, old: K8sQuantity) {
    let amount = |q: &K8sQuantity| Quantity::parse(&q.0).ok().map(|q| q.thousandths());
    if amount(new).is_some() && amount(new) == amount(&old) {
        *new = old;
    }
}
