//! The sending end of a connection: channels are drained into frames, as far as credit goes.

use super::codec::CodecError;
use super::frame::{self, FrameError, Header, Kind};
use super::frames::Frames;
use super::hello;
use super::listener::Listener;
use super::shared::Shared;
use super::socket::{Connection, Incoming, Outgoing};
use super::{Peer, Side, Wire};
use crate::data::AnyBatch;
use crate::runtime::channel::Element;
use crate::runtime::signal::Signal;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// What is gathered before it is written although there is more to come.
const FLUSH: usize = 128 << 10;

/// Where the rows of a batch are cut into frames.
const CUT: usize = 1 << 20;

/// Elements of a channel before the next has its turn.
const QUANTUM: usize = 4;

/// Connects to `peer` and serves its channels to the end; the thread's main function.
pub(super) fn run(shared: &Arc<Shared>, listener: &Listener, peer: &Peer, side: Side) {
    let me = &shared.me;
    side.signal.attach();
    let connection = match hello::dial(shared, listener, peer) {
        Ok(Some(connection)) => connection,
        Ok(None) => return,
        Err(why) => {
            return shared.fail(format!("{me} could not connect to {peer}: {why}"));
        }
    };
    let Connection { incoming, outgoing, stream } = connection;
    let credits = Arc::new(Credits {
        credit: side.wires.iter().map(|_| AtomicI64::new(0)).collect(),
        left: AtomicBool::new(false),
        signal: Arc::clone(&side.signal),
    });
    if let Err(error) = shared.note_socket(&stream) {
        return shared.fail(format!("{me} to {peer}: {error}"));
    }
    {
        let (shared, credits, peer) = (Arc::clone(shared), Arc::clone(&credits), peer.clone());
        let numbers = side.wires.iter().enumerate().map(|(at, wire)| (wire.id.0, at)).collect();
        let name = format!("millrace-credit-of-{}", peer.ordinal);
        let spawner = Arc::clone(&shared);
        spawner.spawn(name, move || take_credit(&shared, &peer, &credits, &numbers, incoming));
    }
    let mut sender = Sender {
        shared,
        wires: &side.wires,
        partial: side.wires.iter().map(|_| None).collect(),
        credits: &credits,
        out: Vec::with_capacity(2 * FLUSH),
        outgoing,
        ready: VecDeque::new(),
        queued: vec![false; side.wires.len()],
    };
    let outcome = sender.run(&side.signal);
    if let Err(broken) = outcome
        && !credits.left.load(Ordering::SeqCst)
    {
        let edge = broken.wire.and_then(|at| side.wires.get(at));
        let edge = edge.map_or(String::new(), |w| format!(", edge {}", w.edge));
        shared.fail(format!("{me} to {peer}{edge}: {}", broken.why));
    }
    // Only now, for the other side answers.
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

struct Credits {
    credit: Vec<AtomicI64>,
    /// The receiver has said that it stops.
    left: AtomicBool,
    signal: Arc<Signal>,
}

struct Broken {
    wire: Option<usize>,
    why: String,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self { wire: None, why: format!("the connection broke: {error}") }
    }
}

struct Sender<'a> {
    shared: &'a Shared,
    wires: &'a [Wire],
    /// Batches of which some rows are sent.
    partial: Vec<Option<(Box<dyn AnyBatch>, usize)>>,
    credits: &'a Credits,
    out: Vec<u8>,
    outgoing: Outgoing,
    ready: VecDeque<usize>,
    queued: Vec<bool>,
}

impl Sender<'_> {
    fn run(&mut self, signal: &Signal) -> Result<(), Broken> {
        (0..self.wires.len()).for_each(|at| self.enqueue(at));
        loop {
            if self.credits.left.load(Ordering::SeqCst) {
                return Ok(());
            }
            if self.shared.is_stopping() {
                // Rows that are left belong to an attempt that is over.
                self.out.clear();
                frame::put(&mut self.out, Kind::Bye, 0, &[]);
                return Ok(self.flush()?);
            }
            self.look(signal);
            let Some(at) = self.ready.pop_front() else {
                self.flush()?;
                let (shared, left) = (self.shared, &self.credits.left);
                signal.park(None, || shared.is_stopping() || left.load(Ordering::SeqCst));
                continue;
            };
            self.queued[at] = false;
            let more = self.serve(at).map_err(|why| Broken { wire: Some(at), why })?;
            if more {
                self.enqueue(at);
            }
            if self.out.len() >= FLUSH {
                self.flush()?;
            }
        }
    }

    fn enqueue(&mut self, at: usize) {
        if let Some(queued) = self.queued.get_mut(at)
            && !*queued
        {
            *queued = true;
            self.ready.push_back(at);
        }
    }

    fn look(&mut self, signal: &Signal) {
        for word in 0..signal.words() {
            let mut bits = signal.take(word);
            while bits != 0 {
                self.enqueue(word * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.outgoing.write_all(&self.out)?;
        self.shared.counters.bytes_out.fetch_add(self.out.len() as u64, Ordering::Relaxed);
        self.out.clear();
        // One maximal frame must not hold its memory for ever.
        self.out.shrink_to(4 * CUT);
        Ok(())
    }

    /// Sends of a channel what there is; true if there may be more.
    fn serve(&mut self, at: usize) -> Result<bool, String> {
        let wire = &self.wires[at];
        for _ in 0..QUANTUM {
            let credit = self.credits.credit[at].load(Ordering::Acquire) > 0;
            if self.partial[at].is_none() {
                let element =
                    if credit { wire.channel.receive() } else { wire.channel.receive_control() };
                match element {
                    None => return Ok(false),
                    Some(Element::Batch(batch)) => self.partial[at] = Some((batch, 0)),
                    Some(control) => {
                        self.control(at, &control);
                        continue;
                    }
                }
            }
            if !credit {
                return Ok(false);
            }
            self.batch(at)?;
            if self.out.len() >= FLUSH {
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn batch(&mut self, at: usize) -> Result<(), String> {
        let wire = &self.wires[at];
        let Some((mut batch, from)) = self.partial[at].take() else { return Ok(()) };
        let begin = frame::open(&mut self.out);
        let to = wire
            .codec
            .encode(batch.as_ref(), from, CUT, &mut self.out)
            .map_err(|e: CodecError| format!("rows cannot be sent: {e}"))?;
        let length = frame::close(&mut self.out, begin, Kind::Batch, wire.id.0)
            .map_err(|e: FrameError| format!("a row is too large: {e}"))?;
        self.credits.credit[at].fetch_sub(length as i64, Ordering::AcqRel);
        self.shared.counters.batches_out.fetch_add(1, Ordering::Relaxed);
        if to < batch.rows() {
            self.partial[at] = Some((batch, to));
        } else {
            wire.codec.clear(batch.as_mut());
            wire.channel.recycle(batch);
        }
        Ok(())
    }

    fn control(&mut self, at: usize, element: &Element) {
        let channel = self.wires[at].id.0;
        let out = &mut self.out;
        match element {
            Element::Watermark(w) => frame::put(out, Kind::Watermark, channel, &w.to_le_bytes()),
            Element::Idle(idle) => frame::put(out, Kind::Idle, channel, &[u8::from(*idle)]),
            Element::Barrier(b) => {
                frame::put(out, Kind::Barrier, channel, &frame::barrier_bytes(b));
            }
            Element::End => frame::put(out, Kind::End, channel, &[]),
            Element::Batch(_) => {}
        }
    }
}

/// Notes what the receiver gives leave for; the thread's main function.
fn take_credit(
    shared: &Shared,
    peer: &Peer,
    credits: &Credits,
    numbers: &HashMap<u32, usize>,
    incoming: Incoming,
) {
    let mut frames = Frames::new(incoming);
    let mut take = |header: Header, payload: &[u8]| -> Result<bool, String> {
        match header.kind {
            Kind::Bye => return Ok(false),
            Kind::Credit => {}
            other => return Err(format!("a frame of kind {other:?} where only credit can be")),
        }
        let at = numbers.get(&header.channel).copied();
        let at = at.ok_or_else(|| format!("credit for unknown channel {}", header.channel))?;
        let word = frame::word_of(payload).map_err(|e| e.to_string())?;
        let more = i64::from(u32::try_from(word).unwrap_or(u32::MAX));
        credits.credit[at].fetch_add(more, Ordering::AcqRel);
        credits.signal.wake(at);
        Ok(true)
    };
    let outcome = loop {
        match frames.next(&mut take) {
            Ok(true) => {}
            other => break other,
        }
    };
    match outcome {
        Ok(_) => {
            credits.left.store(true, Ordering::SeqCst);
            credits.signal.wake(0);
        }
        Err(why) => shared.fail(format!("{} to {peer}: {why}", shared.me)),
    }
}
