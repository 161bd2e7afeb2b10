//! What happens to a pod at admission: skipped, given its sidecar, or refused.
//!
//! [`decide`] says which, [`inject`] does it. Both see the pod as the API server shows it to a webhook: defaults
//! filled in, and the name absent if it is to be generated. A pod that was injected before (a webhook called
//! again, a pod's YAML applied again) is recognised by its annotation and the sidecar's command; our parts of
//! it are made anew, and what others added to it is kept.

mod additions;
mod checks;
mod ephemeral;
mod podspec;
mod private;
mod refusal;
mod sidecar;
mod verify;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

pub use self::{
    ephemeral::check_ephemeral,
    refusal::{Reason, Refusal},
    verify::check_injected,
};
use crate::{CodexStore, desired::store_name, names, settings::spec_hash};

/// What the operator knows that the store does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectConfig {
    /// Image of the sidecar.
    pub sidecar_image: String,
    /// Pull policy of that image; absent: the cluster's default for its tag.
    pub image_pull_policy: Option<String>,
    /// Version of the operator, noted on the pod.
    pub operator_version: String,
}

/// What is to happen to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The pod does not ask for a store.
    Skip {
        /// Why, in a sentence.
        reason: String,
    },
    /// The pod gets a sidecar (or has it already): [`inject`] succeeds.
    Inject,
    /// The pod asks for a store and cannot have it.
    Refuse(Refusal),
}

/// The store that a pod asks for by its label.
pub fn store_label(pod: &Pod) -> Option<&str> {
    pod.metadata
        .labels
        .as_ref()?
        .get(names::STORE_LABEL)
        .map(String::as_str)
}

/// Decides on a pod that is to be created in `namespace`; `store` is the one that [`store_label`] names, if
/// that exists there.
pub fn decide(pod: &Pod, namespace: &str, store: Option<&CodexStore>) -> Decision {
    let Some(label) = store_label(pod) else {
        return Decision::Skip {
            reason: format!(
                "the pod has no label {}: add `{}: NAME` to the labels of the pod (in a Deployment or \
                 StatefulSet: spec.template.metadata.labels) to give it the CodexStore NAME",
                names::STORE_LABEL,
                names::STORE_LABEL
            ),
        };
    };
    let checked = checks::store(label, namespace, store).and_then(|store| checks::pod(pod, store));
    match checked {
        Ok(()) => Decision::Inject,
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// The pod with its sidecar; `inject(inject(pod)) == inject(pod)`. What the user set is kept, and what cannot
/// be kept is refused. `seed` (the request's UID) spreads the admin ports of pods on the host's network.
pub fn inject(
    pod: &Pod,
    store: &CodexStore,
    cfg: &InjectConfig,
    seed: &str,
) -> Result<Pod, Refusal> {
    checks::pod(pod, store)?;
    let again = is_injected(pod);
    let earlier = additions::Earlier::of(pod, store, cfg);
    let metrics = sidecar::metrics_port(store);
    let port = admin_port(pod)
        .filter(|port| again && Some(*port) != metrics)
        .unwrap_or_else(|| podspec::free_port(pod, seed, metrics));
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let chosen = checks::chosen_containers(pod);

    let mut pod = pod.clone();
    let spec = pod.spec.get_or_insert_default();

    let mut container = sidecar::container(store, cfg, &sidecar::Place::of(spec, port));
    let inits = spec.init_containers.get_or_insert_default();
    if let Some(index) = inits.iter().position(|c| c.name == names::CONTAINER) {
        additions::keep(&mut container, inits.remove(index), earlier);
    }
    inits.insert(0, container);

    let data = podspec::set_volumes(spec, store, &pod_name);
    podspec::set_data_mount(spec, &data);
    let users = spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers);
    for container in users.filter(|c| c.name != names::CONTAINER) {
        if chosen.as_ref().is_none_or(|c| c.contains(&container.name)) {
            podspec::give_socket(container);
        }
    }
    let chose_fs_group = podspec::set_fs_group(spec);

    let annotations = pod.metadata.annotations.get_or_insert_default();
    let mut note = |name: &str, value: String| annotations.insert(name.to_owned(), value);
    note(names::SPEC_HASH_ANNOTATION, spec_hash(store));
    note(names::INJECTED_BY_ANNOTATION, cfg.operator_version.clone());
    if chose_fs_group {
        note(names::FS_GROUP_ANNOTATION, names::SIDECAR_UID.to_string());
    }
    debug_assert_eq!(store_label(&pod), Some(store_name(store)));
    Ok(pod)
}

/// Whether the pod has a sidecar of ours.
pub fn is_injected(pod: &Pod) -> bool {
    annotation(pod, names::INJECTED_BY_ANNOTATION).is_some() && our_sidecar(pod).is_some()
}

/// The store that the pod's sidecar of ours serves, whatever labels the pod has now: its environment cannot be changed.
pub fn served_store(pod: &Pod) -> Option<&str> {
    ephemeral::store_of(our_sidecar(pod)?)
}

/// Port of the sidecar's admin listener in this pod.
pub fn admin_port(pod: &Pod) -> Option<u16> {
    let ports = our_sidecar(pod)?.ports.as_ref()?;
    let port = ports
        .iter()
        .find(|p| p.name.as_deref() == Some(names::ADMIN_PORT_NAME))?;
    u16::try_from(port.container_port).ok()
}

/// The container that is called like our sidecar and runs it.
fn our_sidecar(pod: &Pod) -> Option<&Container> {
    let mut inits = pod.spec.as_ref()?.init_containers.iter().flatten();
    let container = inits.find(|c| c.name == names::CONTAINER)?;
    let ours = container.restart_policy.as_deref() == Some("Always")
        && container.command.as_deref() == Some(&sidecar::command());
    ours.then_some(container)
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let annotations: &BTreeMap<_, _> = pod.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

/// The user's containers, those that run before the app first.
fn user_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let inits = spec.init_containers.iter().flatten();
    inits
        .chain(&spec.containers)
        .filter(|c| c.name != names::CONTAINER)
}
