//! Data, keys and certificates are the sidecar's alone: no container of the user's mounts them, under whatever name.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

use serde_json::Value;

use super::{
    Reason, Refusal, is_injected, podspec,
    sidecar::{clean_path, overlap},
};
use crate::{
    CodexStore,
    desired::{self, store_name},
    names,
};

/// No volume of the user's leads to what is the sidecar's alone under another name.
pub(super) fn volumes(pod: &Pod, spec: &PodSpec, store: &CodexStore) -> Result<(), Refusal> {
    let secrets = desired::secrets(store);
    let injected = is_injected(pod);
    let theirs = spec
        .volumes
        .iter()
        .flatten()
        .filter(|v| !(injected && podspec::VOLUMES.contains(&v.name.as_str())));
    let data = store.spec.volume.pod_volume.as_deref();
    let data_volume = spec
        .volumes
        .iter()
        .flatten()
        .find(|v| data == Some(&v.name));
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
        if let Some(claim) = claim(volume, pod)
            && store.spec.volume.claim.is_some()
            && claim.starts_with(&claims)
        {
            return Refusal::new(
                Reason::PrivateVolume,
                format!(
                    "volume {} is the claim {claim}, which holds a store's data and is for the sidecar alone: \
                     use another claim",
                    volume.name
                ),
            );
        }
        let Some(data) = data_volume.filter(|d| d.name != volume.name) else {
            continue;
        };
        if let Some(what) = shared(data, volume, pod) {
            return Refusal::new(
                Reason::PrivateVolume,
                format!(
                    "volume {} is {what}, as is volume {}, which holds the store's data and is for the sidecar alone: \
                     give one of them another source",
                    volume.name, data.name
                ),
            );
        }
    }
    Ok(())
}

/// The claim that a volume is; that of a generic ephemeral volume is named after the pod and the volume.
fn claim(volume: &Volume, pod: &Pod) -> Option<String> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some(claim.claim_name.clone());
    }
    let pod = pod.metadata.name.as_deref();
    volume.ephemeral.as_ref()?;
    Some(format!("{}-{}", pod?, volume.name))
}

/// What two volumes of a pod share, for people: a claim, overlapping paths, or the same source otherwise.
fn shared(data: &Volume, other: &Volume, pod: &Pod) -> Option<String> {
    if let (Some(a), Some(b)) = (claim(data, pod), claim(other, pod)) {
        return (a == b).then(|| format!("the claim {b}"));
    }
    let overlap = |a: &str, b: &str| overlap(&clean_path(a), &clean_path(b));
    if let (Some(a), Some(b)) = (&data.host_path, &other.host_path) {
        return overlap(&a.path, &b.path).then(|| format!("the path {} of the node", b.path));
    }
    if let (Some(a), Some(b)) = (&data.nfs, &other.nfs) {
        let same = a.server == b.server && overlap(&a.path, &b.path);
        return same.then(|| format!("the path {} of {}", b.path, b.server));
    }
    let (kind, source) = source(data)?;
    (self::source(other)? == (kind.clone(), source)).then(|| format!("the same {kind}"))
}

/// Kind and source of a volume, whether it is read-only aside; `None` for what is each volume's own by its nature.
fn source(volume: &Volume) -> Option<(String, Value)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(volume) else {
        return None;
    };
    let (kind, mut source) = fields.into_iter().find(|(field, _)| field != "name")?;
    if ["emptyDir", "ephemeral", "gitRepo"].contains(&kind.as_str()) {
        return None;
    }
    source.as_object_mut()?.remove("readOnly");
    Some((kind, source))
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
    let secrets = desired::secrets(store);
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
