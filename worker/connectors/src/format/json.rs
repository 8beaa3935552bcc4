//! JSON lines: one JSON value a line.

use super::{Decode, Decoder, Encode, Encoder, Step};
use millrace_engine::data::Res;
use serde::{Serialize, de::DeserializeOwned};
use std::marker::PhantomData;

/// JSON lines: one JSON value a line. Since a line break inside a value is
/// written as `\n`, files can be split at any line.
#[derive(Debug, Clone, Default)]
pub struct JsonLines;

impl JsonLines {
    /// JSON lines.
    pub fn new() -> Self {
        Self
    }
}

/// Reads JSON lines.
#[derive(Debug)]
pub struct JsonLinesDecoder<T>(PhantomData<fn() -> T>);

impl<T: DeserializeOwned + Send + 'static> Decode<T> for JsonLines {
    type Decoder = JsonLinesDecoder<T>;

    fn decoder(&self) -> Self::Decoder {
        JsonLinesDecoder(PhantomData)
    }

    fn splittable(&self) -> bool {
        true
    }
}

impl<T: DeserializeOwned> Decoder<T> for JsonLinesDecoder<T> {
    fn next(&mut self, input: &[u8], end: bool) -> Step<T> {
        let (line, len) = match memchr::memchr(b'\n', input) {
            Some(at) => (&input[..at], at + 1),
            None if end => (input, input.len()),
            None => return Step::More,
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            return Step::Skip(len);
        }
        match serde_json::from_slice(line) {
            Ok(row) => Step::Row(len, row),
            Err(e) => Step::Bad(len, e.to_string()),
        }
    }
}

/// Writes JSON lines.
#[derive(Debug, Default)]
pub struct JsonLinesEncoder {
    bytes: Vec<u8>,
}

impl<T: Serialize> Encode<T> for JsonLines {
    type Encoder = JsonLinesEncoder;

    fn encoder(&self) -> Self::Encoder {
        JsonLinesEncoder::default()
    }

    fn extension(&self) -> &str {
        "jsonl"
    }
}

impl<T: Serialize> Encoder<T> for JsonLinesEncoder {
    fn encode(&mut self, row: &T) -> Res {
        let before = self.bytes.len();
        if let Err(e) = serde_json::to_writer(&mut self.bytes, row) {
            self.bytes.truncate(before);
            return Err(e.into());
        }
        self.bytes.push(b'\n');
        Ok(())
    }

    fn drain(&mut self, out: &mut Vec<u8>) -> Res {
        out.append(&mut self.bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_costs_only_itself() {
        let input = b"{\"a\":1}\n{\"a\":\n\r\n{\"a\":2}";
        let mut decoder: JsonLinesDecoder<serde_json::Value> = JsonLines.decoder();
        let (mut at, mut rows, mut bad) = (0, vec![], 0);
        while at < input.len() {
            match decoder.next(&input[at..], true) {
                Step::Row(n, v) => (at, _) = (at + n, rows.push(v["a"].clone())),
                Step::Skip(n) => at += n,
                Step::Bad(n, _) => (at, bad) = (at + n, bad + 1),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((rows, bad), (vec![1.into(), 2.into()], 1));
    }
}
