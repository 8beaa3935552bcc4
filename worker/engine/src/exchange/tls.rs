//! Mutual TLS between workers: TLS 1.3, both sides with certificates of one authority.
//!
//! A session is one state for both directions, and two threads use it: each takes its lock
//! only while bytes are transformed, never while the socket makes it wait. Only the writer
//! writes to the socket; what the reader's side has to say goes with its next write.

use super::socket::{Connection, Incoming, Outgoing, Timed};
use crate::data::{Fail, Res};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// This worker's certificate, and the authority whose certificates others must have: files
/// that are read again when they have changed, for certificates expire.
pub struct Certificates {
    directory: PathBuf,
    name: Option<String>,
    keys: Mutex<Keys>,
}

#[derive(Clone)]
struct Keys {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    written: Option<SystemTime>,
}

impl Certificates {
    /// Reads `tls.crt`, `tls.key` and `ca.crt` (PEM) from a directory. The certificates of
    /// others must be good for `name`; none: for the host by which they are reached.
    pub fn read(directory: &Path, name: Option<String>) -> Res<Arc<Self>> {
        if let Some(name) = &name {
            ServerName::try_from(name.as_str())
                .map_err(|e| Fail::from(format!("{name} is no name for a certificate: {e}")))?;
        }
        let keys = Mutex::new(Keys::read(directory)?);
        Ok(Arc::new(Self { directory: directory.to_owned(), name, keys }))
    }

    /// What the files hold by now, or held when they could be used.
    fn keys(&self) -> Keys {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if written(&self.directory) != keys.written {
            match Keys::read(&self.directory) {
                Ok(new) => *keys = new,
                Err(why) => tracing::warn!(%why, "changed certificates are not used"),
            }
        }
        keys.clone()
    }

    pub(super) fn connect(
        &self,
        stream: TcpStream,
        address: &str,
        until: Instant,
    ) -> io::Result<Connection> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = self.name.clone().unwrap_or(host);
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let session = ClientConnection::new(self.keys().client, name);
        shake(stream, session.map_err(io::Error::other)?.into(), until)
    }

    pub(super) fn accept(&self, stream: TcpStream, until: Instant) -> io::Result<Connection> {
        let session = ServerConnection::new(self.keys().server);
        shake(stream, session.map_err(io::Error::other)?.into(), until)
    }
}

/// When the certificate was last written, if there is one.
fn written(directory: &Path) -> Option<SystemTime> {
    std::fs::metadata(directory.join("tls.crt")).and_then(|file| file.modified()).ok()
}

impl Keys {
    fn read(directory: &Path) -> Res<Self> {
        // Before the content: what is written meanwhile is read once more.
        let written = written(directory);
        let at = |file: &str| directory.join(file);
        let bad = |file: &str, why: String| {
            Fail::from(format!("{} cannot be used: {why}", at(file).display()))
        };
        let certificates = |file: &str| -> Res<Vec<CertificateDer<'static>>> {
            let found = CertificateDer::pem_file_iter(at(file))
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|e| bad(file, e.to_string()))?;
            if found.is_empty() {
                return Err(bad(file, "it holds no certificate".to_owned()));
            }
            Ok(found)
        };
        let key = || {
            PrivateKeyDer::from_pem_file(at("tls.key")).map_err(|e| bad("tls.key", e.to_string()))
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates("ca.crt")? {
            roots.add(authority).map_err(|e| bad("ca.crt", e.to_string()))?;
        }
        let roots = Arc::new(roots);
        let own = certificates("tls.crt")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = [&rustls::version::TLS13];
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(own.clone(), key()?)
            .map_err(|e| bad("tls.crt", e.to_string()))?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(own, key()?)
            .map_err(|e| bad("tls.crt", e.to_string()))?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), written })
    }
}

fn shake(
    stream: TcpStream,
    mut session: rustls::Connection,
    until: Instant,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let mut socket = Timed::new(stream.try_clone()?, until);
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    // What the end of the handshake left to be written.
    while session.wants_write() {
        session.write_tls(&mut socket)?;
    }
    let session = Arc::new(Mutex::new(session));
    let reader = TlsReader {
        session: Arc::clone(&session),
        socket: socket.try_clone()?,
        raw: vec![0; 64 << 10],
        start: 0,
        end: 0,
    };
    let writer = TlsWriter { session, socket, raw: Vec::new() };
    Ok(Connection {
        incoming: Incoming::Tls(Box::new(reader)),
        outgoing: Outgoing::Tls(writer),
        stream,
    })
}

type Session = Arc<Mutex<rustls::Connection>>;

fn lock(session: &Session) -> MutexGuard<'_, rustls::Connection> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The half that reads.
pub struct TlsReader {
    session: Session,
    socket: Timed,
    raw: Vec<u8>,
    start: usize,
    end: usize,
}

impl TlsReader {
    pub(super) fn socket(&mut self) -> &mut Timed {
        &mut self.socket
    }
}

impl Read for TlsReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut session = lock(&self.session);
            match session.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if self.start < self.end {
                let mut raw = self.raw.get(self.start..self.end).unwrap_or_default();
                self.start += session.read_tls(&mut raw)?;
                let worked = session.process_new_packets();
                worked.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                continue;
            }
            drop(session);
            self.start = 0;
            self.end = self.socket.read(&mut self.raw)?;
            if self.end == 0 {
                return Ok(0);
            }
        }
    }
}

/// The half that writes.
pub struct TlsWriter {
    session: Session,
    socket: Timed,
    raw: Vec<u8>,
}

impl TlsWriter {
    pub(super) fn socket(&mut self) -> &mut Timed {
        &mut self.socket
    }
}

impl Write for TlsWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut session = lock(&self.session);
        let taken = session.writer().write(bytes)?;
        self.raw.clear();
        while session.wants_write() {
            session.write_tls(&mut self.raw)?;
        }
        drop(session);
        self.socket.write_all(&self.raw)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
