//! Workers in one process, over loopback: rows arrive, waiting is per channel, strangers
//! are refused, and whatever breaks is named.
#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

mod broken;
mod codec;
mod flow;
mod strangers;
#[cfg(feature = "tls")]
mod tls;

use millrace_engine::data::Packet;
use millrace_engine::exchange::codec::Packets;
use millrace_engine::exchange::{
    ChannelId, Exchange, ExchangeSpec, Line, Lines, Listener, Peer, Security, Token,
};
use millrace_engine::runtime::channel::{Channel, Element, TaskWaker};
use millrace_engine::runtime::signal::Signal;
use millrace_protocol::ids::{Attempt, JobUid};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

type Row = (u64, String);

fn seed() -> u64 {
    let given = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    seed
}

/// Waits until `done`, which a broken test never is.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn task() -> TaskWaker {
    TaskWaker { signal: Arc::new(Signal::new(1)), task: 0 }
}

fn line(id: u32) -> Line {
    let codec = Arc::new(Packets::<Row>::new());
    Line { id: ChannelId(id), codec, edge: format!("edge {id}"), flight: None }
}

fn bind() -> Arc<Listener> {
    bind_with(Security::Plain)
}

fn bind_with(security: Security) -> Arc<Listener> {
    Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), security).unwrap()
}

fn peer(ordinal: u16, address: SocketAddr) -> Peer {
    Peer { ordinal, process: format!("p{ordinal}"), address: address.to_string() }
}

/// One worker of an attempt, as a test changes it before it starts.
struct Worker {
    listener: Arc<Listener>,
    me: Peer,
    peers: Vec<Peer>,
    lines: Lines,
    room: u64,
    job: JobUid,
    attempt: Attempt,
    token: Token,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Worker {
    fn new(ordinal: u16, listener: &Arc<Listener>, peers: &[Peer], lines: Lines) -> Self {
        Self {
            listener: Arc::clone(listener),
            me: peer(ordinal, listener.address()),
            peers: peers.to_vec(),
            lines,
            room: 64 << 20,
            job: JobUid::from("job"),
            attempt: Attempt(4),
            token: Token([3; 32]),
            failures: Arc::default(),
        }
    }

    fn start(self) -> Running {
        let failures = Arc::clone(&self.failures);
        let spec = ExchangeSpec {
            job: self.job,
            attempt: self.attempt,
            token: self.token,
            me: self.me,
            peers: self.peers,
            lines: self.lines,
            room: self.room,
            failed: Arc::new(move |why| failures.lock().unwrap().push(why)),
        };
        let exchange = Exchange::start(&self.listener, spec).unwrap();
        Running { exchange, failures: self.failures }
    }
}

struct Running {
    exchange: Exchange,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn failure(&self) -> Option<String> {
        self.failures.lock().unwrap().first().cloned()
    }

    /// What it tells once it has failed.
    fn fails(&self) -> String {
        until("a failure", || self.failure().is_some());
        self.failure().unwrap()
    }
}

/// `count` channels from worker 0 to worker 1, which is reached at `through`.
struct Pair {
    out: Vec<Arc<Channel>>,
    into: Vec<Arc<Channel>>,
    first: Worker,
    second: Worker,
}

fn pair(count: u32, through: Option<SocketAddr>) -> Pair {
    pair_of(count, through, &bind(), &bind())
}

fn pair_of(
    count: u32,
    through: Option<SocketAddr>,
    one: &Arc<Listener>,
    two: &Arc<Listener>,
) -> Pair {
    let to = |ordinal| BTreeMap::from([(ordinal, count as usize)]);
    let mut outgoing = Lines::new(&to(1), &BTreeMap::new());
    let mut incoming = Lines::new(&BTreeMap::new(), &to(0));
    let out = (0..count).map(|id| outgoing.add_outgoing(1, task(), line(id))).collect();
    let into = (0..count).map(|id| incoming.add_incoming(0, task(), line(id))).collect();
    let peers = [peer(0, one.address()), peer(1, through.unwrap_or(two.address()))];
    let first = Worker::new(0, one, &peers, outgoing);
    let second = Worker::new(1, two, &peers, incoming);
    Pair { out, into, first, second }
}

fn batch(from: u64, rows: u64, text: usize) -> Box<Packet<Row>> {
    let row = |n| (n as i64, n * 7, (n, "x".repeat(text)));
    Box::new(Packet { rows: (from..from + rows).map(row).collect(), marks: vec![(0, from as i64)] })
}

/// The numbers of the rows that have come, taken off the channel.
fn take(channel: &Channel) -> Vec<u64> {
    let mut found = Vec::new();
    while let Some(element) = channel.receive() {
        if let Element::Batch(mut batch) = element {
            let packet = batch.as_any_mut().downcast_mut::<Packet<Row>>().unwrap();
            found.extend(packet.rows.iter().map(|row| row.2.0));
            packet.clear();
            channel.recycle(batch);
        }
    }
    found
}
