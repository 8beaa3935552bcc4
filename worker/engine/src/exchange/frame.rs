//! Frames: what a connection between two workers carries. Pure.
//!
//! ```text
//! magic: u16, kind: u8, 0: u8, channel: u32, length: u32,
//! crc32 of payload: u32, crc32 of all this: u32, payload
//! ```
//!
//! The header has a checksum of its own: a length that was changed would have the reader
//! wait for bytes that never come. Who reads a frame has buffered at most twice
//! what has arrived of it, whatever length it claims.

use super::codec::read::Reader;
use super::codec::{CodecError, Coded};
use crate::coordinator::{BarrierKind, StopMode};
use crate::runtime::snapshot::Barrier;
use millrace_protocol::ids::{Attempt, CheckpointId};
use thiserror::Error;

/// Bytes in front of a payload.
pub const HEADER: usize = 20;

/// Bytes of a payload, at most.
pub const MAX_PAYLOAD: usize = 64 << 20;

const MAGIC: u16 = 0x784d;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows, in the form of the edge's codec.
    Batch = 1,
    /// A watermark.
    Watermark = 2,
    /// Idle or active.
    Idle = 3,
    /// A checkpoint's barrier.
    Barrier = 4,
    /// No more rows.
    End = 5,
    /// Leave to send so many more bytes of batches; the other way round.
    Credit = 6,
    /// The sender stops for a reason that its coordinator knows: no failure.
    Bye = 7,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Batch,
            2 => Self::Watermark,
            3 => Self::Idle,
            4 => Self::Barrier,
            5 => Self::End,
            6 => Self::Credit,
            7 => Self::Bye,
            _ => return None,
        })
    }
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The stream is not where a frame begins.
    #[error("{0:#06x} where a frame should begin")]
    Magic(u16),
    /// A kind that this version does not know.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// A length beyond the limit.
    #[error("a frame of {0} bytes; the limit is {MAX_PAYLOAD}")]
    Length(u32),
    /// The checksum does not hold.
    #[error("checksum {found:08x} where the frame says {expected:08x}")]
    Checksum {
        /// Of the bytes that came.
        found: u32,
        /// In the header.
        expected: u32,
    },
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Whose.
    pub channel: u32,
    /// Bytes of payload.
    pub length: usize,
    crc: u32,
}

impl Header {
    /// Reads the header at the front of `bytes`; `None` if more must come.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some(front) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let [m0, m1, kind, zero, c0, c1, c2, c3, l0, l1, l2, l3, s0, s1, s2, s3, own @ ..] = *front;
        let magic = u16::from_le_bytes([m0, m1]);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let (found, expected) = (crc32fast::hash(&front[..16]), u32::from_le_bytes(own));
        if found != expected {
            return Err(FrameError::Checksum { found, expected });
        }
        let kind = Kind::of(kind).filter(|_| zero == 0).ok_or(FrameError::Kind(kind))?;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize > MAX_PAYLOAD {
            return Err(FrameError::Length(length));
        }
        Ok(Some(Self {
            kind,
            channel: u32::from_le_bytes([c0, c1, c2, c3]),
            length: length as usize,
            crc: u32::from_le_bytes([s0, s1, s2, s3]),
        }))
    }

    /// Header and payload together.
    #[must_use]
    pub fn total(&self) -> usize {
        HEADER + self.length
    }

    /// The payload of the frame at the front of `bytes`, which holds all of it.
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], FrameError> {
        let frame = bytes.get(..self.total()).unwrap_or(bytes);
        let payload = frame.get(HEADER..).unwrap_or_default();
        let found = crc32fast::hash(payload);
        let expected = self.crc;
        if found == expected { Ok(payload) } else { Err(FrameError::Checksum { found, expected }) }
    }
}

/// Leaves room for a header; the payload is appended next, and then [`close`] called.
pub fn open(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER]);
    at
}

/// Writes the header of the frame that [`open`] began at `at` and that ends here. Answers
/// the length of its payload.
pub fn close(out: &mut [u8], at: usize, kind: Kind, channel: u32) -> Result<usize, FrameError> {
    let Some(frame) = out.get_mut(at..) else { return Ok(0) };
    let Some((header, payload)) = frame.split_at_mut_checked(HEADER) else { return Ok(0) };
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if payload.len() > MAX_PAYLOAD {
        return Err(FrameError::Length(length));
    }
    header[..2].copy_from_slice(&MAGIC.to_le_bytes());
    header[2] = kind as u8;
    header[3] = 0;
    header[4..8].copy_from_slice(&channel.to_le_bytes());
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[12..16].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let own = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&own.to_le_bytes());
    Ok(payload.len())
}

/// Appends a whole frame with a small payload.
pub fn put(out: &mut Vec<u8>, kind: Kind, channel: u32, payload: &[u8]) {
    let at = open(out);
    out.extend_from_slice(payload);
    // Small payloads are within the limit.
    let _ = close(out, at, kind, channel);
}

/// A barrier's payload.
#[must_use]
pub fn barrier_bytes(barrier: &Barrier) -> Vec<u8> {
    let mut out = Vec::with_capacity(35);
    out.extend_from_slice(&barrier.attempt.0.to_le_bytes());
    out.extend_from_slice(&barrier.checkpoint.0.to_le_bytes());
    out.push(u8::from(barrier.base.is_some()));
    out.extend_from_slice(&barrier.base.map_or(0, |b| b.0).to_le_bytes());
    out.push(match barrier.kind {
        BarrierKind::Periodic => 0,
        BarrierKind::Savepoint => 1,
        BarrierKind::Stop(StopMode::Suspend) => 2,
        BarrierKind::Stop(StopMode::Drain) => 3,
        BarrierKind::Final => 4,
        BarrierKind::Rescale => 5,
    });
    out.push(u8::from(barrier.unaligned_at.is_some()));
    out.extend_from_slice(&barrier.unaligned_at.unwrap_or(0).to_le_bytes());
    out
}

/// The barrier of a payload.
pub fn barrier_of(bytes: &[u8]) -> Coded<Barrier> {
    let mut reader = Reader::new(bytes);
    let attempt = Attempt(reader.u64()?);
    let checkpoint = CheckpointId(reader.u64()?);
    let has_base = flag(reader.u8()?)?;
    let base = Some(CheckpointId(reader.u64()?)).filter(|_| has_base);
    let kind = match reader.u8()? {
        0 => BarrierKind::Periodic,
        1 => BarrierKind::Savepoint,
        2 => BarrierKind::Stop(StopMode::Suspend),
        3 => BarrierKind::Stop(StopMode::Drain),
        4 => BarrierKind::Final,
        5 => BarrierKind::Rescale,
        other => return Err(CodecError::Tag(u32::from(other), "kind of barrier")),
    };
    let overtakes = flag(reader.u8()?)?;
    let unaligned_at = Some(reader.u64()? as i64).filter(|_| overtakes);
    ended(&reader)?;
    Ok(Barrier { attempt, checkpoint, base, kind, unaligned_at })
}

/// The only word of a payload: a watermark, or credit.
pub fn word_of(bytes: &[u8]) -> Coded<u64> {
    let mut reader = Reader::new(bytes);
    let word = reader.u64()?;
    ended(&reader)?;
    Ok(word)
}

/// The only flag of a payload.
pub fn flag_of(bytes: &[u8]) -> Coded<bool> {
    let mut reader = Reader::new(bytes);
    let byte = reader.u8()?;
    ended(&reader)?;
    flag(byte)
}

fn flag(byte: u8) -> Coded<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(CodecError::Tag(u32::from(other), "flag")),
    }
}

fn ended(reader: &Reader<'_>) -> Coded {
    match reader.left() {
        0 => Ok(()),
        left => Err(CodecError::Rest(left)),
    }
}
