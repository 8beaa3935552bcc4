//! Prints rows to standard output, one a line, with the subtask before it.
//!
//! **Guarantee.** At least once, and no more than that: rows are printed as they
//! come, so those since the last checkpoint are printed again after a restart.

use crate::blackhole::Nothing;
use millrace_engine::connector::{Pending, Prepared, Sink, SinkCx, Writer};
use millrace_engine::data::{Res, Rows};
use millrace_protocol::ids::{JobUid, Uid};
use std::fmt::{Debug, Display};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

/// A sink that prints rows: `3> row`. At least once.
pub struct Print<T> {
    show: fn(&T, &mut Vec<u8>) -> io::Result<()>,
    prefix: String,
    /// Where to, if not to standard output.
    to: Option<Arc<Mutex<dyn Write + Send>>>,
    rows: PhantomData<fn(T)>,
}

impl<T> Clone for Print<T> {
    fn clone(&self) -> Self {
        let (prefix, to) = (self.prefix.clone(), self.to.clone());
        Self { show: self.show, prefix, to, rows: PhantomData }
    }
}

impl<T: Display> Print<T> {
    /// Prints rows as users read them.
    pub fn new() -> Self {
        Self::with(|row, line| write!(line, "{row}"))
    }
}

impl<T: Display> Default for Print<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Debug> Print<T> {
    /// Prints rows as programmers read them.
    pub fn debug() -> Self {
        Self::with(|row, line| write!(line, "{row:?}"))
    }
}

impl<T> Print<T> {
    fn with(show: fn(&T, &mut Vec<u8>) -> io::Result<()>) -> Self {
        Self { show, prefix: String::new(), to: None, rows: PhantomData }
    }

    /// Prints elsewhere than to standard output. All subtasks of a process write to it in
    /// turn, whole lines at a time.
    pub fn to(mut self, out: impl Write + Send + 'static) -> Self {
        self.to = Some(Arc::new(Mutex::new(out)));
        self
    }

    /// Text before the subtask, to tell sinks apart.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}

impl<T: 'static> Sink<T> for Print<T> {
    type Commit = ();
    type Writer = PrintWriter<T>;
    type Committer = Nothing;

    fn writer(&self, cx: SinkCx) -> Res<PrintWriter<T>> {
        let colon = if self.prefix.is_empty() { "" } else { ":" };
        let prefix = format!("{}{colon}{}> ", self.prefix, cx.subtask);
        Ok(PrintWriter { show: self.show, prefix, to: self.to.clone(), lines: Vec::new() })
    }

    fn committer(&self, _: &JobUid, _: &Uid) -> Res<Nothing> {
        Ok(Nothing)
    }
}

/// Prints the rows of one subtask.
pub struct PrintWriter<T> {
    show: fn(&T, &mut Vec<u8>) -> io::Result<()>,
    prefix: String,
    to: Option<Arc<Mutex<dyn Write + Send>>>,
    lines: Vec<u8>,
}

impl<T> Writer<T, ()> for PrintWriter<T> {
    fn write(&mut self, rows: &mut Rows<T>) -> Res {
        self.lines.clear();
        for row in &rows.values {
            self.lines.extend_from_slice(self.prefix.as_bytes());
            (self.show)(row, &mut self.lines)?;
            self.lines.push(b'\n');
        }
        rows.clear();
        let put = |out: &mut dyn Write| out.write_all(&self.lines).and_then(|()| out.flush());
        match &self.to {
            None => put(&mut io::stdout().lock())?,
            Some(out) => put(&mut *out.lock().unwrap_or_else(PoisonError::into_inner))?,
        }
        Ok(())
    }

    fn prepare(&mut self, _: bool) -> Res<Pending<()>> {
        Ok(Box::new(|| Ok(Prepared::default())))
    }
}
