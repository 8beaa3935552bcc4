//! Who does not belong here.

use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;

/// What the first worker is told when the second is changed.
fn told(change: impl FnOnce(&mut Worker)) -> String {
    let Pair { first, mut second, .. } = pair(1, None);
    change(&mut second);
    let _second = second.start();
    first.start().fails()
}

#[test]
fn strangers_are_refused_by_name() {
    let why = told(|w| w.token = Token([4; 32]));
    assert!(why.contains("does not know the attempt's token"), "{why}");
    let why = told(|w| w.job = JobUid::from("another"));
    assert!(why.contains("runs job another, not job job"), "{why}");
    let why = told(|w| w.attempt = Attempt(5));
    assert!(why.contains("attempt 4 is over, attempt 5 runs"), "{why}");
    let why = told(|w| w.me.process = "p9".to_owned());
    assert!(why.contains("this is worker 1 (process p9), not worker 1 (process p1)"), "{why}");
    let why = told(|w| w.peers[0].process = "p9".to_owned());
    assert!(why.contains("worker 0 of this attempt is process p9, not p0"), "{why}");
    assert!(why.starts_with("worker 0 (process p0 at "), "{why}");
}

#[test]
fn a_second_connection_of_the_same_worker_is_refused() {
    let (one, two) = (bind(), bind());
    let Pair { out, into, first, second } = pair_of(1, None, &one, &two);
    let (_first, _second) = (first.start(), second.start());
    assert!(out[0].try_send(batch(0, 1, 1)).is_ok());
    until("the row", || !take(&into[0]).is_empty());
    // The same once more, from another port.
    let Pair { first: double, .. } = pair_of(1, None, &bind(), &two);
    let why = double.start().fails();
    assert!(why.contains("worker 0 is connected already"), "{why}");
}

#[test]
fn garbage_on_the_port_does_no_harm() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let (one, two) = (bind(), bind());
    let Pair { out, into, first, second } = pair_of(1, None, &one, &two);
    let second = second.start();
    let mut open = Vec::new();
    for n in 0..200 {
        let mut socket = TcpStream::connect(two.address()).unwrap();
        let length = rng.usize(..3000);
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
        if n % 2 == 0 {
            // The right beginning.
            let length = rng.u16(..).to_le_bytes();
            bytes.splice(..0, [*b"MRXC", [1, 0, length[0], length[1]]].concat());
        }
        // It may be closed already.
        let _ = socket.write_all(&bytes);
        if n % 10 == 0 {
            // Stays, and says no more.
            open.push(socket);
        }
    }
    let first = first.start();
    assert!(out[0].try_send(batch(0, 1, 1)).is_ok());
    until("the row", || !take(&into[0]).is_empty());
    assert_eq!((first.failure(), second.failure()), (None, None));
    // Those who said nothing are closed in the end.
    for mut socket in open {
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut rest = Vec::new();
        let ended = socket.read_to_end(&mut rest);
        let timed_out = |e: &std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(timed_out), "{ended:?}");
    }
}
