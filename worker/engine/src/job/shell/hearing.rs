//! What comes in from workers, their links and people, as events of the coordinator.

use super::Shell;
use crate::coordinator::{Event, Failure, Proposal, Verdict, WorkerId};
use crate::job::crew::Heard;
use crate::job::handle::{Answer, Msg, lock};
use crate::job::order::Word;
use millrace_protocol::config::Live;
use std::sync::mpsc::RecvTimeoutError;

impl Shell {
    /// The next event, or `None` for a message that was no event.
    pub(super) fn wait(&mut self) -> Option<Event> {
        let message = match self.timer {
            Some(at) => {
                let left = at.saturating_sub(self.begun.elapsed());
                match self.inbox.recv_timeout(left) {
                    Ok(message) => message,
                    Err(RecvTimeoutError::Timeout) => {
                        self.timer = None;
                        return Some(Event::Tick);
                    }
                    // `self.tell` keeps it connected.
                    Err(RecvTimeoutError::Disconnected) => return Some(Event::Cancel),
                }
            }
            None => self.inbox.recv().ok()?,
        };
        match message {
            Msg::Event(event) => Some(event),
            Msg::Word(ordinal, process, word) => self.hear(ordinal, &process, word),
            Msg::Joined(member) => {
                let (ordinal, process) = (member.peer.ordinal, member.peer.process.clone());
                // One with a watch is in this process.
                if member.watch.is_none() {
                    let slots = member.slots;
                    tracing::info!(worker = ordinal, process, slots, "a worker is there");
                }
                let slots = member.slots;
                let replaced = lock(&self.shared).crew.join(member);
                if let Some(replaced) = replaced
                    && let Some(joined) = self.gone(ordinal, &replaced.peer.process)
                {
                    let _ = self.tell.send(Msg::Event(joined));
                }
                // It takes the place of the one before.
                Some(Event::WorkerJoined { worker: WorkerId { ordinal, process }, slots })
            }
            Msg::Lost(ordinal, process, cause) => {
                tracing::warn!(worker = ordinal, process, cause, "a worker is lost");
                let attempt = lock(&self.shared).crew.runs(ordinal, &process);
                if let Some(attempt) = attempt {
                    let cause = format!("worker {ordinal} is lost: {cause}");
                    let failure = Failure { operator: None, subtask: None, cause };
                    self.note_failure(Some(attempt), Some(ordinal), &failure);
                }
                lock(&self.shared).crew.lose(ordinal, &process)?;
                if let Some(joined) = self.gone(ordinal, &process) {
                    let _ = self.tell.send(Msg::Event(joined));
                }
                Some(Event::WorkerLost { worker: WorkerId { ordinal, process }, cause })
            }
            Msg::Look(look) => {
                look(self.coordinator.status());
                None
            }
            Msg::Propose(live, overrides, answer) => self.propose(&live, overrides, answer),
        }
    }

    /// A process is gone: whether the attempt that is being stopped has nobody left.
    fn gone(&self, ordinal: u16, process: &str) -> Option<Event> {
        let attempt = lock(&self.shared).crew.gone(ordinal, process)?;
        Some(Event::SlotsJoined { attempt })
    }

    fn propose(&mut self, live: &Live, overrides: bool, answer: Answer) -> Option<Event> {
        let max = self.options.max_parallelism;
        let made = match &self.proposed {
            Some(proposed) => proposed.proposal(live, &self.graph, max),
            None => Err("this job was started with a command line, which counts".to_owned()),
        };
        match made {
            Ok(proposal) => {
                self.answers.push((live.generation, answer));
                let proposal = Box::new(Proposal { overrides, ..proposal });
                Some(Event::Propose { proposal })
            }
            Err(why) => {
                answer(Verdict::Invalid(why));
                None
            }
        }
    }

    /// What a worker's process has said.
    fn hear(&mut self, ordinal: u16, process: &str, word: Word) -> Option<Event> {
        match word {
            Word::Acknowledge { attempt, checkpoint, snapshot } => {
                return Some(Event::Acknowledge { attempt, checkpoint, snapshot });
            }
            Word::Declined { attempt, checkpoint, slot, reason, prepared } => {
                return Some(Event::Declined { attempt, checkpoint, slot, reason, prepared });
            }
            _ => {}
        }
        let mut shared = lock(&self.shared);
        if shared.crew.members().all(|m| m.peer.ordinal != ordinal || m.peer.process != process) {
            return None;
        }
        match shared.crew.hear(ordinal, word) {
            Heard::Nothing => None,
            Heard::Deployed(attempt) => {
                shared.status.running = true;
                // It was read. From now on later checkpoints may delete its files.
                self.base = None;
                let head = self.coordinator.head();
                shared.status.generation = head.map(|head| head.config.generation);
                Some(Event::TasksDeployed { attempt })
            }
            Heard::InputEnded(attempt) => Some(Event::InputEnded { attempt }),
            Heard::Joined(attempt) => Some(Event::SlotsJoined { attempt }),
            Heard::CheckpointWanted => Some(Event::RequestCheckpoint),
            Heard::Failed(attempt, failure) => Some(Event::TaskFailed { attempt, failure }),
            Heard::Refused(attempt, why) => {
                drop(shared);
                let event = self.refused(attempt, why);
                if let Event::TaskRefused { failure, .. } = &event {
                    self.note_failure(Some(attempt), Some(ordinal), failure);
                }
                Some(event)
            }
        }
    }
}
