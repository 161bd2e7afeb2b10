//! Ephemeral containers: added to a running pod, so checked without its store.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

use super::{Reason, Refusal, our_sidecar, podspec, private::volume_secrets, store_label};
use crate::names;

/// Checks an update of a pod's ephemeral containers: new ones may not mount what is the sidecar's alone, nor
/// take environment from its Secrets, nor share its processes: `/proc/PID/root` of one shows its files.
pub fn check_ephemeral(old: &Pod, new: &Pod) -> Result<(), Refusal> {
    let Some(spec) = new.spec.as_ref() else {
        return Ok(());
    };
    let known: Vec<_> = containers(old).map(|c| c.name.as_str()).collect();
    let (volumes, mut secrets) = private_of(spec);
    let sidecar = our_sidecar(new);
    // the label can be changed on a running pod, and the sidecar cannot
    let stores = sidecar.and_then(store_of).into_iter();
    secrets.extend(stores.chain(store_label(new)).flat_map(names::secrets));
    let sidecar = sidecar.is_some();
    for container in containers(new).filter(|c| !known.contains(&c.name.as_str())) {
        if sidecar && container.target_container_name.as_deref() == Some(names::CONTAINER) {
            return Refusal::new(
                Reason::PrivateProcess,
                format!(
                    "ephemeral container {} targets {}, the store's sidecar, and would see its memory and files: name \
                     a container of yours in targetContainerName (kubectl debug --target), or leave it out",
                    container.name,
                    names::CONTAINER
                ),
            );
        }
        check(container, &volumes, &secrets)?;
    }
    Ok(())
}

/// The store that a sidecar serves.
pub(super) fn store_of(sidecar: &Container) -> Option<&str> {
    let mut env = sidecar.env.iter().flatten();
    env.find(|e| e.name == names::STORE_ENV)?.value.as_deref()
}

fn containers(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    pod.spec
        .iter()
        .flat_map(|s| s.ephemeral_containers.iter().flatten())
}

/// The volumes and Secrets that are the sidecar's alone, as this pod has them.
fn private_of(spec: &PodSpec) -> (Vec<&str>, Vec<String>) {
    let sidecar = spec
        .init_containers
        .iter()
        .flatten()
        .find(|c| c.name == names::CONTAINER);
    let data = sidecar
        .and_then(|c| c.volume_mounts.as_ref())
        .and_then(|m| m.iter().find(|m| m.mount_path == names::DATA_DIR))
        .map(|m| m.name.as_str());
    let volumes: Vec<_> = podspec::PRIVATE.into_iter().chain(data).collect();
    let secrets = spec
        .volumes
        .iter()
        .flatten()
        .filter(|v| volumes.contains(&v.name.as_str()))
        .flat_map(volume_secrets)
        .map(str::to_owned)
        .collect();
    (volumes, secrets)
}

fn check(
    container: &EphemeralContainer,
    volumes: &[&str],
    secrets: &[String],
) -> Result<(), Refusal> {
    let name = &container.name;
    let mounts = container.volume_mounts.iter().flatten();
    let devices = container
        .volume_devices
        .iter()
        .flatten()
        .map(|d| d.name.as_str());
    let mut used = mounts.clone().map(|m| m.name.as_str()).chain(devices);
    if let Some(volume) = used.find(|v| volumes.contains(v)) {
        return Refusal::new(
            Reason::PrivateVolume,
            format!(
                "ephemeral container {name} mounts volume {volume}, which is for the sidecar alone: leave the mount out"
            ),
        );
    }
    if mounts.into_iter().any(is_writable_socket) {
        return Refusal::new(
            Reason::PrivateVolume,
            format!(
                "ephemeral container {name} mounts volume {} writable: make the mount readOnly",
                names::SOCKET_VOLUME
            ),
        );
    }
    let one = container.env.iter().flatten().filter_map(|e| {
        Some(
            e.value_from
                .as_ref()?
                .secret_key_ref
                .as_ref()?
                .name
                .as_str(),
        )
    });
    let all = container
        .env_from
        .iter()
        .flatten()
        .filter_map(|e| Some(e.secret_ref.as_ref()?.name.as_str()));
    match one.chain(all).find(|s| secrets.iter().any(|o| o == s)) {
        Some(secret) => Refusal::new(
            Reason::PrivateVolume,
            format!(
                "ephemeral container {name} takes environment from the Secret {secret}, which is for the sidecar \
                 alone: leave that variable out"
            ),
        ),
        None => Ok(()),
    }
}

fn is_writable_socket(mount: &k8s_openapi::api::core::v1::VolumeMount) -> bool {
    mount.name == names::SOCKET_VOLUME && mount.read_only != Some(true)
}
