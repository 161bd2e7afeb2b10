//! A store's settings as the sidecar takes them: the same for a pod and for `codexctl dev`.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::{
    names,
    store::{CodexStore, CodexStoreSpec, Compression, Durability, Strategy},
};

/// Share of the volume that the store may use, in percent: kubelet evicts a pod over its limit, and file
/// systems need room of their own.
pub const DISK_PERCENT: u64 = 85;
/// Share of the memory limit that the store may use, in percent; the rest is for connections and code.
pub const MEMORY_PERCENT: u64 = 70;

/// Environment of a sidecar for this store: what it stores and how, and whose it is. Where things are
/// (data, socket, keyring, listener) is the caller's to add; the sidecar's defaults are the pod's paths.
pub fn sidecar_env(store: &CodexStore) -> Vec<(String, String)> {
    let mut env = settings(&store.spec);
    let mut add = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
    add(
        names::STORE_ENV,
        store.metadata.name.as_deref().unwrap_or_default(),
    );
    if let Some(uid) = &store.metadata.uid {
        add("CODEXSTORE_STORE_UID", uid);
    }
    add("CODEXSTORE_SPEC_HASH", &spec_hash(store));
    env
}

/// What of a spec the sidecar takes as settings.
fn settings(spec: &CodexStoreSpec) -> Vec<(String, String)> {
    let mut env = Vec::new();
    let mut add = |name: &str, value: String| env.push((name.to_owned(), value));
    add(
        "CODEXSTORE_STRATEGY",
        match spec.strategy {
            Strategy::Snapshot => "snapshot",
            Strategy::Ledger => "ledger",
        }
        .to_owned(),
    );
    add(
        "CODEXSTORE_DURABILITY",
        match spec.durability {
            Durability::Always => "always",
            Durability::Interval => "interval",
        }
        .to_owned(),
    );
    add(
        "CODEXSTORE_COMPRESSION",
        match spec.compression {
            Compression::None => "none",
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
        }
        .to_owned(),
    );
    if spec.encryption.is_on() {
        add(
            "CODEXSTORE_KEY_SIZE",
            spec.encryption.key_size.bits().to_string(),
        );
    } else {
        add("CODEXSTORE_NO_ENCRYPTION", "true".to_owned());
    }
    let keep = spec.keep.clone().unwrap_or_default();
    if let Some(age) = keep.age {
        add("CODEXSTORE_KEEP_AGE", age);
    }
    if let Some(revisions) = keep.revisions {
        add("CODEXSTORE_KEEP_REVISIONS", revisions.to_string());
    }
    if !spec.access.is_empty() {
        // A dollar sign as JSON escapes it: in a container's environment $(NAME) would be replaced.
        let rules = serde_json::to_string(&spec.access).unwrap_or_default();
        add("CODEXSTORE_ACCESS", rules.replace('$', r"\u0024"));
    }
    if let Some(tracing) = &spec.tracing {
        add("CODEXSTORE_OTLP_ENDPOINT", tracing.endpoint.clone());
        if tracing.sampling_rate_per_million > 0 {
            add(
                "CODEXSTORE_OTLP_SAMPLING_RATE_PER_MILLION",
                tracing.sampling_rate_per_million.to_string(),
            );
        }
    }
    if let Some(bytes) = disk_budget(spec) {
        add("CODEXSTORE_MAX_DISK", bytes.to_string());
    }
    add("CODEXSTORE_MAX_MEMORY", memory_budget(spec).to_string());
    env
}

/// Bytes that the store may use of its volume: 85 % of the limit or claim. `None` for a volume whose size
/// is not known here (`podVolume`): the sidecar takes 85 % of the file system.
pub fn disk_budget(spec: &CodexStoreSpec) -> Option<u64> {
    let size = spec.volume.claim.as_ref().map(|c| &c.size);
    let size = size.or(spec.volume.ephemeral.as_ref().map(|e| &e.size_limit));
    size.map(|s| s.percent(DISK_PERCENT))
}

/// Bytes of memory that the store may use: 70 % of the container's limit.
pub fn memory_budget(spec: &CodexStoreSpec) -> u64 {
    spec.resources.limits.memory.percent(MEMORY_PERCENT)
}

/// Hash of all that a pod's sidecar takes from the spec, as 16 hex digits: a pod with another one was
/// admitted under an older spec. What holds for claims only (class, reclaim policy) is not in it.
pub fn spec_hash(store: &CodexStore) -> String {
    let spec = &store.spec;
    let volume = match (&spec.volume.claim, &spec.volume.pod_volume) {
        (Some(_), _) => "claim".to_owned(),
        (None, Some(name)) => format!("podVolume {name}"),
        (None, None) => "ephemeral".to_owned(),
    };
    let resources = &spec.resources;
    let mut hash = Sha256::new();
    for (name, value) in settings(spec) {
        hash.update(format!("{name}={value}\n"));
    }
    hash.update(format!(
        "volume={volume}\nrequests={},{}\nlimits={},{}\n",
        resources.requests.cpu,
        resources.requests.memory,
        resources.limits.cpu.as_ref().map_or("", |q| q.as_str()),
        resources.limits.memory,
    ));
    // not for stores without it: what was admitted before there was this setting is not outdated
    if let Some(metrics) = &spec.metrics {
        hash.update(format!("metrics={}\n", metrics.port));
    }
    if spec.restores_on_start() {
        hash.update("restore=IfEmpty\n");
    }
    // A pod keeps the Secret that it was admitted with.
    if let Some(secret) = spec.encryption.own_secret() {
        hash.update(format!("keyring={secret}\n"));
    }
    if let Some(entry) = spec.encryption.passphrase_entry() {
        hash.update(format!("passphrase={entry}\n"));
    }
    hash.finalize()
        .iter()
        .take(8)
        .fold(String::new(), |mut text, byte| {
            // writing to a String does not fail
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(spec: &str) -> CodexStore {
        let mut store = CodexStore::new("orders", serde_yaml::from_str(spec).unwrap());
        store.metadata.uid = Some("uid".to_owned());
        store
    }

    fn setting(spec: &str, name: &str) -> Option<String> {
        let env = sidecar_env(&store(spec));
        assert!(env.iter().all(|(n, _)| n.starts_with("CODEXSTORE_")));
        env.into_iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value)
    }

    #[test]
    fn each_field_reaches_the_sidecar() {
        for (spec, name, value) in [
            ("{}", "CODEXSTORE_STRATEGY", Some("snapshot")),
            ("{}", "CODEXSTORE_DURABILITY", Some("always")),
            (
                "{durability: Interval}",
                "CODEXSTORE_DURABILITY",
                Some("interval"),
            ),
            ("{}", "CODEXSTORE_COMPRESSION", Some("zstd")),
            (
                "{compression: None}",
                "CODEXSTORE_COMPRESSION",
                Some("none"),
            ),
            (
                "{compression: Gzip}",
                "CODEXSTORE_COMPRESSION",
                Some("gzip"),
            ),
            (
                "{compression: Snappy}",
                "CODEXSTORE_COMPRESSION",
                Some("snappy"),
            ),
            ("{}", "CODEXSTORE_KEY_SIZE", Some("256")),
            (
                "{encryption: {keySize: 192}}",
                "CODEXSTORE_KEY_SIZE",
                Some("192"),
            ),
            ("{}", "CODEXSTORE_NO_ENCRYPTION", None),
            (
                "{encryption: {none: {}}}",
                "CODEXSTORE_NO_ENCRYPTION",
                Some("true"),
            ),
            ("{encryption: {none: {}}}", "CODEXSTORE_KEY_SIZE", None),
            ("{strategy: Ledger}", "CODEXSTORE_STRATEGY", Some("ledger")),
            (
                "{strategy: Ledger, keep: {age: 720h, revisions: 1000}}",
                "CODEXSTORE_KEEP_AGE",
                Some("720h"),
            ),
            (
                "{strategy: Ledger, keep: {revisions: 1000}}",
                "CODEXSTORE_KEEP_REVISIONS",
                Some("1000"),
            ),
            ("{}", "CODEXSTORE_ACCESS", None),
            (
                "{access: [{uids: [1000], prefixes: [\"a$(X)/\"], verbs: [Read, Write]}, {gids: [7], verbs: [Read]}]}",
                "CODEXSTORE_ACCESS",
                Some(
                    r#"[{"uids":[1000],"prefixes":["a\u0024(X)/"],"verbs":["Read","Write"]},{"gids":[7],"verbs":["Read"]}]"#,
                ),
            ),
            ("{}", "CODEXSTORE_OTLP_ENDPOINT", None),
            (
                "{tracing: {endpoint: \"http://collector:4317\"}}",
                "CODEXSTORE_OTLP_ENDPOINT",
                Some("http://collector:4317"),
            ),
            (
                "{tracing: {endpoint: \"http://collector:4317\"}}",
                "CODEXSTORE_OTLP_SAMPLING_RATE_PER_MILLION",
                None,
            ),
            (
                "{tracing: {endpoint: \"http://collector:4317\", samplingRatePerMillion: 250}}",
                "CODEXSTORE_OTLP_SAMPLING_RATE_PER_MILLION",
                Some("250"),
            ),
            ("{}", "CODEXSTORE_STORE", Some("orders")),
            ("{}", "CODEXSTORE_STORE_UID", Some("uid")),
        ] {
            assert_eq!(setting(spec, name).as_deref(), value, "{spec} {name}");
        }
    }

    #[test]
    fn budgets_leave_room_in_the_volume_and_in_memory() {
        for (spec, disk) in [
            ("{}", Some("912680550")),
            ("{volume: {ephemeral: {sizeLimit: 100M}}}", Some("85000000")),
            ("{volume: {claim: {size: 100M}}}", Some("85000000")),
            ("{volume: {podVolume: state}}", None),
        ] {
            assert_eq!(
                setting(spec, "CODEXSTORE_MAX_DISK").as_deref(),
                disk,
                "{spec}"
            );
        }
        let memory = setting(
            "{resources: {limits: {memory: 100M}}}",
            "CODEXSTORE_MAX_MEMORY",
        );
        assert_eq!(memory.as_deref(), Some("70000000"));
    }

    #[test]
    fn the_hash_changes_with_what_a_sidecar_takes_and_with_nothing_else() {
        let hash = |spec: &str| spec_hash(&store(spec));
        let base = hash("{}");
        assert_eq!(base.len(), 16);
        assert_eq!(
            base,
            hash("{volume: {ephemeral: {sizeLimit: 1024Mi}}}"),
            "the same size"
        );
        let specs = [
            "{}",
            "{durability: Interval}",
            "{strategy: Ledger}",
            "{strategy: Ledger, keep: {revisions: 5}}",
            "{access: [{uids: [1000], verbs: [Read]}]}",
            "{compression: None}",
            "{encryption: {keySize: 128}}",
            "{encryption: {none: {}}}",
            "{encryption: {keys: {secretRef: {name: mine}}}}",
            "{encryption: {keys: {secretRef: {name: mine-2}}}}",
            "{encryption: {keys: {passphraseRef: {name: mine}}}}",
            "{encryption: {keys: {passphraseRef: {name: mine, key: p}}}}",
            "{volume: {ephemeral: {sizeLimit: 2Gi}}}",
            "{volume: {claim: {size: 1Gi}}}",
            "{volume: {podVolume: a}}",
            "{volume: {podVolume: b}}",
            "{resources: {requests: {cpu: 20m}}}",
            "{resources: {requests: {memory: 65Mi}}}",
            "{resources: {limits: {cpu: 1}}}",
            "{resources: {limits: {memory: 257Mi}}}",
            "{metrics: {}}",
            "{metrics: {port: 9100}}",
            "{tracing: {endpoint: \"http://a:4317\"}}",
            "{tracing: {endpoint: \"http://b:4317\"}}",
            "{tracing: {endpoint: \"http://b:4317\", samplingRatePerMillion: 1}}",
            "{restore: {onStart: IfEmpty}}",
        ];
        let hashes: std::collections::BTreeSet<_> = specs.iter().map(|s| hash(s)).collect();
        assert_eq!(hashes.len(), specs.len());
        assert_eq!(base, hash("{restore: {onStart: Never}}"));
        assert_eq!(
            hash("{volume: {claim: {size: 1Gi}}}"),
            hash("{volume: {claim: {size: 1Gi, reclaimPolicy: Delete, storageClassName: fast}}}"),
        );
        let mut other = store("{}");
        other.metadata.uid = Some("another".to_owned());
        assert_eq!(spec_hash(&other), base, "the UID is no setting");
    }
}
