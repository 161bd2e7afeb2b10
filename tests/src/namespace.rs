//! A namespace for each test, gone when the test ends; where the test failed, what happened in it is printed first.

use std::sync::RwLockReadGuard;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::client::{Answer, path_of, plural};
use crate::cluster::{Cluster, cluster, shared};
use crate::run::Output;
use crate::{report, wait};

/// A namespace of one test.
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// The cluster that it is in.
    pub cluster: &'static Cluster,
    shared: Option<RwLockReadGuard<'static, ()>>,
}

/// A namespace that enforces the restricted Pod Security Standard, for a test that shares the operator with others.
/// None when the run leaves the cluster out.
#[track_caller]
pub fn namespace(topic: &str) -> Option<Namespace> {
    let cluster = cluster()?;
    let guard = shared();
    let mut ns = Namespace::alone(cluster, topic);
    ns.shared = Some(guard);
    Some(ns)
}

impl Namespace {
    /// A namespace for a test that has the cluster to itself (see [`crate::exclusive`]).
    #[track_caller]
    pub fn alone(cluster: &'static Cluster, topic: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{}-{}-{topic}",
            cluster.run,
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let labels = json!({"codexstore.dev/test-run": "e2e", "pod-security.kubernetes.io/enforce": "restricted"});
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        cluster
            .send("POST", &path_of("", "namespaces"), Some(&object))
            .unwrap_or_else(|e| panic!("namespace {name}: {e}"));
        let ns = Self {
            name,
            cluster,
            shared: None,
        };
        wait::until("the default ServiceAccount", wait::SHORT, || {
            ns.get("serviceaccounts/default")
        });
        ns
    }

    /// Lets the namespace's pods do anything (host network, root).
    #[track_caller]
    pub fn privileged(&self) {
        let labels =
            json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
        self.cluster
            .patch(&path_of("", &format!("namespaces/{}", self.name)), &labels)
            .unwrap();
    }

    /// The path of a resource in this namespace.
    pub fn path(&self, resource: &str) -> String {
        path_of(&self.name, resource)
    }

    /// Reads an object ("pods/web-0") or a list ("pods?labelSelector=…").
    pub fn get(&self, resource: &str) -> Answer {
        self.cluster.get(&self.path(resource))
    }

    /// The items of a list.
    #[track_caller]
    pub fn list(&self, resource: &str) -> Vec<Value> {
        let list = self
            .get(resource)
            .unwrap_or_else(|e| panic!("{resource}: {e}"));
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The pods that are not going, of a given `app` label.
    #[track_caller]
    pub fn pods_of(&self, app: &str) -> Vec<Value> {
        let mut pods = self.list(&format!("pods?labelSelector=app%3D{app}"));
        pods.retain(|p| p["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// Creates an object, or says why the server would not.
    pub fn try_create(&self, object: &Value) -> Answer {
        let kind = plural(object["kind"].as_str().unwrap_or_default());
        self.cluster.send("POST", &self.path(&kind), Some(object))
    }

    /// What the server would make of an object, without making it.
    pub fn dry_run(&self, object: &Value) -> Answer {
        let kind = plural(object["kind"].as_str().unwrap_or_default());
        self.cluster.send(
            "POST",
            &self.path(&format!("{kind}?dryRun=All")),
            Some(object),
        )
    }

    /// Creates an object.
    ///
    /// # Panics
    /// With the server's words, when it refuses.
    #[track_caller]
    pub fn create(&self, object: &Value) -> Value {
        self.try_create(object)
            .unwrap_or_else(|e| panic!("{} {}: {e}", object["kind"], object["metadata"]["name"]))
    }

    /// Creates an object that the webhook must refuse, and returns its message.
    ///
    /// # Panics
    /// When it is accepted, or refused by anything else.
    #[track_caller]
    pub fn refused(&self, object: &Value) -> String {
        match self.try_create(object) {
            Ok(_) => panic!(
                "{} {} was accepted",
                object["kind"], object["metadata"]["name"]
            ),
            Err(e) => {
                assert!(
                    e.message.contains("codexstore.dev"),
                    "refused, but not by CodexStore's webhook: {e}"
                );
                e.message
            }
        }
    }

    /// A store that the operator has made ready for pods.
    #[track_caller]
    pub fn store(&self, name: &str, spec: Value) {
        self.create(&crate::objects::store(name, spec));
        self.condition_is(name, "KeysReady", "True");
    }

    /// Applies a merge patch.
    #[track_caller]
    pub fn patch(&self, resource: &str, body: &Value) -> Value {
        let answer = self.cluster.patch(&self.path(resource), body);
        answer.unwrap_or_else(|e| panic!("patch of {resource}: {e}"))
    }

    /// Deletes an object; it may take its grace period.
    #[track_caller]
    pub fn delete(&self, resource: &str) {
        let options = json!({"propagationPolicy": "Background"});
        self.cluster
            .send("DELETE", &self.path(resource), Some(&options))
            .unwrap_or_else(|e| panic!("deletion of {resource}: {e}"));
    }

    /// Deletes an object and waits until it is gone.
    #[track_caller]
    pub fn delete_and_wait(&self, resource: &str) {
        let uid = self
            .get(resource)
            .map(|o| o["metadata"]["uid"].clone())
            .ok();
        self.delete(resource);
        wait::until(&format!("{resource} is gone"), wait::LONG, || {
            match self.get(resource) {
                Err(e) if e.code == 404 => Ok(()),
                Ok(o) if Some(&o["metadata"]["uid"]) != uid.as_ref() => Ok(()),
                other => Err(format!(
                    "{:?}",
                    other.map(|o| o["metadata"]["deletionTimestamp"].clone())
                )),
            }
        });
    }

    /// Waits until a pod is ready, and returns it.
    #[track_caller]
    pub fn pod_ready(&self, name: &str) -> Value {
        wait::until(&format!("pod {name} is ready"), wait::LONG, || {
            let pod = self
                .get(&format!("pods/{name}"))
                .map_err(|e| e.to_string())?;
            if is_ready(&pod) && pod["metadata"]["deletionTimestamp"].is_null() {
                Ok(pod)
            } else {
                Err(report::pod_line(&pod))
            }
        })
    }

    /// Waits until the one pod of an app is ready, and returns its name.
    #[track_caller]
    pub fn app_ready(&self, app: &str) -> String {
        wait::until(&format!("the pod of {app} is ready"), wait::LONG, || {
            let pods = self.pods_of(app);
            match pods.iter().find(|p| is_ready(p)) {
                Some(pod) => Ok(pod["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_string()),
                None => Err(pods
                    .iter()
                    .map(report::pod_line)
                    .collect::<Vec<_>>()
                    .join("; ")),
            }
        })
    }

    /// Waits until a pod has ended well.
    #[track_caller]
    pub fn pod_succeeded(&self, name: &str) {
        wait::until(&format!("pod {name} succeeds"), wait::LONG, || {
            let pod = self
                .get(&format!("pods/{name}"))
                .map_err(|e| e.to_string())?;
            let phase = pod["status"]["phase"].as_str();
            assert_ne!(phase, Some("Failed"), "{}", report::pod_line(&pod));
            if phase == Some("Succeeded") {
                Ok(())
            } else {
                Err(report::pod_line(&pod))
            }
        });
    }

    /// Waits until a Job is complete.
    #[track_caller]
    pub fn job_complete(&self, name: &str) {
        wait::until(&format!("job {name} completes"), wait::LONG, || {
            let job = self
                .get(&format!("jobs/{name}"))
                .map_err(|e| e.to_string())?;
            assert!(
                job["status"]["failed"].is_null(),
                "job {name} failed: {}",
                job["status"]
            );
            if job["status"]["succeeded"] == 1 {
                Ok(())
            } else {
                Err(job["status"].to_string())
            }
        });
    }

    /// A condition of a store, if it is of the present generation.
    pub fn condition(&self, store: &str, kind: &str) -> Result<Value, String> {
        let store = self
            .get(&format!("codexstores/{store}"))
            .map_err(|e| e.to_string())?;
        let generation = &store["metadata"]["generation"];
        let found = store["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == kind);
        match found {
            Some(c) if &c["observedGeneration"] == generation => Ok(c.clone()),
            _ => Err(format!(
                "no condition {kind} of generation {generation}: {}",
                store["status"]
            )),
        }
    }

    /// Waits until a condition of a store has a status; returns the condition.
    #[track_caller]
    pub fn condition_is(&self, store: &str, kind: &str, status: &str) -> Value {
        wait::until(
            &format!("{kind} of {store} is {status}"),
            wait::LONG,
            || {
                let condition = self.condition(store, kind)?;
                if condition["status"] == status {
                    Ok(condition)
                } else {
                    Err(condition.to_string())
                }
            },
        )
    }

    /// Waits until the status of a store is as wanted; returns it.
    #[track_caller]
    pub fn status(&self, store: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait::until(&format!("{store}: {what}"), wait::LONG, || {
            let status = self
                .get(&format!("codexstores/{store}"))
                .map_err(|e| e.to_string())?["status"]
                .take();
            if wanted(&status) {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    }

    /// Runs a script in a container of a pod.
    #[track_caller]
    pub fn sh(&self, pod: &str, container: &str, script: &str) -> Output {
        self.cluster.kubectl(&[
            "-n", &self.name, "exec", pod, "-c", container, "--", "sh", "-c", script,
        ])
    }

    /// The log of a container, of its present run.
    pub fn log(&self, pod: &str, container: &str) -> String {
        let path = self.path(&format!("pods/{pod}/log?container={container}"));
        self.cluster.text(&path).unwrap_or_default()
    }

    /// How often the sidecar of a pod was restarted.
    #[track_caller]
    pub fn sidecar_restarts(&self, pod: &str) -> u64 {
        let pod = self.get(&format!("pods/{pod}")).unwrap_or_default();
        sidecar_status(&pod)["restartCount"].as_u64().unwrap_or(0)
    }
}

/// Whether a pod has the condition Ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The status of a pod's sidecar.
pub fn sidecar_status(pod: &Value) -> Value {
    let all = pod["status"]["initContainerStatuses"].as_array();
    all.into_iter()
        .flatten()
        .find(|c| c["name"] == "codexstore")
        .cloned()
        .unwrap_or_default()
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", report::of(self));
            if std::env::var("CODEXSTORE_KEEP").is_ok_and(|v| v == "1") {
                eprintln!("CODEXSTORE_KEEP=1: namespace {} stays", self.name);
                return;
            }
        }
        // In the background: the next run waits for it.
        let _ = self.cluster.send(
            "DELETE",
            &path_of("", &format!("namespaces/{}", self.name)),
            None,
        );
    }
}
