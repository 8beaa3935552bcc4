//! The file that rows go to which could not be read.
//!
//! JSON lines of `source` (its uid), `origin` (the file or partition), `offset`
//! (in bytes, for files), `reason`, `raw` and `raw_encoding`: `utf8`, or `base64`
//! for a row that is not UTF-8. At least once: a restart may put rows again.

use millrace_engine::connector::DeadLetters;
use millrace_engine::data::UserError;
use millrace_protocol::ids::Uid;
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Writes dead letters to a file, appending to what is there.
///
/// Never fails the job: a letter that cannot be written is counted, and the
/// first such failure is logged.
#[derive(Debug)]
pub struct DeadLetterFile {
    path: PathBuf,
    file: Mutex<File>,
    /// Bytes that may still be written.
    room: AtomicU64,
    put: AtomicU64,
    lost: AtomicU64,
}

#[derive(Serialize)]
struct Letter<'a> {
    source: &'a str,
    origin: &'a str,
    offset: u64,
    reason: &'a str,
    raw: &'a str,
    raw_encoding: &'static str,
}

impl DeadLetterFile {
    /// Opens `DIR/NAME.jsonl`, and creates both if necessary. `name` must differ
    /// between processes that write at the same time.
    pub fn open(dir: impl AsRef<Path>, name: &str) -> Result<Self, UserError> {
        let dir = dir.as_ref();
        let path = dir.join(format!("{name}.jsonl"));
        let failed = |e: io::Error| {
            UserError(format!("cannot write dead letters to `{}`: {e}", path.display()))
        };
        fs::create_dir_all(dir).map_err(failed)?;
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        Ok(Self {
            file: Mutex::new(file),
            room: AtomicU64::new(1 << 30),
            put: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            path,
        })
    }

    /// Writes at most this much, 1 GiB by default: more is counted as lost.
    pub fn max_bytes(self, bytes: u64) -> Self {
        self.room.store(bytes, Ordering::Relaxed);
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Letters put so far, lost ones too.
    pub fn count(&self) -> u64 {
        self.put.load(Ordering::Relaxed)
    }

    /// Letters that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Makes what was put so far last.
    pub fn sync(&self) -> io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).sync_data()
    }

    fn write(&self, letter: &Letter<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(letter)?;
        line.push(b'\n');
        let len = line.len() as u64;
        let take = |room: u64| room.checked_sub(len);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(io::Error::other("the file is full; see `max_bytes`"));
        }
        // One write call a line: a kill leaves whole lines.
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }
}

impl DeadLetters for DeadLetterFile {
    fn put(&self, source: &Uid, origin: &str, offset: u64, reason: &str, raw: &[u8]) {
        let text = std::str::from_utf8(raw);
        let encoded = if text.is_ok() { String::new() } else { base64(raw) };
        let (raw, raw_encoding) = match text {
            Ok(text) => (text, "utf8"),
            Err(_) => (encoded.as_str(), "base64"),
        };
        let source = source.as_str();
        self.put.fetch_add(1, Ordering::Relaxed);
        let letter = Letter { source, origin, offset, reason, raw, raw_encoding };
        if let Err(error) = self.write(&letter)
            && self.lost.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::error!(
                path = %self.path.display(), %error, source, origin, offset,
                "cannot write a dead letter; this and later ones are only counted"
            );
        }
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = word >> (18 - 6 * digit) & 63;
            text.push(if digit <= chunk.len() { DIGITS[value as usize].into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_json_lines_and_never_fail_the_job() {
        let dir = tempfile::tempdir().unwrap();
        let letters =
            DeadLetterFile::open(dir.path().join("dead"), "flights").unwrap().max_bytes(250);
        let uid = Uid::from("flights");
        letters.put(&uid, "a.csv", 7, "no number", b"x,\"y\"");
        letters.put(&uid, "a.csv", 12, "not UTF-8", b"\xff\xfe,f");
        letters.put(&uid, "a.csv", 17, "too much", &[b'x'; 100]);
        assert_eq!((letters.count(), letters.lost()), (3, 1));
        let text = fs::read_to_string(letters.path()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"source":"flights","origin":"a.csv","offset":7,"reason":"no number","#,
                r#""raw":"x,\"y\"","raw_encoding":"utf8"}"#,
                "\n",
                r#"{"source":"flights","origin":"a.csv","offset":12,"reason":"not UTF-8","#,
                r#""raw":"//4sZg==","raw_encoding":"base64"}"#,
                "\n",
            )
        );
        // Appends to what is there.
        let again = DeadLetterFile::open(dir.path().join("dead"), "flights").unwrap();
        again.put(&uid, "a.csv", 7, "no number", b"");
        assert_eq!(fs::read_to_string(again.path()).unwrap().lines().count(), 3);
        assert!(DeadLetterFile::open(again.path(), "x").unwrap_err().0.contains("dead letters"));
    }

    #[test]
    fn base64_as_in_the_rfc() {
        let coded = ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes()));
        assert_eq!(coded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }
}
