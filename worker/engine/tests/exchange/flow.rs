//! Rows and control elements between workers.

use super::*;
use millrace_engine::coordinator::{BarrierKind, StopMode};
use millrace_engine::runtime::snapshot::Barrier;
use millrace_protocol::ids::CheckpointId;

fn barrier(n: u64) -> Barrier {
    let kinds = [
        BarrierKind::Periodic,
        BarrierKind::Savepoint,
        BarrierKind::Stop(StopMode::Suspend),
        BarrierKind::Stop(StopMode::Drain),
        BarrierKind::Final,
    ];
    Barrier {
        attempt: Attempt(4),
        checkpoint: CheckpointId(n),
        base: n.is_multiple_of(2).then_some(CheckpointId(n / 2)),
        kind: kinds[n as usize % kinds.len()],
        unaligned_at: n.is_multiple_of(3).then_some(n as i64),
    }
}

/// What a sender said, for comparison.
#[derive(Debug, PartialEq)]
enum Said {
    Row(u64),
    Idle(bool),
    Barrier(Barrier),
    End,
}

/// Sends at random until the end, in a thread of its own.
fn send(channel: Arc<Channel>, mut rng: fastrand::Rng) -> std::thread::JoinHandle<Vec<Said>> {
    std::thread::spawn(move || {
        let (mut said, mut next) = (Vec::new(), 0);
        for step in 0..rng.u64(20..300) {
            match rng.u8(..10) {
                0 => {
                    let idle = step % 2 == 0;
                    // Others in between, for those in a row coalesce.
                    channel.send_control(Element::Barrier(barrier(step)));
                    channel.send_control(Element::Idle(idle));
                    said.extend([Said::Barrier(barrier(step)), Said::Idle(idle)]);
                }
                1 => channel.send_control(Element::Watermark(step as i64)),
                _ => {
                    let rows = if rng.u8(..20) == 0 { 3000 } else { rng.u64(..50) };
                    said.extend((next..next + rows).map(Said::Row));
                    let mut unsent: Box<dyn millrace_engine::data::AnyBatch> =
                        batch(next, rows, rng.usize(..100));
                    next += rows;
                    while let Err(back) = channel.try_send(unsent) {
                        unsent = back;
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            }
        }
        channel.send_control(Element::End);
        said.push(Said::End);
        said
    })
}

/// Takes until the end, sometimes slowly.
fn receive(channel: Arc<Channel>, mut rng: fastrand::Rng) -> std::thread::JoinHandle<Vec<Said>> {
    std::thread::spawn(move || {
        let mut heard = Vec::new();
        let slow = rng.bool();
        let begun = Instant::now();
        while heard.last() != Some(&Said::End) {
            assert!(begun.elapsed() < Duration::from_secs(60), "the end does not come");
            match channel.receive() {
                None => std::thread::sleep(Duration::from_micros(200)),
                Some(Element::Batch(mut batch)) => {
                    let packet = batch.as_any_mut().downcast_mut::<Packet<Row>>().unwrap();
                    heard.extend(packet.rows.drain(..).map(|row| Said::Row(row.2.0)));
                    packet.clear();
                    channel.recycle(batch);
                    if slow && rng.u8(..4) == 0 {
                        std::thread::sleep(Duration::from_millis(3));
                    }
                }
                Some(Element::Watermark(_)) => {}
                Some(Element::Idle(idle)) => heard.push(Said::Idle(idle)),
                Some(Element::Barrier(barrier)) => heard.push(Said::Barrier(barrier)),
                Some(Element::End) => heard.push(Said::End),
            }
        }
        heard
    })
}

#[test]
fn three_workers_hear_what_was_said_in_its_order() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let listeners: Vec<Arc<Listener>> = (0..3).map(|_| bind()).collect();
    let peers: Vec<Peer> = (0..3).zip(&listeners).map(|(n, l)| peer(n, l.address())).collect();
    let each: BTreeMap<u16, usize> = (0..3).map(|n| (n, 3)).collect();
    let mut lines: Vec<Lines> = (0..3)
        .map(|me| {
            let mut others = each.clone();
            others.remove(&me);
            Lines::new(&others, &others)
        })
        .collect();
    let mut ends = Vec::new();
    let mut id = 0;
    for from in 0..3_u16 {
        for to in (0..3_u16).filter(|to| *to != from) {
            for _ in 0..3 {
                let out = lines[usize::from(from)].add_outgoing(to, task(), line(id));
                let into = lines[usize::from(to)].add_incoming(from, task(), line(id));
                ends.push((out, into));
                id += 1;
            }
        }
    }
    let running: Vec<Running> = (0..3)
        .zip(lines)
        .map(|(me, lines)| Worker::new(me, &listeners[usize::from(me)], &peers, lines).start())
        .collect();
    let threads: Vec<_> =
        ends.into_iter().map(|(o, i)| (send(o, rng.fork()), receive(i, rng.fork()))).collect();
    for (said, heard) in threads {
        assert_eq!(said.join().unwrap(), heard.join().unwrap());
    }
    for worker in running {
        assert_eq!(worker.failure(), None);
        assert!(worker.exchange.stats().batches_out > 0);
        worker.exchange.stop();
        assert_eq!(*worker.failures.lock().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_channel_that_nobody_takes_from_holds_back_no_other() {
    let Pair { out, into, first, second } = pair(2, None);
    let (first, second) = (first.start(), second.start());
    // More than its credit and the room on both sides.
    let mut stuck = 0;
    let begun = Instant::now();
    while stuck < 64 && begun.elapsed() < Duration::from_secs(2) {
        match out[0].try_send(batch(stuck * 100, 100, 1000)) {
            Ok(_) => stuck += 1,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    assert!(stuck < 64, "{stuck} batches of 100 KB had room");
    assert!(first.exchange.stats().bytes_out < 2 << 20);
    // A control element needs no credit, but not ahead of rows.
    out[0].send_control(Element::End);
    let mut found = Vec::new();
    for n in 0..300 {
        until("room on the other channel", || {
            found.extend(take(&into[1]));
            !out[1].is_full()
        });
        assert!(out[1].try_send(batch(n * 100, 100, 1000)).is_ok());
        found.extend(take(&into[1]));
    }
    until("all rows of the other channel", || {
        found.extend(take(&into[1]));
        found.len() == 30_000
    });
    assert!(found.iter().copied().eq(0..30_000));
    let mut found = Vec::new();
    until("all rows of the one that waited", || {
        found.extend(take(&into[0]));
        found.len() as u64 == stuck * 100
    });
    for worker in [first, second] {
        assert_eq!(worker.failure(), None);
        worker.exchange.stop();
    }
}

/// Eight channels to a worker where nobody takes anything: what comes there is bounded by
/// the room for all of them, but for a frame each.
#[test]
fn rows_that_nobody_takes_stay_within_the_room_for_them() {
    const ROOM: u64 = 1 << 20;
    const FRAME: u64 = 110_000;
    let Pair { out, into, first, mut second } = pair(8, None);
    second.room = ROOM;
    let (first, second) = (first.start(), second.start());
    let mut sent = [0; 8];
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        for (channel, sent) in out.iter().zip(&mut sent) {
            *sent += u64::from(channel.try_send(batch(*sent * 100, 100, 1000)).is_ok());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let came = second.exchange.stats().bytes_in;
    assert!(came >= ROOM, "{came} bytes have come: there was room for more");
    assert!(came <= ROOM + 8 * FRAME, "{came} bytes have come");
    // Taken, there is room for what waits.
    for (channel, sent) in into.iter().zip(sent) {
        let mut found = 0;
        until("all rows", || {
            found += take(channel).len() as u64;
            found == sent * 100
        });
    }
    assert_eq!((first.failure(), second.failure()), (None, None));
}

#[test]
fn the_room_is_shared_by_channels_within_bounds() {
    use millrace_engine::exchange::window;
    assert_eq!(window(8 << 20, 1), 512 << 10);
    assert_eq!(window(8 << 20, 32), 256 << 10);
    assert_eq!(window(8 << 20, 1000), 64 << 10);
    assert_eq!(window(0, 0), 64 << 10);
}

#[test]
fn one_row_may_be_larger_than_all_credit() {
    let Pair { out, into, first, second } = pair(1, None);
    let (first, second) = (first.start(), second.start());
    for n in 0..3 {
        assert!(out[0].try_send(batch(n, 1, 5 << 20)).is_ok());
    }
    let mut found = Vec::new();
    until("three large rows", || {
        found.extend(take(&into[0]));
        found.len() == 3
    });
    assert_eq!((first.failure(), second.failure()), (None, None));
}

/// Credit that is far below nothing comes back to the last byte.
#[test]
fn small_batches_and_large_ones_share_a_channel() {
    let Pair { out, into, first, second } = pair(1, None);
    let (first, second) = (first.start(), second.start());
    let mut sent = 0;
    let mut found = Vec::new();
    for n in 0..60 {
        let rows = if n % 10 == 9 { 900 } else { 1 };
        until("room", || {
            // Now and then, so that batches pile up.
            if n % 3 == 0 || out[0].is_full() {
                found.extend(take(&into[0]));
            }
            !out[0].is_full()
        });
        assert!(out[0].try_send(batch(sent, rows, 1000)).is_ok());
        sent += rows;
    }
    until("all rows", || {
        found.extend(take(&into[0]));
        found.len() as u64 == sent
    });
    assert!(found.iter().copied().eq(0..sent));
    assert_eq!((first.failure(), second.failure()), (None, None));
}

#[test]
fn a_row_beyond_the_limit_is_an_error_of_its_edge() {
    let Pair { out, first, second, .. } = pair(1, None);
    let (first, _second) = (first.start(), second.start());
    assert!(out[0].try_send(batch(0, 1, millrace_engine::exchange::frame::MAX_PAYLOAD)).is_ok());
    let why = first.fails();
    assert!(why.contains("edge 0") && why.contains("a row is too large"), "{why}");
}

#[test]
fn the_port_serves_one_attempt_after_the_other() {
    let (one, two) = (bind(), bind());
    for attempt in 1..=5 {
        let Pair { out, into, mut first, mut second } = pair_of(2, None, &one, &two);
        first.attempt = Attempt(attempt);
        second.attempt = Attempt(attempt);
        // The second may be told later.
        let first = first.start();
        assert!(out[1].try_send(batch(attempt, 1, 5)).is_ok());
        std::thread::sleep(Duration::from_millis(attempt * 10));
        let second = second.start();
        let mut found = Vec::new();
        until("the row", || {
            found.extend(take(&into[1]));
            !found.is_empty()
        });
        assert_eq!(found, [attempt]);
        let begun = Instant::now();
        second.exchange.stop();
        // Whoever is left is not told of a failure: it will be stopped too.
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(first.failure(), None);
        first.exchange.stop();
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
