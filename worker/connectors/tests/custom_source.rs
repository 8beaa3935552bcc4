//! A source of one's own, worked out: sensors that each keep a log of numbered
//! readings, and are asked for them over a slow line.
//!
//! What there is to decide:
//! - **Split**: what one reader owns, with the position in it. Here a sensor, and
//!   the number of the next reading. Positions are stored in every checkpoint.
//! - **Discovery**: which splits there are; called in the job's one enumerator.
//! - **Reader**: may not block, so the slow line gets a thread of its own, which
//!   wakes the slot when readings have come.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use millrace_connectors::contract;
use millrace_engine::connector::{Lane, Next, Reader, Source, SourceCx, SourceOut, Split};
use millrace_engine::data::{Res, Ts};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::thread;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
struct Reading {
    at: Ts,
    value: u64,
}

/// The far end: gives at most ten readings a call.
struct Sensors(BTreeMap<String, Vec<Reading>>);

impl Sensors {
    fn fetch(&self, sensor: &str, from: u64) -> Vec<Reading> {
        thread::sleep(Duration::from_micros(50));
        self.0[sensor].iter().skip(from as usize).take(10).cloned().collect()
    }
}

/// The source itself holds only what it takes to connect: it is cloned freely.
#[derive(Clone)]
struct SensorSource(Arc<Sensors>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SensorSplit {
    sensor: String,
    /// Number of the next reading.
    next: u64,
}

impl Split for SensorSplit {
    /// Without the position: two splits of the same id are the same sensor.
    fn id(&self) -> String {
        self.sensor.clone()
    }
}

impl Source for SensorSource {
    type Out = Reading;
    type Split = SensorSplit;
    type Reader = SensorReader;

    fn discover(&mut self, known: &[SensorSplit]) -> Res<Vec<SensorSplit>> {
        let is_new = |sensor: &&String| known.iter().all(|split| split.sensor != **sensor);
        let split = |sensor: &String| SensorSplit { sensor: sensor.clone(), next: 0 };
        Ok(self.0.0.keys().filter(is_new).map(split).collect())
    }

    // For sensors that appear later, `discover_every` would give a period.

    fn reader(&self, cx: SourceCx) -> Res<SensorReader> {
        Ok(SensorReader { source: self.clone(), cx, lines: Vec::new() })
    }
}

struct SensorReader {
    source: SensorSource,
    cx: SourceCx,
    lines: Vec<Line>,
}

/// One sensor: what has come and is not emitted yet.
struct Line {
    lane: Lane,
    split: SensorSplit,
    come: Receiver<Vec<Reading>>,
    waiting: VecDeque<Reading>,
}

impl Reader<Reading, SensorSplit> for SensorReader {
    fn assign(&mut self, lane: Lane, split: SensorSplit) -> Res {
        // Two answers ahead at most: then the thread waits, and so the sensor.
        let (send, come) = mpsc::sync_channel(2);
        let (sensors, waker) = (self.source.0.clone(), self.cx.waker.clone());
        let (sensor, next) = (split.sensor.clone(), split.next);
        // The thread ends with the log, or when the reader is dropped.
        thread::spawn(move || fetch_all(&sensors, &sensor, next, &send, &*waker));
        self.lines.push(Line { lane, split, come, waiting: VecDeque::new() });
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, Reading>) -> Res<Next> {
        let mut ended = Vec::new();
        for line in &mut self.lines {
            while !out.is_full() {
                if let Some(reading) = line.waiting.pop_front() {
                    // The position moves with the row, not with what was fetched.
                    line.split.next += 1;
                    out.emit_at(line.lane, reading.at, reading);
                    continue;
                }
                match line.come.try_recv() {
                    Ok(readings) => line.waiting.extend(readings),
                    Err(TryRecvError::Empty) => {
                        // It may become idle though others have readings.
                        out.quiet(line.lane);
                        break;
                    }
                    Err(TryRecvError::Disconnected) => {
                        ended.push(line.lane);
                        out.finish(line.lane);
                        break;
                    }
                }
            }
        }
        self.lines.retain(|line| !ended.contains(&line.lane));
        // Whoever sends afterwards wakes the slot again: nothing is missed.
        Ok(if out.is_full() { Next::More } else { Next::Wait })
    }

    fn positions(&mut self) -> Res<Vec<(Lane, SensorSplit)>> {
        Ok(self.lines.iter().map(|line| (line.lane, line.split.clone())).collect())
    }
}

fn fetch_all(
    sensors: &Sensors,
    sensor: &str,
    mut next: u64,
    send: &SyncSender<Vec<Reading>>,
    wake: &(dyn Fn() + Send + Sync),
) {
    loop {
        let readings = sensors.fetch(sensor, next);
        next += readings.len() as u64;
        if readings.is_empty() || send.send(readings).is_err() {
            break;
        }
        wake();
    }
    wake();
}

#[test]
fn the_sensors_keep_the_contract() {
    let log = |n: u64| (0..n * 40).map(|i| Reading { at: i as Ts * 1000, value: i * n }).collect();
    let sensors = (0..5).map(|n| (format!("sensor-{n}"), log(n))).collect();
    let source = SensorSource(Arc::new(Sensors(sensors)));
    contract::source(|| source.clone());
}
