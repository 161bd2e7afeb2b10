//! The clients of the services that keep buckets: S3, Google Cloud Storage, Azure Blob Storage.
//!
//! Credentials come from the environment: those that a Secret gives, or the identity that the platform gives the Job.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use codexstore_crds::backup as crd;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
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

/// The client of the bucket that a destination names; `ca` has the certificates that it names, if it does.
pub fn of(destination: &crd::Destination, ca: &Path) -> Result<Arc<dyn ObjectStore>> {
    let ca = destination.ca_ref().is_some().then_some(ca);
    if let Some(wanted) = &destination.s3 {
        return s3(wanted, ca).with_context(|| format!("use the bucket {}", wanted.bucket));
    }
    if let Some(wanted) = &destination.gcs {
        return gcs(wanted, ca).with_context(|| format!("use the bucket {}", wanted.bucket));
    }
    if let Some(wanted) = &destination.azure {
        return azure(wanted, ca)
            .with_context(|| format!("use the container {}", wanted.container));
    }
    Err(Coded::invalid("the destination names no claim and no bucket").into())
}

fn s3(s3: &crd::S3, ca: Option<&Path>) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&s3.bucket)
        .with_region(s3.region.as_deref().unwrap_or("us-east-1"))
        .with_virtual_hosted_style_request(
            s3.virtual_hosted_style.unwrap_or(s3.endpoint.is_none()),
        );
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
        builder = builder.with_endpoint(address(endpoint));
    }
    let options = options(s3.endpoint.as_deref(), ca)?;
    let builder = builder.with_client_options(options).with_retry(retry());
    Ok(Arc::new(builder.build()?))
}

fn gcs(gcs: &crd::Gcs, ca: Option<&Path>) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&gcs.bucket);
    if let Some(endpoint) = &gcs.endpoint {
        builder = builder.with_config(GoogleConfigKey::BaseUrl, address(endpoint));
    }
    let options = options(gcs.endpoint.as_deref(), ca)?;
    let builder = builder.with_client_options(options).with_retry(retry());
    Ok(Arc::new(builder.build()?))
}

fn azure(azure: &crd::Azure, ca: Option<&Path>) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_account(&azure.account)
        .with_container_name(&azure.container);
    if let Some(endpoint) = &azure.endpoint {
        builder = builder.with_endpoint(address(endpoint).to_owned());
    }
    let options = options(azure.endpoint.as_deref(), ca)?;
    let builder = builder.with_client_options(options).with_retry(retry());
    Ok(Arc::new(builder.build()?))
}

/// An address without the slash at its end.
fn address(endpoint: &str) -> &str {
    endpoint.trim_end_matches('/')
}

fn options(endpoint: Option<&str>, ca: Option<&Path>) -> Result<ClientOptions> {
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut options = ClientOptions::new()
        .with_timeout_disabled()
        .with_read_timeout(REQUEST)
        .with_connect_timeout(Duration::from_secs(10))
        .with_allow_http(plain);
    if let Some(ca) = ca {
        let what = "read the certificates of the destination's server";
        let pem = std::fs::read(ca).context(what)?;
        for certificate in Certificate::from_pem_bundle(&pem).context(what)? {
            options = options.with_root_certificate(certificate);
        }
        options = options.with_no_system_certificates(true);
    }
    Ok(options)
}

fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: usize::MAX,
        retry_timeout: AWAY,
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
}
