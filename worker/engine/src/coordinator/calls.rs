//! Store calls under way and those that wait to be made again. Pure.

use super::effect::StoreCall;
use super::event::Ticket;
use std::collections::BTreeMap;
use std::time::Duration;

/// A call under way.
#[derive(Debug)]
pub(super) struct Call<P> {
    /// What it is for.
    pub(super) purpose: P,
    /// The call.
    pub(super) call: StoreCall,
    /// How often it was tried before.
    pub(super) tries: u32,
}

/// Calls by ticket, and those that wait.
#[derive(Debug)]
pub(super) struct Calls<P> {
    next: u64,
    under_way: BTreeMap<Ticket, Call<P>>,
    waiting: Vec<(Duration, Call<P>)>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl<P> Calls<P> {
    pub(super) fn new() -> Self {
        Self { next: 0, under_way: BTreeMap::new(), waiting: Vec::new() }
    }

    /// The call is made now.
    pub(super) fn made(&mut self, call: Call<P>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.under_way.insert(ticket, call);
        ticket
    }

    /// An answer came; `None` if it came before.
    pub(super) fn answered(&mut self, ticket: Ticket) -> Option<Call<P>> {
        self.under_way.remove(&ticket)
    }

    /// The call is to be made again after a pause that grows with its tries.
    /// `random` lies in `0.0..1.0`.
    pub(super) fn wait(&mut self, call: Call<P>, now: Duration, random: f64) {
        let pause = FIRST_PAUSE * 2_u32.pow(call.tries.clamp(1, 10) - 1);
        let pause = pause.min(LONGEST_PAUSE).mul_f64(0.75 + random / 2.0);
        self.waiting.push((now + pause, call));
    }

    /// A call whose pause is over.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<Call<P>> {
        let at = self.waiting.iter().position(|(at, _)| *at <= now)?;
        Some(self.waiting.remove(at).1)
    }

    /// When the next pause is over.
    pub(super) fn due(&self) -> Option<Duration> {
        self.waiting.iter().map(|(at, _)| *at).min()
    }

    /// Gives up on calls that wait.
    pub(super) fn forget(&mut self, which: impl Fn(&P) -> bool) {
        self.waiting.retain(|(_, call)| !which(&call.purpose));
    }
}
