//! The committed revision is the right one: workers, parallelism, live settings, suspend.

use super::target::waits_for_its_own;
use super::{Action, Draft, Target, Verdict};
use crate::observed::{Coordinator, Kind, Set};
use crate::reasons::Reason;
use millrace_crds::names;
use millrace_protocol::config::Live;
use millrace_protocol::control::{self, State};

impl Draft<'_> {
    pub(super) fn scale(&mut self, target: &Target, set: &Set) -> Verdict {
        if self.o.state() == Some(State::Finished) && !self.nonce_grew(set) {
            self.set_complete(true);
            self.replicas(set, 0);
            return self.finished(target);
        }
        if self.complete() {
            self.replicas(set, 0);
            return self.finished(target);
        }
        self.set_complete(false);
        if target.suspended { self.suspend(target, set) } else { self.run(target, set) }
    }

    /// Another job has its state, for ever: there is nothing that an edit could change.
    pub(super) fn taken_over(&mut self, set: &Set) -> Option<Verdict> {
        let answered = self.o.answer().filter(|answer| answer.state() == State::Superseded);
        let told = answered
            .map(|answer| answer.message.clone())
            .or_else(|| {
                let ended = super::pods::ended_by_user_error(self.o);
                ended.filter(|(reason, _)| *reason == Reason::TakenOver).map(|(_, told)| told)
            })
            // It is for ever, and nobody is left to say so again.
            .or_else(|| self.stalled_by(Reason::TakenOver))?;
        self.replicas(set, 0);
        Some(Verdict::stalled(Reason::TakenOver, &told))
    }

    /// At its end; an edit that was refused is told of still.
    fn finished(&self, target: &Target) -> Verdict {
        match self.refused(target) {
            Some(refused) => Verdict { state: "Finished", ..refused },
            None => Verdict::ready("Finished", Reason::Finished),
        }
    }

    fn suspend(&mut self, target: &Target, set: &Set) -> Verdict {
        let refused = self.refused(target);
        if set.replicas == 0 {
            self.apply_live(target);
            if self.o.workers().next().is_some() {
                self.look_again(2_000);
                return Verdict::new("Suspending", Reason::Suspending, "");
            }
            return refused.unwrap_or_else(|| Verdict::ready("Suspended", Reason::Suspended));
        }
        self.look_again(1_000);
        if self.o.state() == Some(State::Suspended) || self.none_runs() {
            self.apply_live(target);
            self.replicas(set, 0);
        } else {
            self.propose(target);
        }
        Verdict::new("Suspending", Reason::Suspending, "")
    }

    fn run(&mut self, target: &Target, set: &Set) -> Verdict {
        let wanted = target.workers;
        if set.replicas == 0 {
            self.apply_live(target);
            self.replicas(set, wanted);
            self.look_again(1_000);
            return Verdict::new("Starting", Reason::Starting, "");
        }
        if set.replicas < wanted {
            self.replicas(set, wanted);
        }
        let running = self.o.answer().filter(|answer| answer.state() == State::Running).cloned();
        let Some(answer) = running else { return self.not_running(target, set) };
        self.settle(set);
        let here = connected(&answer, wanted);
        let fits =
            answer.workers_wanted == wanted && Some(answer.parallelism) == parallelism(target);
        let generation = self.generation();
        let growing = answer.workers_wanted < wanted;
        if growing && here < wanted {
            self.look_again(1_000);
            let refused = self.refused(target);
            let problem = self.pods_problem(wanted.max(set.replicas)).map(|mut problem| {
                problem.state = "Rescaling";
                problem
            });
            let what = format!("{here} of {wanted} workers are there.");
            return refused
                .or(problem)
                .unwrap_or_else(|| Verdict::new("Rescaling", Reason::WaitingForWorkers, &what));
        }
        if answer.accepted_generation != generation || self.live_differs(target) {
            self.propose(target);
        }
        if answer.accepted_generation < generation || !fits {
            self.look_again(1_000);
            let (state, reason) = match fits {
                true => ("Running", Reason::Applying),
                false => ("Rescaling", Reason::Rescaling),
            };
            return self.refused(target).unwrap_or_else(|| Verdict::new(state, reason, ""));
        }
        if answer.accepted_generation > generation {
            return Verdict::new("Running", Reason::Applying, "");
        }
        // The attempt runs below the cut: the rest may go, highest ordinals first.
        let least = in_use(&answer).max(wanted);
        if set.replicas > least {
            self.replicas(set, least);
        }
        if self.o.workers().any(|pod| pod.ordinal.is_some_and(|ordinal| ordinal >= wanted)) {
            self.look_again(2_000);
        }
        self.refused(target).unwrap_or_else(|| Verdict::ready("Running", Reason::Running))
    }

    fn generation(&self) -> u64 {
        u64::try_from(self.o.job.generation).unwrap_or(0)
    }

    fn not_running(&mut self, target: &Target, set: &Set) -> Verdict {
        self.look_again(2_000);
        let first = self.o.job.status.attempt.is_none();
        let (state, reason) =
            if first { ("Starting", Reason::Starting) } else { ("Restarting", Reason::Restarting) };
        let problem = self.pods_problem(set.replicas.min(target.workers));
        let verdict = match &self.o.coordinator {
            Coordinator::Answered(answer) => {
                let answer = answer.clone();
                self.propose(target);
                self.answered(&answer, Verdict::new(state, reason, &answer.message), problem)
            }
            Coordinator::Unreachable { since, why } => {
                self.apply_live(target);
                let ready = self.o.worker(0).is_some_and(|pod| pod.ready);
                match problem {
                    Some(problem) => problem,
                    None if ready && self.now - since > 30_000 => {
                        Verdict::new("Unknown", Reason::CoordinatorUnreachable, &unreachable(why))
                    }
                    None if ready => self.as_before(state, reason),
                    None => Verdict::new(state, reason, ""),
                }
            }
            Coordinator::Absent => {
                self.apply_live(target);
                problem.unwrap_or_else(|| Verdict::new(state, reason, &self.crash_words()))
            }
        };
        let kept = self.keep_failed(target, set);
        self.refused(target).or(kept).unwrap_or(verdict)
    }

    fn answered(
        &mut self,
        answer: &control::Status,
        or: Verdict,
        problem: Option<Verdict>,
    ) -> Verdict {
        let told = format!("{} {}", answer.message, answer.remedy).trim().to_owned();
        match answer.state() {
            State::Failed => {
                let told = format!("{told} {}", self.way_back()).trim().to_owned();
                Verdict { state: "Failed", ..Verdict::stalled(Reason::RestartsExhausted, &told) }
            }
            State::Refused if waits_for_its_own(answer) => or,
            State::Refused => Verdict::stalled(super::pods::reason(&answer.reason), &told),
            // Not by us: an edit that suspends is of an earlier generation.
            State::Suspended if answer.accepted_generation >= self.generation() => {
                let what = "The job was stopped over its control API; an edit or a higher \
                            spec.restartNonce starts it.";
                Verdict::new("Suspended", Reason::Suspended, what)
            }
            State::Suspended | State::Held => or,
            _ => problem.unwrap_or_else(|| self.failing_again(answer, or)),
        }
    }

    /// The edit was tried and refused; what runs is the revision before it.
    fn refused(&self, target: &Target) -> Option<Verdict> {
        let known = self.status.revision.as_ref()?;
        if known.failed != target.desired {
            return None;
        }
        let reason = self.upgrade_reason().unwrap_or(Reason::CheckFailed);
        let mut verdict = Verdict::refused(reason, "");
        verdict.what = reason.untell(&self.upgrade_message());
        if target.suspended {
            verdict.state = "Suspended";
        }
        Some(verdict)
    }

    /// An upgrade that is not to be rolled back, or cannot be.
    fn keep_failed(&mut self, target: &Target, set: &Set) -> Option<Verdict> {
        let known = self.status.revision.clone().unwrap_or_default();
        let upgrading = !known.current.is_empty() && known.current != set.revision;
        if !upgrading || target.back {
            return None;
        }
        if self.overdue(set) {
            let pods = super::pods::ended_by_user_error(self.o).map(|(_, message)| message);
            let mut verdict = Verdict::stalled(Reason::UpgradeFailed, &pods.unwrap_or_default());
            verdict.state = "Upgrading";
            return Some(verdict);
        }
        None
    }

    /// A single unanswered call is no news.
    fn as_before(&self, state: &'static str, reason: Reason) -> Verdict {
        let current = self.o.job.status.observed_generation == Some(self.o.job.generation);
        match self.status_of("Ready") {
            Some("True") if current => Verdict::ready("Running", Reason::Running),
            _ => Verdict::new(state, reason, ""),
        }
    }

    fn crash_words(&self) -> String {
        let newest = self.o.workers().filter_map(super::pods::end).max_by_key(|end| end.at);
        newest.map(|end| super::pods::told(&end.message).0).unwrap_or_default()
    }

    /// The first revision is the current one as soon as it runs, also where it is to be
    /// replaced or deleted at once: there is data from here on, and something to go back to.
    pub(super) fn first_run(&mut self) {
        if let Some(set) = &self.o.set
            && self.o.state() == Some(State::Running)
            && self.status.revision.as_ref().is_none_or(|known| known.current.is_empty())
        {
            self.remember(|revision| revision.current.clone_from(&set.revision));
        }
    }

    /// A revision that runs becomes the current one at its first complete checkpoint.
    fn settle(&mut self, set: &Set) {
        let known = self.status.revision.clone().unwrap_or_default();
        if known.current == set.revision {
            return;
        }
        if !super::target::healthy(self.o, set) {
            self.look_again(2_000);
            return;
        }
        self.remember(|revision| {
            revision.previous = std::mem::take(&mut revision.current);
            revision.current.clone_from(&set.revision);
        });
        self.upgrade_condition("True", Reason::Upgraded, "");
        self.event(
            false,
            Reason::Upgraded,
            &format!("Revision {} completed its first checkpoint.", set.revision),
        );
    }

    /// Tells the coordinator and writes the file, if either says something else.
    fn propose(&mut self, target: &Target) {
        self.apply_live(target);
        let (Some(answer), Some(live)) = (self.o.answer().cloned(), &target.live) else { return };
        let generation = live.generation;
        if answer.accepted_generation > generation {
            // The cluster's own store went back in time; make sure before overruling.
            if self.o.job.quorum {
                self.event(true, Reason::GenerationReset, "");
                self.act(Action::Propose { live: live.clone(), force: true });
            } else {
                self.act(Action::QuorumGet);
            }
            self.look_again(1_000);
        } else if answer.accepted_generation < generation {
            self.act(Action::Propose { live: live.clone(), force: false });
        }
    }

    fn live_differs(&self, target: &Target) -> bool {
        let key = (Kind::ConfigMap, names::live(&self.o.job.id.name));
        self.o.children.get(&key).is_some_and(|child| {
            let text = child.body["data"]["live.json"].as_str();
            // What cannot be read is not what should be there either.
            text.and_then(|text| Live::decode("live", text.as_bytes()).ok()) != target.live
        })
    }

    fn replicas(&mut self, set: &Set, replicas: u32) {
        let mut commit = set.commit;
        if set.replicas == 0 {
            // The time it has to get healthy in begins when it is asked to run.
            commit.at_ms = self.now;
        }
        if set.replicas != replicas
            && let Ok(object) = self.set(&set.revision, replicas, commit)
        {
            self.act(Action::Apply { uid: set.uid.clone(), object });
        }
    }

    fn nonce_grew(&self, set: &Set) -> bool {
        let stored = self.o.revisions.get(&set.revision).map(|revision| revision.nonce);
        let wanted = self.o.job.spec.restore_from.as_ref().map(|from| from.nonce);
        let done = self.o.job.status.restore_nonce.unwrap_or(0);
        stored.is_some_and(|stored| stored != self.o.job.spec.restart_nonce.unwrap_or(0))
            || wanted.is_some_and(|nonce| nonce > done)
    }
}

fn parallelism(target: &Target) -> Option<u32> {
    target.live.as_ref().map(|live| u32::from(live.parallelism))
}

/// Workers below the cut that are connected.
fn connected(answer: &control::Status, below: u32) -> u32 {
    let here = answer.workers.iter().filter(|w| w.connected && w.ordinal < below).count();
    u32::try_from(here).unwrap_or(u32::MAX)
}

/// One more than the highest ordinal whose slots the attempt uses.
fn in_use(answer: &control::Status) -> u32 {
    let used = answer.workers.iter().filter(|worker| !worker.slots_in_use.is_empty());
    used.map(|worker| worker.ordinal + 1).max().unwrap_or(0)
}

fn unreachable(why: &str) -> String {
    format!("Pod 0 is ready, and port {} does not answer ({why}).", names::PORT_CONTROL)
}
