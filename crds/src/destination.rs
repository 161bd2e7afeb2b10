//! `spec.backup.destination`: where backups are kept.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where backups are kept.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.claim), has(self.s3), has(self.gcs), has(self.azure)].filter(given, given).size() == 1").message("backup.destination needs exactly one of `claim: NAME`, `s3: {bucket: NAME}`, `gcs: {bucket: NAME}` and `azure: {account: NAME, container: NAME}`"))]
pub struct Destination {
    /// Name of a PersistentVolumeClaim in the store's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub claim: Option<String>,

    /// A bucket of S3, or of a server that speaks its protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,

    /// A bucket of Google Cloud Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcs: Option<Gcs>,

    /// A container of Azure Blob Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure: Option<Azure>,
}

/// What the Jobs' containers get from a Secret: the names of its entries, which are those of environment variables, and whether
/// each may be missing.
pub type Credentials = [(&'static str, bool)];

const AWS: &Credentials = &[
    ("AWS_ACCESS_KEY_ID", false),
    ("AWS_SECRET_ACCESS_KEY", false),
    ("AWS_SESSION_TOKEN", true),
];
const GOOGLE: &Credentials = &[("GOOGLE_SERVICE_ACCOUNT_KEY", false)];
const AZURE: &Credentials = &[
    ("AZURE_STORAGE_ACCOUNT_KEY", true),
    ("AZURE_STORAGE_SAS_KEY", true),
    ("AZURE_STORAGE_CLIENT_ID", true),
    ("AZURE_STORAGE_CLIENT_SECRET", true),
    ("AZURE_STORAGE_TENANT_ID", true),
];

/// What buckets of all clouds have.
struct Bucket<'a> {
    /// As people write it.
    address: String,
    prefix: Option<&'a String>,
    credentials: Option<&'a LocalRef>,
    entries: &'static Credentials,
    ca: Option<&'a LocalRef>,
}

impl Destination {
    fn bucket(&self) -> Option<Bucket<'_>> {
        if let Some(s3) = &self.s3 {
            return Some(Bucket {
                address: format!("s3://{}", s3.bucket),
                prefix: s3.prefix.as_ref(),
                credentials: s3.credentials_ref.as_ref(),
                entries: AWS,
                ca: s3.ca_ref.as_ref(),
            });
        }
        if let Some(gcs) = &self.gcs {
            return Some(Bucket {
                address: format!("gs://{}", gcs.bucket),
                prefix: gcs.prefix.as_ref(),
                credentials: gcs.credentials_ref.as_ref(),
                entries: GOOGLE,
                ca: gcs.ca_ref.as_ref(),
            });
        }
        self.azure.as_ref().map(|azure| Bucket {
            address: format!("azure://{}/{}", azure.account, azure.container),
            prefix: azure.prefix.as_ref(),
            credentials: azure.credentials_ref.as_ref(),
            entries: AZURE,
            ca: azure.ca_ref.as_ref(),
        })
    }

    /// A directory in it, as people write it.
    pub fn location(&self, directory: &str) -> String {
        if let Some(claim) = &self.claim {
            return format!("pvc/{claim}:/{directory}");
        }
        let address = self.bucket().map(|bucket| bucket.address + "/");
        address.unwrap_or_default() + &self.prefix() + directory
    }

    /// What the names of all objects start with, with `/` at its end; empty for a claim.
    pub fn prefix(&self) -> String {
        let prefix = self.bucket().and_then(|bucket| bucket.prefix);
        prefix.map_or_else(String::new, |prefix| format!("{prefix}/"))
    }

    /// The Secret with the credentials, and its entries.
    pub fn credentials(&self) -> Option<(&LocalRef, &'static Credentials)> {
        let bucket = self.bucket()?;
        Some((bucket.credentials?, bucket.entries))
    }

    /// Whether who reads it shows the identity that the platform gives its account, and not what a Secret holds.
    pub fn takes_identity(&self) -> bool {
        self.claim.is_none() && self.credentials().is_none()
    }

    /// The ConfigMap with the certificates that the server's is checked against.
    pub fn ca_ref(&self) -> Option<&LocalRef> {
        self.bucket()?.ca
    }
}

/// A bucket of S3.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.kmsKeyId) || (has(self.serverSideEncryption) && self.serverSideEncryption == 'KMS')").message("kmsKeyId is for `serverSideEncryption: KMS`: add it or drop kmsKeyId"))]
pub struct S3 {
    /// Its name.
    #[schemars(
        length(min = 3, max = 63),
        regex(pattern = r"^[a-z0-9][-a-z0-9.]*[a-z0-9]$")
    )]
    pub bucket: String,

    /// What the names of all objects start with; by default nothing. Namespace and store follow it in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[-a-zA-Z0-9_.]+(/[-a-zA-Z0-9_.]+)*$")
    )]
    pub prefix: Option<String>,

    /// Its region; by default us-east-1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,

    /// Address of the server, such as `https://s3.example.com:9000`; by default Amazon's of the region.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^https?://[^/?#]+/?$"))]
    pub endpoint: Option<String>,

    /// Whether the bucket's name is part of the host name (`bucket.host`), and not of the path. By default it is for Amazon,
    /// and not with `endpoint`; with both it is put before the host in `endpoint`, unless that begins with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_hosted_style: Option<bool>,

    /// Secret in the store's namespace with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, and `AWS_SESSION_TOKEN` if there
    /// is one. Without it, the identity of the Job's service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<LocalRef>,

    /// What the server encrypts objects with besides, if the bucket does not say it already: `AES256` (keys of the server's) or
    /// `KMS`. What is stored is encrypted with the store's own key in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_side_encryption: Option<ServerSideEncryption>,

    /// Id or ARN of the key of the server's key management; by default the bucket's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub kms_key_id: Option<String>,

    /// ConfigMap in the store's namespace whose entry `ca.crt` has the certificates that the server's is checked against, in
    /// place of the well-known ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<LocalRef>,
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gcs {
    /// Its name.
    #[schemars(
        length(min = 3, max = 222),
        regex(pattern = r"^[a-z0-9][-a-z0-9._]*[a-z0-9]$")
    )]
    pub bucket: String,

    /// What the names of all objects start with; by default nothing. Namespace and store follow it in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[-a-zA-Z0-9_.]+(/[-a-zA-Z0-9_.]+)*$")
    )]
    pub prefix: Option<String>,

    /// Address of the server, such as that of a private endpoint; by default `https://storage.googleapis.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^https?://[^/?#]+/?$"))]
    pub endpoint: Option<String>,

    /// Secret in the store's namespace with `GOOGLE_SERVICE_ACCOUNT_KEY`, the JSON of a service account's key. Without it, the
    /// identity of the Job's service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<LocalRef>,

    /// ConfigMap in the store's namespace whose entry `ca.crt` has the certificates that the server's is checked against, in
    /// place of the well-known ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<LocalRef>,
}

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Azure {
    /// Name of the storage account.
    #[schemars(length(min = 3, max = 24), regex(pattern = r"^[a-z0-9]+$"))]
    pub account: String,

    /// Name of the container.
    #[schemars(
        length(min = 3, max = 63),
        regex(pattern = r"^[a-z0-9][-a-z0-9]*[a-z0-9]$")
    )]
    pub container: String,

    /// What the names of all blobs start with; by default nothing. Namespace and store follow it in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[-a-zA-Z0-9_.]+(/[-a-zA-Z0-9_.]+)*$")
    )]
    pub prefix: Option<String>,

    /// Address of the server, such as that of another cloud; by default `https://ACCOUNT.blob.core.windows.net`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^https?://[^/?#]+(/[a-z0-9]+)?/?$")
    )]
    pub endpoint: Option<String>,

    /// Secret in the store's namespace with `AZURE_STORAGE_ACCOUNT_KEY`, or `AZURE_STORAGE_SAS_KEY`, or those of an app:
    /// `AZURE_STORAGE_CLIENT_ID`, `AZURE_STORAGE_CLIENT_SECRET` and `AZURE_STORAGE_TENANT_ID`. Without it, the workload identity of
    /// the Job's service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<LocalRef>,

    /// ConfigMap in the store's namespace whose entry `ca.crt` has the certificates that the server's is checked against, in
    /// place of the well-known ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<LocalRef>,
}

/// See [`S3::server_side_encryption`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServerSideEncryption {
    /// SSE-S3.
    #[serde(rename = "AES256")]
    Aes256,
    /// SSE-KMS.
    #[serde(rename = "KMS")]
    Kms,
}

/// The name of an object in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalRef {
    /// Its name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}
