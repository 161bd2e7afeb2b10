//! A store with members that answer, for whole rotations: kubelet is played, and time is set.

use codexstore_crds::rotation::{Mode, RotationPolicy};
use codexstore_crds::{CodexKeyRotation, CodexStore};
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::{Value, json};

use crate::controller::fake_api::FakeApi;
use crate::controller::fake_member::FakeMember;
use crate::controller::fixtures::{self, claim_store};
use crate::controller::scripted::{self, KEYRING, ROTATIONS, look, rotation, with};

const SERVER: &str = "/api/v1/namespaces/shop/secrets/cxs-orders-server";
/// Looks that are enough for a whole rotation.
pub(super) const LOOKS: usize = 24;
/// Long enough ago for a deadline of half a minute.
pub(super) const LONG_AGO: &str = "2026-01-01T00:00:00Z";

pub(super) fn rotating(mode: Mode) -> CodexStore {
    let policy = RotationPolicy {
        mode,
        deadline: "30s".to_owned(),
        ..RotationPolicy::default()
    };
    fixtures::rotating(claim_store("1Gi"), policy)
}

/// A store with its keyring, and members that run; kubelet is played by [`Cluster::look`].
pub(super) struct Cluster {
    pub(super) api: FakeApi,
    pub(super) members: Vec<FakeMember>,
    pub(super) first: String,
    /// The Secret with its keys.
    secret: &'static str,
}

impl Cluster {
    pub(super) async fn start(mode: Mode, pods: &[&str]) -> Self {
        let store = rotating(mode);
        let api = with(&store).await;
        Self::of(api, &store, KEYRING, pods).await
    }

    /// The store is there, and its keys are or will be in this Secret.
    pub(super) async fn of(
        api: FakeApi,
        store: &CodexStore,
        secret: &'static str,
        pods: &[&str],
    ) -> Self {
        look(&api, &[]).await.unwrap();
        let keys: Secret = serde_json::from_value(api.get(secret).unwrap()).unwrap();
        let first = crate::controller::keyring::facts(&keys).unwrap().current;
        let mut cluster = Self {
            api,
            members: Vec::new(),
            first,
            secret,
        };
        for pod in pods {
            cluster.add(store, pod).await;
        }
        cluster
    }

    /// A member more, with all that it holds under the first key.
    pub(super) async fn add(&mut self, store: &CodexStore, pod: &str) {
        let server: Secret = serde_json::from_value(self.api.get(SERVER).unwrap()).unwrap();
        let member = FakeMember::start(store, pod, &server, &self.first).await;
        self.members.push(member);
    }

    /// One look by an operator that has just started; then kubelet brings members the keyring of before that.
    pub(super) async fn look(&self) {
        let secret = self.api.get(self.secret);
        let pods: Vec<Pod> = self.members.iter().map(|m| m.pod.clone()).collect();
        // A look that fails is made up for by the next.
        let _ = look(&self.api, &pods).await;
        if let Some(secret) = secret {
            let secret: Secret = serde_json::from_value(secret).unwrap();
            if let Ok(facts) = crate::controller::keyring::facts(&secret) {
                for member in &self.members {
                    member.load(&facts.current, &facts.ids);
                }
            }
        }
    }

    /// Looks until the rotation is like this.
    pub(super) async fn until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        for _ in 0..LOOKS {
            let status = self.status(name);
            if wanted(&status) {
                return status;
            }
            self.look().await;
        }
        panic!("{what}: {}", self.status(name));
    }

    pub(super) async fn done(&self, name: &str) -> Value {
        self.until(name, "it has ended", |s| s["completedAt"].is_string())
            .await
    }

    pub(super) fn ask(&self, name: &str, spec: &Value) {
        self.api.put(&path(name), &rotation(name, spec));
    }

    pub(super) fn status(&self, name: &str) -> Value {
        self.api.get(&path(name)).unwrap()["status"].take()
    }

    /// As if its times were long ago.
    pub(super) fn wait_for_the_deadline(&self, name: &str) {
        self.set_times(name, LONG_AGO);
    }

    pub(super) fn set_times(&self, name: &str, at: &str) {
        let mut rotation = self.api.get(&path(name)).unwrap();
        for time in ["startedAt", "promotedAt", "progressAt"] {
            if rotation["status"][time].is_string() {
                rotation["status"][time] = json!(at);
            }
        }
        self.api.put(&path(name), &rotation);
    }

    pub(super) fn told(&self, reason: &str) -> bool {
        self.api.told(reason) > 0
    }
}

pub(super) fn path(name: &str) -> String {
    format!("{ROTATIONS}/{name}")
}

/// The ids in the keyring, and the current one.
pub(super) fn keyring(api: &FakeApi) -> (Vec<String>, String) {
    let facts = scripted::facts(api);
    (facts.ids, facts.current)
}

pub(super) fn uid(api: &FakeApi, name: &str) -> String {
    let rotation: CodexKeyRotation = serde_json::from_value(api.get(&path(name)).unwrap()).unwrap();
    rotation.metadata.uid.unwrap()
}

pub(super) fn states(status: &Value) -> Vec<String> {
    let all = status["members"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|m| format!("{}={}", text(&m["pod"]), text(&m["state"])))
        .collect()
}

/// Why a rotation failed, as its condition has it.
pub(super) fn failed(status: &Value) -> String {
    assert_eq!(status["phase"], "Failed", "{status}");
    let mut all = status["conditions"].as_array().unwrap().iter();
    let completed = all.find(|c| c["type"] == "Completed").unwrap();
    assert_eq!(completed["status"], "False", "{status}");
    completed["reason"].as_str().unwrap().to_owned()
}
