//! The Lease of whoever writes to a store's destination.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};

use crate::failure::Coded;

/// How long a Lease is good without renewal, in seconds.
const DURATION: i32 = 60;
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(15);
/// How often one that another holds is looked at.
const LOOK: Duration = Duration::from_secs(3);

/// A name by which a Lease is held.
pub struct Holder {
    api: Api<Lease>,
    name: String,
    identity: String,
}

impl Holder {
    /// `holder` is unique to this process, such as its pod's name.
    pub fn new(client: &Client, namespace: &str, name: String, holder: String) -> Holder {
        Holder {
            api: Api::namespaced(client.clone(), namespace),
            name,
            identity: holder,
        }
    }

    /// Waits until nobody else holds the Lease, does the work, and gives it back. The work ends when the Lease is lost.
    pub async fn hold<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut waited = false;
        while !self.take().await? {
            if !waited {
                eprintln!(
                    "waiting for the Lease {}, which another Job holds",
                    self.name
                );
                waited = true;
            }
            tokio::time::sleep(LOOK).await;
        }
        let done = tokio::select! {
            done = work => done,
            lost = self.renew() => Err(lost),
        };
        // If this fails it runs out by itself.
        let _ = self.give_back().await;
        done
    }

    async fn renew(&self) -> anyhow::Error {
        let mut good_until = tokio::time::Instant::now() + Duration::from_secs(DURATION as u64);
        loop {
            tokio::time::sleep(RENEW).await;
            match self.take().await {
                Ok(true) => {
                    good_until = tokio::time::Instant::now() + Duration::from_secs(DURATION as u64);
                }
                Ok(false) => {
                    return Coded::conflict(format!("another took the Lease {}", self.name)).into();
                }
                Err(error) if tokio::time::Instant::now() + RENEW > good_until => return error,
                Err(_) => {}
            }
        }
    }

    /// Takes or renews it; `false` while another holds it.
    async fn take(&self) -> Result<bool> {
        let found = self.api.get_opt(&self.name).await;
        let found = found.with_context(|| format!("read the Lease {}", self.name))?;
        let now = Timestamp::now();
        let Some(mut lease) = found else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.held(now)),
            };
            return self.written(self.api.create(&PostParams::default(), &lease).await);
        };
        if !free(lease.spec.as_ref(), &self.identity, now) {
            return Ok(false);
        }
        lease.spec = Some(self.held(now));
        lease.managed_fields_mut().clear();
        let params = PostParams::default();
        self.written(self.api.replace(&self.name, &params, &lease).await)
    }

    fn held(&self, now: Timestamp) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }
    }

    fn written(&self, result: kube::Result<Lease>) -> Result<bool> {
        match result {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(false),
            Err(error) => Err(error).with_context(|| format!("write the Lease {}", self.name)),
        }
    }

    async fn give_back(&self) -> Result<()> {
        let mut lease = self.api.get(&self.name).await?;
        let Some(spec) = lease.spec.as_mut() else {
            return Ok(());
        };
        if spec.holder_identity.as_ref() == Some(&self.identity) {
            spec.holder_identity = None;
            spec.renew_time = None;
            self.api
                .replace(&self.name, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    }
}

/// Whether `holder` may have it.
fn free(spec: Option<&LeaseSpec>, holder: &str, now: Timestamp) -> bool {
    let Some(spec) = spec else { return true };
    let other = spec.holder_identity.as_deref().filter(|h| !h.is_empty());
    if other.is_none() || other == Some(holder) {
        return true;
    }
    let seconds = i64::from(spec.lease_duration_seconds.unwrap_or(DURATION));
    let renewed = spec.renew_time.as_ref().map_or(0, |t| t.0.as_second());
    renewed.saturating_add(seconds) < now.as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_free_for_its_holder_and_once_it_ran_out() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |seconds: i64| LeaseSpec {
            holder_identity: Some("a".to_owned()),
            lease_duration_seconds: Some(60),
            renew_time: Some(MicroTime(Timestamp::from_second(seconds).unwrap())),
            ..LeaseSpec::default()
        };
        assert!(free(None, "b", now));
        assert!(free(Some(&LeaseSpec::default()), "b", now));
        assert!(free(Some(&at(999_990)), "a", now));
        assert!(!free(Some(&at(999_940)), "b", now));
        assert!(free(Some(&at(999_939)), "b", now));
    }
}
