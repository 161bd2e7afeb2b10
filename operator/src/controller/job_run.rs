//! Jobs, as far as what they are for need not be known.

use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, DeleteParams, PostParams};

use super::Error;
use codexstore_crds::names;

/// How a Job is.
pub enum Run {
    /// There is none.
    None,
    /// It runs, or will.
    Going,
    /// It succeeded.
    Done,
    /// It failed; why.
    Failed(String),
}

impl Run {
    /// Why that has failed whose Job has ended without a word on it. What its last try said comes first.
    pub fn failure(self, last_try: Option<&str>) -> String {
        let why = match self {
            Run::Failed(why) => why,
            Run::None => "its Job is gone".to_owned(),
            Run::Going | Run::Done => "its Job ended without saying how it went".to_owned(),
        };
        match last_try {
            Some(last) => format!("{last} ({why})"),
            None => why,
        }
    }
}

/// How the Job of this name is.
pub async fn run_of(jobs: &Api<Job>, name: &str) -> Result<Run, Error> {
    let found = jobs.get_opt(name).await?;
    Ok(found.map_or(Run::None, |job| state(&job)))
}

/// How a Job is.
pub fn state(job: &Job) -> Run {
    if job.metadata.deletion_timestamp.is_some() {
        return Run::Going;
    }
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ended = conditions
        .into_iter()
        .flatten()
        .find(|c| c.status == "True" && (c.type_ == "Complete" || c.type_ == "Failed"));
    match ended {
        None => Run::Going,
        Some(c) if c.type_ == "Complete" => Run::Done,
        Some(c) => {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let reason = c.reason.as_deref().unwrap_or_default();
            let message = c.message.as_deref().unwrap_or_default();
            Run::Failed(format!("job/{name} failed: {reason}: {message}"))
        }
    }
}

/// Makes a Job; false if there is one of that name.
pub async fn create(jobs: &Api<Job>, job: &Job) -> Result<bool, Error> {
    let params = PostParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match jobs.create(&params, job).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Deletes a Job and its pods.
pub async fn delete(jobs: &Api<Job>, name: &str) -> Result<(), Error> {
    match jobs.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
