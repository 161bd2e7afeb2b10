//! The parts of a pod other than the sidecar's container: volumes, mounts, variables, group.

use k8s_openapi::{
    api::core::v1::{
        Container, EmptyDirVolumeSource, EnvVar, PersistentVolumeClaimVolumeSource, Pod,
        PodSecurityContext, PodSpec, SecretVolumeSource, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity as K8sQuantity,
};
use sha2::{Digest, Sha256};

use super::additions;
use crate::{
    CodexStore,
    desired::{keyring_items, keyring_name, store_name},
    names,
};

/// Names of all volumes that are ours.
pub(super) const VOLUMES: [&str; 5] = [
    names::SOCKET_VOLUME,
    names::DATA_VOLUME,
    names::KEYRING_VOLUME,
    names::TLS_VOLUME,
    names::NO_TOKEN_VOLUME,
];

/// Those of them that only the sidecar mounts.
pub(super) const PRIVATE: [&str; 4] = [
    names::DATA_VOLUME,
    names::KEYRING_VOLUME,
    names::TLS_VOLUME,
    names::NO_TOKEN_VOLUME,
];

/// Ports for pods on the host's network.
const HOST_PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A port for the admin listener that no container of the pod has, and that is not `other`. Containers of a pod share a network, and pods
/// on the host's network share the node's: there the seed spreads them.
pub(super) fn free_port(pod: &Pod, seed: &str, other: Option<u16>) -> u16 {
    let spec = pod.spec.as_ref();
    let ports = spec
        .into_iter()
        .flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
    let taken: Vec<i32> = ports
        .flat_map(|c| c.ports.iter().flatten())
        .flat_map(|p| [Some(p.container_port), p.host_port])
        .flatten()
        .chain(other.map(i32::from))
        .collect();
    let free = |port: &u16| !taken.contains(&i32::from(*port));
    if spec.and_then(|s| s.host_network) != Some(true) {
        return (names::ADMIN_PORT..u16::MAX)
            .find(free)
            .unwrap_or(names::ADMIN_PORT);
    }
    let number = Sha256::digest(seed)
        .iter()
        .take(4)
        .fold(0_u32, |n, byte| n << 8 | u32::from(*byte));
    let span = HOST_PORTS.end - HOST_PORTS.start;
    let start = u16::try_from(number % u32::from(span)).unwrap_or_default();
    let port = |i: u16| HOST_PORTS.start + (start + i) % span;
    (0..span).map(port).find(free).unwrap_or(HOST_PORTS.start)
}

/// Sets our volumes and removes those that the store no longer needs; returns the name of the data volume.
pub(super) fn set_volumes(spec: &mut PodSpec, store: &CodexStore, pod_name: &str) -> String {
    let name = store_name(store);
    let volume = &store.spec.volume;
    let mut wanted = vec![memory(names::SOCKET_VOLUME)];
    let data = if let Some(own) = &volume.pod_volume {
        own.clone()
    } else {
        let mut data = Volume {
            name: names::DATA_VOLUME.to_owned(),
            ..Volume::default()
        };
        if volume.claim.is_some() {
            data.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
                claim_name: names::member_claim(name, pod_name),
                read_only: None,
            });
        } else {
            data.empty_dir = Some(EmptyDirVolumeSource {
                medium: None,
                size_limit: volume.ephemeral.as_ref().map(|e| e.size_limit.to_k8s()),
            });
        }
        wanted.push(data);
        names::DATA_VOLUME.to_owned()
    };
    if store.spec.encryption.is_on() {
        let mut keyring = secret(names::KEYRING_VOLUME, keyring_name(store));
        if let Some(source) = &mut keyring.secret {
            source.items = keyring_items(store);
        }
        wanted.push(keyring);
    }
    wanted.push(secret(names::TLS_VOLUME, names::server_secret(name)));
    wanted.push(memory(names::NO_TOKEN_VOLUME));

    let volumes = spec.volumes.get_or_insert_default();
    volumes
        .retain(|v| !VOLUMES.contains(&v.name.as_str()) || wanted.iter().any(|w| w.name == v.name));
    for mut volume in wanted {
        match volumes.iter_mut().find(|v| v.name == volume.name) {
            Some(old) => {
                additions::keep_size_spelling(&mut volume, old);
                *old = volume;
            }
            None => volumes.push(volume),
        }
    }
    data
}

fn memory(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(K8sQuantity("1Mi".to_owned())),
        }),
        ..Volume::default()
    }
}

/// A whole Secret, readable by the sidecar's user: mode 0444, since the files belong to root, and no other
/// container mounts it. (Never a part by subPath: that would not follow changes.)
fn secret(volume: &str, secret: String) -> Volume {
    Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o444),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Points the sidecar's data mount to its volume.
pub(super) fn set_data_mount(spec: &mut PodSpec, volume: &str) {
    let sidecar = spec
        .init_containers
        .iter_mut()
        .flatten()
        .find(|c| c.name == names::CONTAINER);
    let mounts = sidecar
        .into_iter()
        .flat_map(|c| c.volume_mounts.iter_mut().flatten());
    for mount in mounts.filter(|m| m.mount_path == names::DATA_DIR) {
        volume.clone_into(&mut mount.name);
    }
}

/// Mounts the sockets in a container of the user's, and tells it where they are unless the user has.
pub(super) fn give_socket(container: &mut Container) {
    let mounts = container.volume_mounts.get_or_insert_default();
    let there = |m: &VolumeMount| {
        m.name == names::SOCKET_VOLUME
            && super::sidecar::clean_path(&m.mount_path) == names::SOCKET_DIR
    };
    if !mounts.iter().any(there) {
        mounts.push(VolumeMount {
            name: names::SOCKET_VOLUME.to_owned(),
            mount_path: names::SOCKET_DIR.to_owned(),
            // connecting works, unlinking does not
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    let env = container.env.get_or_insert_default();
    for (name, path) in [
        (names::SOCKET_ENV, names::SOCKET_PATH),
        (names::REDIS_SOCKET_ENV, names::REDIS_SOCKET_PATH),
    ] {
        if env.iter().all(|v| v.name != name) {
            env.push(EnvVar {
                name: name.to_owned(),
                value: Some(path.to_owned()),
                value_from: None,
            });
        }
    }
}

/// Gives a pod without fsGroup the sidecar's, so that it can write to its volume; says whether it is ours.
pub(super) fn set_fs_group(spec: &mut PodSpec) -> bool {
    let context: &mut PodSecurityContext = spec.security_context.get_or_insert_default();
    if context.fs_group.is_some() {
        return false;
    }
    context.fs_group = Some(names::SIDECAR_UID);
    // else each start would walk all files of all volumes
    context
        .fs_group_change_policy
        .get_or_insert_with(|| "OnRootMismatch".to_owned());
    true
}
