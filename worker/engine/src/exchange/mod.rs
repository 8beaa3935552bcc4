//! The exchange between worker processes: an edge's channels that leave this process.
//!
//! - A channel between subtasks of two workers is a [`Channel`] on each side. The sender's
//!   is drained by its connection's thread instead of a slot, the receiver's is filled by
//!   the connection's thread there; slots do not see the difference. Such a thread sleeps
//!   on a [`Signal`] of its own, in which each channel is a bit, as a task is in a slot's.
//! - One TCP connection for each ordered pair of workers with channels between them:
//!   [`frame`]s of rows and control elements one way, credit the other ([`send`],
//!   [`receive`]). Rows are encoded ([`codec`]) by the connection's thread, straight into
//!   the buffer that is written.
//! - Credit is in bytes and per channel. Whoever has any may send one frame, however
//!   large: so each channel has room for one maximal frame. It is given back when the
//!   receiving task takes the batch. A connection is always read, so that a channel that
//!   waits (for alignment, say) holds back no other. Control elements need no credit.
//! - A [`Listener`] lives as long as the process. An attempt is known to it from
//!   [`Exchange::start`] to [`Exchange::stop`]; a connection is matched by job, attempt
//!   and both processes, and both sides prove that they know the attempt's token
//!   ([`hello`]). With the feature `tls` all of it is under mutual TLS.
//! - A broken connection, a checksum that does not hold, and bytes that are no rows fail
//!   the attempt, with both workers, the edge and the reason. A worker that stops says so
//!   first; its coordinator knows why.

pub mod codec;
pub mod frame;
pub mod frames;
mod hello;
mod lines;
mod listener;
mod receive;
mod send;
mod shared;
mod socket;
#[cfg(feature = "tls")]
pub mod tls;

use crate::data::{Fail, Res};
use crate::runtime::channel::Channel;
use crate::runtime::signal::Signal;
use codec::Codec;
pub use lines::{ChannelId, Line, Lines};
pub use listener::{Listener, Security};
use millrace_protocol::ids::{Attempt, JobUid};
use shared::Shared;
pub use shared::Stats;
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the workers of an attempt know and others do not.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub [u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A worker of the attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its number among the workers.
    pub ordinal: u16,
    /// Identity of its process: another for each start.
    pub process: String,
    /// Where its listener is reached, as `host:port`.
    pub address: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} (process {} at {})", self.ordinal, self.process, self.address)
    }
}

/// Whom an exchange tells that the attempt is lost, and why. Called once at most.
pub type Failed = Arc<dyn Fn(String) + Send + Sync>;

/// What an attempt's exchange is made of.
pub struct ExchangeSpec {
    /// The job.
    pub job: JobUid,
    /// The attempt.
    pub attempt: Attempt,
    /// The attempt's secret.
    pub token: Token,
    /// This worker.
    pub me: Peer,
    /// The others, at least those with channels from or to this one.
    pub peers: Vec<Peer>,
    /// The channels.
    pub lines: Lines,
    /// Bytes of rows from others that wait here for tasks, over all channels: what credit is
    /// given for. See [`window`].
    pub room: u64,
    /// Whom to tell of a failure.
    pub failed: Failed,
}

/// The connections of an attempt.
pub struct Exchange {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
}

/// Credit of one channel at most and at least, in bytes.
const WINDOW: u64 = 512 << 10;
const LEAST: u64 = 64 << 10;

/// The credit of each of so many channels, in bytes, that share this room. One frame beyond
/// it may come on each, which is a batch, at most a megabyte of it, or one row. With so many
/// channels that each would get less than 64 KiB they take more than there is.
#[must_use]
pub fn window(room: u64, channels: usize) -> u64 {
    (room / channels.max(1) as u64).clamp(LEAST, WINDOW)
}

/// How long threads have to say goodbye before their sockets are closed under them.
const GRACE: Duration = Duration::from_millis(300);

impl Exchange {
    /// Accepts the others' connections, and connects to them in threads of its own: a peer
    /// that cannot be reached within a minute fails the attempt.
    pub fn start(listener: &Arc<Listener>, spec: ExchangeSpec) -> Res<Self> {
        let peers = spec.peers;
        let peer_of = |ordinal: u16| -> Res<Peer> {
            peers.iter().find(|p| p.ordinal == ordinal).cloned().ok_or_else(|| {
                Fail::from(format!("there are channels to worker {ordinal}, which is not known"))
            })
        };
        let outgoing = spec
            .lines
            .outgoing
            .into_iter()
            .map(|(ordinal, side)| Ok((peer_of(ordinal)?, side)))
            .collect::<Res<Vec<_>>>()?;
        let channels = spec.lines.incoming.values().map(|side| side.wires.len()).sum();
        let window = window(spec.room, channels);
        if window * channels as u64 > spec.room {
            let (least, room) = ((window * channels as u64) >> 20, spec.room >> 20);
            tracing::warn!(
                job = %spec.job, channels, least, room,
                "channels from other workers may hold more MiB of rows than there is room for: \
                 lower the parallelism, or give each worker more memory"
            );
        }
        let incoming = spec
            .lines
            .incoming
            .into_iter()
            .map(|(ordinal, side)| Ok((ordinal, (peer_of(ordinal)?, side))))
            .collect::<Res<_>>()?;
        let shared = Arc::new(Shared::new(
            (spec.job, spec.attempt, spec.token),
            spec.me,
            (incoming, window),
            spec.failed,
        ));
        listener.register(&shared)?;
        let exchange = Self { shared: Arc::clone(&shared), listener: Arc::clone(listener) };
        for (peer, side) in outgoing {
            shared.note_signal(&side.signal);
            let (own, listener) = (Arc::clone(&shared), Arc::clone(listener));
            let name = format!("millrace-to-{}", peer.ordinal);
            shared.spawn(name, move || send::run(&own, &listener, &peer, side));
        }
        Ok(exchange)
    }

    /// What went through it.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Ends all connections and joins their threads.
    pub fn stop(self) {}
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.listener.unregister(&self.shared);
        self.shared.begin_stop();
        let begun = Instant::now();
        let mut threads = Vec::new();
        loop {
            threads.extend(self.shared.take_threads());
            if threads.iter().all(JoinHandle::is_finished) || begun.elapsed() >= GRACE {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.shared.close_sockets();
        for thread in threads.into_iter().chain(self.shared.take_threads()) {
            // A panic in it was told as a failure.
            let _ = thread.join();
        }
    }
}

/// A channel between two workers as one of them has it.
pub(crate) struct Wire {
    pub id: ChannelId,
    pub channel: Arc<Channel>,
    pub codec: Arc<dyn Codec>,
    pub edge: String,
}

/// The channels of one connection, and the signal in which each is a bit.
pub(crate) struct Side {
    pub signal: Arc<Signal>,
    pub wires: Vec<Wire>,
}
