//! Whether a pod is still as it was injected, after all other webhooks.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Map, Value};

use super::{InjectConfig, Reason, Refusal, annotation, inject};
use crate::{CodexStore, desired::store_name, names, settings::spec_hash};

/// Checks a pod that [`super::is_injected`] at the end of admission: injecting it again would change nothing but the
/// order of lists. So whatever [`inject`] keeps (a mirror of the image, further variables and mounts, resources that the
/// store does not set) others may add, and nothing else.
///
/// A pod that another version of the operator injected is not compared: while an upgrade runs, one replica may have
/// mutated the pod and another validates it. Nobody but the webhook can have written that version: it is set anew
/// whenever the mutating webhook sees the pod.
pub fn check_injected(pod: &Pod, store: &CodexStore, cfg: &InjectConfig) -> Result<(), Refusal> {
    if annotation(pod, names::INJECTED_BY_ANNOTATION) != Some(cfg.operator_version.as_str()) {
        return Ok(());
    }
    if annotation(pod, names::SPEC_HASH_ANNOTATION) != Some(spec_hash(store).as_str()) {
        return Refusal::new(
            Reason::SidecarChanged,
            format!(
                "CodexStore {} was changed while the pod was being admitted: create the pod again (controllers do by \
                 themselves)",
                store_name(store)
            ),
        );
    }
    let wanted = inject(pod, store, cfg, "")?;
    match difference(&wanted, pod) {
        None => Ok(()),
        Some(what) => Refusal::new(
            Reason::SidecarChanged,
            format!(
                "{what} is not as the CodexStore webhook left it, so another webhook changed it: let that webhook leave \
                 it alone (a container that needs no socket is left out by the annotation {}), then create the pod \
                 again",
                names::CONTAINERS_ANNOTATION
            ),
        ),
    }
}

/// What differs, as a path for people.
fn difference(wanted: &Pod, found: &Pod) -> Option<String> {
    let (wanted, found) = (wanted.spec.as_ref()?, found.spec.as_ref()?);
    for container in containers(wanted) {
        let other = containers(found).find(|c| c.name == container.name);
        if let Some(field) = changed(&fields(Some(container)), &fields(other)) {
            return Some(format!("{field} of container {}", container.name));
        }
    }
    for volume in wanted.volumes.iter().flatten() {
        if !found.volumes.iter().flatten().any(|v| v == volume) {
            return Some(format!("volume {}", volume.name));
        }
    }
    (wanted.security_context != found.security_context)
        .then(|| "securityContext of the pod".to_owned())
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let inits = spec.init_containers.iter().flatten();
    inits.chain(&spec.containers)
}

/// A container's fields; variables and mounts in an order of their own, since theirs is anybody's.
fn fields(container: Option<&Container>) -> Map<String, Value> {
    let mut container = container.cloned().unwrap_or_default();
    if let Some(env) = &mut container.env {
        env.sort_by(|a, b| a.name.cmp(&b.name));
    }
    if let Some(mounts) = &mut container.volume_mounts {
        mounts.sort_by(|a, b| a.mount_path.cmp(&b.mount_path));
    }
    match serde_json::to_value(container) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// The first field that is not the same in both.
fn changed<'a>(a: &'a Map<String, Value>, b: &'a Map<String, Value>) -> Option<&'a str> {
    let mut names = a.keys().chain(b.keys());
    names
        .find(|n| a.get(*n) != b.get(*n))
        .map(std::string::String::as_str)
}
