//! The clients of the services that keep buckets: S3, Google Cloud Storage, Azure Blob Storage.
//!
//! Credentials come from the environment: those that a Secret gives, or the identity that the platform gives the Job. Who reads a bucket
//! from elsewhere brings what the Secret holds.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use codexstore_crds::backup as crd;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use crate::failure::Coded;

/// How long a server may be away: requests are sent again for as long.
const AWAY: Duration = Duration::from_mins(1);
/// Longest pause before one is sent again.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a server may say nothing.
const REQUEST: Duration = Duration::from_mins(2);

/// How a bucket is reached.
pub struct Access {
    /// Credentials by the names of environment variables; without them the environment of this process has them, or the platform.
    pub credentials: Option<BTreeMap<String, String>>,
    /// Certificates that the server's is checked against, as PEM; without them the well-known ones.
    pub ca: Option<Vec<u8>>,
    /// How long a server may be away.
    pub away: Duration,
}

impl Default for Access {
    fn default() -> Access {
        Access {
            credentials: None,
            ca: None,
            away: AWAY,
        }
    }
}

impl Access {
    /// Gives a builder the credentials, by its names for them.
    fn to<B, K: FromStr>(&self, builder: B, with: impl Fn(B, K, String) -> B) -> B {
        let all = self.credentials.iter().flatten();
        all.fold(builder, |builder, (name, value)| {
            match name.to_ascii_lowercase().parse() {
                Ok(key) => with(builder, key, value.clone()),
                Err(_) => builder,
            }
        })
    }
}

/// The client of the bucket that a destination names.
pub fn of(destination: &crd::Destination, access: &Access) -> Result<Arc<dyn ObjectStore>> {
    if let Some(wanted) = &destination.s3 {
        let bucket = s3(wanted, access);
        let bucket = bucket.with_context(|| format!("use the bucket {}", wanted.bucket))?;
        return Ok(Arc::new(bucket));
    }
    if let Some(wanted) = &destination.gcs {
        return gcs(wanted, access).with_context(|| format!("use the bucket {}", wanted.bucket));
    }
    if let Some(wanted) = &destination.azure {
        return azure(wanted, access)
            .with_context(|| format!("use the container {}", wanted.container));
    }
    Err(Coded::invalid("the destination names no claim and no bucket").into())
}

/// What S3 says of a request whose date is more than a quarter of an hour off its own.
const SKEWED: &str = "RequestTimeTooSkewed";

/// An error of a bucket; what to do about it where the server's word for it does not say so.
pub fn told(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    if format!("{error:#}").contains(SKEWED) {
        return error.context(
            "the clock of this node, or of the server, is off by more than 15 minutes: requests bear their time and are refused. Set \
             the clock right",
        );
    }
    error
}

fn s3(s3: &crd::S3, access: &Access) -> Result<AmazonS3> {
    let in_host = s3.virtual_hosted_style.unwrap_or(s3.endpoint.is_none());
    let builder = match access.credentials {
        Some(_) => access.to(AmazonS3Builder::new(), AmazonS3Builder::with_config),
        None => AmazonS3Builder::from_env(),
    };
    let mut builder = builder
        .with_bucket_name(&s3.bucket)
        .with_region(s3.region.as_deref().unwrap_or("us-east-1"))
        .with_virtual_hosted_style_request(in_host);
    if let Some(encryption) = s3.server_side_encryption {
        let kind = match encryption {
            crd::ServerSideEncryption::Aes256 => "AES256",
            crd::ServerSideEncryption::Kms => "aws:kms",
        };
        let key: AmazonS3ConfigKey = "aws_server_side_encryption".parse()?;
        builder = builder.with_config(key, kind);
    }
    if let Some(id) = &s3.kms_key_id {
        let key: AmazonS3ConfigKey = "aws_sse_kms_key_id".parse()?;
        builder = builder.with_config(key, id);
    }
    if let Some(endpoint) = &s3.endpoint {
        let address = address(endpoint);
        builder = builder.with_endpoint(if in_host {
            address_of(&s3.bucket, address)
        } else {
            address.to_owned()
        });
    }
    let options = options(s3.endpoint.as_deref(), access)?;
    let builder = builder
        .with_client_options(options)
        .with_retry(retry(access));
    Ok(builder.build()?)
}

/// The address of a bucket whose name is part of the host's: the client takes it whole. One that begins with the bucket has it already.
fn address_of(bucket: &str, address: &str) -> String {
    let named = format!("{bucket}.");
    match address.split_once("://") {
        Some((scheme, host)) if !host.starts_with(&named) => format!("{scheme}://{named}{host}"),
        _ => address.to_owned(),
    }
}

fn gcs(gcs: &crd::Gcs, access: &Access) -> Result<Arc<dyn ObjectStore>> {
    let new = GoogleCloudStorageBuilder::new;
    let builder = match access.credentials {
        Some(_) => access.to(new(), GoogleCloudStorageBuilder::with_config),
        None => GoogleCloudStorageBuilder::from_env(),
    };
    let mut builder = builder.with_bucket_name(&gcs.bucket);
    if let Some(endpoint) = &gcs.endpoint {
        builder = builder.with_config(GoogleConfigKey::BaseUrl, address(endpoint));
    }
    let options = options(gcs.endpoint.as_deref(), access)?;
    let builder = builder
        .with_client_options(options)
        .with_retry(retry(access));
    Ok(Arc::new(builder.build()?))
}

fn azure(azure: &crd::Azure, access: &Access) -> Result<Arc<dyn ObjectStore>> {
    let new = MicrosoftAzureBuilder::new;
    let builder = match access.credentials {
        Some(_) => access.to(new(), MicrosoftAzureBuilder::with_config),
        None => MicrosoftAzureBuilder::from_env(),
    };
    let mut builder = builder
        .with_account(&azure.account)
        .with_container_name(&azure.container);
    if let Some(endpoint) = &azure.endpoint {
        builder = builder.with_endpoint(address(endpoint).to_owned());
    }
    let options = options(azure.endpoint.as_deref(), access)?;
    let builder = builder
        .with_client_options(options)
        .with_retry(retry(access));
    Ok(Arc::new(builder.build()?))
}

/// An address without the slash at its end.
fn address(endpoint: &str) -> &str {
    endpoint.trim_end_matches('/')
}

fn options(endpoint: Option<&str>, access: &Access) -> Result<ClientOptions> {
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut options = ClientOptions::new()
        .with_timeout_disabled()
        .with_read_timeout(REQUEST)
        .with_connect_timeout(Duration::from_secs(10))
        .with_allow_http(plain);
    if let Some(pem) = &access.ca {
        let what = "read the certificates of the destination's server";
        for certificate in Certificate::from_pem_bundle(pem).context(what)? {
            options = options.with_root_certificate(certificate);
        }
        options = options.with_no_system_certificates(true);
    }
    Ok(options)
}

fn retry(access: &Access) -> RetryConfig {
    RetryConfig {
        max_retries: usize::MAX,
        retry_timeout: access.away,
        backoff: BackoffConfig {
            max_backoff: PAUSE,
            ..BackoffConfig::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use std::env;

    use bytes::Bytes;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::jobs::destination::Destination;

    #[test]
    fn what_a_secret_holds_reaches_the_client_and_nothing_of_it_the_messages() {
        use object_store::azure::AzureConfigKey;
        let access = |all: &[(&str, &str)]| Access {
            credentials: Some(
                all.iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            ),
            ..Access::default()
        };
        let aws = access(&[
            ("AWS_ACCESS_KEY_ID", "me"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
            ("AWS_SESSION_TOKEN", "now"),
            ("SOMETHING_ELSE", "x"),
        ]);
        let builder = aws.to(AmazonS3Builder::new(), AmazonS3Builder::with_config);
        for (key, value) in [
            (AmazonS3ConfigKey::AccessKeyId, "me"),
            (AmazonS3ConfigKey::SecretAccessKey, "hush"),
            (AmazonS3ConfigKey::Token, "now"),
        ] {
            assert_eq!(builder.get_config_value(&key).as_deref(), Some(value));
        }
        let google = access(&[("GOOGLE_SERVICE_ACCOUNT_KEY", "{}")]);
        let new = GoogleCloudStorageBuilder::new;
        let builder = google.to(new(), GoogleCloudStorageBuilder::with_config);
        let key = builder.get_config_value(&GoogleConfigKey::ServiceAccountKey);
        assert_eq!(key.as_deref(), Some("{}"));
        let azure = access(&[
            ("AZURE_STORAGE_ACCOUNT_KEY", "a"),
            ("AZURE_STORAGE_SAS_KEY", "b"),
            ("AZURE_STORAGE_CLIENT_ID", "c"),
            ("AZURE_STORAGE_CLIENT_SECRET", "d"),
            ("AZURE_STORAGE_TENANT_ID", "e"),
        ]);
        let new = MicrosoftAzureBuilder::new;
        let builder = azure.to(new(), MicrosoftAzureBuilder::with_config);
        for (key, value) in [
            (AzureConfigKey::AccessKey, "a"),
            (AzureConfigKey::SasKey, "b"),
            (AzureConfigKey::ClientId, "c"),
            (AzureConfigKey::ClientSecret, "d"),
            (AzureConfigKey::AuthorityId, "e"),
        ] {
            assert_eq!(builder.get_config_value(&key).as_deref(), Some(value));
        }
        let broken = access(&[("GOOGLE_SERVICE_ACCOUNT_KEY", "hush: not JSON")]);
        let destination = crd::Destination {
            gcs: Some(crd::Gcs {
                bucket: "backups".to_owned(),
                ..crd::Gcs::default()
            }),
            ..crd::Destination::default()
        };
        let error = of(&destination, &broken).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("use the bucket backups") && !error.contains("hush"),
            "{error}"
        );
    }

    /// What Jobs do to a destination.
    async fn check(wanted: &crd::Destination) {
        let destination = Destination::of(wanted).unwrap();
        let read = async |path: &str| {
            let mut bytes = Vec::new();
            let mut file = destination.read(path).await.unwrap();
            file.read_to_end(&mut bytes).await.unwrap();
            bytes
        };
        // It is sent in parts.
        let content: Vec<u8> = (0..20_usize << 20)
            .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
            .collect();
        let mut upload = destination.create("shop/orders/now/a.backup").unwrap();
        for part in content.chunks(1 << 20) {
            upload.write(Bytes::copy_from_slice(part)).await.unwrap();
        }
        assert_eq!(
            destination.list("shop/orders").await.unwrap(),
            [""; 0],
            "it is not there before it is whole"
        );
        upload.finish().await.unwrap();
        assert!(read("shop/orders/now/a.backup").await == content);
        for path in ["shop/orders/now/b.json", "shop/orders/now-2/b.json"] {
            destination.put(path, b"first".to_vec()).await.unwrap();
            let again = destination.put(path, b"second".to_vec()).await;
            assert!(again.is_err(), "it takes no other's place");
            assert_eq!(read(path).await, b"first");
        }
        let mut found = destination.list("shop/orders").await.unwrap();
        found.sort();
        assert_eq!(
            found,
            [
                "shop/orders/now-2/b.json",
                "shop/orders/now/a.backup",
                "shop/orders/now/b.json"
            ]
        );
        let piece = "shop/orders/_archive/web-0/0f/1/a.piece";
        for new in [true, false] {
            let put = destination.put_new(piece, Bytes::from_static(b"first"));
            assert_eq!(put.await.unwrap(), new);
        }
        assert_eq!(destination.list("shop/orders").await.unwrap().len(), 3);
        let mut walked = Vec::new();
        let visit = |path: &str| walked.push(path.to_owned());
        destination
            .walk("shop/orders/_archive", visit)
            .await
            .unwrap();
        assert_eq!(walked, [piece]);
        destination.delete(piece).await.unwrap();
        destination.delete(piece).await.unwrap();
        let lost = destination.create("shop/orders/now/c.backup").unwrap();
        lost.abandon().await;
        assert!(destination.read("shop/orders/now/c.backup").await.is_err());
        assert_eq!(destination.delete_all("shop/orders/now").await.unwrap(), 2);
        assert_eq!(destination.delete_all("shop/orders/now").await.unwrap(), 0);
        assert_eq!(read("shop/orders/now-2/b.json").await, b"first");
    }

    #[tokio::test]
    #[ignore = "needs a server: tests/azure starts one"]
    async fn azure_keeps_backups() {
        let azure = crd::Azure {
            account: env::var("AZURE_STORAGE_ACCOUNT_NAME").unwrap(),
            container: "backups".to_owned(),
            prefix: Some("team/a".to_owned()),
            endpoint: Some(env::var("CODEXSTORE_TEST_AZURE").unwrap()),
            ..crd::Azure::default()
        };
        let of = |azure: &crd::Azure| crd::Destination {
            azure: Some(azure.clone()),
            ..crd::Destination::default()
        };
        check(&of(&azure)).await;
        let none = crd::Azure {
            container: "none".to_owned(),
            ..azure
        };
        let error = Destination::of(&of(&none)).unwrap().list("a").await;
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("ContainerNotFound"), "{error}");
        assert!(!error.contains(&env::var("AZURE_STORAGE_ACCOUNT_KEY").unwrap()));
    }

    /// The bucket of a server that `tests/s3/run` starts, at its own address or behind something.
    fn s3_at(endpoint: &str) -> crd::Destination {
        crd::Destination {
            s3: Some(crd::S3 {
                bucket: "backups".to_owned(),
                prefix: Some("team/a".to_owned()),
                endpoint: Some(endpoint.to_owned()),
                ..crd::S3::default()
            }),
            ..crd::Destination::default()
        }
    }

    fn server() -> String {
        env::var("CODEXSTORE_TEST_S3").expect("tests/s3/run sets it")
    }

    #[tokio::test]
    #[ignore = "needs a server: tests/s3/run starts one"]
    async fn s3_keeps_backups() {
        check(&s3_at(&server())).await;
    }

    /// The part of the next test that has another clock.
    #[tokio::test]
    #[ignore = "needs a server and another clock: the next one runs it"]
    async fn s3_with_another_clock() {
        let destination = Destination::of(&s3_at(&server())).unwrap();
        let errors = [
            destination.list("clock").await.err(),
            destination
                .put("clock/orders/x/m.json", vec![1])
                .await
                .err(),
            destination.read("clock/orders/x/m.json").await.err(),
        ];
        for error in errors {
            let error = format!("{:#}", error.expect("it is not refused"));
            println!("SAID: {}", error.replace('\n', " "));
        }
    }

    #[test]
    #[ignore = "needs a server: tests/s3/run starts one"]
    fn s3_says_that_a_clock_is_off_and_no_more_than_that() {
        let shift = env::var("CODEXSTORE_TEST_CLOCK").expect("tests/s3/run sets it");
        for (seconds, off) in [(-7200, true), (7200, true), (60, false)] {
            let began = std::time::Instant::now();
            let done = std::process::Command::new(env::current_exe().unwrap())
                .args(["--ignored", "--nocapture", "--exact"])
                .arg("jobs::bucket::tests::s3_with_another_clock")
                .env("LD_PRELOAD", &shift)
                .env("CLOCK_SHIFT", seconds.to_string())
                .output()
                .unwrap();
            let out = String::from_utf8_lossy(&done.stdout);
            let said: Vec<_> = out.lines().filter(|l| l.contains("SAID: ")).collect();
            assert_eq!(said.len(), if off { 3 } else { 0 }, "{seconds}: {out}");
            for line in said {
                assert!(
                    line.contains("clock of this node") && line.contains(SKEWED),
                    "{line}"
                );
                assert!(!line.contains(&env::var("AWS_SECRET_ACCESS_KEY").unwrap()));
            }
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "it waits in vain"
            );
        }
    }

    /// Passes connections on to the server: no more than so many bytes a second upwards, and none at all for a while once so many have passed.
    async fn proxy(rate: usize, cut: Option<(usize, Duration)>) -> String {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use tokio::io::AsyncWriteExt as _;
        let target = server().trim_start_matches("http://").to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let passed = Arc::new(AtomicUsize::new(0));
        let (down, up) = tokio::sync::watch::channel(false);
        let down = Arc::new(down);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if *up.borrow() {
                    continue;
                }
                let server = tokio::net::TcpStream::connect(&target).await.unwrap();
                let (passed, down, mut ends) = (Arc::clone(&passed), Arc::clone(&down), up.clone());
                tokio::spawn(async move {
                    let (mut from, mut back) = client.into_split();
                    let (mut answers, mut to) = server.into_split();
                    let upwards = async {
                        let mut part = vec![0; 64 << 10];
                        loop {
                            let read = from.read(&mut part).await.unwrap_or(0);
                            if read == 0 || to.write_all(&part[..read]).await.is_err() {
                                return;
                            }
                            let pause = read as u64 * 1_000_000 / rate as u64;
                            tokio::time::sleep(Duration::from_micros(pause)).await;
                            let before = passed.fetch_add(read, Ordering::Relaxed);
                            if let Some((at, time)) = cut
                                && before < at
                                && before + read >= at
                            {
                                down.send_replace(true);
                                let down = Arc::clone(&down);
                                tokio::spawn(async move {
                                    tokio::time::sleep(time).await;
                                    down.send_replace(false);
                                });
                            }
                        }
                    };
                    tokio::select! {
                        () = upwards => {}
                        _ = tokio::io::copy(&mut answers, &mut back) => {}
                        () = async { drop(ends.wait_for(|down| *down).await) } => {}
                    }
                });
            }
        });
        address
    }

    async fn sent(destination: &Destination, path: &str, content: &[u8]) -> Result<()> {
        let mut upload = destination.create(path)?;
        for part in content.chunks(1 << 20) {
            if let Err(error) = upload.write(Bytes::copy_from_slice(part)).await {
                upload.abandon().await;
                return Err(error);
            }
        }
        upload.finish().await
    }

    #[tokio::test]
    #[ignore = "needs a server: tests/s3/run starts one"]
    async fn s3_over_a_slow_network_and_from_a_server_that_dies_in_the_middle() {
        let content: Vec<u8> = (0..24_usize << 20).map(|n| n.to_le_bytes()[1]).collect();
        for (name, rate, cut) in [
            ("slow", 4 << 20, None),
            (
                "dies-and-comes-back",
                64 << 20,
                Some((10 << 20, Duration::from_secs(8))),
            ),
        ] {
            let destination = Destination::of(&s3_at(&proxy(rate, cut).await)).unwrap();
            let path = format!("net/orders/{name}/a.backup");
            sent(&destination, &path, &content).await.unwrap();
            let mut bytes = Vec::new();
            let mut file = destination.read(&path).await.unwrap();
            file.read_to_end(&mut bytes).await.unwrap();
            assert!(bytes == content, "{name}");
        }
        // One that stays away: it is told within the time that it is waited for, and nothing is there that looks whole.
        let gone = proxy(64 << 20, Some((10 << 20, Duration::from_hours(1)))).await;
        let destination = Destination::of(&s3_at(&gone)).unwrap();
        let began = std::time::Instant::now();
        let lost = sent(&destination, "net/orders/dies/a.backup", &content).await;
        let error = format!("{:#}", lost.unwrap_err());
        println!("after {:?}: {error}", began.elapsed());
        assert!(began.elapsed() < 3 * AWAY, "{:?}", began.elapsed());
        let there = Destination::of(&s3_at(&server())).unwrap();
        let left = there.list("net/orders").await.unwrap();
        assert_eq!(left.len(), 2, "{left:?}");
        let dies = |path: &String| path.starts_with("net/orders/dies/");
        assert!(!left.iter().any(dies), "{left:?}");
        for name in ["slow", "dies-and-comes-back"] {
            there
                .delete_all(&format!("net/orders/{name}"))
                .await
                .unwrap();
        }
    }
}

#[cfg(test)]
#[path = "bucket_requests.rs"]
mod requests;
