//! Leader election by a Lease, so that one replica reconciles at a time.
//!
//! As Kubernetes' own components do it: every write is a replace guarded by the resource version, a candidate trusts its own
//! clock (it takes over when it has seen the same record, unchanged, for as long as the Lease lasts), and a holder that could
//! not renew for two thirds of that time stops leading, whether the API server refuses or just does not answer: no attempt and
//! no pause of a holder outlasts that moment. What it then stops has [`grace`], which ends before anybody else can start.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long after its last renewal a holder leads: two thirds of the Lease.
fn safe(duration: Duration) -> Duration {
    duration * 2 / 3
}

/// Time to stop what leading started, once it is lost: with the two thirds before it, less than the Lease lasts.
pub fn grace(duration: Duration) -> Duration {
    (duration / 6).min(Duration::from_secs(2))
}

/// Takes part in the election for one Lease.
pub struct Election {
    /// Leases in the operator's namespace.
    pub api: Api<Lease>,
    /// Name of the Lease.
    pub name: String,
    /// Name of this replica.
    pub identity: String,
    /// How long a Lease is good without renewal, in whole seconds: its record has no smaller unit.
    pub duration: Duration,
}

/// The Lease as it was when it last changed, and when this replica saw that.
struct Observed {
    version: String,
    since: Instant,
}

/// What to do about a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is ours.
    Renew,
    /// It is free, or its holder has gone silent.
    Take,
    /// Somebody else holds it.
    Wait,
}

fn decide(spec: Option<&LeaseSpec>, me: &str, unchanged: Duration, default: Duration) -> Step {
    let holder = spec
        .and_then(|s| s.holder_identity.as_deref())
        .unwrap_or_default();
    if holder == me {
        return Step::Renew;
    }
    let lasts = spec
        .and_then(|s| s.lease_duration_seconds)
        .and_then(|s| u64::try_from(s).ok())
        .map_or(default, Duration::from_secs);
    if holder.is_empty() || unchanged >= lasts {
        Step::Take
    } else {
        Step::Wait
    }
}

impl Election {
    /// Campaigns until `stop`, telling `leading` each change; then gives the Lease back if it holds it.
    ///
    /// Stop what leading started before stopping this.
    pub async fn run(self, leading: watch::Sender<bool>, stop: CancellationToken) {
        let mut observed = None;
        let mut renewed: Option<Instant> = None;
        let retry = self.duration / 5;
        loop {
            let started = Instant::now();
            // A request that hangs must not hold on to leadership for longer than one that fails.
            let patience = self.left(&leading, renewed).min(self.duration / 3);
            let result = tokio::select! {
                () = stop.cancelled() => break,
                result = tokio::time::timeout(patience, self.attempt(&mut observed)) => result,
            };
            let leads = match result {
                Ok(Ok(true)) => {
                    renewed = Some(started);
                    true
                }
                Ok(Ok(false)) => false,
                failed => {
                    let why = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => "no answer in time".to_owned(),
                    };
                    warn!(
                        lease = self.name,
                        error = why,
                        "cannot read or renew the Lease"
                    );
                    // Nobody else can have taken it yet, so a short outage changes nothing.
                    *leading.borrow()
                        && renewed.is_some_and(|at| at.elapsed() < safe(self.duration))
                }
            };
            leading.send_if_modified(|now| {
                let changed = *now != leads;
                if changed {
                    info!(lease = self.name, leads, "leadership changed");
                }
                *now = leads;
                changed
            });
            let pause = retry.min(self.left(&leading, renewed));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        if leading.send_replace(false) {
            match tokio::time::timeout(self.duration / 3, self.release()).await {
                Ok(Ok(())) => info!(lease = self.name, "Lease released"),
                Ok(Err(error)) => warn!(lease = self.name, %error, "cannot release the Lease"),
                Err(_) => warn!(lease = self.name, "cannot release the Lease in time"),
            }
        }
    }

    /// For how long this replica may still lead without a renewal; without end when it does not lead.
    fn left(&self, leading: &watch::Sender<bool>, renewed: Option<Instant>) -> Duration {
        match renewed {
            Some(at) if *leading.borrow() => safe(self.duration).saturating_sub(at.elapsed()),
            _ => Duration::MAX,
        }
    }

    /// One look at the Lease, and the write that follows from it. `Ok(true)`: it is ours now.
    async fn attempt(&self, observed: &mut Option<Observed>) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.claim(None)),
            };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match observed {
            Some(seen) if seen.version == version => seen.since,
            _ => {
                let since = Instant::now();
                *observed = Some(Observed { version, since });
                since
            }
        };
        match decide(
            lease.spec.as_ref(),
            &self.identity,
            since.elapsed(),
            self.duration,
        ) {
            Step::Wait => Ok(false),
            Step::Renew | Step::Take => {
                let spec = Some(self.claim(lease.spec.as_ref()));
                let lease = Lease { spec, ..lease };
                won(self
                    .api
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await)
            }
        }
    }

    /// The record that says that this replica holds the Lease from now on.
    fn claim(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        let ours = before.is_some_and(|s| s.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|s| s.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: before
                .filter(|_| ours)
                .and_then(|s| s.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if ours {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            return Ok(());
        };
        let Some(spec) = lease.spec.as_mut() else {
            return Ok(());
        };
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(k8s_openapi::jiff::Timestamp::now()));
        self.api
            .replace(&self.name, &PostParams::default(), &lease)
            .await
            .map(drop)
    }
}

/// A conflict means that another replica was faster; that is an answer, not a failure.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fake_api::{FakeApi, Fault};

    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/lease";

    fn candidate(api: &FakeApi, identity: &str) -> Election {
        Election {
            api: Api::namespaced(api.client.clone(), "ns"),
            name: "lease".into(),
            identity: identity.into(),
            duration: Duration::from_secs(3),
        }
    }

    fn holder(api: &FakeApi) -> String {
        api.get(LEASE).unwrap()["spec"]["holderIdentity"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn check(holder: Option<&str>, unchanged: u64) -> Step {
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        decide(
            Some(&spec),
            "me",
            Duration::from_secs(unchanged),
            Duration::from_secs(15),
        )
    }

    #[test]
    fn a_lease_is_taken_only_when_free_or_silent_for_its_whole_duration() {
        assert_eq!(check(None, 0), Step::Take);
        assert_eq!(check(Some(""), 0), Step::Take);
        assert_eq!(check(Some("other"), 14), Step::Wait);
        assert_eq!(check(Some("other"), 15), Step::Take);
        assert_eq!(check(Some("me"), 100), Step::Renew);
        let duration = Duration::from_secs(15);
        assert_eq!(decide(None, "me", Duration::ZERO, duration), Step::Take);
    }

    #[tokio::test]
    async fn one_of_two_candidates_wins_and_hands_over_when_it_stops() {
        let api = FakeApi::start().await;
        let (one, mut one_leads) = watch::channel(false);
        let (two, mut two_leads) = watch::channel(false);
        let (stop_one, stop_two) = (CancellationToken::new(), CancellationToken::new());
        let first = tokio::spawn(candidate(&api, "one").run(one, stop_one.clone()));
        one_leads.wait_for(|leads| *leads).await.unwrap();
        let second = tokio::spawn(candidate(&api, "two").run(two, stop_two.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(*one_leads.borrow() && !*two_leads.borrow());
        assert_eq!(holder(&api), "one");
        stop_one.cancel();
        first.await.unwrap();
        assert!(!*one_leads.borrow());
        // Sooner than the Lease would have run out.
        let soon = Duration::from_secs(2);
        tokio::time::timeout(soon, two_leads.wait_for(|leads| *leads))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(holder(&api), "two");
        stop_two.cancel();
        second.await.unwrap();
        assert_eq!(holder(&api), "");
    }

    #[tokio::test]
    async fn a_lost_race_is_an_answer_and_a_failure_is_not() {
        let api = FakeApi::start().await;
        assert!(candidate(&api, "one").attempt(&mut None).await.unwrap());
        assert!(!candidate(&api, "two").attempt(&mut None).await.unwrap());
        for fault in [Fault::Before, Fault::After] {
            api.fail(1, fault);
            assert!(candidate(&api, "one").attempt(&mut None).await.is_err());
        }
        // Another replica wrote between this one's read and write.
        let stale: Lease = serde_json::from_value(api.get(LEASE).unwrap()).unwrap();
        assert!(candidate(&api, "one").attempt(&mut None).await.unwrap());
        let one = candidate(&api, "one");
        let late = one
            .api
            .replace("lease", &PostParams::default(), &stale)
            .await;
        assert!(!won(late).unwrap());
    }

    async fn stops_in_time(cut_off: fn(&FakeApi)) {
        let api = FakeApi::start().await;
        let (sender, mut leads) = watch::channel(false);
        let stop = CancellationToken::new();
        // A sixth of it is what a busy machine may lose.
        let duration = Duration::from_secs(12);
        let candidate = Election {
            duration,
            ..candidate(&api, "one")
        };
        tokio::spawn(candidate.run(sender, stop.clone()));
        leads.wait_for(|leads| *leads).await.unwrap();
        let started = Instant::now();
        cut_off(&api);
        leads.wait_for(|leads| !*leads).await.unwrap();
        // With what its tasks have to end.
        let end = started.elapsed() + grace(duration);
        assert!(end < duration, "the Lease ran out before");
        stop.cancel();
    }

    #[tokio::test]
    async fn a_leader_that_cannot_renew_stops_before_another_can_start() {
        stops_in_time(FakeApi::fail_all).await;
    }

    #[tokio::test]
    async fn a_leader_whose_api_server_hangs_stops_before_another_can_start() {
        stops_in_time(FakeApi::hang).await;
    }

    #[test]
    fn what_leading_started_ends_within_the_lease() {
        for seconds in 3..600 {
            let duration = Duration::from_secs(seconds);
            assert!(safe(duration) + grace(duration) < duration, "{seconds}");
        }
    }
}
