//! Numbered configurations: what a [`Live`] part means for a program.

use crate::coordinator::{
    CheckpointPolicy, Config, Desired, Proposal, RestartPolicy, RestoreChoice,
};
use crate::graph::Graph;
use crate::job::program::describe;
use millrace_protocol::config::{
    CheckpointSettings, DesiredState, Live, RestartSettings, Revision,
};
use millrace_protocol::head::ConfigRef;
use millrace_protocol::keygroup::MaxParallelism;
use millrace_protocol::manifest::sha256_hex;
use std::sync::Arc;
use std::time::Duration;

/// The configuration with which a process that leads a job was started.
#[derive(Debug, Clone)]
pub struct Proposed {
    /// What needs new processes.
    pub revision: Revision,
    /// What is taken over in place.
    pub live: Live,
    /// Policies that a command line gave; they count instead of those of live parts.
    pub policies: Option<(CheckpointPolicy, RestartPolicy)>,
    /// Where state comes from is left to the command line.
    pub same_job: bool,
}

impl Proposed {
    /// What a live part proposes.
    pub fn proposal(
        &self,
        live: &Live,
        graph: &Graph,
        max: MaxParallelism,
    ) -> Result<Proposal, String> {
        let (parallelism, workers) = (live.parallelism, live.workers);
        if workers == 0 || parallelism == 0 {
            return Err("workers and parallelism must be at least 1".to_owned());
        }
        graph.check(parallelism, max)?;
        let slots = u32::from(self.revision.slots_per_worker) * u32::from(workers);
        let program = describe(graph, parallelism, max);
        if u32::from(program.slots()) > slots {
            return Err(format!(
                "{workers} workers of {} slots cannot run a parallelism of {}: raise workers, or \
                 lower parallelism",
                self.revision.slots_per_worker,
                program.slots()
            ));
        }
        let body = live.encode().map_err(|error| error.to_string())?;
        let (checkpoints, restart) = match &self.policies {
            Some(policies) => policies.clone(),
            None => (checkpoint_policy(&live.checkpoint), restart_policy(&live.restart)),
        };
        Ok(Proposal {
            config: ConfigRef {
                generation: live.generation,
                hash: sha256_hex(&body).chars().take(32).collect(),
                program: program.fingerprint.clone(),
            },
            body: Arc::from(body),
            program,
            workers,
            desired: match live.desired {
                DesiredState::Running => Desired::Running,
                DesiredState::Suspended => Desired::Suspended,
            },
            checkpoints,
            restart,
            restore: live.restore.as_ref().map(|from| (from.nonce, from.path.clone())),
            overrides: false,
        })
    }

    /// What an accepted configuration says, whose body was stored.
    pub fn read(
        &self,
        config: &ConfigRef,
        body: &[u8],
        graph: &Graph,
        max: MaxParallelism,
    ) -> Result<Proposal, String> {
        let name = format!("configuration {} of generation {}", config.hash, config.generation);
        let live = Live::decode(&name, body).map_err(|error| error.to_string())?;
        self.proposal(&live, graph, max)
    }

    /// Makes a coordinator's configuration of it.
    pub fn configure(
        &self,
        config: &mut Config,
        graph: &Graph,
        max: MaxParallelism,
    ) -> Result<(), String> {
        let proposal = self.proposal(&self.live, graph, max)?;
        let own = self.revision.hash().map_err(|error| error.to_string())?;
        config.outdated = !self.live.revision.is_empty() && self.live.revision != own;
        config.begun = self.live.begun;
        config.config = proposal.config;
        config.program = proposal.program;
        config.body = proposal.body;
        config.workers = proposal.workers;
        config.desired = proposal.desired;
        config.checkpoints = proposal.checkpoints;
        config.restart = proposal.restart;
        config.restore = proposal.restore;
        config.from = RestoreChoice::Latest;
        config.cluster.clone_from(&self.revision.cluster);
        if !self.same_job {
            config.fresh_job = self.revision.job.clone();
        }
        Ok(())
    }
}

/// When checkpoints are taken and kept.
pub fn checkpoint_policy(settings: &CheckpointSettings) -> CheckpointPolicy {
    let interval = Duration::from_millis(settings.interval_ms);
    CheckpointPolicy {
        interval: Some(interval).filter(|interval| !interval.is_zero()),
        min_pause: Duration::from_millis(settings.min_pause_ms),
        timeout: Duration::from_millis(settings.timeout_ms),
        tolerated_failures: settings.tolerated_failures,
        retained: settings.retained,
        unaligned_after: settings.unaligned_after_ms.map(Duration::from_millis),
    }
}

/// What happens after a failure.
pub fn restart_policy(settings: &RestartSettings) -> RestartPolicy {
    match RestartPolicy::default() {
        RestartPolicy::ExponentialBackoff { multiplier, jitter, .. } => {
            RestartPolicy::ExponentialBackoff {
                initial: Duration::from_millis(settings.initial_delay_ms),
                max: Duration::from_millis(settings.max_delay_ms),
                multiplier,
                jitter,
                reset_after: Duration::from_millis(settings.reset_after_ms),
                limit: settings.max_restarts,
            }
        }
        other => other,
    }
}
