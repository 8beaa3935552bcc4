//! A program that runs beside a story, in the cluster's network.

use crate::cluster::Cluster;
use crate::shell::lab;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// It; told to end, and waited for, when this is dropped.
#[derive(Debug)]
pub struct Background(Child);

impl Background {
    /// Starts it; what it says goes to the file `log`.
    pub fn start(cluster: &Cluster, log: &Path, args: &[&str]) -> Result<Self> {
        let said = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        // The script becomes the program: its process is the program's.
        let mut command: Command = lab("k8s-in.sh");
        command.arg(cluster.dir()?).args(args).stdin(Stdio::null());
        command.stdout(said.try_clone()?).stderr(said);
        Ok(Self(command.spawn().with_context(|| format!("cannot run {}", args.join(" ")))?))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let id = self.0.id().to_string();
        // One that is gone already needs no telling.
        let _ = Command::new("kill").arg(&id).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}
