//! How two workers find out that they belong together, before the first frame.
//!
//! ```text
//! dialer:   Hello  {job, attempt, from, to: ordinal and process; nonce}
//! listener: NotYet | Refused(why) | Challenge {nonce, proof of the token over both}
//! dialer:   Proof
//! listener: Welcome | Refused(why)
//! ```
//!
//! The token itself never travels: both prove it by HMAC-SHA256 over what was said. All of
//! it has one deadline, and a message has a few hundred bytes at most.

use super::codec::CodecError;
use super::codec::read::Reader;
use super::codec::write::Writer;
use super::listener::Listener;
use super::shared::Shared;
use super::socket::Connection;
use super::{Peer, Side, Token};
use hmac::{Hmac, Mac};
use millrace_protocol::ids::JobUid;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::Sha256;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

const MAGIC: [u8; 4] = *b"MRXC";
const VERSION: u16 = 1;

/// Bytes of a message, at most.
const LIMIT: usize = 2048;

/// How long a hello may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long a peer may take to be there and to know the attempt.
const REACH: Duration = Duration::from_secs(60);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(25);

/// Why there was no understanding.
#[derive(Debug, Error)]
pub(super) enum HelloError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("what came first is no hello of a worker")]
    Magic,
    #[error("it speaks version {0} of the exchange, this worker version {VERSION}")]
    Version(u16),
    #[error("a hello of {0} bytes; the limit is {LIMIT}")]
    Length(usize),
    #[error("a hello that cannot be read: {0}")]
    Codec(#[from] CodecError),
    #[error("{0}")]
    Refused(String),
    #[error("it does not know the attempt's token")]
    Token,
    #[error("it is not ready for the attempt")]
    NotYet,
}

impl HelloError {
    /// Whether it may go better next time.
    fn passes(&self) -> bool {
        match self {
            Self::NotYet => true,
            // Certificates do not get better.
            Self::Io(error) => error.kind() != io::ErrorKind::InvalidData,
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    job: JobUid,
    attempt: u64,
    from: u16,
    from_process: String,
    to: u16,
    to_process: String,
    nonce: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    NotYet,
    Refused(String),
    Challenge { nonce: [u8; 32], proof: [u8; 32] },
    Welcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Proof([u8; 32]);

fn say<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), HelloError> {
    let mut body = Vec::new();
    message.serialize(&mut Writer::new(&mut body))?;
    if body.len() > LIMIT {
        return Err(HelloError::Length(body.len()));
    }
    let mut bytes = Vec::with_capacity(8 + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(to.write_all(&bytes)?)
}

fn hear<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, HelloError> {
    let mut head = [0; 8];
    from.read_exact(&mut head)?;
    let [m0, m1, m2, m3, v0, v1, l0, l1] = head;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(HelloError::Magic);
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(HelloError::Version(version));
    }
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    if length > LIMIT {
        return Err(HelloError::Length(length));
    }
    let mut body = [0; LIMIT];
    let body = &mut body[..length];
    from.read_exact(body)?;
    let mut reader = Reader::new(body);
    let message = T::deserialize(&mut reader)?;
    if reader.left() > 0 {
        return Err(CodecError::Rest(reader.left()).into());
    }
    Ok(message)
}

fn nonce() -> Result<[u8; 32], HelloError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(nonce)
}

/// Who proves the token: the two proofs must differ.
#[derive(Clone, Copy)]
enum Role {
    Dialer,
    Listener,
}

fn proof_of(
    token: &Token,
    role: Role,
    hello: &Hello,
    nonce: &[u8; 32],
) -> Result<Hmac<Sha256>, HelloError> {
    let mut said = Vec::new();
    hello.serialize(&mut Writer::new(&mut said))?;
    let mac = Hmac::<Sha256>::new_from_slice(&token.0);
    let mut mac = mac.map_err(|e| io::Error::other(e.to_string()))?;
    mac.update(match role {
        Role::Dialer => b"millrace exchange: dialer",
        Role::Listener => b"millrace exchange: listen",
    });
    mac.update(&said);
    mac.update(nonce);
    Ok(mac)
}

/// Connects to a peer, as often as it takes; `None` if the attempt ends meanwhile.
pub(super) fn dial(
    shared: &Shared,
    listener: &Listener,
    peer: &Peer,
) -> Result<Option<Connection>, String> {
    let begun = Instant::now();
    loop {
        if shared.is_stopping() {
            return Ok(None);
        }
        match try_dial(shared, listener, peer) {
            Ok(connection) => return Ok(Some(connection)),
            Err(error) if !error.passes() => return Err(error.to_string()),
            Err(error) if begun.elapsed() >= REACH => {
                return Err(format!("{error}, for {} s", REACH.as_secs()));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn try_dial(shared: &Shared, listener: &Listener, peer: &Peer) -> Result<Connection, HelloError> {
    let mut addresses = peer.address.to_socket_addrs()?;
    let unknown = || io::Error::other(format!("{} is no address", peer.address));
    let address = addresses.next().ok_or_else(unknown)?;
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    let until = Instant::now() + PATIENCE;
    let mut connection = listener.security().connect(stream, &peer.address, until)?;
    greet(shared, peer, &mut connection)?;
    connection.patient()?;
    Ok(connection)
}

fn greet(shared: &Shared, peer: &Peer, connection: &mut Connection) -> Result<(), HelloError> {
    let hello = Hello {
        job: shared.job.clone(),
        attempt: shared.attempt.0,
        from: shared.me.ordinal,
        from_process: shared.me.process.clone(),
        to: peer.ordinal,
        to_process: peer.process.clone(),
        nonce: nonce()?,
    };
    say(&mut connection.outgoing, &hello)?;
    let (theirs, proof) = match hear::<Answer>(&mut connection.incoming)? {
        Answer::Challenge { nonce, proof } => (nonce, proof),
        Answer::NotYet => return Err(HelloError::NotYet),
        Answer::Refused(why) => return Err(HelloError::Refused(format!("it refuses: {why}"))),
        Answer::Welcome => return Err(HelloError::Magic),
    };
    proof_of(&shared.token, Role::Listener, &hello, &theirs)?
        .verify_slice(&proof)
        .map_err(|_| HelloError::Token)?;
    let own = proof_of(&shared.token, Role::Dialer, &hello, &theirs)?;
    say(&mut connection.outgoing, &Proof(own.finalize().into_bytes().into()))?;
    match hear::<Answer>(&mut connection.incoming)? {
        Answer::Welcome => Ok(()),
        Answer::Refused(why) => Err(HelloError::Refused(format!("it refuses: {why}"))),
        Answer::NotYet | Answer::Challenge { .. } => Err(HelloError::Magic),
    }
}

/// Whom a listener's connection is for.
pub(super) struct Welcomed {
    pub shared: Arc<Shared>,
    pub peer: Peer,
    pub side: Side,
}

/// Hears a hello out and answers it; `find` knows the attempts of this process.
pub(super) fn answer(
    connection: &mut Connection,
    find: impl FnOnce(&JobUid) -> Found,
) -> Result<Welcomed, HelloError> {
    let outcome = hear_out(connection, find);
    match &outcome {
        // If it is gone meanwhile, its threads will find out.
        Ok(_) => drop(say(&mut connection.outgoing, &Answer::Welcome)),
        Err(HelloError::NotYet) => say(&mut connection.outgoing, &Answer::NotYet)?,
        Err(HelloError::Io(_) | HelloError::Magic) => {}
        Err(error) => {
            let why = error.to_string().chars().take(LIMIT / 8).collect();
            say(&mut connection.outgoing, &Answer::Refused(why))?;
        }
    }
    outcome
}

/// What a process knows of a job.
pub(super) enum Found {
    /// Its attempt.
    Attempt(Arc<Shared>),
    /// Nothing runs here.
    Nothing,
    /// Another job runs here.
    Other(JobUid),
}

fn hear_out(
    connection: &mut Connection,
    find: impl FnOnce(&JobUid) -> Found,
) -> Result<Welcomed, HelloError> {
    let hello: Hello = hear(&mut connection.incoming)?;
    let refuse = |why: String| Err(HelloError::Refused(why));
    let shared = match find(&hello.job) {
        Found::Attempt(shared) => shared,
        Found::Nothing => return Err(HelloError::NotYet),
        Found::Other(job) => {
            return refuse(format!("this worker runs job {job}, not job {}", hello.job));
        }
    };
    let (theirs, ours) = (hello.attempt, shared.attempt.0);
    if theirs > ours {
        return Err(HelloError::NotYet);
    }
    if theirs < ours {
        return refuse(format!("attempt {theirs} is over, attempt {ours} runs"));
    }
    let me = &shared.me;
    if (hello.to, &hello.to_process) != (me.ordinal, &me.process) {
        return refuse(format!(
            "this is worker {} (process {}), not worker {} (process {})",
            me.ordinal, me.process, hello.to, hello.to_process
        ));
    }
    match shared.expected(hello.from) {
        Some(peer) if peer.process == hello.from_process => {}
        Some(peer) => {
            return refuse(format!(
                "worker {} of this attempt is process {}, not {}",
                hello.from, peer.process, hello.from_process
            ));
        }
        None => return refuse(format!("no channel leads here from worker {}", hello.from)),
    }
    let nonce = nonce()?;
    let proof = proof_of(&shared.token, Role::Listener, &hello, &nonce)?;
    let proof = proof.finalize().into_bytes().into();
    say(&mut connection.outgoing, &Answer::Challenge { nonce, proof })?;
    let Proof(theirs) = hear(&mut connection.incoming)?;
    proof_of(&shared.token, Role::Dialer, &hello, &nonce)?
        .verify_slice(&theirs)
        .map_err(|_| HelloError::Token)?;
    let (peer, side) = shared.claim(hello.from).map_err(HelloError::Refused)?;
    Ok(Welcomed { shared, peer, side })
}
