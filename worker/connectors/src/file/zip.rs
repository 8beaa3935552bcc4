//! Reads a zip archive that holds a single file.
//!
//! Just enough of APPNOTE.TXT: the central directory (for sizes and the
//! checksum), one member besides directories and `__MACOSX/`, stored or deflated;
//! Zip64 for what is large. The checksum is verified at the member's end.

use super::input::Stored;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// The end-of-central-directory record: 22 bytes and a comment of at most 64 KiB.
const END: [u8; 4] = *b"PK\x05\x06";
const END_LEN: usize = 22;
const END64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR64: [u8; 4] = *b"PK\x06\x07";
const LOCATOR64_LEN: usize = 20;
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const CENTRAL_LEN: usize = 46;
const LOCAL: [u8; 4] = *b"PK\x03\x04";
const LOCAL_LEN: usize = 30;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// The only member, decompressed.
pub(super) fn open(mut file: Stored) -> io::Result<impl Read> {
    let member = find(&mut file)?;
    let mut local = [0; LOCAL_LEN];
    file.seek(SeekFrom::Start(member.at))?;
    file.read_exact(&mut local)?;
    if local[..4] != LOCAL {
        return Err(bad("no file where the directory points"));
    }
    let skip = i64::from(u16_at(&local, 26)?) + i64::from(u16_at(&local, 28)?);
    file.seek(SeekFrom::Current(skip))?;
    let packed = BufReader::with_capacity(128 * 1024, file).take(member.packed);
    let data: Box<dyn Read> = match member.method {
        STORED => Box::new(packed),
        DEFLATED => Box::new(flate2::bufread::DeflateDecoder::new(packed)),
        other => {
            return Err(unsupported(format!(
                "the file in it is compressed by method {other}: unpack it, or deflate it"
            )));
        }
    };
    Ok(Checked { data, left: member.size, sum: crc32fast::Hasher::new(), expected: member.crc })
}

struct Member {
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    at: u64,
}

/// Finds the only member.
fn find(file: &mut Stored) -> io::Result<Member> {
    let len = file.seek(SeekFrom::End(0))?;
    let tail_at = len.saturating_sub((END_LEN + 0xffff + LOCATOR64_LEN) as u64);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(tail_at))?;
    file.read_to_end(&mut tail)?;
    let end = (0..tail.len().saturating_sub(END_LEN - 1))
        .rev()
        .find(|&at| tail[at..at + 4] == END)
        .ok_or_else(|| bad("the archive is cut off: it has no directory"))?;
    let (mut size, mut at) =
        (u64::from(u32_at(&tail, end + 12)?), u64::from(u32_at(&tail, end + 16)?));
    if end >= LOCATOR64_LEN && tail[end - LOCATOR64_LEN..][..4] == LOCATOR64 {
        let mut end64 = [0; 56];
        let at64 = u64_at(&tail, end - LOCATOR64_LEN + 8)?;
        if at64 >= len {
            return Err(bad("the Zip64 directory lies outside the archive"));
        }
        file.seek(SeekFrom::Start(at64))?;
        file.read_exact(&mut end64)?;
        if end64[..4] != END64 {
            return Err(bad("no Zip64 directory where the archive points"));
        }
        (size, at) = (u64_at(&end64, 40)?, u64_at(&end64, 48)?);
    }
    if at.checked_add(size).is_none_or(|end| end > len) {
        return Err(bad("the directory lies outside the archive"));
    }
    let mut directory = vec![0; size as usize];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut directory)?;

    let mut found: Option<Member> = None;
    let mut rest = &directory[..];
    while !rest.is_empty() {
        if rest.len() < CENTRAL_LEN || rest[..4] != CENTRAL {
            return Err(bad("the directory is damaged"));
        }
        let (name_len, extra_len) = (u16_at(rest, 28)?.into(), u16_at(rest, 30)?.into());
        let entry_len = CENTRAL_LEN + name_len + extra_len + usize::from(u16_at(rest, 32)?);
        let entry = rest.get(..entry_len).ok_or_else(|| bad("the directory is cut off"))?;
        rest = &rest[entry_len..];
        let name = &entry[CENTRAL_LEN..][..name_len];
        if name.ends_with(b"/") || name.starts_with(b"__MACOSX/") {
            continue;
        }
        if found.is_some() {
            return Err(unsupported(
                "it holds several files; one is expected: unpack it into a directory",
            ));
        }
        found = Some(member(entry, &entry[CENTRAL_LEN + name_len..][..extra_len])?);
    }
    let found = found.ok_or_else(|| unsupported("it holds no file"))?;
    if found.at >= len {
        return Err(bad("the file in it lies outside the archive"));
    }
    Ok(found)
}

fn member(entry: &[u8], extra: &[u8]) -> io::Result<Member> {
    if u16_at(entry, 8)? & 1 != 0 {
        return Err(unsupported("the file in it is encrypted: unpack it"));
    }
    let mut large = [u32_at(entry, 24)?, u32_at(entry, 20)?, u32_at(entry, 42)?].map(u64::from);
    // Fields that are all ones stand in the Zip64 extra field, in this order.
    let mut rest = extra;
    while rest.len() >= 4 {
        let (tag, len) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
        let body = rest.get(4..4 + len).ok_or_else(|| bad("an extra field is cut off"))?;
        if tag == 1 {
            let ones = large.iter_mut().filter(|field| **field == u64::from(u32::MAX));
            for (i, field) in ones.enumerate() {
                *field = u64_at(body, i * 8)?;
            }
        }
        rest = &rest[4 + len..];
    }
    let [size, packed, at] = large;
    Ok(Member { method: u16_at(entry, 10)?, crc: u32_at(entry, 16)?, packed, size, at })
}

/// Data whose length and checksum are known.
struct Checked {
    data: Box<dyn Read>,
    left: u64,
    sum: crc32fast::Hasher,
    expected: u32,
}

impl Read for Checked {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.data.read(into)?;
        if into.is_empty() {
            return Ok(0);
        }
        self.sum.update(&into[..n]);
        self.left = self
            .left
            .checked_sub(n as u64)
            .ok_or_else(|| bad("the file in it is longer than the directory says"))?;
        if n == 0 && (self.left > 0 || self.sum.clone().finalize() != self.expected) {
            return Err(bad("the file in it is cut off or damaged (checksum)"));
        }
        Ok(n)
    }
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zip archive: {}", why.into()))
}

/// What is as it should be, for other programs.
fn unsupported(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("zip archive: {}", why.into()))
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    let found = bytes.get(at..at + N).and_then(|b| b.try_into().ok());
    found.ok_or_else(|| bad("a record is cut off"))
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}
