//! What is kept of all objects that we were told of, by kind, namespace and job.
//!
//! There may be thousands, each looked at again and again: so only what is ever looked at is
//! kept of them, as text, which takes a tenth of the room of the same as a tree.

use super::cache::{JobKey, job_of};
use super::kinds::What;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A copy of what `kubectl apply` was given, as large as the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The cache.
#[derive(Default)]
pub(crate) struct Cache {
    spaces: Mutex<BTreeMap<(What, String), Space>>,
    expected: AtomicUsize,
    ready: AtomicUsize,
}

/// The objects of one kind in one namespace.
#[derive(Default)]
struct Space {
    by_name: BTreeMap<String, Kept>,
    /// Job and name.
    by_job: BTreeSet<(String, String)>,
}

struct Kept {
    version: Option<u64>,
    job: Option<String>,
    /// Metadata and the rest, JSON.
    text: Arc<[u8]>,
}

impl Kept {
    fn read(text: &[u8]) -> Option<DynamicObject> {
        let (metadata, data): (ObjectMeta, Value) = serde_json::from_slice(text).ok()?;
        Some(DynamicObject { types: None, metadata, data })
    }
}

impl Space {
    fn put(&mut self, name: String, kept: Kept) {
        self.remove(&name);
        if let Some(job) = &kept.job {
            self.by_job.insert((job.clone(), name.clone()));
        }
        self.by_name.insert(name, kept);
    }

    fn remove(&mut self, name: &str) {
        if let Some(Kept { job: Some(job), .. }) = self.by_name.remove(name) {
            self.by_job.remove(&(job, name.to_owned()));
        }
    }
}

impl Cache {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(What, String), Space>> {
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, what: What, namespace: &str, name: &str) -> Option<DynamicObject> {
        let text = {
            let spaces = self.lock();
            spaces.get(&(what, namespace.to_owned()))?.by_name.get(name)?.text.clone()
        };
        Kept::read(&text)
    }

    /// All that belong to a job.
    pub fn of_job(&self, what: What, namespace: &str, job: &str) -> Vec<DynamicObject> {
        let texts: Vec<_> = {
            let spaces = self.lock();
            let Some(space) = spaces.get(&(what, namespace.to_owned())) else { return Vec::new() };
            let from = (job.to_owned(), String::new());
            let names = space.by_job.range(from..).take_while(|(of, _)| of == job);
            names.filter_map(|(_, name)| Some(space.by_name.get(name)?.text.clone())).collect()
        };
        texts.iter().filter_map(|text| Kept::read(text)).collect()
    }

    /// The job that an object belonged to, as far as is known.
    pub fn job_of(&self, what: What, object: &DynamicObject) -> Option<JobKey> {
        let (namespace, name) = place(object);
        let spaces = self.lock();
        let known = spaces.get(&(what, namespace.clone()))?.by_name.get(&name)?;
        Some((namespace, known.job.clone()?))
    }

    /// How many of a kind there are in all namespaces.
    pub fn count(&self, what: What) -> usize {
        let spaces = self.lock();
        let of_kind = spaces.iter().filter(|((kind, _), _)| *kind == what);
        of_kind.map(|(_, space)| space.by_name.len()).sum()
    }

    /// Looks at all of a kind in all namespaces, one after the other.
    pub fn each(&self, what: What, mut look: impl FnMut(DynamicObject)) {
        let texts: Vec<_> = {
            let spaces = self.lock();
            let of_kind = spaces.iter().filter(|((kind, _), _)| *kind == what);
            of_kind.flat_map(|(_, space)| space.by_name.values().map(|k| k.text.clone())).collect()
        };
        texts.iter().filter_map(|text| Kept::read(text)).for_each(&mut look);
    }

    /// What we wrote ourselves is known before the watch tells; unless that was faster, and
    /// told of what somebody wrote after us: nobody would tell of it again.
    pub fn wrote(&self, what: What, object: DynamicObject) {
        let (namespace, name) = place(&object);
        let Some(kept) = keep(what, object) else { return };
        let mut spaces = self.lock();
        let space = spaces.entry((what, namespace)).or_default();
        if space.by_name.get(&name).and_then(|known| known.version) <= kept.version {
            space.put(name, kept);
        }
    }

    /// What the API server lists.
    pub fn put(&self, what: What, object: DynamicObject) {
        let (namespace, name) = place(&object);
        let Some(kept) = keep(what, object) else { return };
        self.lock().entry((what, namespace)).or_default().put(name, kept);
    }

    /// What is known is newer than this.
    pub fn is_newer(&self, what: What, than: &DynamicObject) -> bool {
        let (namespace, name) = place(than);
        let spaces = self.lock();
        let known = spaces.get(&(what, namespace)).and_then(|space| space.by_name.get(&name));
        known.and_then(|known| known.version) > version(than)
    }

    pub fn remove(&self, what: What, namespace: &str, name: &str) {
        if let Some(space) = self.lock().get_mut(&(what, namespace.to_owned())) {
            space.remove(name);
        }
    }

    /// Forgets what a list did not name.
    pub fn keep(&self, what: What, scope: Option<&str>, seen: &BTreeSet<(String, String)>) {
        for ((kind, namespace), space) in self.lock().iter_mut() {
            if *kind != what || scope.is_some_and(|scope| scope != namespace) {
                continue;
            }
            let gone = |name: &&String| !seen.contains(&(namespace.clone(), (*name).clone()));
            let gone: Vec<String> = space.by_name.keys().filter(gone).cloned().collect();
            gone.iter().for_each(|name| space.remove(name));
        }
    }

    /// So many watches fill it.
    pub fn expect(&self, watches: usize) {
        self.expected.store(watches, Ordering::Release);
    }

    /// A watch has delivered its first list.
    pub fn one_is_ready(&self) {
        self.ready.fetch_add(1, Ordering::AcqRel);
    }

    /// Every watch has delivered its first list.
    pub fn is_ready(&self) -> bool {
        let expected = self.expected.load(Ordering::Acquire);
        expected > 0 && self.ready.load(Ordering::Acquire) >= expected
    }
}

fn place(object: &DynamicObject) -> (String, String) {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn version(object: &DynamicObject) -> Option<u64> {
    object.metadata.resource_version.as_ref().and_then(|text| text.parse().ok())
}

fn keep(what: What, object: DynamicObject) -> Option<Kept> {
    let job = job_of(what, &object).map(|(_, job)| job);
    let (version, object) = (version(&object), slim(what, object));
    // What came as JSON is JSON.
    let text = serde_json::to_vec(&(&object.metadata, &object.data)).ok()?;
    Some(Kept { version, job, text: text.into() })
}

/// What of an object is ever looked at.
fn slim(what: What, mut object: DynamicObject) -> DynamicObject {
    // Half of an object is who wrote which of its fields.
    object.metadata.managed_fields = None;
    if let Some(annotations) = &mut object.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    let data = &mut object.data;
    match what {
        What::Pod => {
            object.metadata.annotations = None;
            let status = &data["status"];
            *data = json!({
                "spec": {"nodeName": data["spec"]["nodeName"]},
                "status": {
                    "phase": status["phase"],
                    "reason": status["reason"],
                    "podIP": status["podIP"],
                    "conditions": named(&status["conditions"], "type", &["Ready", "PodScheduled"]),
                    "containerStatuses": named(&status["containerStatuses"], "name", &["worker"]),
                },
            });
        }
        // Who wrote its spec is told by its generation, and what it should be by a revision.
        What::StatefulSet => {
            let spec = &data["spec"];
            let labels = &spec["template"]["metadata"]["labels"];
            *data = json!({"spec": {
                "replicas": spec["replicas"], "template": {"metadata": {"labels": labels}},
            }});
        }
        What::Node => {
            object.metadata.annotations = None;
            *data = json!({
                "spec": {"taints": data["spec"]["taints"]},
                "status": {"conditions": named(&data["status"]["conditions"], "type", &["Ready"])},
            });
        }
        What::Service | What::DisruptionBudget => {
            if let Some(all) = data.as_object_mut() {
                all.remove("status");
            }
        }
        _ => {}
    }
    object
}

/// Those of a list whose `key` is one of `names`.
fn named(list: &Value, key: &str, names: &[&str]) -> Value {
    let of = list.as_array().into_iter().flatten();
    of.filter(|one| one[key].as_str().is_some_and(|name| names.contains(&name))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_edit_that_the_watch_told_of_is_not_undone_by_our_own_write_before_it() {
        let cache = Cache::default();
        let job = |version: &str, workers: u32| {
            object(json!({
                "metadata": {"name": "a", "namespace": "n", "resourceVersion": version},
                "spec": {"workers": workers}
            }))
        };
        let workers = || {
            let known = cache.get(What::StreamJob, "n", "a").unwrap();
            known.data["spec"]["workers"].as_u64().unwrap()
        };
        cache.put(What::StreamJob, job("9", 1));
        cache.wrote(What::StreamJob, job("10", 1));
        // The user's edit is version 12: the watch tells of it before the answer to our write.
        cache.put(What::StreamJob, job("12", 3));
        cache.wrote(What::StreamJob, job("11", 1));
        assert_eq!(workers(), 3);
        cache.wrote(What::StreamJob, job("13", 3));
        // After a backup of etcd was restored a list counts, whatever its version.
        cache.put(What::StreamJob, job("5", 2));
        assert_eq!(workers(), 2);
    }

    #[test]
    fn objects_are_found_by_their_job_until_they_go() {
        let cache = Cache::default();
        let pod = |name: &str, job: &str| {
            let labels = json!({"millrace.dev/job": job});
            object(json!({"metadata": {"name": name, "namespace": "n", "labels": labels}}))
        };
        let names = |job: &str| -> Vec<String> {
            let all = cache.of_job(What::Pod, "n", job);
            all.into_iter().filter_map(|pod| pod.metadata.name).collect()
        };
        for (name, job) in [("a-0", "a"), ("a-1", "a"), ("ab-0", "ab"), ("b-0", "b")] {
            cache.put(What::Pod, pod(name, job));
        }
        assert_eq!(
            (names("a"), names("ab")),
            (vec!["a-0".into(), "a-1".into()], vec!["ab-0".into()])
        );
        cache.remove(What::Pod, "n", "a-0");
        cache.put(What::Pod, pod("ab-0", "b"));
        assert_eq!((names("a"), names("ab").len(), names("b").len()), (vec!["a-1".into()], 0, 2));
        let seen = BTreeSet::from([("n".to_owned(), "b-0".to_owned())]);
        cache.keep(What::Pod, None, &seen);
        assert_eq!((names("a").len(), names("b")), (0, vec!["b-0".into()]));
        let mut all = 0;
        cache.each(What::Pod, |_| all += 1);
        assert_eq!(all, 1);
    }

    #[test]
    fn of_a_pod_little_is_kept() {
        let status = |name: &str| json!({"name": name, "state": {"running": {}}, "ready": true});
        let pod = object(json!({
            "metadata": {"name": "a-0", "namespace": "n", "resourceVersion": "7",
                "annotations": {"a": "b"}, "managedFields": [{"manager": "kubelet"}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "worker", "image": "x"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized"}],
                "containerStatuses": [status("worker"), status("sidecar")]},
        }));
        let seen = super::super::pods::pod("a", &pod);
        let cache = Cache::default();
        cache.put(What::Pod, pod);
        let kept = cache.get(What::Pod, "n", "a-0").unwrap();
        let again = super::super::pods::pod("a", &kept);
        assert_eq!(format!("{seen:?}"), format!("{again:?}"));
        assert_eq!(super::super::pods::ip(&kept), Some("10.0.0.1"));
        let text = kept.data.to_string();
        assert!(!text.contains("sidecar") && !text.contains("Initialized"), "{text}");
        assert_eq!(kept.metadata.annotations, None);
    }
}
