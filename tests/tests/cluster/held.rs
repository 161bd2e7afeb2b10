//! A rotation that is held in one of its phases for as long as a test wants.
//!
//! The API server is to ask a webhook about the one write that ends the phase, and nobody answers there: the write fails, as often as the
//! operator tries it. But for those that wait for members, phases are over in a moment otherwise.

use codexstore_tests::{Namespace, path_of, wait};
use serde_json::json;

use crate::rotation::{keyring, rotation_is};

const KIND: &str = "validatingwebhookconfigurations";

/// Lasts until it is dropped.
pub struct Held<'a> {
    ns: &'a Namespace,
    name: String,
}

impl<'a> Held<'a> {
    /// Before the operator's next change of a keyring of its own: in `Adding` the new key, in `Promoting` which one is current, and behind a
    /// rotation the deletion of the old one.
    #[track_caller]
    pub fn before_keyring(ns: &'a Namespace) -> Self {
        let secret =
            "request.kind.kind == 'Secret' && object.metadata.name == 'cxs-orders-keyring'";
        Self::new(ns, "keyring", secret)
    }

    /// Before a phase is written down.
    #[track_caller]
    pub fn before(ns: &'a Namespace, phase: &str) -> Self {
        let phase_is = format!("has(object.status) && object.status.phase == '{phase}'");
        Self::new(ns, &phase.to_lowercase(), &phase_is)
    }

    fn new(ns: &'a Namespace, what: &str, is_it: &str) -> Self {
        let name = format!("{}-{what}", ns.name);
        let condition = format!(
            "request.kind.kind == 'ConfigMap' ? object.metadata.name == '{name}' : {is_it}"
        );
        let rule = |group: &str, version: &str, what: &str| {
            let (groups, versions, operations) = ([group], [version], ["CREATE", "UPDATE"]);
            json!({"apiGroups": groups, "apiVersions": versions, "operations": operations, "resources": [what]})
        };
        let status = rule("codexstore.dev", "v1alpha1", "codexkeyrotations/status");
        let rules = [
            rule("", "v1", "configmaps"),
            rule("", "v1", "secrets"),
            status,
        ];
        let webhook = json!({
            "name": "held.tests.codexstore.dev",
            "clientConfig": {"url": "https://127.0.0.1:1/nobody"},
            "rules": rules,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns.name}},
            "matchConditions": [{"name": "held", "expression": condition}],
            "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 1, "admissionReviewVersions": ["v1"],
        });
        let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name}, "webhooks": [webhook]});
        ns.cluster
            .send("POST", &path_of("", KIND), Some(&object))
            .unwrap_or_else(|e| panic!("{KIND} {name}: {e}"));
        let held = Self { ns, name };
        let what = format!("{} holds", held.name);
        wait::until(&what, wait::SHORT, || match held.tried() {
            Err(why) if why.contains("failed calling webhook") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        held
    }

    /// Whether the API server does what is held. It takes up a change a moment later.
    fn tried(&self) -> Result<(), String> {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": self.name}});
        let made = self.ns.dry_run(&object);
        made.map(drop).map_err(|e| e.to_string())
    }
}

/// The id of a rotation's new key, once that is in the keyring. The phase may go past `Distributing` before anybody sees it: members
/// may have loaded the key by the operator's next look.
#[track_caller]
pub fn added(ns: &Namespace, rotation: &str) -> String {
    let named = rotation_is(ns, rotation, "its new key has an id", |s| {
        s["to"].is_string()
    });
    let to = named["to"].as_str().unwrap().to_owned();
    wait::until(&format!("{to} is in the keyring"), wait::LONG, || {
        let (ids, _) = keyring(ns);
        if ids.contains(&to) {
            Ok(())
        } else {
            Err(format!("{ids:?}"))
        }
    });
    to
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let path = path_of("", &format!("{KIND}/{}", self.name));
        let gone = self.ns.cluster.send("DELETE", &path, None);
        if let Err(why) = gone {
            eprintln!("{path} stays: {why}");
        } else if !std::thread::panicking() {
            let what = format!("{} holds no more", self.name);
            wait::until(&what, wait::SHORT, || self.tried());
        }
    }
}
