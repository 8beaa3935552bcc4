//! What must hold when nothing happens any more.

use super::run::Run;
use super::server::{deleting, name, text, uid};
use super::user::SPACE;
use super::world::World;
use crate::shell::kinds::What;
use millrace_crds::{names, revision};
use serde_json::{Value, json};

fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let list = object["status"]["conditions"].as_array()?;
    let found = list.iter().find(|condition| condition["type"] == kind)?;
    Some((text(found, "/status"), text(found, "/reason")))
}

fn conditions(object: &Value) -> String {
    let list = object["status"]["conditions"].as_array().into_iter().flatten();
    let all = list.map(|c| {
        let of = |key: &str| text(c, key).to_owned();
        format!("{}={} {} '{}'", of("/type"), of("/status"), of("/reason"), of("/message"))
    });
    format!("{} {}: {}", name(object), object["spec"], all.collect::<Vec<_>>().join(", "))
}

impl Run {
    pub fn check_rest(&mut self) {
        let mut world = self.world.lock().unwrap();
        let jobs: Vec<Value> = world.server.list(What::StreamJob).cloned().collect();
        for job in &jobs {
            world.check_job(job);
        }
        let well = jobs.iter().all(|job| condition(job, "Ready").is_some_and(|(s, _)| s == "True"));
        let writes = world.writes - world.writes_before_rest;
        world.promise(!well || writes == 0, || format!("{writes} writes at rest"));
        let now = world.server.now;
        let kept = world.open.iter().filter(|(_, asked)| now - **asked > 15_000);
        let kept: Vec<String> = kept.map(|(ip, _)| ip.clone()).collect();
        world.promise(kept.is_empty(), || format!("kept, and not asked: {kept:?}"));
        let open = world.server.list(What::ServiceAccount);
        let open = open.filter(|account| account["automountServiceAccountToken"] != json!(false));
        let open: Vec<String> = open.map(|account| name(account).to_owned()).collect();
        world.promise(!well || open.is_empty(), || format!("edited and left so: {open:?}"));
        let all: Vec<Value> = world.server.list(What::Savepoint).cloned().collect();
        for savepoint in &all {
            world.check_savepoint(savepoint, &jobs);
        }
        let pods: Vec<String> = world
            .server
            .list(What::Pod)
            .filter(|pod| {
                text(pod, "/metadata/labels/app.kubernetes.io~1component") == names::STORE
            })
            .map(|pod| name(pod).to_owned())
            .collect();
        world.promise(pods.is_empty(), || format!("left: {pods:?}"));
    }
}

impl World {
    fn pods_of(&self, job: &str) -> String {
        let all = self.pods.values().filter(|pod| pod.job == job).map(|pod| {
            let lead = pod.process.as_ref().map(|process| (process.lead, &process.message));
            let object = self.server.objects.get(&pod.of);
            let revision = object.map(|o| text(o, "/metadata/labels/millrace.dev~1revision"));
            format!("{} {revision:?} {:?} {lead:?}", pod.of.2, pod.phase)
        });
        all.collect::<Vec<_>>().join("; ")
    }

    fn check_job(&mut self, job: &Value) {
        let id = name(job).to_owned();
        self.promise(!deleting(job), || format!("{id} is not gone"));
        if deleting(job) {
            return;
        }
        let status = &job["status"];
        let told = format!("{} {}", conditions(job), self.pods_of(uid(job)));
        let generation = &job["metadata"]["generation"];
        self.promise(status["observedGeneration"] == *generation, || format!("old news: {told}"));
        let list = status["conditions"].as_array().cloned().unwrap_or_default();
        let shown =
            list.iter().filter(|c| matches!(text(c, "/type"), "Ready" | "Available" | "Stalled"));
        let current = shown.into_iter().all(|c| c["observedGeneration"] == *generation);
        self.promise(current, || format!("conditions of another generation: {told}"));
        let (ready, reason) = condition(job, "Ready").unwrap_or(("", ""));
        let image = text(job, "/spec/image");
        let suspended = job["spec"]["desiredState"] == "Suspended";
        let good = image.ends_with(|c: char| c.is_ascii_digit());
        let strangers: Vec<String> = self.strangers().into_iter().map(|(_, name)| name).collect();
        let taken = strangers.iter().any(|name| name.starts_with(&format!("{id}-millrace")));
        // A job that was told not to start on another's state says so.
        let refused = matches!(reason, "EarlierStateFound" | "NameConflict");
        let upset =
            matches!(reason, "CheckFailed" | "RolledBack" | "RestartsExhausted" | "UpgradeFailed");
        let excused = taken || refused || upset && self.rough;
        if good && !excused {
            self.promise(ready == "True", || format!("not ready: {told}"));
        }
        let allowed = refused
            && (reason != "EarlierStateFound" || job["spec"]["onExistingState"] == "Refuse")
            && (reason != "NameConflict" || taken);
        self.promise(!refused || allowed, || format!("refused without a cause: {told}"));
        if condition(job, "Reconciling").is_some() && good && !taken {
            self.promise(false, || format!("for ever under way: {told}"));
        }
        if ready != "True" {
            let known = matches!(
                reason,
                "ImagePullFailed"
                    | "InvalidSpec"
                    | "InvalidProgram"
                    | "CheckFailed"
                    | "RolledBack"
                    | "UpgradeFailed"
                    | "RestartsExhausted"
                    | "Restarting"
                    | "Starting"
                    | "NameConflict"
                    | "EarlierStateFound"
            );
            self.promise(known, || format!("an odd reason: {told}"));
            return;
        }
        let finished = reason == "Finished";
        let wanted =
            if suspended || finished { 0 } else { job["spec"]["workers"].as_u64().unwrap() };
        let main = names::main(&id);
        let Some(set) = self.server.get(What::StatefulSet, SPACE, &main).cloned() else {
            return self.promise(false, || format!("no StatefulSet: {told}"));
        };
        let replicas = set["spec"]["replicas"].as_u64();
        self.promise(replicas == Some(wanted), || format!("{replicas:?} replicas: {told}"));
        let hash = revision::hash(&job["spec"]);
        self.check_set(&id, &set, &hash);
        let pods = self.workers_of(uid(job)).count() as u64;
        self.promise(pods == wanted, || format!("{pods} pods: {told}"));
        let running = self.attempt_since(uid(job)).is_some();
        self.promise(running == (wanted > 0), || format!("running {running}: {told}"));
        let chain = self.store.chains.get(uid(job)).cloned();
        if let Some(chain) = chain.filter(|_| wanted > 0) {
            let accepted = json!(chain.config.generation) == *generation;
            self.promise(accepted, || format!("accepted {}: {told}", chain.config.generation));
            let workers = u64::from(chain.config.workers);
            self.promise(workers == wanted, || format!("{workers} workers: {told}"));
        }
    }

    /// The StatefulSet is the one of the revision, to the last field.
    fn check_set(&mut self, id: &str, set: &Value, hash: &str) {
        let map = self.server.get(What::ConfigMap, SPACE, &names::revision(id, hash)).cloned();
        let Some(map) = map else {
            return self.promise(false, || format!("{id} has no revision {hash}"));
        };
        let mut stored: Value = serde_json::from_str(text(&map, "/data/statefulset.json")).unwrap();
        stored["replicas"] = set["spec"]["replicas"].clone();
        let same = stored == set["spec"];
        self.promise(same, || format!("{id} runs {} and not {stored}", set["spec"]));
    }

    fn check_savepoint(&mut self, savepoint: &Value, jobs: &[Value]) {
        let told = conditions(savepoint);
        self.promise(!deleting(savepoint), || format!("not gone: {told}"));
        let ready = condition(savepoint, "Ready").is_some_and(|(status, _)| status == "True");
        let stalled = condition(savepoint, "Stalled").is_some();
        let job = text(savepoint, "/spec/jobRef/name");
        let there = jobs.iter().any(|object| name(object) == job);
        self.promise(ready || stalled || !there, || format!("forgotten: {told}"));
        if ready {
            let path = text(savepoint, "/status/path").to_owned();
            let kept = self.store.manifests.contains_key(&path);
            self.promise(kept, || format!("said to be complete, and is not there: {told}"));
        }
    }
}
