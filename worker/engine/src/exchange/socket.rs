//! The two halves of a connection, in the clear or under TLS, each used by one thread.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A socket whose reads and writes may have a deadline together.
pub struct Timed {
    stream: TcpStream,
    until: Option<Instant>,
}

impl Timed {
    /// A socket that is given up at `until`.
    pub fn new(stream: TcpStream, until: Instant) -> Self {
        Self { stream, until: Some(until) }
    }

    /// The same socket for another thread.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.try_clone()?, until: self.until })
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(until) = self.until else { return Ok(None) };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no complete hello in time"));
        }
        Ok(Some(left))
    }

    fn patient(&mut self) -> io::Result<()> {
        self.until = None;
        self.stream.set_read_timeout(None)?;
        self.stream.set_write_timeout(None)
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(left) = self.left()? {
                self.stream.set_read_timeout(Some(left))?;
            }
            match self.stream.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.left()?;
                }
                other => return other,
            }
        }
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(left) = self.left()? {
            self.stream.set_write_timeout(Some(left))?;
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A half that reads.
pub enum Incoming {
    /// In the clear.
    Plain(Timed),
    /// Under TLS.
    #[cfg(feature = "tls")]
    Tls(Box<super::tls::TlsReader>),
}

/// A half that writes.
pub enum Outgoing {
    /// In the clear.
    Plain(Timed),
    /// Under TLS.
    #[cfg(feature = "tls")]
    Tls(super::tls::TlsWriter),
}

impl Incoming {
    /// The hello is over: from now on it waits for ever.
    pub fn patient(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.patient(),
            #[cfg(feature = "tls")]
            Self::Tls(reader) => reader.socket().patient(),
        }
    }
}

impl Outgoing {
    /// See [`Incoming::patient`].
    pub fn patient(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.patient(),
            #[cfg(feature = "tls")]
            Self::Tls(writer) => writer.socket().patient(),
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(reader) => reader.read(buffer),
        }
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection: its halves, and the socket to end it with from anywhere.
pub struct Connection {
    /// What the other side says.
    pub incoming: Incoming,
    /// What it is told.
    pub outgoing: Outgoing,
    /// The socket below.
    pub stream: TcpStream,
}

impl Connection {
    /// In the clear.
    pub fn plain(stream: TcpStream, until: Instant) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let socket = Timed::new(stream.try_clone()?, until);
        let incoming = Incoming::Plain(socket.try_clone()?);
        Ok(Self { incoming, outgoing: Outgoing::Plain(socket), stream })
    }

    /// The hello is over: from now on it waits for ever.
    pub fn patient(&mut self) -> io::Result<()> {
        self.incoming.patient()?;
        self.outgoing.patient()
    }
}
