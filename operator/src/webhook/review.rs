//! Answers to admission reviews.

use std::sync::Arc;
use std::time::Instant;

use codexstore_crds::status::condition::KEYS_READY;
use codexstore_crds::{
    CodexStore, Decision, InjectConfig, KeyringStatus, Reason, check_ephemeral, check_injected,
    decide, desired, inject, is_injected, names, store_label,
};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use serde_json::Value;
use tracing::{info, warn};

use super::graft::graft;
use super::lookup::{Lookup, Recorded};
use crate::metrics::Metrics;

/// Decides on pods.
#[derive(Clone)]
pub struct Reviewer {
    /// Reads stores.
    pub lookup: Lookup,
    /// What is injected.
    pub inject: Arc<InjectConfig>,
    /// The namespaces that the operator works in; `None` for all.
    pub namespaces: Option<Arc<[String]>>,
    /// Where decisions are counted.
    pub metrics: Arc<Metrics>,
}

/// A request that is not an admission review; the text says what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub struct BadRequest(pub String);

/// Which webhook was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/mutate`
    Mutate,
    /// `/validate`
    Validate,
}

impl Endpoint {
    fn name(self) -> &'static str {
        match self {
            Self::Mutate => "mutate",
            Self::Validate => "validate",
        }
    }
}

/// What was decided, for the answer, the log and the metrics.
enum Verdict {
    Allow(&'static str),
    Patch(Box<Pod>, Vec<String>),
    /// Reason for programs, message for people.
    Refuse(String, String),
    /// The decision could not be made.
    Error(String),
}

impl Verdict {
    fn refuse(refusal: &codexstore_crds::Refusal) -> Self {
        Self::Refuse(refusal.reason.to_string(), refusal.message.clone())
    }
}

impl Reviewer {
    /// The answer to one review, as JSON.
    pub async fn answer(&self, endpoint: Endpoint, body: &[u8]) -> Result<Vec<u8>, BadRequest> {
        let started = Instant::now();
        let (raw, request) = read(body)?;
        let verdict = match endpoint {
            Endpoint::Mutate => self.mutate(&request).await,
            Endpoint::Validate => self.validate(&request).await,
        };
        let mut response = AdmissionResponse::from(&request);
        let object = request.object.as_ref();
        let pod = object.map(|p| p.metadata.name.clone().or(p.metadata.generate_name.clone()));
        let pod = pod.flatten().unwrap_or_else(|| request.name.clone());
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let decision = match verdict {
            Verdict::Allow(decision) => decision,
            Verdict::Patch(after, warnings) => match patch(&raw, object, &after) {
                Ok(patch) if patch.0.is_empty() => "unchanged",
                Ok(patch) => match response.clone().with_patch(patch) {
                    Ok(patched) => {
                        response = patched;
                        response.warnings = (!warnings.is_empty()).then_some(warnings);
                        info!(namespace, pod, "sidecar injected");
                        "injected"
                    }
                    Err(error) => failed(&mut response, &error.to_string()),
                },
                Err(error) => failed(&mut response, &error.to_string()),
            },
            Verdict::Refuse(reason, message) => {
                info!(namespace, pod, reason, message, "pod refused");
                response = response.deny(format!("codexstore: {message}"));
                response.result.code = 403;
                response.result.reason = reason;
                "refused"
            }
            Verdict::Error(message) => {
                warn!(namespace, pod, error = message, "cannot decide on a pod");
                failed(&mut response, &message)
            }
        };
        self.metrics
            .admitted(endpoint.name(), decision, started.elapsed());
        encode(response).map_err(|e| BadRequest(e.to_string()))
    }

    async fn mutate(&self, request: &AdmissionRequest<Pod>) -> Verdict {
        let Some(pod) = request.object.as_ref().filter(|_| creates_pod(request)) else {
            return Verdict::Allow("skipped");
        };
        let (namespace, store) = match self.store_of(request, pod).await {
            Ok(Some(found)) => found,
            Ok(None) => return Verdict::Allow("skipped"),
            Err(verdict) => return verdict,
        };
        let store = match self.decided(pod, namespace, store).await {
            Ok(Some(store)) => store,
            Ok(None) => return Verdict::Allow("skipped"),
            Err(verdict) => return verdict,
        };
        if let Err(verdict) = self.claim(namespace, &store, pod).await {
            return verdict;
        }
        match inject(pod, &store, &self.inject, &request.uid) {
            Ok(after) => {
                let warnings = warnings(pod, &after);
                Verdict::Patch(Box::new(after), warnings)
            }
            Err(refusal) => Verdict::refuse(&refusal),
        }
    }

    async fn validate(&self, request: &AdmissionRequest<Pod>) -> Verdict {
        let Some(pod) = request.object.as_ref() else {
            return Verdict::Allow("skipped");
        };
        if request.sub_resource.as_deref() == Some("ephemeralcontainers") {
            // Not by the label: a running pod's label can be taken off first.
            let Some(old) = request.old_object.as_ref() else {
                return Verdict::Error("the review of an update has no oldObject".to_owned());
            };
            return match check_ephemeral(old, pod) {
                Ok(()) => Verdict::Allow("allowed"),
                Err(refusal) => Verdict::refuse(&refusal),
            };
        }
        if !creates_pod(request) {
            return Verdict::Allow("skipped");
        }
        let (namespace, store) = match self.store_of(request, pod).await {
            Ok(Some(found)) => found,
            Ok(None) => return Verdict::Allow("skipped"),
            Err(verdict) => return verdict,
        };
        match self.decided(pod, namespace, store).await {
            Ok(None) => Verdict::Allow("skipped"),
            Ok(Some(store)) if is_injected(pod) => {
                match check_injected(pod, &store, &self.inject) {
                    Ok(()) => match self.claim(namespace, &store, pod).await {
                        Ok(()) => Verdict::Allow("allowed"),
                        Err(verdict) => verdict,
                    },
                    Err(refusal) => Verdict::refuse(&refusal),
                }
            }
            Ok(Some(_)) => Verdict::Refuse(
                "InjectionMissing".to_owned(),
                format!(
                    "the pod has the label {} but not the sidecar: the mutating webhook was not called, or another one took \
                     the sidecar out; check the MutatingWebhookConfigurations, then create the pod again",
                    names::STORE_LABEL
                ),
            ),
            Err(verdict) => verdict,
        }
    }

    /// The store whose sidecar the pod gets; `None` when it gets none. Waits for a keyring that is being made.
    async fn decided(
        &self,
        pod: &Pod,
        namespace: &str,
        store: Option<CodexStore>,
    ) -> Result<Option<CodexStore>, Verdict> {
        let refusal = match decide(pod, namespace, store.as_ref()) {
            Decision::Skip { .. } => return Ok(None),
            Decision::Inject => return Ok(store),
            Decision::Refuse(refusal) => refusal,
        };
        let Some(mut store) = store.filter(|_| refusal.reason == Reason::KeyringPending) else {
            return Err(Verdict::refuse(&refusal));
        };
        // The status may lag behind, or be a recreated store's: what counts is the record.
        let recorded = match self.lookup.recorded(namespace, &store).await {
            Ok(recorded) => recorded,
            Err(error) => {
                return Err(Verdict::Error(format!(
                    "cannot look up the store's keyring: {error}"
                )));
            }
        };
        let record = names::keyring_record(&store.name_any());
        match recorded {
            Recorded::Yes(secret_uid) => {
                let keyring = KeyringStatus {
                    secret_name: desired::keyring_name(&store),
                    secret_uid,
                };
                store.status.get_or_insert_default().keyring = Some(keyring);
                match decide(pod, namespace, Some(&store)) {
                    Decision::Skip { .. } => Ok(None),
                    Decision::Inject => Ok(Some(store)),
                    Decision::Refuse(refusal) => Err(Verdict::refuse(&refusal)),
                }
            }
            Recorded::No => {
                let message = broken(&store).unwrap_or(refusal.message);
                Err(Verdict::Refuse(refusal.reason.to_string(), message))
            }
            Recorded::Foreign => Err(Verdict::Refuse(
                "ForeignObject".to_owned(),
                format!(
                    "the ConfigMap {record} in namespace {namespace} was not made by the CodexStore operator, which \
                     needs this name: rename yours, or delete it if it is not needed"
                ),
            )),
        }
    }

    /// Refuses a pod whose claim is somebody else's.
    async fn claim(&self, namespace: &str, store: &CodexStore, pod: &Pod) -> Result<(), Verdict> {
        match self.lookup.foreign_claim(namespace, store, pod).await {
            Ok(None) => Ok(()),
            Ok(Some(message)) => Err(Verdict::Refuse("ForeignObject".to_owned(), message)),
            Err(error) => Err(Verdict::Error(format!(
                "cannot look up the pod's claim: {error}"
            ))),
        }
    }

    /// Namespace and store that a pod asks for; `None` when it asks for none.
    async fn store_of<'r>(
        &self,
        request: &'r AdmissionRequest<Pod>,
        pod: &Pod,
    ) -> Result<Option<(&'r str, Option<CodexStore>)>, Verdict> {
        let Some(label) = store_label(pod) else {
            return Ok(None);
        };
        // The pod itself may not say yet where it will be.
        let Some(namespace) = request.namespace.as_deref() else {
            return Err(Verdict::Error("the review names no namespace".to_owned()));
        };
        if self
            .namespaces
            .as_ref()
            .is_some_and(|all| !all.iter().any(|n| n == namespace))
        {
            return Err(Verdict::Refuse(
                "NamespaceNotServed".to_owned(),
                format!(
                    "the CodexStore operator does not work in namespace {namespace}: add it to operator.namespaces of its Helm \
                     release, or take the label {} off the pod",
                    names::STORE_LABEL
                ),
            ));
        }
        if !valid_name(label) {
            // Not worth asking for: no store can be called this.
            return Ok(Some((namespace, None)));
        }
        match self.lookup.store(namespace, label).await {
            Ok(store) => Ok(Some((namespace, store))),
            Err(error) => Err(Verdict::Error(format!(
                "cannot look up CodexStore {namespace}/{label}: {error}"
            ))),
        }
    }
}

/// Names that an object can have, as far as it matters for a path in a URL.
fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        && !name.starts_with('.')
}

fn creates_pod(request: &AdmissionRequest<Pod>) -> bool {
    request.operation == Operation::Create
        && request
            .sub_resource
            .as_deref()
            .unwrap_or_default()
            .is_empty()
        && request.resource.resource == "pods"
}

/// Why a store has no keyring, where the operator knows.
fn broken(store: &CodexStore) -> Option<String> {
    let keys = store
        .status
        .as_ref()?
        .condition(KEYS_READY)
        .filter(|c| c.status == "False")?;
    Some(format!(
        "CodexStore {} has no keyring: {}",
        store.name_any(),
        keys.message
    ))
}

/// What whoever creates the pod should know about what was done to it.
fn warnings(before: &Pod, after: &Pod) -> Vec<String> {
    let mut warnings = Vec::new();
    let annotation = names::FS_GROUP_ANNOTATION;
    if let Some(group) = after.annotations().get(annotation)
        && !before.annotations().contains_key(annotation)
    {
        warnings.push(format!(
            "codexstore: the pod's fsGroup was set to {group}, so that the sidecar can use its volume; set \
             spec.securityContext.fsGroup to choose another"
        ));
    }
    warnings
}

/// The review that answers. The patch goes as text, as the API's definition says, and not as a list of numbers.
fn encode(mut response: AdmissionResponse) -> Result<Vec<u8>, serde_json::Error> {
    let patch = response.patch.take();
    let mut review = serde_json::to_value(response.into_review())?;
    if let (Some(patch), Some(response)) = (
        patch,
        review.get_mut("response").and_then(Value::as_object_mut),
    ) {
        response.insert("patch".to_owned(), serde_json::to_value(ByteString(patch))?);
    }
    serde_json::to_vec(&review)
}

fn failed(response: &mut AdmissionResponse, why: &str) -> &'static str {
    *response = response.clone().deny(format!("codexstore: {why}"));
    response.result.code = 500;
    "InternalError".clone_into(&mut response.result.reason);
    "error"
}

/// The patch that makes what was sent into what is wanted, leaving alone what the types do not know.
fn patch(
    raw: &Value,
    before: Option<&Pod>,
    after: &Pod,
) -> Result<json_patch::Patch, serde_json::Error> {
    let before = serde_json::to_value(before)?;
    let after = serde_json::to_value(after)?;
    Ok(json_patch::diff(raw, &graft(raw, &before, &after)))
}

/// The request of a review, and its object as it was sent.
fn read(body: &[u8]) -> Result<(Value, AdmissionRequest<Pod>), BadRequest> {
    let mut raw: Value = serde_json::from_slice(body)
        .map_err(|e| BadRequest(format!("the body is not an AdmissionReview: {e}")))?;
    let object = raw
        .pointer_mut("/request/object")
        .map(Value::take)
        .unwrap_or_default();
    let review: AdmissionReview<Pod> = serde_json::from_slice(body)
        .map_err(|e| BadRequest(format!("the body is not an AdmissionReview of a pod: {e}")))?;
    if review.types.api_version != "admission.k8s.io/v1" {
        return Err(BadRequest(format!(
            "AdmissionReview {} is not understood: send admission.k8s.io/v1",
            review.types.api_version
        )));
    }
    // The answer must carry the review's own kind and version; this passes them on.
    let request: AdmissionRequest<Pod> = review
        .try_into()
        .map_err(|_| BadRequest("the AdmissionReview has no request".to_owned()))?;
    Ok((object, request))
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
