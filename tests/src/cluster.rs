//! The cluster under test: found, cleared of what an earlier run left, and with CodexStore installed as docs/QUICKSTART.md says.

use std::path::PathBuf;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::{Value, json};

use crate::client::{Answer, Blocking, path_of};
use crate::run::{Output, command};
use crate::{document, run, wait};

/// The operator's namespace.
pub const SYSTEM: &str = "codexstore-system";
/// The helm release.
pub const RELEASE: &str = "codexstore";

/// The one cluster of this run.
pub struct Cluster {
    /// The kubeconfig that `CODEXSTORE_TEST_KUBECONFIG` names.
    pub kubeconfig: PathBuf,
    /// A name for what this run makes.
    pub run: String,
    client: Blocking,
}

/// Tests that take the operator away hold it exclusively; all others share it.
static OPERATOR: RwLock<()> = RwLock::new(());

pub(crate) fn shared() -> RwLockReadGuard<'static, ()> {
    OPERATOR.read().unwrap_or_else(PoisonError::into_inner)
}

/// The cluster for a test that disturbs all others: it runs alone.
pub fn exclusive() -> Option<(&'static Cluster, Alone)> {
    let cluster = cluster()?;
    let guard = OPERATOR.write().unwrap_or_else(PoisonError::into_inner);
    Some((
        cluster,
        Alone {
            cluster,
            _guard: guard,
        },
    ))
}

/// No other test runs while this lives. A test that failed half-way leaves the operator as it was for the others.
pub struct Alone {
    cluster: &'static Cluster,
    _guard: RwLockWriteGuard<'static, ()>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // No further panic here: it would end the whole run.
            self.cluster.helm(&[
                "upgrade",
                "--install",
                RELEASE,
                "charts/codexstore",
                "-n",
                SYSTEM,
                "--reset-values",
                "--wait",
                "--timeout=120s",
            ]);
        }
    }
}

/// The cluster; None when the run says `CODEXSTORE_SKIP_CLUSTER=1`.
///
/// # Panics
/// When no cluster is named, or CodexStore cannot be installed on it.
pub fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    if std::env::var("CODEXSTORE_SKIP_CLUSTER").is_ok_and(|v| v == "1") {
        eprintln!(
            "\n*** CODEXSTORE_SKIP_CLUSTER=1: NOT RUN, nothing is shown on a real cluster ***\n"
        );
        return None;
    }
    let cluster = CLUSTER.get_or_init(|| {
        // A panic here would leave the other tests waiting for a value: it becomes their message.
        std::panic::catch_unwind(prepare).unwrap_or_else(|cause| {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string));
            Err(text.unwrap_or_else(|| "the preparation panicked".into()))
        })
    });
    match cluster {
        Ok(cluster) => Some(cluster),
        Err(why) => panic!("{why}"),
    }
}

fn prepare() -> Result<Cluster, String> {
    let kubeconfig = std::env::var_os("CODEXSTORE_TEST_KUBECONFIG").map(PathBuf::from).ok_or(
        "CODEXSTORE_TEST_KUBECONFIG names no cluster. `make test` makes one; by hand: tests/cluster/cluster up. \
         To leave these tests out, say CODEXSTORE_SKIP_CLUSTER=1.",
    )?;
    let client =
        Blocking::new(&kubeconfig).map_err(|e| format!("{}: {e:#}", kubeconfig.display()))?;
    let run = format!("e2e-{:x}", std::process::id());
    let cluster = Cluster {
        kubeconfig,
        run,
        client,
    };
    cluster.clear();
    cluster.install();
    Ok(cluster)
}

impl Cluster {
    /// kubectl against the test cluster.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> Output {
        run::run(&mut command("kubectl", args, &self.kubeconfig))
    }

    /// helm against the test cluster.
    #[track_caller]
    pub fn helm(&self, args: &[&str]) -> Output {
        run::run(&mut command("helm", args, &self.kubeconfig))
    }

    /// Reads an object or a list by path; Err when it is not there.
    pub fn get(&self, path: &str) -> Answer {
        self.client.send("GET", path, None)
    }

    /// Reads plain text: logs, metrics through the API server's proxy.
    pub fn text(&self, path: &str) -> Result<String, crate::client::Refused> {
        self.client.text(path)
    }

    /// Sends a change: POST, PUT, PATCH (as a merge patch) or DELETE.
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.client.send(method, path, body)
    }

    /// Sends a patch of another kind than a merge patch.
    pub fn patch_as(&self, path: &str, body: &Value, content: &str) -> Answer {
        self.client.send_as("PATCH", path, Some(body), content)
    }

    /// The operator's pods that run and are not going.
    pub fn operator_pods(&self) -> Vec<Value> {
        let mut pods = self.all_operator_pods();
        pods.retain(|p| p["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    fn all_operator_pods(&self) -> Vec<Value> {
        let path = path_of(
            SYSTEM,
            "pods?labelSelector=app.kubernetes.io%2Fcomponent%3Doperator",
        );
        let list = self.get(&path).ok();
        let items = list.and_then(|l| l["items"].as_array().cloned());
        items.unwrap_or_default()
    }

    /// The logs of each operator pod, by name.
    pub fn operator_logs(&self) -> Vec<(String, String)> {
        let names = self.operator_pods();
        let names = names.iter().filter_map(|p| p["metadata"]["name"].as_str());
        names
            .map(|n| {
                (
                    n.to_string(),
                    self.text(&path_of(SYSTEM, &format!("pods/{n}/log")))
                        .unwrap_or_default(),
                )
            })
            .collect()
    }

    /// The operator's pod that holds its Lease, or who else does.
    pub fn leader(&self) -> Result<String, String> {
        let lease = self
            .get(&path_of(SYSTEM, "leases/codexstore-operator"))
            .map_err(|e| e.to_string())?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let pods = self.operator_pods();
        let mut names = pods.iter().filter_map(|p| p["metadata"]["name"].as_str());
        let name = names.find(|name| holder.contains(name));
        name.map(str::to_owned)
            .ok_or_else(|| format!("the Lease's holder is {holder:?}"))
    }

    /// Waits until both replicas of the operator are ready, those before them are gone (one that is going still answers the
    /// webhook, by the settings that it had), one of them leads (one that was removed with its rights could not give its Lease
    /// back), and the webhook carries its CA.
    #[track_caller]
    pub fn operator_ready(&self) {
        wait::until("the operator is ready", wait::LONG, || {
            let d = self
                .get(&path_of(SYSTEM, "deployments/codexstore-operator"))
                .map_err(|e| e.to_string())?;
            let want = d["spec"]["replicas"].as_u64();
            let status = &d["status"];
            let there = [
                &status["readyReplicas"],
                &status["updatedReplicas"],
                &status["replicas"],
            ];
            if there.iter().any(|n| n.as_u64() != want)
                || status["observedGeneration"] != d["metadata"]["generation"]
            {
                return Err(status.to_string());
            }
            let pods = self.all_operator_pods().len() as u64;
            if Some(pods) != want {
                return Err(format!("{pods} pods"));
            }
            self.leader()?;
            for kind in [
                "mutatingwebhookconfigurations",
                "validatingwebhookconfigurations",
            ] {
                let config = self
                    .get(&path_of("", &format!("{kind}/{RELEASE}")))
                    .map_err(|e| e.to_string())?;
                let hooks = config["webhooks"].as_array().cloned().unwrap_or_default();
                if hooks.is_empty()
                    || hooks
                        .iter()
                        .any(|h| h["clientConfig"]["caBundle"].is_null())
                {
                    return Err(format!("{kind} without caBundle"));
                }
            }
            Ok(())
        });
    }

    /// Installs CodexStore by the commands of docs/QUICKSTART.md, section Install.
    #[track_caller]
    pub fn install(&self) {
        document::Document::read(&run::root().join("docs/QUICKSTART.md"))
            .run("Install", &self.kubeconfig);
        self.operator_ready();
    }

    /// Removes what an earlier run left: namespaces, a release.
    fn clear(&self) {
        let old = self.get(&path_of(
            "",
            "namespaces?labelSelector=codexstore.dev%2Ftest-run",
        ));
        for ns in old
            .ok()
            .and_then(|l| l["items"].as_array().cloned())
            .unwrap_or_default()
        {
            let name = ns["metadata"]["name"].as_str().unwrap_or_default();
            let _ = self.send("DELETE", &path_of("", &format!("namespaces/{name}")), None);
        }
        // What the demo or an earlier quick start left in the default namespace.
        for what in [
            "deployment/orders",
            "cxs/orders",
            "secret/cxs-orders-keyring",
            "configmap/cxs-orders-keyring",
        ] {
            self.kubectl(&[
                "-n",
                "default",
                "delete",
                what,
                "--ignore-not-found",
                "--timeout=60s",
            ]);
        }
        if self.helm(&["-n", SYSTEM, "status", RELEASE]).ok {
            self.helm(&["-n", SYSTEM, "uninstall", RELEASE, "--wait"])
                .success("helm uninstall");
        }
        wait::until("pods of an earlier run are gone", wait::LONG, || {
            let pods = self
                .get(&path_of("", "pods?labelSelector=codexstore.dev%2Ftest-run"))
                .map_err(|e| e.to_string())?;
            match pods["items"].as_array().map_or(0, Vec::len) {
                0 => Ok(()),
                n => Err(format!("{n} pods")),
            }
        });
    }

    /// Applies a merge patch.
    pub fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, Some(body))
    }

    /// Deletes at once, without the grace period.
    pub fn kill_pod(&self, namespace: &str, name: &str) -> Answer {
        let now = json!({"gracePeriodSeconds": 0});
        self.send(
            "DELETE",
            &path_of(namespace, &format!("pods/{name}")),
            Some(&now),
        )
    }
}
