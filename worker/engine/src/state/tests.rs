//! State against a naive model: whatever is written, drained, aborted, folded and
//! restored, in whatever order.

mod files;
mod model;
mod rows;

use super::delta::{DeltaWriter, Written};
use super::snapshot::StateTable;
use super::tier::{MemoryTiers, TierFactory};
use millrace_protocol::ids::Uid;
use millrace_protocol::keygroup::MaxParallelism;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// The seed is printed, and `SEED=` repeats a run.
fn rng() -> fastrand::Rng {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// A file being written to memory.
struct Output {
    writer: DeltaWriter,
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl Output {
    fn new(max: MaxParallelism) -> Self {
        let bytes = Rc::new(RefCell::new(Vec::new()));
        let sink = bytes.clone();
        let put = move |block: Vec<u8>| {
            sink.borrow_mut().extend_from_slice(&block);
            Ok(())
        };
        Self { writer: DeltaWriter::new(max, Box::new(put)), bytes }
    }

    fn section(&mut self, state: &str, table: &dyn StateTable) {
        self.writer.section(&Uid::from("op"), state, &table.schema().unwrap()).unwrap();
    }

    fn finish(self) -> (Vec<u8>, Written) {
        let written = self.writer.finish().unwrap();
        let bytes = self.bytes.take();
        assert_eq!(written.bytes, bytes.len() as u64);
        (bytes, written)
    }
}

#[test]
fn what_is_in_the_tier_is_state_like_any_other() {
    let rng = &mut rng();
    for tiers in [MemoryTiers::default(), MemoryTiers::that_keep()] {
        let tiers: Arc<dyn TierFactory> = Arc::new(tiers);
        super::contract::check(rng, 8, &tiers);
    }
}
