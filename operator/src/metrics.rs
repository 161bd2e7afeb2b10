//! What the operator counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Names a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabels {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub store: String,
}

/// Names a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CertificateLabels {
    /// `webhook`, `ca`, `server` or `client-operator`.
    pub certificate: String,
    /// Namespace of the store; empty for the webhook's.
    pub namespace: String,
    /// The store; empty for the webhook's.
    pub store: String,
}

/// How a reconciliation ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `steady`, `waiting`, `problem`, `error` or `invalid`.
    pub outcome: &'static str,
}

/// How an admission was decided.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Decision {
    /// `mutate` or `validate`.
    pub webhook: &'static str,
    /// `injected`, `unchanged`, `skipped`, `allowed`, `refused` or `error`.
    pub decision: &'static str,
}

/// Names a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Webhook {
    /// `mutate` or `validate`.
    pub webhook: &'static str,
}

/// All metrics, and the registry that prints them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Reconciliations by outcome.
    pub reconciles: Family<Outcome, Counter>,
    /// Their duration.
    pub reconcile_duration: Histogram,
    /// Members that are ready.
    pub members_ready: Family<StoreLabels, Gauge>,
    /// Members.
    pub members_total: Family<StoreLabels, Gauge>,
    /// Members that run an older spec.
    pub members_outdated: Family<StoreLabels, Gauge>,
    /// 1 when the keyring is there and good.
    pub keyring_ok: Family<StoreLabels, Gauge>,
    /// 1 while a rotation of keys is not done.
    pub key_rotation_going: Family<StoreLabels, Gauge>,
    /// By when a rotation of keys that is not done should have got further, or ended.
    pub key_rotation_deadline: Family<StoreLabels, Gauge>,
    /// 1 when the latest rotation of keys that has ended was given up.
    pub key_rotation_failed: Family<StoreLabels, Gauge>,
    /// 1 when there should have been a rotation of keys since.
    pub key_rotation_overdue: Family<StoreLabels, Gauge>,
    /// Messages that the current key has encrypted.
    pub key_messages: Family<StoreLabels, Gauge>,
    /// Members that are still to encrypt everything anew.
    pub key_reencryption_left: Family<StoreLabels, Gauge>,
    /// Backups that keys open which somebody may have seen.
    pub key_exposed_backups: Family<StoreLabels, Gauge>,
    /// 1 when there should be a newer backup by now.
    pub backup_overdue: Family<StoreLabels, Gauge>,
    /// 0 when the latest backup that has ended is not whole, or is not what the members said.
    pub backup_succeeded: Family<StoreLabels, Gauge>,
    /// When the latest backup that is stored ended.
    pub backup_timestamp: Family<StoreLabels, Gauge>,
    /// 1 when the destination of backups cannot be used.
    pub backup_destination_unreachable: Family<StoreLabels, Gauge>,
    /// By how many seconds the archive is behind.
    pub archive_behind: Family<StoreLabels, Gauge>,
    /// 0 when not all is archived, or it cannot be restored.
    pub archive_current: Family<StoreLabels, Gauge>,
    /// When certificates expire.
    pub certificate_expiry: Family<CertificateLabels, Gauge>,
    /// Admissions by decision.
    pub webhook_decisions: Family<Decision, Counter>,
    /// Their duration.
    pub webhook_duration: Family<Webhook, Histogram, fn() -> Histogram>,
    /// 1 on the replica that reconciles.
    pub is_leader: Gauge,
}

fn seconds() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("codexstore_operator");
        let metrics = Self {
            reconciles: Family::default(),
            reconcile_duration: seconds(),
            members_ready: Family::default(),
            members_total: Family::default(),
            members_outdated: Family::default(),
            keyring_ok: Family::default(),
            key_rotation_going: Family::default(),
            key_rotation_deadline: Family::default(),
            key_rotation_failed: Family::default(),
            key_rotation_overdue: Family::default(),
            key_messages: Family::default(),
            key_reencryption_left: Family::default(),
            key_exposed_backups: Family::default(),
            backup_overdue: Family::default(),
            backup_succeeded: Family::default(),
            backup_timestamp: Family::default(),
            backup_destination_unreachable: Family::default(),
            archive_behind: Family::default(),
            archive_current: Family::default(),
            certificate_expiry: Family::default(),
            webhook_decisions: Family::default(),
            webhook_duration: Family::new_with_constructor(seconds),
            is_leader: Gauge::default(),
            registry: Registry::default(),
        };
        let build = Gauge::<u64, AtomicU64>::default();
        build.set(1);
        let r = &mut registry;
        r.register(
            "reconciles",
            "Reconciliations of stores by outcome",
            metrics.reconciles.clone(),
        );
        r.register(
            "reconcile_duration_seconds",
            "Duration of reconciliations",
            metrics.reconcile_duration.clone(),
        );
        metrics.register_stores(r);
        r.register(
            "certificate_expiry_timestamp_seconds",
            "When a certificate expires, in unix seconds",
            metrics.certificate_expiry.clone(),
        );
        r.register(
            "webhook_decisions",
            "Admission requests by decision",
            metrics.webhook_decisions.clone(),
        );
        r.register(
            "webhook_duration_seconds",
            "Duration of admission requests",
            metrics.webhook_duration.clone(),
        );
        r.register(
            "is_leader",
            "1 on the replica that reconciles",
            metrics.is_leader.clone(),
        );
        r.sub_registry_with_label(("version".into(), env!("CARGO_PKG_VERSION").into()))
            .register("build_info", "Always 1; the version is in its label", build);
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// What is told of each store.
    fn register_stores(&self, registry: &mut Registry) {
        let all = [
            (
                "members_ready",
                "Members that are ready",
                &self.members_ready,
            ),
            ("members", "Members of the store", &self.members_total),
            (
                "members_outdated",
                "Members that run an older spec or operator's injection",
                &self.members_outdated,
            ),
            (
                "keyring_ok",
                "1 when the keyring is there and good",
                &self.keyring_ok,
            ),
            (
                "key_rotation_going",
                "1 while a rotation of the store's key is not done",
                &self.key_rotation_going,
            ),
            (
                "key_rotation_deadline_timestamp_seconds",
                "By when the rotation of the store's key that is not done should have got further, or ended, in unix seconds",
                &self.key_rotation_deadline,
            ),
            (
                "key_rotation_failed",
                "1 when the latest rotation of the store's key that has ended was given up",
                &self.key_rotation_failed,
            ),
            (
                "key_rotation_overdue",
                "1 when a store's key was not rotated within two periods of its schedule",
                &self.key_rotation_overdue,
            ),
            (
                "key_messages",
                "Messages that the store's current key has encrypted, rather too many; it may encrypt 2^32",
                &self.key_messages,
            ),
            (
                "key_reencryption_left",
                "Members that a re-encryption could not wait for, and that are still to encrypt everything anew",
                &self.key_reencryption_left,
            ),
            (
                "key_exposed_backups",
                "Backups that keys open which somebody may have seen",
                &self.key_exposed_backups,
            ),
            (
                "backup_overdue",
                "1 when a store has no good backup within two periods of its schedule",
                &self.backup_overdue,
            ),
            (
                "backup_succeeded",
                "0 when the latest backup that has ended is not whole or not what the members said",
                &self.backup_succeeded,
            ),
            (
                "backup_timestamp_seconds",
                "When the latest backup that is stored ended, in unix seconds",
                &self.backup_timestamp,
            ),
            (
                "backup_destination_unreachable",
                "1 when the latest backup that has ended stored nothing since its destination failed, or the archiver says that it fails",
                &self.backup_destination_unreachable,
            ),
            (
                "archive_behind_seconds",
                "By how much the continuous archive of the store is behind its members",
                &self.archive_behind,
            ),
            (
                "archive_current",
                "0 when not all that members have written is archived, or it cannot be restored from the archive",
                &self.archive_current,
            ),
        ];
        for (name, help, family) in all {
            registry.register(name, help, family.clone());
        }
    }

    /// Text for Prometheus.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts one reconciliation.
    pub fn reconciled(&self, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Outcome { outcome }).inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    /// Counts one admission.
    pub fn admitted(&self, webhook: &'static str, decision: &'static str, took: Duration) {
        self.webhook_decisions
            .get_or_create(&Decision { webhook, decision })
            .inc();
        self.webhook_duration
            .get_or_create(&Webhook { webhook })
            .observe(took.as_secs_f64());
    }

    /// Forgets the backups of a store that has none any more.
    pub fn forget_backups(&self, labels: &StoreLabels) {
        self.backup_overdue.remove(labels);
        self.backup_succeeded.remove(labels);
        self.backup_timestamp.remove(labels);
        self.backup_destination_unreachable.remove(labels);
    }

    /// Forgets the archive of a store that has none any more.
    pub fn forget_archive(&self, labels: &StoreLabels) {
        self.archive_behind.remove(labels);
        self.archive_current.remove(labels);
    }

    /// Forgets a store that is gone: a series that stays would look like a store that stays.
    pub fn forget(&self, labels: &StoreLabels) {
        self.members_ready.remove(labels);
        self.members_total.remove(labels);
        self.members_outdated.remove(labels);
        self.keyring_ok.remove(labels);
        self.key_rotation_going.remove(labels);
        self.key_rotation_deadline.remove(labels);
        self.key_rotation_failed.remove(labels);
        self.key_rotation_overdue.remove(labels);
        self.key_messages.remove(labels);
        self.key_reencryption_left.remove(labels);
        self.key_exposed_backups.remove(labels);
        self.forget_backups(labels);
        self.forget_archive(labels);
        for certificate in [
            "ca",
            "server",
            "client-operator",
            "client-backup",
            "client-restore",
        ] {
            self.certificate_expiry.remove(&CertificateLabels {
                certificate: certificate.to_owned(),
                namespace: labels.namespace.clone(),
                store: labels.store.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_store_leaves_no_series() {
        let metrics = Metrics::default();
        let labels = StoreLabels {
            namespace: "shop".into(),
            store: "orders".into(),
        };
        metrics.members_ready.get_or_create(&labels).set(2);
        let unreachable = &metrics.backup_destination_unreachable;
        unreachable.get_or_create(&labels).set(1);
        metrics.reconciled("steady", Duration::from_millis(3));
        metrics.admitted("mutate", "injected", Duration::from_millis(3));
        assert!(
            metrics
                .text()
                .contains("members_ready{namespace=\"shop\",store=\"orders\"} 2")
        );
        assert!(
            metrics
                .text()
                .contains("reconciles_total{outcome=\"steady\"} 1")
        );
        metrics.forget(&labels);
        assert!(!metrics.text().contains("orders"));
    }
}
