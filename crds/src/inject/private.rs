//! Data, keys and certificates are the sidecar's alone: no container of the user's mounts them, under whatever name.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

use super::{Reason, Refusal, is_injected, podspec};
use crate::{CodexStore, desired::store_name, names};

/// No volume of the user's leads to what is the sidecar's alone under another name.
pub(super) fn volumes(pod: &Pod, spec: &PodSpec, store: &CodexStore) -> Result<(), Refusal> {
    let secrets = names::secrets(store_name(store));
    let injected = is_injected(pod);
    let theirs = spec
        .volumes
        .iter()
        .flatten()
        .filter(|v| !(injected && podspec::VOLUMES.contains(&v.name.as_str())));
    let data = store.spec.volume.pod_volume.as_deref();
    let data_claim = data
        .and_then(|name| spec.volumes.iter().flatten().find(|v| v.name == name))
        .and_then(|v| v.persistent_volume_claim.as_ref())
        .map(|c| c.claim_name.as_str());
    let claims = names::member_claim_prefix(store_name(store));
    for volume in theirs {
        if let Some(secret) = volume_secrets(volume).find(|s| secrets.iter().any(|o| o == s)) {
            return Refusal::new(
                Reason::PrivateVolume,
                format!(
                    "volume {} holds the Secret {secret}, which is for the sidecar alone: remove the volume",
                    volume.name
                ),
            );
        }
        let Some(claim) = volume
            .persistent_volume_claim
            .as_ref()
            .map(|c| c.claim_name.as_str())
        else {
            continue;
        };
        let members = store.spec.volume.claim.is_some() && claim.starts_with(&claims);
        let same = data_claim == Some(claim) && data != Some(volume.name.as_str());
        if members || same {
            return Refusal::new(
                Reason::PrivateVolume,
                format!(
                    "volume {} is the claim {claim}, which holds a store's data and is for the sidecar alone: \
                     use another claim",
                    volume.name
                ),
            );
        }
    }
    Ok(())
}

/// The Secrets that a volume shows.
pub(super) fn volume_secrets(volume: &Volume) -> impl Iterator<Item = &str> {
    let whole = volume
        .secret
        .as_ref()
        .and_then(|s| s.secret_name.as_deref());
    let sources = volume
        .projected
        .iter()
        .flat_map(|p| p.sources.iter().flatten());
    whole.into_iter().chain(
        sources
            .filter_map(|s| s.secret.as_ref())
            .map(|s| s.name.as_str()),
    )
}

pub(super) fn mounts(container: &Container, store: &CodexStore) -> Result<(), Refusal> {
    let data = store.spec.volume.pod_volume.as_deref();
    let devices = container
        .volume_devices
        .iter()
        .flatten()
        .map(|d| d.name.as_str());
    let mounts = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| m.name.as_str());
    for name in mounts.chain(devices) {
        if podspec::PRIVATE.contains(&name) || data == Some(name) {
            return Refusal::new(
                Reason::PrivateVolume,
                format!(
                    "container {} mounts volume {name}, which is for the sidecar alone: remove the mount (the \
                     app reaches the store by the socket in {})",
                    container.name,
                    names::SOCKET_ENV
                ),
            );
        }
    }
    let writes = container
        .volume_mounts
        .iter()
        .flatten()
        .any(|m| m.name == names::SOCKET_VOLUME && m.read_only != Some(true));
    if writes {
        return Refusal::new(
            Reason::PrivateVolume,
            format!(
                "container {} mounts volume {} writable: remove the mount, since it is added by itself, or make it \
                 readOnly",
                container.name,
                names::SOCKET_VOLUME
            ),
        );
    }
    Ok(())
}

pub(super) fn environment(container: &Container, store: &CodexStore) -> Result<(), Refusal> {
    let secrets = names::secrets(store_name(store));
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
                "container {} takes environment from the Secret {secret}, which is for the sidecar alone: remove \
                 that variable",
                container.name
            ),
        ),
        None => Ok(()),
    }
}
