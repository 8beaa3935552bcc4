//! Reading frames off a connection, with a buffer that grows only with what has come.

use super::frame::{HEADER, Header};
use std::io::Read;

/// Read at a time where frames are small.
const READ: usize = 64 << 10;

/// What a read buffer keeps after a large frame.
const KEEP: usize = 4 << 20;

/// Frames of a connection, one after the other.
pub struct Frames<R> {
    incoming: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Frames<R> {
    /// Frames of what is read from `incoming`.
    pub fn new(incoming: R) -> Self {
        Self { incoming, buffer: vec![0; READ], start: 0, end: 0 }
    }

    /// Size of its buffer.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Gives the next frame to `f` and answers what it does. Waits for it.
    pub fn next<T>(
        &mut self,
        f: &mut impl FnMut(Header, &[u8]) -> Result<T, String>,
    ) -> Result<T, String> {
        loop {
            let have = self.buffer.get(self.start..self.end).unwrap_or_default();
            let header = Header::parse(have).map_err(|e| format!("not a frame: {e}"))?;
            let wanted = match header {
                Some(header) if have.len() >= header.total() => {
                    let payload = header.payload(have);
                    let payload = payload.map_err(|e| format!("a damaged frame: {e}"))?;
                    let answer = f(header, payload);
                    self.start += header.total();
                    return answer;
                }
                Some(header) => header.total(),
                None => HEADER,
            };
            self.fill(wanted)?;
        }
    }

    /// Reads more of a frame of `wanted` bytes.
    fn fill(&mut self, wanted: usize) -> Result<(), String> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > KEEP {
                self.buffer.truncate(READ);
                self.buffer.shrink_to_fit();
            }
        }
        // Not much more than the frame, so that little of the next one has to be moved.
        let upto = (wanted + HEADER).max(READ);
        if self.start + upto > self.buffer.len() && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() || self.buffer.len() < upto.min(KEEP) {
            // At most twice what has come, for a length is only a claim.
            let length = upto.min((2 * self.buffer.len()).max(READ));
            self.buffer.resize(length.max(self.buffer.len()), 0);
        }
        let limit = (self.start + upto).min(self.buffer.len());
        let place = self.buffer.get_mut(self.end..limit).unwrap_or_default();
        match self.incoming.read(place) {
            Ok(0) => Err("the connection was closed".to_owned()),
            Ok(n) => {
                self.end += n;
                Ok(())
            }
            Err(error) => Err(format!("the connection broke: {error}")),
        }
    }
}
