//! Relays between the processes of a job: what they say to each other goes through here, and
//! is cut off, held up or slowed down.
//!
//! The processes listen on 127.0.0.1 and tell each other that they are at [`HOST`], another
//! address of loopback, with the same port: there a relay listens for each of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Where processes say that they are.
pub const HOST: &str = "127.0.0.2";

/// How often new connections are looked for, and how often (in these) new processes.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS: u32 = 5;

/// What is done to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// They break.
    Cut,
    /// Nothing comes through for so long.
    Stall(Duration),
    /// For so long so many bytes a second come through.
    Slow(Duration, u32),
}

/// A connection through a relay.
struct Line {
    /// The port of who was called.
    port: u16,
    ends: [TcpStream; 2],
    trouble: Mutex<(Trouble, Instant)>,
    over: AtomicBool,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    fn suffer(&self, trouble: Trouble) {
        *lock(&self.trouble) = (trouble, Instant::now());
        if trouble == Trouble::Cut {
            self.cut();
        }
    }

    fn cut(&self) {
        self.over.store(true, Ordering::SeqCst);
        // One that has ended is no error.
        self.ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }

    /// Keeps bytes back as long as there is trouble.
    fn hold(&self, bytes: usize) {
        loop {
            let (trouble, since) = *lock(&self.trouble);
            match trouble {
                Trouble::Stall(time) if since.elapsed() < time => thread::sleep(LOOK),
                Trouble::Slow(time, rate) if since.elapsed() < time => {
                    return thread::sleep(
                        Duration::from_secs(1).mul_f64(bytes as f64 / f64::from(rate)),
                    );
                }
                _ => return,
            }
            if self.over.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Passes on what one end says to the other.
    fn pass(&self, from: usize) {
        let (mut from, mut to) = (&self.ends[from], &self.ends[1 - from]);
        let mut bytes = vec![0; 16 << 10];
        loop {
            match from.read(&mut bytes) {
                // The other direction may go on.
                Ok(0) => return drop(to.shutdown(Shutdown::Write)),
                Ok(count) => {
                    self.hold(count);
                    if to.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        self.cut();
    }
}

struct Shared {
    lines: Mutex<Vec<Arc<Line>>>,
    over: AtomicBool,
}

/// The relays of a job, until they are dropped.
pub struct Relays {
    shared: Arc<Shared>,
    looking: Option<JoinHandle<()>>,
}

impl Relays {
    /// For the children of a process.
    pub fn between_children(parent: u32) -> Self {
        let shared = Arc::new(Shared { lines: Mutex::default(), over: AtomicBool::new(false) });
        let own = Arc::clone(&shared);
        let looking = Some(thread::spawn(move || own.look(parent)));
        Self { shared, looking }
    }

    /// Troubles a connection, or all to one process's port; false if there is none.
    pub fn disturb(&self, rng: &mut fastrand::Rng, trouble: Trouble) -> bool {
        let mut lines = lock(&self.shared.lines);
        lines.retain(|line| Arc::strong_count(line) > 1);
        if lines.is_empty() {
            return false;
        }
        let one = Arc::clone(&lines[rng.usize(..lines.len())]);
        match rng.bool() {
            true => one.suffer(trouble),
            false => lines.iter().filter(|l| l.port == one.port).for_each(|l| l.suffer(trouble)),
        }
        true
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(looking) = self.looking.take() {
            looking.join().unwrap();
        }
        lock(&self.shared.lines).iter().for_each(|line| line.cut());
    }
}

impl Shared {
    fn look(&self, parent: u32) {
        let mut relays: BTreeMap<u16, TcpListener> = BTreeMap::new();
        for round in 0.. {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            if round % LOOKS == 0 {
                let ports: Vec<u16> = children(parent).into_iter().flat_map(listening).collect();
                // Another process of this machine may be given the port of one that is gone.
                relays.retain(|port, _| ports.contains(port));
                for port in ports {
                    if !relays.contains_key(&port)
                        && let Ok(listener) = TcpListener::bind((HOST, port))
                    {
                        listener.set_nonblocking(true).unwrap();
                        relays.insert(port, listener);
                    }
                }
            }
            for (port, relay) in &relays {
                while let Ok((caller, _)) = relay.accept() {
                    self.connect(*port, caller);
                }
            }
            thread::sleep(LOOK);
        }
    }

    /// A caller that cannot be connected is let go: nobody listens any more.
    fn connect(&self, port: u16, caller: TcpStream) {
        let Ok(called) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let ends = [caller, called];
        for end in &ends {
            end.set_nonblocking(false).unwrap();
            end.set_nodelay(true).unwrap();
        }
        let calm = (Trouble::Stall(Duration::ZERO), Instant::now());
        let (trouble, over) = (Mutex::new(calm), AtomicBool::new(false));
        let line = Arc::new(Line { port, ends, trouble, over });
        for from in [0, 1] {
            let line = Arc::clone(&line);
            thread::spawn(move || line.pass(from));
        }
        let mut lines = lock(&self.lines);
        lines.retain(|line| Arc::strong_count(line) > 1);
        lines.push(line);
    }
}

/// The child processes of one.
pub fn children(parent: u32) -> Vec<u32> {
    let children = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(children).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The ports of 127.0.0.1 that a process listens on.
fn listening(pid: u32) -> Vec<u16> {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let sockets: Vec<String> = open
        .filter_map(|entry| {
            let to = fs::read_link(entry.ok()?.path()).ok()?;
            let inode = to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let port = |line: &str| -> Option<u16> {
        // Number, local address, remote address, state, ..., inode at 9.
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words.get(1)?.strip_prefix("0100007F:")?;
        let listens = *words.get(3)? == "0A" && sockets.iter().any(|s| s == words[9]);
        if listens { u16::from_str_radix(port, 16).ok() } else { None }
    };
    table.lines().skip(1).filter_map(port).collect()
}
