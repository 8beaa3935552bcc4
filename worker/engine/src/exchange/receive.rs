//! The receiving end of a connection: frames become elements, and credit goes back for
//! what tasks have taken.

use super::frame::{self, Header, Kind};
use super::frames::Frames;
use super::shared::Shared;
use super::socket::{Connection, Incoming, Outgoing};
use super::{Peer, Side, Wire};
use crate::data::AnyBatch;
use crate::runtime::channel::Element;
use crate::runtime::signal::Signal;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of frames that were delivered and not taken, oldest first.
#[derive(Default)]
struct Held {
    sizes: VecDeque<u32>,
    bytes: usize,
}

struct Receiver {
    shared: Arc<Shared>,
    peer: Peer,
    signal: Arc<Signal>,
    wires: Vec<Wire>,
    held: Vec<Mutex<Held>>,
    over: AtomicBool,
    broken: AtomicBool,
}

/// Starts the two threads of a connection from `peer`.
pub(super) fn start(shared: &Arc<Shared>, peer: Peer, side: Side, connection: Connection) {
    let Connection { incoming, outgoing, stream } = connection;
    if let Err(error) = shared.note_socket(&stream) {
        return shared.fail(format!("{peer} to {}: {error}", shared.me));
    }
    shared.note_signal(&side.signal);
    let ordinal = peer.ordinal;
    let receiver = Arc::new(Receiver {
        shared: Arc::clone(shared),
        peer,
        signal: side.signal,
        held: side.wires.iter().map(|_| Mutex::default()).collect(),
        wires: side.wires,
        over: AtomicBool::new(false),
        broken: AtomicBool::new(false),
    });
    let giver = Arc::clone(&receiver);
    shared.spawn(format!("millrace-credit-to-{ordinal}"), move || {
        if let Err(error) = giver.give_credit(outgoing)
            && !giver.over.load(Ordering::SeqCst)
        {
            giver.fail(None, &format!("the connection broke: {error}"));
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
    });
    shared.spawn(format!("millrace-from-{ordinal}"), move || {
        let outcome = receiver.take_frames(incoming);
        if let Err((wire, why)) = outcome {
            receiver.broken.store(true, Ordering::SeqCst);
            receiver.fail(wire, &why);
        }
        receiver.over.store(true, Ordering::SeqCst);
        receiver.signal.wake(0);
    });
}

impl Receiver {
    fn held(&self, at: usize) -> MutexGuard<'_, Held> {
        self.held[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, wire: Option<usize>, why: &str) {
        let edge = wire.and_then(|at| self.wires.get(at));
        let edge = edge.map_or(String::new(), |w| format!(", edge {}", w.edge));
        self.shared.fail(format!("{} to {}{edge}: {why}", self.peer, self.shared.me));
    }

    fn take_frames(&self, incoming: Incoming) -> Result<(), (Option<usize>, String)> {
        let numbers: HashMap<u32, usize> =
            self.wires.iter().enumerate().map(|(at, wire)| (wire.id.0, at)).collect();
        let mut frames = Frames::new(incoming);
        let mut spare: Vec<Option<Box<dyn AnyBatch>>> = self.wires.iter().map(|_| None).collect();
        let mut current = None;
        let mut take = |header: Header, payload: &[u8]| -> Result<bool, String> {
            let counters = &self.shared.counters;
            counters.bytes_in.fetch_add(header.total() as u64, Ordering::Relaxed);
            if header.kind == Kind::Bye {
                return Ok(false);
            }
            let at = numbers.get(&header.channel).copied();
            let at = at.ok_or_else(|| format!("a frame for unknown channel {}", header.channel))?;
            current = Some(at);
            let wire = &self.wires[at];
            let element = match header.kind {
                Kind::Batch => {
                    counters.batches_in.fetch_add(1, Ordering::Relaxed);
                    self.deliver(at, payload, &mut spare[at])?;
                    current = None;
                    return Ok(true);
                }
                Kind::Watermark => {
                    Element::Watermark(frame::word_of(payload).map_err(|e| e.to_string())? as i64)
                }
                Kind::Idle => Element::Idle(frame::flag_of(payload).map_err(|e| e.to_string())?),
                Kind::Barrier => {
                    Element::Barrier(frame::barrier_of(payload).map_err(|e| e.to_string())?)
                }
                Kind::End => Element::End,
                Kind::Credit | Kind::Bye => {
                    return Err(format!("a frame of kind {:?} from a sender", header.kind));
                }
            };
            wire.channel.send_control(element);
            current = None;
            Ok(true)
        };
        let outcome = loop {
            match frames.next(&mut take) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(why) => break Err(why),
            }
        };
        outcome.map_err(|why| (current, why))
    }

    fn deliver(
        &self,
        at: usize,
        payload: &[u8],
        spare: &mut Option<Box<dyn AnyBatch>>,
    ) -> Result<(), String> {
        let wire = &self.wires[at];
        if self.held(at).bytes as u64 >= self.shared.window {
            return Err("rows beyond the credit given".to_owned());
        }
        let batch = wire.codec.decode(payload, spare.take());
        let batch = batch.map_err(|e| format!("{} bytes are no rows: {e}", payload.len()))?;
        // Under this lock, so that nobody sees the one without the other.
        let mut held = self.held(at);
        held.sizes.push_back(payload.len() as u32);
        held.bytes += payload.len();
        *spare = wire.channel.deliver(batch);
        Ok(())
    }

    fn give_credit(&self, mut outgoing: Outgoing) -> io::Result<()> {
        self.signal.attach();
        let mut out = Vec::new();
        let window = self.shared.window.to_le_bytes();
        for wire in &self.wires {
            frame::put(&mut out, Kind::Credit, wire.id.0, &window);
        }
        loop {
            if !out.is_empty() {
                outgoing.write_all(&out)?;
                out.clear();
            }
            if self.over.load(Ordering::SeqCst) || self.shared.is_stopping() {
                if self.broken.load(Ordering::SeqCst) && !self.shared.is_stopping() {
                    // A failure is no goodbye.
                    return Ok(());
                }
                frame::put(&mut out, Kind::Bye, 0, &[]);
                return outgoing.write_all(&out);
            }
            for word in 0..self.signal.words() {
                let mut bits = self.signal.take(word);
                while bits != 0 {
                    self.taken(word * 64 + bits.trailing_zeros() as usize, &mut out);
                    bits &= bits - 1;
                }
            }
            if out.is_empty() {
                let over = || self.over.load(Ordering::SeqCst) || self.shared.is_stopping();
                self.signal.park(None, over);
            }
        }
    }

    /// Appends credit for what was taken of a channel since.
    fn taken(&self, at: usize, out: &mut Vec<u8>) {
        let Some(wire) = self.wires.get(at) else { return };
        let mut held = self.held(at);
        let waiting = wire.channel.waiting();
        let mut bytes = 0u64;
        while held.sizes.len() > waiting {
            bytes += u64::from(held.sizes.pop_front().unwrap_or(0));
        }
        held.bytes -= bytes as usize;
        drop(held);
        if bytes > 0 {
            frame::put(out, Kind::Credit, wire.id.0, &bytes.to_le_bytes());
        }
    }
}
