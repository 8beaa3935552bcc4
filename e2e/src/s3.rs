//! An object store that pods reach: versitygw in the lab's network.

use crate::cluster::Cluster;
use crate::shell::{lab, run, run_aloud};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The running server. Its objects are plain files, which is how stories read them:
/// independent of every S3 client.
#[derive(Debug)]
pub struct S3 {
    cluster: PathBuf,
    inside: String,
    outside: String,
}

impl S3 {
    /// The access key that the server takes.
    pub const ACCESS_KEY: &str = "testtest";
    /// The secret that belongs to it.
    pub const SECRET_KEY: &str = "testtest123";

    /// Starts the server in the network of the lab's cluster in `cluster`.
    pub fn up(cluster: &Path) -> Result<Self> {
        let answer = run_aloud(lab("s3-up.sh").arg(cluster))?;
        let mut words = answer.split_whitespace().map(str::to_owned);
        let (Some(inside), Some(outside)) = (words.next(), words.next()) else {
            bail!("s3-up.sh named no addresses: {answer}");
        };
        Ok(Self { cluster: cluster.to_owned(), inside, outside })
    }

    /// Makes it known in the network of another of the lab's clusters, under the same URL.
    pub fn share(&self, cluster: &Cluster) -> Result<()> {
        run(lab("s3-share.sh").arg(&self.cluster).arg(cluster.dir()?)).map(drop)
    }

    /// Serves the same by HTTPS, with a certificate of an authority that nobody knows: the
    /// address for pods, who are to call it `s3-tls`, and the file with the authority.
    pub fn secure(&self) -> Result<(String, PathBuf)> {
        let answer = run_aloud(lab("s3-tls.sh").arg(&self.cluster))?;
        let (address, file) = answer.trim().split_once(' ').context("s3-tls.sh said nothing")?;
        Ok((address.to_owned(), file.into()))
    }

    /// The URL that pods use.
    pub fn endpoint(&self) -> &str {
        &self.inside
    }

    /// The URL for this process.
    pub fn outside(&self) -> &str {
        &self.outside
    }

    /// Makes a bucket.
    pub fn make_bucket(&self, bucket: &str) -> Result<()> {
        self.request(&["-X", "PUT", &format!("{}/{bucket}", self.outside)])
    }

    /// Puts a file as an object.
    pub fn put(&self, bucket: &str, key: &str, file: &Path) -> Result<()> {
        let file = file.to_str().context("a path that is no text")?;
        self.request(&["-T", file, &format!("{}/{bucket}/{key}", self.outside)])
    }

    fn request(&self, args: &[&str]) -> Result<()> {
        let user = format!("{}:{}", Self::ACCESS_KEY, Self::SECRET_KEY);
        let sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user];
        // Not every version of curl adds this by itself, and the server asks for it.
        let sum = ["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"];
        let quiet = ["--silent", "--show-error", "--fail-with-body", "--max-time", "60"];
        run(Command::new("curl").args(quiet).args(sign).args(sum).args(args)).map(drop)
    }

    /// The folder that holds a bucket's objects as files.
    pub fn bucket(&self, bucket: &str) -> PathBuf {
        self.cluster.join("s3/data").join(bucket)
    }

    /// Takes the server away, without its data: the object store that cannot be reached.
    pub fn kill(&self) -> Result<()> {
        run(lab("k8s-part.sh").arg("kill").arg(&self.cluster).arg("s3")).map(drop)
    }

    /// Brings it back.
    pub fn start(&self) -> Result<()> {
        run(lab("k8s-part.sh").arg("start").arg(&self.cluster).arg("s3")).map(drop)
    }
}
