//! Events: what people read in `kubectl describe`.
//!
//! What is told again within some minutes is counted where it stands. What is told with
//! other words is an event of its own, for the words of one that stands cannot be changed;
//! up to a number, so that a job that fails in ever new words fills nobody's store.

use crate::plan::Event;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

/// What was not told for so long is news, in milliseconds.
const WHILE: i64 = 6 * 60_000;
/// So many events of one job and reason within that time.
const MOST: usize = 10;
/// Longest text that the API server takes, and some room.
const LONGEST: usize = 1_000;

/// Writes events.
pub(crate) struct Recorder {
    client: Client,
    instance: String,
    known: Mutex<Known>,
}

/// What was told lately: by uid of the job and reason, oldest first.
#[derive(Default)]
struct Known(BTreeMap<(String, &'static str), Vec<Told>>);

#[derive(Debug, Clone)]
struct Told {
    note: u64,
    name: String,
    count: i32,
    at: i64,
}

/// How something is told.
#[derive(Debug, PartialEq)]
enum Way {
    /// For the first time, by this name.
    New(String),
    /// By an event that is there, so often now.
    Again(String, i32),
}

impl Known {
    fn tell(&mut self, job: &str, uid: &str, event: &Event, now: i64) -> Way {
        self.0.retain(|_, told| {
            told.retain(|told| told.at + WHILE > now);
            !told.is_empty()
        });
        let mut hasher = DefaultHasher::new();
        event.message.hash(&mut hasher);
        let note = hasher.finish();
        let told = self.0.entry((uid.to_owned(), event.reason)).or_default();
        let full = told.len() >= MOST;
        let known = told.iter().position(|told| told.note == note);
        if let Some(at) = known.or(full.then(|| told.len() - 1)) {
            let again = &mut told[at];
            (again.count, again.at) = (again.count.saturating_add(1), now);
            return Way::Again(again.name.clone(), again.count);
        }
        let name = format!("{job}.{:016x}", fastrand::u64(..));
        told.push(Told { note, name: name.clone(), count: 1, at: now });
        Way::New(name)
    }

    /// It could not be written: next time it is news.
    fn forget(&mut self, uid: &str, reason: &'static str, name: &str) {
        if let Some(told) = self.0.get_mut(&(uid.to_owned(), reason)) {
            told.retain(|told| told.name != name);
        }
    }
}

impl Recorder {
    /// In the name of this process.
    pub fn new(client: Client, instance: String) -> Self {
        Self { client, instance, known: Mutex::default() }
    }

    /// Tells it of an object.
    pub async fn publish(&self, event: &Event, of: ObjectReference) -> kube::Result<()> {
        let now = Timestamp::now();
        let namespace = of.namespace.clone().unwrap_or_default();
        let uid = of.uid.clone().unwrap_or_default();
        let way = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.tell(of.name.as_deref().unwrap_or_default(), &uid, event, now.as_millisecond())
        };
        let events: Api<api::Event> = Api::namespaced(self.client.clone(), &namespace);
        let (name, written) = match way {
            Way::New(name) => {
                let made = self.object(event, of, name.clone(), now);
                (name, events.create(&PostParams::default(), &made).await.map(drop))
            }
            Way::Again(name, count) => {
                let series =
                    json!({"series": {"count": count, "lastObservedTime": MicroTime(now)}});
                let patched =
                    events.patch(&name, &PatchParams::default(), &Patch::Merge(&series)).await;
                (name, patched.map(drop))
            }
        };
        if written.is_err() {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.forget(&uid, event.reason, &name);
        }
        written
    }

    fn object(
        &self,
        event: &Event,
        of: ObjectReference,
        name: String,
        now: Timestamp,
    ) -> api::Event {
        api::Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: of.namespace.clone(),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            action: Some(event.reason.to_owned()),
            reason: Some(event.reason.to_owned()),
            note: Some(event.message.chars().take(LONGEST).collect()),
            regarding: Some(of),
            reporting_controller: Some("millrace".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
            ..api::Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reason: &'static str, message: &str) -> Event {
        Event { warning: false, reason, message: message.to_owned(), standing: None }
    }

    fn new(known: &mut Known, event: &Event, now: i64) -> String {
        match known.tell("orders", "u", event, now) {
            Way::New(name) => name,
            again => panic!("{again:?}"),
        }
    }

    #[test]
    fn other_words_are_another_event_and_the_same_ones_are_counted() {
        let known = &mut Known::default();
        let (short, long) = (event("Resumed", "Gap 3 ms"), event("Resumed", "Gap 9 ms"));
        let first = new(known, &short, 0);
        let second = new(known, &long, 1);
        assert_ne!(first, second);
        assert_eq!(known.tell("orders", "u", &short, 2), Way::Again(first.clone(), 2));
        assert_eq!(known.tell("orders", "u", &long, 3), Way::Again(second, 2));
        // Another job, another reason, and what is long ago.
        assert!(matches!(known.tell("orders", "v", &short, 4), Way::New(_)));
        new(known, &event("Restarting", "Gap 3 ms"), 5);
        assert_ne!(new(known, &short, 2 + WHILE), first);
    }

    #[test]
    fn ever_new_words_are_not_written_for_ever() {
        let known = &mut Known::default();
        let names: Vec<String> = (0..MOST as i64)
            .map(|n| new(known, &event("Restarting", &format!("failure {n}")), n))
            .collect();
        for n in 0..3 {
            let way = known.tell("orders", "u", &event("Restarting", &format!("another {n}")), 99);
            assert_eq!(way, Way::Again(names[MOST - 1].clone(), 2 + n));
        }
        // Those that were not repeated make room.
        new(known, &event("Restarting", "much later"), WHILE + MOST as i64);
    }

    #[test]
    fn what_could_not_be_written_is_news_again() {
        let known = &mut Known::default();
        let told = event("Resumed", "Gap 3 ms");
        let name = new(known, &told, 0);
        known.forget("u", "Resumed", &name);
        assert_ne!(new(known, &told, 1), name);
    }
}
