//! An attempt's deployments in this process: one, or one for each of several workers that
//! reach each other over loopback, as tests have it.

use crate::data::{Fail, Res};
use crate::exchange::{Listener, Peer, Security, Token};
use crate::job::deploy::{Deployment, Registry};
use crate::job::placement::Placement;
use crate::runtime::slot::Control;
use millrace_protocol::ids::Attempt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// The workers of this process.
#[derive(Default)]
pub(super) struct Workers(Vec<Arc<Listener>>);

impl Workers {
    /// So many, if that was asked for.
    pub fn new(count: Option<u16>) -> Res<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listeners = (0..count.unwrap_or(0)).map(|_| Listener::bind(any, Security::Plain));
        Ok(Self(listeners.collect::<Res<_>>()?))
    }

    /// Which of `slots` each worker runs; nothing if there is only this process.
    fn placements(&self, slots: u16) -> Vec<Option<Placement>> {
        if self.0.is_empty() {
            return vec![None];
        }
        let count = self.0.len() as u16;
        let peer = |(ordinal, listener): (u16, &Arc<Listener>)| Peer {
            ordinal,
            process: format!("loopback-{ordinal}"),
            address: listener.address().to_string(),
        };
        let peers: Vec<Peer> = (0..count).zip(&self.0).map(peer).collect();
        let token = Token(std::array::from_fn(|_| fastrand::u8(..)));
        let place = |(me, listener): (&Peer, &Arc<Listener>)| {
            Some(Placement {
                workers: (0..slots).map(|slot| slot % count).collect(),
                me: me.clone(),
                peers: peers.clone(),
                listener: Arc::clone(listener),
                token: token.clone(),
            })
        };
        peers.iter().zip(&self.0).map(place).collect()
    }

    /// Starts an attempt's `slots` on all workers.
    pub fn deploy(
        &self,
        slots: u16,
        mut start: impl FnMut(Option<Placement>) -> Res<Deployment>,
    ) -> Res<Deployments> {
        let mut deployed = Vec::new();
        for placement in self.placements(slots) {
            match start(placement) {
                Ok(deployment) => deployed.push(deployment),
                Err(error) => {
                    deployed.into_iter().for_each(Deployment::stop);
                    return Err(error);
                }
            }
        }
        let attempt = deployed.first().map(|d| d.attempt);
        let attempt = attempt.ok_or_else(|| Fail::from("an attempt without a worker"))?;
        Ok(Deployments { attempt, deployed })
    }
}

/// The slots of an attempt in this process.
pub(super) struct Deployments {
    /// Which attempt.
    pub attempt: Attempt,
    deployed: Vec<Deployment>,
}

impl Deployments {
    /// Number of slots.
    pub fn len(&self) -> usize {
        self.deployed.iter().map(Deployment::len).sum()
    }

    /// Counters.
    pub fn metrics(&self) -> Registry {
        self.deployed.iter().flat_map(|d| d.metrics.clone()).collect()
    }

    /// Tells all slots.
    pub fn tell(&self, control: &Control) {
        self.deployed.iter().for_each(|d| d.tell(control));
    }

    /// Stops all slots, and waits for them and for their side jobs.
    pub fn stop(self) {
        self.deployed.into_iter().for_each(Deployment::stop);
    }
}
