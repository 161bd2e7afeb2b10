//! A store's certificates: its authority, the certificate of its members' admin listeners, and the operator's own.
//!
//! They protect no data and can be made anew at any time, so what cannot be read is replaced; what is not ours is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use codexstore_crds::{CodexStore, desired, names};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::keyring::conflict;
use super::live;
use super::ownership::{Ownership, ownership};
use super::problem::Problem;
use crate::certs::{
    Authority, DAY, Error, Facts, Leaf, Policy, Request, San, Usage, Verdict, unix_now,
};
use crate::metrics::{CertificateLabels, Metrics};

/// An authority lives ten years; a successor is trusted for a day before it signs: every member has loaded it by then, since
/// kubelet brings a changed Secret into pods within minutes.
const POLICY: Policy = Policy {
    life: 3650 * DAY,
    settle: DAY,
};
const LEAF_LIFE: i64 = 90 * DAY;

/// What the operator needs to talk to a store's members.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Trusts the store's authority and shows the operator's certificate.
    pub client: Arc<ClientConfig>,
    /// The name that members' certificates carry.
    pub server_name: String,
}

/// The outcome of a look at the certificates.
#[derive(Debug)]
pub enum Certificates {
    /// All are good.
    Ready(Credentials),
    /// Somebody changed them at the same time: look again.
    Pending,
    /// One of the names is taken.
    Broken(Problem),
}

/// One Secret that should hold this data.
struct Wanted {
    /// For metrics.
    label: &'static str,
    name: String,
    data: BTreeMap<String, ByteString>,
    expires: i64,
}

/// How many Secrets a store has with backups, and without.
const ALL: usize = 5;
const WITHOUT_BACKUPS: usize = 3;

/// The store's Secrets, as they should be now given what they hold; the last two are for stores with backups only.
fn plan(
    store: &CodexStore,
    found: &[Option<Secret>; ALL],
    now: i64,
) -> Result<[Wanted; ALL], Error> {
    let [ca, server, operator, backup, restore] = found.each_ref().map(Option::as_ref);
    let name = desired::store_name(store);
    let uid = store.metadata.uid.as_deref().unwrap_or_default();
    let namespace = store.metadata.namespace.as_deref().unwrap_or_default();
    let title = format!("codexstore {namespace}/{name}");
    let data = |secret: Option<&Secret>| secret.and_then(|s| s.data.clone());
    let mut authority = match data(ca).map(|data| Authority::load(&data)) {
        Some(Ok(authority)) => authority,
        _ => Authority::generate(&title, now, POLICY)?,
    };
    authority.advance(&title, now, POLICY)?;
    let bundle = ByteString(authority.bundle().into_bytes());
    let leaf = |label, secret_name, stored: Option<&Secret>, request: &Request| {
        let stored = data(stored).and_then(|data| {
            let text =
                |key| String::from_utf8(data.get(key).map(|b: &ByteString| b.0.clone())?).ok();
            Some(Leaf {
                certificate: text("tls.crt")?,
                key: text("tls.key")?,
            })
        });
        let leaf = match stored {
            Some(leaf) if leaf.check(&authority, request, now) == Verdict::Good => leaf,
            _ => authority.issue(request, now)?,
        };
        let expires = Facts::read("tls.crt", &leaf.certificate)?.not_after;
        let data = BTreeMap::from([
            (
                "tls.crt".to_owned(),
                ByteString(leaf.certificate.into_bytes()),
            ),
            ("tls.key".to_owned(), ByteString(leaf.key.into_bytes())),
            ("ca.crt".to_owned(), bundle.clone()),
        ]);
        Ok::<_, Error>(Wanted {
            label,
            name: secret_name,
            data,
            expires,
        })
    };
    let server = leaf(
        "server",
        names::server_secret(name),
        server,
        &Request {
            common_name: title.chars().take(60).collect(),
            sans: vec![San::Dns(names::server_dns_name(uid))],
            usage: Usage::Server,
            life: LEAF_LIFE,
        },
    )?;
    let client = |label, secret_name, stored, who: &str, role: &str| {
        let request = Request {
            common_name: format!("codexstore {who}"),
            sans: vec![San::Uri(role.to_owned())],
            usage: Usage::Client,
            life: LEAF_LIFE,
        };
        leaf(label, secret_name, stored, &request)
    };
    let clients = [
        client(
            "client-operator",
            names::operator_client_secret(name),
            operator,
            "operator",
            names::OPERATOR_ROLE_URI,
        )?,
        client(
            "client-backup",
            names::backup_client_secret(name),
            backup,
            "backup",
            names::BACKUP_ROLE_URI,
        )?,
        client(
            "client-restore",
            names::restore_client_secret(name),
            restore,
            "restore",
            names::RESTORE_ROLE_URI,
        )?,
    ];
    let expires = authority.facts()?.not_after;
    let ca = Wanted {
        label: "ca",
        name: names::ca_secret(name),
        data: authority.data(),
        expires,
    };
    let [operator, backup, restore] = clients;
    Ok([ca, server, operator, backup, restore])
}

/// Looks at a store's certificates and makes or renews what is needed.
pub async fn ensure(
    client: &Client,
    store: &CodexStore,
    metrics: &Metrics,
) -> Result<Certificates, super::Error> {
    let namespace = store.namespace().unwrap_or_default();
    let name = store.name_any();
    let api = Api::<Secret>::namespaced(client.clone(), &namespace);
    let names = [
        names::ca_secret(&name),
        names::server_secret(&name),
        names::operator_client_secret(&name),
        names::backup_client_secret(&name),
        names::restore_client_secret(&name),
    ];
    let count = match store.spec.backup {
        Some(_) => ALL,
        None => WITHOUT_BACKUPS,
    };
    let mut found = [const { None }; ALL];
    for (slot, name) in found.iter_mut().zip(&names).take(count) {
        *slot = api.get_opt(name).await?;
        if let Some(secret) = slot
            && let Ownership::Foreign(why) = ownership(&secret.metadata, store)
        {
            return Ok(Certificates::Broken(Problem::foreign("Secret", name, &why)));
        }
    }
    let wanted = plan(store, &found, unix_now())?;
    for (wanted, found) in wanted.iter().zip(&found).take(count) {
        // The authority is first: nothing is signed by one that was not stored.
        if !write(client, &api, store, wanted, found.as_ref()).await? {
            return Ok(Certificates::Pending);
        }
        let labels = CertificateLabels {
            certificate: wanted.label.to_owned(),
            namespace: namespace.clone(),
            store: name.clone(),
        };
        metrics
            .certificate_expiry
            .get_or_create(&labels)
            .set(wanted.expires);
    }
    let [_, _, client_wanted, ..] = &wanted;
    Ok(Certificates::Ready(credentials(
        store,
        &client_wanted.data,
    )?))
}

/// Writes one Secret if it differs; `false` when somebody else did at the same time.
async fn write(
    client: &Client,
    api: &Api<Secret>,
    store: &CodexStore,
    wanted: &Wanted,
    found: Option<&Secret>,
) -> Result<bool, kube::Error> {
    let result = match found {
        None => {
            let mut secret = desired::tls_secret(store, wanted.name.clone(), "", "", "");
            secret.data = Some(wanted.data.clone());
            let params = PostParams {
                field_manager: Some(names::FIELD_MANAGER.to_owned()),
                ..PostParams::default()
            };
            api.create(&params, &secret).await
        }
        Some(found) => {
            let before = found.data.clone().unwrap_or_default();
            let ours = ownership(&found.metadata, store) == Ownership::Ours
                && found.metadata.owner_references.is_some();
            if before == wanted.data && ours {
                return Ok(true);
            }
            // Given to a CodexStore that only a cache still knows, it would be collected at once.
            if !ours && live::same(client, store).await?.is_none() {
                return Ok(false);
            }
            let mut data = json!(wanted.data);
            if let Some(data) = data.as_object_mut() {
                for key in before.keys().filter(|key| !wanted.data.contains_key(*key)) {
                    data.insert(key.clone(), Value::Null);
                }
            }
            let owners: Vec<_> = desired::owner_reference(store).into_iter().collect();
            let patch = json!({
                "metadata": {"resourceVersion": found.resource_version(), "ownerReferences": owners},
                "data": data,
            });
            let params = PatchParams {
                field_manager: Some(names::FIELD_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            api.patch(&wanted.name, &params, &Patch::Merge(patch)).await
        }
    };
    match result {
        Ok(_) => Ok(true),
        Err(error) if conflict(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn credentials(
    store: &CodexStore,
    data: &BTreeMap<String, ByteString>,
) -> Result<Credentials, super::Error> {
    let wrong =
        |what: &str| super::Error::Tls(format!("{what} of the operator's client certificate"));
    let part = |key: &str| data.get(key).map(|b| b.0.as_slice()).unwrap_or_default();
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(part("ca.crt")) {
        let ca = ca.map_err(|_| wrong("ca.crt"))?;
        roots.add(ca).map_err(|_| wrong("ca.crt"))?;
    }
    let chain = CertificateDer::pem_slice_iter(part("tls.crt"))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| wrong("tls.crt"))?;
    let key = PrivateKeyDer::from_pem_slice(part("tls.key")).map_err(|_| wrong("tls.key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| super::Error::Tls(e.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| super::Error::Tls(e.to_string()))?;
    let uid = store.metadata.uid.as_deref().unwrap_or_default();
    Ok(Credentials {
        client: Arc::new(client),
        server_name: names::server_dns_name(uid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::store;

    const NOTHING: [Option<Secret>; ALL] = [const { None }; ALL];

    fn stored(wanted: &Wanted) -> Secret {
        let mut secret = desired::tls_secret(&store(), wanted.name.clone(), "", "", "");
        secret.data = Some(wanted.data.clone());
        secret
    }

    #[test]
    fn good_certificates_are_left_alone_and_due_ones_renewed() {
        let now = unix_now();
        let first = plan(&store(), &NOTHING, now).unwrap();
        let found = first.each_ref().map(|wanted| Some(stored(wanted)));
        let again = plan(&store(), &found, now + DAY).unwrap();
        for (a, b) in first.iter().zip(&again) {
            assert_eq!(a.data, b.data, "{} changed", a.name);
        }
        let later = plan(&store(), &found, now + 61 * DAY).unwrap();
        assert_eq!(first[0].data, later[0].data);
        for (a, b) in first.iter().zip(&later).skip(1) {
            assert_ne!(a.data, b.data, "{} stayed", a.name);
        }
    }

    #[test]
    fn a_recreated_store_gets_certificates_for_its_own_uid() {
        let now = unix_now();
        let first = plan(&store(), &NOTHING, now).unwrap();
        let found = first.each_ref().map(|wanted| Some(stored(wanted)));
        let mut recreated = store();
        recreated.metadata.uid = Some("another-uid".into());
        let wanted = plan(&recreated, &found, now).unwrap();
        let crt = String::from_utf8(wanted[1].data["tls.crt"].0.clone()).unwrap();
        let facts = Facts::read("server", &crt).unwrap();
        assert_eq!(facts.sans, [San::Dns("another-uid.codexstore".into())]);
    }

    #[test]
    fn the_authority_key_is_in_no_mounted_secret() {
        let [ca, mounted @ ..] = plan(&store(), &NOTHING, unix_now()).unwrap();
        for mounted in mounted {
            assert_ne!(mounted.data["tls.key"], ca.data["tls.key"]);
            assert_eq!(
                mounted.data.keys().collect::<Vec<_>>(),
                ["ca.crt", "tls.crt", "tls.key"]
            );
        }
    }
}
