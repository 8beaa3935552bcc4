//! What is written is read, and what was not written is refused.

use crate::seed;
use millrace_engine::data::{AnyBatch, Packet, Rows};
use millrace_engine::exchange::codec::{Codec, CodecError, Columnar, Either, Packets};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
enum Shape {
    Nothing,
    Circle(f64),
    Line(i32, i32),
    Text { text: String, bold: bool },
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Mark;

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Row {
    id: u64,
    small: (u8, i16, bool, char),
    wide: i128,
    name: String,
    maybe: Option<Box<Row>>,
    shapes: Vec<Shape>,
    by_name: BTreeMap<String, Vec<u8>>,
    units: Vec<()>,
    mark: Mark,
    fixed: [u16; 3],
}

fn text(rng: &mut fastrand::Rng) -> String {
    (0..rng.usize(..12)).map(|_| rng.char(..)).collect()
}

fn row(rng: &mut fastrand::Rng, depth: u32) -> Row {
    let shape = |rng: &mut fastrand::Rng| match rng.u8(..4) {
        0 => Shape::Nothing,
        1 => Shape::Circle(rng.f64()),
        2 => Shape::Line(rng.i32(..), rng.i32(..)),
        _ => Shape::Text { text: text(rng), bold: rng.bool() },
    };
    Row {
        id: rng.u64(..),
        small: (rng.u8(..), rng.i16(..), rng.bool(), rng.char(..)),
        wide: rng.i128(..),
        name: text(rng),
        maybe: (depth > 0 && rng.bool()).then(|| Box::new(row(rng, depth - 1))),
        shapes: (0..rng.usize(..4)).map(|_| shape(rng)).collect(),
        by_name: (0..rng.usize(..3))
            .map(|_| (text(rng), vec![rng.u8(..); rng.usize(..5)]))
            .collect(),
        units: vec![(); rng.usize(..3)],
        mark: Mark,
        fixed: [rng.u16(..), 1, 2],
    }
}

fn packet(rng: &mut fastrand::Rng) -> Packet<Row> {
    let mut packet = Packet::default();
    let rows = rng.usize(..40);
    let mut watermark = -100;
    for _ in 0..rows {
        if rng.u8(..4) == 0 {
            watermark += rng.i64(1..10);
            packet.mark(watermark);
        }
        packet.rows.push((rng.i64(..), rng.u64(..), row(rng, 3)));
    }
    if rng.bool() {
        packet.mark(watermark + 1);
    }
    packet
}

fn typed<T: 'static>(batch: &dyn AnyBatch) -> &T {
    batch.as_any().downcast_ref::<T>().unwrap()
}

/// Bytes in front of the rows.
const HEAD: usize = 9;

#[test]
fn packets_come_back_however_they_are_cut() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let codec = Packets::<Row>::new();
    let mut recycled = None;
    for _ in 0..200 {
        let packet = packet(&mut rng);
        let limit = rng.usize(1..4000);
        let (mut from, mut found) = (0, Packet::<Row>::default());
        loop {
            let mut bytes = vec![9; rng.usize(..3)];
            let before = bytes.len();
            from = codec.encode(&packet, from, limit, &mut bytes).unwrap();
            let batch = codec.decode(&bytes[before..], recycled.take()).unwrap();
            let piece = typed::<Packet<Row>>(batch.as_ref());
            let shift = found.rows.len() as u32;
            found.rows.extend(piece.rows.iter().cloned());
            found.marks.extend(piece.marks.iter().map(|(at, w)| (at + shift, *w)));
            recycled = Some(batch);
            if from >= packet.rows.len() {
                break;
            }
        }
        assert_eq!(found.rows, packet.rows);
        assert_eq!(found.marks, packet.marks);
    }
}

#[test]
fn columns_and_both_kinds_of_batch_come_back() {
    let mut rows = Rows::<String>::default();
    rows.push(5, "five".to_owned());
    rows.mark(6);
    rows.push(7, String::new());
    let codec = Columnar::<String>::new();
    let mut bytes = Vec::new();
    assert_eq!(codec.encode(&rows, 0, 1 << 20, &mut bytes).unwrap(), 2);
    let batch = codec.decode(&bytes, None).unwrap();
    let found = typed::<Rows<String>>(batch.as_ref());
    assert_eq!((&found.ts, &found.values, &found.marks), (&rows.ts, &rows.values, &rows.marks));
    assert!(found.hash.is_empty());

    let codec = Either::<u64>::new(Arc::new(Packets::<String>::new()));
    let first = Packet { rows: vec![(1, 2, "a".to_owned())], marks: vec![(1, 3)] };
    let mut second = Packet { rows: vec![(4, 5, 6_u64)], marks: vec![] };
    let (mut one, mut two) = (Vec::new(), Vec::new());
    codec.encode(&first, 0, 1, &mut one).unwrap();
    codec.encode(&second, 0, 1, &mut two).unwrap();
    let batch = codec.decode(&one, None).unwrap();
    assert_eq!(typed::<Packet<String>>(batch.as_ref()).rows, first.rows);
    // An emptied batch of the other type is let go.
    let batch = codec.decode(&two, Some(batch)).unwrap();
    assert_eq!(typed::<Packet<u64>>(batch.as_ref()).rows, second.rows);
    codec.clear(&mut second);
    assert!(second.is_vacant());
    let wrong = codec.encode(&Packet::<bool>::default(), 0, 1, &mut one);
    assert!(matches!(wrong, Err(CodecError::Type(_))), "{wrong:?}");
}

#[test]
fn no_bytes_make_it_panic() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let codec = Packets::<Row>::new();
    let mut refused = 0;
    for _ in 0..3_000 {
        let mut bytes = Vec::new();
        codec.encode(&packet(&mut rng), 0, 1 << 20, &mut bytes).unwrap();
        match rng.u8(..3) {
            0 => bytes.truncate(rng.usize(..bytes.len())),
            1 => {
                let length = rng.usize(..300);
                bytes = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
            }
            _ => {
                for _ in 0..rng.usize(1..5) {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = if rng.bool() { 255 } else { rng.u8(..) };
                }
            }
        }
        refused += usize::from(codec.decode(&bytes, None).is_err());
    }
    assert!(refused > 1_000);
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Nested(Option<Box<Nested>>);

#[test]
fn claims_are_checked_against_the_bytes() {
    let head = |rows: u32, marks: u32| {
        let mut bytes = rows.to_le_bytes().to_vec();
        bytes.extend(marks.to_le_bytes());
        bytes.push(1);
        bytes
    };
    let units = Packets::<()>::new();
    for claim in [head(u32::MAX, 0), head(0, u32::MAX), head(u32::MAX, u32::MAX)] {
        let wrong = units.decode(&claim, None).err();
        assert!(matches!(wrong, Some(CodecError::Beyond { .. })), "{wrong:?}");
    }
    // Four billion elements that are nothing.
    let mut bytes = Vec::new();
    let one = Packet { rows: vec![(0, 0, vec![(); 2])], marks: vec![] };
    let codec = Packets::<Vec<()>>::new();
    codec.encode(&one, 0, 1 << 20, &mut bytes).unwrap();
    bytes[HEAD..HEAD + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let wrong = codec.decode(&bytes, None).err();
    assert!(matches!(wrong, Some(CodecError::Beyond { what: "length", .. })), "{wrong:?}");
    // Boxes in boxes.
    let mut bytes = head(1, 0);
    bytes.extend(vec![1; 1_000_000]);
    let wrong = Packets::<Nested>::new().decode(&bytes, None).err();
    assert!(matches!(wrong, Some(CodecError::Depth(_))), "{wrong:?}");
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Flat {
    #[serde(flatten)]
    inner: BTreeMap<String, u64>,
}

#[test]
fn a_type_that_is_read_by_names_is_told_what_to_do() {
    let one = Packet {
        rows: vec![(0, 0, Flat { inner: BTreeMap::from([("a".to_owned(), 1)]) })],
        marks: vec![],
    };
    let codec = Packets::<Flat>::new();
    let mut bytes = Vec::new();
    codec.encode(&one, 0, 1 << 20, &mut bytes).unwrap();
    let told = codec.decode(&bytes, None).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(told.contains("flatten"), "{told}");
}
