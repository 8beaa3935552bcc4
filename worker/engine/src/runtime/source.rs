//! A source's two tasks: the enumerator, which finds splits, and the readers.
//!
//! The enumerator is a task of parallelism 1 whose splits travel to the readers on
//! channels, as rows do. So barriers tell exactly which splits a checkpoint's
//! readers had, and no assignment is lost or doubled. A checkpoint's barrier is
//! injected at the enumerator and reaches the readers behind the splits.

use crate::connector::{Lane, Next, Reader, Source, SourceOut, Split};
use crate::coordinator::{BarrierKind, ListSpec, StopMode};
use crate::data::{AnyBatch, Fail, Res, Rows, TS_MAX, TS_MIN, Ts};
use crate::runtime::SOURCE_ROWS;
use crate::runtime::alignment::Aligned;
use crate::runtime::channel::{Channel, Element, TaskWaker};
use crate::runtime::emit::Fanout;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::{Event, Gate};
use crate::runtime::idleness::{Listening, Silence};
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::pool::Pool;
use crate::runtime::snapshot::{Barrier, ListBlob, SnapshotParts};
use crate::runtime::task::{Progress, Task, Turn};
use crate::state::StateTable;
use crate::state::budget::Budget;
use crate::state::value::shape_of;
use crate::time::{LaneClock, Watermarks};
use millrace_protocol::ids::Uid;
use millrace_protocol::manifest::{Redistribution, ShapeBytes};
use millrace_protocol::shape::ShapeError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// State name of the splits that the enumerator has handed out.
pub const KNOWN: &str = "known";
/// State name of the note that discovery is finished.
pub const COMPLETE: &str = "complete";
/// State name of the readers' positions.
pub const POSITIONS: &str = "positions";

/// The traced shapes of a source's list states.
#[derive(Debug, Clone, Default)]
pub struct SourceShapes {
    /// Of the splits handed out.
    pub known: ShapeBytes,
    /// Of the note that discovery is finished.
    pub complete: ShapeBytes,
    /// Of the readers' positions.
    pub positions: ShapeBytes,
}

impl SourceShapes {
    /// Traces them.
    pub fn of<S: Split>() -> Result<Self, ShapeError> {
        Ok(Self {
            known: shape_of::<S>()?,
            complete: shape_of::<bool>()?,
            positions: shape_of::<Restored<S>>()?,
        })
    }

    /// The list states, as they are compared with a checkpoint's.
    pub fn lists(&self) -> Vec<ListSpec> {
        let list = |name: &str, shape: &ShapeBytes, redistribution| ListSpec {
            name: name.to_owned(),
            shape: shape.clone(),
            redistribution,
            in_flight: false,
        };
        vec![
            list(KNOWN, &self.known, Redistribution::Union),
            list(COMPLETE, &self.complete, Redistribution::Union),
            list(POSITIONS, &self.positions, Redistribution::Even),
        ]
    }
}

/// How often a reader that is held back looks whether it may go on.
const HELD: Duration = Duration::from_millis(2);

/// What the enumerator restores: the splits handed out, and whether there are no more.
pub type Known<S> = (Vec<S>, bool);

/// The source, back from looking for splits, and what it found.
type Discovered<S> = (S, Res<Vec<<S as Source>::Split>>);

/// Finds splits and deals them out.
pub struct EnumeratorTask<S: Source> {
    name: String,
    uid: Uid,
    source: Option<S>,
    every: Option<Duration>,
    known: Vec<S::Split>,
    /// Discovery is finished for good.
    complete: bool,
    running: Option<Receiver<Discovered<S>>>,
    next_at: Option<Instant>,
    readers: Vec<Arc<Channel>>,
    next_reader: usize,
    barrier: Option<Barrier>,
    told_end: bool,
    pool: Arc<Pool>,
    waker: TaskWaker,
    shapes: SourceShapes,
    metrics: Arc<NodeMetrics>,
}

/// What an enumerator task is made of.
pub struct EnumeratorParts<S: Source> {
    /// For messages.
    pub name: String,
    /// The source's uid.
    pub uid: Uid,
    /// The source.
    pub source: S,
    /// What a checkpoint held, if restored.
    pub restored: Option<Known<S::Split>>,
    /// To the readers.
    pub readers: Vec<Arc<Channel>>,
    /// For discovery.
    pub pool: Arc<Pool>,
    /// Wakes this task.
    pub waker: TaskWaker,
    /// Shapes of its list states.
    pub shapes: SourceShapes,
    /// Counters.
    pub metrics: Arc<NodeMetrics>,
}

impl<S: Source> EnumeratorTask<S> {
    /// Puts the pieces together.
    pub fn new(parts: EnumeratorParts<S>) -> Self {
        let every = parts.source.discover_every();
        let (known, complete) = parts.restored.unwrap_or_default();
        Self {
            name: parts.name,
            uid: parts.uid,
            source: Some(parts.source),
            every,
            // A finished discovery stays finished, unless the source now keeps looking.
            complete: complete && every.is_none(),
            next_reader: known.len(),
            known,
            running: None,
            next_at: None,
            readers: parts.readers,
            barrier: None,
            told_end: false,
            pool: parts.pool,
            waker: parts.waker,
            shapes: parts.shapes,
            metrics: parts.metrics,
        }
    }

    fn start_discovery(&mut self) {
        let Some(mut source) = self.source.take() else { return };
        let (sender, receiver) = channel();
        let (known, waker) = (self.known.clone(), self.waker.clone());
        self.running = Some(receiver);
        self.pool.spawn("discover", move || {
            let found = source.discover(&known);
            let _ = sender.send((source, found));
            waker.wake();
        });
    }

    fn deal_out(&mut self, found: Vec<S::Split>) {
        let mut shares: Vec<Rows<S::Split>> =
            self.readers.iter().map(|_| Rows::default()).collect();
        for split in found {
            self.known.push(split.clone());
            let reader = self.next_reader % shares.len().max(1);
            self.next_reader += 1;
            shares[reader].push(TS_MIN, split);
        }
        for (share, channel) in shares.into_iter().zip(&self.readers) {
            if !share.is_empty() {
                self.metrics.rows_out.add(share.len() as u64);
                // Splits are few: they do not wait for room.
                channel.force_send(Box::new(share));
            }
            channel.send_control(Element::Watermark(TS_MIN));
        }
    }

    fn tell_end(&mut self) {
        if !self.told_end {
            self.told_end = true;
            self.readers.iter().for_each(|r| r.send_control(Element::End));
        }
    }
}

impl<S: Source> Task for EnumeratorTask<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn subtask(&self) -> u16 {
        0
    }

    fn run(&mut self, turn: &mut Turn<'_>) -> Res<Progress> {
        let mut worked = false;
        if self.complete {
            // Before a barrier: see `ReaderTask::greet`.
            self.tell_end();
        }
        if let Some(barrier) = self.barrier.take() {
            let items =
                self.known.iter().map(postcard::to_stdvec).collect::<Result<Vec<_>, _>>()?;
            let flag = postcard::to_stdvec(&self.complete)?;
            let shapes = &self.shapes;
            for (state, items, shape) in
                [(KNOWN, items, &shapes.known), (COMPLETE, vec![flag], &shapes.complete)]
            {
                turn.parts.lists.push(ListBlob {
                    uid: self.uid.clone(),
                    state: state.to_owned(),
                    redistribution: Redistribution::Union,
                    shape: shape.clone(),
                    items,
                });
            }
            self.readers.iter().for_each(|r| r.send_control(Element::Barrier(barrier.clone())));
            *turn.passed = Some(barrier);
            worked = true;
        }
        if self.complete {
            return Ok(if worked { Progress::Worked } else { Progress::Idle });
        }
        if let Some(receiver) = &self.running {
            match receiver.try_recv() {
                Ok((source, found)) => {
                    self.source = Some(source);
                    self.running = None;
                    self.complete = self.every.is_none();
                    self.next_at = self.every.map(|e| Instant::now() + e);
                    let found = found?;
                    self.deal_out(found);
                    worked = true;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    return Err(Fail::from("looking for splits panicked; see the log"));
                }
            }
        } else if self.next_at.is_none_or(|at| at <= Instant::now()) {
            self.start_discovery();
            worked = true;
        }
        Ok(if worked { Progress::Worked } else { Progress::Idle })
    }

    fn flush(&mut self) -> Res<bool> {
        Ok(false)
    }

    fn next_time(&self) -> Option<Ts> {
        let at = self.next_at.filter(|_| self.running.is_none())?;
        Some(in_millis(at))
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        Vec::new()
    }

    fn ended(&self) -> bool {
        self.told_end
    }

    fn trigger(&mut self, barrier: Barrier) {
        self.barrier = Some(barrier);
    }

    fn metrics(&self) -> &Arc<NodeMetrics> {
        &self.metrics
    }
}

/// Wall-clock milliseconds since the epoch.
pub fn wall_clock() -> Ts {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| Ts::try_from(d.as_millis()).unwrap_or(Ts::MAX))
}

/// A moment on the wall clock; what has passed is due whatever the clock says.
fn in_millis(at: Instant) -> Ts {
    let wait = at.saturating_duration_since(Instant::now());
    if wait.is_zero() {
        return TS_MIN;
    }
    wall_clock() + Ts::try_from(wait.as_millis()).unwrap_or(Ts::MAX / 2) + 1
}

struct LaneState<T> {
    clock: Box<dyn LaneClock<T>>,
    silence: Silence,
}

/// Polls a reader, stamps its rows, and merges its splits' watermarks.
pub struct ReaderTask<S: Source> {
    name: String,
    uid: Uid,
    subtask: u16,
    reader: S::Reader,
    watermarks: Watermarks<S::Out>,
    lanes: BTreeMap<Lane, LaneState<S::Out>>,
    next_lane: u32,
    gate: Gate,
    out: Fanout<S::Out>,
    rows: Rows<S::Out>,
    /// Timestamps that the reader gave, while rows are stamped; empty otherwise.
    native: Vec<Ts>,
    runs: Vec<(Lane, u32)>,
    finished: Vec<Lane>,
    /// Found to have nothing in the last poll.
    quiet: Vec<Lane>,
    listening: Listening,
    watermark: Ts,
    announced: bool,
    idle: bool,
    no_more_splits: bool,
    ended: bool,
    barrier: Option<Barrier>,
    /// Behind the last barrier nothing more is read.
    stopped: bool,
    wait: Option<Instant>,
    aligned: Option<Aligned>,
    /// Lanes that are too far ahead of the alignment group.
    paused: Vec<Lane>,
    /// Of its positions.
    shape: ShapeBytes,
    /// Holds it back while tables hold too much.
    budget: Option<Arc<Budget>>,
    metrics: Arc<NodeMetrics>,
}

/// A split as a checkpoint holds it: with its position, the highest timestamp it has
/// shown, and its watermark.
pub type Restored<S> = (S, Ts, Ts);

/// What a reader task is made of.
pub struct ReaderParts<S: Source> {
    /// For messages.
    pub name: String,
    /// The source's uid.
    pub uid: Uid,
    /// Index of the subtask.
    pub subtask: u16,
    /// The reader.
    pub reader: S::Reader,
    /// Timestamps and watermarks.
    pub watermarks: Watermarks<S::Out>,
    /// Splits with their positions, if restored.
    pub restored: Vec<Restored<S::Split>>,
    /// From the enumerator.
    pub gate: Gate,
    /// To the consumers.
    pub out: Fanout<S::Out>,
    /// Its place in an alignment group.
    pub aligned: Option<Aligned>,
    /// Shape of its positions.
    pub shape: ShapeBytes,
    /// Holds it back while tables hold too much.
    pub budget: Option<Arc<Budget>>,
    /// Counters.
    pub metrics: Arc<NodeMetrics>,
}

impl<S: Source> ReaderTask<S> {
    /// Puts the pieces together and assigns restored splits.
    pub fn new(parts: ReaderParts<S>) -> Res<Self> {
        let mut task = Self {
            name: parts.name,
            uid: parts.uid,
            subtask: parts.subtask,
            reader: parts.reader,
            watermarks: parts.watermarks,
            lanes: BTreeMap::new(),
            next_lane: 0,
            gate: parts.gate,
            out: parts.out,
            rows: Rows::default(),
            native: Vec::new(),
            runs: Vec::new(),
            finished: Vec::new(),
            quiet: Vec::new(),
            listening: Listening::since(Instant::now()),
            watermark: TS_MIN,
            announced: false,
            idle: false,
            no_more_splits: false,
            ended: false,
            barrier: None,
            stopped: false,
            wait: None,
            aligned: parts.aligned,
            paused: Vec::new(),
            shape: parts.shape,
            budget: parts.budget,
            metrics: parts.metrics,
        };
        for (split, max_ts, watermark) in parts.restored {
            task.assign(split, max_ts, watermark)?;
        }
        let lowest = task.lanes.values().map(|l| l.clock.watermark()).min();
        task.watermark = lowest.unwrap_or(TS_MIN);
        Ok(task)
    }

    fn assign(&mut self, split: S::Split, max_ts: Ts, watermark: Ts) -> Res {
        let lane = Lane(self.next_lane);
        self.next_lane += 1;
        let clock = self.watermarks.lane(max_ts, watermark);
        self.lanes.insert(lane, LaneState { clock, silence: Silence::None });
        self.wait = None;
        self.reader.assign(lane, split)
    }

    /// Takes what the enumerator sent; true if there was anything.
    fn listen(&mut self) -> Res<bool> {
        let mut any = false;
        while self.barrier.is_none()
            && let Some(event) = self.gate.poll()
        {
            any = true;
            match event {
                Event::Batch { inlet, mut batch, .. } => {
                    let splits: Vec<S::Split> =
                        match batch.as_any_mut().downcast_mut::<Rows<S::Split>>() {
                            Some(rows) => std::mem::take(&mut rows.values),
                            None => Vec::new(),
                        };
                    for split in splits {
                        self.assign(split, TS_MIN, TS_MIN)?;
                    }
                    self.gate.recycle(inlet, batch);
                }
                Event::Barrier(barrier) => self.barrier = Some(barrier),
                Event::Ended => self.no_more_splits = true,
                Event::Watermark(_) | Event::Idle(_) | Event::InputEnded(_) => {}
            }
        }
        Ok(any)
    }

    /// Whether the enumerator has said something. A barrier that comes before the splits were
    /// found says nothing of them: who took it for a word would call itself idle, and its rows
    /// be late for windows that the other subtasks complete.
    fn heard_enumerator(&self) -> bool {
        self.gate.spoken()
    }

    fn snapshot(&mut self, parts: &mut SnapshotParts) -> Res {
        let positions = self.reader.positions()?;
        let mut items = Vec::with_capacity(positions.len());
        for (lane, split) in positions {
            let clock = self.lanes.get(&lane).map(|l| (l.clock.max_ts(), l.clock.watermark()));
            let (max_ts, watermark) = clock.unwrap_or((TS_MIN, TS_MIN));
            items.push(postcard::to_stdvec(&(split, max_ts, watermark))?);
        }
        parts.lists.push(ListBlob {
            uid: self.uid.clone(),
            state: POSITIONS.to_owned(),
            redistribution: Redistribution::Even,
            shape: self.shape.clone(),
            items,
        });
        parts.event_times.push((self.uid.clone(), EventTime::at(self.watermark)));
        Ok(())
    }

    /// Stamps the polled rows and puts marks where the merged watermark advances.
    fn stamp(&mut self) {
        std::mem::swap(&mut self.native, &mut self.rows.ts);
        let mut from = 0usize;
        for (lane, to) in self.runs.drain(..) {
            let to = to as usize;
            let others = self
                .lanes
                .iter()
                .filter(|(id, l)| **id != lane && !l.silence.is_idle())
                .map(|(_, l)| l.clock.watermark())
                .min()
                .unwrap_or(TS_MAX);
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            state.silence = Silence::None;
            let given = if self.native.is_empty() { &[] } else { &self.native[from..to] };
            let marks_from = self.rows.marks.len();
            state.clock.stamp(
                &self.rows.values[from..to],
                given,
                &mut self.rows.ts,
                &mut self.rows.marks,
            );
            let mut merged = self.watermark;
            let mut kept = marks_from;
            for i in marks_from..self.rows.marks.len() {
                let (at, own) = self.rows.marks[i];
                let candidate = own.min(others);
                if candidate > merged {
                    merged = candidate;
                    self.rows.marks[kept] = (at, candidate);
                    kept += 1;
                }
            }
            self.rows.marks.truncate(kept);
            self.watermark = merged;
            from = to;
        }
        self.native.clear();
    }

    fn merge_lanes(&mut self) -> Res {
        let active = self.lanes.values().filter(|l| !l.silence.is_idle());
        let lowest = active.map(|l| l.clock.watermark()).min();
        match lowest {
            Some(w) => {
                self.set_idle(false)?;
                if w > self.watermark {
                    self.watermark = w;
                    self.out.watermark(w)?;
                }
            }
            None => self.set_idle(true)?,
        }
        Ok(())
    }

    fn set_idle(&mut self, idle: bool) -> Res {
        if idle != self.idle {
            self.idle = idle;
            self.out.idle(idle)?;
        }
        Ok(())
    }

    /// Looks which splits have had nothing for too long, as far as the reader has said of
    /// which it has nothing. Answers when to look again.
    fn check_idleness(&mut self, next: Next) -> Res<Option<Instant>> {
        let Some(after) = self.watermarks.idle_timeout() else {
            self.quiet.clear();
            return Ok(None);
        };
        let now = Instant::now();
        let heard = self.listening.at(now);
        if next != Next::More {
            // Of all that it may read.
            let paused = &self.paused;
            self.quiet.extend(self.lanes.keys().filter(|lane| !paused.contains(lane)));
        }
        let mut changed = false;
        for lane in self.quiet.drain(..) {
            if let Some(state) = self.lanes.get_mut(&lane) {
                changed |= state.silence.goes_on(heard, after);
            }
        }
        if changed {
            self.merge_lanes()?;
        }
        let due = self.lanes.values().filter_map(|l| l.silence.due(after)).min();
        Ok(due.map(|due| now + due.saturating_sub(heard)))
    }

    /// The reader is held back: it cannot say what there is.
    fn hold(&mut self) {
        if self.watermarks.idle_timeout().is_some() {
            self.listening.hold(Instant::now());
        }
    }

    /// Says the first word: how far event time has come here, or that nothing is to be
    /// expected. It goes before the first barrier too, behind which the rows of other
    /// subtasks are let through: how late they are must not depend on when this one is heard.
    fn greet(&mut self) -> Res {
        if !self.heard_enumerator() || self.announced || self.ended || self.stopped {
            return Ok(());
        }
        self.announced = true;
        match (self.lanes.is_empty(), self.no_more_splits) {
            (true, true) => self.finish(),
            (true, false) => self.set_idle(true),
            (false, _) => self.out.watermark(self.watermark),
        }
    }

    /// The last watermark and the end.
    fn finish(&mut self) -> Res {
        self.watermark = TS_MAX;
        self.out.watermark(TS_MAX)?;
        self.out.flush(true)?;
        self.out.end()?;
        self.ended = true;
        Ok(())
    }

    /// Tells the alignment group how far this reader is, and finds the lanes that are
    /// too far ahead. True if none may be read.
    fn align(&mut self) -> bool {
        let Some(aligned) = &mut self.aligned else { return false };
        loop {
            let active = self.lanes.iter().filter(|(_, l)| !l.silence.is_idle());
            let limit = aligned.tell(active.clone().map(|(_, l)| l.clock.watermark()).min());
            let ahead = active.filter(|(_, l)| l.clock.watermark() > limit);
            self.paused.clear();
            self.paused.extend(ahead.map(|(lane, _)| *lane));
            // It is woken when they may be read, unless the group has moved meanwhile.
            if self.paused.is_empty() || aligned.wait() {
                break;
            }
        }
        if self.paused.is_empty() {
            return false;
        }
        for lane in &self.paused {
            if let Some(state) = self.lanes.get_mut(lane) {
                state.silence.pause();
            }
        }
        let all = self.paused.len() == self.lanes.len();
        if !all && !self.reader.pauses() {
            self.paused.clear();
        }
        all
    }

    fn leave_alignment(&mut self) {
        if let Some(aligned) = &mut self.aligned {
            aligned.tell(None);
        }
    }

    /// One poll of the reader.
    fn read(&mut self) -> Res<Progress> {
        if self.align() {
            self.hold();
            self.wait = None;
            return Ok(Progress::Idle);
        }
        if self.budget.as_ref().is_some_and(|budget| budget.pressed()) {
            self.hold();
            self.wait = Some(Instant::now() + HELD);
            return Ok(Progress::Idle);
        }
        let mut out = SourceOut {
            values: &mut self.rows.values,
            ts: &mut self.rows.ts,
            runs: &mut self.runs,
            finished: &mut self.finished,
            quiet: &mut self.quiet,
            capacity: SOURCE_ROWS,
            paused: &self.paused,
        };
        self.wait = None;
        let next = self.reader.poll(&mut out)?;
        let got = self.rows.values.len();
        if got > 0 {
            self.metrics.rows_in.add(got as u64);
            if self.idle {
                self.set_idle(false)?;
            }
            self.stamp();
            self.out.push(&mut self.rows)?;
        }
        if !self.finished.is_empty() {
            for lane in self.finished.drain(..) {
                self.lanes.remove(&lane);
            }
            if !self.lanes.is_empty() {
                self.merge_lanes()?;
            }
        }
        let idle_at = self.check_idleness(next)?;
        self.wait = match next {
            Next::More => None,
            Next::Wait => idle_at,
            Next::Until(at) => Some(idle_at.map_or(at, |idle_at| idle_at.min(at))),
        };
        Ok(if next == Next::More || got > 0 { Progress::Worked } else { Progress::Idle })
    }
}

impl<S: Source> Task for ReaderTask<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn subtask(&self) -> u16 {
        self.subtask
    }

    fn run(&mut self, turn: &mut Turn<'_>) -> Res<Progress> {
        if self.out.blocked() {
            self.out.flush(false)?;
        }
        let mut worked = self.listen()?;
        self.greet()?;
        if self.lanes.is_empty() || self.ended || self.stopped {
            // Nobody should wait for it.
            self.leave_alignment();
        }
        if let Some(barrier) = &self.barrier {
            let drains = barrier.kind == BarrierKind::Stop(StopMode::Drain) && !self.ended;
            let overtakes = barrier.may_overtake(turn.now);
            self.out.flush(true)?;
            if drains && !self.out.blocked() {
                self.finish()?;
                self.out.flush(true)?;
            }
            if self.out.blocked() && !overtakes {
                self.hold();
                return Ok(Progress::Blocked);
            }
        }
        if let Some(barrier) = self.barrier.take() {
            if self.out.blocked() {
                self.out.force()?;
            }
            self.snapshot(turn.parts)?;
            self.out.barrier(&barrier, turn.parts)?;
            self.stopped |= barrier.kind.is_last();
            *turn.passed = Some(barrier);
            return Ok(Progress::Worked);
        }
        if self.out.blocked() {
            self.hold();
            return Ok(Progress::Blocked);
        }
        if !self.heard_enumerator() || self.ended || self.stopped {
            return Ok(if worked { Progress::Worked } else { Progress::Idle });
        }
        if self.lanes.is_empty() {
            if self.no_more_splits {
                self.finish()?;
            } else if !self.idle {
                self.set_idle(true)?;
                worked = true;
            }
            return Ok(if worked { Progress::Worked } else { Progress::Idle });
        }
        for _ in 0..4 {
            match self.read()? {
                Progress::Worked => worked = true,
                other => return Ok(if worked { Progress::Worked } else { other }),
            }
            if self.out.blocked() {
                self.hold();
                return Ok(Progress::Blocked);
            }
            if self.lanes.is_empty() {
                break;
            }
        }
        Ok(Progress::Worked)
    }

    fn flush(&mut self) -> Res<bool> {
        self.out.flush(true)?;
        Ok(self.out.blocked())
    }

    fn next_time(&self) -> Option<Ts> {
        self.wait.map(in_millis)
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        Vec::new()
    }

    fn ended(&self) -> bool {
        self.ended
    }

    fn metrics(&self) -> &Arc<NodeMetrics> {
        &self.metrics
    }
}

/// Ids of splits, for messages.
pub fn split_ids<S: Split>(splits: &[S]) -> Vec<String> {
    splits.iter().map(Split::id).collect()
}

/// The splits' batch type on the channel from the enumerator.
pub fn split_marks<S: Split>(batch: &mut dyn AnyBatch) -> Option<&mut Vec<(u32, Ts)>> {
    crate::runtime::operator::marks_of::<S>(batch)
}
