//! The port of a process: it outlives attempts, and knows which of them runs.

use super::hello::{self, Found, PATIENCE};
use super::receive;
use super::shared::Shared;
use super::socket::Connection;
use crate::data::{Fail, Res};
use millrace_protocol::ids::JobUid;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections whose hello is not over, at most: others are closed, and come again.
const PENDING: usize = 64;

/// How connections between workers are protected.
#[derive(Clone)]
pub enum Security {
    /// Not at all, beyond the token: for loopback and networks of one's own.
    Plain,
    /// By mutual TLS.
    #[cfg(feature = "tls")]
    Tls(Arc<super::tls::Certificates>),
}

impl Security {
    pub(super) fn connect(
        &self,
        stream: TcpStream,
        address: &str,
        until: Instant,
    ) -> io::Result<Connection> {
        match self {
            Self::Plain => {
                let _ = address;
                Connection::plain(stream, until)
            }
            #[cfg(feature = "tls")]
            Self::Tls(certificates) => certificates.connect(stream, address, until),
        }
    }

    fn accept(&self, stream: TcpStream, until: Instant) -> io::Result<Connection> {
        match self {
            Self::Plain => Connection::plain(stream, until),
            #[cfg(feature = "tls")]
            Self::Tls(certificates) => certificates.accept(stream, until),
        }
    }
}

struct Inner {
    address: SocketAddr,
    security: Security,
    attempts: Mutex<BTreeMap<JobUid, Arc<Shared>>>,
    pending: AtomicUsize,
    closing: AtomicBool,
}

impl Inner {
    fn attempts(&self) -> MutexGuard<'_, BTreeMap<JobUid, Arc<Shared>>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port on which a process is reached by the other workers.
pub struct Listener {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on `address`; port 0 takes a free one.
    pub fn bind(address: SocketAddr, security: Security) -> Res<Arc<Self>> {
        let failed = |error: io::Error| {
            Fail::from(format!("the exchange cannot listen on {address}: {error}"))
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let inner = Arc::new(Inner {
            address: listener.local_addr().map_err(failed)?,
            security,
            attempts: Mutex::default(),
            pending: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let shared = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("millrace-exchange".to_owned())
            .spawn(move || listen(&listener, &shared))
            .map_err(failed)?;
        Ok(Arc::new(Self { inner, thread: Some(thread) }))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    pub(super) fn security(&self) -> &Security {
        &self.inner.security
    }

    pub(super) fn register(&self, shared: &Arc<Shared>) -> Res {
        let mut attempts = self.inner.attempts();
        if let Some(other) = attempts.get(&shared.job) {
            return Err(Fail::from(format!(
                "attempt {} cannot be connected: attempt {} still is",
                shared.attempt, other.attempt
            )));
        }
        attempts.insert(shared.job.clone(), Arc::clone(shared));
        Ok(())
    }

    pub(super) fn unregister(&self, shared: &Arc<Shared>) {
        let mut attempts = self.inner.attempts();
        if attempts.get(&shared.job).is_some_and(|known| Arc::ptr_eq(known, shared)) {
            attempts.remove(&shared.job);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.inner.closing.store(true, Ordering::SeqCst);
        // Wakes the thread, which waits for a connection.
        let mut address = self.inner.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            });
        }
        let woken = TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
        {
            // A panic in it leaves nothing behind.
            let _ = thread.join();
        }
    }
}

fn listen(listener: &TcpListener, inner: &Arc<Inner>) {
    for stream in listener.incoming() {
        if inner.closing.load(Ordering::SeqCst) {
            return;
        }
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Out of file descriptors, say: others may be closed soon.
                tracing::warn!(%error, "the exchange cannot accept a connection");
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        if inner.pending.fetch_add(1, Ordering::SeqCst) >= PENDING {
            inner.pending.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let own = Arc::clone(inner);
        let thread = std::thread::Builder::new().name("millrace-hello".to_owned());
        let started = thread.spawn(move || {
            let from = stream.peer_addr();
            if let Err(why) = welcome(&own, stream) {
                let from = from.map_or("somebody".to_owned(), |a| a.to_string());
                tracing::debug!(from, why, "the exchange refused a connection");
            }
            own.pending.fetch_sub(1, Ordering::SeqCst);
        });
        if let Err(error) = started {
            inner.pending.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!(%error, "the exchange cannot start a thread");
        }
    }
}

fn welcome(inner: &Inner, stream: TcpStream) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    let mut connection = inner.security.accept(stream, until).map_err(|e| e.to_string())?;
    let find = |job: &JobUid| {
        let attempts = inner.attempts();
        match (attempts.get(job), attempts.keys().next()) {
            (Some(shared), _) => Found::Attempt(Arc::clone(shared)),
            (None, Some(other)) => Found::Other(other.clone()),
            (None, None) => Found::Nothing,
        }
    };
    let welcomed = hello::answer(&mut connection, find).map_err(|e| e.to_string())?;
    connection.patient().map_err(|e| e.to_string())?;
    receive::start(&welcomed.shared, welcomed.peer, welcomed.side, connection);
    Ok(())
}
