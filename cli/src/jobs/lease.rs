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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

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

    /// An API server with one Lease, which refuses to replace another version than that which is there.
    struct Server {
        lease: Arc<Mutex<Option<Value>>>,
        client: Client,
    }

    impl Server {
        async fn start() -> Server {
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let lease: Arc<Mutex<Option<Value>>> = Arc::default();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let held = Arc::clone(&lease);
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(answer(stream, Arc::clone(&held)));
                }
            });
            let config = kube::Config::new(format!("http://{address}").parse().unwrap());
            Server {
                lease,
                client: Client::try_from(config).unwrap(),
            }
        }

        fn holder(&self, name: &str) -> Holder {
            Holder::new(
                &self.client,
                "shop",
                "cxs-orders-backup".to_owned(),
                name.to_owned(),
            )
        }

        fn spec(&self) -> Value {
            self.lease.lock().unwrap().clone().unwrap_or_default()["spec"].take()
        }

        /// Somebody holds it, who renewed it so many seconds ago.
        fn held_by(&self, name: &str, age: i64) {
            let at = Timestamp::from_second(Timestamp::now().as_second() - age).unwrap();
            let at = format!("{at}").replace('Z', ".000000Z");
            let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 60, "renewTime": at});
            *self.lease.lock().unwrap() = Some(
                json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "cxs-orders-backup", "resourceVersion": "x"}, "spec": spec}),
            );
        }
    }

    async fn answer(mut stream: tokio::net::TcpStream, lease: Arc<Mutex<Option<Value>>>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    return;
                };
                head.push(byte);
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |l| l.trim().parse().unwrap())];
            stream.read_exact(&mut body).await.unwrap();
            let (status, body) = {
                let mut lease = lease.lock().unwrap();
                let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
                let verb = head.split(' ').next().unwrap();
                let version = |v: &Value| v["metadata"]["resourceVersion"].clone();
                let status = match (verb, &*lease) {
                    ("get", None) => 404,
                    ("get", Some(_)) => 200,
                    ("post", Some(_)) => 409,
                    ("put", Some(there)) if version(there) != version(&sent) => 409,
                    _ => {
                        let mut sent = sent;
                        let n = getrandom::u32().unwrap();
                        sent["metadata"]["resourceVersion"] = json!(n.to_string());
                        *lease = Some(sent);
                        200
                    }
                };
                let body = match status {
                    200 => lease.clone().unwrap(),
                    code => {
                        let reason = if code == 404 { "NotFound" } else { "Conflict" };
                        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                            "reason": reason, "message": reason})
                    }
                };
                (status, body.to_string())
            };
            let answer = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn runs_at_once_take_turns_and_each_gives_it_back() {
        let server = Server::start().await;
        let (at_work, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let run = async |name: &str| {
            let work = async {
                let now = at_work.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(200)).await;
                at_work.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            };
            server.holder(name).hold(work).await.unwrap();
        };
        tokio::join!(run("a"), run("b"), run("c"));
        assert_eq!(most.load(Ordering::SeqCst), 1);
        assert!(
            server.spec()["holderIdentity"].is_null(),
            "{}",
            server.spec()
        );
    }

    #[tokio::test]
    async fn one_whose_holder_died_is_taken_when_its_time_is_over_and_not_before() {
        let server = Server::start().await;
        // It died in the middle of its work, 57 seconds ago.
        server.held_by("dead", 57);
        let began = std::time::Instant::now();
        server.holder("next").hold(async { Ok(()) }).await.unwrap();
        assert!(
            began.elapsed() >= Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test]
    async fn who_loses_it_stops_its_work_and_does_not_take_it_back() {
        let server = Server::start().await;
        let holder = server.holder("slow");
        let lost = holder.hold(async {
            server.held_by("other", 0);
            std::future::pending::<Result<()>>().await
        });
        let error = tokio::time::timeout(RENEW * 2, lost).await.unwrap();
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("another took the Lease"), "{error}");
        assert_eq!(server.spec()["holderIdentity"], "other");
    }
}
