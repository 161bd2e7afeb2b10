//! Every name that two parts of CodexStore must agree on: labels, annotations, containers, volumes,
//! paths, and the objects that the operator makes in a store's namespace.

/// API group of the custom resources.
pub const GROUP: &str = "codexstore.dev";
/// Version of the custom resources.
pub const VERSION: &str = "v1alpha1";
/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "codexstore-operator";

/// Label with a store's name: on pods it asks for the sidecar, on other objects it says whose they are.
pub const STORE_LABEL: &str = "codexstore.dev/store";
/// Label with a backup's name, on its Jobs.
pub const BACKUP_LABEL: &str = "codexstore.dev/backup";
/// Label with a restore's name, on its Job.
pub const RESTORE_LABEL: &str = "codexstore.dev/restore";
/// Label of a CodexBackup that a scheduled Job made and takes: the Job's name. No other Job is made for it.
pub const JOB_LABEL: &str = "codexstore.dev/job";
/// Annotation of a CodexBackup by which somebody has it verified now, whatever the store's policy says, and of the Job that does so: any text that
/// was not there before. The operator takes it away once the condition `Verified` has the answer.
pub const VERIFY_ANNOTATION: &str = "codexstore.dev/verify";
/// Label of a CodexBackup that the archiver asked for, since the pieces that it stores need one that they follow.
pub const ARCHIVE_BASE_LABEL: &str = "codexstore.dev/archive-base";
/// Label of the archiver's pod: the store's name.
pub const ARCHIVER_LABEL: &str = "codexstore.dev/archiver";
/// Finalizer of a CodexBackup: what is stored is deleted first.
pub const STORED_FINALIZER: &str = "codexstore.dev/stored-backup";
/// Label of the keyring Secret, by which a recreated store finds it.
pub const KEYRING_LABEL: &str = "codexstore.dev/keyring";
/// Annotation by which a user narrows which containers get the socket: names with commas between.
pub const CONTAINERS_ANNOTATION: &str = "codexstore.dev/containers";
/// Annotation set by the webhook: [`crate::spec_hash`] of the store at admission.
pub const SPEC_HASH_ANNOTATION: &str = "codexstore.dev/spec-hash";
/// Annotation set by the webhook: the operator's version.
pub const INJECTED_BY_ANNOTATION: &str = "codexstore.dev/injected-by";
/// Annotation set by the webhook where it chose the pod's fsGroup.
pub const FS_GROUP_ANNOTATION: &str = "codexstore.dev/fs-group";
/// Annotation of the sealed keyring: a hash of what it was made from (never of keys), and of itself.
pub const SEALED_FROM_ANNOTATION: &str = "codexstore.dev/sealed-from";
/// Annotation of a member's claim: the pod that it belongs to (a label has room for 63 characters only).
pub const POD_ANNOTATION: &str = "codexstore.dev/pod";

/// Name of the sidecar's container.
pub const CONTAINER: &str = "codexstore";
/// The sidecar's executable in its image.
pub const SIDECAR_BINARY: &str = "/codexstore-sidecar";
/// User and group of the sidecar, and fsGroup of pods that have none.
pub const SIDECAR_UID: i64 = 65532;

/// Volume that holds the socket.
pub const SOCKET_VOLUME: &str = "codexstore-socket";
/// Volume that holds the store, unless it is the user's own (`podVolume`).
pub const DATA_VOLUME: &str = "codexstore-data";
/// Volume with the keyring Secret.
pub const KEYRING_VOLUME: &str = "codexstore-keyring";
/// Volume of a backup's Job with the sealed keyring.
pub const ESCROW_VOLUME: &str = "codexstore-escrow";
/// Where that is mounted.
pub const ESCROW_DIR: &str = "/etc/codexstore/escrow";
/// Volume with the admin listener's certificate.
pub const TLS_VOLUME: &str = "codexstore-tls";
/// Empty volume that hides the service account's token in the sidecar.
pub const NO_TOKEN_VOLUME: &str = "codexstore-no-token";

/// Where the socket's volume is mounted.
pub const SOCKET_DIR: &str = "/run/codexstore";
/// The socket.
pub const SOCKET_PATH: &str = "/run/codexstore/codexstore.sock";
/// Variable in the app's containers that holds [`SOCKET_PATH`].
pub const SOCKET_ENV: &str = "CODEXSTORE_SOCKET";
/// The socket of the Redis protocol.
pub const REDIS_SOCKET_PATH: &str = "/run/codexstore/redis.sock";
/// Variable in the app's containers that holds [`REDIS_SOCKET_PATH`].
pub const REDIS_SOCKET_ENV: &str = "CODEXSTORE_REDIS_SOCKET";
/// Variable in the sidecar that holds its store's name.
pub const STORE_ENV: &str = "CODEXSTORE_STORE";
/// Where the data volume is mounted; the store is in its subdirectory `data`.
pub const DATA_DIR: &str = "/var/lib/codexstore";
/// Where the keyring is mounted.
pub const KEYRING_DIR: &str = "/etc/codexstore/keyring";
/// Where a passphrase is mounted, in the place of a keyring.
pub const PASSPHRASE_FILE: &str = "/etc/codexstore/keyring/passphrase";
/// Name of that file in its volume.
pub const PASSPHRASE_NAME: &str = "passphrase";
/// Variable in the sidecar, and in Jobs that verify, with [`PASSPHRASE_FILE`] where the store has a passphrase.
pub const PASSPHRASE_ENV: &str = "CODEXSTORE_PASSPHRASE_FILE";
/// Where the admin listener's certificate is mounted.
pub const TLS_DIR: &str = "/etc/codexstore/tls";
/// Where service account admission would mount a token.
pub const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Port of the admin listener, unless the pod is on the host's network or uses it itself.
pub const ADMIN_PORT: u16 = 7433;
/// Name of that port (a port's name has room for 15 characters).
pub const ADMIN_PORT_NAME: &str = "cxs-admin";

/// Port of the metrics, unless the store says another.
pub const METRICS_PORT: u16 = 7434;
/// Name of that port: one that no container of the user's has, so that a scraper finds ours by it.
pub const METRICS_PORT_NAME: &str = "cxs-metrics";

/// Longest name of a CodexStore: a CronJob's name has room for 52 characters, a label for 63.
pub const MAX_STORE_NAME: usize = 40;
/// Longest name of a Kubernetes object.
pub const MAX_OBJECT_NAME: usize = 253;

/// Entry of the keyring Secret that names the current key.
pub const KEYRING_CURRENT: &str = "current";

/// Entry of the escrow's `ConfigMap` with the sealed keyring.
pub const ESCROW_SEALED: &str = "keyring.age";
/// Entry with the ids of the keys in it, with commas between.
pub const ESCROW_IDS: &str = "keyIds";
/// Entry that says when it was sealed.
pub const ESCROW_TIME: &str = "sealedAt";

/// Secret with the keyring, where the operator makes it.
pub fn keyring_secret(store: &str) -> String {
    format!("cxs-{store}-keyring")
}

/// Entry of the record of a keyring: `true` once a store of its name had its data on a volume of the user's (`podVolume`). Never taken off.
pub const RECORD_POD_VOLUME: &str = "podVolume";

/// `ConfigMap` that records that there was a keyring. It outlives the CodexStore, as the keyring does.
pub fn keyring_record(store: &str) -> String {
    keyring_secret(store)
}

/// `ConfigMap` with the sealed keyring, where the spec asks for one. It outlives the CodexStore too.
pub fn escrow(store: &str) -> String {
    format!("cxs-{store}-escrow")
}

/// Secret with the store's certificate authority; never mounted.
pub fn ca_secret(store: &str) -> String {
    format!("cxs-{store}-ca")
}

/// Secret with the admin listener's certificate; mounted in the sidecars.
pub fn server_secret(store: &str) -> String {
    format!("cxs-{store}-server")
}

/// Secret with the operator's client certificate.
pub fn operator_client_secret(store: &str) -> String {
    format!("cxs-{store}-client-operator")
}

/// Secret with the client certificate of Jobs that take backups.
pub fn backup_client_secret(store: &str) -> String {
    format!("cxs-{store}-client-backup")
}

/// Secret with the client certificate of Jobs that restore.
pub fn restore_client_secret(store: &str) -> String {
    format!("cxs-{store}-client-restore")
}

/// CronJob that takes backups.
pub fn backup_cron_job(store: &str) -> String {
    format!("cxs-{store}-backup")
}

/// Service account of the store's Jobs, and the binding that says what it may do.
pub fn jobs_account(store: &str) -> String {
    format!("cxs-{store}-jobs")
}

/// Lease of whoever writes to the store's destination.
pub fn backup_lease(store: &str) -> String {
    format!("cxs-{store}-backup")
}

/// Deployment that archives what members write.
pub fn archiver(store: &str) -> String {
    format!("cxs-{store}-archiver")
}

/// `ConfigMap` with the record of a store's archive, which outlives the CodexStore, as the pieces do; and the Role and binding by
/// which the store's Jobs read and write it.
pub fn archive_record(store: &str) -> String {
    format!("cxs-{store}-archive")
}

/// `ConfigMap` with the keys that files of backups need which stayed when their CodexBackup went. It outlives the CodexStore, as they do.
pub fn kept_backups(store: &str) -> String {
    format!("cxs-{store}-kept")
}

/// Entry of that `ConfigMap` for those for which there was no room one by one: no CodexBackup has such a name.
pub const KEPT_OTHERS: &str = "_others";

/// Entry of the archive's `ConfigMap` with the record.
pub const ARCHIVE_RECORD: &str = "record.json";

/// All Secrets that the operator makes for a store: none of them is for a container of the user's.
pub fn secrets(store: &str) -> [String; 6] {
    [
        keyring_secret(store),
        server_secret(store),
        ca_secret(store),
        operator_client_secret(store),
        backup_client_secret(store),
        restore_client_secret(store),
    ]
}

/// Claim of the member that lives in `pod`.
pub fn member_claim(store: &str, pod: &str) -> String {
    format!("{}{pod}", member_claim_prefix(store))
}

/// What the names of all claims of a store start with, and of no other store's: `cxs-STORE-`, or `cxsN-STORE-` where
/// the store's name has N hyphens. Without the number, the claims of `orders` for pod `web-api-0` and of `orders-web`
/// for pod `api-0` would be one; with it, a name says where the store's ends.
pub fn member_claim_prefix(store: &str) -> String {
    match store.matches('-').count() {
        0 => format!("cxs-{store}-"),
        hyphens => format!("cxs{hyphens}-{store}-"),
    }
}

/// DNS name in the server certificate, which clients verify instead of an address.
pub fn server_dns_name(store_uid: &str) -> String {
    format!("{store_uid}.codexstore")
}

/// URI in the client certificate of Jobs that take backups.
pub const BACKUP_ROLE_URI: &str = "codexstore://role/backup";
/// URI in the client certificate of Jobs that restore.
pub const RESTORE_ROLE_URI: &str = "codexstore://role/restore";
/// URI in the operator's client certificate.
pub const OPERATOR_ROLE_URI: &str = "codexstore://role/operator";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_stores_share_a_claim() {
        assert_eq!(member_claim("orders", "web-0"), "cxs-orders-web-0");
        assert_eq!(member_claim("orders-web", "api-0"), "cxs1-orders-web-api-0");
        let names = [
            "a", "b", "1", "a-b", "a--b", "b-a", "a-b-a", "a-1", "1-a", "a.b", "a-b.a", "a.b-a",
        ];
        let mut seen = std::collections::BTreeMap::new();
        for store in names {
            for pod in names {
                let claim = member_claim(store, pod);
                assert!(claim.starts_with(&member_claim_prefix(store)));
                let strangers = names
                    .iter()
                    .filter(|s| **s != store && claim.starts_with(&member_claim_prefix(s)));
                assert_eq!(strangers.count(), 0, "{claim} looks like another store's");
                if let Some(other) = seen.insert(claim.clone(), (store, pod)) {
                    unreachable!("{claim} is of {other:?} and of {:?}", (store, pod));
                }
            }
        }
    }

    #[test]
    fn the_longest_store_name_leaves_room_for_a_label_of_a_pod() {
        let longest = format!("{}aa", "a-".repeat(MAX_STORE_NAME / 2 - 1));
        assert!(member_claim(&longest, &"p".repeat(200)).len() <= MAX_OBJECT_NAME);
    }
}
