//! What an event costs: run by hand, with `-- --ignored --nocapture`, optimised.

use super::driver::MAX;
use crate::api::keyed::ByValue;
use crate::api::window::Count;
use crate::api::window::aggregate::ByAggregate;
use crate::api::window::assign::{Aligned, Window};
use crate::api::window::function::EmitEach;
use crate::data::Rows;
use crate::operators::window::LateRows;
use crate::operators::window::sliding::{Sliding, SlidingParts};
use crate::operators::window::tumbling::{Tumbling, TumblingParts};
use crate::runtime::emit::{Emitter, Fanout};
use crate::runtime::operator::Operator;
use crate::runtime::side::Sides;
use crate::state::PaneTables;
use millrace_protocol::key::Key;
use std::time::{Duration, Instant};

fn run(name: &str, mut op: impl Operator<Out = (u64, i64, u64)>, keys: u64) {
    let mut out = Emitter::new(Fanout::new(vec![], None, Default::default()));
    let total = 10_000_000_u64;
    for round in 0..6 {
        let mut spent = Duration::ZERO;
        let mut n = 0_u64;
        while n < total {
            let mut rows = Rows::default();
            for _ in 0..1024 {
                n += 1;
                let key = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % keys;
                let at = (round * total + n) as i64 / 2000;
                rows.push_keyed(at, key.hash64(), (key, n));
            }
            rows.mark((round * total + n) as i64 / 2000 - 10);
            let from = Instant::now();
            let _ = op.batch(0, &mut rows, &mut out).unwrap();
            spent += from.elapsed();
        }
        let each = spent.as_nanos() as f64 / n as f64;
        println!("{name}, {keys} keys: {each:.2} ns an event");
    }
}

fn emit(key: &u64, window: Window, n: u64) -> (u64, i64, u64) {
    (*key, window.start, n)
}

fn late() -> LateRows {
    LateRows { tag: None, second: None, metrics: Default::default() }
}

#[test]
#[ignore = "measures"]
fn what_an_event_costs() {
    for keys in [1_000, 1_000_000] {
        let tumbling = Tumbling::new(TumblingParts {
            selector: ByValue::new(|row: &(u64, u64)| row.0),
            accumulate: ByAggregate(Count),
            fire: EmitEach(emit),
            size: 1_000,
            offset: 0,
            lateness: 0,
            late: late(),
            sides: Sides::default(),
            panes: PaneTables::new(MAX, MAX.all()),
        });
        run("tumbling 1 s", tumbling, keys);
    }
    for slide in [500, 10] {
        let sliding = Sliding::new(SlidingParts {
            selector: ByValue::new(|row: &(u64, u64)| row.0),
            accumulate: ByAggregate(Count),
            fire: EmitEach(emit),
            windows: Aligned { size: 1_000, slide, offset: 0 },
            lateness: 0,
            late: late(),
            sides: Sides::default(),
            panes: PaneTables::new(MAX, MAX.all()),
            max: MAX,
            budget: None,
        });
        run(&format!("sliding 1 s by {slide} ms"), sliding, 1_000);
    }
}
