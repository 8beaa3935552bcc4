//! Where a job's storage and savepoints are: directories, or places in S3.

use crate::cli::trouble::Trouble;
use clap::Args;
use millrace_engine::store::opener::is_url;
use millrace_engine::store::{Access, ObjectStore, Opener, StoreResult};
use millrace_protocol::manifest::sha256_hex;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The S3 server of places that do not name one themselves.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "S3")]
pub struct Server {
    /// URL of a server that speaks the S3 protocol [default: AWS, or `AWS_ENDPOINT_URL`]
    #[cfg(feature = "s3")]
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket [default: `AWS_REGION`, or what the AWS SDK finds]
    #[cfg(feature = "s3")]
    #[arg(long, value_name = "REGION")]
    pub s3_region: Option<String>,
    /// Whether the bucket is in the path of URLs, not in the host name [default: with an
    /// endpoint]
    #[cfg(feature = "s3")]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub s3_path_style: Option<bool>,
}

impl Server {
    /// What opens places.
    #[cfg(feature = "s3")]
    pub fn opener(&self) -> Arc<dyn Opener> {
        let defaults = millrace_protocol::config::S3Storage {
            endpoint: self.s3_endpoint.clone(),
            region: self.s3_region.clone(),
            path_style: self.s3_path_style,
            ..Default::default()
        };
        millrace_s3::set_default_server(defaults.clone());
        Arc::new(millrace_s3::S3Opener::new(defaults))
    }

    /// What opens places.
    #[cfg(not(feature = "s3"))]
    pub fn opener(&self) -> Arc<dyn Opener> {
        Arc::new(millrace_engine::store::DirectoryOpener)
    }
}

/// A place as the user wrote it, and what opens it.
#[derive(Clone)]
pub struct Place {
    /// A directory's path, or a URL.
    pub location: String,
    /// Opens it.
    pub opener: Arc<dyn Opener>,
}

impl Place {
    /// A directory, or a URL.
    pub fn new(location: &str, server: &Server) -> Self {
        Self { location: location.to_owned(), opener: server.opener() }
    }

    /// The same, with a directory's path made absolute.
    pub fn absolute(mut self) -> Result<Self, Trouble> {
        if !is_url(&self.location) {
            let absolute = std::path::absolute(&self.location);
            let failed = |error| format!("cannot use {}: {error}", self.location);
            self.location =
                absolute.map_err(|error| Trouble::user(failed(error)))?.display().to_string();
        }
        Ok(self)
    }

    /// As it stands in a job's configuration; what the program was not built with comes out
    /// as a directory of that name, which is refused when it is opened.
    #[cfg(feature = "cluster")]
    pub fn storage(&self) -> millrace_protocol::config::Storage {
        use millrace_protocol::config::{S3Storage, Storage};
        let plain = self.location.split('?').next().unwrap_or_default();
        match plain.strip_prefix("s3://") {
            None => Storage::Directory { path: self.location.clone() },
            Some(place) => {
                let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
                let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
                Storage::S3(S3Storage { bucket, prefix, ..S3Storage::default() })
            }
        }
    }

    /// What a job's configuration says.
    #[cfg(feature = "cluster")]
    pub fn of_storage(storage: &millrace_protocol::config::Storage) -> Self {
        use millrace_protocol::config::Storage;
        let location = storage.to_string();
        match storage {
            Storage::Directory { .. } => Self::new(&location, &Server::default()),
            #[cfg(feature = "s3")]
            Storage::S3(s3) => {
                millrace_s3::set_default_server(s3.clone());
                Self { location, opener: Arc::new(millrace_s3::S3Opener::new(s3.clone())) }
            }
            #[cfg(not(feature = "s3"))]
            Storage::S3(_) => Self::new(&location, &Server::default()),
        }
    }

    /// Opens it.
    pub fn open(&self, access: Access) -> StoreResult<Arc<dyn ObjectStore>> {
        self.opener.open(&self.location, access)
    }

    /// The directory of this machine that belongs to it, for the lock and the control
    /// socket: itself or, of a URL, one of the user's.
    pub fn here(&self) -> PathBuf {
        if !is_url(&self.location) {
            return PathBuf::from(&self.location);
        }
        // The same place with and without the server's settings is one job's.
        let place = self.location.split('?').next().unwrap_or_default().trim_end_matches('/');
        let digest = sha256_hex(place.as_bytes());
        caches().join("millrace/run").join(digest.get(..16).unwrap_or_default())
    }
}

fn caches() -> PathBuf {
    let named = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    named("XDG_CACHE_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
}

/// What is in a directory of this machine, as a place.
impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        let opener = Arc::new(millrace_engine::store::DirectoryOpener);
        Self { location: path.display().to_string(), opener }
    }
}
