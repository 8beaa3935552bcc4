//! The plain halves: the same work in one thread and one loop, with no engine.
//!
//! They use the tables and the hash that the engine uses, so that a ratio tells
//! what the engine costs and not which hash is faster.

use crate::events::{Event, WINDOW_MS, digest, event};
use hashbrown::{HashTable, hash_table::Entry};
use millrace_protocol::key::Key;
use serde::{Deserialize, Serialize};
use std::io::{BufWriter, Read, Write};
use std::ops::Range;

/// (key, accumulator)
type Table = HashTable<(u64, u64)>;

/// The accumulator of `key`, zero if it is new.
#[inline]
fn slot(table: &mut Table, key: u64) -> &mut u64 {
    match table.entry(key.hash64(), |entry| entry.0 == key, |entry| entry.0.hash64()) {
        Entry::Occupied(entry) => &mut entry.into_mut().1,
        Entry::Vacant(entry) => &mut entry.insert((key, 0)).into_mut().1,
    }
}

/// Count per key and tumbling window of 1 s; emits and clears at each window's
/// end. Returns the checksum of all results.
pub fn window_count(rows: u64, keys: u64) -> u64 {
    let mut table = Table::new();
    let mut end = WINDOW_MS;
    let mut checksum = 0;
    for i in 0..rows {
        let Event { key, ts, .. } = event(i, keys);
        if ts >= end {
            checksum = fire(&mut table, end, checksum);
            end = ts - ts % WINDOW_MS + WINDOW_MS;
        }
        *slot(&mut table, key) += 1;
    }
    fire(&mut table, end, checksum)
}

fn fire(table: &mut Table, end: i64, checksum: u64) -> u64 {
    let fired = table.iter().fold(checksum, |sum, (key, count)| {
        sum.wrapping_add(digest(*key, end - WINDOW_MS, *count))
    });
    table.clear();
    fired
}

/// Running sum per key, emitting every update. Returns the checksum.
pub fn running_reduce(rows: u64, keys: u64) -> u64 {
    let mut table = Table::new();
    let mut checksum = 0_u64;
    for i in 0..rows {
        let Event { key, value, .. } = event(i, keys);
        let sum = slot(&mut table, key);
        *sum += value;
        checksum = checksum.wrapping_add(digest(key, 0, *sum));
    }
    checksum
}

/// First closure of the chain.
#[inline]
pub fn chain_first(event: Event) -> (u64, u64) {
    (event.key, event.value.wrapping_mul(3).wrapping_add(event.ts as u64))
}

/// Second closure of the chain: keeps three of four.
#[inline]
pub fn chain_keep(row: &(u64, u64)) -> bool {
    row.1 & 3 != 0
}

/// Third closure of the chain.
#[inline]
pub fn chain_last(row: (u64, u64)) -> u64 {
    row.0 ^ (row.1 << 20)
}

/// map -> filter -> map in a loop. Returns the wrapping sum of what came out.
pub fn chain(rows: u64, keys: u64) -> u64 {
    let mut checksum = 0_u64;
    for i in 0..rows {
        let row = chain_first(event(i, keys));
        if chain_keep(&row) {
            checksum = checksum.wrapping_add(chain_last(row));
        }
    }
    checksum
}

/// The generator with nothing behind it.
pub fn generate(rows: u64, keys: u64) -> u64 {
    let mut checksum = 0_u64;
    for i in 0..rows {
        let Event { key, ts, value } = event(i, keys);
        checksum = checksum.wrapping_add(key ^ value ^ ts as u64);
    }
    checksum
}

/// Rows of a batch, as many as a source of the engine makes at once.
const BATCH: u64 = 512;

/// As [`chain`], but with a batch in memory between what in the engine are different
/// things that do not know of each other when they are compiled: the source, what finds
/// its rows' times, the closures, the sink. What is lost to [`chain`] is lost to this
/// division, not to the engine.
pub fn chain_batched(rows: u64, keys: u64) -> u64 {
    let (mut events, mut stamps) = (Vec::new(), Vec::new());
    let (mut kept, mut kept_stamps) = (Vec::new(), Vec::new());
    let mut checksum = 0_u64;
    for from in (0..rows).step_by(BATCH as usize) {
        make(&mut events, from..rows.min(from + BATCH), keys);
        std::hint::black_box(stamp(&events, &mut stamps));
        close(&mut events, &stamps, (&mut kept, &mut kept_stamps));
        checksum = checksum.wrapping_add(sum(&kept));
        std::hint::black_box(&kept_stamps);
        stamps.clear();
        kept.clear();
        kept_stamps.clear();
    }
    checksum
}

#[inline(never)]
fn make(events: &mut Vec<Event>, indices: Range<u64>, keys: u64) {
    events.extend(indices.map(|i| event(i, keys)));
}

#[inline(never)]
fn stamp(events: &[Event], stamps: &mut Vec<i64>) -> i64 {
    stamps.extend(events.iter().map(|event| event.ts));
    stamps.iter().copied().fold(i64::MIN, i64::max)
}

#[inline(never)]
fn close(events: &mut Vec<Event>, stamps: &[i64], (kept, times): (&mut Vec<u64>, &mut Vec<i64>)) {
    for (event, ts) in events.drain(..).zip(stamps) {
        let row = chain_first(event);
        if chain_keep(&row) {
            times.push(*ts);
            kept.push(chain_last(row));
        }
    }
}

#[inline(never)]
fn sum(kept: &[u64]) -> u64 {
    kept.iter().fold(0, |sum, row| sum.wrapping_add(*row))
}

/// A row of the CSV bench, of the width and kind of a flight's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Departure {
    /// Scheduled departure, milliseconds since the epoch.
    pub scheduled_ms: i64,
    /// Airport: three letters, few of them.
    pub origin: String,
    /// Airline: two letters.
    pub carrier: String,
    /// Flight number.
    pub flight: u32,
    /// Aircraft: four thousand of them.
    pub tailnum: String,
    /// Minutes; empty for one in 40, which were cancelled.
    pub dep_delay: Option<f64>,
}

/// Departure number `i`; twenty a second of event time.
pub fn departure(i: u64) -> Departure {
    let event = event(i, 4_000);
    let pick =
        |names: &[&str]| names.get(event.key as usize % names.len()).map(|s| (*s).to_owned());
    Departure {
        scheduled_ms: 1_357_000_000_000 + i as i64 * 50,
        origin: pick(&["EWR", "JFK", "LGA"]).unwrap_or_default(),
        carrier: pick(&["UA", "AA", "B6", "DL", "EV", "MQ", "US", "WN"]).unwrap_or_default(),
        flight: (event.key * 7 % 8_000) as u32,
        tailnum: format!("N{:05}", event.key * 17 % 100_000),
        dep_delay: (!i.is_multiple_of(40)).then_some(event.value as f64 - 20.0),
    }
}

/// Writes `rows` departures as CSV with a header.
pub fn write_departures(rows: u64, out: impl Write) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(BufWriter::new(out));
    for i in 0..rows {
        writer.serialize(departure(i))?;
    }
    Ok(writer.flush()?)
}

/// Parses departures into owned rows, and no more. Returns a checksum of them.
pub fn parse_departures(input: impl Read) -> anyhow::Result<u64> {
    let mut reader = csv::ReaderBuilder::new().buffer_capacity(1 << 18).from_reader(input);
    let mut checksum = 0_u64;
    for row in reader.deserialize::<Departure>() {
        let row = std::hint::black_box(row?);
        checksum = checksum.wrapping_add(row.scheduled_ms as u64 ^ u64::from(row.flight));
    }
    Ok(checksum)
}

/// Splits departures into fields, and no more. Returns the number of bytes.
pub fn split_departures(input: impl Read) -> anyhow::Result<u64> {
    let mut reader = csv::ReaderBuilder::new().buffer_capacity(1 << 18).from_reader(input);
    let mut record = csv::ByteRecord::new();
    let mut bytes = 0_u64;
    while reader.read_byte_record(&mut record)? {
        bytes += record.as_slice().len() as u64;
    }
    Ok(bytes)
}

/// A table of `keys` entries of (u64 -> u64).
pub fn table_of(keys: u64) -> Table {
    let mut table = Table::new();
    for key in 0..keys {
        *slot(&mut table, key) = key;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_chain_in_batches_gives_what_it_gives_without() {
        assert_eq!(chain_batched(100_001, 1_000), chain(100_001, 1_000));
    }

    #[test]
    fn the_windowed_count_is_that_of_a_sorted_map() {
        let (rows, keys) = (25_000_000, 7);
        let mut counts = BTreeMap::new();
        for Event { key, ts, .. } in (0..rows).map(|i| event(i, keys)) {
            *counts.entry((key, ts / WINDOW_MS)).or_insert(0) += 1;
        }
        let expected = counts.into_iter().fold(0_u64, |sum, ((key, window), count)| {
            sum.wrapping_add(digest(key, window * WINDOW_MS, count))
        });
        assert_eq!(window_count(rows, keys), expected);
    }

    #[test]
    fn departures_come_back_from_csv() {
        let mut file = Vec::new();
        write_departures(100, &mut file).unwrap();
        let mut reader = csv::Reader::from_reader(&file[..]);
        for (i, row) in reader.deserialize::<Departure>().enumerate() {
            assert_eq!(row.unwrap(), departure(i as u64));
        }
        assert!(parse_departures(&file[..]).is_ok());
    }

    /// What Flink printed for these numbers of events, so that both sides of
    /// `make bench-flink` are known to do the same work.
    #[test]
    fn checksums_are_those_of_the_peer() {
        assert_eq!(window_count(4_000_000, 1_000_000), 0x3c90_5573_2fa2_d097);
        assert_eq!(window_count(12_000_000, 1_000), 0x6f39_182d_7678_92b0);
        assert_eq!(running_reduce(1_000_000, 1_000_000), 0x9345_42e1_92e7_1361);
    }
}
