//! A batch that goes to several subtasks elsewhere: its rows are encoded once.

use super::{Coded, encode};
use crate::data::{AnyBatch, Packet};
use serde::{Serialize, de::DeserializeOwned};
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

struct Once<T> {
    packet: Packet<T>,
    /// All of it, once somebody has sent it in one frame.
    bytes: Option<Vec<u8>>,
}

/// Rows that several channels have, none of which leads to a task of this process. Whoever
/// sends them first encodes them for all, as far as they fit into one frame.
pub struct Shared<T> {
    rows: usize,
    of: Arc<Mutex<Once<T>>>,
}

impl<T> Shared<T> {
    /// These rows.
    pub fn new(packet: Packet<T>) -> Self {
        let rows = packet.rows.len();
        Self { rows, of: Arc::new(Mutex::new(Once { packet, bytes: None })) }
    }

    /// The same for another channel.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { rows: self.rows, of: Arc::clone(&self.of) }
    }

    /// This channel has sent them; they are gone when all have.
    pub(super) fn let_go(&mut self) {
        *self = Self::new(Packet::default());
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Shared<T> {
    pub(super) fn encode(&self, from: usize, limit: usize, out: &mut Vec<u8>) -> Coded<usize> {
        // A panic of a row's own code leaves it as it was.
        let mut once = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = once.bytes.as_ref().filter(|_| from == 0) {
            out.extend_from_slice(bytes);
            return Ok(self.rows);
        }
        let begin = out.len();
        let to = encode::<Packet<T>>(&once.packet, from, limit, out)?;
        if from == 0 && to == self.rows {
            once.bytes = Some(out[begin..].to_vec());
        }
        Ok(to)
    }
}

impl<T: Send + 'static> AnyBatch for Shared<T> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
