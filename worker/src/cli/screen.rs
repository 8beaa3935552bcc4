//! The part of the terminal that is redrawn in place. What was above it stays, and
//! log lines go above it.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bottom of the terminal behind standard error. Clones are the same one.
#[derive(Clone, Default)]
pub struct Screen(Arc<Mutex<Picture>>);

#[derive(Default)]
struct Picture {
    lines: Vec<String>,
    /// How many of them are on the terminal.
    drawn: usize,
}

/// Columns and rows of the terminal behind standard error.
pub fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// Whether standard error is a terminal that pictures can be drawn on.
pub fn is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether the user wants colours.
pub fn wants_colour() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

impl Picture {
    /// Back to the first line of the picture, which is then erased.
    fn erase(&mut self, out: &mut Vec<u8>) {
        if self.drawn > 0 {
            out.extend_from_slice(format!("\r\x1b[{}A\x1b[J", self.drawn).as_bytes());
            self.drawn = 0;
        }
    }

    fn draw(&mut self, out: &mut Vec<u8>) {
        for line in &self.lines {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\x1b[K\r\n");
        }
        self.drawn = self.lines.len();
    }

    /// Draws over what is there, so that nothing flickers.
    fn redraw(&mut self, out: &mut Vec<u8>) {
        if self.drawn > 0 {
            out.extend_from_slice(format!("\r\x1b[{}A", self.drawn).as_bytes());
        }
        self.draw(out);
        out.extend_from_slice(b"\x1b[J");
    }
}

impl Screen {
    fn lock(&self) -> MutexGuard<'_, Picture> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a picture instead of the one before, as much of it as fits.
    pub fn show(&self, mut lines: Vec<String>) {
        lines.truncate(size().map_or(50, |(_, rows)| rows.saturating_sub(1)));
        let mut picture = self.lock();
        picture.lines = lines;
        let mut out = Vec::new();
        picture.redraw(&mut out);
        // Without a terminal there is nobody to tell.
        let _ = io::stderr().write_all(&out);
    }

    /// Leaves the picture where it is; what is written next goes below.
    pub fn leave(&self) {
        *self.lock() = Picture::default();
    }

    /// Writes whole lines above the picture.
    pub fn write_above(&self, lines: &[u8]) -> io::Result<()> {
        let mut picture = self.lock();
        let mut out = Vec::with_capacity(lines.len() + 256);
        picture.erase(&mut out);
        out.extend_from_slice(lines);
        picture.draw(&mut out);
        io::stderr().write_all(&out)
    }
}

/// Writes log lines above the picture.
pub struct Above(pub Screen);

impl Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_above(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_drawn_over_the_one_before() {
        let mut picture = Picture { lines: vec!["a".into(), "b".into()], drawn: 0 };
        let mut out = Vec::new();
        picture.redraw(&mut out);
        picture.lines.pop();
        picture.redraw(&mut out);
        picture.erase(&mut out);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out, "a\x1b[K\r\nb\x1b[K\r\n\x1b[J\r\x1b[2Aa\x1b[K\r\n\x1b[J\r\x1b[1A\x1b[J");
    }
}
