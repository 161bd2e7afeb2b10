//! What a pod and its store must fulfil. Every refusal says what to write instead.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

use super::{
    Reason, Refusal, annotation, is_injected, our_sidecar, podspec, private, sidecar,
    user_containers,
};
use crate::{CodexStore, desired::store_name, names, store::CodexStoreSpec};

/// The store that a pod may have now.
pub(super) fn store<'a>(
    label: &str,
    namespace: &str,
    store: Option<&'a CodexStore>,
) -> Result<&'a CodexStore, Refusal> {
    if label.is_empty() {
        return Refusal::new(
            Reason::StoreNotFound,
            format!(
                "the label {} is empty: set it to the name of a CodexStore of namespace {namespace}, or \
                 remove it",
                names::STORE_LABEL
            ),
        );
    }
    let Some(store) = store.filter(|s| store_name(s) == label) else {
        return Refusal::new(
            Reason::StoreNotFound,
            format!(
                "namespace {namespace} has no CodexStore {label}, which the label {} names: create it \
                 (apiVersion: {}/{}, kind: CodexStore, metadata: {{name: {label}, namespace: {namespace}}}, \
                 spec: {{}}), or correct the label",
                names::STORE_LABEL,
                names::GROUP,
                names::VERSION
            ),
        );
    };
    if store.metadata.deletion_timestamp.is_some() {
        return Refusal::new(
            Reason::StoreDeleting,
            format!(
                "CodexStore {label} is being deleted: pods that run keep their store, new ones are not \
                 admitted; create the CodexStore again when it is gone"
            ),
        );
    }
    let keyring = store.status.as_ref().and_then(|s| s.keyring.as_ref());
    if store.spec.encryption.is_on() && keyring.is_none() {
        return Refusal::new(
            Reason::KeyringPending,
            format!(
                "CodexStore {label} has no keyring yet: try again in a moment (controllers do by \
                 themselves); if it lasts, `kubectl describe codexstore {label}` says why"
            ),
        );
    }
    Ok(store)
}

/// All that is checked of the pod itself.
pub(super) fn pod(pod: &Pod, store: &CodexStore) -> Result<(), Refusal> {
    let spec = pod.spec.clone().unwrap_or_default();
    supported(pod, &spec)?;
    lasting_name(pod, store)?;
    container_names(pod, &spec)?;
    containers_annotation(pod, &spec)?;
    volume_names(pod, &spec)?;
    pod_volume(&spec, &store.spec)?;
    private::volumes(pod, &spec, store)?;
    sidecar_mounts(pod)?;
    metrics_port(&spec, store)?;
    for container in user_containers(&spec) {
        private::mounts(container, store)?;
        private::environment(container, store)?;
        socket_path(container)?;
    }
    Ok(())
}

fn supported(pod: &Pod, spec: &PodSpec) -> Result<(), Refusal> {
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Refusal::new(
            Reason::PodUnsupported,
            "CodexStore runs on Linux nodes only: remove the label codexstore.dev/store from this Windows pod",
        );
    }
    if annotation(pod, "kubernetes.io/config.mirror").is_some() {
        return Refusal::new(
            Reason::PodUnsupported,
            "a static pod cannot have a sidecar: remove the label codexstore.dev/store from its file, or \
             make it a DaemonSet",
        );
    }
    Ok(())
}

fn lasting_name(pod: &Pod, store: &CodexStore) -> Result<(), Refusal> {
    if store.spec.volume.claim.is_none() {
        return Ok(());
    }
    let store = store_name(store);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let owners = pod.metadata.owner_references.iter().flatten();
    let random = owners.filter(|o| o.controller == Some(true)).find(|o| {
        matches!(
            o.kind.as_str(),
            "ReplicaSet" | "Job" | "DaemonSet" | "ReplicationController"
        )
    });
    if name.is_empty() || random.is_some() {
        let whose = random.map_or(String::new(), |o| format!(" (by {} {})", o.kind, o.name));
        return Refusal::new(
            Reason::NameRequired,
            format!(
                "CodexStore {store} keeps each pod's data in a claim named after the pod, and this pod's name is \
                 generated{whose}: use a StatefulSet, whose pods keep their names, or a CodexStore with \
                 `volume: {{ephemeral: {{}}}}` or `volume: {{podVolume: NAME}}`"
            ),
        );
    }
    let claim = names::member_claim(store, name);
    if claim.len() > names::MAX_OBJECT_NAME {
        let room = names::MAX_OBJECT_NAME - names::member_claim_prefix(store).len();
        return Refusal::new(
            Reason::NameTooLong,
            format!(
                "the pod's name has {} characters, and its claim {}POD has room for {room}: choose a shorter name",
                name.len(),
                names::member_claim_prefix(store)
            ),
        );
    }
    Ok(())
}

fn container_names(pod: &Pod, spec: &PodSpec) -> Result<(), Refusal> {
    let inits = spec.init_containers.iter().flatten();
    let named = inits
        .chain(&spec.containers)
        .filter(|c| c.name == names::CONTAINER)
        .count();
    let ours = usize::from(is_injected(pod));
    if named > ours {
        return Refusal::new(
            Reason::NameClash,
            format!(
                "a container of the pod is called {}, which is the sidecar's name: rename yours",
                names::CONTAINER
            ),
        );
    }
    Ok(())
}

/// The containers that the user chose; `None` for all.
pub(super) fn chosen_containers(pod: &Pod) -> Option<Vec<String>> {
    let list = annotation(pod, names::CONTAINERS_ANNOTATION)?;
    Some(list.split(',').map(|n| n.trim().to_owned()).collect())
}

fn containers_annotation(pod: &Pod, spec: &PodSpec) -> Result<(), Refusal> {
    for name in chosen_containers(pod).unwrap_or_default() {
        if user_containers(spec).any(|c| c.name == name) {
            continue;
        }
        let known: Vec<_> = user_containers(spec).map(|c| c.name.as_str()).collect();
        return Refusal::new(
            Reason::UnknownContainer,
            format!(
                "the annotation {} names `{name}`, which is no container of the pod: write some of `{}` with \
                 commas between, or remove the annotation to give the socket to all",
                names::CONTAINERS_ANNOTATION,
                known.join(",")
            ),
        );
    }
    Ok(())
}

fn volume_names(pod: &Pod, spec: &PodSpec) -> Result<(), Refusal> {
    if is_injected(pod) {
        return Ok(()); // they are ours, and made anew
    }
    let clash = spec
        .volumes
        .iter()
        .flatten()
        .find(|v| podspec::VOLUMES.contains(&v.name.as_str()));
    match clash {
        Some(volume) => Refusal::new(
            Reason::NameClash,
            format!(
                "volume {} of the pod is called like one of the sidecar's: rename yours",
                volume.name
            ),
        ),
        None => Ok(()),
    }
}

fn pod_volume(pod: &PodSpec, store: &CodexStoreSpec) -> Result<(), Refusal> {
    let Some(name) = &store.volume.pod_volume else {
        return Ok(());
    };
    if podspec::VOLUMES.contains(&name.as_str()) {
        return Refusal::new(
            Reason::BadPodVolume,
            format!(
                "the store's podVolume is {name}, a name of the sidecar's own: name a volume of yours"
            ),
        );
    }
    let Some(volume) = pod.volumes.iter().flatten().find(|v| &v.name == name) else {
        return Refusal::new(
            Reason::BadPodVolume,
            format!(
                "the store's data belongs on the pod's volume {name}, and the pod has none of that name: add it to \
                 spec.volumes"
            ),
        );
    };
    match read_only_kind(volume) {
        Some(kind) => Refusal::new(
            Reason::BadPodVolume,
            format!(
                "the store's data belongs on the pod's volume {name}, which is read-only ({kind}): make it a \
                 volume that can be written, such as a persistentVolumeClaim"
            ),
        ),
        None => Ok(()),
    }
}

/// What makes a volume read-only, if anything does.
fn read_only_kind(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        ("configMap", volume.config_map.is_some()),
        ("secret", volume.secret.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("projected", volume.projected.is_some()),
        ("image", volume.image.is_some()),
    ];
    let flags = [
        volume
            .persistent_volume_claim
            .as_ref()
            .and_then(|v| v.read_only),
        volume.csi.as_ref().and_then(|v| v.read_only),
        volume.nfs.as_ref().and_then(|v| v.read_only),
        volume.iscsi.as_ref().and_then(|v| v.read_only),
        volume.fc.as_ref().and_then(|v| v.read_only),
        volume.rbd.as_ref().and_then(|v| v.read_only),
        volume.cephfs.as_ref().and_then(|v| v.read_only),
        volume.azure_disk.as_ref().and_then(|v| v.read_only),
        volume.azure_file.as_ref().and_then(|v| v.read_only),
        volume
            .gce_persistent_disk
            .as_ref()
            .and_then(|v| v.read_only),
        volume
            .aws_elastic_block_store
            .as_ref()
            .and_then(|v| v.read_only),
    ];
    kinds
        .into_iter()
        .find_map(|(kind, is)| is.then_some(kind))
        .or_else(|| flags.contains(&Some(true)).then_some("readOnly: true"))
}

/// Nothing else is mounted at the socket's directory, nor in it: it is read-only for the app.
fn socket_path(container: &Container) -> Result<(), Refusal> {
    for mount in container.volume_mounts.iter().flatten() {
        let path = sidecar::clean_path(&mount.mount_path);
        let path = path
            .strip_prefix("/var")
            .filter(|p| p.starts_with("/run"))
            .unwrap_or(&path);
        let inside = path
            .strip_prefix(names::SOCKET_DIR)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let ours = mount.name == names::SOCKET_VOLUME && path == names::SOCKET_DIR;
        if inside && !ours {
            return Refusal::new(
                Reason::PathClash,
                format!(
                    "container {} mounts volume {} at {}, where the store's socket belongs: mount it elsewhere",
                    container.name, mount.name, mount.mount_path
                ),
            );
        }
    }
    Ok(())
}

/// Containers of a pod share a network: who binds a port second does not get it.
fn metrics_port(spec: &PodSpec, store: &CodexStore) -> Result<(), Refusal> {
    let Some(port) = sidecar::metrics_port(store) else {
        return Ok(());
    };
    let taken = user_containers(spec).find(|c| {
        let mut ports = c.ports.iter().flatten();
        ports.any(|p| p.container_port == i32::from(port))
    });
    match taken {
        Some(container) => Refusal::new(
            Reason::PortClash,
            format!(
                "container {} has port {port}, on which CodexStore {} serves its metrics: write another port in the \
                 store's `metrics: {{port: …}}`",
                container.name,
                store_name(store)
            ),
        ),
        None => Ok(()),
    }
}

/// What others mounted in a sidecar hides neither its program nor its files, nor shows them what is not theirs.
fn sidecar_mounts(pod: &Pod) -> Result<(), Refusal> {
    let ours = [
        names::SIDECAR_BINARY,
        names::SOCKET_DIR,
        names::DATA_DIR,
        names::KEYRING_DIR,
        names::TLS_DIR,
        names::TOKEN_DIR,
    ];
    let mounts = our_sidecar(pod)
        .into_iter()
        .flat_map(|c| c.volume_mounts.iter().flatten());
    // our own are made anew, and so is the data's, whatever volume it was on
    for mount in mounts.filter(|m| !podspec::VOLUMES.contains(&m.name.as_str())) {
        let path = sidecar::clean_path(&mount.mount_path);
        let clash = ours.iter().find(|o| sidecar::overlap(&path, o));
        if let Some(clash) = clash.filter(|_| path != names::DATA_DIR) {
            return Refusal::new(
                Reason::PathClash,
                format!(
                    "volume {} is mounted at {} in the sidecar {}, over {clash}, which is its own: remove the mount",
                    mount.name,
                    mount.mount_path,
                    names::CONTAINER
                ),
            );
        }
    }
    Ok(())
}
