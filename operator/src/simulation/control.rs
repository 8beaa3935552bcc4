//! The control API of the simulated jobs.

use super::job::Lead;
use super::world::{Shared, World};
use crate::shell::coordinator::{Control, Failure, HOLD_MS};
use futures::future::{BoxFuture, ready};
use millrace_protocol::config::Live;
use millrace_protocol::control::{self, SavepointState, State};

/// The way to the coordinator at an address.
pub struct Way {
    pub world: Shared,
    pub ip: String,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.rest();
    }
}

impl Way {
    fn ask<T>(
        &self,
        acts: bool,
        what: impl FnOnce(&mut World, &str) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut world = self.world.lock().unwrap();
        world.step_of_operator(acts)?;
        let leads = !world.overslept;
        world.promise(leads || !acts, || {
            "a coordinator is told something without the lead".to_owned()
        });
        world.asks += 1;
        let now = world.server.now;
        world.open.insert(self.ip.clone(), now);
        let reached = world.pods.iter().find(|(_, pod)| pod.ip == self.ip && pod.process.is_some());
        let Some(uid) = reached.map(|(uid, _)| uid.clone()) else {
            return Err("connection refused".to_owned());
        };
        let often = world.faults.control;
        if world.chance(often) {
            if world.rng.bool() {
                let _ = what(&mut world, &uid);
            }
            return Err("timeout".to_owned());
        }
        what(&mut world, &uid)
    }
}

impl World {
    fn status_of(&self, uid: &str) -> control::Status {
        let pod = &self.pods[uid];
        let process = pod.process.as_ref().unwrap();
        let state = match process.lead {
            Lead::Reading(_) => State::Starting,
            Lead::Waiting | Lead::Restoring(_) => State::WaitingForWorkers,
            Lead::Running => State::Running,
            Lead::Stopping(_) => State::Stopping,
            Lead::Held => State::Held,
            Lead::Ended(end) => end,
        };
        let mut status = control::Status {
            state: state.into(),
            job: pod.job.clone(),
            reason: process.reason.to_owned(),
            message: process.message.to_owned(),
            accepted_revision: process.config_hash.clone(),
            incarnation: 1,
            ..control::Status::default()
        };
        let Some(chain) = self.store.chains.get(&pod.job) else { return status };
        status.head_version = chain.version;
        status.attempt = chain.attempt;
        status.accepted_generation = chain.config.generation;
        status.restarts = chain.restarts;
        status.restore_nonce = chain.restore_nonce;
        status.workers_wanted = u32::from(chain.config.workers);
        let running = state == State::Running;
        if running {
            status.running_generation = process.generation;
            status.parallelism = u32::from(chain.config.parallelism);
        }
        if chain.latest > 0 {
            status.last_checkpoint = Some(control::CheckpointStatus {
                id: chain.latest,
                completed_at_ms: chain.latest_at,
                ..Default::default()
            });
        }
        status.workers = self
            .pods
            .values()
            .filter(|other| other.job == pod.job && other.component == "worker")
            .filter(|other| other.process.is_some() && other.ends.is_none())
            .map(|other| control::Worker {
                ordinal: other.ordinal,
                connected: true,
                slots: 1,
                slots_in_use: if running && other.ordinal < u32::from(chain.config.workers) {
                    vec![0]
                } else {
                    Vec::new()
                },
                ..Default::default()
            })
            .collect();
        let told = process.savepoints.iter().map(|(id, (state, path))| control::Savepoint {
            id: id.clone(),
            path: path.clone(),
            state: (*state).into(),
            attempt: chain.attempt,
            ..Default::default()
        });
        let waiting = process.wanted.iter().map(|(id, _)| control::Savepoint {
            id: id.clone(),
            state: SavepointState::Waiting.into(),
            ..Default::default()
        });
        status.savepoints = told.chain(waiting).collect();
        status
    }
}

impl Control for Way {
    fn status(&mut self) -> BoxFuture<'_, Result<control::Status, Failure>> {
        Box::pin(ready(self.ask(false, |world, uid| Ok(world.status_of(uid)))))
    }

    fn propose(&mut self, live: Vec<u8>, force: bool) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(ready(self.ask(true, |world, uid| {
            let live = Live::decode("live", &live).unwrap();
            world.note(format!("propose generation {} force {force}", live.generation));
            let process = world.pods.get_mut(uid).unwrap().process.as_mut().unwrap();
            let newer =
                process.proposal.as_ref().is_none_or(|(p, _)| p.generation < live.generation);
            if live.revision == process.config_hash && (newer || force) {
                process.proposal = Some((live, force));
            }
            Ok(())
        })))
    }

    fn hold(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(ready(self.ask(true, |world, uid| {
            let until = world.server.now + i64::try_from(HOLD_MS).unwrap();
            world.note("hold".to_owned());
            let process = world.pods.get_mut(uid).unwrap().process.as_mut().unwrap();
            process.hold = Some(until);
            Ok(())
        })))
    }

    fn release(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(ready(self.ask(true, |world, uid| {
            world.note("release".to_owned());
            let process = world.pods.get_mut(uid).unwrap().process.as_mut().unwrap();
            process.hold = None;
            if process.lead == Lead::Held {
                process.lead = Lead::Waiting;
            }
            Ok(())
        })))
    }

    fn want(&mut self, wanted: Vec<(String, String)>) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(ready(self.ask(true, |world, uid| {
            let process = world.pods.get_mut(uid).unwrap().process.as_mut().unwrap();
            for (id, target) in wanted {
                let known = process.savepoints.contains_key(&id)
                    || process.wanted.iter().any(|(known, _)| *known == id);
                if !known {
                    process.wanted.push((id, target));
                }
            }
            Ok(())
        })))
    }

    fn rest(&mut self) {
        if let Ok(mut world) = self.world.lock() {
            world.open.remove(&self.ip);
        }
    }
}
