//! The images that stories run, built from this checkout when first wanted.

use crate::cluster::Cluster;
use crate::shell::{cache, cargo, lab, run, run_aloud};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// An image made of one of our binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Image {
    /// The job of the scenarios (`e2e/counts`).
    Counts,
    /// The same under its next name: what an upgrade goes to.
    CountsNext,
    /// The first example (`examples/flight-delays`).
    FlightDelays,
    /// The second: a program of one's own (`examples/card-alerts`).
    CardAlerts,
    /// The controller.
    Operator,
    /// The same under its next name.
    OperatorNext,
}

impl Image {
    /// What its pods call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counts => "lab.millrace.dev/counts:1",
            Self::CountsNext => "lab.millrace.dev/counts:2",
            // The names in the examples' YAML.
            Self::FlightDelays => "millrace.dev/examples/flight-delays:0.1.0",
            Self::CardAlerts => "registry.example/shop/card-alerts:0.1.0",
            Self::Operator => "lab.millrace.dev/operator:1",
            Self::OperatorNext => "lab.millrace.dev/operator:2",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Counts | Self::CountsNext => "counts",
            Self::FlightDelays => "flight-delays",
            Self::CardAlerts => "card-alerts",
            Self::Operator | Self::OperatorNext => "millrace-operator",
        }
    }

    /// What a program needs to run in a cluster with its state in S3.
    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Counts | Self::CountsNext | Self::FlightDelays | Self::CardAlerts => {
                &["--features", "millrace/cluster,millrace/s3"]
            }
            Self::Operator | Self::OperatorNext => &[],
        }
    }

    /// Builds the binary.
    pub fn executable(self) -> Result<PathBuf> {
        executable(self.package(), self.features())
    }

    /// An archive of it.
    fn build(self) -> Result<PathBuf> {
        let (package, executable) = (self.package(), self.executable()?);
        // Named by the process: another run may make its own of the same name.
        let archive = cache().join(format!("lab/images/{package}-{}.tar", std::process::id()));
        let mut image = lab("image.sh");
        image.env("GZIP_LEVEL", "1").arg(&archive).arg(self.name()).arg(executable);
        run(&mut image)?;
        Ok(archive)
    }
}

/// Builds a binary of its package's name, in the profile of the tests or in that which
/// `MILLRACE_E2E_PROFILE` names.
pub fn executable(package: &str, features: &[&str]) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--message-format=json-render-diagnostics"]);
    command.args(["--package", package, "--bin", package]).args(features);
    if let Some(profile) = std::env::var_os("MILLRACE_E2E_PROFILE") {
        command.arg("--profile").arg(profile);
    }
    let messages = run_aloud(&mut command)?;
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executable.with_context(|| format!("cargo built no {package}"))
}

/// Which of them the cluster has.
#[derive(Debug, Default)]
pub struct Images {
    loaded: Mutex<BTreeSet<Image>>,
}

impl Images {
    /// Sees to it that every node has the image, before pods want it. A given cluster gets
    /// its images from its own registry.
    pub fn provide(&self, cluster: &Cluster, image: Image) -> Result<()> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if cluster.is_lab() && !loaded.contains(&image) {
            let archive = image.build()?;
            let result = cluster.load(&[&archive]);
            let _ = std::fs::remove_file(&archive);
            result?;
            loaded.insert(image);
        }
        Ok(())
    }
}
