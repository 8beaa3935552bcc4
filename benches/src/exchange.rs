//! Rows from one worker to another over loopback, and the same bytes copied and sent.

use crate::measure::{Runs, median};
use anyhow::{Context, Result, anyhow, ensure};
use millrace_engine::data::{AnyBatch, Packet};
use millrace_engine::exchange::codec::Packets;
use millrace_engine::exchange::{
    ChannelId, Exchange, ExchangeSpec, Line, Lines, Listener, Peer, Security, Token,
};
use millrace_engine::runtime::channel::{Channel, Element, TaskWaker};
use millrace_engine::runtime::signal::Signal;
use millrace_protocol::ids::{Attempt, JobUid};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

/// Rows of a batch.
const ROWS: usize = 4096;

/// 64 bytes with timestamp and hash.
type Row = (i64, u64, [u64; 6]);

/// Bytes of a checksum.
const SUM: usize = 4;

/// Batches before the clock starts.
const FIRST: u64 = 64;

/// Bytes of a batch.
const BYTES: usize = ROWS * 64;

fn batch() -> Vec<Row> {
    (0..ROWS as u64).map(|n| (n as i64, n, [n, n + 1, n + 2, n + 3, n + 4, n + 5])).collect()
}

/// Gigabytes a second of both.
#[derive(Debug, Clone, Copy)]
pub struct Throughput {
    /// Through the exchange, with encode and decode.
    pub exchange: f64,
    /// Copied, sent, received, copied.
    pub copied: f64,
    /// The same by what no exchange of rows is without: the rows are made first, and a sum
    /// is taken at both ends.
    pub made_and_summed: f64,
}

/// Measures both, in turn.
pub fn throughput(runs: Runs) -> Result<Throughput> {
    let batches = runs.rows(8_000);
    let gigabytes = batches as f64 * BYTES as f64 / 1e9;
    let mut times = Vec::new();
    // The first does not count.
    for _ in 0..=runs.count {
        times.push(Pair::new()?.run(batches)?);
    }
    times.remove(0);
    let exchange = gigabytes / median(times).as_secs_f64();
    let plain = |summed| -> Result<f64> {
        let (time, taken) = runs.median(|| copied(batches, summed));
        ensure!(taken? == batches * BYTES as u64, "bytes got lost");
        Ok(gigabytes / time.as_secs_f64())
    };
    Ok(Throughput { exchange, copied: plain(false)?, made_and_summed: plain(true)? })
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Two workers with a channel from the first to the second.
struct Pair {
    sender: (Arc<Channel>, Arc<Signal>),
    receiver: (Arc<Channel>, Arc<Signal>),
    exchanges: Vec<Exchange>,
}

impl Pair {
    fn new() -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let bind = || Listener::bind(any, Security::Plain).map_err(|e| anyhow!(e));
        let listeners = [bind()?, bind()?];
        let peers: Vec<Peer> = (0..2)
            .zip(&listeners)
            .map(|(ordinal, listener)| Peer {
                ordinal,
                process: ordinal.to_string(),
                address: listener.address().to_string(),
            })
            .collect();
        let line = || Line {
            id: ChannelId(0),
            codec: Arc::new(Packets::<[u64; 6]>::new()),
            edge: "bench".to_owned(),
            flight: None,
        };
        let one = |other| BTreeMap::from([(other, 1)]);
        let mut lines =
            [Lines::new(&one(1), &BTreeMap::new()), Lines::new(&BTreeMap::new(), &one(0))];
        let signals = [Arc::new(Signal::new(1)), Arc::new(Signal::new(1))];
        let waker = |signal: &Arc<Signal>| TaskWaker { signal: Arc::clone(signal), task: 0 };
        let sender = lines[0].add_outgoing(1, waker(&signals[0]), line());
        let receiver = lines[1].add_incoming(0, waker(&signals[1]), line());
        let mut exchanges = Vec::new();
        for ((lines, listener), me) in lines.into_iter().zip(&listeners).zip(&peers) {
            let spec = ExchangeSpec {
                job: JobUid::from("bench"),
                attempt: Attempt(1),
                token: Token([7; 32]),
                me: me.clone(),
                peers: peers.clone(),
                lines,
                room: 64 << 20,
                failed: Arc::new(|why| eprintln!("{why}")),
            };
            exchanges.push(Exchange::start(listener, spec).map_err(|e| anyhow!(e))?);
        }
        let [first, second] = signals;
        Ok(Self { sender: (sender, first), receiver: (receiver, second), exchanges })
    }

    /// The time of so many batches, after some for which the connection is made.
    fn run(self, batches: u64) -> Result<Duration> {
        let time = std::thread::scope(|scope| {
            let feeder = scope.spawn(|| feed(&self.sender, FIRST + batches));
            let taken = scope.spawn(|| {
                take(&self.receiver, FIRST)?;
                let begun = Instant::now();
                take(&self.receiver, batches)?;
                Ok(begun.elapsed())
            });
            joined(feeder)?;
            joined(taken)
        })?;
        self.exchanges.into_iter().for_each(Exchange::stop);
        Ok(time)
    }
}

/// Sleeps until there is something to do, or room.
fn wait(signal: &Signal) {
    signal.park(None, || false);
    signal.take(0);
}

fn feed((channel, signal): &(Arc<Channel>, Arc<Signal>), batches: u64) -> Result<()> {
    signal.attach();
    let rows = batch();
    let mut spare: Option<Box<dyn AnyBatch>> = None;
    for _ in 0..batches {
        let mut next = spare.take().unwrap_or_else(|| Box::new(Packet::<[u64; 6]>::default()));
        let packet = next.as_any_mut().downcast_mut::<Packet<[u64; 6]>>();
        packet.context("a batch of another type")?.rows.extend_from_slice(&rows);
        loop {
            match channel.try_send(next) {
                Ok(recycled) => {
                    spare = recycled;
                    break;
                }
                Err(back) => {
                    next = back;
                    wait(signal);
                }
            }
        }
    }
    Ok(())
}

fn take((channel, signal): &(Arc<Channel>, Arc<Signal>), batches: u64) -> Result<()> {
    // Only the first time counts, and it is the same thread.
    signal.attach();
    let mut rows = 0;
    while rows < batches * ROWS as u64 {
        match channel.receive() {
            Some(Element::Batch(batch)) => {
                rows += batch.rows() as u64;
                channel.recycle(batch);
            }
            Some(_) => {}
            None => wait(signal),
        }
    }
    Ok(())
}

/// The same bytes: copied into a buffer, written, read and copied out of one. `summed`: they
/// are made before, as [`feed`] does, and their CRC-32 is sent and compared.
fn copied(batches: u64, summed: bool) -> Result<u64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> Result<()> {
            let mut socket = TcpStream::connect(address)?;
            socket.set_nodelay(true)?;
            let (rows, mut made) = (vec![7_u8; BYTES], vec![7_u8; BYTES]);
            let mut buffer = vec![0_u8; BYTES + SUM];
            for _ in 0..batches {
                if summed {
                    made.copy_from_slice(std::hint::black_box(&rows));
                }
                let (payload, sum) = buffer.split_at_mut(BYTES);
                payload.copy_from_slice(std::hint::black_box(&made));
                if summed {
                    sum.copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
                }
                socket.write_all(&buffer)?;
            }
            Ok(())
        });
        let (mut socket, _) = listener.accept()?;
        let (mut buffer, mut to) = (vec![0_u8; BYTES + SUM], vec![0_u8; BYTES]);
        let mut taken = 0;
        for _ in 0..batches {
            socket.read_exact(&mut buffer)?;
            let (payload, sum) = buffer.split_at(BYTES);
            ensure!(!summed || crc32fast::hash(payload).to_le_bytes() == sum, "a wrong sum");
            to.copy_from_slice(std::hint::black_box(payload));
            taken += std::hint::black_box(&to).len() as u64;
        }
        joined(sender)?;
        Ok(taken)
    })
}
