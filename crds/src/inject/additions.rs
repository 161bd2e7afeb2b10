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

use super::{InjectConfig, annotation, podspec, sidecar::clean_path};
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

/// Keeps variables and mounts; after the same version the image, if another webhook pointed it to a mirror, and what the
/// API server sets of itself; and under the same spec the resources that the store does not set. Of a pod's YAML that is applied again after the
/// operator or the store changed, nothing of that is kept: it may be what we ourselves had set then.
pub(super) fn keep(new: &mut Container, old: Container, earlier: Earlier) {
    if earlier.version {
        if is_mirror(old.image.as_deref(), new.image.as_deref()) {
            new.image = old.image;
        }
        new.image_pull_policy = old.image_pull_policy;
        new.resize_policy = old.resize_policy;
        let context = new.security_context.get_or_insert_default();
        if let Some(old) = old.security_context {
            // from the pod's annotations, and from the policies of a cluster
            context.app_armor_profile = old.app_armor_profile;
            context.se_linux_options = old.se_linux_options;
        }
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
        let path = clean_path(&mount.mount_path);
        // also where the data was by an earlier spec
        let taken = path == names::DATA_DIR || mounts.iter().any(|m| m.mount_path == path);
        if !taken && !podspec::VOLUMES.contains(&mount.name.as_str()) {
            mounts.push(mount);
        }
    }
}

/// Whether `image` is `ours` in another registry: the same last part of the repository's name, and the same digest, or
/// where we name none, the same tag (with which a digest may have been written).
fn is_mirror(image: Option<&str>, ours: Option<&str>) -> bool {
    let (Some(image), Some(ours)) = (image.map(parts), ours.map(parts)) else {
        return false;
    };
    let same = match ours.digest {
        Some(digest) => image.digest == Some(digest),
        None => image.tag == ours.tag,
    };
    same && image.name == ours.name
}

/// Of an image's reference, what a mirror does not change.
struct Parts<'a> {
    name: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

fn parts(image: &str) -> Parts<'_> {
    let (image, digest) = image
        .split_once('@')
        .map_or((image, None), |(i, d)| (i, Some(d)));
    let last = image.rsplit('/').next().unwrap_or(image);
    let (name, tag) = last
        .split_once(':')
        .map_or((last, None), |(n, t)| (n, Some(t)));
    Parts { name, tag, digest }
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
