//! A cluster to run scenarios on: the lab's own, or one that is given.

use crate::shell::{cargo, lab, run, run_aloud, run_with_input};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A part of the lab's control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The store behind the API server.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controller manager: without it no StatefulSet makes pods.
    Controllers,
    /// The scheduler.
    Scheduler,
    /// Names of services and pods.
    Dns,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "apiserver",
            Self::Controllers => "controllers",
            Self::Scheduler => "scheduler",
            Self::Dns => "coredns",
        }
    }
}

/// A running cluster. The lab's goes when this is dropped, or when the process ends in
/// whatever way.
#[derive(Debug)]
pub struct Cluster {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    /// The lab's folder; none: a given cluster.
    dir: Option<PathBuf>,
}

impl Cluster {
    /// The cluster of this kubeconfig. Its nodes and its control plane are not touched.
    pub fn given(kubeconfig: PathBuf) -> Result<Self> {
        let cluster = Self { kubectl: "kubectl".into(), kubeconfig, dir: None };
        cluster.kubectl(["version"]).context("the given cluster does not answer")?;
        Ok(cluster)
    }

    /// A cluster of the lab with so many nodes, in the folder `dir`.
    pub fn up(nodes: usize, dir: PathBuf) -> Result<Self> {
        let owner = std::process::id().to_string();
        run_aloud(lab("k8s-up.sh").arg(nodes.to_string()).arg(&dir).arg(owner))?;
        let program = run(lab("k8s-in.sh").arg(&dir).args(["sh", "-c", "command -v kubectl"]))?;
        Ok(Self {
            kubectl: program.trim().into(),
            kubeconfig: dir.join("kubeconfig"),
            dir: Some(dir),
        })
    }

    /// The lab's folder of this cluster.
    pub fn dir(&self) -> Result<&Path> {
        self.dir.as_deref().context("this needs a cluster of the lab, and one was given")
    }

    /// Whether the lab made it.
    pub fn is_lab(&self) -> bool {
        self.dir.is_some()
    }

    fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig).args(args);
        command
    }

    /// Runs `kubectl` and gives what it prints.
    pub fn kubectl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
        run(&mut self.command(args))
    }

    /// The same with something on its standard input.
    pub fn kubectl_with<'a>(
        &self,
        args: impl IntoIterator<Item = &'a str>,
        input: &str,
    ) -> Result<String> {
        run_with_input(&mut self.command(args), input.as_bytes())
    }

    /// Runs `helm` and gives what it prints.
    pub fn helm<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
        // The lab has both side by side; a given cluster's come from the path.
        let program = self.kubectl.with_file_name("helm");
        run(Command::new(program).env("KUBECONFIG", &self.kubeconfig).args(args))
    }

    /// Runs `cargo` in this checkout, for tests that ask for a cluster themselves.
    pub fn cargo(&self, args: &[&str]) -> Result<String> {
        let mut command = cargo();
        command.env("MILLRACE_E2E_KUBECONFIG", &self.kubeconfig);
        run(command.env("MILLRACE_KUBECTL", &self.kubectl).args(args))
    }

    /// What `kubectl get ... -o json` prints.
    pub fn get<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Value> {
        let args = ["get", "-o", "json"].into_iter().chain(args);
        Ok(serde_json::from_str(&self.kubectl(args)?)?)
    }

    /// Runs a command in the cluster's network, where pods' addresses and names work, with
    /// `kubectl` and `helm` in its path.
    pub fn inside(&self, args: &[&str]) -> Result<String> {
        run(lab("k8s-in.sh").arg(self.dir()?).args(args))
    }

    /// Imports images on every node.
    pub fn load(&self, images: &[&Path]) -> Result<()> {
        run(lab("k8s-load.sh").arg(self.dir()?).args(images)).map(drop)
    }

    /// Takes the power from a node: its processes and containers are gone at once.
    pub fn kill_node(&self, node: &str) -> Result<()> {
        self.node("kill", node)
    }

    /// Powers a node on again and waits until it is Ready.
    pub fn start_node(&self, node: &str) -> Result<()> {
        self.node("start", node)?;
        self.node("wait", node)
    }

    /// Kills the processes of a container, as its node's out-of-memory killer would.
    pub fn kill_container(&self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        self.signal_container("SIGKILL", namespace, pod, container)
    }

    /// Sends a signal to the first process of a container.
    pub fn signal_container(
        &self,
        signal: &str,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<()> {
        let found = self.get(["pod", pod, "--namespace", namespace])?;
        let statuses = found["status"]["containerStatuses"].as_array();
        let status = statuses.and_then(|s| s.iter().find(|s| s["name"] == container));
        let id = status.and_then(|s| s["containerID"].as_str()?.strip_prefix("containerd://"));
        let id = id.with_context(|| format!("no container {container} runs in {pod}"))?;
        let node = found["spec"]["nodeName"].as_str().unwrap_or_default();
        let kill = ["ctr", "-n", "k8s.io", "tasks", "kill", "--signal", signal, id];
        self.on_node(node, &kill).map(drop)
    }

    /// Runs a command on a node.
    pub fn on_node(&self, node: &str, args: &[&str]) -> Result<String> {
        let Some(number) = node.strip_prefix('n') else { bail!("{node} is no node of the lab") };
        run(lab("k8s-node.sh").arg("run").arg(self.dir()?).arg(number).args(args))
    }

    fn node(&self, verb: &str, node: &str) -> Result<()> {
        let Some(number) = node.strip_prefix('n') else { bail!("{node} is no node of the lab") };
        run(lab("k8s-node.sh").arg(verb).arg(self.dir()?).arg(number)).map(drop)
    }

    /// Kills a part of the control plane.
    pub fn kill(&self, part: Part) -> Result<()> {
        self.part("kill", part)
    }

    /// Starts a part that was killed.
    pub fn start(&self, part: Part) -> Result<()> {
        self.part("start", part)
    }

    /// Stops a part in its tracks: connections stay open and nothing is answered.
    pub fn pause(&self, part: Part) -> Result<()> {
        self.part("pause", part)
    }

    /// Lets a paused part go on.
    pub fn resume(&self, part: Part) -> Result<()> {
        self.part("resume", part)
    }

    /// Starts again what was killed or paused, so that a story that failed half-way does
    /// not fail the next one. Nothing to do on a given cluster.
    pub fn mend(&self) -> Result<()> {
        let Ok(dir) = self.dir() else { return Ok(()) };
        run(lab("k8s-mend.sh").arg(dir)).map(drop)
    }

    /// Lets DNS remember its answers for so many seconds, as many clusters' does; 0: not.
    pub fn cache_names(&self, seconds: u32) -> Result<()> {
        run(lab("k8s-dns.sh").arg(self.dir()?).arg(seconds.to_string())).map(drop)
    }

    /// A certificate of the lab's authority for a name: the folder with its `tls.crt`,
    /// `tls.key` and `ca.crt`.
    pub fn certificate(&self, name: &str) -> Result<PathBuf> {
        let folder = run(lab("cert.sh").arg(self.dir()?).arg(name))?;
        Ok(folder.trim().into())
    }

    fn part(&self, verb: &str, part: Part) -> Result<()> {
        run(lab("k8s-part.sh").arg(verb).arg(self.dir()?).arg(part.name())).map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir
            && let Err(error) = run(lab("k8s-down.sh").arg(dir))
        {
            eprintln!("{error:#}");
        }
    }
}
