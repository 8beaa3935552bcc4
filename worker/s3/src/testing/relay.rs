//! As much of HTTP/1.1 as a proxy needs: heads, and where bodies end.

use std::io::{self, BufRead, Read, Write};

/// The head of a request or an answer, as it came.
pub(super) struct Head {
    pub(super) bytes: Vec<u8>,
    lines: Vec<String>,
    /// An answer to `HEAD`, which announces a body that does not come.
    pub(super) bodiless: bool,
}

/// `None`: the connection has ended.
pub(super) fn read_head(from: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut head = Head { bytes: Vec::new(), lines: Vec::new(), bodiless: false };
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        head.bytes.extend_from_slice(&line);
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            head.bodiless = matches!(head.status(), Some(100..200 | 204 | 304));
            return Ok(Some(head));
        }
        head.lines.push(line);
    }
}

impl Head {
    pub(super) fn method(&self) -> &str {
        self.lines.first().and_then(|line| line.split(' ').next()).unwrap_or_default()
    }

    /// Of an answer.
    pub(super) fn status(&self) -> Option<u16> {
        let first = self.lines.first()?.strip_prefix("HTTP/1.1 ")?;
        first.split(' ').next()?.parse().ok()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.lines.iter().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    pub(super) fn closes(&self) -> bool {
        self.value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Its bytes without a header.
    pub(super) fn without(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in &self.lines {
            let named = line.split_once(':').map_or("", |(found, _)| found);
            if !named.eq_ignore_ascii_case(name) {
                bytes.extend_from_slice(line.as_bytes());
                bytes.extend_from_slice(b"\r\n");
            }
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// Copies the body that belongs to `head`, in the form in which it comes.
pub(super) fn relay_body(
    head: &Head,
    from: &mut impl BufRead,
    to: &mut impl Write,
) -> io::Result<()> {
    if head.bodiless {
        return Ok(());
    }
    let chunked = head.value("transfer-encoding").is_some_and(|value| value.contains("chunked"));
    if !chunked {
        let len = match head.value("content-length").and_then(|value| value.parse().ok()) {
            Some(len) => len,
            // An answer without a length goes to the end of the connection.
            None if head.status().is_some() => u64::MAX,
            None => 0,
        };
        return io::copy(&mut from.take(len), to).map(drop);
    }
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        to.write_all(line.as_bytes())?;
        let digits = line.trim().split(';').next().unwrap_or_default();
        let len = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
        if len == 0 {
            break;
        }
        io::copy(&mut from.take(len + 2), to)?;
    }
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        to.write_all(line.as_bytes())?;
        if line.trim().is_empty() {
            return Ok(());
        }
    }
}
