//! One story: its namespace and what it acts with.

mod end;

use crate::cluster::Cluster;
use crate::images::Image;
use crate::logs::Collector;
use crate::s3::S3;
use crate::stage::{Held, Stage};
use crate::wait::{PATIENCE, wait_for};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// What a story acts on. It has the cluster to itself while it runs.
#[derive(Debug)]
pub struct Scenario<'a> {
    stage: &'a Stage,
    held: Held<'a>,
    namespace: String,
    folder: PathBuf,
    logs: Option<Collector>,
    tolerated: Vec<String>,
    namespaces: Vec<String>,
    releases: Vec<[String; 2]>,
}

impl<'a> Scenario<'a> {
    /// Plays a story to its end. If it fails, panics, or a log tells of trouble, there is
    /// a folder with its name that holds all logs, events and descriptions, and the error
    /// names it. Whatever happened, its namespaces are gone afterwards.
    pub fn play(
        stage: &'a Stage,
        name: &str,
        story: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let held = stage.hold()?;
        let folder = stage.results().join(name.replace("::", "-"));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let short: String = name.rsplit("::").next().unwrap_or(name).chars().take(40).collect();
        let short = short.replace('_', "-");
        let namespace = format!("{}-{:04x}", short.trim_end_matches('-'), fastrand::u16(..));
        let mut scenario = Self {
            stage,
            held,
            namespace: namespace.clone(),
            folder,
            logs: None,
            tolerated: Vec::new(),
            namespaces: Vec::new(),
            releases: Vec::new(),
        };
        let played = scenario.add_namespace(&namespace).and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| story(&mut scenario)))
                .unwrap_or_else(|panic| Err(anyhow!("{}", words_of(panic.as_ref()))))
        });
        scenario.end(played)
    }

    /// The story's own namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The cluster.
    pub fn cluster(&self) -> Result<&Cluster> {
        self.held.cluster()
    }

    /// The object store.
    pub fn s3(&mut self) -> Result<&S3> {
        self.held.s3()
    }

    /// Sees to it that every node has the image.
    pub fn provide(&self, image: Image) -> Result<()> {
        self.stage.images().provide(self.cluster()?, image)
    }

    /// Makes another namespace, which goes with the story; its logs are looked at too.
    /// Only pods that keep to the strictest of the pod security standards may run in it.
    pub fn add_namespace(&mut self, namespace: &str) -> Result<()> {
        let cluster = self.held.cluster()?;
        cluster.kubectl(["create", "namespace", namespace])?;
        self.namespaces.push(namespace.to_owned());
        let restricted = "pod-security.kubernetes.io/enforce=restricted";
        cluster.kubectl(["label", "namespace", namespace, restricted])?;
        if cluster.is_lab() {
            match &self.logs {
                Some(logs) => logs.also(namespace),
                None => {
                    let (dir, namespaces) = (cluster.dir()?, self.namespaces.clone());
                    self.logs = Some(Collector::start(dir, self.collected(), namespaces)?);
                }
            }
        }
        // Pods cannot be made before it is there.
        wait_for("the default service account", PATIENCE, || {
            let get = ["get", "serviceaccount", "default", "--namespace", namespace];
            cluster.kubectl(get).map(Some)
        })?;
        Ok(())
    }

    /// `helm install --wait` of a chart into a namespace; uninstalled when the story ends.
    pub fn install(
        &mut self,
        release: &str,
        namespace: &str,
        chart: &Path,
        values: &[&str],
    ) -> Result<()> {
        self.releases.push([release.to_owned(), namespace.to_owned()]);
        self.helm("install", release, namespace, chart, values)
    }

    /// `helm VERB --wait` of a chart: `install` for a release that is forgotten at the end,
    /// `upgrade` for one that is there.
    pub fn helm(
        &self,
        verb: &str,
        release: &str,
        namespace: &str,
        chart: &Path,
        values: &[&str],
    ) -> Result<()> {
        let chart = chart.to_str().context("a path that is no text")?;
        let timeout = format!("{}s", PATIENCE.as_secs());
        let mut args = vec![verb, release, chart, "--namespace", namespace];
        args.extend(["--wait", "--timeout", timeout.as_str()]);
        for value in values {
            // Some are options of helm's own.
            let set = !value.starts_with("--");
            args.extend(set.then_some("--set-string").into_iter().chain([*value]));
        }
        self.cluster()?.helm(args).map(drop)
    }

    /// `helm uninstall --wait` of what the story installed.
    pub fn uninstall(&mut self, release: &str) -> Result<()> {
        let found = self.releases.iter().position(|[name, _]| name == release);
        let found = found.with_context(|| format!("{release} was not installed"))?;
        let [_, namespace] = self.releases.remove(found);
        self.cluster()?.helm(["uninstall", release, "--namespace", &namespace, "--wait"]).map(drop)
    }

    /// Lines of logs with this text are no trouble in this story.
    pub fn tolerate(&mut self, text: &str) {
        self.tolerated.push(text.to_owned());
    }

    /// Keeps a text with what shows why the story failed.
    pub fn keep(&self, name: &str, text: &str) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        fs::write(self.folder.join(name), text).map_err(Into::into)
    }

    /// `kubectl` in the story's namespace.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let args = ["--namespace", &self.namespace].into_iter().chain(args.iter().copied());
        self.cluster()?.kubectl(args)
    }

    /// `kubectl get ... -o json` in the story's namespace.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let namespace = ["--namespace", &self.namespace];
        self.cluster()?.get(args.iter().copied().chain(namespace))
    }

    /// `kubectl apply` of a text.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let args = ["apply", "--namespace", &self.namespace, "--filename", "-"];
        self.cluster()?.kubectl_with(args, yaml).map(drop)
    }

    /// `kubectl wait --for=...`, as long as patience lasts.
    pub fn wait(&self, object: &str, condition: &str) -> Result<()> {
        let (what, timeout) =
            (format!("--for={condition}"), format!("--timeout={}s", PATIENCE.as_secs()));
        self.kubectl(&["wait", object, &what, &timeout]).map(drop)
    }

    /// The value at a path of an object, as `/status/state`; `Null` if there is none.
    pub fn field(&self, object: &str, path: &str) -> Result<Value> {
        Ok(self.get(&[object])?.pointer(path).cloned().unwrap_or(Value::Null))
    }

    /// Waits until the value at a path of an object is this one.
    pub fn wait_field(&self, object: &str, path: &str, value: impl Into<Value>) -> Result<()> {
        let value = value.into();
        let mut last = Value::Null;
        let waited = wait_for(&format!("{path} of {object} to be {value}"), PATIENCE, || {
            last = self.field(object, path)?;
            Ok((last == value).then_some(()))
        });
        waited.with_context(|| format!("it was last {last}"))
    }

    /// Names of the pods with a label that are Ready.
    pub fn ready_pods(&self, label: &str) -> Result<Vec<String>> {
        let pods = self.get(&["pods", "--selector", label])?;
        let items = pods["items"].as_array().context("a list of pods without items")?;
        let ready = items.iter().filter(|pod| is_ready(pod));
        Ok(ready.filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).collect())
    }

    /// Waits until exactly so many pods with a label are Ready.
    pub fn wait_ready(&self, label: &str, pods: usize) -> Result<Vec<String>> {
        wait_for(&format!("{pods} Ready pods with {label}"), PATIENCE, || {
            let ready = self.ready_pods(label)?;
            if ready.len() != pods {
                bail!("Ready are {ready:?}");
            }
            Ok(Some(ready))
        })
    }

    /// Waits until a pod of this name is Ready and is not the one with that uid.
    pub fn wait_replaced(&self, pod: &str, uid: &str) -> Result<()> {
        wait_for(&format!("another {pod} to be Ready"), PATIENCE, || {
            let found = self.get(&["pod", pod])?;
            Ok((found["metadata"]["uid"] != uid && is_ready(&found)).then_some(()))
        })
    }

    /// The uid of an object.
    pub fn uid(&self, object: &str) -> Result<String> {
        let uid = self.field(object, "/metadata/uid")?;
        Ok(uid.as_str().with_context(|| format!("{object} has no uid"))?.to_owned())
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.is_some_and(|all| all.iter().any(ready))
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panicked without a word".to_owned())
}
