//! Connections that break, and frames that are not what was sent.

use super::*;
use millrace_engine::exchange::frame::{self, HEADER, Header, Kind, MAX_PAYLOAD};
use millrace_engine::exchange::frames::Frames;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

/// What happens to the bytes of the sender behind its hello.
#[derive(Clone, Copy)]
enum Fault {
    Cut { after: usize },
    Flip { at: usize },
}

/// Passes one connection on to `to`, with a fault.
fn proxy(to: SocketAddr, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) = (client, TcpStream::connect(to)) else { return };
            let (mut back, mut from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
            let (mut passed, mut buffer) = (0, [0; 1000]);
            while let Ok(n @ 1..) = client.read(&mut buffer) {
                let bytes = &mut buffer[..n];
                match fault {
                    Fault::Cut { after } if passed + n > after => break,
                    Fault::Flip { at } if (passed..passed + n).contains(&at) => {
                        bytes[at - passed] ^= 16;
                    }
                    _ => {}
                }
                passed += n;
                if server.write_all(bytes).is_err() {
                    break;
                }
            }
            let _ = server.shutdown(Shutdown::Both);
            let _ = client.shutdown(Shutdown::Both);
        }
    });
    address
}

/// What both workers tell when a fault is put between them.
fn told(fault: Fault) -> (Option<String>, String) {
    let (one, two) = (bind(), bind());
    let through = proxy(two.address(), fault);
    let Pair { out, into, first, second } = pair_of(1, Some(through), &one, &two);
    let (first, second) = (first.start(), second.start());
    until("a failure", || {
        if !out[0].is_full() {
            assert!(out[0].try_send(batch(0, 20, 20)).is_ok());
        }
        take(&into[0]);
        second.failure().is_some()
    });
    (first.failure(), second.fails())
}

/// Bytes of the dialer's hello and proof, at most.
const HELLO: usize = 400;

#[test]
fn a_connection_that_breaks_fails_the_attempt() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for _ in 0..5 {
        let (_, why) = told(Fault::Cut { after: HELLO + rng.usize(..100_000) });
        assert!(why.contains("worker 0 (process p0"), "{why}");
        assert!(why.contains("to worker 1 (process p1"), "{why}");
        assert!(why.contains("closed") || why.contains("broke"), "{why}");
    }
}

#[test]
fn a_changed_byte_fails_the_attempt() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for _ in 0..10 {
        let (_, why) = told(Fault::Flip { at: HELLO + rng.usize(..50_000) });
        assert!(
            why.contains("not a frame: ") || why.contains("a damaged frame: checksum"),
            "{why}"
        );
    }
}

fn frames_of(bytes: &[u8]) -> (usize, Result<(), String>) {
    let mut frames = Frames::new(bytes);
    let mut count = 0;
    loop {
        match frames.next(&mut |_, _| Ok(())) {
            Ok(()) => count += 1,
            Err(why) => return (count, Err(why)),
        }
    }
}

#[test]
fn frames_come_back_and_garbage_does_not_panic() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for round in 0..300 {
        let mut bytes = Vec::new();
        let count = rng.usize(1..20);
        for n in 0..count {
            let large = rng.u8(..40) == 0;
            let length = if large { rng.usize(..300_000) } else { rng.usize(..200) };
            frame::put(&mut bytes, Kind::Batch, n as u32, &vec![rng.u8(..); length]);
        }
        let (found, end) = frames_of(&bytes);
        assert_eq!((found, end), (count, Err("the connection was closed".to_owned())));
        let at = rng.usize(..bytes.len());
        bytes[at] ^= 1 << rng.u8(..8);
        if round % 3 == 0 {
            bytes = std::iter::repeat_with(|| rng.u8(..)).take(500).collect();
        }
        assert!(frames_of(&bytes).0 < count.max(2));
    }
}

#[test]
fn a_claimed_length_is_not_allocated() {
    let claim = |length: u32| {
        let mut bytes = Vec::new();
        frame::put(&mut bytes, Kind::Batch, 0, &[]);
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        let own = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&own.to_le_bytes());
        bytes
    };
    let bytes = claim(MAX_PAYLOAD as u32);
    assert!(Header::parse(&bytes).unwrap().is_some());
    let mut frames = Frames::new(&bytes[..]);
    assert!(frames.next(&mut |_, _| Ok(())).is_err());
    assert!(frames.buffered() <= 8 << 20, "{}", frames.buffered());
    assert!(Header::parse(&claim(MAX_PAYLOAD as u32 + 1)).is_err());
    assert_eq!(Header::parse(&bytes[..HEADER - 1]), Ok(None));
}
