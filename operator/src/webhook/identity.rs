//! Where the webhook's certificate comes from, and how the API server learns to trust it.
//!
//! Usually a Secret that whichever replica is first makes, and every replica keeps right: all of them take the same steps, each
//! guarded by the Secret's resource version, so there is nothing to coordinate. Or a directory that somebody else fills.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::tls::Current;
use crate::certs::{Authority, DAY, Facts, Leaf, Policy, Request, San, Usage, Verdict, unix_now};
use crate::metrics::{CertificateLabels, Metrics};

/// The webhook's authority lives a year; a successor is trusted for an hour before it signs.
const POLICY: Policy = Policy {
    life: 365 * DAY,
    settle: 60 * 60,
};
const LEAF_LIFE: i64 = 90 * DAY;
const AUTHORITY_NAME: &str = "codexstore webhook authority";
/// Marks the Secret as this operator's: another's Secret of the same name is never touched.
const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "codexstore-operator");
const LEAF_CERT: &str = "webhook.crt";
const LEAF_KEY: &str = "webhook.key";
const MANAGER: &str = "codexstore-operator";

/// Time between looks when all is well, and after a failure.
const PERIOD: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(3);

/// Source of the certificate.
#[derive(Debug, Clone)]
pub enum Source {
    /// A Secret that the operator makes and rotates.
    Secret {
        /// Its name, in the operator's namespace.
        name: String,
        /// Names that the certificate is for.
        sans: Vec<San>,
    },
    /// Files that somebody else makes and rotates.
    Directory(PathBuf),
}

/// Keeps the certificate loaded and the webhook configurations trusting it.
pub struct Keeper {
    /// The cluster.
    pub client: Client,
    /// The operator's namespace.
    pub namespace: String,
    /// Name of both webhook configurations.
    pub config: String,
    /// Where the certificate comes from.
    pub source: Source,
    /// What the server uses.
    pub current: Arc<Current>,
    /// Where expiry is shown.
    pub metrics: Arc<Metrics>,
}

/// What a look at the source found.
struct Found {
    leaf: Leaf,
    /// What to trust, if that is ours to say.
    bundle: Option<String>,
}

impl Keeper {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut missing_told = false;
        loop {
            let pause = self.step(&mut missing_told).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look, and the time until the next.
    async fn step(&self, missing_told: &mut bool) -> Duration {
        match self.look(missing_told).await {
            // A configuration that comes late has no bundle: until the next look the API server cannot call us, and
            // refuses every labelled pod.
            Ok(()) if *missing_told => RETRY,
            Ok(()) => PERIOD,
            Err(why) => {
                error!(error = why, "webhook certificate");
                RETRY
            }
        }
    }

    async fn look(&self, missing_told: &mut bool) -> Result<(), String> {
        let found = match &self.source {
            Source::Secret { name, sans } => self.secret(name, sans).await?,
            Source::Directory(dir) => directory(dir).await?,
        };
        // Trust first: a certificate must not be served before it can be verified.
        let trusted = match &found.bundle {
            Some(bundle) => self.publish(bundle, missing_told).await,
            None => Ok(()),
        };
        if self.current.install(&found.leaf)? {
            info!("webhook certificate loaded");
        }
        if let Ok(facts) = Facts::read("tls.crt", &found.leaf.certificate) {
            let labels = CertificateLabels {
                certificate: "webhook".to_owned(),
                namespace: String::new(),
                store: String::new(),
            };
            self.metrics
                .certificate_expiry
                .get_or_create(&labels)
                .set(facts.not_after);
        }
        trusted
    }

    async fn secret(&self, name: &str, sans: &[San]) -> Result<Found, String> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let failed = |what: &str, e: kube::Error| format!("cannot {what} Secret {name}: {e}");
        let request = Request {
            common_name: "codexstore webhook".to_owned(),
            sans: sans.to_vec(),
            usage: Usage::Server,
            life: LEAF_LIFE,
        };
        // A lost race is settled by reading again what the winner wrote.
        for _ in 0..3 {
            let now = unix_now();
            let Some(secret) = api.get_opt(name).await.map_err(|e| failed("read", e))? else {
                let (data, _) = plan(None, &request, now).map_err(|e| e.to_string())?;
                let secret = Secret {
                    metadata: ObjectMeta {
                        name: Some(name.to_owned()),
                        labels: Some(BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())])),
                        ..ObjectMeta::default()
                    },
                    data: Some(data),
                    ..Secret::default()
                };
                match api.create(&PostParams::default(), &secret).await {
                    Ok(_) => info!(secret = name, "webhook certificate made"),
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(e) => return Err(failed("create", e)),
                }
                continue;
            };
            if secret.labels().get(LABEL.0).map(String::as_str) != Some(LABEL.1) {
                return Err(format!(
                    "Secret {name} was not made by this operator (label {}={} is missing): give another name with \
                     --webhook-secret, or mount it and use --cert-dir",
                    LABEL.0, LABEL.1
                ));
            }
            let data = secret.data.clone().unwrap_or_default();
            let (wanted, found) = plan(Some(&data), &request, now).map_err(|e| e.to_string())?;
            if wanted == data {
                return Ok(found);
            }
            let patch = json!({
                "metadata": {"resourceVersion": secret.resource_version()},
                "data": replaced(&data, &wanted),
            });
            match api
                .patch(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                Ok(_) => info!(secret = name, "webhook certificate renewed"),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(e) => return Err(failed("renew", e)),
            }
        }
        Err(format!("Secret {name} keeps changing"))
    }

    /// Writes the bundle into both webhook configurations.
    async fn publish(&self, bundle: &str, missing_told: &mut bool) -> Result<(), String> {
        let (a, b) = tokio::join!(
            self.trust::<MutatingWebhookConfiguration>(bundle),
            self.trust::<ValidatingWebhookConfiguration>(bundle),
        );
        let (a, b) = (a?, b?);
        let missing = !(a && b);
        if missing && !*missing_told {
            warn!(
                name = self.config,
                "a webhook configuration of this name is missing: pods are not injected until it is there"
            );
        }
        *missing_told = missing;
        Ok(())
    }

    /// Sets `caBundle` of each webhook that has another; `false` when there is no such configuration.
    async fn trust<K>(&self, bundle: &str) -> Result<bool, String>
    where
        K: Resource<DynamicType = ()> + Configuration,
    {
        let api = Api::<K>::all(self.client.clone());
        let failed = |what: &str, e: kube::Error| {
            format!("cannot {what} {} {}: {e}", K::kind(&()), self.config)
        };
        let Some(found) = api
            .get_opt(&self.config)
            .await
            .map_err(|e| failed("read", e))?
        else {
            return Ok(false);
        };
        let operations = trust_operations(&found.bundles(), bundle);
        if !operations.is_empty() {
            let patch: json_patch::Patch =
                serde_json::from_value(Value::Array(operations)).map_err(|e| e.to_string())?;
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            api.patch(&self.config, &params, &Patch::<Value>::Json(patch))
                .await
                .map_err(|e| failed("patch", e))?;
            info!(kind = %K::kind(&()), name = self.config, "caBundle written");
        }
        Ok(true)
    }
}

/// Names of the webhooks of a configuration, each with its bundle.
trait Configuration: Clone + std::fmt::Debug + serde::de::DeserializeOwned {
    fn bundles(&self) -> Vec<(String, Vec<u8>)>;
}

impl Configuration for MutatingWebhookConfiguration {
    fn bundles(&self) -> Vec<(String, Vec<u8>)> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks
            .map(|w| {
                (
                    w.name.clone(),
                    w.client_config.ca_bundle.clone().unwrap_or_default().0,
                )
            })
            .collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    fn bundles(&self) -> Vec<(String, Vec<u8>)> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks
            .map(|w| {
                (
                    w.name.clone(),
                    w.client_config.ca_bundle.clone().unwrap_or_default().0,
                )
            })
            .collect()
    }
}

/// A patch that changes only bundles, and nothing at all when the list is another one by now.
fn trust_operations(bundles: &[(String, Vec<u8>)], bundle: &str) -> Vec<Value> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let mut operations = Vec::new();
    for (i, (name, have)) in bundles.iter().enumerate() {
        if *have != wanted.0 {
            let at = format!("/webhooks/{i}");
            operations.push(json!({"op": "test", "path": format!("{at}/name"), "value": name}));
            operations.push(
                json!({"op": "add", "path": format!("{at}/clientConfig/caBundle"), "value": wanted}),
            );
        }
    }
    operations
}

/// What the Secret should hold, given what it holds, and what follows for the server.
fn plan(
    data: Option<&BTreeMap<String, ByteString>>,
    request: &Request,
    now: i64,
) -> Result<(BTreeMap<String, ByteString>, Found), crate::certs::Error> {
    // What cannot be read is made anew: these certificates protect no data.
    let mut authority = match data.map(Authority::load) {
        Some(Ok(authority)) => authority,
        _ => Authority::generate(AUTHORITY_NAME, now, POLICY)?,
    };
    authority.advance(AUTHORITY_NAME, now, POLICY)?;
    let stored = data.and_then(|data| {
        let text = |key| String::from_utf8(data.get(key).map(|b: &ByteString| b.0.clone())?).ok();
        Some(Leaf {
            certificate: text(LEAF_CERT)?,
            key: text(LEAF_KEY)?,
        })
    });
    let leaf = match stored {
        Some(leaf) if leaf.check(&authority, request, now) == Verdict::Good => leaf,
        _ => authority.issue(request, now)?,
    };
    let mut wanted = authority.data();
    wanted.insert(
        LEAF_CERT.to_owned(),
        ByteString(leaf.certificate.clone().into_bytes()),
    );
    wanted.insert(
        LEAF_KEY.to_owned(),
        ByteString(leaf.key.clone().into_bytes()),
    );
    let bundle = Some(authority.bundle());
    Ok((wanted, Found { leaf, bundle }))
}

/// A merge patch's value for a map: what is no longer wanted is null.
fn replaced(before: &BTreeMap<String, ByteString>, after: &BTreeMap<String, ByteString>) -> Value {
    let mut patch = json!(after);
    if let Some(patch) = patch.as_object_mut() {
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    patch
}

async fn directory(dir: &std::path::Path) -> Result<Found, String> {
    let read = async |name: &str| {
        let path = dir.join(name);
        tokio::fs::read_to_string(&path)
            .await
            .map_err(|e| format!("cannot read {}: {e}", path.display()))
    };
    let leaf = Leaf {
        certificate: read("tls.crt").await?,
        key: read("tls.key").await?,
    };
    let bundle = match read("ca.crt").await {
        Ok(text) if !text.trim().is_empty() => Some(text),
        // Without it somebody else (cert-manager's injector) writes the bundle.
        _ => None,
    };
    Ok(Found { leaf, bundle })
}

/// Every name under which the webhook can be called.
pub fn names(service: &str, namespace: &str, further: &[String]) -> Vec<San> {
    let mut sans = vec![
        San::Dns(format!("{service}.{namespace}.svc")),
        San::Dns(format!("{service}.{namespace}.svc.cluster.local")),
        San::Dns(format!("{service}.{namespace}")),
    ];
    for name in further.iter().map(|n| n.trim()).filter(|n| !n.is_empty()) {
        sans.push(match name.parse() {
            Ok(ip) => San::Ip(ip),
            Err(_) => San::Dns(name.to_owned()),
        });
    }
    sans.sort();
    sans.dedup();
    sans
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::controller::fake_api::{FakeApi, Fault};

    const SECRET: &str = "/api/v1/namespaces/ns/secrets/tls";
    const CONFIG: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/hook";

    fn keeper(api: &FakeApi) -> Keeper {
        Keeper {
            client: api.client.clone(),
            namespace: "ns".into(),
            config: "hook".into(),
            source: Source::Secret {
                name: "tls".into(),
                sans: names("svc", "ns", &[]),
            },
            current: Arc::default(),
            metrics: Arc::default(),
        }
    }

    #[tokio::test]
    async fn replicas_that_start_together_end_with_one_certificate_that_is_trusted() {
        let api = FakeApi::start().await;
        let webhook = json!({"name": "a.b.c", "clientConfig": {}, "admissionReviewVersions": ["v1"],
            "sideEffects": "None"});
        api.put(
            CONFIG,
            &json!({"metadata": {"name": "hook"}, "webhooks": [webhook]}),
        );
        let (one, two) = (keeper(&api), keeper(&api));
        let mut told = [true, true];
        let [x, y] = &mut told;
        let (a, b) = tokio::join!(one.look(x), two.look(y));
        a.and(b).unwrap();
        assert!(one.current.loaded() && two.current.loaded());
        let leaf = |k: &Keeper| k.current.0.read().unwrap().as_ref().unwrap().pem.clone();
        assert_eq!(
            leaf(&one),
            leaf(&two),
            "two replicas serve different certificates"
        );
        let bundle = api.get(CONFIG).unwrap()["webhooks"][0]["clientConfig"]["caBundle"].clone();
        assert_eq!(bundle, api.get(SECRET).unwrap()["data"]["ca.crt"]);
        let before = api.calls().len();
        one.look(&mut true).await.unwrap();
        assert!(
            api.calls()
                .iter()
                .skip(before)
                .all(|(verb, _)| verb == "GET")
        );
    }

    #[tokio::test]
    async fn a_configuration_that_is_missing_is_looked_for_soon() {
        let api = FakeApi::start().await;
        let keeper = keeper(&api);
        let mut missing = false;
        assert_eq!(keeper.step(&mut missing).await, RETRY);
        let config = json!({"metadata": {"name": "hook"}, "webhooks": []});
        api.put(CONFIG, &config);
        assert_eq!(keeper.step(&mut missing).await, RETRY, "one of the two");
        api.put(&CONFIG.replace("mutating", "validating"), &config);
        assert_eq!(keeper.step(&mut missing).await, PERIOD);
    }

    #[tokio::test]
    async fn a_secret_of_somebody_else_is_not_touched_and_not_served() {
        let api = FakeApi::start().await;
        api.put(SECRET, &json!({"metadata": {"name": "tls"}, "data": {}}));
        let keeper = keeper(&api);
        let why = keeper.look(&mut true).await.unwrap_err();
        assert!(why.contains("--webhook-secret"), "{why}");
        assert!(!keeper.current.loaded());
        assert_eq!(api.count("PATCH", "secrets"), 0);
    }

    #[tokio::test]
    async fn dying_at_any_call_leaves_something_to_go_on_from() {
        for call in 0..5 {
            for fault in [Fault::Before, Fault::After] {
                let api = FakeApi::start().await;
                api.fail(call, fault);
                let _ = keeper(&api).look(&mut true).await;
                let next = keeper(&api);
                next.look(&mut true).await.unwrap();
                assert!(next.current.loaded());
                assert_eq!(
                    api.count("PATCH", "secrets"),
                    0,
                    "a good certificate was replaced"
                );
            }
        }
    }

    #[tokio::test]
    async fn files_are_used_as_they_are_and_trusted_only_with_their_authority() {
        let dir = std::env::temp_dir().join(format!("codexstore-operator-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert!(directory(&dir).await.is_err());
        let (_, made) = plan(None, &request(), unix_now()).unwrap();
        std::fs::write(dir.join("tls.crt"), &made.leaf.certificate).unwrap();
        std::fs::write(dir.join("tls.key"), &made.leaf.key).unwrap();
        assert_eq!(directory(&dir).await.unwrap().bundle, None);
        std::fs::write(dir.join("ca.crt"), made.bundle.clone().unwrap()).unwrap();
        let found = directory(&dir).await.unwrap();
        assert_eq!((found.leaf, found.bundle), (made.leaf, made.bundle));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    fn request() -> Request {
        Request {
            common_name: "test".into(),
            sans: names("svc", "ns", &["127.0.0.1".into(), "hook.example".into()]),
            usage: Usage::Server,
            life: LEAF_LIFE,
        }
    }

    #[test]
    fn a_good_secret_is_left_alone() {
        let now = unix_now();
        let (data, _) = plan(None, &request(), now).unwrap();
        assert_eq!(plan(Some(&data), &request(), now + DAY).unwrap().0, data);
    }

    #[test]
    fn rotation_never_serves_what_the_bundle_does_not_trust() {
        let start = unix_now();
        let mut published = String::new();
        let mut data = plan(None, &request(), start).unwrap().0;
        for hour in 0..(3 * 365 * 24 / 6) {
            let now = start + hour * 6 * 3600;
            let (wanted, found) = plan(Some(&data), &request(), now).unwrap();
            let facts = Facts::read("leaf", &found.leaf.certificate).unwrap();
            assert!(facts.valid(now), "an expired certificate is served");
            // What was published one look ago already trusts what is served now.
            let trusts = |bundle: &str| {
                bundle
                    .split_inclusive("-----END CERTIFICATE-----\n")
                    .any(|pem| {
                        Facts::read("ca", pem)
                            .is_ok_and(|ca| ca.subject_key == facts.authority_key && ca.valid(now))
                    })
            };
            assert!(
                published.is_empty() || trusts(&published),
                "not trusted in hour {hour}"
            );
            assert!(trusts(&found.bundle.clone().unwrap()));
            published = found.bundle.unwrap();
            data = wanted;
        }
        assert_ne!(data, plan(None, &request(), start).unwrap().0);
    }

    #[test]
    fn a_malformed_secret_is_made_anew_and_leftovers_are_removed() {
        let now = unix_now();
        let (mut data, _) = plan(None, &request(), now).unwrap();
        data.insert("tls.key".into(), ByteString(b"nonsense".to_vec()));
        data.insert("next.crt".into(), ByteString(b"nonsense".to_vec()));
        let (wanted, _) = plan(Some(&data), &request(), now).unwrap();
        Authority::load(&wanted).unwrap();
        assert_eq!(replaced(&data, &wanted)["next.crt"], Value::Null);
    }

    #[test]
    fn other_names_get_another_certificate_of_the_same_authority() {
        let now = unix_now();
        let (data, _) = plan(None, &request(), now).unwrap();
        let mut renamed = request();
        renamed.sans = names("other", "ns", &[]);
        let (wanted, _) = plan(Some(&data), &renamed, now).unwrap();
        assert_ne!(wanted[LEAF_CERT], data[LEAF_CERT]);
        assert_eq!(wanted["ca.crt"], data["ca.crt"]);
    }

    #[test]
    fn only_bundles_that_differ_are_patched() {
        let bundles = [
            ("a".to_owned(), b"right".to_vec()),
            ("b".to_owned(), vec![]),
        ];
        let operations = trust_operations(&bundles, "right");
        assert_eq!(operations.len(), 2);
        assert_eq!(operations[0]["path"], "/webhooks/1/name");
        assert_eq!(operations[1]["path"], "/webhooks/1/clientConfig/caBundle");
        assert!(trust_operations(&bundles[..1], "right").is_empty());
    }
}
