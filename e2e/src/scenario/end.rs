//! The end of a story: what is looked at, what is kept, and that nothing stays behind.

use super::Scenario;
use crate::cluster::Cluster;
use crate::logs::trouble;
use crate::wait::PATIENCE;
use anyhow::{Context, Result, anyhow};
use std::fs;
use std::path::{Path, PathBuf};

impl Scenario<'_> {
    /// Tells how the story ended, with the folder that shows why it failed.
    pub(super) fn end(mut self, played: Result<()>) -> Result<()> {
        let mut result = played;
        if let (Err(_), Ok(cluster)) = (&result, self.cluster())
            && let Err(error) = cluster.mend()
        {
            eprintln!("the cluster cannot be mended: {error:#}");
        }
        // While the pods are there.
        let report = if result.is_err() { self.describe() } else { Ok(()) };
        let report = report.and(self.collect_of_given());
        let deleted = self.uninstall_all().and(self.delete_namespaces());
        if let Some(logs) = &mut self.logs {
            logs.stop();
        }
        let collected = self.collected();
        let found = trouble(&collected, &self.tolerated);
        if result.is_ok() && !found.is_empty() {
            result = Err(anyhow!("the logs tell of trouble:\n{}", found.join("\n")));
        }
        if result.is_ok() {
            result = deleted;
        }
        match result {
            Ok(()) => {
                let _ = fs::remove_dir_all(collected);
                let _ = fs::remove_dir_all(&self.folder);
                Ok(())
            }
            Err(error) => {
                let kept = report.and_then(|()| self.keep_logs());
                // The harness shows it when all stories are over.
                let _ = fs::write(self.folder.join("error.txt"), format!("{error:#}\n"));
                let folder = self.folder.display();
                Err(match kept {
                    Ok(()) => error.context(format!("see {folder}")),
                    Err(kept) => error.context(format!("{folder} is not complete: {kept:#}")),
                })
            }
        }
    }

    /// Where the logs of the story's pods are.
    pub(super) fn collected(&self) -> PathBuf {
        match self.held.cluster().and_then(Cluster::dir) {
            // Beside the cluster's own: links need one file system.
            Ok(dir) => dir.join("collected").join(&self.namespace),
            Err(_) => self.folder.join("pods"),
        }
    }

    /// The nodes of a given cluster are out of reach: of its logs there is what can be
    /// asked for at the end.
    fn collect_of_given(&self) -> Result<()> {
        let cluster = self.cluster()?;
        if cluster.is_lab() {
            return Ok(());
        }
        fs::create_dir_all(self.collected())?;
        for namespace in &self.namespaces {
            let of = ["--namespace", namespace.as_str()];
            let names = cluster.kubectl(["get", "pods", "--output=name"].into_iter().chain(of))?;
            for pod in names.lines() {
                let logs = ["logs", pod, "--all-containers", "--prefix", "--tail=-1"];
                let log = cluster.kubectl(logs.into_iter().chain(of)).unwrap_or_default();
                let name = format!("{namespace}_{}.log", pod.trim_start_matches("pod/"));
                fs::write(self.collected().join(name), log)?;
            }
        }
        Ok(())
    }

    /// Writes what there is now into the folder.
    fn describe(&self) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let cluster = self.cluster()?;
        let write = |name: &str, args: &[&str]| {
            let text = cluster.kubectl(args.iter().copied()).unwrap_or_else(|e| format!("{e:#}\n"));
            fs::write(self.folder.join(name), text)
        };
        write("nodes.txt", &["describe", "nodes"])?;
        for namespace in &self.namespaces {
            let of = ["--namespace", namespace.as_str()];
            let file = |name: &str| format!("{namespace}.{name}");
            let events = ["get", "events", "--sort-by=.lastTimestamp", "--output=wide"];
            write(&file("events.txt"), &[&events[..], &of].concat())?;
            write(&file("pods.txt"), &[&["describe", "pods"][..], &of].concat())?;
            let all =
                "all,configmaps,serviceaccounts,poddisruptionbudgets,leases,persistentvolumeclaims";
            write(&file("objects.yaml"), &[&["get", all, "--output=yaml"][..], &of].concat())?;
        }
        Ok(())
    }

    /// Moves the collected logs, and copies the control plane's, into the folder.
    fn keep_logs(&self) -> Result<()> {
        if !self.cluster()?.is_lab() {
            return Ok(());
        }
        let collected = self.collected();
        copy_logs(&collected, &self.folder.join("pods"))?;
        let _ = fs::remove_dir_all(collected);
        let dir = self.cluster()?.dir()?;
        copy_logs(dir, &self.folder.join("cluster"))?;
        for entry in fs::read_dir(dir)?.flatten() {
            if entry.path().join("kubelet.log").exists() {
                copy_logs(&entry.path(), &self.folder.join("cluster").join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    fn uninstall_all(&self) -> Result<()> {
        let mut result = Ok(());
        for [release, namespace] in &self.releases {
            let args = ["uninstall", release, "--namespace", namespace, "--wait"];
            result = result.and(self.cluster()?.helm(args).map(drop));
        }
        result
    }

    /// Deletes the story's namespaces and waits until they are gone, so that the next one
    /// finds the cluster empty. One that stays is a failure.
    fn delete_namespaces(&self) -> Result<()> {
        let cluster = self.cluster()?;
        for namespace in &self.namespaces {
            let timeout = format!("--timeout={}s", PATIENCE.as_secs());
            cluster
                .kubectl(["delete", "namespace", namespace, "--ignore-not-found", &timeout])
                .with_context(|| format!("namespace {namespace} cannot be deleted"))?;
        }
        Ok(())
    }
}

fn copy_logs(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "log") && path.is_file() {
            fs::copy(&path, to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
