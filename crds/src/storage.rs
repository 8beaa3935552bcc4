//! Where a job's progress is kept.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Where checkpoints and savepoints are kept. The place cannot be changed; how it is
/// reached can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.s3) != has(self.volume)")
        .message("set exactly one of storage.s3 and storage.volume"),
    validation = Rule::new("has(self.s3) == has(oldSelf.s3) && (!has(self.s3) || !has(oldSelf.s3) || (self.s3.bucket == oldSelf.s3.bucket && self.s3.prefix == oldSelf.s3.prefix)) && (!has(self.volume) || !has(oldSelf.volume) || (self.volume.claimName == oldSelf.volume.claimName && self.volume.path == oldSelf.volume.path))")
        .message("the place of the job's state cannot be changed: put the old bucket, prefix, claim and path back, or create a new job from a savepoint")
)]
pub struct Storage {
    /// A bucket in S3 or in a server that speaks its protocol and honours If-None-Match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    /// A ReadWriteMany volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// The bucket. Immutable.
    #[schemars(length(min = 1, max = 255))]
    pub bucket: String,
    /// Data is kept under `<prefix>/<namespace>/<name>/`. Immutable.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub prefix: String,
    /// None: the SDK's chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// None: AWS. For example `https://minio.s3:9000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')")
        .message("must begin with http:// or https://"))]
    #[schemars(length(max = 1024))]
    pub endpoint: Option<String>,
    /// Whether the bucket is named in the path or in the host name. None: Path if
    /// `endpoint` is set, else VirtualHost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addressing: Option<Addressing>,
    /// The certificate authority of `endpoint`, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// None: the default chain of the pods' service account (IRSA, pod identity).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// How a bucket is named in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Addressing {
    /// In the path.
    Path,
    /// In the host name.
    VirtualHost,
}

/// One key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret, in the job's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key.
    #[serde(default = "ca_crt")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn ca_crt() -> String {
    "ca.crt".to_owned()
}

/// Credentials of the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret, mounted as files: rotating it needs no restart.
    pub secret_ref: CredentialsRef,
}

/// A Secret with an access key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsRef {
    /// The Secret, in the job's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// None: `accessKeyId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub access_key_id_key: Option<String>,
    /// None: `secretAccessKey`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_access_key_key: Option<String>,
    /// None: `sessionToken`, if the Secret has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub session_token_key: Option<String>,
}

/// A volume that all pods share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// A PersistentVolumeClaim with ReadWriteMany, in the job's namespace. Immutable.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// A directory in it. Immutable.
    #[serde(default)]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(p, p == '..')")
        .message("must be a relative path without .."))]
    pub path: String,
}
