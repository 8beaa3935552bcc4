use super::seeds;
use crate::api::async_io::AsyncOptions;
use crate::data::{Fail, Res};
use crate::testing::{Element, Harness, Input, Output};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

fn harness<F, Fut>(
    parallelism: u16,
    options: AsyncOptions,
    f: F,
) -> (Harness, Input<u64>, Output<u64>)
where
    F: Fn(u64) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Res<u64>> + Send + 'static,
{
    let (harness, (input, out)) = Harness::at_parallelism(parallelism, |t| {
        let (input, rows) = t.input::<u64>("rows");
        (input, t.output(rows.async_map("ask", options, f)))
    })
    .unwrap();
    (harness, input, out)
}

/// Answers after up to 3 ms, in no order; counts how many are asked at a time.
#[derive(Clone, Default)]
struct Server {
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Server {
    async fn ask(self, n: u64) -> Res<u64> {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_micros(n * 7919 % 3000)).await;
        self.open.fetch_sub(1, Ordering::SeqCst);
        Ok(n * 10)
    }
}

fn rows_in(elements: &[Element<u64>]) -> usize {
    elements.iter().filter(|e| matches!(e, Element::Row(..))).count()
}

#[test]
fn results_keep_their_place_among_watermarks() {
    for ordered in [true, false] {
        seeds(4, |seed| {
            let options = match ordered {
                true => AsyncOptions::ordered().capacity(16),
                false => AsyncOptions::unordered().capacity(16),
            };
            let server = Server::default();
            let asked = server.clone();
            let (mut harness, input, out) = harness(1, options, move |n| asked.clone().ask(n));
            harness.stutter(seed);
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut expected: Vec<Element<u64>> = Vec::new();
            let mut between = Vec::new();
            for n in 0..400u64 {
                input.push(n as i64, n);
                between.push(Element::Row(n as i64, n * 10));
                if rng.u32(0..10) == 0 {
                    input.watermark(n as i64);
                    expected.append(&mut between);
                    expected.push(Element::Watermark(n as i64));
                }
            }
            expected.append(&mut between);
            let mut got = Vec::new();
            harness
                .run_until(|| {
                    got.extend(out.take_elements());
                    rows_in(&got) == 400
                })
                .unwrap();
            if !ordered {
                // Between two watermarks any order is right.
                for part in got.split_mut(|e| matches!(e, Element::Watermark(_))) {
                    part.sort_by_key(|e| match e {
                        Element::Row(ts, _) | Element::Watermark(ts) => *ts,
                    });
                }
            }
            assert_eq!(got, expected);
            assert!(server.most.load(Ordering::SeqCst) <= 16);
        });
    }
}

#[test]
fn requests_in_flight_are_made_again_after_a_restore() {
    seeds(6, |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let server = Server::default();
        let options = AsyncOptions::unordered().capacity(50);
        let (mut harness, input, out) = harness(2, options, move |n| server.clone().ask(n));
        // A set: what came out behind a barrier comes out again after a restore.
        let (mut got, mut next) = (BTreeSet::new(), 0u64);
        for _ in 0..10 {
            for _ in 0..rng.u64(0..60) {
                input.push(next as i64, next);
                next += 1;
            }
            if next > 0 {
                input.watermark(next as i64 - 1);
            }
            let snapshot = harness.snapshot().unwrap();
            got.extend(out.take());
            if rng.bool() {
                std::thread::sleep(Duration::from_millis(1));
                harness.run().unwrap();
                out.take();
                harness.restore(&snapshot, rng.u16(1..=3)).unwrap();
            }
        }
        input.end();
        harness
            .run_until(|| {
                got.extend(out.take());
                got.len() as u64 == next && out.watermark() == i64::MAX
            })
            .unwrap();
        assert_eq!(got, (0..next).map(|n| n * 10).collect());
    });
}

#[test]
fn a_request_is_repeated_and_its_last_failure_is_the_operators() {
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let options = AsyncOptions::ordered().retry(3, Duration::from_millis(1));
    let (mut harness, input, out) = harness(1, options, move |n| {
        let tried = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move { if tried % 3 == 0 && n == 1 { Ok(n) } else { Err(Fail::from("no luck")) } }
    });
    input.push(0, 1);
    harness.run_until(|| out.take() == [1]).unwrap();
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    input.push(0, 2);
    let error = harness.run_until(|| false).unwrap_err().to_string();
    assert!(error.contains("\"ask\"") && error.contains("no luck"), "{error}");
    assert_eq!(tries.load(Ordering::SeqCst), 6);
}

#[test]
fn a_timeout_or_a_panic_fails_unless_it_is_handled() {
    let options = AsyncOptions::ordered().timeout(Duration::from_millis(5));
    let (mut slow, input, _out) = harness(1, options, |_| std::future::pending());
    input.push(0, 1);
    let error = slow.run_until(|| false).unwrap_err().to_string();
    assert!(error.contains("not been answered in 5ms"), "{error}");

    let (mut panics, input, _out) = harness(1, options, |_| async { panic!("on purpose") });
    input.push(0, 1);
    let error = panics.run_until(|| false).unwrap_err().to_string();
    assert!(error.contains("panicked"), "{error}");

    let (mut handled, (input, out)) = Harness::new(|t| {
        let (input, rows) = t.input::<u64>("rows");
        let asked = rows.async_map_or(
            "ask",
            options,
            |_| std::future::pending(),
            |n: u64| Ok(format!("no answer for {n}")),
        );
        (input, t.output(asked))
    })
    .unwrap();
    input.push(0, 7);
    handled.run_until(|| out.take() == ["no answer for 7"]).unwrap();
}
