//! A proxy before an S3 server that makes it fail: errors, delays, and connections that
//! break before, while and after the server took a request.

use super::relay::{Head, read_head, relay_body};
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often what happens: shares of the requests, together at most 1.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Answered with 503 SlowDown; the server never sees it.
    pub slow_down: f64,
    /// Answered with 500; the server never sees it.
    pub internal: f64,
    /// The connection breaks before the server sees the request.
    pub reset_before: f64,
    /// The connections break in the middle of the request's body.
    pub reset_within: f64,
    /// The server does it, and the connection breaks before its answer.
    pub answer_lost: f64,
    /// The same, while the server does it only some time later.
    pub late: f64,
    /// The connection breaks in the middle of the answer's body.
    pub answer_cut: f64,
    /// The answer's body comes in bits.
    pub slow_body: f64,
    /// The request waits a little.
    pub delay: f64,
    /// Leave requests with `If-None-Match` alone: for who counts on their answers.
    pub spare_conditional: bool,
}

impl Faults {
    /// Each of them with this share.
    pub fn each(share: f64) -> Self {
        Self {
            slow_down: share,
            internal: share,
            reset_before: share,
            reset_within: share,
            answer_lost: share,
            late: share,
            answer_cut: share,
            slow_body: share,
            delay: share,
            spare_conditional: false,
        }
    }

    fn choose(&self, mut at: f64) -> Fault {
        for (share, fault) in [
            (self.slow_down, Fault::Answer(503, "Slow Down", "SlowDown")),
            (self.internal, Fault::Answer(500, "Internal Server Error", "InternalError")),
            (self.reset_before, Fault::ResetBefore),
            (self.reset_within, Fault::ResetWithin),
            (self.answer_lost, Fault::AnswerLost),
            (self.late, Fault::Late),
            (self.answer_cut, Fault::AnswerCut),
            (self.slow_body, Fault::SlowBody),
            (self.delay, Fault::Delay),
        ] {
            if at < share {
                return fault;
            }
            at -= share;
        }
        Fault::None
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    Answer(u16, &'static str, &'static str),
    ResetBefore,
    ResetWithin,
    AnswerLost,
    Late,
    AnswerCut,
    SlowBody,
    Delay,
}

const PAUSE: Duration = Duration::from_millis(30);
/// A late request is this late.
const LATE: Duration = Duration::from_millis(200);

/// A proxy that runs, until it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    server: u16,
    faults: Faults,
    rng: Mutex<fastrand::Rng>,
    calm: AtomicBool,
    over: AtomicBool,
    injected: AtomicU64,
}

impl Proxy {
    /// Before the server on this port of loopback.
    pub fn start(server: u16, seed: u64, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server,
            faults,
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            calm: AtomicBool::new(false),
            over: AtomicBool::new(false),
            injected: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        let accepting = thread::spawn(move || accepting.accept(&listener));
        Self { port, shared, accepting: Some(accepting) }
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// No more faults from here on.
    pub fn calm_down(&self) {
        self.shared.calm.store(true, Ordering::Relaxed);
    }

    /// How many faults there were.
    pub fn injected(&self) -> u64 {
        self.shared.injected.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; the others end with their connections.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let (Ok(client), shared) = (client, Arc::clone(self)) else { continue };
            thread::spawn(move || {
                // A connection that breaks is what this is for.
                let _ = shared.converse(&client);
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    }

    fn fault(&self, head: &Head) -> Fault {
        let spared = self.faults.spare_conditional && head.has("if-none-match");
        if spared || self.calm.load(Ordering::Relaxed) {
            return Fault::None;
        }
        let at = self.rng.lock().unwrap_or_else(PoisonError::into_inner).f64();
        let fault = self.faults.choose(at);
        if fault != Fault::None {
            self.injected.fetch_add(1, Ordering::Relaxed);
        }
        fault
    }

    /// Takes requests of a connection, each over a connection of its own to the server.
    fn converse(&self, client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut from_client = BufReader::new(client);
        while let Some(head) = read_head(&mut from_client)? {
            if head.has("expect") {
                (&*client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let mut body = Vec::new();
            relay_body(&head, &mut from_client, &mut body)?;
            let whole = body.len();
            let fault = self.fault(&head);
            match fault {
                Fault::Answer(status, phrase, code) => {
                    refuse(client, &head, status, phrase, code)?;
                    continue;
                }
                Fault::ResetBefore => return Ok(()),
                Fault::ResetWithin => body.truncate(whole / 2),
                Fault::Late => {
                    client.shutdown(Shutdown::Both)?;
                    thread::sleep(LATE);
                }
                Fault::Delay => thread::sleep(PAUSE),
                _ => {}
            }
            let server = TcpStream::connect(("127.0.0.1", self.server))?;
            server.set_nodelay(true)?;
            (&server).write_all(&head.without("expect"))?;
            // A server that refuses may answer before it has read all.
            let _ = (&server).write_all(&body);
            if fault == Fault::ResetWithin && whole > 0 {
                return server.shutdown(Shutdown::Both);
            }
            let mut from_server = BufReader::new(&server);
            let answered = loop {
                match read_head(&mut from_server)? {
                    Some(found) if found.status() == Some(100) => {}
                    other => break other,
                }
            };
            let Some(mut answer) = answered else { return Ok(()) };
            answer.bodiless |= head.method() == "HEAD";
            let mut body = Vec::new();
            relay_body(&answer, &mut from_server, &mut body)?;
            if matches!(fault, Fault::AnswerLost | Fault::Late | Fault::ResetWithin) {
                return Ok(());
            }
            (&*client).write_all(&answer.bytes)?;
            match fault {
                Fault::AnswerCut => return (&*client).write_all(&body[..body.len() / 2]),
                Fault::SlowBody => {
                    for bit in body.chunks(body.len() / 4 + 1) {
                        (&*client).write_all(bit)?;
                        thread::sleep(PAUSE);
                    }
                }
                _ => (&*client).write_all(&body)?,
            }
            if answer.closes() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn refuse(
    mut client: &TcpStream,
    head: &Head,
    status: u16,
    phrase: &str,
    code: &str,
) -> io::Result<()> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code>\
         <Message>injected</Message></Error>"
    );
    let shown = if head.method() == "HEAD" { "" } else { &body };
    write!(
        client,
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: application/xml\r\nContent-Length: \
         {}\r\n\r\n{shown}",
        body.len()
    )
}
