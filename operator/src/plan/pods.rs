//! What pods say, and which of them are freed (P7).

use super::action::Why;
use super::upgrade::delete;
use super::{Action, Draft, Verdict};
use crate::observed::{Container, End, Lack, Millis, Observed, Pod};
use crate::reasons::Reason;
use serde::Deserialize;

/// Last words of a process.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LastWords {
    code: String,
    message: String,
    remedy: String,
}

/// Message and remedy of a termination message.
pub(super) fn told(text: &str) -> (String, String) {
    match serde_json::from_str::<LastWords>(text) {
        Ok(words) => (words.message, words.remedy),
        Err(_) => (text.chars().take(1_000).collect(), String::new()),
    }
}

/// How a pod's container ended, now or the last time.
pub(super) fn end(pod: &Pod) -> Option<&End> {
    match &pod.container {
        Container::Ended(end) => Some(end),
        _ => pod.last_end.as_ref(),
    }
}

/// It says that it could not use the place of the job's data.
pub(super) fn blames_storage(end: &End) -> bool {
    let words: LastWords = serde_json::from_str(&end.message).unwrap_or_default();
    words.code == "StorageUnusable"
}

/// A process that ended with 2 wants an edit.
pub(super) fn ended_by_user_error(o: &Observed) -> Option<(Reason, String)> {
    let set = o.set.as_ref();
    let replaced = |pod: &&Pod| set.is_some_and(|set| pod.revision != set.revision);
    o.workers().filter(|pod| !replaced(pod)).find_map(|pod| {
        let end = end(pod).filter(|end| end.code == 2)?;
        let words: LastWords = serde_json::from_str(&end.message).unwrap_or_default();
        let reason = reason(&words.code);
        // The kubelet tries it again and again: that is news when it comes to something else.
        if pod.container == Container::Running && shown(o) != Some(reason.name()) {
            return None;
        }
        let (message, remedy) = told(&end.message);
        let mut told = format!("{message} {remedy}").trim().to_owned();
        if let Some(secret) = secret(o).filter(|_| reason == Reason::StorageUnusable) {
            let stop = if told.ends_with('.') { " " } else { ". " };
            told.extend([stop, &secret]);
        }
        Some((reason, told))
    })
}

/// Where the object store's credentials are from: the process knows them as files only.
fn secret(o: &Observed) -> Option<String> {
    let credentials = o.job.spec.storage.s3.as_ref()?.credentials.as_ref()?;
    Some(format!("The credentials are those of the Secret {}.", credentials.secret_ref.name))
}

/// Why the job is not ready, as it was written last.
fn shown(o: &Observed) -> Option<&str> {
    let conditions = &o.job.status.conditions;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some(&ready.reason)
}

/// What a program says of itself, if that is a reason for someone to act.
pub(super) fn reason(told: &str) -> Reason {
    let known = Reason::parse(told).filter(|reason| reason.entry().stalled);
    known.unwrap_or(Reason::InvalidProgram)
}

/// Why a container waits that will not start by itself.
pub(super) const PULL: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// Pods that are missing for so long are asked after, and again.
const LACK_MS: Millis = 10_000;
/// Clocks differ, and events have whole seconds.
const SKEW_MS: Millis = 15_000;
/// A StatefulSet that cannot make a pod tries again after this at the latest.
const LONGEST_RETRY_MS: Millis = 1_020_000;

impl Draft<'_> {
    /// Why there are not as many workers as there should be.
    pub(super) fn pods_problem(&mut self, wanted: u32) -> Option<Verdict> {
        if let Some((reason, message)) = ended_by_user_error(self.o) {
            return Some(Verdict::stalled(reason, &message));
        }
        for pod in self.o.workers() {
            if let Container::Waiting { reason, message } = &pod.container
                && PULL.contains(&reason.as_str())
            {
                let what = format!("{}: {reason}: {message}", pod.name);
                let mut verdict = Verdict::pending(Reason::ImagePullFailed, &what);
                verdict.stalled = self.now - pod.created > 120_000;
                self.look_again(10_000);
                return Some(verdict);
            }
        }
        if let Some(why) = self.o.workers().find_map(|pod| pod.unschedulable.as_ref()) {
            return Some(Verdict::pending(
                Reason::PodsPending,
                &format!("Pods cannot be scheduled: {why}"),
            ));
        }
        let there = u32::try_from(self.o.workers().count()).unwrap_or(u32::MAX);
        if there < wanted { self.missing_pods() } else { None }
    }

    /// What the cluster has against them, if anything: they are only on their way at first.
    fn missing_pods(&mut self) -> Option<Verdict> {
        self.look_again(5_000);
        let lack = self.o.memory.lack.unwrap_or(Lack { since: self.now, before: false });
        let looked = self.o.memory.looked_at_events;
        if self.now - lack.since > LACK_MS && looked.is_none_or(|at| self.now - at > LACK_MS) {
            self.act(Action::LookAtSetEvents);
        }
        let shown = self.reconciling_words(Reason::PodsForbidden);
        // What was so when other pods were missing may be so no longer.
        let from = lack.since - if lack.before { LONGEST_RETRY_MS } else { SKEW_MS };
        let event = self.o.forbidden.as_ref().filter(|event| shown.is_some() || event.at >= from);
        let what = match event {
            Some(event) => format!("The cluster refuses to make pods: {}", event.why),
            // Said by an earlier process, and not looked at anew so far.
            None => shown.filter(|_| looked.is_none())?,
        };
        let mut verdict = Verdict::pending(Reason::PodsForbidden, &what);
        let waited = self.reconciling_since(Reason::PodsForbidden);
        verdict.stalled = waited > self.upgrade_timeout();
        Some(verdict)
    }

    /// Rows 8, 40-42.
    pub(super) fn free_pods(&mut self) {
        for pod in self.o.workers() {
            if pod.failed.as_deref() == Some("Evicted") && pod.deleting.is_none() {
                let what = format!("{} was evicted.", pod.name);
                self.standing(Reason::PodEvicted, &what, &pod.uid);
            }
            let lost = self.lost(pod);
            if lost {
                let what = format!(
                    "{} on node {} was freed.",
                    pod.name,
                    pod.node.as_deref().unwrap_or("?")
                );
                self.event(true, Reason::FreedLostPod, &what);
                self.act(delete(pod, Why::LostNode));
                continue;
            }
            if let Some((since, grace)) = pod.deleting {
                let over = self.now - since > grace + 60_000;
                if over && self.node_ready(pod) == Some(true) {
                    let what = format!("{} does not end.", pod.name);
                    self.standing(Reason::PodStuck, &what, &pod.uid);
                }
                self.look_again(5_000);
                continue;
            }
            if self.crash_loops(pod) {
                self.event(true, Reason::FreedCrashedPod, &format!("{} was replaced.", pod.name));
                self.act(delete(pod, Why::CrashLoop));
            }
        }
    }

    fn crash_loops(&self, pod: &Pod) -> bool {
        let backing_off = matches!(&pod.container,
            Container::Waiting { reason, .. } if reason == "CrashLoopBackOff");
        let signal = end(pod).is_some_and(|end| end.code > 128 || end.reason == "OOMKilled");
        let ordinal = pod.ordinal.unwrap_or(0);
        let patient = self.o.memory.crash_deletes.get(&ordinal).is_none_or(|(last, times)| {
            self.now - last >= 60_000i64.saturating_mul(1 << (*times).min(10))
        });
        backing_off && signal && patient
    }

    fn node_ready(&self, pod: &Pod) -> Option<bool> {
        let node = self.o.nodes.get(pod.node.as_ref()?)?;
        Some(node.ready && !node.out_of_service)
    }

    /// Its node is lost, and so is the worker, both for long enough.
    fn lost(&self, pod: &Pod) -> bool {
        let timeout = i64::try_from(self.o.job.spec.lost_node_timeout_ms()).unwrap_or(i64::MAX);
        let ordinal = pod.ordinal.unwrap_or(0);
        let worker = match self.o.memory.worker_lost.get(&ordinal) {
            Some(since) => self.now - since >= timeout,
            None => false,
        };
        let Some(name) = &pod.node else { return false };
        let node = match (self.o.nodes.get(name), self.o.memory.node_gone.get(name)) {
            (Some(node), _) => {
                (!node.ready || node.out_of_service) && self.now - node.since >= timeout
            }
            (None, Some(gone)) => self.now - gone >= timeout,
            // Nodes are not ours to look at: only a deletion that its kubelet never
            // confirmed tells.
            (None, None) => {
                pod.deleting.is_some_and(|(since, grace)| self.now - since >= grace + 300_000)
            }
        };
        worker && node
    }
}
