//! A claim, which only a pod can read: one is made for it, and what is stored comes through the API server.

use std::cell::RefCell;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use codexstore_crds::jobs::{self, CODEXCTL, JobConfig};
use codexstore_crds::{CodexBackup, names};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Resource;
use kube::api::{Api, AttachParams, AttachedProcess, DeleteParams, ListParams};
use kube::client::UpgradeConnectionError;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt as _;

use super::Open;
use crate::{explain::cluster::Cluster, failure::Coded};

/// How often the pod is looked at, and how long until it runs.
const LOOK: Duration = Duration::from_millis(500);
const STARTS: Duration = Duration::from_mins(3);
/// How long bytes may take to come out of a connection that has ended.
const LAST: Duration = Duration::from_secs(10);
/// Bytes that wait to be read.
const BUFFER: usize = 1 << 20;

/// A pod that reads a claim, until [`Reader::remove`].
pub struct Reader {
    pods: Api<Pod>,
    /// The pod, once it was made.
    made: RefCell<Option<String>>,
}

impl Reader {
    /// None yet.
    pub fn new(cluster: &Cluster) -> Reader {
        Reader {
            pods: cluster.api(),
            made: RefCell::default(),
        }
    }

    /// Makes the pod, and waits until it runs.
    pub async fn start(
        &self,
        cluster: &Cluster,
        backup: &CodexBackup,
        image: Option<&str>,
    ) -> Result<()> {
        let cfg = match image {
            Some(image) => JobConfig {
                image: image.to_owned(),
                ..JobConfig::default()
            },
            None => find_image(cluster).await?,
        };
        let pod = jobs::reader(backup, &cfg);
        let mut pod = pod.ok_or_else(|| Coded::invalid("the backup is in no claim"))?;
        // A name of ours, by which it is deleted too where nobody waited for the answer.
        let prefix = pod.metadata.generate_name.take().unwrap_or_default();
        let number = getrandom::u32().context("ask for a random number")?;
        let name = format!("{prefix}{number:08x}");
        pod.metadata.name = Some(name.clone());
        *self.made.borrow_mut() = Some(name.clone());
        cluster
            .create(&pod, "make a pod that reads the claim")
            .await?;
        eprintln!("pod/{name} reads the claim, and is deleted at the end");
        let begun = Instant::now();
        loop {
            let Some(pod) = cluster.pod(&name).await? else {
                return Err(Coded::not_found(format!("pod/{name} was deleted")).into());
            };
            match state(&pod) {
                State::Runs => return Ok(()),
                State::Ended => return Err(anyhow!("pod/{name} has ended: {}", why(&pod))),
                State::Waits if begun.elapsed() > STARTS => {
                    let what = format!("pod/{name} does not start: {}", why(&pod));
                    return Err(Coded::unreachable(what).into());
                }
                State::Waits => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Opens a file of the claim.
    pub async fn open(&self, path: &str) -> Result<Open> {
        let name = self.made.borrow().clone().unwrap_or_default();
        let params = AttachParams::default()
            .stdin(false)
            .stdout(true)
            .stderr(true)
            .max_stdout_buf_size(BUFFER)
            .max_stderr_buf_size(BUFFER);
        let command = [CODEXCTL, "job", "read", "--path", path];
        let process = self.pods.exec(&name, command, &params).await;
        let mut process = process.map_err(|error| no_exec(&name, error))?;
        let bytes = process.stdout().context("a process without stdout")?;
        Ok(Open {
            bytes: Box::pin(bytes),
            end: ended(process),
        })
    }

    /// Deletes the pod, if one was made.
    pub async fn remove(&self) {
        let Some(name) = self.made.take() else {
            return;
        };
        let params = DeleteParams::default().grace_period(0);
        match self.pods.delete(&name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if answer.code == 404 => {}
            Err(error) => {
                eprintln!("pod/{name} is not deleted, and ends by itself within the hour: {error}");
            }
        }
    }
}

/// Why nothing is run in a pod: who may not is told of the right.
fn no_exec(name: &str, error: kube::Error) -> anyhow::Error {
    let what = format!("run codexctl in pod/{name}");
    match error {
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code))
            if matches!(code.as_u16(), 401 | 403) =>
        {
            Coded::denied(format!("{what}: it takes the right to create pods/exec")).into()
        }
        error => anyhow::Error::new(error).context(what),
    }
}

/// How a process has ended, with what it said.
fn ended(mut process: AttachedProcess) -> BoxFuture<'static, Result<()>> {
    let (status, said) = (process.take_status(), process.stderr());
    async move {
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let mut words = String::new();
        if let Some(mut said) = said {
            // Of a connection that broke there is no end.
            let all = said.read_to_string(&mut words);
            let _ = tokio::time::timeout(LAST, all).await;
        }
        drop(process);
        judge(status.as_ref(), &words)
    }
    .boxed()
}

fn judge(status: Option<&Status>, words: &str) -> Result<()> {
    let status = status.ok_or_else(|| Coded::unreachable("the connection to the pod broke"))?;
    if status.status.as_deref() == Some("Success") {
        return Ok(());
    }
    let words = words.trim().trim_start_matches("codexctl: ");
    let words = if words.is_empty() {
        status.message.as_deref().unwrap_or("it does not say why")
    } else {
        words
    };
    Err(anyhow!("the pod cannot read it: {words}"))
}

/// How a pod is.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Waits,
    Runs,
    Ended,
}

fn state(pod: &Pod) -> State {
    match pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
    {
        Some("Running") => State::Runs,
        Some("Succeeded" | "Failed") => State::Ended,
        _ => State::Waits,
    }
}

/// Why a pod does not run.
fn why(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.into_iter().flatten();
    let waiting = containers.filter_map(|container| container.state?.waiting);
    let waiting = waiting.map(|waiting| {
        let reason = waiting.reason.unwrap_or_default();
        format!("{reason}: {}", waiting.message.unwrap_or_default())
    });
    let conditions = status.conditions.into_iter().flatten();
    let conditions = conditions.filter(|condition| condition.status == "False");
    let mut all = waiting.chain(conditions.filter_map(|condition| condition.message));
    let first = all.next().or(status.message).or(status.reason);
    first.unwrap_or_else(|| "nobody says why".to_owned())
}

/// Objects of a kind, and why there are none if that is so.
async fn listed<K>(
    cluster: &Cluster,
    params: &ListParams,
    refused: &mut Option<kube::Error>,
) -> std::vec::IntoIter<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + DeserializeOwned
        + Clone
        + Debug,
{
    let all = match cluster.api::<K>().list(params).await {
        Ok(list) => list.items,
        Err(error) => {
            *refused = Some(error);
            Vec::new()
        }
    };
    all.into_iter()
}

/// The image that the operator has its Jobs in this namespace run.
async fn find_image(cluster: &Cluster) -> Result<JobConfig> {
    let params = ListParams::default().labels(&format!(
        "app.kubernetes.io/managed-by={},app.kubernetes.io/component=backup",
        names::FIELD_MANAGER
    ));
    let mut refused = None;
    let crons = listed::<CronJob>(cluster, &params, &mut refused).await;
    let mut crons = crons.filter_map(|cron| image_of(cron.spec?.job_template.spec?.template.spec?));
    let mut found = crons.next();
    if found.is_none() {
        let all = listed::<Deployment>(cluster, &params, &mut refused).await;
        let mut all = all.filter_map(|one| image_of(one.spec?.template.spec?));
        found = all.next();
    }
    if found.is_none() {
        let all = listed::<Job>(cluster, &params, &mut refused).await;
        let mut all = all.filter_map(|one| image_of(one.spec?.template.spec?));
        found = all.next();
    }
    if let Some(image) = found {
        return Ok(image);
    }
    let why = refused
        .map(|error| format!(" ({error})"))
        .unwrap_or_default();
    let what = format!(
        "a claim is read by a pod, and no Job of the operator's in this namespace says which image has codexctl{why}: name that of the \
         operator with --image"
    );
    Err(Coded::not_found(what).into())
}

fn image_of(pod: PodSpec) -> Option<JobConfig> {
    let mut containers = pod.containers.into_iter();
    let codexctl = |command: &Option<Vec<String>>| {
        let first = command.as_ref().and_then(|command| command.first());
        first.is_some_and(|first| first == CODEXCTL)
    };
    let found = containers.find(|one| codexctl(&one.command))?;
    Some(JobConfig {
        image: found.image?,
        image_pull_policy: found.image_pull_policy,
        ..JobConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    #[test]
    fn a_pod_that_does_not_run_says_why() {
        let pending = pod(&json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]}));
        assert_eq!(state(&pending), State::Waits);
        assert_eq!(why(&pending), "0/1 nodes are available");
        let image = pod(
            &json!({"phase": "Pending", "containerStatuses": [{"name": "hold", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}}],
            "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status"}]}),
        );
        assert_eq!(why(&image), "ErrImagePull: no such host");
        assert_eq!(state(&pod(&json!({"phase": "Running"}))), State::Runs);
        let late = pod(&json!({"phase": "Failed", "reason": "DeadlineExceeded"}));
        assert_eq!(
            (state(&late), why(&late).as_str()),
            (State::Ended, "DeadlineExceeded")
        );
    }

    #[test]
    fn a_process_that_failed_or_was_lost_is_an_error_with_its_words() {
        let status = |text: &str| Status {
            status: Some(text.to_owned()),
            message: Some("exit code 1".to_owned()),
            ..Status::default()
        };
        assert!(judge(Some(&status("Success")), "").is_ok());
        let said = |status: Option<&Status>, words| judge(status, words).unwrap_err();
        let failed = status("Failure");
        let words = "codexctl: open /destination/a: No such file or directory\n";
        let error = said(Some(&failed), words).to_string();
        assert!(
            error.ends_with("it: open /destination/a: No such file or directory"),
            "{error}"
        );
        assert!(said(Some(&failed), "").to_string().ends_with("exit code 1"));
        assert_eq!(crate::failure::report(&said(None, "")).1, 9);
    }

    #[test]
    fn the_image_is_that_of_a_container_that_runs_codexctl() {
        let spec = |containers: &Value| -> PodSpec {
            serde_json::from_value(json!({"containers": containers})).unwrap()
        };
        let ours = json!({"name": "backup", "image": "op:1", "imagePullPolicy": "Never", "command": ["/codexctl"]});
        let mesh = json!({"name": "mesh", "image": "mesh:1"});
        let found = image_of(spec(&json!([mesh, ours]))).unwrap();
        assert_eq!(
            (found.image.as_str(), found.image_pull_policy.as_deref()),
            ("op:1", Some("Never"))
        );
        assert_eq!(image_of(spec(&json!([mesh]))), None);
    }
}
