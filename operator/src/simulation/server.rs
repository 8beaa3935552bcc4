//! A simulated API server: objects, versions, ownership of fields as far as one manager
//! needs it, finalizers, preconditions, and a log of changes that watches read.

use super::apply;
use crate::observed::Millis;
use crate::shell::kinds::What;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub type Key = (What, String, String);

/// What a watch is told.
#[derive(Clone)]
pub struct Change {
    pub at: Millis,
    pub object: Value,
    pub gone: bool,
}

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
}

pub type Answer = Result<Value, Refused>;

pub fn refused(code: u16, reason: &'static str, message: impl Into<String>) -> Refused {
    Refused { code, reason, message: message.into() }
}

#[derive(Default)]
pub struct Server {
    pub now: Millis,
    pub objects: BTreeMap<Key, Value>,
    /// What our field manager applied last.
    pub applied: BTreeMap<Key, Value>,
    /// What it posted, and has not taken over by an apply.
    pub posted: BTreeMap<Key, Value>,
    pub log: BTreeMap<What, Vec<Change>>,
    pub version: u64,
    pub changes: u64,
    pub uids: u64,
    pub terminating: BTreeSet<String>,
}

pub fn time(at: Millis) -> String {
    // Like Kubernetes: whole seconds.
    Timestamp::from_millisecond(at / 1_000 * 1_000).unwrap().to_string()
}

pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn key(what: What, object: &Value) -> Key {
    (what, text(object, "/metadata/namespace").to_owned(), name(object).to_owned())
}

pub fn deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

impl Server {
    pub fn get(&self, what: What, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(what, namespace.to_owned(), name.to_owned()))
    }

    pub fn list(&self, what: What) -> impl Iterator<Item = &Value> {
        let from = (what, String::new(), String::new());
        self.objects.range(from..).take_while(move |(key, _)| key.0 == what).map(|(_, o)| o)
    }

    pub fn keys(&self, what: What) -> Vec<Key> {
        self.list(what).map(|object| key(what, object)).collect()
    }

    fn bump(&mut self, object: &mut Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
    }

    fn tell(&mut self, what: What, object: &Value, gone: bool) {
        let change = Change { at: self.now, object: object.clone(), gone };
        self.log.entry(what).or_default().push(change);
        self.changes += 1;
    }

    fn store(&mut self, key: Key, mut object: Value) -> Value {
        self.bump(&mut object);
        self.tell(key.0, &object, false);
        self.objects.insert(key, object.clone());
        object
    }

    fn erase(&mut self, key: &Key) {
        if let Some(mut object) = self.objects.remove(key) {
            self.applied.remove(key);
            self.posted.remove(key);
            self.bump(&mut object);
            self.tell(key.0, &object, true);
        }
    }

    pub fn create(&mut self, what: What, mut object: Value) -> Answer {
        let key = key(what, &object);
        if self.terminating.contains(&key.1) {
            return Err(refused(403, "Forbidden", "the namespace is being terminated"));
        }
        if self.objects.contains_key(&key) {
            return Err(refused(409, "AlreadyExists", format!("{} exists", key.2)));
        }
        self.uids += 1;
        let meta = &mut object["metadata"];
        // Different in their first 8 characters, as names are made of these.
        meta["uid"] =
            json!(format!("{:08x}-uid", self.uids.wrapping_mul(2_654_435_761) & 0xffff_ffff));
        meta["creationTimestamp"] = json!(time(self.now));
        meta["generation"] = json!(1);
        if what == What::Pod && !self.has_account(&object) {
            return Err(refused(403, "Forbidden", "error looking up service account"));
        }
        // A POST is an update in the eyes of field ownership: a later apply drops nothing of it.
        self.posted.insert(key.clone(), object.clone());
        object["metadata"]["managedFields"] =
            json!([{"manager": "millrace", "operation": "Update"}]);
        Ok(self.store(key, object))
    }

    fn has_account(&self, pod: &Value) -> bool {
        let account = text(pod, "/spec/serviceAccountName");
        self.get(What::ServiceAccount, text(pod, "/metadata/namespace"), account).is_some()
    }

    fn must(&self, key: &Key) -> Result<Value, Refused> {
        let missing = || refused(404, "NotFound", format!("{} not found", key.2));
        self.objects.get(key).cloned().ok_or_else(missing)
    }

    /// Stores a changed object, if it is changed; the last finalizer of one that is being
    /// deleted takes it away.
    fn update(&mut self, key: Key, old: &Value, mut new: Value, spec: bool) -> Answer {
        if *old == new {
            return Ok(new);
        }
        if spec && old["spec"] != new["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = json!(generation);
        }
        let stored = self.store(key.clone(), new);
        let free = stored["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if deleting(&stored) && free && key.0 != What::Pod {
            self.erase(&key);
        }
        Ok(stored)
    }

    pub fn put_status(&mut self, key: Key, body: &Value) -> Answer {
        let old = self.must(&key)?;
        let version = &body["metadata"]["resourceVersion"];
        if !version.is_string() {
            // As it is for custom resources.
            return Err(refused(422, "Invalid", "resourceVersion: must be specified"));
        }
        if *version != old["metadata"]["resourceVersion"] {
            return Err(refused(409, "Conflict", "the object has been modified"));
        }
        if uid(body) != uid(&old) {
            return Err(refused(409, "Conflict", "another uid"));
        }
        let mut new = old.clone();
        new["status"] = body["status"].clone();
        self.update(key, &old, new, false)
    }

    pub fn merge(&mut self, key: Key, patch: &Value) -> Answer {
        let old = self.must(&key)?;
        let version = &patch["metadata"]["resourceVersion"];
        if version.is_string() && *version != old["metadata"]["resourceVersion"] {
            return Err(refused(409, "Conflict", "the object has been modified"));
        }
        let wanted = patch["metadata"]["uid"].as_str();
        if wanted.is_some_and(|wanted| wanted != uid(&old)) {
            return Err(refused(409, "Conflict", "another uid"));
        }
        let mut new = old.clone();
        apply::merge_patch(&mut new, patch);
        if patch["metadata"]["managedFields"].is_array()
            && let Some(posted) = self.posted.remove(&key)
        {
            self.applied.entry(key.clone()).or_insert(posted);
        }
        self.update(key, &old, new, true)
    }

    pub fn apply(&mut self, what: What, object: &Value, dry: bool) -> Answer {
        let key = key(what, object);
        let wanted = object["metadata"]["uid"].as_str();
        let old = match self.objects.get(&key) {
            Some(old) => old.clone(),
            None if wanted.is_some() => {
                return Err(refused(409, "Conflict", "uid mismatch: no such object"));
            }
            None => return self.create(what, object.clone()),
        };
        if wanted.is_some_and(|wanted| wanted != uid(&old)) {
            return Err(refused(409, "Conflict", "uid mismatch"));
        }
        let mut new = old.clone();
        let before = self.applied.get(&key).cloned().unwrap_or(Value::Null);
        let kept = self.posted.get(&key).unwrap_or(&Value::Null);
        apply::apply(&mut new, &before, kept, object);
        for field in ["selector", "serviceName", "podManagementPolicy"] {
            if what == What::StatefulSet && old["spec"][field] != new["spec"][field] {
                return Err(refused(422, "Invalid", format!("{field} cannot be changed")));
            }
        }
        if dry {
            return Ok(new);
        }
        self.applied.insert(key.clone(), object.clone());
        if let Some(list) = new["metadata"]["managedFields"].as_array_mut()
            && !list.iter().any(|entry| entry["operation"] == "Apply")
        {
            list.push(json!({"manager": "millrace", "operation": "Apply"}));
        }
        self.update(key, &old, new, true)
    }

    /// A controller's or a user's own change.
    pub fn edit(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        if let Ok(old) = self.must(key) {
            let mut new = old.clone();
            change(&mut new);
            let _ = self.update(key.clone(), &old, new, true);
        }
    }

    pub fn delete(&mut self, key: &Key, uid_wanted: Option<&str>, grace: Option<i64>) -> Answer {
        let old = self.must(key)?;
        if uid_wanted.is_some_and(|wanted| wanted != uid(&old)) {
            return Err(refused(409, "Conflict", "the precondition on the uid is not met"));
        }
        let finalized = old["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        let runs = key.0 == What::Pod && old["spec"]["nodeName"].is_string() && grace != Some(0);
        if !finalized && !runs {
            self.erase(key);
            return Ok(old);
        }
        if deleting(&old) {
            return Ok(old);
        }
        let mut new = old.clone();
        let grace = if key.0 == What::Pod { 60 } else { 0 };
        new["metadata"]["deletionTimestamp"] = json!(time(self.now + grace * 1_000));
        new["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        Ok(self.store(key.clone(), new))
    }

    /// Without any of the manners of `delete`.
    pub fn remove(&mut self, key: &Key) {
        self.erase(key);
    }
}
